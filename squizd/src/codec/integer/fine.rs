//! The fine layout, `bits + 0.5` per weight like the compact one, with the same
//! bytes spent otherwise: 256-weight superblocks with f16 `d` and `dmin`, and
//! per group of 16 a 3-bit scale `sc` and min `m`. With `h = (2^bits - 1) / 2`
//! and the scale bias `c` of the tensor:
//!
//! ```text
//! w = (d (sc + c)) (q - h) - dmin (m - 3.5)
//! ```
//!
//! Groups half as long follow the weights more closely than finer scales do.
//! The bias puts the eight scales where those of one superblock lie (c = 6:
//! between 6/13 of the largest and all of it), and since `m` is centred
//! between two values its eight steps are used evenly. On Gaussian weights, in
//! dB at 2.5, 3.5 and 4.5 bits:
//!
//! | | 2 | 3 | 4 |
//! |---|---|---|---|
//! | compact, nearest scales | 10.54 | 16.77 | 23.09 |
//! | fine, nearest scales, c = 0 | 11.3 | 17.0 | 22.4 |
//! | fine, nearest scales, c = 6 | 11.46 | 17.48 | 22.89 |
//! | and `d`, `dmin` from the grid | 11.54 | 17.69 | 23.20 |
//! | and two rounds of search | 11.60 | 17.91 | 23.83 |
//!
//! Six steps of eight bits each (16 x 6 = 96) are too few to be rounded one by
//! one, hence the search: `d` and `dmin` are tried on a grid below the values
//! that reach all groups, then every group tries the neighbours of its scale
//! and min, and `d` and `dmin` are refitted by least squares to all codes.
#![allow(clippy::needless_range_loop, reason = "one index runs over several arrays of lanes")]

use super::fit::{Attempt, Fit, Groups, Quantizer};
use super::unit::{Half, Unit, head};
use crate::codec::half_float::f16_to_f32;
use crate::codec::lanes::{F32x8, LANES, Lanes, at_each_level, exp2i};
use crate::codec::panel::{Block, ROWS, factor};

/// Weights of a group.
pub(super) const GROUP: usize = 16;
/// Groups of a superblock.
pub(in crate::codec) const GROUPS: usize = 16;
/// Largest 3-bit value.
const TOP: f32 = 7.0;
/// What is subtracted from mins.
const MIN_BIAS: f32 = 3.5;
/// `d` over the one that reaches the largest scale, and `dmin` likewise.
const D_STEPS: [f32; 4] = [1.0, 0.95, 0.9, 0.85];
const DMIN_STEPS: [f32; 4] = [1.0, 0.8, 0.65, 0.5];
/// Rounds of search; a third would gain 0.02 dB at 4 bits.
const ROUNDS: usize = 2;

/// What the tensor's parameters say about superblocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::codec) struct Fine {
    /// Subtracted from codes: half of the largest.
    pub(in crate::codec) code_bias: f32,
    /// Added to scales.
    pub(in crate::codec) scale_bias: f32,
    /// `d` and `dmin` are multiplied by 2 to this.
    pub(in crate::codec) exponent: i32,
}

/// Scales and mins of eight groups before biases are taken off, in units of
/// `d` and `dmin`, and what they come to.
#[derive(Clone, Copy)]
struct Choice<V> {
    scale: V,
    min: V,
    attempt: Attempt<V>,
}

/// A superblock's `d` and `dmin` with the choices of its two halves.
struct Superblock<V> {
    d: Half,
    dmin: Half,
    halves: [Choice<V>; 2],
}

/// Chosen scales: as stored, and as the codes of both halves see them.
pub(super) struct Scales {
    pub(super) words: u128,
    pub(super) scale: [F32x8; 2],
    pub(super) minus: [F32x8; 2],
    pub(super) overflow: bool,
}

impl Fine {
    /// The layout of codes of `bits` under the parameter bytes `scale bias`
    /// and `exponent`.
    pub(super) fn new(bits: u32, scale_bias: u8, exponent: u8) -> Self {
        Self {
            code_bias: super::fit::top(bits) / 2.0,
            scale_bias: f32::from(scale_bias),
            exponent: i32::from(exponent.cast_signed()),
        }
    }

