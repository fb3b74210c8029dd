//! `squizd serve FILE`.

use super::{
    Common,
    backend::{BackendArgs, Wanted},
    model::{Compute, Opened, default_context},
};
use crate::{
    Exit, Failure,
    serve::{Limits, Options, Served, serve},
};
use squizd::{
    model::ModelConfig,
    runtime::{Run, SessionOptions},
};
use squizd_spec::Hex;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Model file
    file: PathBuf,
    /// Name or address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Name of the model in requests and replies [default: the file's name]
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
    /// Tokens that a conversation can have, prompt and answer [default: what the model was trained
    /// for, at most 4096]
    #[arg(long, value_name = "N")]
    ctx_size: Option<usize>,
    /// Requests answered at the same time, each with a cache of its own
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,
    /// Requests that may wait for their turn; more are refused with status 429
    #[arg(long, value_name = "N", default_value_t = 64)]
    queue: u16,
    /// Most tokens that a request may ask for [default: what the context holds]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Largest request body
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20)]
    max_body: usize,
    /// Key that requests must carry, as 'Authorization: Bearer KEY'
    #[arg(long, value_name = "KEY", env = "SQUIZD_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Origin whose web pages may use the server; repeatable, '*' for all
    #[arg(long = "cors-origin", value_name = "ORIGIN")]
    cors_origins: Vec<String>,
    /// Time for a client to send a request, and to take what it is sent
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    timeout: Duration,
    /// Time for answers to end by themselves at shutdown
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    grace: Duration,
    #[command(flatten)]
    compute: Compute,
    #[command(flatten)]
    backend: BackendArgs,
    /// Check every hash and block before serving
    #[arg(long)]
    verify: bool,
    /// Read the file into memory instead of mapping it (safe against changes meanwhile)
    #[arg(long)]
    in_memory: bool,
}

pub(super) fn run(args: &Args, common: Common) -> Result<Exit, Failure> {
    for (name, value) in [("--ctx-size", args.ctx_size), ("--max-tokens", args.max_tokens)] {
        if value == Some(0) {
            return Err(Failure::usage(format!("{name} is 0, must be at least 1")));
        }
    }
    if args.api_key.as_deref().is_some_and(|key| key.trim().is_empty() || key.trim() != key) {
        return Err(Failure::usage("--api-key is empty, or begins or ends with a space"));
    }
    let bytes = super::open(&args.file, args.in_memory)?;
    let opened = Opened::new(&bytes, args.verify)?;
    let tokenizer = opened.tokenizer()?;
    let template = opened.chat_template(&tokenizer)?;
    let options = options(args, &opened.metadata.model);
    let run = Run { sessions: options.limits.slots, ..Run::generating(options.session) };
    let model = opened.model_for(&args.backend.host_need(&opened, &run), args.compute.force)?;
    let name = args.alias.clone().unwrap_or_else(|| stem(&args.file));
    let digest = Hex(&opened.root_digest()).to_string();
    let fingerprint = format!("squizd-{}", digest.get(..16).unwrap_or(&digest));
    let announced = name.clone();
    let wanted = Wanted { opened: &opened, file: &bytes, run, force: args.compute.force };
    let placed = args.backend.place(&model, &wanted, common)?;
    let sequences = placed.sequences();
    if args.compute.warm_up {
        sequences.begin(SessionOptions { context: 8, ..options.session })?.warm_up()?;
    }
    let served = Served { model: &model, sequences, tokenizer, template, name, fingerprint };
    serve(served, &options, |address| {
        if !address.ip().is_loopback() && options.api_key.is_none() {
            eprintln!(
                "warning: {address} can be reached from other machines, and no key is asked for: \
                 set --api-key or SQUIZD_API_KEY"
            );
        }
        if !common.quiet {
            announce(&announced, address, &options);
        }
    })
}

fn options(args: &Args, model: &ModelConfig) -> Options {
    let trained = model.max_positions as usize;
    let context = args.ctx_size.unwrap_or_else(|| default_context(model));
    if trained > 0 && context > trained {
        eprintln!("warning: --ctx-size is {context}, the model was trained for {trained} positions");
    }
    Options {
        host: args.host.clone(),
        port: args.port,
        api_key: args.api_key.clone(),
        cors_origins: args.cors_origins.clone(),
        session: SessionOptions { context, ..args.compute.options() },
        limits: Limits {
            slots: args.parallel.into(),
            queue: args.queue.into(),
            max_tokens: args.max_tokens,
            max_body: args.max_body,
            read_timeout: args.timeout,
            write_timeout: args.timeout,
            grace: args.grace,
            ..Limits::default()
        },
    }
}

fn announce(name: &str, address: SocketAddr, options: &Options) {
    eprintln!(
        "serving {name} at http://{address}/v1: {} slots of {} tokens",
        options.limits.slots, options.session.context
    );
}

/// The file's name without folder and extension.
fn stem(file: &Path) -> String {
    file.file_stem().map_or_else(|| "model".into(), |s| s.to_string_lossy().into_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let value: f64 = text.parse().map_err(|_| "must be a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(value) {
        Ok(time) if time <= Duration::from_hours(24) => Ok(time),
        _ => Err("must be 0 to 86400 seconds".to_owned()),
    }
}
