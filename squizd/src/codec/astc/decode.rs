//! Blocks and scales to weights, by ranges of rows.

use super::expand::{Expanded, Tables, expand};
use super::{SIDE, Scales};
use crate::Result;
use crate::codec::Encoded;
use crate::codec::stream::checked_geometry;
use squizd_spec::{CodecId, astc};
use std::ops::Range;

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
    let scales = Scales::of(tensor, &geometry);
    let columns = scales.columns(cols);
    let mut out = out.chunks_exact_mut(cols as usize);
    let (tables, mut block) = (Tables::get(), Expanded::ZERO);
    for (block_row_, wanted) in strips(rows) {
        let blocks = block_row(tensor, block_row_);
        let skipped = (wanted.start - block_row_ * astc::SIDE) as usize;
        let mut lines: [(f32, &mut [f32]); SIDE] = Default::default();
        for ((row, line), out) in wanted.zip(&mut lines[skipped..]).zip(&mut out) {
            *line = (scales.row(row), out);
        }
        for (b, (stored, columns)) in blocks.iter().zip(columns.chunks(SIDE)).enumerate() {
            expand(tables, stored, &mut block);
            for (i, (r, line)) in lines.iter_mut().enumerate() {
                let line = line.get_mut(b * SIDE..).unwrap_or_default();
                for (j, (out, c)) in line.iter_mut().zip(columns).enumerate() {
                    *out = *r * c * block.value(i * SIDE + j);
                }
            }
        }
    }
    Ok(())
}
