//! Scale and offset of 4-bit groups by least squares, eight groups at a time.
//!
//! A lane is a group; `w[i]` holds weight `i` of eight groups. In
//! `u = (w - min) / (max - min)` every group has the range 0..1, so one table
//! of clipping pairs (a, b) serves all: codes `q = round(15 (u - a) / (1 - a - b))`
//! clamped to 0..=15. Given codes, the best line `u = s q + o` is the least
//! squares regression
//!
//! ```text
//! s = (n sum(qu) - sum(q) sum(u)) / (n sum(qq) - sum(q)^2)
//! o = (sum(u) - s sum(q)) / n
//! error = sum(uu) - s sum(qu) - o sum(u)
//! ```
//!
//! and the pair whose line has the smallest error wins; one more assignment
//! and regression from that line follows.
#![allow(clippy::needless_range_loop, reason = "one index runs over several arrays of lanes")]

use crate::codec::lanes::{F32x8, LANES, Lanes, exp2i, exponent};

/// Largest code.
const TOP: f32 = 15.0;

/// Clipping pairs (a at the low end, b at the high end, as parts of the range;
/// negative ones widen it), best first: greedily chosen to minimise the mean
/// squared error after regression over Gaussian and trained weights, groups of
/// 32. A pair that clips one end only is worth more than one that clips both.
const CLIPS_32: [(f32, f32); 8] = [
    (0.02, 0.02),
    (0.0, 0.04),
    (0.02, 0.0),
    (0.0, 0.02),
    (0.04, 0.0),
    (0.0, 0.0),
    (0.02, -0.02),
    (-0.02, 0.02),
];
/// The same for groups of 16, whose extremes lie closer.
const CLIPS_16: [(f32, f32); 8] = [
    (0.0, 0.0),
    (0.015, -0.015),
    (-0.015, 0.015),
    (0.015, 0.015),
    (-0.015, 0.03),
    (0.03, -0.015),
    (0.0, 0.015),
    (0.015, 0.0),
];
/// The same for groups of 64.
const CLIPS_64: [(f32, f32); 8] = [
    (0.015, 0.015),
    (0.0, 0.045),
    (0.03, 0.0),
    (0.015, 0.03),
    (0.045, 0.0),
    (0.03, 0.015),
    (-0.015, 0.015),
    (0.015, 0.045),
];
/// The same for groups of 128.
const CLIPS_128: [(f32, f32); 8] = [
    (0.03, 0.03),
    (0.06, 0.015),
    (0.015, 0.045),
    (0.045, 0.03),
    (0.015, 0.06),
    (0.045, 0.06),
    (0.045, 0.015),
    (0.015, 0.03),
];

/// Eight groups of `G` weights.
pub(super) struct Groups<const G: usize> {
    /// Weight `i` of each group; what lies past a short group's end repeats
    /// its first weight.
    pub(super) w: [F32x8; G],
    /// 1 for weights, 0 past a group's end.
    mask: [F32x8; G],
    /// Weights of each group, at least 1.
    count: F32x8,
    /// Smallest and largest weight of each group.
    pub(super) lo: F32x8,
    pub(super) hi: F32x8,
    /// `w` was multiplied by `2^-shift` per lane.
    pub(super) shift: [i32; LANES],
    /// Some lane is short or absent.
    short: bool,
}

