//! Endpoints of one subset of texels by alternating least squares.

use super::alphabet::Mode;
use super::encode::Target;
use crate::codec::lanes::{F32x8, LANES, Lanes};
use crate::simd;

/// Vectors that hold a block's texels.
const VECTORS: usize = 5;

/// A weighted set of values to fit, padded with weights 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subset {
    /// In endpoint units: 0 to 255 is the range of texels.
    values: [F32x8; VECTORS],
    /// Weights of the squared errors.
    weights: [F32x8; VECTORS],
    /// Vectors set.
    vectors: usize,
}

impl Subset {
    /// Some of a block's texels.
    #[inline(always)]
    pub(super) fn of(target: &Target, texels: impl Iterator<Item = usize>) -> Self {
        let (mut values, mut weights) = ([0.0; VECTORS * LANES], [0.0; VECTORS * LANES]);
        let mut count = 0;
        for ((v, w), texel) in values.iter_mut().zip(&mut weights).zip(texels) {
            (*v, *w) = (target.values[texel], target.weights[texel]);
            count += 1;
        }
        let mut subset = Self { values: [F32x8::ZERO; VECTORS], weights: [F32x8::ZERO; VECTORS], vectors: 0 };
        for (to, from) in subset.values.iter_mut().zip(values.as_chunks().0) {
            *to = F32x8(*from);
        }
        for (to, from) in subset.weights.iter_mut().zip(weights.as_chunks().0) {
            *to = F32x8(*from);
        }
        subset.vectors = usize::div_ceil(count, LANES);
        subset
    }
}

/// Endpoints as indices of a mode's values, `low < high`, and the weighted
/// squared error they leave when each texel takes its nearest level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fit {
    pub(super) cost: f32,
    pub(super) low: usize,
    pub(super) high: usize,
}

/// Improves the endpoints `start` of a subset in at most `rounds` rounds.
///
/// With levels `s` assigned to the values `x`, the error of endpoints `a`,
/// `a + g` is a quadratic form of `a` and `g` in six sums; its minimum gives the
/// next endpoints, of which the four representable ones around it are compared.
/// Neither step can raise the error.
#[allow(unsafe_code, reason = "calls the copy compiled for a detected level")]
pub(super) fn fit(subset: &Subset, mode: &Mode, start: (usize, usize), rounds: usize) -> Fit {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn avx2(subset: &Subset, mode: &Mode, start: (usize, usize), rounds: usize) -> Fit {
        fit_levels::<crate::codec::lanes::Avx>(subset, mode, start, rounds)
    }
    match simd::level() {
        // SAFETY: the level is only ever one this CPU supports.
        #[cfg(target_arch = "x86_64")]
        simd::Level::Avx2 | simd::Level::Avx512 => unsafe { avx2(subset, mode, start, rounds) },
        _ => fit_levels::<F32x8>(subset, mode, start, rounds),
    }
}

#[inline(always)]
fn fit_levels<V: Lanes>(subset: &Subset, mode: &Mode, start: (usize, usize), rounds: usize) -> Fit {
    match mode.levels {
        4 => fit_lanes::<V, 4>(subset, mode, start, rounds),
        5 => fit_lanes::<V, 5>(subset, mode, start, rounds),
        _ => fit_lanes::<V, 6>(subset, mode, start, rounds),
    }
}

/// Weighted sums of values and levels.
struct Sums {
    /// Of weights, values, squared values.
    w: f32,
    x: f32,
    xx: f32,
    /// Of levels, squared levels, levels times values.
    s: f32,
    ss: f32,
    sx: f32,
}

impl Sums {
    /// The error of endpoints `a`, `a + g`.
    #[inline(always)]
    fn cost(&self, a: f32, g: f32) -> f32 {
        self.xx - 2.0 * (a * self.x + g * self.sx) + a * a * self.w + 2.0 * a * g * self.s + g * g * self.ss
    }

    /// The endpoints of least error; `None` if they are not determined.
    #[inline(always)]
    fn minimum(&self) -> Option<(f32, f32)> {
        let determinant = self.w * self.ss - self.s * self.s;
        if determinant > 1e-6 * self.w * self.w {
            let g = (self.w * self.sx - self.s * self.x) / determinant;
            Some(((self.x - g * self.s) / self.w, g))
        } else {
            None
        }
    }
}

#[inline(always)]
fn total<V: Lanes>(lanes: V) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes.store().0;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

