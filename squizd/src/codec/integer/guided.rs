//! Encoding by what calibration knows of a layer's inputs.
//!
//! With importances alone, scales are fitted by weighted least squares and
//! weights rounded to the nearest value. With all of `H`, rounding errors are
//! compensated ([`crate::codec::ldlq`], blocks of one column, which is GPTQ):
//! superblocks from a row's last to its first, each superblock's scales fitted
//! to its weights with the feedback of all errors behind it, then its columns
//! rounded one by one, from the last.

use super::encode::{Coded, Tally, encode_rows};
use super::fit::top;
use super::layout::{Layout, SUPERBLOCK, block_scales};
use crate::codec::guide::InputMoments;
use crate::codec::ldlq::{Feedback, WIDTH};
use crate::codec::stream::energy;
use crate::codec::{EncodeStats, OutputError};
use crate::simd::multiversion;
use rayon::prelude::*;

/// Share of the mean that is added to every importance: a channel that
/// calibration never saw still counts.
const FLOOR: f64 = 0.01;

/// What is known of the inputs of some rows.
pub(super) struct Inputs<'a> {
    moments: &'a InputMoments,
    /// About 1 on average, none 0.
    relative: Vec<f32>,
    feedback: Option<Feedback>,
}

impl<'a> Inputs<'a> {
    /// Prepares the moments of inputs; `None` if they say nothing.
    pub(super) fn new(moments: &'a InputMoments) -> Option<Self> {
        let cols = moments.importance.len();
        let mean = moments.importance.iter().map(|v| f64::from(*v)).sum::<f64>() / cols as f64;
        if !(mean > 0.0 && mean.is_finite()) {
            return None;
        }
        let relative = |v: &f32| ((f64::from(*v) / mean + FLOOR) / (1.0 + FLOOR)) as f32;
        let factor = |h: &[f32]| Feedback::new(h.par_iter().map(|v| f64::from(*v)).collect(), cols, 1);
        Some(Self {
            moments,
            relative: moments.importance.iter().map(relative).collect(),
            feedback: moments.hessian().and_then(factor),
        })
    }

    /// Importance of each column, about 1 on average.
    pub(super) fn importance(&self) -> &[f32] {
        &self.relative
    }

    /// What errors are compensated with.
    pub(super) fn feedback(&self) -> Option<&Feedback> {
        self.feedback.as_ref()
    }

    /// The error of outputs for weights `w` decoded as `v`, from importances.
    pub(super) fn output(&self, w: &[f32], v: &[f32]) -> OutputError {
        output_error(&self.moments.importance, w, v)
    }
}

/// The error of outputs for rows of weights `w` decoded as `v`, from the
/// `importance` of each column.
pub(in crate::codec) fn output_error(importance: &[f32], w: &[f32], v: &[f32]) -> OutputError {
    let cols = importance.len().max(1);
    let mut sum = OutputError::default();
    for (w, v) in w.chunks_exact(cols).zip(v.chunks_exact(cols)) {
        for ((w, v), h) in w.iter().zip(v).zip(importance) {
            let (w, v, h) = (f64::from(*w), f64::from(*v), f64::from(*h));
            sum.signal += w * w * h;
            sum.noise += (w - v) * (w - v) * h;
        }
    }
    sum
}

/// One worker's memory.
#[derive(Default)]
pub(super) struct Worker {
    /// Errors of the columns done, rows padded to whole widths.
    errors: Vec<f32>,
    /// A superblock of every row, with feedback from behind it.
    targets: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<u8>,
    feedback: Vec<[f32; WIDTH]>,
}

