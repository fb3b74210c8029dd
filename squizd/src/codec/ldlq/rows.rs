//! Rows whose rounding errors are compensated, column by column.

use super::{Feedback, WIDTH};
use crate::codec::half_float::{bf16_to_f32, f32_to_bf16};
use crate::codec::stream::energy;
use crate::simd::multiversion;
use std::ops::Range;

/// What the weights of sixteen columns of a row are rounded to.
#[derive(Clone, Copy)]
pub(in crate::codec) enum Grid {
    /// Codes of a byte each.
    Line(Line),
    /// Words of two bytes.
    Bf16,
}

/// How codes decode: `scale * (q - bias) - minus`.
#[derive(Clone, Copy)]
pub(in crate::codec) struct Line {
    pub(in crate::codec) scale: f32,
    pub(in crate::codec) minus: f32,
    pub(in crate::codec) bias: f32,
    /// The largest code.
    pub(in crate::codec) top: f32,
}

/// Rows of `cols` columns on their way, from the last column to the first.
#[derive(Default)]
pub(in crate::codec) struct Compensated {
    cols: usize,
    /// Errors of the columns done, rows padded to whole widths.
    errors: Vec<f32>,
    sums: Vec<[f32; WIDTH]>,
}

impl Compensated {
    /// Begins with the rows `values`; returns `tr(W H W^T)`: with
    /// `H = L D L^T - damping`, a weighted sum of the squares of `W L`.
    pub(in crate::codec) fn begin(&mut self, values: &[f32], cols: usize, feedback: &Feedback) -> f64 {
        let stride = feedback.cols();
        self.cols = cols;
        self.errors.clear();
        self.errors.resize(values.len() / cols * stride, 0.0);
        for (row, w) in self.errors.chunks_exact_mut(stride).zip(values.chunks_exact(cols)) {
            row[..cols].copy_from_slice(w);
        }
        let mut sum = 0.0;
        for (k, pivots) in feedback.pivots().chunks(WIDTH).enumerate() {
            self.sum(k, k + 1..stride / WIDTH, feedback);
            for (row, out) in self.errors.chunks_exact(stride).zip(&mut self.sums) {
                let own = &row[k * WIDTH..][..WIDTH];
                inside(feedback, k, own, out);
                for ((x, own), d) in out.iter().zip(own).zip(pivots) {
                    let x = f64::from(x + own);
                    sum += d * x * x;
                }
            }
        }
        self.errors.fill(0.0);
        (sum - feedback.damping() * energy(values)).max(0.0)
    }

    /// The feedback to width `k` from the widths `from` into `sums`.
    fn sum(&mut self, k: usize, from: Range<usize>, feedback: &Feedback) {
        self.sums.clear();
        self.sums.resize(self.errors.len() / feedback.cols(), [0.0; WIDTH]);
        feedback.add_part(k, from, &self.errors, &mut self.sums);
    }

    /// Fills `targets` with the weights of the columns `range` (from a width's
    /// first on) and the feedback from all columns behind them.
    pub(in crate::codec) fn aim(
        &mut self,
        values: &[f32],
        range: Range<usize>,
        feedback: &Feedback,
        targets: &mut Vec<f32>,
    ) {
        let width = range.len();
        targets.clear();
        for w in values.chunks_exact(self.cols) {
            targets.extend_from_slice(&w[range.clone()]);
        }
        let behind = range.end.div_ceil(WIDTH)..feedback.cols() / WIDTH;
        for (k, at) in (range.start / WIDTH..).zip((0..width).step_by(WIDTH)) {
            self.sum(k, behind.clone(), feedback);
            for (row, add) in targets.chunks_exact_mut(width).zip(&self.sums) {
                for (t, add) in row[at..].iter_mut().zip(add) {
                    *t += add;
                }
            }
        }
    }

