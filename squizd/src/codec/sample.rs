//! A few rows of a tensor, from which its parameters are planned.
//!
//! The rows depend on the shape alone. Planning never reads a whole large
//! tensor, so that remote sources and those larger than memory are read once.

use super::Rows;
use crate::{Result, simd::multiversion};

/// Weights from which the largest magnitude is taken.
const RANGE_WEIGHTS: u64 = 1 << 18;
/// Weights that trial encodings use.
const TRIAL_WEIGHTS: usize = 1 << 14;
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
        let wanted = (RANGE_WEIGHTS / cols).max(2).min(matrix.rows.max(1));
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
            sample.peak = sample.peak.max(finite_peak(&buffer));
            for row in buffer.chunks_exact(cols as usize).take(per_run) {
                sample.trial.extend(row.iter().take(trial_cols));
            }
        }
        Ok(sample)
    }
}

multiversion! {
    /// The largest finite magnitude.
    fn finite_peak(values: &[f32]) -> f32 = finite_peak_lanes;
}

#[inline(always)]
fn finite_peak_lanes(values: &[f32]) -> f32 {
    // Magnitudes order as integers; infinity and NaN come last.
    let peak = values.iter().fold(0u32, |peak, v| {
        let magnitude = v.to_bits() & 0x7fff_ffff;
        peak.max(if magnitude < 0x7f80_0000 { magnitude } else { 0 })
    });
    f32::from_bits(peak)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::testing::{MemoryRows, gaussian};

    #[test]
    fn first_and_last_rows_are_seen_and_nothing_not_finite() {
        for (rows, cols) in [(1u64, 1u64), (3, 5), (5000, 64), (4000, 1000), (3, 300_000)] {
            for at in [0, rows * cols - 1] {
                let mut w = vec![0.5; (rows * cols) as usize];
                w[at as usize] = -3.0;
                w[(rows * cols / 2) as usize] = if w.len() > 2 { f32::INFINITY } else { -3.0 };
                let sample = Sample::read(&MemoryRows::f32(rows, cols, w)).unwrap();
                assert_eq!(sample.peak.to_bits(), 3f32.to_bits(), "{rows}x{cols} {at}");
                assert!(sample.trial.len() <= 2 * TRIAL_WEIGHTS && !sample.trial.is_empty());
                assert_eq!(sample.trial.len() % sample.trial_cols, 0);
            }
        }
    }

    #[test]
    fn small_tensors_are_seen_whole() {
        let w = gaussian(600 * 400, 1);
        let peak = w.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let sample = Sample::read(&MemoryRows::f32(600, 400, w)).unwrap();
        assert_eq!(sample.peak.to_bits(), peak.to_bits());
    }
}
