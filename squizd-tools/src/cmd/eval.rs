//! `squizd eval ppl | kld | logits`.

use super::{
    Common,
    backend::BackendArgs,
    model::{Opened, read_text},
    progress,
};
use crate::{Exit, Failure, output};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;
use squizd::eval;
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
        /// Use only the first BYTES of the text (cut at a character)
        #[arg(long, value_name = "BYTES")]
        bytes: Option<usize>,
        /// Print as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        backend: BackendArgs,
    },
    /// Divergence of the next-token distributions from a reference file's
    Kld {
        /// Model file
        file: PathBuf,
        /// Model file to compare with, best of the raw weights
        #[arg(long, value_name = "FILE")]
        reference: PathBuf,
        /// UTF-8 text
        #[arg(long)]
        text: PathBuf,
        /// Window in tokens
        #[arg(long, default_value_t = 512)]
        ctx: usize,
        /// Use only the first BYTES of the text (cut at a character)
        #[arg(long, value_name = "BYTES")]
        bytes: Option<usize>,
        /// Print as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        backend: BackendArgs,
    },
    /// Logits after every id, as safetensors (tensor `logits`, f32)
    Logits {
        /// Model file
        file: PathBuf,
        /// Token ids, comma-separated
        #[arg(long, value_delimiter = ',', required = true)]
        ids: Vec<u32>,
        /// File to write
        #[arg(short, long)]
        output: PathBuf,
        #[command(flatten)]
        backend: BackendArgs,
    },
}

pub(super) fn run(command: &Eval, common: Common) -> Result<Exit, Failure> {
    match command {
        Eval::Ppl { file, text, ctx, bytes, json, backend } => {
            let content = start_of(text, *bytes)?;
            let mapped = super::map(file)?;
            let opened = Opened::new(&mapped, false)?;
            let tokens = &opened.metadata.model.tokens;
            let ids = opened.tokenizer()?.encode(&content, false)?;
            let bos = tokens.bos.filter(|_| tokens.add_bos);
            let model = opened.model()?;
            let placed = backend.place_exactly(&model, &mapped, common)?;
            let bar = progress::bar(common, ids.len() as u64, "scoring");
            let result = eval::perplexity(placed.sequences(), &ids, *ctx, bos, |done, so_far| {
                bar.set_position(done as u64);
                bar.set_message(format!("ppl {:.4}", so_far.ppl));
            })?;
            bar.finish_and_clear();
            if *json {
                output::json(&result)?;
            } else {
                output::line(format!(
                    "ppl {:.5}  mean nll {:.6}  over {} tokens (ctx {ctx})",
                    result.ppl, result.mean_nll, result.tokens
                ))?;
            }
        }
        Eval::Kld { file, reference, text, ctx, bytes, json, backend } => {
            let content = start_of(text, *bytes)?;
            let (mapped, mapped_reference) = (super::map(file)?, super::map(reference)?);
            let opened = Opened::new(&mapped, false)?;
            let other = Opened::new(&mapped_reference, false)?;
            let ids = opened.tokenizer()?.encode(&content, false)?;
            if other.tokenizer()?.encode(&content, false)? != ids {
                return Err(Failure::usage(format!(
                    "{} and {} split the text into different tokens: they cannot be compared",
                    file.display(),
                    reference.display()
                )));
            }
            let tokens = &opened.metadata.model.tokens;
            let bos = tokens.bos.filter(|_| tokens.add_bos);
            let bar = progress::bar(common, ids.len() as u64, "comparing");
            let (model, reference) = (opened.model()?, other.model()?);
            let ours = backend.place_exactly(&model, &mapped, common)?;
            let theirs = backend.place_exactly(&reference, &mapped_reference, common)?;
            let (ours, theirs) = (ours.sequences(), theirs.sequences());
            let result = eval::divergence(ours, theirs, &ids, *ctx, bos, |done, so_far| {
                bar.set_position(done as u64);
                bar.set_message(format!("kld {so_far:.5}"));
            })?;
            bar.finish_and_clear();
            if *json {
                output::json(&result)?;
            } else {
                let eval::Divergence { kld, top1_agreement, ppl, reference_ppl, ppl_ratio, tokens } = result;
                output::line(format!(
                    "KL divergence mean {:.6} +- {:.6}, median {:.6}, 90 % {:.6}, 99 % {:.6}, max {:.6} nats\n\
                     same top token {:.3} %\n\
                     ppl {ppl:.5}, reference {reference_ppl:.5}, ratio {ppl_ratio:.5}\n\
                     over {tokens} tokens (ctx {ctx})",
                    kld.mean,
                    kld.standard_error,
                    kld.median,
                    kld.p90,
                    kld.p99,
                    kld.max,
                    100.0 * top1_agreement
                ))?;
            }
        }
        Eval::Logits { file, ids, output: target, backend } => {
            let mapped = super::map(file)?;
            let opened = Opened::new(&mapped, false)?;
            let model = opened.model()?;
            let placed = backend.place_exactly(&model, &mapped, common)?;
            let logits = eval::logits(placed.sequences(), ids)?;
            let bytes: Vec<u8> = logits.iter().flat_map(|v| v.to_le_bytes()).collect();
            let view = TensorView::new(Dtype::F32, vec![ids.len(), model.vocab_size()], &bytes)
                .and_then(|view| safetensors::serialize([("logits", view)], None))
                .map_err(|e| Failure::usage(format!("building {}: {e}", target.display())))?;
            std::fs::write(target, view)
                .map_err(|e| Failure::usage(format!("writing {}: {e}", target.display())))?;
            output::line(
                json!({ "schema_version": output::SCHEMA_VERSION, "shape": [ids.len(), model.vocab_size()] }),
            )?;
        }
    }
    Ok(Exit::Done)
}

/// The first `bytes` bytes of a text, cut at a character.
fn start_of(text: &Path, bytes: Option<usize>) -> Result<String, Failure> {
    let mut content = read_text(text)?;
    content.truncate(content.floor_char_boundary(bytes.unwrap_or(usize::MAX)));
    Ok(content)
}
