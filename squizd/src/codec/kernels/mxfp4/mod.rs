//! MXFP4 rows times a vector: `sum over groups of s/2 sum(2q x)`, with doubled
//! elements, which are signed bytes, and halved scales.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::Rows;
use crate::codec::activation::{Activation, Precision};
use crate::codec::mxfp4::{DOUBLED, half_scale};
use crate::simd::Level;

pub(super) fn at(level: Level, x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) {
    match (super::mxfp4_kernel(x.precision(), level).level, x.precision()) {
        // SAFETY: callers pass a level this CPU supports.
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512, Precision::Q8) => unsafe { avx512::q8(x, rows, y) },
        // SAFETY: callers pass a level this CPU supports.
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512, Precision::F32) => unsafe { avx512::f32(x.x(), rows, y) },
        // SAFETY: callers pass a level this CPU supports.
        #[cfg(target_arch = "x86_64")]
        (Level::Avx2, Precision::Q8) => unsafe { x86::q8(x, rows, y) },
        // SAFETY: callers pass a level this CPU supports.
        #[cfg(target_arch = "x86_64")]
        (Level::Avx2, Precision::F32) => unsafe { x86::f32(x.x(), rows, y) },
        // SAFETY: callers pass a level this CPU supports.
        #[cfg(target_arch = "aarch64")]
        (Level::Neon, Precision::Q8) => unsafe { neon::q8(x, rows, y) },
        // SAFETY: callers pass a level this CPU supports.
        #[cfg(target_arch = "aarch64")]
        (Level::Neon, Precision::F32) => unsafe { neon::f32(x.x(), rows, y) },
        (_, Precision::Q8) => generic_q8(x, rows, y),
        (_, Precision::F32) => generic_f32(x.x(), rows, y),
    }
}

/// Sums `s/2 dot(group, codes)` over the groups of each row.
#[inline(always)]
fn each_row(rows: Rows<'_>, y: &mut [f32], dot: impl Fn(usize, &[u8; 16]) -> f32) {
    for (y, (codes, scales)) in y.iter_mut().zip(rows.iter()) {
        let groups = codes.as_chunks::<16>().0.iter().zip(scales);
        *y = groups.enumerate().map(|(i, (codes, s))| half_scale(*s) * dot(i, codes)).sum();
    }
}

/// The reference in floats.
fn generic_f32(x: &[f32], rows: Rows<'_>, y: &mut [f32]) {
    let (groups, tail) = whole_groups(x);
    each_row(rows, y, |i, codes| {
        let x = groups.get(i).unwrap_or(&tail);
        let mut sum = [0.0; 8];
        for j in 0..16 {
            sum[j % 8] += element(codes[j] & 15) * x[j] + element(codes[j] >> 4) * x[j + 16];
        }
        sum.iter().sum()
    });
}

/// The reference by the 8-bit form of `x`.
fn generic_q8(x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) {
    let q = x.quantized();
    let groups = q.codes.as_chunks::<32>().0;
    each_row(rows, y, |i, codes| {
        let (Some(x), Some(scale)) = (groups.get(i), q.scales.get(i)) else { return 0.0 };
        let mut sum = 0i32;
        for j in 0..16 {
            let (low, high) = (DOUBLED[usize::from(codes[j] & 15)], DOUBLED[usize::from(codes[j] >> 4)]);
            sum += i32::from(low) * i32::from(x[j]) + i32::from(high) * i32::from(x[j + 16]);
        }
        scale * sum as f32
    });
}

/// Twice the element of a 4-bit code.
#[inline(always)]
fn element(code: u8) -> f32 {
    f32::from(DOUBLED[usize::from(code & 15)])
}

/// `x` in groups of 32, and what is left padded with zeros.
#[inline(always)]
fn whole_groups(x: &[f32]) -> (&[[f32; 32]], [f32; 32]) {
    let (groups, rest) = x.as_chunks::<32>();
    let mut tail = [0.0; 32];
    for (t, x) in tail.iter_mut().zip(rest) {
        *t = *x;
    }
    (groups, tail)
}
