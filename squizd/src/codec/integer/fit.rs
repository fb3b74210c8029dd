//! Scale and offset of groups by least squares, eight groups at a time.
//!
//! A lane is a group; `w[i]` holds weight `i` of eight groups. In
//! `u = (w - min) / (max - min)` every group has the range 0..1, so one table
//! of clipping pairs (a, b) serves all: codes `q = round(top (u - a) / (1 - a - b))`
//! clamped to `0..=top`, `top` being `2^bits - 1`. Given codes, the best line
//! `u = s q + o` is the least squares regression, here with importances `v`
//! (all 1 without calibration), `n = sum(v)`:
//!
//! ```text
//! s = (n sum(v q u) - sum(v q) sum(v u)) / (n sum(v q q) - sum(v q)^2)
//! o = (sum(v u) - s sum(v q)) / n
//! error = sum(v u u) - s sum(v q u) - o sum(v u)
//! ```
//!
//! and the pair whose line has the smallest error wins; one more assignment
//! and regression from that line follows.
#![allow(clippy::needless_range_loop, reason = "one index runs over several arrays of lanes")]

use super::clips::clips;
use crate::codec::lanes::{F32x8, LANES, Lanes, exp2i, exponent};

/// Importances that differ leave rounding errors in a regression's
/// determinant; below this part of its terms it counts as zero.
const SINGULAR: f32 = 1e-5;

/// The largest code.
pub(super) const fn top(bits: u32) -> f32 {
    ((1 << bits) - 1) as f32
}

/// Eight groups of `G` weights.
pub(super) struct Groups<const G: usize> {
    /// Weight `i` of each group; what lies past a short group's end repeats
    /// its first weight.
    pub(super) w: [F32x8; G],
    /// Importance of each weight; 0 past a group's end.
    importance: [F32x8; G],
    /// Sum of the importances of each group; 1 if there are none.
    count: F32x8,
    /// Smallest and largest weight of each group.
    pub(super) lo: F32x8,
    pub(super) hi: F32x8,
    /// `w` was multiplied by `2^-shift` per lane.
    pub(super) shift: [i32; LANES],
    /// Some importance is not 1.
    weighted: bool,
    /// [`SINGULAR`], or 0 where all importances are 0 or 1.
    singular: f32,
}

/// The best line of each group: `w = scale * q + offset(scale)`.
pub(super) struct Fit {
    pub(super) scale: F32x8,
    pub(super) mean: F32x8,
    /// The mean code, which belongs to the mean weight.
    pub(super) mean_code: F32x8,
}

impl Fit {
    /// The best offset for the codes found and any `scale`: the regression
    /// line passes through the mean.
    #[inline(always)]
    pub(super) fn offset<V: Lanes>(&self, scale: V) -> V {
        V::load(&self.mean) - scale * V::load(&self.mean_code)
    }
}

impl<const G: usize> Groups<G> {
    pub(super) const EMPTY: Self = Self {
        w: [F32x8::ZERO; G],
        importance: [F32x8::ZERO; G],
        count: F32x8::ZERO,
        lo: F32x8::ZERO,
        hi: F32x8::ZERO,
        shift: [0; LANES],
        weighted: false,
        singular: 0.0,
    };

