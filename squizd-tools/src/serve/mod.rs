//! `squizd serve`: one model behind an API like OpenAI's.
//!
//! ```text
//! connection ─ http ─ openai (parse) ─ template, tokenizer ─┐
//!                                                           ▼
//! connection ◄─ sse ◄─ openai (reply) ◄── bounded channel ◄─ engine (one thread, N slots)
//! ```
//!
//! HTTP runs on a small asynchronous runtime, the model on one thread that
//! spreads each product over rayon's pool. Between them lie bounded queues
//! only: a client that sends too much is refused, one that reads too slowly is
//! given up, one that is gone is forgotten. `docs/server.md` describes the API.

mod engine;
mod error;
mod http;
mod limits;
mod metrics;
mod openai;

pub use limits::Limits;

use crate::{Exit, Failure};
use engine::{Command, Engine, Settings};
use http::{App, Browsers, Key, Signals, Stopped};
use metrics::Metrics;
use squizd::runtime::{Model, Sequences, SessionOptions};
use squizd::text::{ChatTemplate, Tokenizer};
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;

/// Threads for connections; the model has its own.
const IO_THREADS: usize = 2;
/// Prompts rendered and tokenized at the same time; others wait.
const PROMPT_THREADS: usize = 4;
/// Time for tasks that still run when the server stops.
const TASKS_END: Duration = Duration::from_secs(1);

/// The model to serve.
pub struct Served<'a> {
    /// Its weights.
    pub model: &'a Model<'a>,
    /// What computes with them.
    pub sequences: &'a dyn Sequences,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template, if it has one.
    pub template: Option<ChatTemplate>,
    /// The name clients ask for.
    pub name: String,
    /// Names the weights: replies carry it.
    pub fingerprint: String,
}

/// Where and how to serve.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Name or address to listen on.
    pub host: String,
    /// Port; 0 takes a free one.
    pub port: u16,
    /// The key that requests must carry.
    pub api_key: Option<String>,
    /// Origins whose pages may use the server; `*` for all.
    pub cors_origins: Vec<String>,
    /// How each slot computes.
    pub session: SessionOptions,
    /// Caps on requests and connections.
    pub limits: Limits,
}

/// Serves until SIGINT or SIGTERM; `ready` is told the address.
///
/// # Errors
/// If the slots' memory cannot be reserved, an option is senseless, or the
/// address cannot be listened on.
pub fn serve(served: Served<'_>, options: &Options, ready: impl FnOnce(SocketAddr)) -> Result<Exit, Failure> {
    let failed = |what: &str, e: std::io::Error| Failure::usage(format!("{what}: {e}"));
    let Served { model, sequences, tokenizer, template, name, fingerprint } = served;
    let (tokenizer, metrics) = (Arc::new(tokenizer), Arc::new(Metrics::default()));
    let settings = Settings {
        slots: options.limits.slots,
        eos: model.config().tokens.eos.clone(),
        patience: options.limits.write_timeout,
    };
    let make = || sequences.begin(options.session);
    let engine = Engine::new(make, settings, &tokenizer, &metrics)?;

    let runtime = Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .max_blocking_threads(PROMPT_THREADS)
        .thread_name("http")
        .enable_all()
        .build()
        .map_err(|e| failed("starting the server", e))?;
    let address = format!("{}:{}", options.host, options.port);
    let listener = runtime
        .block_on(http::listen(&options.host, options.port))
        .map_err(|e| failed(&format!("listening on {address}"), e))?;
    let local = listener.local_addr().map_err(|e| failed(&address, e))?;
    let signals = runtime.block_on(async { Signals::new() }).map_err(|e| failed("waiting for signals", e))?;
    let (commands, inbox) = mpsc::channel();
    let app = Arc::new(App {
        model: name.into(),
        fingerprint: fingerprint.into(),
        started: http::now(),
        tokenizer: Arc::clone(&tokenizer),
        template,
        context: options.session.context,
        vocab_size: model.vocab_size(),
        limits: options.limits.clone(),
        metrics: Arc::clone(&metrics),
        engine: commands.clone(),
        places: Arc::new(Semaphore::new(options.limits.slots + options.limits.queue)),
        stopping: AtomicBool::new(false),
        browsers: browsers(options, local)?,
        key: options.api_key.as_deref().map(Key::new),
    });
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("engine".into())
            .spawn_scoped(scope, move || engine.run(&inbox))
            .map_err(|e| failed("starting the engine", e))?;
        ready(local);
        let router = http::router(Arc::clone(&app));
        let stopped = runtime.block_on(http::serve(app, router, listener, signals));
        runtime.shutdown_timeout(TASKS_END);
        let _ = commands.send(Command::Stop);
        match stopped {
            Stopped::Gracefully => Ok(Exit::Done),
            Stopped::AtOnce => Ok(Exit::Interrupted),
        }
    })
}

fn browsers(options: &Options, address: SocketAddr) -> Result<Browsers, Failure> {
    let origins = options.cors_origins.iter().map(|o| {
        let known =
            o == "*" || o.split_once("://").is_some_and(|(_, host)| !host.is_empty() && !host.contains('/'));
        let wrong =
            || Failure::usage(format!("--cors-origin {o:?}: must be '*' or like https://app.example:3000"));
        known.then_some(o).and_then(|o| o.parse().ok()).ok_or_else(wrong)
    });
    let guarded = address.ip().is_loopback() && options.api_key.is_none();
    Ok(Browsers { origins: origins.collect::<Result<_, _>>()?, host: guarded.then(|| options.host.clone()) })
}