#[inline(always)]
fn fit_lanes<V: Lanes, const L: usize>(
    subset: &Subset,
    mode: &Mode,
    start: (usize, usize),
    rounds: usize,
) -> Fit {
    let vectors = subset.vectors.min(VECTORS);
    let (mut w, mut x) = (V::zero(), V::zero());
    for v in 0..vectors {
        let weight = V::load(&subset.weights[v]);
        w = w + weight;
        x = x + weight * V::load(&subset.values[v]);
    }
    let (w, x) = (total(w), total(x));
    let (mut low, mut high) = start;
    let mut best = Fit { cost: f32::INFINITY, low, high };
    if w <= 0.0 {
        return Fit { cost: 0.0, ..best };
    }
    // Around the mean, or the quadratic form would cancel.
    let mean = x / w;
    let (mut centred, mut products) = ([V::zero(); VECTORS], [V::zero(); VECTORS]);
    let (mut x, mut xx) = (V::zero(), V::zero());
    for v in 0..vectors {
        centred[v] = V::load(&subset.values[v]) - V::splat(mean);
        products[v] = centred[v] * V::load(&subset.weights[v]);
        x = x + products[v];
        xx = xx + products[v] * centred[v];
    }
    let (x, xx) = (total(x), total(xx));
    for _ in 0..rounds {
        let a = mode.reals[low] - mean;
        let g = mode.reals[high] - mean - a;
        let (mut s, mut ss, mut sx) = (V::zero(), V::zero(), V::zero());
        for v in 0..vectors {
            let mut level = V::zero();
            for i in 1..L {
                let threshold = V::splat(a + g * (0.5 * (mode.steps[i - 1] + mode.steps[i])));
                level = threshold.select_lt(centred[v], V::splat(mode.steps[i]), level);
            }
            let weighted = level * V::load(&subset.weights[v]);
            s = s + weighted;
            ss = ss + weighted * level;
            sx = sx + level * products[v];
        }
        let sums = Sums { w, x, xx, s: total(s), ss: total(ss), sx: total(sx) };
        let cost = sums.cost(a, g);
        if cost >= best.cost {
            break;
        }
        best = Fit { cost, low, high };
        let Some((a, g)) = sums.minimum() else { break };
        let (below, above) = (mode.below(a + mean), mode.below(a + g + mean));
        let mut least = cost;
        for (i, j) in [(below, above), (below, above + 1), (below + 1, above), (below + 1, above + 1)] {
            let a = mode.reals[i] - mean;
            let cost = sums.cost(a, mode.reals[j] - mean - a);
            if cost < least && i < j {
                (least, low, high) = (cost, i, j);
            }
        }
        if (low, high) == (best.low, best.high) {
            break;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::super::TEXELS;
    use super::super::alphabet::modes;
    use super::*;
    use crate::codec::testing::gaussian;

    /// The error of endpoints by the definition.
    fn cost(items: &[(f32, f32)], mode: &Mode, low: usize, high: usize) -> f64 {
        let [a, b] = [low, high].map(|i| f64::from(mode.values[i]));
        let error = |x: f32| {
            let levels = mode.steps[..mode.levels].iter().map(|s| a + (b - a) * f64::from(*s) - f64::from(x));
            levels.fold(f64::INFINITY, |m, e| m.min(e * e))
        };
        items.iter().map(|(x, w)| f64::from(*w) * error(*x)).sum()
    }

    #[test]
    fn the_error_is_the_one_reported_and_never_above_the_starts() {
        for (seed, mode) in (0..).zip(modes()) {
            let weights = gaussian(36, 50 + seed).into_iter().map(f32::abs);
            let values = gaussian(36, seed).into_iter().map(|x| 128.0 + 40.0 * x);
            let items: Vec<_> = values.zip(weights).collect();
            let target = Target {
                values: std::array::from_fn(|i| items[i].0),
                weights: std::array::from_fn(|i| items[i].1),
            };
            let subset = Subset::of(&target, 0..TEXELS);
            let end = mode.values.len() - 1;
            for start in [(0, end), (end / 3, end / 2 + 1), (end - 1, end)] {
                let fit = fit(&subset, mode, start, 20);
                let exact = cost(&items, mode, fit.low, fit.high);
                assert!((f64::from(fit.cost) - exact).abs() < 1e-3 * exact, "{fit:?} {exact}");
                assert!(exact <= cost(&items, mode, start.0, start.1) * 1.001);
                assert!(fit.low < fit.high);
            }
        }
    }

    #[test]
    fn nothing_costs_nothing() {
        let target = Target { values: [3.0; TEXELS], weights: [0.0; TEXELS] };
        let subset = Subset::of(&target, 0..7);
        let fit = fit(&subset, &modes()[0], (3, 9), 5);
        assert_eq!(fit, Fit { cost: 0.0, low: 3, high: 9 });
    }
}
