//! `squizd eval ppl | kld | logits`.

mod kept;

use super::{
    Common,
    backend::{BackendArgs, Placed, Wanted},
    model::{Opened, check_memory, read_text},
    progress,
};
use crate::{Exit, Failure, output};
use kept::Text;
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;
use squizd::{
    eval::{self, Reference},
    runtime::{Model, Run, Sequences, SessionOptions},
};
use squizd_spec::FileBytes;
use std::path::{Path, PathBuf};

#[derive(clap::Subcommand)]
pub(super) enum Eval {
    /// Perplexity of a text (f32 forward, non-overlapping windows)
    Ppl {
        /// Model file
        file: PathBuf,
        /// UTF-8 text
        #[arg(long)]
        text: PathBuf,
        /// Window in tokens
        #[arg(long, default_value_t = 512)]
        ctx: usize,
        /// Load the model even if it needs more memory than is free
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        backend: BackendArgs,
        /// Use only the first BYTES of the text (cut at a character)
        #[arg(long, value_name = "BYTES")]
        bytes: Option<usize>,
        /// Read model files into memory instead of mapping them (safe against changes meanwhile)
        #[arg(long)]
        in_memory: bool,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Divergence of the next-token distributions from a reference file's
    Kld {
        /// Model file
        file: PathBuf,
        /// Model file to compare with, best of the raw weights, or its logits on this text from `eval logits --text`
        #[arg(long, value_name = "FILE")]
        reference: PathBuf,
        /// UTF-8 text
        #[arg(long)]
        text: PathBuf,
        /// Window in tokens
        #[arg(long, default_value_t = 512)]
        ctx: usize,
        /// Load the model even if it needs more memory than is free
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        backend: BackendArgs,
        /// Use only the first BYTES of the text (cut at a character)
        #[arg(long, value_name = "BYTES")]
        bytes: Option<usize>,
        /// Read model files into memory instead of mapping them (safe against changes meanwhile)
        #[arg(long)]
        in_memory: bool,
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Logits as safetensors (tensor `logits`, f32): after every id, or at every scored position of a text
    Logits {
        /// Model file
        file: PathBuf,
        /// Token ids, comma-separated
        #[arg(long, value_delimiter = ',', required_unless_present = "text")]
        ids: Vec<u32>,
        /// Read model files into memory instead of mapping them (safe against changes meanwhile)
        #[arg(long)]
        in_memory: bool,
        /// UTF-8 text: logits for `eval kld --reference`
        #[arg(long, conflicts_with = "ids")]
        text: Option<PathBuf>,
        /// Window in tokens
        #[arg(long, default_value_t = 512, requires = "text")]
        ctx: usize,
        /// Load the model even if it needs more memory than is free
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        backend: BackendArgs,
        /// Use only the first BYTES of the text (cut at a character)
        #[arg(long, value_name = "BYTES", requires = "text")]
        bytes: Option<usize>,
        /// File to write
        #[arg(short, long)]
        output: PathBuf,
    },
}

pub(super) fn run(command: &Eval, common: Common) -> Result<Exit, Failure> {
    match command {
        Eval::Ppl { file, text, ctx, force, backend, bytes, in_memory, json } => {
            let mapped = super::open(file, *in_memory)?;
            let opened = Opened::new(&mapped, false)?;
            let text = read(&opened, text, *bytes, *ctx)?;
            let model = load(&opened, *backend, *ctx, *force)?;
            let there = There { backend: *backend, context: *ctx, force: *force, common };
            perplexity(there.place(&model, &opened, &mapped)?.sequences(), &text, *json, common)?;
        }
        Eval::Kld { file, reference, text, ctx, force, backend, bytes, in_memory, json } => {
            let mapped = super::open(file, *in_memory)?;
            let opened = Opened::new(&mapped, false)?;
            let content = start_of(text, *bytes)?;
            let text = encode(&opened, &content, *ctx)?;
            let (path, other) = (reference, super::open(reference, *in_memory)?);
            let there = There { backend: *backend, context: *ctx, force: *force, common };
            if other.starts_with(b"SQZD") {
                let reference = Opened::new(&other, false)?;
                if encode(&reference, &content, *ctx)?.ids != text.ids {
                    return Err(Failure::usage(format!(
                        "{} and {} split the text into different tokens: they cannot be compared",
                        file.display(),
                        path.display()
                    )));
                }
                // Both run side by side.
                for opened in [&opened, &reference] {
                    opened.check()?;
                }
                let need = |opened| backend.host_need(opened, &scoring(*ctx));
                check_memory(&need(&opened).and(need(&reference)), *force)?;
                let (model, theirs) =
                    (load(&opened, *backend, *ctx, true)?, load(&reference, *backend, *ctx, true)?);
                let model = there.place(&model, &opened, &mapped)?;
                let theirs = there.place(&theirs, &reference, &other)?;
                divergence(model.sequences(), &Reference::Model(theirs.sequences()), &text, *json, common)?;
            } else {
                let model = load(&opened, *backend, *ctx, *force)?;
                let logits = kept::read(path, &other, &text, model.vocab_size())?;
                let model = there.place(&model, &opened, &mapped)?;
                divergence(model.sequences(), &Reference::Logits(logits), &text, *json, common)?;
            }
        }
        Eval::Logits { file, ids, text, ctx, force, backend, bytes, in_memory, output: target } => {
            let mapped = super::open(file, *in_memory)?;
            let opened = Opened::new(&mapped, false)?;
            let context = if text.is_some() { *ctx } else { ids.len() };
            let model = load(&opened, *backend, context, *force)?;
            let text = text.as_ref().map(|text| read(&opened, text, *bytes, *ctx)).transpose()?;
            let there = There { backend: *backend, context, force: *force, common };
            let placed = there.place(&model, &opened, &mapped)?;
            let shape = match text {
                Some(text) => {
                    let bar = progress::bar(common, text.ids.len() as u64, "running");
                    let done = |done| bar.set_position(done as u64);
                    let shape = kept::write(target, placed.sequences(), &text, done)?;
                    bar.finish_and_clear();
                    shape
                }
                None => after_every_id(placed.sequences(), ids, target)?,
            };
            output::line(json!({ "schema_version": output::SCHEMA_VERSION, "shape": shape }))?;
        }
    }
    Ok(Exit::Done)
}

/// Scoring windows of `context` tokens, in f32.
fn scoring(context: usize) -> Run {
    Run::scoring(SessionOptions { context, ..SessionOptions::default() })
}

/// The model, if scoring windows of `context` tokens fits the free memory.
fn load<'a>(
    opened: &Opened<'a>,
    backend: BackendArgs,
    context: usize,
    force: bool,
) -> Result<Model<'a>, Failure> {
    opened.model_for(&backend.host_need(opened, &scoring(context)), force)
}

