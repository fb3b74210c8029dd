//! Summaries of repeated measurements.

use serde::Serialize;
use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};

/// What n measurements of one number say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Measurements.
    pub n: usize,
    /// Arithmetic mean.
    pub mean: f64,
    /// 95 % confidence interval of the mean: `mean ± t(0.975, n - 1) s / √n`
    /// (Student); absent for a single measurement. It takes the measurements as
    /// independent, which trials of one run on a busy machine are not quite.
    pub ci95: Option<[f64; 2]>,
    /// Smallest.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

impl Summary {
    /// The summary of `samples`; `None` if there are none or one is not finite.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        if !(min.is_finite() && max.is_finite()) {
            return None;
        }
        let n = sorted.len();
        let mean = sorted.iter().sum::<f64>() / n as f64;
        let ci95 = (n > 1).then(|| {
            let variance = sorted.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
            let half = student_t(n - 1) * (variance / n as f64).sqrt();
            [mean - half, mean + half]
        });
        let at = |share| percentile(&sorted, share);
        Some(Self { n, mean, ci95, min, p50: at(0.5), p95: at(0.95), p99: at(0.99), max })
    }
}

/// Linear interpolation between the order statistics around `(n - 1) share`
/// (type 7 of Hyndman and Fan, 1996, which numpy and R use too).
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let below = sorted[at.floor() as usize];
    let above = sorted[at.ceil() as usize];
    below + (above - below) * at.fract()
}

/// The two-sided 95 % point of Student's t with `freedom` degrees, `P(|T| < t) =
/// 0.95`, by bisection.
pub fn student_t(freedom: usize) -> f64 {
    // One degree of freedom needs 12.71, any more less.
    let (mut low, mut high) = (0.0, 16.0);
    for _ in 0..64 {
        let middle = f64::midpoint(low, high);
        if within(middle, freedom.max(1)) < 0.95 { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// `P(|T| < t)` by the finite series in `θ = atan(t / √ν)` (Abramowitz and
/// Stegun 26.7.3 for odd ν, 26.7.4 for even).
fn within(t: f64, freedom: usize) -> f64 {
    let theta = (t / (freedom as f64).sqrt()).atan().min(FRAC_PI_2);
    let (sin, cos) = theta.sin_cos();
    let odd = freedom % 2 == 1;
    // Σ Π (k - 1) / k cos^k, over the k of ν's parity below ν.
    let mut term = if odd { cos } else { 1.0 };
    let mut sum = if freedom > 1 { term } else { 0.0 };
    let mut k = if odd { 3 } else { 2 };
    while k + 2 <= freedom {
        term *= (k - 1) as f64 / k as f64 * cos * cos;
        sum += term;
        k += 2;
    }
    if odd { FRAC_2_PI * (theta + sin * sum) } else { sin * sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9 * b.abs().max(1.0), "{a} is not {b}");
    }

    /// Published tables of t(0.975, ν).
    #[test]
    fn student_points_are_those_of_the_tables() {
        for (freedom, t) in [
            (1, 12.706_204_736),
            (2, 4.302_652_730),
            (3, 3.182_446_305),
            (4, 2.776_445_105),
            (9, 2.262_157_163),
            (10, 2.228_138_852),
            (29, 2.045_229_642),
            (30, 2.042_272_456),
            (120, 1.979_930_405),
        ] {
            assert!((student_t(freedom) - t).abs() < 1e-8, "{freedom}: {}", student_t(freedom));
        }
        // The normal distribution's point in the limit.
        assert!((student_t(100_000) - 1.959_963_985).abs() < 1e-4);
    }

    /// Expected values from numpy.percentile and scipy.stats.t.interval.
    #[test]
    fn summaries_of_known_samples() {
        let s = Summary::of(&[3.0, 1.0, 2.0, 5.0, 4.0]).unwrap();
        assert_eq!((s.n, s.min, s.p50, s.max), (5, 1.0, 3.0, 5.0));
        close(s.mean, 3.0);
        close(s.p95, 4.8);
        close(s.p99, 4.96);
        // s = sqrt(2.5): half-width 2.776445105 * sqrt(2.5 / 5).
        let [low, high] = s.ci95.unwrap();
        assert!((high - 3.0 - 1.963_243_161).abs() < 1e-8 && (low + high - 6.0).abs() < 1e-12);

        let thirty: Vec<f64> = (1..=30).rev().map(f64::from).collect();
        let s = Summary::of(&thirty).unwrap();
        close(s.p50, 15.5);
        close(s.p95, 28.55);
        close(s.p99, 29.71);
        // s² = n (n + 1) / 12 = 77.5.
        let [_, high] = s.ci95.unwrap();
        assert!((high - 15.5 - 2.045_229_642 * (77.5f64 / 30.0).sqrt()).abs() < 1e-8);
    }

    #[test]
    fn few_and_bad_samples() {
        let one = Summary::of(&[7.0]).unwrap();
        assert_eq!((one.ci95, one.p50, one.p99), (None, 7.0, 7.0));
        let same = Summary::of(&[2.0; 4]).unwrap();
        assert_eq!(same.ci95, Some([2.0, 2.0]));
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
        assert_eq!(Summary::of(&[1.0, f64::INFINITY]), None);
    }
}