    /// Loads up to eight groups (each of 1 to `G` weights; missing ones count
    /// as absent) and, if given, as many importances.
    #[inline(always)]
    pub(super) fn load<'a, V: Lanes>(
        &mut self,
        mut groups: impl Iterator<Item = &'a [f32]>,
        importance: Option<impl Iterator<Item = &'a [f32]>>,
    ) {
        self.weighted = importance.is_some();
        self.singular = if self.weighted { SINGULAR } else { 0.0 };
        let mut lengths = [0; LANES];
        for l in 0..LANES {
            let group = groups.next().unwrap_or_default();
            lengths[l] = group.len();
            if let Ok(full) = <&[f32; G]>::try_from(group) {
                for i in 0..G {
                    self.w[i].0[l] = full[i];
                }
            } else {
                let first = group.first().copied().unwrap_or(0.0);
                for i in 0..G {
                    self.w[i].0[l] = group.get(i).copied().unwrap_or(first);
                }
                self.weighted = true;
            }
            self.count.0[l] = lengths[l].max(1) as f32;
            self.shift[l] = 0;
        }
        if let Some(mut importance) = importance {
            self.weigh(|l| (importance.next().unwrap_or_default(), lengths[l]));
        } else if self.weighted {
            for (i, importance) in self.importance.iter_mut().enumerate() {
                for l in 0..LANES {
                    importance.0[l] = if i < lengths[l] { 1.0 } else { 0.0 };
                }
            }
        }
        self.bounds::<V>();
    }

    /// Takes importances over, all of them positive.
    #[inline(always)]
    fn weigh<'a>(&mut self, mut group: impl FnMut(usize) -> (&'a [f32], usize)) {
        for l in 0..LANES {
            let (importance, length) = group(l);
            let mut sum = 0.0;
            for i in 0..G {
                let v = if i < length { importance.get(i).copied().unwrap_or(1.0) } else { 0.0 };
                self.importance[i].0[l] = v;
                sum += v;
            }
            self.count.0[l] = if sum > 0.0 { sum } else { 1.0 };
        }
    }

    #[inline(always)]
    fn bounds<V: Lanes>(&mut self) {
        let first = V::load(&self.w[0]);
        let (mut lo, mut hi) = (first, first);
        for w in &self.w {
            lo = V::load(w).min(lo);
            hi = V::load(w).max(hi);
        }
        (self.lo, self.hi) = (lo.store(), hi.store());
    }

    /// The largest magnitude of each group.
    #[inline(always)]
    pub(super) fn peaks<V: Lanes>(&self) -> F32x8 {
        V::load(&self.hi).abs().max(V::load(&self.lo).abs()).store()
    }

    /// Scales each group by a power of two where the squares of weights up to
    /// its `peak` could leave the range of `f32`.
    #[inline(always)]
    pub(super) fn normalise<V: Lanes>(&mut self, peaks: F32x8) {
        let safe = |p: f32| p == 0.0 || (exp2i(-40)..exp2i(40)).contains(&p);
        if peaks.0.into_iter().all(safe) {
            return;
        }
        let mut factor = F32x8::ZERO;
        for l in 0..LANES {
            self.shift[l] = if peaks.0[l] > 0.0 { exponent(peaks.0[l]).min(126) } else { 0 };
            factor.0[l] = exp2i(-self.shift[l]);
        }
        for w in &mut self.w {
            *w = (V::load(w) * V::load(&factor)).store();
        }
        self.bounds::<V>();
    }

    /// Fits every group. With `below_zero` offsets cannot be positive, so
    /// ranges begin at 0 or less.
    #[inline(always)]
    pub(super) fn fit<V: Lanes, const B: u32>(&self, below_zero: bool) -> Fit {
        if self.weighted {
            self.fit_lanes::<V, B, true>(below_zero)
        } else {
            self.fit_lanes::<V, B, false>(below_zero)
        }
    }

    #[inline(always)]
    fn fit_lanes<V: Lanes, const B: u32, const WEIGHTED: bool>(&self, below_zero: bool) -> Fit {
        let (mut lo, count) = (V::load(&self.lo), V::load(&self.count));
        if below_zero {
            lo = lo.min(V::zero());
        }
        let span = V::load(&self.hi) - lo;
        let inverse = span.recip_or_zero();
        let mut u = [V::zero(); G];
        let (mut sum, mut energy) = (V::zero(), V::zero());
        for i in 0..G {
            u[i] = (V::load(&self.w[i]) - lo) * inverse;
            let vu = if WEIGHTED { u[i] * V::load(&self.importance[i]) } else { u[i] };
            sum = sum + vu;
            energy = energy + vu * u[i];
        }
        let sums = Sums { count, sum, energy };
        let mut best =
            Line { slope: V::zero(), start: V::zero(), codes: V::zero(), error: V::splat(f32::MAX) };
        for &(a, b) in clips(B, G) {
            let gain = top(B) / (1.0 - a - b);
            best = best.better(self.regress::<V, B, WEIGHTED>(&u, sums, V::splat(gain), V::splat(-a * gain)));
        }
        let gain = best.slope.recip_or_zero();
        best = best.better(self.regress::<V, B, WEIGHTED>(&u, sums, gain, V::zero() - best.start * gain));
        Fit {
            scale: (best.slope * span).store(),
            mean: (lo + span * (sum / count)).store(),
            mean_code: (best.codes / count).store(),
        }
    }

    /// The regression line for codes `round(clamp(u * gain + start))`.
    #[inline(always)]
    fn regress<V: Lanes, const B: u32, const WEIGHTED: bool>(
        &self,
        u: &[V; G],
        sums: Sums<V>,
        gain: V,
        start: V,
    ) -> Line<V> {
        let Sums { count, sum, energy } = sums;
        let (mut codes, mut squares, mut products) = (V::zero(), V::zero(), V::zero());
        for i in 0..G {
            let q = quantize::<V, B>(u[i] * gain + start);
            let vq = if WEIGHTED { q * V::load(&self.importance[i]) } else { q };
            codes = codes + vq;
            squares = squares + vq * q;
            products = products + vq * u[i];
        }
        // With importances 0 and 1 integers below 2^24, so exact.
        let determinant = count * squares - codes * codes;
        let slope = (count * products - codes * sum) / determinant;
        let least = count * squares * V::splat(self.singular);
        let slope = least.select_lt(determinant, slope, V::zero());
        let start = (sum - slope * codes) / count;
        Line { slope, start, codes, error: energy - slope * products - start * sum }
    }

    /// What rounding to `w = scale * (q - bias) - minus` would come to.
    #[inline(always)]
    pub(super) fn attempt<V: Lanes, const B: u32>(&self, scale: V, minus: V, bias: f32) -> Attempt<V> {
        if self.weighted {
            self.attempt_lanes::<V, B, true>(scale, minus, bias)
        } else {
            self.attempt_lanes::<V, B, false>(scale, minus, bias)
        }
    }

    #[inline(always)]
    fn attempt_lanes<V: Lanes, const B: u32, const WEIGHTED: bool>(
        &self,
        scale: V,
        minus: V,
        bias: f32,
    ) -> Attempt<V> {
        let (inverse, bias) = (scale.recip_or_zero(), V::splat(bias));
        let zero = V::zero();
        let (mut error, mut codes, mut squares, mut products) = (zero, zero, zero, zero);
        for i in 0..G {
            let w = V::load(&self.w[i]);
            let q = quantize::<V, B>((w + minus) * inverse + bias) - bias;
            let e = w - (scale * q - minus);
            let (ve, vq) = if WEIGHTED {
                let v = V::load(&self.importance[i]);
                (v * e, v * q)
            } else {
                (e, q)
            };
            error = error + ve * e;
            codes = codes + vq;
            squares = squares + vq * q;
            products = products + vq * w;
        }
        Attempt { error, codes, squares, products }
    }

    /// Sums of the importances.
    #[inline(always)]
    pub(super) fn counts<V: Lanes>(&self) -> V {
        V::load(&self.count)
    }

    /// Codes nearest to the weights under `w = scale * (q - bias) - minus`,
    /// with the energy and the squared error of each group.
    #[inline(always)]
    pub(super) fn assign<V: Lanes, const B: u32>(
        &self,
        scale: V,
        minus: V,
        bias: f32,
        codes: &mut [V; G],
    ) -> (F32x8, F32x8) {
        if self.weighted {
            self.assign_lanes::<V, B, true>(scale, minus, bias, codes)
        } else {
            self.assign_lanes::<V, B, false>(scale, minus, bias, codes)
        }
    }

    #[inline(always)]
    fn assign_lanes<V: Lanes, const B: u32, const WEIGHTED: bool>(
        &self,
        scale: V,
        minus: V,
        bias: f32,
        codes: &mut [V; G],
    ) -> (F32x8, F32x8) {
        let inverse = scale.recip_or_zero();
        let bias = V::splat(bias);
        let (mut signal, mut noise) = (V::zero(), V::zero());
        for i in 0..G {
            let w = V::load(&self.w[i]);
            let q = quantize::<V, B>((w + minus) * inverse + bias);
            let error = w - (scale * (q - bias) - minus);
            let (mut ww, mut ee) = (w * w, error * error);
            codes[i] = q;
            if WEIGHTED {
                let present = V::zero().select_lt(V::load(&self.importance[i]), V::splat(1.0), V::zero());
                (ww, ee) = (ww * present, ee * present);
            }
            signal = signal + ww;
            noise = noise + ee;
        }
        (signal.store(), noise.store())
    }
}

