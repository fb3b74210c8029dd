//! Blocks and scales to weights, by ranges of rows.

use super::expand::{Expanded, Tables, expand};
use super::{SIDE, Scales};
use crate::Result;
use crate::codec::Encoded;
use crate::codec::stream::checked_geometry;
use squizd_spec::{CodecId, astc};
use std::ops::Range;

/// Blocks whose column scales are held at a time.
pub(super) const TILE: usize = 16;

/// The stored blocks of row `row` of blocks.
pub(super) fn block_row<'a>(tensor: &Encoded<'a>, row: u64) -> &'a [[u8; 16]] {
    let stride = (tensor.matrix.cols.div_ceil(astc::SIDE) * astc::BLOCK_BYTES) as usize;
    let start = row as usize * stride;
    tensor.data.get(start..start + stride).unwrap_or_default().as_chunks().0
}

/// Rows of blocks that hold `rows`, each with the rows of the matrix taken from it.
pub(super) fn strips(rows: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
    let block_rows = rows.start / astc::SIDE..rows.end.div_ceil(astc::SIDE);
    block_rows.map(move |b| (b, (b * astc::SIDE).max(rows.start)..((b + 1) * astc::SIDE).min(rows.end)))
}

/// Decodes `rows` of a stored tensor: `w = ((r 2^e) c) v`.
pub(super) fn rows(tensor: &Encoded<'_>, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
    let cols = tensor.matrix.cols;
    let geometry = checked_geometry(CodecId::ASTC, tensor, &rows, out.len(), cols)?;
    if out.is_empty() {
        return Ok(());
    }
    let (scales, cols) = (Scales::of(tensor, &geometry), cols as usize);
    let (tables, mut block, mut columns) = (Tables::get(), Expanded::ZERO, [0.0; TILE * SIDE]);
    for first in (0..cols.div_ceil(SIDE)).step_by(TILE) {
        scales.columns(first * SIDE, &mut columns);
        let mut rest = &mut *out;
        for (block_row_, wanted) in strips(rows.clone()) {
            let skipped = (wanted.start - block_row_ * astc::SIDE) as usize;
            let count = (wanted.end - wanted.start) as usize;
            let (lines, after) = rest.split_at_mut((count * cols).min(rest.len()));
            rest = after;
            let blocks = block_row(tensor, block_row_).get(first..).unwrap_or_default();
            for (b, (stored, columns)) in blocks.iter().zip(columns.as_chunks::<SIDE>().0).enumerate() {
                expand(tables, stored, &mut block);
                let lines = lines.chunks_exact_mut(cols).zip(wanted.clone());
                for (i, (line, row)) in (skipped..).zip(lines) {
                    let (r, line) = (scales.row(row), &mut line[(first + b) * SIDE..]);
                    for (j, (out, c)) in line.iter_mut().zip(columns).enumerate() {
                        *out = r * c * block.value(i * SIDE + j);
                    }
                }
            }
        }
    }
    Ok(())
}
