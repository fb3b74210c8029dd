//! `squizd eval ppl | logits`.

use super::{
    Common,
    model::{Opened, read_text},
    progress,
};
use crate::{Exit, Failure, output};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;
use squizd::eval;
use std::path::PathBuf;

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
    },
}

pub(super) fn run(command: &Eval, common: Common) -> Result<Exit, Failure> {
    match command {
        Eval::Ppl { file, text, ctx, bytes, json } => {
            let mut content = read_text(text)?;
            content.truncate(content.floor_char_boundary(bytes.unwrap_or(usize::MAX)));
            let mapped = super::map(file)?;
            let opened = Opened::new(&mapped, false)?;
            let tokens = &opened.metadata.model.tokens;
            let ids = opened.tokenizer()?.encode(&content, false)?;
            let bos = tokens.bos.filter(|_| tokens.add_bos);
            let model = opened.model()?;
            let bar = progress::bar(common, ids.len() as u64, "scoring");
            let result = eval::perplexity(&model, &ids, *ctx, bos, |done, so_far| {
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
        Eval::Logits { file, ids, output: target } => {
            let mapped = super::map(file)?;
            let opened = Opened::new(&mapped, false)?;
            let model = opened.model()?;
            let logits = eval::logits(&model, ids)?;
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
