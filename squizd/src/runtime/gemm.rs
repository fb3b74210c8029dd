//! A strip of decoded weights times a batch of inputs.
//!
//! Inputs are packed once for all strips: 32 of them a panel, column by column,
//! so that a register holds one column of 8 or 16 inputs. A register tile is 12
//! rows of weights by 32 inputs with AVX-512, 6 or 4 by 16 elsewhere; a column
//! costs it two loads, one broadcast per row, and products.
//!
//! Every output is one chain of multiply-adds over the columns in order,
//! whatever is computed beside it. So a token's results do not depend on the
//! batch it is in, and a prompt can be cut anywhere.
#![allow(unsafe_code, reason = "unchecked loads, and x86 intrinsics")]

use crate::simd::{Level, level};
use rayon::prelude::*;

/// Inputs of a panel.
const PANEL: usize = 32;
/// Rows of the largest register tile: strips best hold a multiple of it.
pub(super) const TILE_ROWS: usize = 12;
/// Columns packed together, so that loads and stores stay in few cache lines.
const COLUMNS: usize = 16;

/// Floats of `n` packed inputs of `k` values.
pub(super) fn packed_len(n: usize, k: usize) -> usize {
    n.next_multiple_of(PANEL) * k
}

/// Packs the inputs of `k` values each that `x` holds into `out`, which has
/// [`packed_len`] floats; zeros fill the last panel.
pub(super) fn pack(x: &[f32], k: usize, out: &mut [f32]) {
    let panel = (PANEL * k).max(1);
    out.par_chunks_exact_mut(panel).zip(x.par_chunks(panel)).for_each(|(panel, x)| {
        if x.len() < panel.len() {
            panel.fill(0.0);
        }
        for (c, panel) in panel.chunks_mut(COLUMNS * PANEL).enumerate() {
            for (i, x) in x.chunks_exact(k).enumerate() {
                for (column, value) in panel.chunks_exact_mut(PANEL).zip(&x[c * COLUMNS..]) {
                    column[i] = *value;
                }
            }
        }
    });
}

/// `c[i][j] = w_i . x_j`: `w` is `[rows, k]`, `packed` holds `n` inputs of `k`
/// values ([`pack`]), `c` is `[rows, n]`.
pub(super) fn gemm(w: &[f32], packed: &[f32], k: usize, c: &mut [f32], n: usize) {
    at(level(), w, packed, k, c, n);
}

fn at(level: Level, w: &[f32], packed: &[f32], k: usize, c: &mut [f32], n: usize) {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn avx2(w: &[f32], packed: &[f32], k: usize, c: &mut [f32], n: usize) {
        panels::<std::arch::x86_64::__m256, 6>(w, packed, k, c, n);
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,avx512f")]
    fn avx512(w: &[f32], packed: &[f32], k: usize, c: &mut [f32], n: usize) {
        panels::<std::arch::x86_64::__m512, TILE_ROWS>(w, packed, k, c, n);
    }
    match level {
        // SAFETY: callers pass a level this CPU supports.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(w, packed, k, c, n) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512(w, packed, k, c, n) },
        _ => panels::<[f32; 8], 4>(w, packed, k, c, n),
    }
}

/// A register of floats.
trait Register: Copy {
    const LANES: usize;

    fn zero() -> Self;

    /// # Safety
    /// `from` must be valid for reading [`Register::LANES`] floats.
    unsafe fn load(from: *const f32) -> Self;

    fn splat(value: f32) -> Self;

    /// `self + a * b`, fused where the level has it.
    fn add_product(self, a: Self, b: Self) -> Self;

    /// # Safety
    /// `to` must be valid for writing [`Register::LANES`] floats.
    unsafe fn store(self, to: *mut f32);
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
    fn splat(value: f32) -> Self {
        [value; 8]
    }

    #[inline(always)]
    fn add_product(mut self, a: Self, b: Self) -> Self {
        for l in 0..8 {
            self[l] = super::lanes::mul_add::<{ super::lanes::BASELINE_FMA }>(a[l], b[l], self[l]);
        }
        self
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise; any address is aligned enough.
        unsafe { to.cast::<Self>().write_unaligned(self) }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Register;
    use std::arch::x86_64 as x;

    macro_rules! register {
        ($type:ident, $lanes:literal, $zero:ident, $load:ident, $splat:ident, $fma:ident, $store:ident) => {
            impl Register for x::$type {
                const LANES: usize = $lanes;

                #[inline(always)]
                fn zero() -> Self {
                    // SAFETY: used only where the level's instructions are there.
                    unsafe { x::$zero() }
                }

                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: the caller's promise; instructions as above.
                    unsafe { x::$load(from) }
                }

                #[inline(always)]
                fn splat(value: f32) -> Self {
                    // SAFETY: used only where the level's instructions are there.
                    unsafe { x::$splat(value) }
                }

                #[inline(always)]
                fn add_product(self, a: Self, b: Self) -> Self {
                    // SAFETY: used only where the level's instructions are there.
                    unsafe { x::$fma(a, b, self) }
                }

                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: the caller's promise; instructions as above.
                    unsafe { x::$store(to, self) }
                }
            }
        };
    }

    register!(
        __m256,
        8,
        _mm256_setzero_ps,
        _mm256_loadu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps,
        _mm256_storeu_ps
    );
    register!(
        __m512,
        16,
        _mm512_setzero_ps,
        _mm512_loadu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps,
        _mm512_storeu_ps
    );
}

