//! Cholesky's factorization in f64: blocked, right-looking, in fixed order.

use crate::simd::multiversion;
use rayon::prelude::*;

/// Columns of a panel.
const PANEL: usize = 64;
/// Rows of one task of an update: its panel stays in a core's first cache.
const STRIP: usize = 32;
/// Rows and columns of the update's inner block.
const ROWS: usize = 4;
const LANES: usize = 8;

/// Replaces the lower triangle of the symmetric matrix `a` (`n` x `n`,
/// row-major, lower triangle read) by C with `C C^T = A`. The strict upper
/// triangle is left alone. False if A is not positive definite.
pub(super) fn factor(a: &mut [f64], n: usize) -> bool {
    for start in (0..n).step_by(PANEL) {
        let end = (start + PANEL).min(n);
        let (above, below) = a.split_at_mut(end * n);
        let mut diagonal = vec![0.0; PANEL * PANEL];
        if !factor_diagonal(&mut above[start * n..], n, start, end - start, &mut diagonal) {
            return false;
        }
        let width = end - start;
        below.par_chunks_mut(STRIP * n).for_each(|rows| solve(rows, n, start, width, &diagonal));
        let packed = pack(below, n, start, width);
        below.par_chunks_mut(STRIP * n).enumerate().for_each(|(strip, rows)| {
            update(rows, n, start, width, strip * STRIP, &packed);
        });
    }
    true
}

/// Copies the strict upper triangle onto the lower one.
pub(super) fn mirror(a: &mut [f64], n: usize) {
    for i in 0..n {
        for j in 0..i {
            a[i * n + j] = a[j * n + i];
        }
    }
}

/// Factors the `width` columns from `start` of as many rows, and puts the
/// transposed factor into `out`, [`PANEL`] a row.
fn factor_diagonal(rows: &mut [f64], n: usize, start: usize, width: usize, out: &mut [f64]) -> bool {
    for i in 0..width {
        for j in 0..=i {
            let mut sum = rows[i * n + start + j];
            for p in 0..j {
                sum -= rows[i * n + start + p] * rows[j * n + start + p];
            }
            let value = if i > j {
                sum / rows[j * n + start + j]
            } else if sum > 0.0 && sum.is_finite() {
                sum.sqrt()
            } else {
                return false;
            };
            rows[i * n + start + j] = value;
            out[j * PANEL + i] = value;
        }
    }
    true
}

multiversion! {
    /// Solves `X C^T = A` for the panel's columns of `rows`, where `diagonal`
    /// is `C^T`.
    fn solve(rows: &mut [f64], n: usize, start: usize, width: usize, diagonal: &[f64]) = solve_lanes;
}

#[inline(always)]
fn solve_lanes(rows: &mut [f64], n: usize, start: usize, width: usize, diagonal: &[f64]) {
    for row in rows.chunks_exact_mut(n) {
        let x = &mut row[start..start + width];
        for (p, c) in diagonal.chunks_exact(PANEL).enumerate().take(width) {
            let (solved, rest) = x.split_at_mut(p + 1);
            solved[p] /= c[p];
            for (x, c) in rest.iter_mut().zip(&c[p + 1..]) {
                *x -= solved[p] * c;
            }
        }
    }
}

/// The panel's columns of `rows`, transposed in groups of [`LANES`] rows:
/// `[group][column][lane]`, zeros past the last row.
fn pack(rows: &[f64], n: usize, start: usize, width: usize) -> Vec<f64> {
    let count = rows.len() / n;
    let mut out = vec![0.0; count.div_ceil(LANES) * width * LANES];
    out.par_chunks_mut(width * LANES).zip(rows.par_chunks(LANES * n)).for_each(|(out, rows)| {
        for (lane, row) in rows.chunks_exact(n).enumerate() {
            for (out, x) in out.chunks_exact_mut(LANES).zip(&row[start..start + width]) {
                out[lane] = *x;
            }
        }
    });
    out
}

multiversion! {
    /// `A -= P P^T` in the lower triangle of `rows`, which begin `first` rows
    /// after the panel's end; P's columns begin at `start`.
    fn update(rows: &mut [f64], n: usize, start: usize, width: usize, first: usize, packed: &[f64]) = update_lanes;
}

#[inline(always)]
fn update_lanes(rows: &mut [f64], n: usize, start: usize, width: usize, first: usize, packed: &[f64]) {
    let count = rows.len() / n;
    let groups = (first + count).div_ceil(LANES);
    for (group, p) in packed.chunks_exact(width * LANES).enumerate().take(groups) {
        let column = start + width + group * LANES;
        for (i, rows) in rows.chunks_mut(ROWS * n).enumerate() {
            let mut sums = [[0.0; LANES]; ROWS];
            for (q, p) in p.as_chunks::<LANES>().0.iter().enumerate() {
                for (sums, row) in sums.iter_mut().zip(rows.chunks_exact(n)) {
                    let own = row[start + q];
                    for (sum, p) in sums.iter_mut().zip(p) {
                        *sum += own * p;
                    }
                }
            }
            for (r, (sums, row)) in sums.iter().zip(rows.chunks_exact_mut(n)).enumerate() {
                let last = start + width + first + i * ROWS + r;
                for (j, sum) in (column..=last).zip(sums) {
                    row[j] -= sum;
                }
            }
        }
    }
}
