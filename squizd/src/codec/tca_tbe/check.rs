//! What an encoder would not have written.

use super::decode::{Plain, Scratch, exponents};
use super::payload::{HEAD, PLANE, Payload, SUPERBLOCK, Superblock, tail_starts};
use crate::codec::check::{padding, payload as geometry_of, slice};
use crate::codec::{Encoded, Violation};
use squizd_spec::{CodecId, tbe};

/// The first violation of a stored tensor.
pub(super) fn check(tensor: &Encoded<'_>) -> Result<(), Violation> {
    let geometry = geometry_of(CodecId::TCA_TBE, tensor)?;
    if tensor.params.first() == Some(&tbe::PLAIN) {
        return Ok(());
    }
    let payload = Payload::parse(tensor)?;
    let [index, _, fixed, _] = geometry.planes;
    let behind_fixed = fixed.offset + fixed.row_stride * tensor.matrix.rows;
    let (anchors, stream) = tail_starts(&geometry, tensor.matrix.rows);
    let superblocks = payload.index.len() as u64;
    zeros(tensor, HEAD as u64, index.offset)?;
    padding(tensor, &geometry)?;
    zeros(tensor, behind_fixed, anchors)?;
    zeros(tensor, anchors + 4 * superblocks.div_ceil(tbe::ANCHORED), stream)?;
    zeros(tensor, stream + payload.stream.len() as u64, tensor.data.len() as u64)?;
    let mut scratch = Scratch::new();
    let mut end = 0;
    for row in 0..payload.rows {
        for s in 0..payload.per_row {
            end = superblock(&payload, row, s, end, &mut scratch).map_err(|(offset, code, message)| {
                Violation {
                    offset: offset as u64
                        + match code {
                            "tca-tbe-base" => geometry.planes[1].offset,
                            "tca-tbe-index" => index.offset,
                            "tca-tbe-anchor" => anchors,
                            "tca-tbe-stream" => stream,
                            _ => fixed.offset,
                        },
                    code,
                    message: format!("row {row}, superblock {s}: {message}"),
                }
            })?;
        }
    }
    if end != payload.stream.len() {
        return Err(Violation {
            offset: 24,
            code: "tca-tbe-head",
            message: format!("side stream has {} bytes, superblocks use {end}", payload.stream.len()),
        });
    }
    Ok(())
}

/// Refuses a non-zero byte of `data[start..end]`.
fn zeros(tensor: &Encoded<'_>, start: u64, end: u64) -> Result<(), Violation> {
    match slice(tensor.data, start, end).iter().enumerate().find(|(_, b)| **b != 0) {
        None => Ok(()),
        Some((i, b)) => Err(Violation {
            offset: start + i as u64,
            code: "payload-padding",
            message: format!("padding byte is {b:#04x}, must be 0"),
        }),
    }
}

/// Offset in the part that the code names, code, message.
type Finding = (usize, &'static str, String);

/// Checks superblock `s` of `row`, whose part of the side stream must begin at
/// `start`; returns where it ends.
fn superblock(
    payload: &Payload<'_>,
    row: usize,
    s: usize,
    start: usize,
    scratch: &mut Scratch,
) -> Result<usize, Finding> {
    let i = row * payload.per_row + s;
    let found = payload.start(i).map_or(0, |(at, _)| at);
    if i.is_multiple_of(tbe::ANCHORED as usize) {
        let anchor = i / tbe::ANCHORED as usize;
        let stored = payload.anchors.get(anchor).map_or(0, |a| u32::from_le_bytes(*a) as usize);
        if stored != start {
            return Err((4 * anchor, "tca-tbe-anchor", format!("anchor is {stored}, must be {start}")));
        }
    }
    if found != start {
        let message = format!("its part of the side stream begins at {found}, must begin at {start}");
        return Err((2 * i, "tca-tbe-index", message));
    }
    let Some(block) = payload.superblock(row, s) else {
        let message = format!("its part begins behind the side stream's {} bytes", payload.stream.len());
        return Err((2 * i, "tca-tbe-index", message));
    };
    let highest = if payload.profile == tbe::TBE2 { 253 } else { 249 };
    if block.base > highest {
        return Err((i, "tca-tbe-base", format!("base exponent is {}, at most {highest}", block.base)));
    }
    let at = row * payload.row_bytes + s * PLANE * (payload.plane_count() + 8);
    unused_weights(&block, at)?;
    let Some(length) = exponents::<Plain>(payload, &block, scratch) else {
        let message = format!("its escapes run past the side stream's {} bytes", payload.stream.len());
        return Err((2 * i, "tca-tbe-index", message));
    };
    let stream = block.stream.get(..length).unwrap_or_default();
    let used = if payload.profile == tbe::TBE2 { level_bits(&block, stream) } else { escape_bits(&block) };
    if block.nibbles && length == 0 {
        return Err((2 * i, "tca-tbe-index", "it is marked to have nibbles, but has no escapes".into()));
    }
    if used % 8 != 0 && stream.get(used / 8).is_some_and(|b| b >> (used % 8) != 0) {
        let message = format!("bits past {used} of its part of the side stream must be 0");
        return Err((start + used / 8, "tca-tbe-stream", message));
    }
    Ok(start + length)
}

/// Weights that pad the superblock to 32 have code 1 and a zero byte.
fn unused_weights(block: &Superblock<'_>, at: usize) -> Result<(), Finding> {
    for j in block.weights..(8 * block.width).min(SUPERBLOCK) {
        let (byte, bit) = (j % block.width, j / block.width);
        for (k, plane) in block.planes.chunks_exact(block.width).enumerate() {
            let found = plane.get(byte).map_or(0, |b| b >> bit & 1);
            if found != u8::from(k == 0) {
                let message = format!("padding weight {j} must have code 1, its bit of plane {k} is {found}");
                return Err((at + k * block.width + byte, "tca-tbe-tail", message));
            }
        }
        if let Some(sign) = block.signs.get(j).filter(|s| **s != 0) {
            let message = format!("padding weight {j} has sign/mantissa byte {sign:#04x}, must be 0");
            return Err((at + block.planes.len() + j, "tca-tbe-tail", message));
        }
    }
    Ok(())
}

/// Bits of the escapes of a TBE3 superblock.
fn escape_bits(block: &Superblock<'_>) -> usize {
    let planes = |k: usize| block.planes.chunks_exact(block.width).nth(k).unwrap_or_default();
    let bytes = planes(0).iter().zip(planes(1)).zip(planes(2));
    let count: usize = bytes.map(|((a, b), c)| (a | b | c).count_zeros() as usize).sum();
    count * if block.nibbles { 4 } else { 8 }
}

/// Bits of the two levels of a TBE2 superblock whose part is `stream`.
fn level_bits(block: &Superblock<'_>, stream: &[u8]) -> usize {
    let (low, high) = block.planes.split_at(block.width.min(block.planes.len()));
    let first: usize = low.iter().zip(high).map(|(a, b)| (a | b).count_zeros() as usize).sum();
    let bit = |i: usize| stream.get(i / 8).map_or(0, |b| b >> (i % 8) & 1);
    let second = (0..first).filter(|i| bit(*i) | bit(first + i) == 0).count();
    2 * (first + second)
}
