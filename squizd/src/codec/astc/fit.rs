//! Endpoints of one subset of texels by alternating least squares.

use super::alphabet::Mode;
use crate::simd::multiversion;

/// Lanes of the sums.
const LANES: usize = 8;
/// Texels of a subset at most, in whole vectors.
pub(super) const CAPACITY: usize = 40;

/// A weighted set of values to fit: `values[..count]`, padded with weights 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subset {
    /// In endpoint units: 0 to 255 is the range of texels.
    pub(super) values: [f32; CAPACITY],
    /// Weights of the squared errors.
    pub(super) weights: [f32; CAPACITY],
    /// Values set, a multiple of [`LANES`].
    count: usize,
}

impl Subset {
    /// Collects values and weights; beyond [`CAPACITY`] they are left out.
    pub(super) fn collect(items: impl Iterator<Item = (f32, f32)>) -> Self {
        let mut subset = Self { values: [0.0; CAPACITY], weights: [0.0; CAPACITY], count: 0 };
        let mut taken = 0usize;
        for ((value, weight), item) in subset.values.iter_mut().zip(&mut subset.weights).zip(items) {
            (*value, *weight) = item;
            taken += 1;
        }
        subset.count = taken.next_multiple_of(LANES);
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

multiversion! {
    /// Improves the endpoints `start` of a subset in at most `rounds` rounds.
    ///
    /// With levels `s` assigned to the values `x`, the error of endpoints `a`,
    /// `a + g` is a quadratic form of `a` and `g` in six sums; its minimum gives
    /// the next endpoints, of which the nine representable ones nearby are
    /// compared. Neither step can raise the error.
    pub(super) fn fit(subset: &Subset, mode: &Mode, start: (usize, usize), rounds: usize) -> Fit = fit_levels;
}

#[inline(always)]
fn fit_levels(subset: &Subset, mode: &Mode, start: (usize, usize), rounds: usize) -> Fit {
    match mode.levels {
        3 => fit_lanes::<3>(subset, mode, start, rounds),
        4 => fit_lanes::<4>(subset, mode, start, rounds),
        5 => fit_lanes::<5>(subset, mode, start, rounds),
        _ => fit_lanes::<6>(subset, mode, start, rounds),
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
        (determinant > 1e-6 * self.w * self.w).then(|| {
            let g = (self.w * self.sx - self.s * self.x) / determinant;
            ((self.x - g * self.s) / self.w, g)
        })
    }
}

#[inline(always)]
fn total(lanes: [f32; LANES]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

#[inline(always)]
fn fit_lanes<const L: usize>(
    subset: &Subset,
    mode: &Mode,
    start: (usize, usize),
    rounds: usize,
) -> Fit {
    let count = subset.count.min(CAPACITY);
    let (values, weights) = (subset.values[..count].as_chunks::<LANES>().0, subset.weights[..count].as_chunks::<LANES>().0);
    let (mut w, mut x) = ([0.0; LANES], [0.0; LANES]);
    for (v, k) in values.iter().zip(weights) {
        for l in 0..LANES {
            w[l] += k[l];
            x[l] += k[l] * v[l];
        }
    }
    let w = total(w);
    let (mut low, mut high) = start;
    let mut best = Fit { cost: f32::INFINITY, low, high };
    if w <= 0.0 {
        return Fit { cost: 0.0, ..best };
    }
    // Around the mean, or the quadratic form would cancel.
    let mean = total(x) / w;
    for _ in 0..rounds {
        let a = f32::from(mode.values[low]) - mean;
        let g = f32::from(mode.values[high]) - mean - a;
        let inverse = 1.0 / g;
        let mut sums = [[0.0; LANES]; 5];
        for (v, k) in values.iter().zip(weights) {
            for l in 0..LANES {
                let x = v[l] - mean;
                let u = (x - a) * inverse;
                let mut s = 0.0;
                for i in 1..L {
                    let (below, above) = (mode.steps[i - 1], mode.steps[i]);
                    s = if u > 0.5 * (below + above) { above } else { s };
                }
                let (kx, ks) = (k[l] * x, k[l] * s);
                sums[0][l] += kx;
                sums[1][l] += kx * x;
                sums[2][l] += ks;
                sums[3][l] += ks * s;
                sums[4][l] += kx * s;
            }
        }
        let [x, xx, s, ss, sx] = sums.map(total);
        let sums = Sums { w, x, xx, s, ss, sx };
        let cost = sums.cost(a, g);
        if cost >= best.cost {
            break;
        }
        best = Fit { cost, low, high };
        let Some((a, g)) = sums.minimum() else { break };
        let (near_low, near_high) = (mode.index(a + mean), mode.index(a + g + mean));
        let mut least = cost;
        for i in near_low.saturating_sub(1)..(near_low + 2).min(mode.values.len()) {
            for j in near_high.saturating_sub(1).max(i + 1)..(near_high + 2).min(mode.values.len()) {
                let a = f32::from(mode.values[i]) - mean;
                let cost = sums.cost(a, f32::from(mode.values[j]) - mean - a);
                if cost < least {
                    (least, low, high) = (cost, i, j);
                }
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
    use super::super::alphabet::modes;
    use super::*;
    use crate::codec::testing::gaussian;

    /// The error of endpoints by the definition.
    fn cost(subset: &Subset, mode: &Mode, low: usize, high: usize) -> f64 {
        let [a, b] = [low, high].map(|i| f64::from(mode.values[i]));
        let error = |x: f32| {
            let levels = mode.steps[..mode.levels].iter().map(|s| a + (b - a) * f64::from(*s) - f64::from(x));
            levels.fold(f64::INFINITY, |m, e| m.min(e * e))
        };
        subset.values.iter().zip(&subset.weights).map(|(x, w)| f64::from(*w) * error(*x)).sum()
    }

    #[test]
    fn the_error_is_the_one_reported_and_never_above_the_starts() {
        for (seed, mode) in (0..).zip(modes()) {
            let weights = gaussian(36, 50 + seed).into_iter().map(f32::abs);
            let values = gaussian(36, seed).into_iter().map(|x| 128.0 + 40.0 * x);
            let subset = Subset::collect(values.zip(weights));
            let end = mode.values.len() - 1;
            for start in [(0, end), (end / 3, end / 2 + 1), (end - 1, end)] {
                let fit = fit(&subset, mode, start, 20);
                let exact = cost(&subset, mode, fit.low, fit.high);
                assert!((f64::from(fit.cost) - exact).abs() < 1e-3 * exact, "{fit:?} {exact}");
                assert!(exact <= cost(&subset, mode, start.0, start.1) * 1.001);
                assert!(fit.low < fit.high);
            }
        }
    }

    #[test]
    fn nothing_costs_nothing() {
        let fit = fit(&Subset::collect([(3.0, 0.0)].into_iter()), &modes()[0], (3, 9), 5);
        assert_eq!(fit, Fit { cost: 0.0, low: 3, high: 9 });
    }
}
