//! Blocks and scales to weights, by ranges of rows.

use super::block::Block;
use super::strip::value;
use super::{SIDE, Scales, TEXELS};
use crate::Result;
use crate::codec::stream::checked_geometry;
use crate::codec::{Activation, Encoded};
use squizd_spec::{CodecId, astc};
use std::ops::Range;

/// Columns of blocks that a matvec decodes at a time: 9 KiB of values.
const TILE: usize = 64;

/// A block's values in `[-1, 1]`, `2 t - 1` of texels `t`; zeros for a block
/// that is not allowed.
pub(super) fn values(stored: &[u8; 16]) -> [f32; TEXELS] {
    match Block::unpack(stored) {
        Ok(block) => block.texels().map(value),
        Err(_) => [0.0; TEXELS],
    }
}

/// The stored blocks of row `row` of blocks.
fn block_row<'a>(tensor: &Encoded<'a>, row: u64) -> &'a [[u8; 16]] {
    let stride = (tensor.matrix.cols.div_ceil(astc::SIDE) * astc::BLOCK_BYTES) as usize;
    let start = row as usize * stride;
    tensor.data.get(start..start + stride).unwrap_or_default().as_chunks().0
}

/// Rows of blocks that hold `rows`, each with the rows of the matrix taken from it.
fn strips(rows: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
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
    for (block_row_, wanted) in strips(rows) {
        let blocks = block_row(tensor, block_row_);
        let skipped = (wanted.start - block_row_ * astc::SIDE) as usize;
        let mut lines: [(f32, &mut [f32]); SIDE] = Default::default();
        for ((row, line), out) in wanted.zip(&mut lines[skipped..]).zip(&mut out) {
            *line = (scales.row(row), out);
        }
        for (b, (stored, columns)) in blocks.iter().zip(columns.chunks(SIDE)).enumerate() {
            let values = values(stored);
            for ((r, line), values) in lines.iter_mut().zip(values.as_chunks::<SIDE>().0) {
                let line = line.get_mut(b * SIDE..).unwrap_or_default();
                for ((out, c), v) in line.iter_mut().zip(columns).zip(values) {
                    *out = *r * c * v;
                }
            }
        }
    }
    Ok(())
}

/// `y_i = r_i sum_j v_ij (c_j x_j)`; the sizes fit together.
pub(super) fn matvec(tensor: &Encoded<'_>, x: &Activation<'_>, rows: Range<u64>, y: &mut [f32]) {
    let cols = tensor.matrix.cols;
    let Ok(geometry) = checked_geometry(CodecId::ASTC, tensor, &rows, y.len(), 1) else {
        return y.fill(f32::NAN);
    };
    if x.x().len() as u64 != cols {
        return y.fill(f32::NAN);
    }
    let scales = Scales::of(tensor, &geometry);
    let mut scaled = scales.columns(cols);
    for (c, x) in scaled.iter_mut().zip(x.x()) {
        *c *= x;
    }
    scaled.resize(scaled.len().next_multiple_of(SIDE), 0.0);
    let mut tile = vec![[0.0; TEXELS]; TILE];
    let mut y = y.iter_mut();
    for (block_row_, wanted) in strips(rows) {
        let mut sums = [[0.0f32; SIDE]; SIDE];
        let tiles = block_row(tensor, block_row_).chunks(TILE).zip(scaled.chunks(TILE * SIDE));
        for (blocks, x) in tiles {
            for (values_, stored) in tile.iter_mut().zip(blocks) {
                *values_ = values(stored);
            }
            let mut part = [[0.0f32; SIDE]; SIDE];
            for (values, x) in tile.iter().zip(x.as_chunks::<SIDE>().0) {
                for (sum, values) in part.iter_mut().zip(values.as_chunks::<SIDE>().0) {
                    for ((sum, v), x) in sum.iter_mut().zip(values).zip(x) {
                        *sum += v * x;
                    }
                }
            }
            for (sum, part) in sums.as_flattened_mut().iter_mut().zip(part.as_flattened()) {
                *sum += part;
            }
        }
        let first = block_row_ * astc::SIDE;
        for (row, y) in wanted.zip(&mut y) {
            let sum: f32 = sums.get((row - first) as usize).map_or(f32::NAN, |s| s.iter().sum());
            *y = scales.row(row) * sum;
        }
    }
}