    /// Scale and subtrahend of each group of a stored superblock (its 8 to 16
    /// bytes; missing bytes read as 0).
    #[inline(always)]
    pub(in crate::codec) fn unpack(self, stored: &[u8]) -> ([f32; GROUPS], [f32; GROUPS]) {
        let (d, dmin, entries) = head(stored, self.exponent);
        let (mut scales, mut minuses) = ([0.0; GROUPS], [0.0; GROUPS]);
        for g in 0..GROUPS {
            let entry = (entries >> (6 * g)) as u32;
            scales[g] = d * ((entry & 7) as f32 + self.scale_bias);
            minuses[g] = dmin * ((entry >> 3 & 7) as f32 - MIN_BIAS);
        }
        (scales, minuses)
    }

    /// Scales of blocks of 32 from a superblock of each of a panel's rows, as
    /// [`Fine::unpack`] reads it: `d` is the scale, scales in units of it are
    /// factors. All rows take each step together.
    #[inline(always)]
    pub(super) fn put_scales(self, stored: &[[u8; 16]; ROWS], blocks: &mut [Block]) {
        let mut words = [[0; ROWS]; 4];
        for (r, stored) in stored.iter().enumerate() {
            for (words, bytes) in words.iter_mut().zip(stored.as_chunks::<4>().0) {
                words[r] = u32::from_le_bytes(*bytes);
            }
        }
        let unit = exp2i(self.exponent);
        let d = words[0].map(|head| f16_to_f32(head as u16) * unit);
        let dmin = words[0].map(|head| f16_to_f32((head >> 16) as u16) * unit);
        let bias = self.scale_bias as u32;
        for (b, block) in blocks.iter_mut().enumerate().take(GROUPS / 2) {
            block.scales = d;
            for h in 0..2 {
                // Bits 32 + 6 g and on, in one word or two.
                let bit = 6 * (2 * b + h);
                let (word, shift) = (1 + bit / 32, bit % 32);
                let (low, high) = (&words[word], &words[(word + 1).min(3)]);
                for r in 0..ROWS {
                    let pair = u64::from(low[r]) | u64::from(high[r]) << 32;
                    let entry = (pair >> shift) as u32;
                    let scale = (entry & 7) + bias;
                    let min = dmin[r] * ((entry >> 3 & 7) as f32 - MIN_BIAS);
                    block.factors[h][r] = factor(scale);
                    block.minus[h][r] = self.code_bias * (d[r] * scale as f32) + min;
                }
            }
        }
    }

    /// The largest scale in units of `d`.
    pub(super) fn largest_scale(self) -> f32 {
        TOP + self.scale_bias
    }

    /// Scales and mins of a superblock of codes of `bits`, in the groups'
    /// normalised units; both halves have the same.
    pub(super) fn choose(self, halves: &mut [Groups; 2], bits: u32) -> Scales {
        let [first, second] = halves;
        let fits = [first.fit(bits, false), second.fit(bits, false)];
        let quantizer = Quantizer { top: super::fit::top(bits), bias: self.code_bias };
        search(self, halves, &fits, quantizer)
    }