impl Worker {
    /// Encodes whole rows of `cols` columns with compensated errors.
    #[allow(clippy::too_many_arguments, reason = "all that a row's codes depend on")]
    pub(super) fn encode_rows(
        &mut self,
        bits: u32,
        layout: Layout,
        values: &[f32],
        cols: usize,
        importance: &[f32],
        feedback: &Feedback,
        out: &mut Coded<'_>,
    ) -> Tally {
        let stride = feedback.cols();
        let count = values.len() / cols;
        zeroed(&mut self.errors, count * stride);
        let mut output = OutputError { signal: self.signal(values, cols, feedback), noise: 0.0 };
        let mut overflow: Option<usize> = None;
        for start in (0..cols).step_by(SUPERBLOCK).rev() {
            let end = (start + SUPERBLOCK).min(cols);
            let width = end - start;
            self.aim(values, cols, start..end, feedback);
            // Scales for the compensated weights.
            let scale_range = scale_range(layout, start, width);
            zeroed(&mut self.scales, count * scale_range.len());
            zeroed(&mut self.codes, count * width.next_multiple_of(32));
            let mut part = Coded {
                codes: &mut self.codes,
                code_stride: width.next_multiple_of(32),
                scales: &mut self.scales,
                scale_stride: scale_range.len(),
            };
            let importance = importance.get(start..end);
            let tally = encode_rows(bits, layout, &self.targets, width, importance, &mut part);
            overflow = [overflow, tally.overflow].into_iter().flatten().min();
            let rows = out.scales.chunks_exact_mut(out.scale_stride);
            for (row, stored) in rows.zip(self.scales.chunks_exact(scale_range.len())) {
                if let Some(row) = row.get_mut(scale_range.clone()) {
                    row.copy_from_slice(stored);
                }
            }
            output.noise += self.round(layout, top(bits), values, cols, start..end, feedback, out);
        }
        let mut noise = 0.0;
        for errors in self.errors.chunks_exact(stride) {
            noise += energy(errors);
        }
        output.noise = (output.noise - feedback.damping() * noise).max(0.0);
        let stats = EncodeStats { output: Some(output), ..EncodeStats::new(energy(values), noise) };
        Tally { stats, overflow }
    }

