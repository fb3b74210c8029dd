//! Error-compensated rounding: the linear algebra of LDLQ, which is GPTQ.
//!
//! A layer whose inputs have the second moments `H = E[x x^T]` makes the
//! expected squared output error `tr(E H E^T)` for the weight error `E = W - V`.
//! With `H = L D L^T`, L unit lower triangular in blocks of columns,
//!
//! ```text
//! tr(E H E^T) = tr((E L) D (E L)^T),   (E L)_k = E_k + sum over i > k of E_i L_ik
//! ```
//!
//! so columns are quantized from the last block to the first, each towards
//! `W_k + sum over i > k of E_i L_ik`: the errors already made are taken back
//! as far as later columns can (QuIP, Chee et al. 2023; GPTQ is the case of one
//! column a block).
//!
//! Everything here runs in a fixed order, without fused operations, so that
//! encoded bytes depend on neither CPU nor thread count.

mod cholesky;
mod rows;

pub(super) use rows::{Compensated, Grid, Line};

use super::guide::InputMoments;
use crate::simd::multiversion;
use rayon::prelude::*;
use std::ops::Range;

/// Columns that feedback is computed for at once.
pub(super) const WIDTH: usize = 16;
/// Share of the mean diagonal that is added to H: inputs seen in calibration
/// are a sample.
const DAMPING: f64 = 0.01;
/// The same where H, as accumulated, is not positive definite: tried in turn.
const STRONGER: [f64; 2] = [0.1, 1.0];

/// Share of the output error of plain rounding that compensation column by
/// column leaves: for errors of one size the mean of D over that of H's
/// diagonal. 1 where H is not known, or is no such matrix.
pub(crate) fn uncompensated(moments: &InputMoments) -> f64 {
    let cols = moments.importance.len();
    let factor = |h: &[f32]| Feedback::new(h.par_iter().map(|v| f64::from(*v)).collect(), cols, 1);
    let Some(feedback) = moments.hessian().and_then(factor) else { return 1.0 };
    let diagonal: f64 = moments.importance.iter().map(|h| f64::from(*h) + feedback.damping).sum();
    feedback.pivots.iter().sum::<f64>() / diagonal
}

/// The factor L of one H, in the order in which it is used.
#[derive(Debug)]
pub(super) struct Feedback {
    /// Columns, padded to whole widths.
    cols: usize,
    /// For each width of columns k: the rows from `k WIDTH` on, 16 numbers each.
    packed: Vec<f32>,
    /// D, for blocks of one column.
    pivots: Vec<f64>,
    /// What was added to H's diagonal.
    damping: f64,
}

impl Feedback {
    /// Factors the symmetric matrix `h` of `cols` columns in row-major order
    /// (only its lower triangle is read), with unit blocks of `unit` columns (a
    /// divisor of [`WIDTH`]). `None` if all of it is zero, or it is not positive
    /// semidefinite.
    pub(super) fn new(mut h: Vec<f64>, cols: usize, unit: usize) -> Option<Self> {
        let mean = (0..cols).filter_map(|i| h.get(i * cols + i)).sum::<f64>() / cols as f64;
        if !(mean > 0.0 && mean.is_finite()) {
            return None;
        }
        let diagonal: Vec<f64> = h.iter().step_by(cols + 1).copied().collect();
        let damp = |h: &mut [f64], share: f64| {
            for (at, d) in h.iter_mut().step_by(cols + 1).zip(&diagonal) {
                *at = d + share * mean;
            }
        };
        // The upper triangle survives the factorization: a second attempt begins
        // with its mirror image.
        damp(&mut h, DAMPING);
        let mut done = cholesky::factor(&mut h, cols);
        let mut damping = DAMPING * mean;
        for share in STRONGER {
            if !done {
                cholesky::mirror(&mut h, cols);
                damp(&mut h, share);
                done = cholesky::factor(&mut h, cols);
                damping = share * mean;
            }
        }
        done.then(|| Self::pack(&h, cols, unit, damping))
    }

    /// `L = C diag(C_kk)^-1` from the Cholesky factor C, in order of use.
    fn pack(c: &[f64], cols: usize, unit: usize, damping: f64) -> Self {
        let padded = cols.next_multiple_of(WIDTH);
        let mut packed = vec![0.0; Self::start(padded, padded / WIDTH)];
        let mut parts = Vec::new();
        let mut rest = &mut packed[..];
        for k in 0..padded / WIDTH {
            let (part, after) = rest.split_at_mut((padded - k * WIDTH) * WIDTH);
            parts.push(part);
            rest = after;
        }
        parts.into_par_iter().enumerate().for_each(|(k, part)| {
            for (i, out) in (k * WIDTH..cols).zip(part.as_chunks_mut::<WIDTH>().0) {
                let columns = k * WIDTH..(k * WIDTH + WIDTH).min(i / unit * unit + unit).min(cols);
                let mut row = [0.0; WIDTH];
                row[..columns.len()].copy_from_slice(&c[i * cols..][columns.clone()]);
                // Back substitution by rows of the unit blocks on the diagonal.
                for j in (0..columns.len()).rev() {
                    let end = (j / unit * unit + unit).min(columns.len());
                    let above: f64 = (j + 1..end)
                        .map(|p| row[p] * c[(columns.start + p) * cols + columns.start + j])
                        .sum();
                    row[j] = (row[j] - above) / c[(columns.start + j) * cols + columns.start + j];
                }
                for (out, x) in out.iter_mut().zip(row) {
                    *out = x as f32;
                }
            }
        });
        let pivots = c.iter().step_by(cols + 1).map(|c| c * c).collect();
        Self { cols: padded, packed, pivots, damping }
    }

