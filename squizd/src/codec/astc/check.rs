//! What ASTC's geometry cannot say: blocks that GPUs and the reference decode
//! alike, finite scales that are not negative, zeros between planes.

use super::block::Block;
use crate::codec::check::{payload, slice};
use crate::codec::{Encoded, Violation};
use squizd_spec::{CodecId, astc};

/// The first violation.
pub(super) fn check(tensor: &Encoded<'_>) -> Result<(), Violation> {
    let geometry = payload(CodecId::ASTC, tensor)?;
    let matrix = tensor.matrix;
    let stride = matrix.cols.div_ceil(astc::SIDE);
    let blocks = matrix.rows.div_ceil(astc::SIDE) * stride;
    let stored = slice(tensor.data, 0, blocks * astc::BLOCK_BYTES).as_chunks::<16>().0;
    for (i, stored) in (0..).zip(stored) {
        if let Err(fault) = Block::unpack(stored) {
            let message = format!("block {} of row {} of blocks: {}", i % stride, i / stride, fault.message);
            return Err(Violation { offset: i * astc::BLOCK_BYTES, code: fault.code, message });
        }
    }
    let ends = [blocks * astc::BLOCK_BYTES, geometry.planes[1].offset + 2 * matrix.rows];
    let [_, rows, columns, _] = geometry.planes;
    padding(tensor.data, ends[0], rows.offset)?;
    scales(tensor.data, rows.offset, ends[1])?;
    if geometry.plane_count == 3 {
        padding(tensor.data, ends[1], columns.offset)?;
        scales(tensor.data, columns.offset, columns.offset + 2 * matrix.cols)?;
    }
    Ok(())
}

fn padding(data: &[u8], start: u64, end: u64) -> Result<(), Violation> {
    match (start..).zip(slice(data, start, end)).find(|(_, b)| **b != 0) {
        None => Ok(()),
        Some((offset, byte)) => Err(Violation {
            offset,
            code: "payload-padding",
            message: format!("padding byte is {byte:#04x}, must be 0"),
        }),
    }
}

fn scales(data: &[u8], start: u64, end: u64) -> Result<(), Violation> {
    let stored = slice(data, start, end).as_chunks::<2>().0;
    match stored.iter().position(|s| u16::from_le_bytes(*s) >= 0x7c00) {
        None => Ok(()),
        Some(at) => Err(Violation {
            offset: start + 2 * at as u64,
            code: "astc-scale",
            message: format!("scale bytes {:02x?} are negative or not finite", stored[at]),
        }),
    }
}
