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
//!
//! Bits and the length of groups are numbers here, not types: the loops over a
//! group's weights are long enough, and one copy for each kind of lanes does.

use super::clips::clips;
use crate::codec::lanes::{F32x8, LANES, Lanes, at_each_level, exp2i, exponent};

/// Importances that differ leave rounding errors in a regression's
/// determinant; below this part of its terms it counts as zero.
const SINGULAR: f32 = 1e-5;

/// The largest code.
pub(in crate::codec) const fn top(bits: u32) -> f32 {
    ((1 << bits) - 1) as f32
}

/// How weights become codes: `w = scale * (q - bias) - minus`, `0 <= q <= top`.
#[derive(Clone, Copy, Debug)]
pub(in crate::codec) struct Quantizer {
    pub(in crate::codec) top: f32,
    pub(in crate::codec) bias: f32,
}

/// Eight groups of equal length.
pub(in crate::codec) struct Groups {
    /// Weight `i` of each group; what lies past a short group's end repeats
    /// its first weight.
    w: Vec<F32x8>,
    /// Importance of each weight; 0 past a group's end.
    importance: Vec<F32x8>,
    /// `w` in the range of its group.
    u: Vec<F32x8>,
    /// Sum of the importances of each group; 1 if there are none.
    count: F32x8,
    /// Smallest and largest weight of each group.
    pub(in crate::codec) lo: F32x8,
    pub(in crate::codec) hi: F32x8,
    /// `w` was multiplied by `2^-shift` per lane.
    pub(in crate::codec) shift: [i32; LANES],
    /// Some importance is not 1.
    weighted: bool,
    /// [`SINGULAR`], or 0 where all importances are 0 or 1.
    singular: f32,
}

/// The best line of each group: `w = scale * q + offset(scale)`.
#[derive(Clone, Copy)]
pub(in crate::codec) struct Fit {
    pub(in crate::codec) scale: F32x8,
    pub(in crate::codec) mean: F32x8,
    /// The mean code, which belongs to the mean weight.
    pub(in crate::codec) mean_code: F32x8,
}

impl Fit {
    /// The best offset for the codes found and any `scale`: the regression
    /// line passes through the mean.
    #[inline(always)]
    pub(in crate::codec) fn offset<V: Lanes>(&self, scale: V) -> V {
        V::load(&self.mean) - scale * V::load(&self.mean_code)
    }
}

impl Groups {
    /// Room for eight groups of `length` weights.
    pub(in crate::codec) fn new(length: usize) -> Self {
        Self {
            w: vec![F32x8::ZERO; length],
            importance: vec![F32x8::ZERO; length],
            u: vec![F32x8::ZERO; length],
            count: F32x8::ZERO,
            lo: F32x8::ZERO,
            hi: F32x8::ZERO,
            shift: [0; LANES],
            weighted: false,
            singular: 0.0,
        }
    }

