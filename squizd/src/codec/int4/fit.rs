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

use crate::codec::lanes::{F32x8, LANES, exp2i, exponent};

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
    pub(super) fn offset(&self, scale: F32x8) -> F32x8 {
        self.mean - scale * self.mean_code
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
    pub(super) fn load<'a>(&mut self, mut groups: impl Iterator<Item = &'a [f32]>) {
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
        self.bounds();
    }

    #[inline(always)]
    fn bounds(&mut self) {
        let (mut lo, mut hi) = (self.w[0], self.w[0]);
        for w in &self.w {
            lo = w.min(lo);
            hi = w.max(hi);
        }
        (self.lo, self.hi) = (lo, hi);
    }

    /// Scales each group by a power of two where its squares could leave the
    /// range of `f32`; with `together`, all groups by the same.
    #[inline(always)]
    pub(super) fn normalise(&mut self, together: bool) {
        let mut peak = self.hi.abs().max(self.lo.abs());
        if together {
            peak = F32x8::splat(peak.max_lane());
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
            *w = *w * factor;
        }
        self.bounds();
    }

    /// Fits every group, trying the first `tries` clipping pairs. With
    /// `below_zero` offsets cannot be positive, so ranges begin at 0 or less.
    #[inline(always)]
    pub(super) fn fit(&self, tries: usize, below_zero: bool) -> Fit {
        if self.short {
            self.fit_lanes::<true>(tries, below_zero)
        } else {
            self.fit_lanes::<false>(tries, below_zero)
        }
    }

    #[inline(always)]
    fn fit_lanes<const SHORT: bool>(&self, tries: usize, below_zero: bool) -> Fit {
        let clips = match G {
            16 => &CLIPS_16,
            32 => &CLIPS_32,
            64 => &CLIPS_64,
            _ => &CLIPS_128,
        };
        let lo = if below_zero { self.lo.min(F32x8::ZERO) } else { self.lo };
        let span = self.hi - lo;
        let inverse = span.recip_or_zero();
        let mut u = [F32x8::ZERO; G];
        let (mut sum, mut energy) = (F32x8::ZERO, F32x8::ZERO);
        for i in 0..G {
            u[i] = (self.w[i] - lo) * inverse;
            if SHORT {
                u[i] = u[i] * self.mask[i];
            }
            sum = sum + u[i];
            energy = energy + u[i] * u[i];
        }
        let mut best = Line {
            slope: F32x8::ZERO,
            start: F32x8::ZERO,
            codes: F32x8::ZERO,
            error: F32x8::splat(f32::MAX),
        };
        for &(a, b) in clips.iter().take(tries) {
            let gain = TOP / (1.0 - a - b);
            let line = self.regress::<SHORT>(&u, sum, energy, F32x8::splat(gain), F32x8::splat(-a * gain));
            best = best.better(line);
        }
        let gain = best.slope.recip_or_zero();
        let line = self.regress::<SHORT>(&u, sum, energy, gain, F32x8::ZERO - best.start * gain);
        best = best.better(line);
        Fit {
            scale: best.slope * span,
            mean: lo + span * (sum / self.count),
            mean_code: best.codes / self.count,
        }
    }

    /// The regression line for codes `round(clamp(u * gain + start))`.
    #[inline(always)]
    fn regress<const SHORT: bool>(
        &self,
        u: &[F32x8; G],
        sum: F32x8,
        energy: F32x8,
        gain: F32x8,
        start: F32x8,
    ) -> Line {
        let (mut codes, mut squares, mut products) = (F32x8::ZERO, F32x8::ZERO, F32x8::ZERO);
        for i in 0..G {
            let mut q = quantize(u[i] * gain + start);
            if SHORT {
                q = q * self.mask[i];
            }
            codes = codes + q;
            squares = squares + q * q;
            products = products + q * u[i];
        }
        // Integers below 2^24: exact.
        let determinant = self.count * squares - codes * codes;
        let slope = F32x8::ZERO.select_lt(
            determinant,
            (self.count * products - codes * sum) / determinant,
            F32x8::ZERO,
        );
        let start = (sum - slope * codes) / self.count;
        Line { slope, start, codes, error: energy - slope * products - start * sum }
    }

    /// Codes nearest to the weights under `w = scale * (q - bias) - minus`,
    /// with the energy and the squared error of each group.
    #[inline(always)]
    pub(super) fn assign(
        &self,
        scale: F32x8,
        minus: F32x8,
        bias: f32,
        codes: &mut [F32x8; G],
    ) -> (F32x8, F32x8) {
        if self.short {
            self.assign_lanes::<true>(scale, minus, bias, codes)
        } else {
            self.assign_lanes::<false>(scale, minus, bias, codes)
        }
    }

    #[inline(always)]
    fn assign_lanes<const SHORT: bool>(
        &self,
        scale: F32x8,
        minus: F32x8,
        bias: f32,
        codes: &mut [F32x8; G],
    ) -> (F32x8, F32x8) {
        let inverse = scale.recip_or_zero();
        let bias = F32x8::splat(bias);
        let (mut signal, mut noise) = (F32x8::ZERO, F32x8::ZERO);
        for i in 0..G {
            let w = self.w[i];
            let q = quantize((w + minus) * inverse + bias);
            let error = w - (scale * (q - bias) - minus);
            let (mut ww, mut ee) = (w * w, error * error);
            codes[i] = q;
            if SHORT {
                codes[i] = q * self.mask[i];
                ww = ww * self.mask[i];
                ee = ee * self.mask[i];
            }
            signal = signal + ww;
            noise = noise + ee;
        }
        (signal, noise)
    }
}

/// The nearest code.
#[inline(always)]
fn quantize(t: F32x8) -> F32x8 {
    t.max(F32x8::ZERO).min(F32x8::splat(TOP)).round()
}

/// A regression line in `u`, the sum of its codes, and its squared error.
#[derive(Clone, Copy)]
struct Line {
    slope: F32x8,
    start: F32x8,
    codes: F32x8,
    error: F32x8,
}

impl Line {
    /// The line of smaller error per lane, `self` on ties.
    #[inline(always)]
    fn better(self, other: Self) -> Self {
        let pick = |new, old| other.error.select_lt(self.error, new, old);
        Self {
            slope: pick(other.slope, self.slope),
            start: pick(other.start, self.start),
            codes: pick(other.codes, self.codes),
            error: pick(other.error, self.error),
        }
    }
}
