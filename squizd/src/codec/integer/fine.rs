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

use super::fit::{Attempt, Fit, Groups};
use super::unit::{Half, Unit, head};
use crate::codec::lanes::{LANES, Lanes};

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

/// A group's scale and min before biases are taken off, in units of `d` and
/// `dmin`, and what they come to.
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
    error: f32,
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

    /// Scales and mins of a superblock, in the groups' normalised units; both
    /// halves have the same.
    #[inline(always)]
    pub(super) fn choose<V: Lanes, const B: u32>(self, halves: &[Groups<GROUP>; 2]) -> Scales<V> {
        let [first, second] = halves;
        let fits = [first.fit::<V, B>(false), second.fit::<V, B>(false)];
        let unit = Unit::new(first.shift[0], self.exponent);
        let mut best = self.begin::<V, B>(halves, &fits, &unit);
        for _ in 0..ROUNDS {
            for h in 0..2 {
                best.halves[h] =
                    self.neighbours::<V, B>(&halves[h], &fits[h], &best.halves[h], best.d, best.dmin);
            }
            best.error = total(&best.halves);
            if let Some(better) = self.refit::<V, B>(halves, &fits, &best, &unit) {
                best = better;
            }
        }
        self.store(&best)
    }

    /// The best of the grid of `d` and `dmin`, scales and mins the nearest.
    #[inline(always)]
    fn begin<V: Lanes, const B: u32>(
        self,
        halves: &[Groups<GROUP>; 2],
        fits: &[Fit; 2],
        unit: &Unit,
    ) -> Superblock<V> {
        let wanted = |fit: &Fit| {
            let scale = V::load(&fit.scale);
            let min = scale * V::splat(-self.code_bias) - fit.offset(scale);
            (fit.scale.max_lane(), min.abs().store().max_lane())
        };
        let ((a, b), (c, e)) = (wanted(&fits[0]), wanted(&fits[1]));
        let (peak, reach) = (a.max(c).max(0.0), b.max(e));
        let at = |d_step: f32, dmin_step: f32| {
            let d = unit.store(d_step * peak / (TOP + self.scale_bias));
            let dmin = unit.store(dmin_step * reach / MIN_BIAS);
            let nearest = |h: usize| {
                let scale = self.nearest_scale(V::load(&fits[h].scale) * V::splat(d.value).recip_or_zero());
                let codes = V::load(&fits[h].mean_code) - V::splat(self.code_bias);
                let min = nearest_min(Self::wanted_min(&fits[h], scale, codes, d, dmin));
                self.attempt::<V, B>(&halves[h], scale, min, d, dmin)
            };
            let halves = [nearest(0), nearest(1)];
            Superblock { d, dmin, halves, error: total(&halves) }
        };
        let mut best = at(D_STEPS[0], DMIN_STEPS[0]);
        for d_step in D_STEPS {
            for dmin_step in DMIN_STEPS {
                let next = at(d_step, dmin_step);
                if next.error < best.error {
                    best = next;
                }
            }
        }
        best
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
    fn attempt<V: Lanes, const B: u32>(
        self,
        groups: &Groups<GROUP>,
        scale: V,
        min: V,
        d: Half,
        dmin: Half,
    ) -> Choice<V> {
        let (s, m) = (scale * V::splat(d.value), min * V::splat(dmin.value));
        Choice { scale, min, attempt: groups.attempt::<V, B>(s, m, self.code_bias) }
    }

    /// The best choice among the neighbouring scales and mins of `from`.
    #[inline(always)]
    fn neighbours<V: Lanes, const B: u32>(
        self,
        groups: &Groups<GROUP>,
        fit: &Fit,
        from: &Choice<V>,
        d: Half,
        dmin: Half,
    ) -> Choice<V> {
        let mean_code = from.attempt.codes / groups.counts::<V>();
        let mut best = *from;
        for step in [-1.0, 0.0, 1.0] {
            let scale = self.nearest_scale(from.scale + V::splat(step));
            let wanted = Self::wanted_min(fit, scale, mean_code, d, dmin);
            for step in [-1.0, 0.0, 1.0] {
                let min = nearest_min(wanted + V::splat(step));
                best = best.better(self.attempt::<V, B>(groups, scale, min, d, dmin));
            }
        }
        best
    }

    /// `d` and `dmin` by least squares for the codes, scales and mins of
    /// `from`, if that lowers the error: with `a = scale q` and `b = -min`,
    /// `w ~ d a + dmin b`.
    #[inline(always)]
    fn refit<V: Lanes, const B: u32>(
        self,
        halves: &[Groups<GROUP>; 2],
        fits: &[Fit; 2],
        from: &Superblock<V>,
        unit: &Unit,
    ) -> Option<Superblock<V>> {
        let (mut aa, mut bb, mut ab, mut aw, mut bw) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for ((groups, fit), choice) in halves.iter().zip(fits).zip(&from.halves) {
            let Choice { scale, min, attempt } = *choice;
            let count = groups.counts::<V>();
            let sum = |v: V| v.store().sum_f64();
            aa += sum(scale * scale * attempt.squares);
            bb += sum(min * min * count);
            ab -= sum(scale * min * attempt.codes);
            aw += sum(scale * attempt.products);
            bw -= sum(min * count * V::load(&fit.mean));
        }
        let determinant = aa * bb - ab * ab;
        if determinant <= 1e-9 * aa * bb {
            return None;
        }
        let d = unit.store(((aw * bb - bw * ab) / determinant) as f32);
        let dmin = unit.store(((bw * aa - aw * ab) / determinant) as f32);
        if d.value <= 0.0 || d.overflows() || dmin.overflows() {
            return None;
        }
        let choice = |h: usize| {
            let Choice { scale, min, .. } = from.halves[h];
            self.attempt::<V, B>(&halves[h], scale, min, d, dmin)
        };
        let halves = [choice(0), choice(1)];
        let error = total(&halves);
        (error < from.error).then_some(Superblock { d, dmin, halves, error })
    }

    #[inline(always)]
    fn store<V: Lanes>(self, chosen: &Superblock<V>) -> Scales<V> {
        let Superblock { d, dmin, halves, .. } = chosen;
        let mut words = u128::from(d.bits) | u128::from(dmin.bits) << 16;
        for (h, choice) in halves.iter().enumerate() {
            let scale = (choice.scale - V::splat(self.scale_bias)).store();
            let min = (choice.min + V::splat(MIN_BIAS)).store();
            for l in 0..LANES {
                let entry = scale.0[l] as u32 & 7 | (min.0[l] as u32 & 7) << 3;
                words |= u128::from(entry) << (32 + 6 * (LANES * h + l));
            }
        }
        Scales {
            words,
            scale: [0, 1].map(|h| halves[h].scale * V::splat(d.value)),
            minus: [0, 1].map(|h| halves[h].min * V::splat(dmin.value)),
            overflow: d.overflows() || dmin.overflows(),
        }
    }
}

