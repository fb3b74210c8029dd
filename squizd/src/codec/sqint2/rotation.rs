//! The orthogonal rotation of a row's columns that makes weights Gaussian.
//!
//! For n columns and blocks of B = 2^b <= n, with H the Hadamard matrix of
//! order B in natural order, c = B^-1/2, and signs from the seed,
//!
//! ```text
//! R = T M,   M = diag(c H, ..., c H, I) diag(signs)
//!            T = diag(I, c H diag(tail signs))       where B does not divide n, else I
//! ```
//!
//! M covers the first floor(n / B) B columns, T the last B: every width is
//! rotated as a whole, and nothing is padded. (Without signs of its own T would
//! undo part of M where both overlap.) Weights are stored as `W R^T`, and a
//! product is `W x = (W R^T) (R x)`.

use crate::simd::multiversion;
use std::ops::{Add, Mul, Neg, Sub};

/// Added to the index of the words that give the tail's signs.
const TAIL_WORDS: u64 = 1 << 32;

/// A rotation of rows of a certain width. It holds no signs: they are made where
/// they are applied, so that using one takes no memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rotation {
    cols: usize,
    block: usize,
    /// c.
    unit: f32,
    seed: u64,
}

/// Signs of 64 columns, from the lowest bit: word `i` of the SplitMix64 sequence
/// that starts at `seed`.
#[inline(always)]
fn signs(seed: u64, i: u64) -> u64 {
    let mut z = seed.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rotation {
    /// The rotation of `cols` columns in blocks of `2^log_block`.
    pub(super) fn new(cols: usize, log_block: u8, seed: u64) -> Self {
        let block = 1usize << log_block;
        // Exact but for the last bit of an odd power's square root.
        let unit = libm::sqrt(1.0 / block as f64) as f32;
        Self { cols, block, unit, seed }
    }

    /// The block for rows of `cols` columns: all of them up to 4096, whose
    /// floats fill the 16 KiB of workgroup memory that every GPU has. (Against
    /// 256, a large block costs nothing and spreads single outliers further.)
    pub(super) fn log_block(cols: u64) -> u8 {
        cols.max(1).ilog2().min(u32::from(squizd_spec::sqint::MAX_LOG_BLOCK)) as u8
    }

    /// Columns.
    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// `R x` in place.
    pub(super) fn forward(&self, x: &mut [f32]) {
        forward_f32(self, x);
    }

    /// `R x` in place.
    pub(super) fn forward_f64(&self, x: &mut [f64]) {
        forward_f64(self, x);
    }

    /// `gain R^T y` in place, with the format's exact rounding: the tail's
    /// butterflies, its unit, its signs; the blocks' butterflies; then one
    /// product with `gain` times the unit (or with `gain`, where no block is).
    pub(super) fn inverse(&self, y: &mut [f32], gain: f32) {
        inverse_f32(self, y, gain);
    }

    /// c, and the signs as bits, for kernels on a device: of all columns in whole
    /// words, then of the tail block.
    #[cfg(feature = "gpu")]
    pub(super) fn bits(&self) -> (f32, Vec<u32>) {
        let words = |first: u64, count: usize| {
            (0..count.div_ceil(32) as u64)
                .map(move |i| (signs(self.seed, first + i / 2) >> (32 * (i % 2))) as u32)
        };
        let tail = self.cols - self.tail_start();
        (self.unit, words(0, self.cols).chain(words(TAIL_WORDS, tail)).collect())
    }

    /// Start of the tail block; the end where the block divides the width.
    fn tail_start(&self) -> usize {
        if self.cols.is_multiple_of(self.block) { self.cols } else { self.cols.saturating_sub(self.block) }
    }

    /// Columns that M's blocks cover.
    fn covered(&self) -> usize {
        self.cols / self.block * self.block
    }
}

multiversion! {
    fn forward_f32(rotation: &Rotation, x: &mut [f32]) = forward_lanes::<f32>;
}

multiversion! {
    fn forward_f64(rotation: &Rotation, x: &mut [f64]) = forward_lanes::<f64>;
}

multiversion! {
    fn inverse_f32(rotation: &Rotation, y: &mut [f32], gain: f32) = inverse_lanes;
}

/// A float the butterflies work on.
trait Real:
    Copy + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + Neg<Output = Self> + From<f32>
{
}
impl Real for f32 {}
impl Real for f64 {}

#[inline(always)]
fn flip<T: Real>(x: &mut [T], seed: u64, first: u64) {
    for (word, x) in (first..).zip(x.chunks_mut(64)) {
        let signs = signs(seed, word);
        for (j, x) in x.iter_mut().enumerate() {
            *x = if signs >> j & 1 == 0 { *x } else { -*x };
        }
    }
}

#[inline(always)]
fn scale<T: Real>(x: &mut [T], factor: T) {
    for x in x {
        *x = *x * factor;
    }
}

#[inline(always)]
fn forward_lanes<T: Real>(rotation: &Rotation, x: &mut [T]) {
    let Rotation { block, unit, seed, .. } = rotation;
    flip(x, *seed, 0);
    for x in x.chunks_exact_mut(*block) {
        butterflies(x);
        scale(x, T::from(*unit));
    }
    let tail = &mut x[rotation.tail_start()..];
    if !tail.is_empty() {
        flip(tail, *seed, TAIL_WORDS);
        butterflies(tail);
        scale(tail, T::from(*unit));
    }
}

#[inline(always)]
fn inverse_lanes(rotation: &Rotation, y: &mut [f32], gain: f32) {
    let Rotation { block, unit, seed, .. } = rotation;
    let tail = &mut y[rotation.tail_start()..];
    if !tail.is_empty() {
        butterflies(tail);
        scale(tail, *unit);
        flip(tail, *seed, TAIL_WORDS);
    }
    let (blocks, rest) = y.split_at_mut(rotation.covered());
    for y in blocks.chunks_exact_mut(*block) {
        butterflies(y);
    }
    scale(blocks, gain * unit);
    scale(rest, gain);
    flip(y, *seed, 0);
}

/// `H x` in place: (a + b, a - b) at distances 1, 2, 4, ...
#[inline(always)]
fn butterflies<T: Real>(x: &mut [T]) {
    let mut distance = 1;
    if x.len() >= 8 {
        for x in x.as_chunks_mut::<8>().0 {
            let [a, b, c, d, e, f, g, h] = *x;
            let [a, b, c, d, e, f, g, h] = [a + b, a - b, c + d, c - d, e + f, e - f, g + h, g - h];
            let [a, b, c, d, e, f, g, h] = [a + c, b + d, a - c, b - d, e + g, f + h, e - g, f - h];
            *x = [a + e, b + f, c + g, d + h, a - e, b - f, c - g, d - h];
        }
        distance = 8;
    }
    while distance < x.len() {
        for pair in x.chunks_exact_mut(2 * distance) {
            let (low, high) = pair.split_at_mut(distance);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        distance *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::testing::gaussian;

    #[test]
    fn rotations_are_orthogonal_for_any_width() {
        for cols in [1usize, 2, 3, 7, 8, 9, 16, 31, 64, 100, 576, 1000, 4097, 5000] {
            let rotation = Rotation::new(cols, Rotation::log_block(cols as u64), 7);
            let x = gaussian(cols, cols as u64);
            let mut y = x.clone();
            rotation.forward(&mut y);
            let energy = |v: &[f32]| v.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
            assert!((energy(&x) / energy(&y) - 1.0).abs() < 1e-5, "{cols}");
            let mut wide: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
            rotation.forward_f64(&mut wide);
            assert!(wide.iter().zip(&y).all(|(a, b)| (a - f64::from(*b)).abs() < 1e-4));
            rotation.inverse(&mut y, 2.0);
            for (x, y) in x.iter().zip(&y) {
                assert!((2.0 * x - y).abs() < 1e-4, "{cols}: {x} {y}");
            }
        }
    }

    #[test]
    fn one_outlier_spreads_over_all_columns_even_where_blocks_overlap() {
        for cols in [520usize, 576, 768, 1023] {
            let rotation = Rotation::new(cols, 9, 3);
            for at in (0..cols).step_by(37) {
                let mut x = vec![0.0; cols];
                x[at] = 1.0;
                rotation.forward(&mut x);
                let peak = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                assert!(peak < 0.4, "{cols} {at}: {peak}");
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_instructions() {
        for cols in [96usize, 576, 1000] {
            let rotation = Rotation::new(cols, Rotation::log_block(cols as u64), 1);
            let x = gaussian(cols, 5);
            let run = || {
                let (mut a, mut b) = (x.clone(), x.clone());
                rotation.forward(&mut a);
                rotation.inverse(&mut b, 0.7);
                a.iter().chain(&b).map(|v| v.to_bits()).collect::<Vec<_>>()
            };
            crate::simd::force(crate::simd::Level::Scalar).unwrap();
            let expected = run();
            for level in crate::simd::Level::supported() {
                crate::simd::force(level).unwrap();
                assert!(run() == expected, "{level}");
            }
        }
    }
}
