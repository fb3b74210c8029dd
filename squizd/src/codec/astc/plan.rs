//! Scale mode and exponent of a tensor, from a sample of its rows.

use super::norm::Columns;
use super::params;
use super::strip::{Buffers, Plan};
use crate::Result;
use crate::codec::lanes::{exp2i, exponent};
use crate::codec::stream::read_finite;
use crate::codec::{Guide, Quality, Rows};
use squizd_spec::{CodecId, Matrix, Params, astc};

/// Rows from which on column scales may pay: below, they are an eighth of a bit
/// per weight or more.
const RANK_1_ROWS: u64 = 128;
/// Weights sampled, and the least number of strips of six rows.
const SAMPLE_WEIGHTS: u64 = 1 << 18;
const SAMPLE_STRIPS: u64 = 8;
/// The largest sampled magnitude is stored as 2^4: rows outside the sample may
/// be 2^11 times as large, and scales 2^18 times smaller keep f16's precision.
const PEAK: i32 = 4;

/// The parameters of an ordinary tensor.
pub(super) fn nominal(matrix: Matrix) -> Params {
    params(if matrix.rows < RANK_1_ROWS { astc::ROW } else { astc::RANK_1 }, 0)
}

/// The exponent from the largest magnitude; rank-1 scales if they lower the
/// noise by more than their size is worth (at 6 dB a bit).
///
/// Column scales are estimated from every other strip sampled and tried on
/// those between, so that chance likenesses of few rows do not count.
pub(super) fn plan(rows: &dyn Rows) -> Result<Params> {
    let matrix = rows.matrix();
    let [estimate, trial] = sample(rows)?;
    let values = || estimate.iter().chain(&trial);
    let peak = values().fold(0.0f32, |m, v| m.max(v.abs()));
    let e = if peak > 0.0 { (exponent(peak) - PEAK).max(-126) } else { 0 };
    let mode = if matrix.rows < RANK_1_ROWS {
        astc::ROW
    } else {
        let cols = matrix.cols as usize;
        let noise = |columns: &Columns, values: &[f32]| {
            let mut buffers = Buffers::new();
            buffers.values.extend_from_slice(values);
            let plan = Plan { exponent: e, columns, quality: Quality::Fast, guide: Guide::NONE };
            buffers.encode(&plan, 0).map_or(f64::INFINITY, |stats| stats.noise)
        };
        let columns = Columns::of_values(&estimate, cols, exp2i(-e))?;
        let worth = libm::exp2(-2.0 * 16.0 / matrix.rows as f64);
        let pays = noise(&columns, &trial) < worth * noise(&Columns::ones(cols), &trial);
        if pays { astc::RANK_1 } else { astc::ROW }
    };
    Ok(params(mode, e as i8))
}

/// Strips of six rows, evenly spread, alternately into two sets.
fn sample(rows: &dyn Rows) -> Result<[Vec<f32>; 2]> {
    let matrix = rows.matrix();
    let strips = matrix.rows.div_ceil(astc::SIDE);
    let strip = (astc::SIDE * matrix.cols).max(1);
    let least = SAMPLE_STRIPS.min(4 * SAMPLE_WEIGHTS / strip).max(2);
    let wanted = (SAMPLE_WEIGHTS / strip).max(least).min(strips);
    let (mut sets, mut values) = ([Vec::new(), Vec::new()], Vec::new());
    for i in 0..wanted {
        let start = (strips - 1) * i / (wanted - 1).max(1) * astc::SIDE;
        read_finite(rows, start..(start + astc::SIDE).min(matrix.rows), CodecId::ASTC, &mut values)?;
        sets[(i % 2) as usize].extend_from_slice(&values);
    }
    Ok(sets)
}
