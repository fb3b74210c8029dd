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
use crate::codec::ldlq::{Compensated, Feedback, Grid, Line, WIDTH};
use crate::codec::stream::energy;
use crate::codec::{EncodeStats, OutputError};
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
    rows: Compensated,
    /// A superblock of every row, with feedback from behind it.
    targets: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<u8>,
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
        let count = values.len() / cols;
        let mut output = OutputError { signal: self.rows.begin(values, cols, feedback), noise: 0.0 };
        let mut overflow: Option<usize> = None;
        for start in (0..cols).step_by(SUPERBLOCK).rev() {
            let end = (start + SUPERBLOCK).min(cols);
            let width = end - start;
            self.rows.aim(values, start..end, feedback, &mut self.targets);
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
            let scales: Vec<_> = self
                .scales
                .chunks_exact(scale_range.len().max(1))
                .map(|stored| block_scales(layout, stored, 0))
                .collect();
            let grid = |row: usize, at: usize| {
                let group = at / WIDTH;
                let line = scales.get(row).map(|(s, c)| (s[group / 2][group % 2], c[group / 2][group % 2]));
                let (scale, minus) = line.unwrap_or_default();
                Grid::Line(Line { scale, minus, bias: layout.code_bias(), top: top(bits) })
            };
            let stride = out.code_stride;
            output.noise +=
                self.rows.round(values, start..end, feedback, &self.targets, grid, out.codes, stride, start);
        }
        let noise = self.rows.noise(feedback);
        output.noise = (output.noise - feedback.damping() * noise).max(0.0);
        let stats = EncodeStats { output: Some(output), ..EncodeStats::new(energy(values), noise) };
        Tally { stats, overflow }
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