/// All outputs, in tiles of up to `ROWS` rows.
#[inline(always)]
fn panels<V: Register, const ROWS: usize>(w: &[f32], packed: &[f32], k: usize, c: &mut [f32], n: usize) {
    let rows = c.len().checked_div(n).unwrap_or(0);
    assert!(w.len() >= rows * k && packed.len() >= n.div_ceil(PANEL) * PANEL * k);
    // Inputs of a register tile.
    let width = 2 * V::LANES;
    for first in (0..n).step_by(width) {
        let columns = &packed[first / PANEL * PANEL * k + first % PANEL..];
        let wide = n - first > V::LANES;
        let mut row = 0;
        while row < rows {
            let left = rows - row;
            let (w, c) = (&w[row * k..], &mut c[row * n..]);
            row += match (left >= ROWS, left >= 4, wide) {
                (true, _, true) => tile::<V, ROWS, 2>(w, columns, k, c, n, first),
                (true, _, false) => tile::<V, ROWS, 1>(w, columns, k, c, n, first),
                (_, true, true) => tile::<V, 4, 2>(w, columns, k, c, n, first),
                (_, true, false) => tile::<V, 4, 1>(w, columns, k, c, n, first),
                (_, _, true) => tile::<V, 1, 2>(w, columns, k, c, n, first),
                (_, _, false) => tile::<V, 1, 1>(w, columns, k, c, n, first),
            };
        }
    }
}

/// `R` rows of `w` by the inputs of `N` registers from `first` on, which begin
/// `columns`; returns `R`.
#[inline(always)]
fn tile<V: Register, const R: usize, const N: usize>(
    w: &[f32],
    columns: &[f32],
    k: usize,
    c: &mut [f32],
    n: usize,
    first: usize,
) -> usize {
    assert!(w.len() >= R * k && (k == 0 || columns.len() >= (k - 1) * PANEL + N * V::LANES));
    let mut sums = [[V::zero(); N]; R];
    for p in 0..k {
        // SAFETY: p < k; `w` has R rows of k floats, and column p of the inputs
        // begins at p * PANEL, both by the assertion.
        unsafe {
            let x: [V; N] = std::array::from_fn(|j| V::load(columns.as_ptr().add(p * PANEL + j * V::LANES)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let w = V::splat(*w.as_ptr().add(r * k + p));
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = sum.add_product(w, x);
                }
            }
        }
    }
    let mut out = [0.0; PANEL];
    let count = (n - first).min(N * V::LANES);
    for (sums, c) in sums.into_iter().zip(c.chunks_mut(n)) {
        for (j, sum) in sums.into_iter().enumerate() {
            assert!((j + 1) * V::LANES <= PANEL);
            // SAFETY: the register's place ends within `out` by the assertion.
            unsafe { sum.store(out.as_mut_ptr().add(j * V::LANES)) };
        }
        c[first..first + count].copy_from_slice(&out[..count]);
    }
    R
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic values in [-1, 1).
    fn values(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn product(level: Level, w: &[f32], x: &[f32], k: usize) -> Vec<f32> {
        let n = x.len() / k;
        let mut packed = vec![f32::NAN; packed_len(n, k)];
        pack(x, k, &mut packed);
        let mut c = vec![f32::NAN; w.len() / k * n];
        at(level, w, &packed, k, &mut c, n);
        c
    }

    #[test]
    fn every_level_multiplies_every_ragged_shape() {
        for (rows, n, k) in [
            (1, 1, 1),
            (4, 3, 8),
            (5, 4, 17),
            (9, 7, 64),
            (3, 2, 7),
            (8, 33, 40),
            (29, 49, 33),
            (25, 70, 100),
        ] {
            let (w, x) = (values(rows * k, 1), values(n * k, 2));
            for level in Level::supported() {
                let c = product(level, &w, &x, k);
                for i in 0..rows {
                    for j in 0..n {
                        let exact: f64 = (0..k).map(|p| w[i * k + p] as f64 * x[j * k + p] as f64).sum();
                        assert!(
                            (c[i * n + j] as f64 - exact).abs() < 3e-5,
                            "{level} {rows}x{n}x{k} at {i},{j}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn an_input_does_not_depend_on_its_batch() {
        let (rows, n, k) = (29, 70, 65);
        let (w, x) = (values(rows * k, 3), values(n * k, 4));
        for level in Level::supported() {
            let whole = product(level, &w, &x, k);
            for (from, to) in [(0, 1), (0, 16), (3, 20), (17, 70), (69, 70)] {
                let part = product(level, &w[k..], &x[from * k..to * k], k);
                for (i, part) in part.chunks(to - from).enumerate() {
                    for (a, b) in part.iter().zip(&whole[(i + 1) * n + from..]) {
                        assert_eq!(a.to_bits(), b.to_bits(), "{level}");
                    }
                }
            }
        }
    }
}
