//! From tensor infos to places in the data section, with every range checked.

use super::{
    limits::GgufLimits,
    parse::Info,
    types::{GgmlType, ggml_type},
    value::Value,
};
use crate::source::{flaw::Flaw, store::StoredTensor, tensors::Placed};

/// `general.alignment`, 32 where absent: a power of two, stored as u32.
pub(super) fn alignment(pairs: &[(String, Value, u64)], limits: &GgufLimits) -> Result<u64, Flaw> {
    let Some((_, value, byte)) = pairs.iter().find(|(key, ..)| key == "general.alignment") else {
        return Ok(32);
    };
    match value {
        Value::U32(a) if a.is_power_of_two() && u64::from(*a) <= limits.alignment => Ok(u64::from(*a)),
        other => Err(Flaw::invalid(
            "gguf-alignment",
            *byte,
            format!(
                "`general.alignment` is {}, allowed a u32 power of two up to {}",
                other.describe(),
                limits.alignment
            ),
        )),
    }
}

/// Places all tensors of one file of `file_bytes` whose header ends at `end`.
/// The result keeps the order of the infos.
pub(super) fn place(infos: &[Info], end: u64, alignment: u64, file_bytes: u64) -> Result<Vec<Placed>, Flaw> {
    let placed: Vec<Placed> = match end.checked_next_multiple_of(alignment) {
        Some(data) => {
            infos.iter().map(|i| place_one(i, data, alignment, file_bytes)).collect::<Result<_, _>>()?
        }
        None => Vec::new(),
    };
    let mut order: Vec<(&Placed, &Info)> = placed.iter().zip(infos).collect();
    order.sort_by_key(|(p, _)| p.start);
    for ((before, _), (after, info)) in order.iter().zip(order.iter().skip(1)) {
        if before.start + before.tensor.bytes > after.start {
            return Err(Flaw::invalid(
                "gguf-overlap",
                info.byte,
                format!(
                    "tensor {} (bytes {}..{}) overlaps {} (bytes {}..{})",
                    after.tensor.name,
                    after.start,
                    after.start + after.tensor.bytes,
                    before.tensor.name,
                    before.start,
                    before.start + before.tensor.bytes
                ),
            ));
        }
    }
    order.sort_by(|(a, _), (b, _)| a.tensor.name.cmp(&b.tensor.name));
    for ((a, first), (b, second)) in order.iter().zip(order.iter().skip(1)) {
        if a.tensor.name == b.tensor.name {
            let (byte, other) = (first.byte.max(second.byte), first.byte.min(second.byte));
            let message = format!("a second tensor {}; the first is at byte {other}", b.tensor.name);
            return Err(Flaw::invalid("gguf-tensor-duplicate", byte, message));
        }
    }
    Ok(placed)
}

fn place_one(info: &Info, data: u64, alignment: u64, file_bytes: u64) -> Result<Placed, Flaw> {
    let fail =
        |code, message: String| Flaw::invalid(code, info.byte, format!("tensor {}: {message}", info.name));
    let kind = ggml_type(info.kind)
        .map_err(|why| Flaw { unsupported: true, ..fail("gguf-type", format!("stored as {why}")) })?;
    let cols = info.dims.first().copied().unwrap_or(0);
    if !cols.is_multiple_of(kind.block) {
        return Err(fail(
            "gguf-block",
            format!("rows of {cols} weights are not whole {} blocks of {}", kind.name, kind.block),
        ));
    }
    let (row_bytes, bytes) = size(&info.dims, cols, kind).ok_or_else(|| {
        fail("gguf-overflow", format!("dimensions {:?} of {} overflow", info.dims, kind.name))
    })?;
    if !info.offset.is_multiple_of(alignment) {
        return Err(fail(
            "gguf-offset",
            format!("offset is {}, not a multiple of the alignment {alignment}", info.offset),
        ));
    }
    let start = data.checked_add(info.offset);
    let end = start.and_then(|s| s.checked_add(bytes)).filter(|e| *e <= file_bytes);
    let (Some(start), Some(_)) = (start, end) else {
        return Err(fail(
            "gguf-past-end",
            format!(
                "{bytes} bytes at offset {} of the data section (byte {data} of the file) end outside the file's \
             {file_bytes}: was its download interrupted?",
                info.offset
            ),
        ));
    };
    let tensor = StoredTensor {
        name: info.name.clone(),
        dtype: kind.dtype,
        dtype_name: kind.name.to_owned(),
        dims: info.dims.iter().rev().copied().collect(),
        bytes,
    };
    Ok(Placed { tensor, start, row_bytes })
}

/// Bytes of a row and of the tensor. The element count must fit too: callers
/// multiply dimensions freely afterwards.
fn size(dims: &[u64], cols: u64, kind: &GgmlType) -> Option<(u64, u64)> {
    dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?;
    let row = (cols / kind.block).checked_mul(kind.bytes)?;
    let bytes = dims.iter().skip(1).try_fold(row, |n, d| n.checked_mul(*d))?;
    Some((row, bytes))
}