impl<V: Lanes> Choice<V> {
    /// The choice of smaller error per lane, `self` on ties.
    #[inline(always)]
    fn better(self, other: Self) -> Self {
        let (old, new) = (self.attempt, other.attempt);
        let pick = |a: V, b: V| new.error.select_lt(old.error, b, a);
        Self {
            scale: pick(self.scale, other.scale),
            min: pick(self.min, other.min),
            attempt: Attempt {
                error: pick(old.error, new.error),
                codes: pick(old.codes, new.codes),
                squares: pick(old.squares, new.squares),
                products: pick(old.products, new.products),
            },
        }
    }
}

/// The error of both halves.
#[inline(always)]
fn total<V: Lanes>(halves: &[Choice<V>; 2]) -> f32 {
    halves.iter().map(|c| c.attempt.error.store().0.into_iter().sum::<f32>()).sum()
}

/// The min, in units of `dmin`, nearest to `x`: half of an odd number.
#[inline(always)]
fn nearest_min<V: Lanes>(x: V) -> V {
    let half = V::splat(0.5);
    (x - half).max(V::splat(-MIN_BIAS - 0.5)).min(V::splat(MIN_BIAS - 0.5)).round() + half
}

/// Chosen scales: as stored, and as the codes of both halves see them.
pub(super) struct Scales<V> {
    pub(super) words: u128,
    pub(super) scale: [V; 2],
    pub(super) minus: [V; 2],
    pub(super) overflow: bool,
}
