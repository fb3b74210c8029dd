//! Stored tiles times a vector: `W x = (W R^T) (R x)`.

use super::decode::Parts;
use super::tile::{SIDE, TILE, place, values};
use crate::codec::{Activation, Encoded};
use crate::simd::multiversion;
use std::ops::Range;

/// `y[i] = dot(row rows.start + i, x)`; NaN where sizes do not go together.
pub(super) fn rows(tensor: &Encoded<'_>, x: &Activation<'_>, rows: Range<u64>, y: &mut [f32]) {
    let cols = tensor.matrix.cols as usize;
    let Ok(parts) = Parts::of(tensor, &rows, y.len(), 1) else {
        y.fill(f32::NAN);
        return;
    };
    if x.x().len() != cols || cols == 0 {
        y.fill(f32::NAN);
        return;
    }
    let key = parts.form.rotation_key();
    let rotated = x.rotated(key, |x| {
        let mut rotated = x.to_vec();
        parts.form.rotation(cols).forward(&mut rotated);
        rotated.resize(cols.next_multiple_of(SIDE), 0.0);
        rotated
    });
    let mut y = y.iter_mut();
    for (wanted, tiles) in parts.strips(rows) {
        let mut sums = [0.0; SIDE];
        strip(&parts, tiles, &rotated, &mut sums);
        for (row, y) in wanted.zip(y.by_ref()) {
            *y = parts.scale(row) * sums[(row % SIDE as u64) as usize];
        }
    }
}

/// Sums of table values times the rotated input.
fn strip(parts: &Parts<'_>, tiles: &[u8], x: &[f32], sums: &mut [f32; SIDE]) {
    generic(parts, tiles, x, sums);
}

multiversion! {
    fn generic(parts: &Parts<'_>, tiles: &[u8], x: &[f32], sums: &mut [f32; SIDE]) = generic_lanes;
}

#[inline(always)]
fn generic_lanes(parts: &Parts<'_>, tiles: &[u8], x: &[f32], sums: &mut [f32; SIDE]) {
    let trellis = parts.form.trellis;
    let table = parts.form.table();
    let mut coded = [0; TILE];
    for (tile, x) in tiles.chunks_exact(trellis.bytes()).zip(x.as_chunks::<SIDE>().0) {
        values(tile, trellis, table, &mut coded);
        for (t, value) in coded.iter().enumerate() {
            let (r, c) = place(t);
            sums[r] += f32::from(*value) * x[c];
        }
    }
}