/// The best line of each group: `w = scale * q + offset(scale)`.
pub(super) struct Fit {
    pub(super) scale: F32x8,
    mean: F32x8,
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
        mask: [F32x8::ZERO; G],
        count: F32x8::ZERO,
        lo: F32x8::ZERO,
        hi: F32x8::ZERO,
        shift: [0; LANES],
        short: false,
    };

    /// Loads up to eight groups (each of 1 to `G` weights; missing ones count
    /// as absent).
    #[inline(always)]
    pub(super) fn load<'a, V: Lanes>(&mut self, mut groups: impl Iterator<Item = &'a [f32]>) {
        self.short = false;
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
                self.short = true;
            }
            self.count.0[l] = lengths[l].max(1) as f32;
            self.shift[l] = 0;
        }
        if self.short {
            for (i, mask) in self.mask.iter_mut().enumerate() {
                for l in 0..LANES {
                    mask.0[l] = if i < lengths[l] { 1.0 } else { 0.0 };
                }
            }
        }
        self.bounds::<V>();
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

    /// Scales each group by a power of two where its squares could leave the
    /// range of `f32`; with `together`, all groups by the same.
    #[inline(always)]
    pub(super) fn normalise<V: Lanes>(&mut self, together: bool) {
        let mut peak = V::load(&self.hi).abs().max(V::load(&self.lo).abs()).store();
        if together {
            peak = F32x8([peak.max_lane(); LANES]);
        }
        let safe = |p: f32| p == 0.0 || (exp2i(-40)..exp2i(40)).contains(&p);
        if peak.0.into_iter().all(safe) {
            return;
        }
        let mut factor = F32x8::ZERO;
        for l in 0..LANES {
            self.shift[l] = if peak.0[l] > 0.0 { exponent(peak.0[l]).min(126) } else { 0 };
            factor.0[l] = exp2i(-self.shift[l]);
        }
        for w in &mut self.w {
            *w = (V::load(w) * V::load(&factor)).store();
        }
        self.bounds::<V>();
    }

    /// Fits every group, trying the first `tries` clipping pairs. With
    /// `below_zero` offsets cannot be positive, so ranges begin at 0 or less.
    #[inline(always)]
    pub(super) fn fit<V: Lanes>(&self, tries: usize, below_zero: bool) -> Fit {
        if self.short {
            self.fit_lanes::<V, true>(tries, below_zero)
        } else {
            self.fit_lanes::<V, false>(tries, below_zero)
        }
    }

    #[inline(always)]
    fn fit_lanes<V: Lanes, const SHORT: bool>(&self, tries: usize, below_zero: bool) -> Fit {
        let clips = match G {
            16 => &CLIPS_16,
            32 => &CLIPS_32,
            64 => &CLIPS_64,
            _ => &CLIPS_128,
        };
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
            if SHORT {
                u[i] = u[i] * V::load(&self.mask[i]);
            }
            sum = sum + u[i];
            energy = energy + u[i] * u[i];
        }
        let sums = Sums { count, sum, energy };
        let mut best =
            Line { slope: V::zero(), start: V::zero(), codes: V::zero(), error: V::splat(f32::MAX) };
        for &(a, b) in clips.iter().take(tries) {
            let gain = TOP / (1.0 - a - b);
            best = best.better(self.regress::<V, SHORT>(&u, sums, V::splat(gain), V::splat(-a * gain)));
        }
        let gain = best.slope.recip_or_zero();
        best = best.better(self.regress::<V, SHORT>(&u, sums, gain, V::zero() - best.start * gain));
        Fit {
            scale: (best.slope * span).store(),
            mean: (lo + span * (sum / count)).store(),
            mean_code: (best.codes / count).store(),
        }
    }

    /// The regression line for codes `round(clamp(u * gain + start))`.
    #[inline(always)]
    fn regress<V: Lanes, const SHORT: bool>(&self, u: &[V; G], sums: Sums<V>, gain: V, start: V) -> Line<V> {
        let Sums { count, sum, energy } = sums;
        let (mut codes, mut squares, mut products) = (V::zero(), V::zero(), V::zero());
        for i in 0..G {
            let mut q = quantize(u[i] * gain + start);
            if SHORT {
                q = q * V::load(&self.mask[i]);
            }
            codes = codes + q;
            squares = squares + q * q;
            products = products + q * u[i];
        }
        // Integers below 2^24: exact.
        let determinant = count * squares - codes * codes;
        let slope = (count * products - codes * sum) / determinant;
        let slope = V::zero().select_lt(determinant, slope, V::zero());
        let start = (sum - slope * codes) / count;
        Line { slope, start, codes, error: energy - slope * products - start * sum }
    }

    /// Codes nearest to the weights under `w = scale * (q - bias) - minus`,
    /// with the energy and the squared error of each group.
    #[inline(always)]
    pub(super) fn assign<V: Lanes>(
        &self,
        scale: V,
        minus: V,
        bias: f32,
        codes: &mut [V; G],
    ) -> (F32x8, F32x8) {
        if self.short {
            self.assign_lanes::<V, true>(scale, minus, bias, codes)
        } else {
            self.assign_lanes::<V, false>(scale, minus, bias, codes)
        }
    }

    #[inline(always)]
    fn assign_lanes<V: Lanes, const SHORT: bool>(
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
            let q = quantize((w + minus) * inverse + bias);
            let error = w - (scale * (q - bias) - minus);
            let (mut ww, mut ee) = (w * w, error * error);
            codes[i] = q;
            if SHORT {
                let mask = V::load(&self.mask[i]);
                (codes[i], ww, ee) = (q * mask, ww * mask, ee * mask);
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
fn quantize<V: Lanes>(t: V) -> V {
    t.max(V::zero()).min(V::splat(TOP)).round()
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