    /// Rounds the columns `range` of all rows towards `targets` (of
    /// [`Self::aim`]) and the feedback among them; returns the sum of
    /// `D (E L)^2`. `grid` is asked with a row and an offset in the range; a
    /// row's codes are the `stride` bytes in `codes`, the range's behind
    /// `offset` of them.
    #[allow(clippy::too_many_arguments, reason = "all that codes depend on, and where they go")]
    pub(in crate::codec) fn round(
        &mut self,
        values: &[f32],
        range: Range<usize>,
        feedback: &Feedback,
        targets: &[f32],
        grid: impl Fn(usize, usize) -> Grid,
        codes: &mut [u8],
        stride: usize,
        offset: usize,
    ) -> f64 {
        let (cols, width) = (self.cols, range.len());
        let last = range.end.div_ceil(WIDTH);
        let mut noise = 0.0;
        for at in (0..width).step_by(WIDTH).rev() {
            let k = range.start / WIDTH + at / WIDTH;
            self.sum(k, k + 1..last, feedback);
            let columns = k * WIDTH..(k * WIDTH + WIDTH).min(cols);
            let rows = self.errors.chunks_exact_mut(feedback.cols()).zip(&mut self.sums);
            let weights = values.chunks_exact(cols).zip(targets.chunks_exact(width));
            let rows = rows.zip(weights).zip(codes.chunks_exact_mut(stride));
            for (row, (((errors, aim), (w, target)), codes)) in rows.enumerate() {
                for (aim, t) in aim.iter_mut().zip(&target[at..]) {
                    *aim += t;
                }
                let (w, errors) = (&w[columns.clone()], &mut errors[columns.clone()]);
                noise += match grid(row, at) {
                    Grid::Line(line) => {
                        let codes = &mut codes[offset + at..][..columns.len()];
                        round_line(feedback, k, line, w, aim, errors, codes)
                    }
                    Grid::Bf16 => {
                        let words = &mut codes[offset + 2 * at..][..2 * columns.len()];
                        round_bf16(feedback, k, w, aim, errors, words)
                    }
                };
            }
        }
        noise
    }

    /// The plain squared error of the columns done.
    pub(in crate::codec) fn noise(&self, feedback: &Feedback) -> f64 {
        self.errors.chunks_exact(feedback.cols().max(1)).map(energy).sum()
    }
}

multiversion! {
    /// Rounds up to sixteen columns of a row towards `targets`, the last first;
    /// returns the sum of `D (E L)^2`.
    fn round_line(feedback: &Feedback, k: usize, line: Line, w: &[f32], targets: &mut [f32; WIDTH], errors: &mut [f32], codes: &mut [u8]) -> f64 = line_lanes;
}

#[inline(always)]
fn line_lanes(
    feedback: &Feedback,
    k: usize,
    line: Line,
    w: &[f32],
    targets: &mut [f32; WIDTH],
    errors: &mut [f32],
    codes: &mut [u8],
) -> f64 {
    let Line { scale, minus, bias, top } = line;
    let inverse = if scale.abs() >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
    let nearest = |j: usize, t: f32| {
        // NaN (an infinite weight was refused before) would become 0.
        let q = ((t + minus) * inverse + bias).max(0.0).min(top) + 12_582_912.0 - 12_582_912.0;
        codes[j] = q as u8;
        scale * (q - bias) - minus
    };
    round_lanes(feedback, k, w, targets, errors, nearest)
}

multiversion! {
    /// The same to bfloat16.
    fn round_bf16(feedback: &Feedback, k: usize, w: &[f32], targets: &mut [f32; WIDTH], errors: &mut [f32], words: &mut [u8]) -> f64 = bf16_lanes;
}

#[inline(always)]
fn bf16_lanes(
    feedback: &Feedback,
    k: usize,
    w: &[f32],
    targets: &mut [f32; WIDTH],
    errors: &mut [f32],
    words: &mut [u8],
) -> f64 {
    let nearest = |j: usize, t: f32| {
        let word = f32_to_bf16(t);
        words[2 * j..2 * j + 2].copy_from_slice(&word.to_le_bytes());
        bf16_to_f32(word)
    };
    round_lanes(feedback, k, w, targets, errors, nearest)
}

#[inline(always)]
fn round_lanes(
    feedback: &Feedback,
    k: usize,
    w: &[f32],
    targets: &mut [f32; WIDTH],
    errors: &mut [f32],
    mut nearest: impl FnMut(usize, f32) -> f32,
) -> f64 {
    let pivots = feedback.pivots().get(k * WIDTH..).unwrap_or_default();
    let mut noise = 0.0;
    for j in (0..w.len().min(WIDTH)).rev() {
        let t = targets[j];
        let v = nearest(j, t);
        errors[j] = w[j] - v;
        let rest = f64::from(t - v);
        noise += pivots.get(j).copied().unwrap_or(0.0) * rest * rest;
        if let Some(l) = feedback.row(k, k * WIDTH + j).first_chunk::<WIDTH>() {
            // Columns from j on are done: what is added to them has no effect.
            for (t, l) in targets.iter_mut().zip(l) {
                *t += errors[j] * l;
            }
        }
    }
    noise
}

/// Adds to `out` the products of the width's own columns with L below its
/// diagonal.
fn inside(feedback: &Feedback, k: usize, own: &[f32], out: &mut [f32; WIDTH]) {
    for (j, x) in own.iter().enumerate() {
        for (out, l) in out.iter_mut().zip(feedback.row(k, k * WIDTH + j)).take(j) {
            *out += x * l;
        }
    }
}
