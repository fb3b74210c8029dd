//! What an encoder would not have written.

use super::decode::{Plain, Scratch, exponents};
use super::payload::{HEAD, PLANE, Payload, SUPERBLOCK, Superblock};
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
    zeros(tensor, HEAD as u64, index.offset)?;
    padding(tensor, &geometry)?;
    zeros(tensor, behind_fixed, payload.stream_at as u64)?;
    zeros(tensor, (payload.stream_at + payload.stream.len()) as u64, tensor.data.len() as u64)?;
    if payload.index.first().is_some_and(|first| *first != [0; 4]) {
        return Err(Violation {
            offset: index.offset,
            code: "tca-tbe-index",
            message: "the first superblock's part of the side stream must begin at 0".into(),
        });
    }
    let mut scratch = Scratch::new();
    for row in 0..payload.rows {
        for s in 0..payload.per_row {
            superblock(&payload, row, s, &mut scratch).map_err(|(offset, code, message)| Violation {
                offset: offset as u64
                    + match code {
                        "tca-tbe-base" => geometry.planes[1].offset,
                        "tca-tbe-index" => index.offset,
                        "tca-tbe-stream" => payload.stream_at as u64,
                        _ => fixed.offset,
                    },
                code,
                message: format!("row {row}, superblock {s}: {message}"),
            })?;
        }
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

fn superblock(payload: &Payload<'_>, row: usize, s: usize, scratch: &mut Scratch) -> Result<(), Finding> {
    let i = row * payload.per_row + s;
    let Some(block) = payload.superblock(row, s) else {
        let message = format!("its part does not lie within the side stream's {} bytes", payload.stream.len());
        return Err((4 * i, "tca-tbe-index", message));
    };
    let highest = if payload.profile == tbe::TBE2 { 253 } else { 249 };
    if block.base > highest {
        return Err((i, "tca-tbe-base", format!("base exponent is {}, at most {highest}", block.base)));
    }
    let at = row * payload.row_bytes + s * PLANE * (payload.plane_count() + 8);
    unused_weights(&block, at)?;
    if exponents::<Plain>(payload, &block, scratch).is_none() {
        let message = format!("its part of the side stream has {} bytes, the planes want another length", block.stream.len());
        return Err((4 * i, "tca-tbe-index", message));
    }
    if payload.profile == tbe::TBE2 { unused_bits(payload, &block) } else { Ok(()) }
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

/// The last byte of the levels' bits is filled with zeros. The lengths agree
/// already, so the bits are as many as the planes and the second level say.
fn unused_bits(payload: &Payload<'_>, block: &Superblock<'_>) -> Result<(), Finding> {
    let (low, high) = block.planes.split_at(block.width.min(block.planes.len()));
    let first: usize = low.iter().zip(high).map(|(a, b)| (!(a | b)).count_ones() as usize).sum();
    let bit = |i: usize| block.stream.get(i / 8).map_or(0, |b| b >> (i % 8) & 1);
    let second = (0..first).filter(|i| bit(*i) | bit(first + i) == 0).count();
    let used = 2 * (first + second);
    if used % 8 != 0 && block.stream.get(used / 8).is_some_and(|b| b >> (used % 8) != 0) {
        let start = payload.padded_stream.len() - block.padded_stream.len();
        return Err((start + used / 8, "tca-tbe-stream", "unused bits of the levels must be 0".into()));
    }
    Ok(())
}
