//! Dot products of every row of one `f32` matrix with every row of another.
//!
//! Three rows of weights meet four inputs at a time: twelve sums, three weights
//! and an input fill AVX2's sixteen registers; seven loads per twelve fused
//! multiply-adds, no packing.
#![allow(clippy::needless_range_loop, reason = "one index runs over several arrays of lanes")]
#![allow(unsafe_code)] // unchecked loads, and x86 intrinsics
#![allow(clippy::wildcard_imports, reason = "intrinsics")]

use crate::simd::{Level, level};

/// Weight rows and inputs of a register tile.
const M: usize = 3;
const N: usize = 4;

/// A register of floats.
trait Register: Copy {
    const LANES: usize;

    fn zero() -> Self;

    /// # Safety
    /// `from` must be valid for reading [`Register::LANES`] floats.
    unsafe fn load(from: *const f32) -> Self;

    /// `self + a * b`, fused where the level has it.
    fn add_product(self, a: Self, b: Self) -> Self;

    fn sum(self) -> f32;
}

impl Register for [f32; 8] {
    const LANES: usize = 8;

    #[inline(always)]
    fn zero() -> Self {
        [0.0; 8]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise; any address is aligned enough.
        unsafe { from.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    fn add_product(mut self, a: Self, b: Self) -> Self {
        for l in 0..8 {
            // AArch64's baseline fuses; x86-64's would call a function.
            self[l] = if cfg!(target_arch = "aarch64") {
                a[l].mul_add(b[l], self[l])
            } else {
                self[l] + a[l] * b[l]
            };
        }
        self
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        self.iter().sum()
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Register;
    use std::arch::x86_64::*;

    impl Register for __m256 {
        const LANES: usize = 8;

        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: used only where AVX2 and FMA are available.
            unsafe { _mm256_setzero_ps() }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's promise; AVX2 as above.
            unsafe { _mm256_loadu_ps(from) }
        }

        #[inline(always)]
        fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: used only where AVX2 and FMA are available.
            unsafe { _mm256_fmadd_ps(a, b, self) }
        }

        #[inline(always)]
        fn sum(self) -> f32 {
            crate::codec::kernels::x86::sum(self)
        }
    }

    impl Register for __m512 {
        const LANES: usize = 16;

        #[inline(always)]
        fn zero() -> Self {
            // SAFETY: used only where AVX-512 is available.
            unsafe { _mm512_setzero_ps() }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's promise; AVX-512 as above.
            unsafe { _mm512_loadu_ps(from) }
        }

        #[inline(always)]
        fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: used only where AVX-512 is available.
            unsafe { _mm512_fmadd_ps(a, b, self) }
        }

        #[inline(always)]
        fn sum(self) -> f32 {
            // SAFETY: used only where AVX-512 is available.
            unsafe { _mm512_reduce_add_ps(self) }
        }
    }
}

/// `out[t][r] = dot(w[r], x[t])`: `w` holds rows of `cols` floats, `x` inputs
/// of `cols` floats; `cols` is not 0.
pub(in crate::codec) fn dot_tile(w: &[f32], x: &[f32], cols: usize, out: &mut [f32]) {
    dot_tile_at(level(), w, x, cols, out);
}

fn dot_tile_at(level: Level, w: &[f32], x: &[f32], cols: usize, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn avx2(w: &[f32], x: &[f32], cols: usize, out: &mut [f32]) {
        tiles::<std::arch::x86_64::__m256>(w, x, cols, out);
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,avx512f")]
    fn avx512(w: &[f32], x: &[f32], cols: usize, out: &mut [f32]) {
        tiles::<std::arch::x86_64::__m512>(w, x, cols, out);
    }
    match level {
        // SAFETY: callers pass a level this CPU supports.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(w, x, cols, out) },
        // SAFETY: callers pass a level this CPU supports.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512(w, x, cols, out) },
        _ => tiles::<[f32; 8]>(w, x, cols, out),
    }
}

#[inline(always)]
fn tiles<V: Register>(w: &[f32], x: &[f32], cols: usize, out: &mut [f32]) {
    let width = w.len() / cols;
    for (i, w) in w.chunks(M * cols).enumerate() {
        for (x, out) in x.chunks(N * cols).zip(out.chunks_mut(N * width)) {
            if w.len() == M * cols && x.len() == N * cols {
                tile::<V, M, N>(w, x, cols, width, i * M, out);
                continue;
            }
            for (m, w) in w.chunks_exact(cols).enumerate() {
                for (x, out) in x.chunks_exact(cols).zip(out.chunks_mut(width)) {
                    tile::<V, 1, 1>(w, x, cols, width, i * M + m, out);
                }
            }
        }
    }
}

/// One register tile: `A` rows of `w` from output column `first`, `B` inputs.
#[inline(always)]
fn tile<V: Register, const A: usize, const B: usize>(
    w: &[f32],
    x: &[f32],
    cols: usize,
    width: usize,
    first: usize,
    out: &mut [f32],
) {
    assert!(w.len() == A * cols && x.len() == B * cols);
    let mut sums = [[V::zero(); A]; B];
    let whole = cols / V::LANES * V::LANES;
    for k in (0..whole).step_by(V::LANES) {
        // SAFETY: k + LANES <= cols, and w and x hold A and B rows of cols.
        unsafe {
            let w: [V; A] = std::array::from_fn(|a| V::load(w.as_ptr().add(a * cols + k)));
            for b in 0..B {
                let x = V::load(x.as_ptr().add(b * cols + k));
                for a in 0..A {
                    sums[b][a] = sums[b][a].add_product(w[a], x);
                }
            }
        }
    }
    for (b, (sums, x)) in sums.iter().zip(x.chunks_exact(cols)).enumerate() {
        for (a, (sum, w)) in sums.iter().zip(w.chunks_exact(cols)).enumerate() {
            let tail: f32 = w[whole..].iter().zip(&x[whole..]).map(|(w, x)| w * x).sum();
            if let Some(out) = out.get_mut(b * width + first + a) {
                *out = sum.sum() + tail;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::testing::gaussian;

    #[test]
    fn every_level_multiplies_odd_shapes() {
        for (rows, n, cols) in [(1, 1, 1), (4, 3, 16), (5, 4, 33), (7, 8, 100), (12, 9, 257)] {
            let (w, x) = (gaussian(rows * cols, 1), gaussian(n * cols, 2));
            for level in Level::supported() {
                let mut out = vec![f32::NAN; n * rows];
                dot_tile_at(level, &w, &x, cols, &mut out);
                for t in 0..n {
                    for r in 0..rows {
                        let (w, x) = (&w[r * cols..(r + 1) * cols], &x[t * cols..(t + 1) * cols]);
                        let exact: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                        let y = f64::from(out[t * rows + r]);
                        assert!((y - exact).abs() < 1e-4, "{level} {rows}x{n}x{cols}: {y} {exact}");
                    }
                }
            }
        }
    }
}
