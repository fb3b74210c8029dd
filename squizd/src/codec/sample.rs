//! A few rows of a tensor, from which its parameters are planned.
//!
//! The rows depend on the shape alone. Planning never reads a whole large
//! tensor, so that remote sources and those larger than memory are read once.

use super::Rows;
use crate::Result;

/// Weights from which the largest magnitude is taken.
const RANGE_WEIGHTS: u64 = 1 << 18;
/// Weights that trial encodings use.
const TRIAL_WEIGHTS: usize = 1 << 15;
/// Runs of consecutive rows read.
const RUNS: u64 = 16;

/// Sampled rows.
pub(super) struct Sample {
    /// Whole rows (or the beginning of one) for trial encodings.
    pub(super) trial: Vec<f32>,
    /// Columns of each trial row.
    pub(super) trial_cols: usize,
    /// Largest finite magnitude among all sampled weights.
    pub(super) peak: f32,
}

impl Sample {
    /// Reads up to [`RUNS`] runs of rows, evenly spread and the first and last
    /// among them, of about [`RANGE_WEIGHTS`] weights together.
    pub(super) fn read(rows: &dyn Rows) -> Result<Self> {
        let matrix = rows.matrix();
        let cols = matrix.cols.max(1);
        let wanted = (RANGE_WEIGHTS / cols).clamp(1, matrix.rows.max(1));
        let runs = wanted.min(RUNS);
        let length = wanted / runs;
        let trial_cols = (cols as usize).min(TRIAL_WEIGHTS);
        let per_run = (TRIAL_WEIGHTS / trial_cols).div_ceil(runs as usize);
        let mut sample = Self { trial: Vec::new(), trial_cols, peak: 0.0 };
        let mut buffer = Vec::new();
        for run in 0..runs.min(matrix.rows) {
            let start = (matrix.rows - length).checked_mul(run).map_or(0, |x| x / (runs - 1).max(1));
            let range = start..start + length;
            buffer.resize(super::stream::chunk_elements(rows, &range)?, 0.0);
            rows.read_f32(range, &mut buffer)?;
            for v in buffer.iter().filter(|v| v.is_finite()) {
                sample.peak = sample.peak.max(v.abs());
            }
            for row in buffer.chunks_exact(cols as usize).take(per_run) {
                sample.trial.extend(row.iter().take(trial_cols));
            }
        }
        Ok(sample)
    }
}
