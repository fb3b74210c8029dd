//! `squizd bench FILE...` and `squizd bench kernels`.

#[cfg(feature = "gpu")]
mod kernels;
#[cfg(feature = "gpu")]
mod profile;

use super::{
    Common,
    backend::{self, BackendArgs, Wanted},
    interrupt,
    model::{Compute, Opened},
    progress,
};
use crate::{
    Exit, Failure,
    bench::{
        Device, Format, Llama, Machine, Placed, Placement, Progress, Reading, Report, Setup, Workload,
        measure, opening, print_openings,
    },
};
use indicatif::ProgressBar;
use squizd::runtime::{Model, Run, Sequences, SessionOptions};
use squizd_spec::FileBytes;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Args {
    #[cfg(feature = "gpu")]
    #[command(subcommand)]
    part: Option<Part>,
    /// Model files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Prompt tokens; 0 measures no prefill
    #[arg(short = 'p', long, value_name = "N", default_value_t = 512)]
    n_prompt: usize,
    /// Tokens to generate after the first one; 0 measures no decoding
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128)]
    n_gen: usize,
    /// Trials; one more warms up
    #[arg(short = 'r', long, value_name = "N", default_value_t = 30)]
    repetitions: usize,
    /// Begin no further trial after this time
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<u32>,
    /// Only open each file, -r times, up to where its first token could be computed
    #[arg(long, conflicts_with_all = ["gguf", "through_server", "time_limit"])]
    open_only: bool,
    /// Time the first token through `squizd serve` too, in a process of its own
    #[arg(long)]
    through_server: bool,
    /// Positions to reserve [default: what -p and -n need]
    #[arg(long, value_name = "N")]
    ctx_size: Option<usize>,
    #[command(flatten)]
    compute: Compute,
    #[command(flatten)]
    backend: BackendArgs,
    /// Memory read to measure the bandwidth [default: 4 times the last-level cache, 256 MiB to 2 GiB]
    #[arg(long, value_name = "N(M|G)", value_parser = super::convert::size)]
    bandwidth_buffer: Option<u64>,
    /// The same model in GGUF, for llama.cpp to run trial by trial beside squizd: llama-bench, if it is on
    /// the PATH, runs it as it is
    #[arg(long, value_name = "FILE")]
    gguf: Option<PathBuf>,
    /// Python with llama-cpp-python, which runs the GGUF at the quantization nearest to squizd's bits per weight
    #[arg(long, value_name = "PYTHON", requires = "gguf")]
    llama_cpp: Option<PathBuf>,
    /// Quantizations for llama.cpp instead of the nearest, such as Q4_0,Q4_1,Q4_K_M
    #[arg(long, value_name = "TYPE", requires = "llama_cpp", value_delimiter = ',')]
    llama_type: Vec<String>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Md)]
    output: Format,
}

/// What can be measured besides models.
#[cfg(feature = "gpu")]
#[derive(clap::Subcommand)]
enum Part {
    /// Measure each GPU kernel's share of the read ceiling; SQUIZD_ADAPTER picks a GPU by a part of its name
    Kernels(kernels::Args),
    /// Tell where the time of one token goes on a GPU, kernel by kernel
    Profile(profile::Args),
}

pub(super) fn run(args: &Args, common: Common) -> Result<Exit, Failure> {
    #[cfg(feature = "gpu")]
    match &args.part {
        Some(Part::Kernels(args)) => return kernels::run(args),
        Some(Part::Profile(args)) => return profile::run(args, common),
        None => {}
    }
    let needed = args.n_prompt.max(1).saturating_add(args.n_gen);
    let context = args.ctx_size.unwrap_or(needed);
    if args.repetitions == 0 || args.n_prompt == 0 && args.n_gen == 0 {
        return Err(Failure::usage("nothing to measure: -r, or both of -p and -n, are 0"));
    }
    if context < needed {
        return Err(Failure::usage(format!("--ctx-size is {context}, -p and -n need {needed}")));
    }
    interrupt::watch();
    if args.open_only {
        let options = SessionOptions { context, ..args.compute.options() };
        let files = args.files.iter().map(|f| opening(f, options, args.repetitions));
        print_openings(&files.collect::<Result<Vec<_>, _>>()?, args.output)?;
        return Ok(Exit::Done);
    }
    let started = Instant::now();
    let llama = Llama::find(args.llama_cpp.as_deref());
    let llama_cpp_absent = match (&llama, &args.gguf) {
        (None, _) => Some("llama-bench is not on the PATH and --llama-cpp was not given".to_owned()),
        (_, None) => Some("--gguf was not given".to_owned()),
        _ => None,
    };
    let workload = Workload {
        prompt: args.n_prompt,
        steps: args.n_gen,
        context,
        trials: args.repetitions,
        threads: rayon::current_num_threads(),
    };
    if args.through_server && !cfg!(feature = "serve") {
        return Err(squizd::Error::unsupported("this build has no server (feature serve)").into());
    }
    let server = args.through_server.then(std::env::current_exe).transpose();
    let server = server.map_err(|e| Failure::usage(format!("--through-server: {e}")))?;
    let session = args.compute.options();
    let options = SessionOptions { context, ..session };
    let placement = There { backend: args.backend, options, force: args.compute.force, common };
    let setup = Setup {
        workload,
        session,
        placement: &placement,
        llama: llama.as_ref().zip(args.gguf.as_deref()),
        quantizations: &args.llama_type,
        server: server.as_deref(),
        reading: Reading::of(args.bandwidth_buffer),
        until: args.time_limit.map(|s| started + Duration::from_secs(s.into())),
    };
    let machine = Machine::this();
    let bar = Bar(progress::bar(common, args.repetitions as u64, "trials"));
    let models = measure(&args.files, &setup, &bar);
    bar.0.finish_and_clear();
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        machine,
        workload,
        bandwidth: setup.reading,
        llama_cpp_absent,
        models: models?,
    };
    report.print(args.output)?;
    Ok(Exit::Done)
}

/// Where `--backend` says.
struct There {
    backend: BackendArgs,
    options: SessionOptions,
    force: bool,
    common: Common,
}

impl Placement for There {
    fn flag(&self) -> &'static str {
        self.backend.flag()
    }

    fn place<'m, 'w>(
        &self,
        model: &'m Model<'w>,
        file: &'w FileBytes,
    ) -> Result<Box<dyn Placed + 'm>, Failure> {
        let opened = Opened::new(file, false)?;
        let run = Run::generating(self.options);
        let wanted = Wanted { opened: &opened, file, run, force: self.force };
        Ok(Box::new(self.backend.place(model, &wanted, self.common)?))
    }
}

impl Placed for backend::Placed<'_, '_> {
    fn sequences(&self) -> &dyn Sequences {
        self.sequences()
    }

    fn backend(&self) -> String {
        self.name()
    }

    fn device(&self) -> Result<Option<Device>, Failure> {
        match self {
            Self::Cpu(_) => Ok(None),
            #[cfg(feature = "gpu")]
            Self::Gpu(model) => kernels::device(model).map(Some),
        }
    }
}

/// Progress over trials; watches for interruption.
struct Bar(ProgressBar);

impl Progress for Bar {
    fn trial(&self) {
        self.0.inc(1);
    }

    fn is_cancelled(&self) -> bool {
        interrupt::requested()
    }
}