    /// `tr(W H W^T)` of the rows: with `H = L D L^T - damping`, a weighted sum
    /// of the squares of `W L`.
    fn signal(&mut self, values: &[f32], cols: usize, feedback: &Feedback) -> f64 {
        let stride = feedback.cols();
        for (row, w) in self.errors.chunks_exact_mut(stride).zip(values.chunks_exact(cols)) {
            row[..cols].copy_from_slice(w);
        }
        let mut sum = 0.0;
        for (k, pivots) in feedback.pivots().chunks(WIDTH).enumerate() {
            self.feedback.clear();
            self.feedback.resize(values.len() / cols, [0.0; WIDTH]);
            feedback.add(k, &self.errors, &mut self.feedback);
            for (row, out) in self.errors.chunks_exact(stride).zip(&mut self.feedback) {
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

    /// Fills `targets` with the weights of the columns `range` and the feedback
    /// from all columns behind them.
    fn aim(&mut self, values: &[f32], cols: usize, range: std::ops::Range<usize>, feedback: &Feedback) {
        let width = range.len();
        self.targets.clear();
        for w in values.chunks_exact(cols) {
            self.targets.extend_from_slice(&w[range.clone()]);
        }
        let behind = range.end.div_ceil(WIDTH)..feedback.cols() / WIDTH;
        for (k, at) in (range.start / WIDTH..).zip((0..width).step_by(WIDTH)) {
            self.feedback.clear();
            self.feedback.resize(values.len() / cols, [0.0; WIDTH]);
            feedback.add_part(k, behind.clone(), &self.errors, &mut self.feedback);
            for (row, add) in self.targets.chunks_exact_mut(width).zip(&self.feedback) {
                for (t, add) in row[at..].iter_mut().zip(add) {
                    *t += add;
                }
            }
        }
    }

    /// Rounds the columns `range` of all rows; returns the sum of `D (E L)^2`.
    #[allow(clippy::too_many_arguments, reason = "one step of encode_rows")]
    fn round(
        &mut self,
        layout: Layout,
        top: f32,
        values: &[f32],
        cols: usize,
        range: std::ops::Range<usize>,
        feedback: &Feedback,
        out: &mut Coded<'_>,
    ) -> f64 {
        let width = range.len();
        let scale_bytes = self.scales.len() / (values.len() / cols).max(1);
        let scales: Vec<_> = self
            .scales
            .chunks_exact(scale_bytes.max(1))
            .map(|stored| block_scales(layout, stored, 0))
            .collect();
        let last = range.end.div_ceil(WIDTH);
        let mut noise = 0.0;
        for (k, at) in
            (range.start / WIDTH..).zip((0..width).step_by(WIDTH)).collect::<Vec<_>>().into_iter().rev()
        {
            self.feedback.clear();
            self.feedback.resize(values.len() / cols, [0.0; WIDTH]);
            feedback.add_part(k, k + 1..last, &self.errors, &mut self.feedback);
            let columns = k * WIDTH..(k * WIDTH + WIDTH).min(cols);
            let rows = self.errors.chunks_exact_mut(feedback.cols()).zip(&mut self.feedback);
            let weights = values.chunks_exact(cols).zip(self.targets.chunks_exact(width));
            let codes = out.codes.chunks_exact_mut(out.code_stride);
            for ((((errors, add), (w, target)), (s, c)), codes) in rows.zip(weights).zip(&scales).zip(codes) {
                let group = at / 16;
                let line = Line {
                    scale: s[group / 2][group % 2],
                    minus: c[group / 2][group % 2],
                    bias: layout.code_bias(),
                    top,
                };
                for (add, t) in add.iter_mut().zip(&target[at..]) {
                    *add += t;
                }
                noise += round_width(
                    feedback,
                    k,
                    line,
                    &w[columns.clone()],
                    add,
                    &mut errors[columns.clone()],
                    &mut codes[columns.clone()],
                );
            }
        }
        noise
    }
}

/// How codes decode: `scale * (q - bias) - minus`.
#[derive(Clone, Copy)]
struct Line {
    scale: f32,
    minus: f32,
    bias: f32,
    top: f32,
}

multiversion! {
    /// Rounds up to sixteen columns of a row towards `targets`, the last first;
    /// returns the sum of `D (E L)^2`.
    fn round_width(feedback: &Feedback, k: usize, line: Line, w: &[f32], targets: &mut [f32; WIDTH], errors: &mut [f32], codes: &mut [u8]) -> f64 = round_lanes;
}

#[inline(always)]
fn round_lanes(
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
    let pivots = feedback.pivots().get(k * WIDTH..).unwrap_or_default();
    let mut noise = 0.0;
    for j in (0..w.len().min(WIDTH)).rev() {
        let t = targets[j];
        // NaN (an infinite weight was refused before) would become 0.
        let q = ((t + minus) * inverse + bias).max(0.0).min(top) + 12_582_912.0 - 12_582_912.0;
        let v = scale * (q - bias) - minus;
        codes[j] = q as u8;
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

/// Bytes of a row's scales that belong to the columns from `start`, a multiple
/// of 256.
fn scale_range(layout: Layout, start: usize, width: usize) -> std::ops::Range<usize> {
    let (before, bytes) = match layout {
        Layout::Plain { group, format } => {
            let pair = format.pair_bytes();
            (start / group * pair, width.div_ceil(group) * pair)
        }
        Layout::Compact(_) => (start / 16, 4 + (12 * width.div_ceil(32)).div_ceil(32) * 4),
        Layout::Fine(_) => (start / 16, 4 + (6 * width.div_ceil(16)).div_ceil(32) * 4),
    };
    before..before + bytes
}

fn zeroed<T: Clone + Default>(values: &mut Vec<T>, length: usize) {
    values.clear();
    values.resize(length, T::default());
}
