//! Stored weights times a vector: `W x = (W R^T) (R x)`.
//!
//! The activation is rotated once, in O(n log n), for all matrices that share
//! it and for all their tasks; both precisions use it in binary32.

use super::decode::Parts;
use super::form::Coding;
use super::levels::{self, GROUP};
use super::tile::{SIDE, TILE, Trellis, place, values};
use crate::codec::{Activation, Encoded};
use crate::simd::multiversion;
use std::ops::Range;

/// `y[i] = dot(row rows.start + i, x)`; NaN where sizes do not go together.
pub(super) fn rows(tensor: &Encoded<'_>, x: &Activation<'_>, rows: Range<u64>, y: &mut [f32]) {
    let cols = tensor.matrix.cols as usize;
    let parts = Parts::of(tensor, &rows, y.len(), 1).ok().filter(|_| x.x().len() == cols && cols > 0);
    let Some(parts) = parts else {
        y.fill(f32::NAN);
        return;
    };
    let rotated = x.rotated(parts.form.rotation_key(), |x| {
        let mut rotated = x.to_vec();
        parts.form.rotation(cols).forward(&mut rotated);
        // Zeros for what pads tiles and groups.
        rotated.resize(cols.next_multiple_of(GROUP), 0.0);
        rotated
    });
    let mut y = y.iter_mut();
    match parts.form.coding {
        Coding::Levels => {
            for (row, y) in rows.zip(y) {
                *y = levels::dot(&parts, row, &rotated);
            }
        }
        Coding::Trellis { trellis, .. } => {
            for (wanted, tiles) in parts.strips(trellis, rows) {
                let mut sums = [0.0; SIDE];
                strip(&parts, trellis, tiles, &rotated, &mut sums);
                for (row, y) in wanted.zip(y.by_ref()) {
                    *y = parts.scale(row, 0) * sums[(row % SIDE as u64) as usize];
                }
            }
        }
    }
}

/// Sums of table values times the rotated input.
#[allow(unsafe_code, reason = "calls a kernel for the level in use")]
fn strip(parts: &Parts<'_>, trellis: Trellis, tiles: &[u8], x: &[f32], sums: &mut [f32; SIDE]) {
    #[cfg(target_arch = "x86_64")]
    if super::trellis_kernel(crate::simd::level()).level == crate::simd::Level::Avx2 {
        // SAFETY: the level is only ever one this CPU supports; both have AVX2 and FMA.
        unsafe { super::gather::product(trellis, parts.form.floats(), tiles, x, sums) };
        return;
    }
    generic(trellis, parts.form.table(), tiles, x, sums);
}

multiversion! {
    fn generic(trellis: Trellis, table: &[i8], tiles: &[u8], x: &[f32], sums: &mut [f32; SIDE]) = generic_lanes;
}

#[inline(always)]
fn generic_lanes(trellis: Trellis, table: &[i8], tiles: &[u8], x: &[f32], sums: &mut [f32; SIDE]) {
    let mut coded = [0; TILE];
    for (tile, x) in tiles.chunks_exact(trellis.bytes()).zip(x.as_chunks::<SIDE>().0) {
        values(tile, trellis, table, &mut coded);
        for (t, value) in coded.iter().enumerate() {
            let (r, c) = place(t);
            sums[r] += f32::from(*value) * x[c];
        }
    }
}
