//! `squizd run FILE --prompt TEXT | --chat TEXT`.

use super::{
    Common,
    backend::{BackendArgs, Wanted},
    kernels,
    model::{Compute, Opened, read_text},
};
use crate::{Exit, Failure, output};
use squizd::{
    runtime::{GenerateOptions, Generated, Run, SessionOptions, generate, generate_from, generate_greedy},
    text::{Message, Sampler, SamplerOptions, Tokenizer},
};
use std::{io::Write, ops::ControlFlow, path::PathBuf};

#[derive(clap::Args)]
pub(super) struct Args {
    /// Model file
    file: PathBuf,
    /// Text to continue
    #[arg(short, long, required_unless_present_any = ["chat", "prompt_file", "explain"], conflicts_with = "chat")]
    prompt: Option<String>,
    /// File whose text to continue
    #[arg(long, conflicts_with_all = ["prompt", "chat"])]
    prompt_file: Option<PathBuf>,
    /// User message, put through the model's chat template
    #[arg(short, long)]
    chat: Option<String>,
    /// System message for --chat
    #[arg(long, requires = "chat")]
    system: Option<String>,
    /// Most tokens to generate
    #[arg(short = 'n', long, default_value_t = 128)]
    max_tokens: usize,
    /// Temperature; 0 always takes the most likely token
    #[arg(long, default_value_t = 0.0)]
    temp: f32,
    /// Keep the most likely tokens up to this total probability
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Keep this many most likely tokens; 0 keeps all
    #[arg(long, default_value_t = 0)]
    top_k: u32,
    /// Keep tokens at least this times as likely as the most likely one
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// Seed of the sampler
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Positions to reserve [default: what prompt and -n need]
    #[arg(long)]
    ctx_size: Option<usize>,
    #[command(flatten)]
    compute: Compute,
    #[command(flatten)]
    backend: BackendArgs,
    /// Check every hash and block before running
    #[arg(long)]
    verify: bool,
    /// Read the file into memory instead of mapping it (safe against changes meanwhile)
    #[arg(long)]
    in_memory: bool,
    /// Do not repeat the prompt on stdout
    #[arg(long)]
    no_echo: bool,
    /// Go on past end-of-sequence tokens
    #[arg(long)]
    ignore_eos: bool,
    /// Print timings on stderr
    #[arg(long)]
    stats: bool,
    /// Print which kernel runs what and how much memory is needed; generate nothing
    #[arg(long, conflicts_with_all = ["prompt", "prompt_file", "chat"])]
    explain: bool,
}

pub(super) fn run(args: &Args, common: Common) -> Result<Exit, Failure> {
    let bytes = super::open(&args.file, args.in_memory)?;
    let opened = Opened::new(&bytes, args.verify)?;
    if args.explain {
        return explain(args, &opened);
    }
    let tokenizer = opened.tokenizer()?;
    let (ids, echo) = prompt(args, &opened, &tokenizer)?;
    let sampler = SamplerOptions {
        temperature: args.temp,
        top_p: args.top_p,
        top_k: args.top_k,
        min_p: args.min_p,
        seed: args.seed,
    };
    let mut sampler = Sampler::new(sampler).map_err(|e| Failure::usage(e.to_string()))?;
    let options = SessionOptions {
        context: args.ctx_size.unwrap_or(ids.len() + args.max_tokens),
        ..args.compute.options()
    };
    let run = Run::generating(options);
    let model = opened.model_for(&args.backend.host_need(&opened, &run), args.compute.force)?;
    let wanted = Wanted { opened: &opened, file: &bytes, run, force: args.compute.force };
    let placed = args.backend.place(&model, &wanted, common)?;
    let mut session = placed.sequences().begin(options)?;
    if args.compute.warm_up {
        session.warm_up()?;
    }
    let mut out = std::io::stdout().lock();
    let mut decoder = tokenizer.stream(true, echo.is_none());
    let mut text = echo.filter(|_| !args.no_echo).unwrap_or_default();
    let mut flush = |text: &mut String| {
        let done = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        text.clear();
        // A closed pipe ends generation quietly.
        if done.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    if flush(&mut text).is_break() {
        return Ok(Exit::Done);
    }
    let eos = &opened.metadata.model.tokens.eos;
    let stop = GenerateOptions { max_tokens: args.max_tokens, stop: if args.ignore_eos { &[] } else { eos } };
    let on_token = |id| {
        decoder.push(id, &mut text);
        flush(&mut text)
    };
    let generated = if sampler.is_greedy() {
        generate_greedy(&mut *session, &ids, &stop, on_token)?
    } else if let Some(k) = sampler.reach() {
        generate_from(&mut *session, &ids, &stop, k, |top| sampler.sample_of(top), on_token)?
    } else {
        generate(&mut *session, &ids, &stop, |logits| sampler.sample(logits), on_token)?
    };
    decoder.finish(&mut text);
    text.push('\n');
    let _ = flush(&mut text);
    if args.stats {
        print_stats(&generated);
    }
    Ok(Exit::Done)
}

/// Prints the table of kernels and the memory needed.
fn explain(args: &Args, opened: &Opened<'_>) -> Result<Exit, Failure> {
    let default = opened.context();
    let options = SessionOptions { context: args.ctx_size.unwrap_or(default), ..args.compute.options() };
    let run = Run::generating(options);
    let (groups, device) = args.backend.kernels(opened, &run)?;
    kernels::print(&groups)?;
    output::line(format!("memory {}", kernels::memory(&opened.memory(&run), &options)))?;
    if let Some(device) = device {
        output::line(device)?;
    }
    Ok(Exit::Done)
}

/// The prompt's ids, and its text where the output continues it.
fn prompt(
    args: &Args,
    opened: &Opened<'_>,
    tokenizer: &Tokenizer,
) -> Result<(Vec<u32>, Option<String>), Failure> {
    if let Some(user) = &args.chat {
        let template = opened
            .chat_template(tokenizer)?
            .ok_or_else(|| Failure::usage("the file has no chat template: use --prompt"))?;
        let mut messages: Vec<Message> =
            args.system.iter().map(|s| Message::new("system", s.as_str())).collect();
        messages.push(Message::new("user", user.as_str()));
        return Ok((tokenizer.encode_chat(&template.render(&messages, true)?)?, None));
    }
    let text = match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => read_text(path)?,
        (None, None) => return Err(Failure::usage("give --prompt, --prompt-file or --chat")),
    };
    let ids = tokenizer.encode(&text, true)?;
    if ids.is_empty() {
        return Err(Failure::usage("the prompt is empty and the model has no beginning-of-sequence token"));
    }
    Ok((ids, Some(text)))
}

fn print_stats(generated: &Generated) {
    eprintln!(
        "prompt {} tokens, {:.1} tok/s; first token after {:.1} ms; generated {} tokens, {:.1} tok/s ({:?})",
        generated.prompt_tokens,
        generated.prefill_rate(),
        generated.prefill.as_secs_f64() * 1e3,
        generated.tokens.len(),
        generated.decode_rate(),
        generated.reason
    );
}
