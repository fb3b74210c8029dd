//! A reference's logits over a text, kept in a safetensors file, so that many
//! files can be compared with it and it is run once.
//!
//! Tensor `logits`, F32 `[positions, vocabulary]`: every scored position in
//! order. Tensor `ids`, U32: the text's ids, bos included. Metadata `ctx`: the
//! window.

use crate::Failure;
use safetensors::{Dtype, SafeTensors};
use squizd::{Result, eval, runtime::Sequences, writer::AtomicFile};
use std::path::Path;

/// What a model is judged by.
pub(super) struct Text {
    pub(super) ids: Vec<u32>,
    pub(super) bos: Option<u32>,
    pub(super) ctx: usize,
}

impl Text {
    /// All ids, bos included, as they are stored.
    fn stored(&self) -> Vec<u8> {
        self.bos.iter().chain(&self.ids).flat_map(|id| id.to_le_bytes()).collect()
    }
}

/// Runs `model` over `text` and writes its logits; returns their shape.
pub(super) fn write(
    target: &Path,
    model: &dyn Sequences,
    text: &Text,
    mut progress: impl FnMut(usize),
) -> Result<[usize; 2]> {
    let ids = text.stored();
    let shape = [eval::scored_positions(ids.len() / 4, text.ctx), model.vocab_size()];
    let logits = 4 * shape[0] as u64 * shape[1] as u64;
    let header = serde_json::json!({
        "__metadata__": { "ctx": text.ctx.to_string() },
        "logits": { "dtype": "F32", "shape": shape, "data_offsets": [0, logits] },
        "ids": { "dtype": "U32", "shape": [ids.len() / 4], "data_offsets": [logits, logits + ids.len() as u64] },
    });
    let mut header = header.to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let file = AtomicFile::create(target)?;
    file.write_at(0, &(header.len() as u64).to_le_bytes())?;
    file.write_at(8, &header)?;
    let mut at = 8 + header.len() as u64;
    let mut bytes = Vec::new();
    let mut done = 0;
    eval::scored_logits(model, &text.ids, text.ctx, text.bos, |row| {
        bytes.clear();
        bytes.extend(row.iter().flat_map(|v| v.to_le_bytes()));
        file.write_at(at, &bytes)?;
        at += bytes.len() as u64;
        done += 1;
        progress(done);
        Ok(())
    })?;
    file.write_at(at, &ids)?;
    file.commit()?;
    Ok(shape)
}

/// The logits of a mapped file, which must be of this text and vocabulary.
pub(super) fn read<'a>(
    path: &Path,
    mapped: &'a [u8],
    text: &Text,
    vocab: usize,
) -> std::result::Result<&'a [u8], Failure> {
    let wrong = |why: String| {
        Failure::usage(format!(
            "reference {}: {why}; it must be a .squizd file, or what `squizd eval logits --text` wrote",
            path.display()
        ))
    };
    let tensors = SafeTensors::deserialize(mapped).map_err(|e| wrong(format!("no safetensors file: {e}")))?;
    let (_, metadata) = SafeTensors::read_metadata(mapped).map_err(|e| wrong(e.to_string()))?;
    let tensor = |name: &str, dtype: Dtype| {
        tensors
            .tensor(name)
            .ok()
            .filter(|t| t.dtype() == dtype)
            .ok_or_else(|| wrong(format!("it has no {dtype:?} tensor `{name}`")))
    };
    let (logits, ids) = (tensor("logits", Dtype::F32)?, tensor("ids", Dtype::U32)?);
    let ctx = metadata.metadata().as_ref().and_then(|m| m.get("ctx")).map_or("none", String::as_str);
    if ids.data() != text.stored() || ctx != text.ctx.to_string() {
        return Err(wrong(format!(
            "its logits are of other ids, or of windows of {ctx} where {} is asked for",
            text.ctx
        )));
    }
    let positions = eval::scored_positions(ids.data().len() / 4, text.ctx);
    if logits.shape() != [positions, vocab] {
        return Err(wrong(format!("its logits are {:?}, must be [{positions}, {vocab}]", logits.shape())));
    }
    Ok(logits.data())
}