    /// Where the rows of columns `k WIDTH` and on begin.
    fn start(padded: usize, k: usize) -> usize {
        WIDTH * (k * padded - WIDTH * (k * k.saturating_sub(1) / 2))
    }

    /// Columns, padded to whole widths.
    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    /// `out[r] += sum over i >= (k + 1) WIDTH of errors[r][i] L[i][k WIDTH..]`
    /// for the rows `r` of `errors`, each as long as the columns padded to whole
    /// widths.
    pub(super) fn add(&self, k: usize, errors: &[f32], out: &mut [[f32; WIDTH]]) {
        self.add_part(k, k + 1..self.cols / WIDTH, errors, out);
    }

    /// The same over the columns of the widths `from`, all behind `k`, only.
    pub(super) fn add_part(&self, k: usize, from: Range<usize>, errors: &[f32], out: &mut [[f32; WIDTH]]) {
        let at = |width: usize| Self::start(self.cols, k) + (width - k) * WIDTH * WIDTH;
        if k < from.start
            && let Some(rows) = self.packed.get(at(from.start)..at(from.end))
        {
            accumulate(rows.as_chunks().0, errors, self.cols, from.start * WIDTH, out);
        }
    }

    /// Row `i >= k WIDTH` of L in the columns from `k WIDTH` on.
    pub(super) fn row(&self, k: usize, i: usize) -> &[f32] {
        let start = Self::start(self.cols, k) + (i - k * WIDTH) * WIDTH;
        self.packed.get(start..start + WIDTH).unwrap_or_default()
    }

    /// D, where blocks are of one column.
    pub(super) fn pivots(&self) -> &[f64] {
        &self.pivots
    }

    /// What was added to H's diagonal.
    pub(super) fn damping(&self) -> f64 {
        self.damping
    }
}

multiversion! {
    /// `out[r] += sum_i errors[r][from + i] factor[i]`, in order of i.
    fn accumulate(factor: &[[f32; WIDTH]], errors: &[f32], cols: usize, from: usize, out: &mut [[f32; WIDTH]]) = accumulate_lanes;
}