    /// The best of the grid of `d` and `dmin`, scales and mins the nearest.
    #[inline(always)]
    fn begin<V: Lanes>(
        self,
        halves: &[Groups; 2],
        fits: &[Fit; 2],
        quantizer: Quantizer,
        unit: Unit,
    ) -> Superblock<V> {
        let (mut peak, mut reach) = (0.0f32, 0.0f32);
        for fit in fits {
            let scale = V::load(&fit.scale);
            let min = scale * V::splat(-self.code_bias) - fit.offset(scale);
            peak = peak.max(fit.scale.max_lane());
            reach = reach.max(min.abs().store().max_lane());
        }
        let (mut d, mut dmin) = ([Half::default(); D_STEPS.len()], [Half::default(); DMIN_STEPS.len()]);
        for (d, step) in d.iter_mut().zip(D_STEPS) {
            *d = unit.store(step * peak / (TOP + self.scale_bias));
        }
        for (dmin, step) in dmin.iter_mut().zip(DMIN_STEPS) {
            *dmin = unit.store(step * reach / MIN_BIAS);
        }
        let mut least = f32::INFINITY;
        let mut best = (d[0], dmin[0]);
        for d in d {
            for dmin in dmin {
                let mut errors = [V::zero(); 2];
                for h in 0..2 {
                    let (scale, min) = self.nearest::<V>(&fits[h], d, dmin);
                    let (s, m) = (scale * V::splat(d.value), min * V::splat(dmin.value));
                    errors[h] = halves[h].error::<V>(s, m, quantizer);
                }
                let error = total(errors);
                if error < least {
                    (least, best) = (error, (d, dmin));
                }
            }
        }
        let (d, dmin) = best;
        let (first, second) = (self.nearest::<V>(&fits[0], d, dmin), self.nearest::<V>(&fits[1], d, dmin));
        let choices = [
            Self::attempt(&halves[0], first.0, first.1, quantizer, d, dmin),
            Self::attempt(&halves[1], second.0, second.1, quantizer, d, dmin),
        ];
        Superblock { d, dmin, halves: choices }
    }

    /// Scales and mins nearest to those fitted.
    #[inline(always)]
    fn nearest<V: Lanes>(self, fit: &Fit, d: Half, dmin: Half) -> (V, V) {
        let scale = self.nearest_scale(V::load(&fit.scale) * V::splat(d.value).recip_or_zero());
        let codes = V::load(&fit.mean_code) - V::splat(self.code_bias);
        (scale, nearest_min(Self::wanted_min(fit, scale, codes, d, dmin)))
    }

    /// The scale in units of `d` nearest to `x`.
    #[inline(always)]
    fn nearest_scale<V: Lanes>(self, x: V) -> V {
        x.min(V::splat(TOP + self.scale_bias)).round().max(V::splat(self.scale_bias))
    }

    /// The min that puts mean code (relative to its bias) and mean weight together.
    #[inline(always)]
    fn wanted_min<V: Lanes>(fit: &Fit, scale: V, mean_code: V, d: Half, dmin: Half) -> V {
        (scale * V::splat(d.value) * mean_code - V::load(&fit.mean)) * V::splat(dmin.value).recip_or_zero()
    }

    #[inline(always)]
    fn attempt<V: Lanes>(
        groups: &Groups,
        scale: V,
        min: V,
        quantizer: Quantizer,
        d: Half,
        dmin: Half,
    ) -> Choice<V> {
        let (s, m) = (scale * V::splat(d.value), min * V::splat(dmin.value));
        Choice { scale, min, attempt: groups.attempt::<V>(s, m, quantizer) }
    }

    /// The best choice among the neighbouring scales and mins of `from`.
    #[inline(always)]
    fn neighbours<V: Lanes>(
        self,
        groups: &Groups,
        fit: &Fit,
        from: &Choice<V>,
        quantizer: Quantizer,
        d: Half,
        dmin: Half,
    ) -> Choice<V> {
        let mean_code = from.attempt.codes / groups.counts::<V>();
        let (mut scale, mut min, mut least) = (from.scale, from.min, from.attempt.error);
        for scale_step in [-1.0, 0.0, 1.0] {
            let next_scale = self.nearest_scale(from.scale + V::splat(scale_step));
            let wanted = Self::wanted_min(fit, next_scale, mean_code, d, dmin);
            for min_step in [-1.0, 0.0, 1.0] {
                let next_min = nearest_min(wanted + V::splat(min_step));
                let (s, m) = (next_scale * V::splat(d.value), next_min * V::splat(dmin.value));
                let error = groups.error::<V>(s, m, quantizer);
                scale = error.select_lt(least, next_scale, scale);
                min = error.select_lt(least, next_min, min);
                least = error.select_lt(least, error, least);
            }
        }
        Self::attempt(groups, scale, min, quantizer, d, dmin)
    }

