//! One safetensors file: `length u64 | JSON header | data`, where the tensors'
//! ranges tile the data without gap or overlap.

use super::{
    dtype::{Element, element},
    json::{Described, Header},
    limits,
};
use crate::source::{
    flaw::{Flaw, bad_name},
    store::StoredTensor,
    tensors::Placed,
};
use squizd::json_offset;
use squizd_spec::Short;
use std::collections::BTreeMap;

/// A checked file, tensors by ascending offset.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) tensors: Vec<Placed>,
    /// First byte of the data.
    pub(super) data: u64,
}

/// Reads and checks the header of `file` (the whole file's bytes).
pub(super) fn read(file: &[u8]) -> Result<Contents, Flaw> {
    let (text, data) = split(file)?;
    let header: Header = serde_json::from_slice(text)
        .map_err(|e| Flaw::invalid("safetensors-json", 8 + json_offset(text, &e), format!("header: {e}")))?;
    let mut described: Vec<(String, Described)> = header.tensors.into_iter().collect();
    described.sort_by_key(|(_, d)| d.data_offsets);
    let data_bytes = file.len() as u64 - data;
    let mut tensors = Vec::with_capacity(described.len());
    let mut expected = 0;
    for (name, d) in described {
        let [begin, end] = d.data_offsets;
        let fail = |code, what: String| Flaw::invalid(code, data + begin, format!("tensor {name}: {what}"));
        if let Some(why) = bad_name(&name, limits::NAME) {
            return Err(Flaw::invalid("safetensors-name", 8, format!("header: tensor name {why}")));
        }
        if begin > end || end > data_bytes {
            return Err(Flaw::invalid(
                "safetensors-past-end",
                8,
                format!(
                    "tensor {name}: data_offsets {begin}..{end} of {data_bytes} bytes of data: was the download interrupted?"
                ),
            ));
        }
        if begin != expected {
            let (code, what) = if begin < expected {
                ("safetensors-overlap", "overlaps the tensor before it")
            } else {
                ("safetensors-gap", "leaves a gap before it")
            };
            return Err(fail(code, format!("data_offsets {begin}..{end} {what}, which ends at {expected}")));
        }
        let kind = element(&d.dtype).ok_or_else(|| {
            Flaw::unsupported(
                "safetensors-dtype",
                data + begin,
                format!("tensor {name}: unknown dtype {:?}", Short(&d.dtype)),
            )
        })?;
        let (row_bytes, bytes) = size(&d.shape.0, kind).map_err(|what| fail("safetensors-shape", what))?;
        if bytes != end - begin {
            return Err(fail(
                "safetensors-size",
                format!(
                    "{} {:?} takes {bytes} bytes, data_offsets {begin}..{end} give {}",
                    kind.name,
                    d.shape.0,
                    end - begin
                ),
            ));
        }
        expected = end;
        // A scalar is a vector of one.
        let dims = if d.shape.0.is_empty() { vec![1] } else { d.shape.0 };
        let tensor = StoredTensor { name, dtype: kind.dtype, dtype_name: kind.name.to_owned(), dims, bytes };
        tensors.push(Placed { tensor, start: data + begin, row_bytes });
    }
    if expected != data_bytes {
        return Err(Flaw::invalid(
            "safetensors-trailing",
            data + expected,
            format!("{} bytes follow the last tensor and belong to none", data_bytes - expected),
        ));
    }
    Ok(Contents { metadata: header.metadata, tensors, data })
}

/// The header's text and where the data begins.
fn split(file: &[u8]) -> Result<(&[u8], u64), Flaw> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(Flaw::invalid(
            "safetensors-truncated",
            0,
            format!("{} bytes are too few for a safetensors file", file.len()),
        ));
    };
    let length = u64::from_le_bytes(*length);
    if length > limits::HEADER {
        return Err(Flaw::invalid(
            "safetensors-length",
            0,
            format!(
                "header length is {length}, allowed at most {}; is this a safetensors file?",
                limits::HEADER
            ),
        ));
    }
    let Some(text) = usize::try_from(length).ok().and_then(|n| rest.get(..n)) else {
        return Err(Flaw::invalid(
            "safetensors-truncated",
            0,
            format!(
                "header length is {length}, but {} bytes follow: was the download interrupted?",
                rest.len()
            ),
        ));
    };
    match text.first() {
        Some(b'{') => Ok((text, 8 + length)),
        Some(b) => {
            Err(Flaw::invalid("safetensors-json", 8, format!("header begins with byte {b:#04x}, not '{{'")))
        }
        None => Err(Flaw::invalid("safetensors-length", 0, "header length is 0")),
    }
}

/// Bytes of a row of the matrix view, and of the whole tensor.
fn size(shape: &[u64], kind: &Element) -> Result<(u64, u64), String> {
    if let Some(d) = shape.iter().position(|n| *n == 0) {
        return Err(format!("dimension {d} of {shape:?} is 0"));
    }
    let overflow = || format!("shape {shape:?} of {} overflows", kind.name);
    let (cols, outer) = shape.split_last().map_or((1, [].as_slice()), |(c, o)| (*c, o));
    let row_bits = cols.checked_mul(kind.bits).ok_or_else(overflow)?;
    if !row_bits.is_multiple_of(8) {
        return Err(format!("rows of {cols} {} elements are not whole bytes", kind.name));
    }
    let product = |start: u64| outer.iter().try_fold(start, |n, d| n.checked_mul(*d)).ok_or_else(overflow);
    // The element count must fit too: callers multiply dimensions freely.
    product(cols)?;
    Ok((row_bits / 8, product(row_bits / 8)?))
}
