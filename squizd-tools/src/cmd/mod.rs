//! The commands, one file each. Each is thin: parse arguments, call the
//! library, print.

mod backend;
mod bench;
#[cfg(target_os = "linux")]
mod bus;
mod calibrate;
mod caps;
mod convert;
mod diff;
mod eval;
mod inspect;
mod interrupt;
mod kernels;
mod model;
mod progress;
mod run;
#[cfg(feature = "serve")]
mod serve;
mod validate;

use crate::{Exit, Failure, output};
use clap::{CommandFactory, Parser, Subcommand};
use squizd_spec::{FileBytes, Limits, SquizdRef};
use std::{path::Path, process::ExitCode};

/// Convert, inspect, validate and run .squizd model files.
#[derive(Parser)]
#[command(name = "squizd", version = VERSION, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Worker threads [default: all cores]
    #[arg(long, global = true, value_name = "N", display_order = 100)]
    threads: Option<usize>,
    /// No progress on stderr
    #[arg(short, long, global = true, display_order = 101)]
    quiet: bool,
}

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (format 1.0)");

const EXIT_CODES: &str = "Exit codes: 0 done or valid, 1 verified negative (invalid file, difference found), \
2 usage or I/O error, 3 unsupported by this build, 130 interrupted.";

#[derive(Subcommand)]
enum Command {
    /// Convert a GGUF, safetensors or Hugging Face model into a .squizd file
    Convert(convert::Args),
    /// Show header, sections and tensors of a file
    Inspect(inspect::Args),
    /// Check a file and report every finding
    Validate(validate::Args),
    /// Compare two files: tensors, codecs, metadata, numeric distance
    Diff(diff::Args),
    /// Generate text with the reference runtime
    Run(run::Args),
    /// Collect input statistics of a model on a text, for `convert --calibration`
    Calibrate(calibrate::Args),
    /// Serve a model over HTTP, with an API like OpenAI's
    #[cfg(feature = "serve")]
    Serve(serve::Args),
    /// Measure speed and memory, and the share of the machine's bandwidth
    Bench(bench::Args),
    /// Judge a file: perplexity, divergence from a reference, logits
    #[command(subcommand)]
    Eval(eval::Eval),
    /// Show what this machine can do: processor, memory, GPUs
    Caps(caps::Args),
    /// Print a shell completion script
    Completions {
        /// Shell to write for
        shell: clap_complete::Shell,
    },
}

/// Options common to all commands.
#[derive(Clone, Copy)]
struct Common {
    quiet: bool,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    bus::report();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version go to stdout and are no error.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { Exit::Usage as u8 } else { Exit::Done as u8 });
        }
    };
    match run(cli) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(cli: Cli) -> Result<Exit, Failure> {
    if let Some(threads) = cli.threads {
        if threads == 0 {
            return Err(Failure::usage("--threads is 0, must be at least 1"));
        }
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .map_err(|e| Failure::usage(format!("starting {threads} threads: {e}")))?;
    }
    squizd::simd::requested()?;
    let common = Common { quiet: cli.quiet };
    match cli.command {
        Command::Convert(args) => convert::run(&args, common),
        Command::Inspect(args) => inspect::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Diff(args) => diff::run(&args, common),
        Command::Run(args) => run::run(&args, common),
        Command::Calibrate(args) => calibrate::run(&args, common),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::run(&args, common),
        Command::Bench(args) => bench::run(&args, common),
        Command::Eval(command) => eval::run(&command, common),
        Command::Caps(args) => caps::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "squizd", &mut script);
            output::line(String::from_utf8_lossy(&script).trim_end())?;
            Ok(Exit::Done)
        }
    }
}

/// Maps a file for reading.
fn map(path: &Path) -> Result<FileBytes, Failure> {
    open(path, false)
}

/// Maps a file, or reads it into memory, where nobody else can change it.
fn open(path: &Path, in_memory: bool) -> Result<FileBytes, Failure> {
    Ok(if in_memory { FileBytes::read(path)? } else { FileBytes::map(path)? })
}

/// Parses a mapped file, naming it in errors.
fn parse(bytes: &FileBytes) -> Result<SquizdRef<'_>, Failure> {
    SquizdRef::parse(bytes, &Limits::DEFAULT).map_err(|e| Failure::from(e).of(bytes.path().display()))
}