    /// Loads up to eight groups (each of 1 to all weights; missing ones count
    /// as absent) and, if given, as many importances.
    pub(in crate::codec) fn load<'a>(
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
            let length = self.w.len();
            self.weighted |= group.len() < length;
            let first = group.first().copied().unwrap_or(0.0);
            let (own, behind) = self.w.split_at_mut(group.len().min(length));
            for (lanes, w) in own.iter_mut().zip(group) {
                lanes.0[l] = *w;
            }
            for lanes in behind {
                lanes.0[l] = first;
            }
            self.count.0[l] = lengths[l].max(1) as f32;
            self.shift[l] = 0;
        }
        if let Some(mut importance) = importance {
            for l in 0..LANES {
                self.weigh(l, importance.next().unwrap_or_default(), lengths[l]);
            }
        } else if self.weighted {
            for (i, importance) in self.importance.iter_mut().enumerate() {
                for l in 0..LANES {
                    importance.0[l] = if i < lengths[l] { 1.0 } else { 0.0 };
                }
            }
        }
        bounds(self);
    }

    /// Takes the importances of group `l` over, all of them positive.
    fn weigh(&mut self, l: usize, importance: &[f32], length: usize) {
        let mut sum = 0.0;
        for (i, lanes) in self.importance.iter_mut().enumerate() {
            let v = if i < length { importance.get(i).copied().unwrap_or(1.0) } else { 0.0 };
            lanes.0[l] = v;
            sum += v;
        }
        self.count.0[l] = if sum > 0.0 { sum } else { 1.0 };
    }

    /// The largest magnitude of each group.
    pub(in crate::codec) fn peaks(&self) -> F32x8 {
        self.hi.abs().max(self.lo.abs())
    }

    /// Scales each group by a power of two where the squares of weights up to
    /// its `peak` could leave the range of `f32`.
    pub(in crate::codec) fn normalise(&mut self, peaks: F32x8) {
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
            *w = *w * factor;
        }
        bounds(self);
    }

    /// Fits every group by codes of `bits`. With `below_zero` offsets cannot be
    /// positive, so ranges begin at 0 or less.
    pub(in crate::codec) fn fit(&mut self, bits: u32, below_zero: bool) -> Fit {
        fit(self, bits, below_zero)
    }

    /// Codes nearest to the weights, one byte each, group behind group as far as
    /// `codes` reaches; returns the energy and the squared error of each group.
    pub(in crate::codec) fn assign(
        &self,
        scale: F32x8,
        minus: F32x8,
        quantizer: Quantizer,
        codes: &mut [u8],
    ) -> (F32x8, F32x8) {
        assign(self, scale, minus, quantizer, codes)
    }

    #[inline(always)]
    fn fit_lanes<V: Lanes, const WEIGHTED: bool>(&mut self, bits: u32, below_zero: bool) -> Fit {
        let (mut lo, count) = (V::load(&self.lo), V::load(&self.count));
        if below_zero {
            lo = lo.min(V::zero());
        }
        let span = V::load(&self.hi) - lo;
        let inverse = span.recip_or_zero();
        let (mut sum, mut energy) = (V::zero(), V::zero());
        for ((u, w), v) in self.u.iter_mut().zip(&self.w).zip(&self.importance) {
            let own = (V::load(w) - lo) * inverse;
            *u = own.store();
            let vu = if WEIGHTED { own * V::load(v) } else { own };
            sum = sum + vu;
            energy = energy + vu * own;
        }
        let sums = Sums { count, sum, energy };
        let mut best =
            Line { slope: V::zero(), start: V::zero(), codes: V::zero(), error: V::splat(f32::MAX) };
        // One more than there are pairs: from the best of their lines.
        for i in 0..=clips(bits, self.w.len()).len() {
            let (gain, start) = if let Some(&(a, b)) = clips(bits, self.w.len()).get(i) {
                let gain = top(bits) / (1.0 - a - b);
                (V::splat(gain), V::splat(-a * gain))
            } else {
                let gain = best.slope.recip_or_zero();
                (gain, V::zero() - best.start * gain)
            };
            best = best.better(self.regress::<V, WEIGHTED>(sums, gain, start, top(bits)));
        }
        Fit {
            scale: (best.slope * span).store(),
            mean: (lo + span * (sum / count)).store(),
            mean_code: (best.codes / count).store(),
        }
    }

    /// The regression line for codes `round(clamp(u * gain + start))`.
    #[inline(always)]
    fn regress<V: Lanes, const WEIGHTED: bool>(&self, sums: Sums<V>, gain: V, start: V, top: f32) -> Line<V> {
        let Sums { count, sum, energy } = sums;
        let top = V::splat(top);
        let (mut codes, mut squares, mut products) = (V::zero(), V::zero(), V::zero());
        for (u, v) in self.u.iter().zip(&self.importance) {
            let u = V::load(u);
            let q = quantize(u * gain + start, top);
            let vq = if WEIGHTED { q * V::load(v) } else { q };
            codes = codes + vq;
            squares = squares + vq * q;
            products = products + vq * u;
        }
        // With importances 0 and 1 integers below 2^24, so exact.
        let determinant = count * squares - codes * codes;
        let slope = (count * products - codes * sum) / determinant;
        let least = count * squares * V::splat(self.singular);
        let slope = least.select_lt(determinant, slope, V::zero());
        let start = (sum - slope * codes) / count;
        Line { slope, start, codes, error: energy - slope * products - start * sum }
    }

    /// The error, by importance, of rounding to `scale` and `minus`.
    #[inline(always)]
    pub(in crate::codec) fn error<V: Lanes>(&self, scale: V, minus: V, quantizer: Quantizer) -> V {
        if self.weighted {
            self.error_lanes::<V, true>(scale, minus, quantizer)
        } else {
            self.error_lanes::<V, false>(scale, minus, quantizer)
        }
    }

    #[inline(always)]
    fn error_lanes<V: Lanes, const WEIGHTED: bool>(&self, scale: V, minus: V, quantizer: Quantizer) -> V {
        let (inverse, bias, top) = (scale.recip_or_zero(), V::splat(quantizer.bias), V::splat(quantizer.top));
        let mut error = V::zero();
        for (w, v) in self.w.iter().zip(&self.importance) {
            let w = V::load(w);
            let q = quantize((w + minus) * inverse + bias, top) - bias;
            let e = w - (scale * q - minus);
            error = error + if WEIGHTED { V::load(v) * e } else { e } * e;
        }
        error
    }

    /// What rounding to `scale` and `minus` comes to.
    #[inline(always)]
    pub(in crate::codec) fn attempt<V: Lanes>(&self, scale: V, minus: V, quantizer: Quantizer) -> Attempt<V> {
        if self.weighted {
            self.attempt_lanes::<V, true>(scale, minus, quantizer)
        } else {
            self.attempt_lanes::<V, false>(scale, minus, quantizer)
        }
    }

    #[inline(always)]
    fn attempt_lanes<V: Lanes, const WEIGHTED: bool>(
        &self,
        scale: V,
        minus: V,
        quantizer: Quantizer,
    ) -> Attempt<V> {
        let (inverse, bias, top) = (scale.recip_or_zero(), V::splat(quantizer.bias), V::splat(quantizer.top));
        let zero = V::zero();
        let (mut error, mut codes, mut squares, mut products) = (zero, zero, zero, zero);
        for (w, v) in self.w.iter().zip(&self.importance) {
            let w = V::load(w);
            let q = quantize((w + minus) * inverse + bias, top) - bias;
            let e = w - (scale * q - minus);
            let (ve, vq) = if WEIGHTED {
                let v = V::load(v);
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
    pub(in crate::codec) fn counts<V: Lanes>(&self) -> V {
        V::load(&self.count)
    }
}

at_each_level! {
    /// Finds the smallest and largest weights.
    fn bounds(groups: &mut Groups) = bounds_lanes;
}

#[inline(always)]
fn bounds_lanes<V: Lanes>(groups: &mut Groups) {
    let first = groups.w.first().map_or(V::zero(), V::load);
    let (mut lo, mut hi) = (first, first);
    for w in &groups.w {
        lo = V::load(w).min(lo);
        hi = V::load(w).max(hi);
    }
    (groups.lo, groups.hi) = (lo.store(), hi.store());
}

at_each_level! {
    fn fit(groups: &mut Groups, bits: u32, below_zero: bool) -> Fit = fit_lanes;
}

#[inline(always)]
fn fit_lanes<V: Lanes>(groups: &mut Groups, bits: u32, below_zero: bool) -> Fit {
    if groups.weighted {
        groups.fit_lanes::<V, true>(bits, below_zero)
    } else {
        groups.fit_lanes::<V, false>(bits, below_zero)
    }
}

at_each_level! {
    fn assign(groups: &Groups, scale: F32x8, minus: F32x8, quantizer: Quantizer, codes: &mut [u8]) -> (F32x8, F32x8) = assign_lanes;
}

#[inline(always)]
fn assign_lanes<V: Lanes>(
    groups: &Groups,
    scale: F32x8,
    minus: F32x8,
    quantizer: Quantizer,
    codes: &mut [u8],
) -> (F32x8, F32x8) {
    let (scale, minus) = (V::load(&scale), V::load(&minus));
    let inverse = scale.recip_or_zero();
    let (bias, top) = (V::splat(quantizer.bias), V::splat(quantizer.top));
    // Below 2^8, so the low byte of the sum with 2^23.
    let magic = V::splat(8_388_608.0);
    let (mut signal, mut noise) = (V::zero(), V::zero());
    let length = groups.w.len();
    let whole = codes.len() >= LANES * length;
    for (i, (w, v)) in groups.w.iter().zip(&groups.importance).enumerate() {
        let w = V::load(w);
        let q = quantize((w + minus) * inverse + bias, top);
        let error = w - (scale * (q - bias) - minus);
        let (mut ww, mut ee) = (w * w, error * error);
        if groups.weighted {
            let present = V::zero().select_lt(V::load(v), V::splat(1.0), V::zero());
            (ww, ee) = (ww * present, ee * present);
        }
        signal = signal + ww;
        noise = noise + ee;
        let lanes = (q + magic).store();
        if whole {
            for l in 0..LANES {
                codes[l * length + i] = lanes.0[l].to_bits() as u8;
            }
        } else {
            for l in 0..LANES {
                if let Some(code) = codes.get_mut(l * length + i) {
                    *code = lanes.0[l].to_bits() as u8;
                }
            }
        }
    }
    (signal.store(), noise.store())
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
fn quantize<V: Lanes>(t: V, top: V) -> V {
    t.max(V::zero()).min(top).round()
}

/// Sums over each group after rounding, with importances `v` and codes `q`
/// relative to their bias.
#[derive(Clone, Copy)]
pub(in crate::codec) struct Attempt<V> {
    /// `sum(v e e)`.
    pub(in crate::codec) error: V,
    /// `sum(v q)`.
    pub(in crate::codec) codes: V,
    /// `sum(v q q)`.
    pub(in crate::codec) squares: V,
    /// `sum(v q w)`.
    pub(in crate::codec) products: V,
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
        let (new, old) = (other.error, self.error);
        Self {
            slope: new.select_lt(old, other.slope, self.slope),
            start: new.select_lt(old, other.start, self.start),
            codes: new.select_lt(old, other.codes, self.codes),
            error: new.select_lt(old, new, old),
        }
    }
}
