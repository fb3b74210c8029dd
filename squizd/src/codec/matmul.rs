//! Matrix times several vectors, for prefill: tiles of rows are decoded to
//! `f32` and multiplied in cache.

use super::kernels::dot_tile;
use super::{Activation, Codec, Encoded, Precision};
use crate::{Error, Result};
use rayon::prelude::*;
use std::ops::Range;

/// Floats of a decoded tile, and of the block of inputs it meets: together
/// they stay within a core's L2 cache.
const TILE_FLOATS: usize = 1 << 16;
const INPUT_FLOATS: usize = 1 << 15;
/// Rows of a tile at most, so that small matrices still make several tasks; a
/// multiple of the kernel's three.
const TILE_ROWS: usize = 60;
/// Up to this many inputs, reading the stored blocks once per input is faster
/// than decoding them.
const FEW: usize = 4;

/// `y[t][i] = dot(row rows.start + i, x[t])` for `n` inputs: `x` is
/// `[n, cols]`, `y` is `[n, rows.len()]`, all row-major and accumulated in
/// `f32`. Runs on rayon's current thread pool.
///
/// # Errors
/// If the sizes do not go together, or the tensor does not decode.
pub fn matmul(
    codec: &dyn Codec,
    tensor: &Encoded<'_>,
    x: &[f32],
    n: usize,
    rows: Range<u64>,
    y: &mut [f32],
) -> Result<()> {
    let cols = tensor.matrix.cols as usize;
    let count = rows.end.saturating_sub(rows.start) as usize;
    let sizes = (n.checked_mul(cols), n.checked_mul(count));
    if sizes != (Some(x.len()), Some(y.len())) || rows.end > tensor.matrix.rows {
        return Err(Error::invalid(format!(
            "tensor {}: {n} inputs of {cols} and outputs of {count} need {sizes:?} values, got {} and {}",
            tensor.name,
            x.len(),
            y.len()
        )));
    }
    if x.is_empty() || y.is_empty() {
        y.fill(0.0);
        return Ok(());
    }
    let tile = (TILE_FLOATS / cols / 3 * 3).clamp(3, TILE_ROWS);
    let starts: Vec<usize> = (0..count).step_by(tile).collect();
    let blocks: Vec<Vec<f32>> = starts
        .into_par_iter()
        .map_init(Vec::new, |decoded, start| {
            let range = rows.start + start as u64..rows.start + (start + tile).min(count) as u64;
            block(codec, tensor, x, n, range, decoded)
        })
        .collect::<Result<_>>()?;
    y.par_chunks_exact_mut(count).enumerate().for_each(|(t, y)| {
        for (y, block) in y.chunks_mut(tile).zip(&blocks) {
            let width = y.len();
            if let Some(row) = block.get(t * width..(t + 1) * width) {
                y.copy_from_slice(row);
            }
        }
    });
    Ok(())
}

/// The outputs of `range`, `[n, range.len()]`.
fn block(
    codec: &dyn Codec,
    tensor: &Encoded<'_>,
    x: &[f32],
    n: usize,
    range: Range<u64>,
    decoded: &mut Vec<f32>,
) -> Result<Vec<f32>> {
    let cols = tensor.matrix.cols as usize;
    let width = (range.end - range.start) as usize;
    let mut out = vec![0.0; n * width];
    if n <= FEW {
        for (x, out) in x.chunks_exact(cols).zip(out.chunks_exact_mut(width)) {
            codec.matvec(tensor, &Activation::new(x, Precision::F32), range.clone(), out);
        }
        return Ok(out);
    }
    decoded.resize(width * cols, 0.0);
    codec.decode(tensor, range, decoded)?;
    let inputs = (INPUT_FLOATS / cols).max(1);
    for (x, out) in x.chunks(inputs * cols).zip(out.chunks_mut(inputs * width)) {
        dot_tile(decoded, x, cols, out);
    }
    Ok(out)
}