    /// Takes `d` and `dmin` by least squares for the codes, scales and mins of
    /// `best`, if that lowers the error: with `a = scale q` and `b = -min`,
    /// `w ~ d a + dmin b`.
    #[inline(always)]
    fn refit<V: Lanes>(
        halves: &[Groups; 2],
        fits: &[Fit; 2],
        best: &mut Superblock<V>,
        quantizer: Quantizer,
        unit: Unit,
    ) {
        let (mut aa, mut bb, mut ab, mut aw, mut bw) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for h in 0..2 {
            let Choice { scale, min, attempt } = best.halves[h];
            let count = halves[h].counts::<V>();
            aa += (scale * scale * attempt.squares).store().sum_f64();
            bb += (min * min * count).store().sum_f64();
            ab -= (scale * min * attempt.codes).store().sum_f64();
            aw += (scale * attempt.products).store().sum_f64();
            bw -= (min * count * V::load(&fits[h].mean)).store().sum_f64();
        }
        let determinant = aa * bb - ab * ab;
        if determinant <= 1e-9 * aa * bb {
            return;
        }
        let d = unit.store(((aw * bb - bw * ab) / determinant) as f32);
        let dmin = unit.store(((bw * aa - aw * ab) / determinant) as f32);
        if d.value <= 0.0 || d.overflows() || dmin.overflows() {
            return;
        }
        let mut choices = best.halves;
        for h in 0..2 {
            let Choice { scale, min, .. } = best.halves[h];
            choices[h] = Self::attempt(&halves[h], scale, min, quantizer, d, dmin);
        }
        let error = |halves: &[Choice<V>; 2]| total([halves[0].attempt.error, halves[1].attempt.error]);
        if error(&choices) < error(&best.halves) {
            *best = Superblock { d, dmin, halves: choices };
        }
    }

    #[inline(always)]
    fn store<V: Lanes>(self, chosen: &Superblock<V>) -> Scales {
        let Superblock { d, dmin, halves } = chosen;
        let mut words = u128::from(d.bits) | u128::from(dmin.bits) << 16;
        let (mut scales, mut minuses) = ([F32x8::ZERO; 2], [F32x8::ZERO; 2]);
        for (h, choice) in halves.iter().enumerate() {
            let scale = (choice.scale - V::splat(self.scale_bias)).store();
            let min = (choice.min + V::splat(MIN_BIAS)).store();
            for l in 0..LANES {
                let entry = scale.0[l] as u32 & 7 | (min.0[l] as u32 & 7) << 3;
                words |= u128::from(entry) << (32 + 6 * (LANES * h + l));
            }
            scales[h] = (choice.scale * V::splat(d.value)).store();
            minuses[h] = (choice.min * V::splat(dmin.value)).store();
        }
        Scales { words, scale: scales, minus: minuses, overflow: d.overflows() || dmin.overflows() }
    }
}

at_each_level! {
    /// The search that the module's comment describes.
    fn search(fine: Fine, halves: &[Groups; 2], fits: &[Fit; 2], quantizer: Quantizer) -> Scales = search_lanes;
}

#[inline(always)]
fn search_lanes<V: Lanes>(fine: Fine, halves: &[Groups; 2], fits: &[Fit; 2], quantizer: Quantizer) -> Scales {
    let unit = Unit::new(halves[0].shift[0], fine.exponent);
    let mut best = fine.begin::<V>(halves, fits, quantizer, unit);
    for _ in 0..ROUNDS {
        for h in 0..2 {
            best.halves[h] =
                fine.neighbours(&halves[h], &fits[h], &best.halves[h], quantizer, best.d, best.dmin);
        }
        Fine::refit(halves, fits, &mut best, quantizer, unit);
    }
    fine.store(&best)
}

/// The sum of all lanes.
#[inline(always)]
fn total<V: Lanes>(halves: [V; 2]) -> f32 {
    let mut sum = 0.0;
    for half in halves {
        let mut own = 0.0;
        for lane in half.store().0 {
            own += lane;
        }
        sum += own;
    }
    sum
}

/// The min, in units of `dmin`, nearest to `x`: half of an odd number.
#[inline(always)]
fn nearest_min<V: Lanes>(x: V) -> V {
    let half = V::splat(0.5);
    (x - half).max(V::splat(-MIN_BIAS - 0.5)).min(V::splat(MIN_BIAS - 0.5)).round() + half
}