#[inline(always)]
fn accumulate_lanes(
    factor: &[[f32; WIDTH]],
    errors: &[f32],
    cols: usize,
    from: usize,
    out: &mut [[f32; WIDTH]],
) {
    const ROWS: usize = 4;
    let to = from + factor.len();
    for (errors, out) in errors.chunks(ROWS * cols).zip(out.chunks_mut(ROWS)) {
        if let Ok(out) = <&mut [[f32; WIDTH]; ROWS]>::try_from(&mut *out)
            && errors.len() == ROWS * cols
        {
            let mut sums = *out;
            let [a, b, c, d]: [&[f32]; ROWS] =
                std::array::from_fn(|r| &errors[r * cols + from..r * cols + to]);
            for ((((l, a), b), c), d) in factor.iter().zip(a).zip(b).zip(c).zip(d) {
                for (sums, e) in sums.iter_mut().zip([a, b, c, d]) {
                    for (sum, l) in sums.iter_mut().zip(l) {
                        *sum += e * l;
                    }
                }
            }
            *out = sums;
        } else {
            for (errors, out) in errors.chunks_exact(cols).zip(out) {
                for (l, e) in factor.iter().zip(&errors[from..to]) {
                    for (sum, l) in out.iter_mut().zip(l) {
                        *sum += e * l;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::testing::gaussian;

    /// `A A^T` for Gaussian A, correlated by a running mean.
    fn moments(cols: usize, samples: usize, seed: u64) -> Vec<f64> {
        let mut x = gaussian(cols * samples, seed);
        for x in x.chunks_mut(cols) {
            for j in 1..cols {
                x[j] = 0.9 * x[j - 1] + 0.5 * x[j];
            }
        }
        let mut h = vec![0.0; cols * cols];
        for x in x.chunks(cols) {
            for (h, a) in h.chunks_mut(cols).zip(x) {
                for (h, b) in h.iter_mut().zip(x) {
                    *h += f64::from(*a) * f64::from(*b);
                }
            }
        }
        h
    }

    #[test]
    fn the_factor_gives_the_matrix_back() {
        for (cols, unit) in [(5usize, 1usize), (16, 1), (40, 1), (40, 4), (100, 16), (130, 16), (200, 1)] {
            let h = moments(cols, 2 * cols, cols as u64);
            let feedback = Feedback::new(h.clone(), cols, unit).unwrap();
            let mean = h.iter().step_by(cols + 1).sum::<f64>() / cols as f64;
            let l = |i: usize, j: usize| {
                let same = i / unit == j / unit;
                if same {
                    f64::from(u8::from(i == j))
                } else if j > i {
                    0.0
                } else {
                    f64::from(feedback.row(j / WIDTH, i)[j % WIDTH])
                }
            };
            // L^-1 (H + damping) L^-T must be block diagonal: eliminate and look.
            let mut d = h.clone();
            for i in 0..cols {
                d[i * cols + i] += DAMPING * mean;
            }
            for side in 0..2 {
                for i in 0..cols {
                    for j in 0..i {
                        let factor = l(i, j);
                        for p in 0..cols {
                            let (to, from) = if side == 0 {
                                (i * cols + p, j * cols + p)
                            } else {
                                (p * cols + i, p * cols + j)
                            };
                            d[to] -= factor * d[from];
                        }
                    }
                }
            }
            for i in 0..cols {
                for j in 0..cols {
                    let bound = 1e-4 * (d[i * cols + i] * d[j * cols + j]).sqrt();
                    assert!(
                        i / unit == j / unit || d[i * cols + j].abs() < bound,
                        "{cols} {unit}: {i} {j} {}",
                        d[i * cols + j]
                    );
                }
            }
        }
    }

    #[test]
    fn feedback_is_the_sum_over_later_columns() {
        let (cols, rows) = (70usize, 7);
        let feedback = Feedback::new(moments(cols, 99, 1), cols, 16).unwrap();
        let stride = feedback.cols();
        assert_eq!(stride, 80);
        let errors = gaussian(rows * stride, 2);
        for k in 0..stride / WIDTH {
            let mut out = vec![[1.0; WIDTH]; rows];
            feedback.add(k, &errors, &mut out);
            for (r, out) in out.iter().enumerate() {
                for (j, out) in out.iter().enumerate() {
                    let later = (k + 1) * WIDTH..stride;
                    let sum: f32 = later.map(|i| errors[r * stride + i] * feedback.row(k, i)[j]).sum();
                    assert!((out - 1.0 - sum).abs() < 1e-4, "{k} {r} {j}: {out} {sum}");
                }
            }
        }
    }

    #[test]
    fn one_column_a_block_is_gptq() {
        // Rounding to integers with the feedback of single columns.
        let cols = 48;
        let h = moments(cols, 500, 3);
        let feedback = Feedback::new(h.clone(), cols, 1).unwrap();
        let w: Vec<f32> = gaussian(cols, 4).iter().map(|v| 2.0 * v).collect();
        let mut errors = vec![0.0; cols];
        for j in (0..cols).rev() {
            let mut out = [[0.0; WIDTH]];
            feedback.add(j / WIDTH, &errors, &mut out);
            let inside: f32 = (j + 1..(j / WIDTH + 1) * WIDTH)
                .map(|i| errors[i] * feedback.row(j / WIDTH, i)[j % WIDTH])
                .sum();
            let target = w[j] + out[0][j % WIDTH] + inside;
            errors[j] = w[j] - target.round();
        }
        let plain: Vec<f32> = w.iter().map(|w| w - w.round()).collect();
        let loss = |e: &[f32]| {
            let e: Vec<f64> = e.iter().map(|e| f64::from(*e)).collect();
            h.chunks(cols)
                .zip(&e)
                .map(|(h, a)| a * h.iter().zip(&e).map(|(h, b)| h * b).sum::<f64>())
                .sum::<f64>()
        };
        assert!(loss(&errors) < 0.5 * loss(&plain), "{} {}", loss(&errors), loss(&plain));
    }

    #[test]
    fn singular_moments_are_damped_and_impossible_ones_refused() {
        let cols = 33;
        assert!(Feedback::new(vec![0.0; cols * cols], cols, 16).is_none());
        assert!(Feedback::new(vec![1.0; cols * cols], cols, 16).is_some());
        let mut indefinite = vec![0.0; cols * cols];
        for i in 0..cols {
            indefinite[i * cols + i] = 1.0;
        }
        (indefinite[1], indefinite[cols]) = (5.0, 5.0);
        assert!(Feedback::new(indefinite, cols, 16).is_none());
        let mut nan = vec![1.0; cols * cols];
        nan[0] = f64::NAN;
        assert!(Feedback::new(nan, cols, 16).is_none());
    }

    #[test]
    fn factors_do_not_depend_on_threads_or_instructions() {
        let cols = 150;
        let h = moments(cols, 200, 9);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let packed = pool.install(|| Feedback::new(h.clone(), cols, 16)).unwrap().packed;
            packed.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        crate::simd::force(crate::simd::Level::Scalar).unwrap();
        let expected = run(1);
        for level in crate::simd::Level::supported() {
            crate::simd::force(level).unwrap();
            assert!(run(3) == expected, "{level}");
        }
    }
}