/// Weights of each group, their sum and their energy.
#[derive(Clone, Copy)]
struct Sums<V> {
    count: V,
    sum: V,
    energy: V,
}

/// The nearest code.
#[inline(always)]
fn quantize<V: Lanes, const B: u32>(t: V) -> V {
    t.max(V::zero()).min(V::splat(top(B))).round()
}

/// Sums over each group after rounding, with importances `v` and codes `q`
/// relative to their bias.
#[derive(Clone, Copy)]
pub(super) struct Attempt<V> {
    /// `sum(v e e)`.
    pub(super) error: V,
    /// `sum(v q)`.
    pub(super) codes: V,
    /// `sum(v q q)`.
    pub(super) squares: V,
    /// `sum(v q w)`.
    pub(super) products: V,
}

/// A regression line in `u`, the sum of its codes, and its squared error.
#[derive(Clone, Copy)]
struct Line<V> {
    slope: V,
    start: V,
    codes: V,
    error: V,
}

impl<V: Lanes> Line<V> {
    /// The line of smaller error per lane, `self` on ties.
    #[inline(always)]
    fn better(self, other: Self) -> Self {
        let pick = |new: V, old: V| other.error.select_lt(self.error, new, old);
        Self {
            slope: pick(other.slope, self.slope),
            start: pick(other.start, self.start),
            codes: pick(other.codes, self.codes),
            error: pick(other.error, self.error),
        }
    }
}

/// Writes the codes of up to eight groups behind one another, one byte each.
#[inline(always)]
pub(super) fn store_codes<V: Lanes, const G: usize>(codes: &[V; G], out: &mut [u8]) {
    // Below 2^8, so the low byte of the sum with 2^23.
    let magic = V::splat(8_388_608.0);
    if let Some(out) = out.get_mut(..LANES * G) {
        for (i, code) in codes.iter().enumerate() {
            let lanes = (*code + magic).store();
            for l in 0..LANES {
                out[l * G + i] = lanes.0[l].to_bits() as u8;
            }
        }
        return;
    }
    for (i, code) in codes.iter().enumerate() {
        let lanes = (*code + magic).store();
        for l in 0..LANES {
            if let Some(out) = out.get_mut(l * G + i) {
                *out = lanes.0[l].to_bits() as u8;
            }
        }
    }
}