/// Where `--backend` says.
struct There {
    backend: BackendArgs,
    context: usize,
    force: bool,
    common: Common,
}

impl There {
    fn place<'m, 'w>(
        &self,
        model: &'m Model<'w>,
        opened: &Opened<'w>,
        file: &'w FileBytes,
    ) -> Result<Placed<'m, 'w>, Failure> {
        let wanted = Wanted { opened, file, run: scoring(self.context), force: self.force };
        self.backend.place(model, &wanted, self.common)
    }
}

fn perplexity(model: &dyn Sequences, text: &Text, json: bool, common: Common) -> Result<(), Failure> {
    let bar = progress::bar(common, text.ids.len() as u64, "scoring");
    let result = eval::perplexity(model, &text.ids, text.ctx, text.bos, |done, so_far| {
        bar.set_position(done as u64);
        bar.set_message(format!("ppl {:.4}", so_far.ppl));
    })?;
    bar.finish_and_clear();
    if json {
        return output::json(&result);
    }
    output::line(format!(
        "ppl {:.5}  mean nll {:.6}  over {} tokens (ctx {})",
        result.ppl, result.mean_nll, result.tokens, text.ctx
    ))
}

fn divergence(
    model: &dyn Sequences,
    reference: &Reference<'_>,
    text: &Text,
    json: bool,
    common: Common,
) -> Result<(), Failure> {
    let bar = progress::bar(common, text.ids.len() as u64, "comparing");
    let result = eval::divergence(model, reference, &text.ids, text.ctx, text.bos, |done, so_far| {
        bar.set_position(done as u64);
        bar.set_message(format!("kld {so_far:.5}"));
    })?;
    bar.finish_and_clear();
    if json {
        return output::json(&result);
    }
    let eval::Divergence { kld, top1_agreement, ppl, reference_ppl, ppl_ratio, tokens } = result;
    output::line(format!(
        "KL divergence mean {:.6} +- {:.6}, median {:.6}, 90 % {:.6}, 99 % {:.6}, max {:.6} nats\n\
         same top token {:.3} %\n\
         ppl {ppl:.5}, reference {reference_ppl:.5}, ratio {ppl_ratio:.5}\n\
         over {tokens} tokens (ctx {})",
        kld.mean,
        kld.standard_error,
        kld.median,
        kld.p90,
        kld.p99,
        kld.max,
        100.0 * top1_agreement,
        text.ctx
    ))
}

fn after_every_id(model: &dyn Sequences, ids: &[u32], target: &Path) -> Result<[usize; 2], Failure> {
    let shape = [ids.len(), model.vocab_size()];
    let bytes: Vec<u8> = eval::logits(model, ids)?.iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, shape.to_vec(), &bytes)
        .and_then(|view| safetensors::serialize([("logits", view)], None))
        .map_err(|e| Failure::usage(format!("building {}: {e}", target.display())))?;
    std::fs::write(target, view).map_err(|e| Failure::usage(format!("writing {}: {e}", target.display())))?;
    Ok(shape)
}

/// The first `bytes` bytes of a text as ids.
fn read(opened: &Opened<'_>, text: &Path, bytes: Option<usize>, ctx: usize) -> Result<Text, Failure> {
    encode(opened, &start_of(text, bytes)?, ctx)
}

fn encode(opened: &Opened<'_>, content: &str, ctx: usize) -> Result<Text, Failure> {
    let tokens = &opened.metadata.model.tokens;
    let ids = opened.tokenizer()?.encode(content, false)?;
    Ok(Text { ids, bos: tokens.bos.filter(|_| tokens.add_bos), ctx })
}

/// The first `bytes` bytes of a text, cut at a character.
fn start_of(text: &Path, bytes: Option<usize>) -> Result<String, Failure> {
    let mut content = read_text(text)?;
    content.truncate(content.floor_char_boundary(bytes.unwrap_or(usize::MAX)));
    Ok(content)
}
