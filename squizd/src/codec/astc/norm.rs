//! Scales: what brings a tensor's weights into the range of texels.
//!
//! A weight is `w = r_i c_j v` with a value `v` in `[-1, 1]`. Column scales come
//! from alternating root mean squares of rows and columns over the whole tensor
//! (Sinkhorn's iteration on the squares); a row's scale is `k` times its root
//! mean square, `k` chosen between clipping and coarseness.
//!
//! All of it in units of `2^e`, the tensor's exponent.

use super::SIDE;
use crate::Result;
use crate::codec::half_float::{f16_to_f32, f32_to_f16};
use crate::codec::stream::read_finite;
use crate::codec::{Quality, Rows};
use crate::simd::multiversion;
use rayon::prelude::*;
use squizd_spec::CodecId;

/// Rounds of the alternation; a fourth changes nothing measurable.
const ROUNDS: usize = 3;
/// Tasks of a pass over the rows, whatever the thread count, so that sums come
/// out the same.
const SEGMENTS: u64 = 32;
/// Weights read at a time.
const CHUNK: u64 = 1 << 16;
/// f16 bits of the smallest normal number, and of the largest.
const SMALLEST: u16 = 0x0400;
const LARGEST: u16 = 0x7bff;

/// Column scales as stored, their values and the values' inverses (0 for 0).
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    pub(super) bits: Vec<u16>,
    pub(super) scales: Vec<f32>,
    pub(super) inverses: Vec<f32>,
}

impl Columns {
    /// No scales: all 1.
    pub(super) fn ones(cols: usize) -> Self {
        Self { bits: Vec::new(), scales: vec![1.0; cols], inverses: vec![1.0; cols] }
    }

    fn new(bits: Vec<u16>) -> Self {
        let scales: Vec<f32> = bits.iter().map(|b| f16_to_f32(*b)).collect();
        let inverses = scales.iter().map(|c| if *c > 0.0 { 1.0 / c } else { 0.0 }).collect();
        Self { bits, scales, inverses }
    }

    /// Scales from sums of squares of `rows` normalised rows.
    fn of_squares(squares: &[f64], rows: f64) -> Self {
        let bits = squares.iter().map(|s| {
            let scale = (s / rows.max(1.0)).sqrt() as f32;
            if scale > 0.0 { f32_to_f16(scale).clamp(SMALLEST, LARGEST) } else { 0 }
        });
        Self::new(bits.collect())
    }

    /// Scales of the rows `read` hands out: it is called with a place for sums
    /// and a function that adds rows, as often as there are rounds.
    fn alternate(cols: usize, mut pass: impl FnMut(&Self) -> Result<(Vec<f64>, f64)>) -> Result<Self> {
        let mut columns = Self::ones(cols);
        for _ in 0..ROUNDS {
            let (squares, rows) = pass(&columns)?;
            columns = Self::of_squares(&squares, rows);
        }
        Ok(columns)
    }

    /// Scales of rows in memory.
    pub(super) fn of_values(values: &[f32], cols: usize, unit: f32) -> Result<Self> {
        Self::alternate(cols, |columns| {
            let mut squares = vec![0.0; cols];
            let rows = add_squares(values, unit, columns, &mut squares);
            Ok((squares, rows))
        })
    }

    /// Scales of a whole tensor, read once per round.
    pub(super) fn of_rows(rows: &dyn Rows, unit: f32) -> Result<Self> {
        let matrix = rows.matrix();
        let step = (CHUNK / matrix.cols.max(1)).max(1);
        let segment = matrix.rows.div_ceil(SEGMENTS).max(1);
        let cols = matrix.cols as usize;
        Self::alternate(cols, |columns| {
            let parts: Vec<Result<(Vec<f64>, f64)>> = (0..matrix.rows.div_ceil(segment))
                .into_par_iter()
                .map(|s| {
                    let (mut squares, mut count, mut values) = (vec![0.0; cols], 0.0, Vec::new());
                    let end = ((s + 1) * segment).min(matrix.rows);
                    let mut start = s * segment;
                    while start < end {
                        let range = start..(start + step).min(end);
                        start = range.end;
                        read_finite(rows, range, CodecId::ASTC, &mut values)?;
                        count += add_squares(&values, unit, columns, &mut squares);
                    }
                    Ok((squares, count))
                })
                .collect();
            parts.into_iter().try_fold((vec![0.0; cols], 0.0), |(mut sum, rows), part| {
                let (squares, count) = part?;
                sum.iter_mut().zip(squares).for_each(|(s, q)| *s += q);
                Ok((sum, rows + count))
            })
        })
    }
}

multiversion! {
    /// Adds to each column the squares of the rows `values`, each row divided by
    /// its root mean square under `columns`; returns the number of rows that are
    /// not zero.
    fn add_squares(values: &[f32], unit: f32, columns: &Columns, squares: &mut [f64]) -> f64 = add_squares_lanes;
}

#[inline(always)]
fn add_squares_lanes(values: &[f32], unit: f32, columns: &Columns, squares: &mut [f64]) -> f64 {
    let mut count = 0.0;
    for row in values.chunks_exact(squares.len().max(1)) {
        let power = mean_square_lanes(row, unit, &columns.inverses);
        if power > 0.0 {
            count += 1.0;
            let inverse = 1.0 / power;
            for (sum, v) in squares.iter_mut().zip(row) {
                let v = f64::from(v * unit);
                *sum += v * v * inverse;
            }
        }
    }
    count
}

/// Mean square of a row under column scales.
#[inline(always)]
fn mean_square_lanes(row: &[f32], unit: f32, inverses: &[f32]) -> f64 {
    let mut sums = [0.0f64; 8];
    for (row, inverses) in row.chunks(8).zip(inverses.chunks(8)) {
        for ((sum, v), i) in sums.iter_mut().zip(row).zip(inverses) {
            let v = f64::from(v * unit) * f64::from(*i);
            *sum += v * v;
        }
    }
    sums.iter().sum::<f64>() / row.len().max(1) as f64
}

/// A row's half-range in root mean squares, and the noise-to-signal ratio that
/// the default encoder's blocks of Gaussian weights have there, without what
/// clipping adds (measured).
const HALF_RANGES: [(f32, f32); 16] = [
    (2.2, 0.0290),
    (2.4, 0.0301),
    (2.6, 0.0310),
    (2.8, 0.0317),
    (3.0, 0.0323),
    (3.2, 0.0330),
    (3.5, 0.0338),
    (4.0, 0.0350),
    (5.0, 0.0369),
    (6.0, 0.0385),
    (8.0, 0.0408),
    (12.0, 0.0434),
    (20.0, 0.0450),
    (50.0, 0.0492),
    (120.0, 0.0554),
    (256.0, 0.0650),
];

/// Rows of a strip that would gain this much from their own half-range get it;
/// the others share one, for rows of a block share endpoints.
const OWN: f32 = 0.8;

multiversion! {
    /// The f16 bits of the scales of up to six rows of a strip, 0 for a row of
    /// zeros; infinite where a row is too large for the exponent.
    pub(super) fn row_scales(strip: &[f32], columns: &Columns, quality: Quality) -> [u16; SIDE] = row_scales_lanes;
}

#[inline(always)]
fn row_scales_lanes(strip: &[f32], columns: &Columns, quality: Quality) -> [u16; SIDE] {
    let cols = columns.inverses.len().max(1);
    let mut rms = [0.0f64; SIDE];
    // Noise of each row at each half-range, relative to its energy.
    let mut noise = [[0.0f32; HALF_RANGES.len()]; SIDE];
    for ((row, rms), noise) in strip.chunks_exact(cols).zip(&mut rms).zip(&mut noise) {
        *rms = mean_square_lanes(row, 1.0, &columns.inverses).sqrt();
        if *rms > 0.0 {
            let inverse = (1.0 / *rms) as f32;
            let peak = peak_lanes(row, inverse, &columns.inverses);
            for (noise, (k, coarse)) in noise.iter_mut().zip(HALF_RANGES) {
                // Endpoints of one partition have 8 bits, in any range.
                let coarse = if quality == Quality::Fast { 0.0 } else { coarse };
                let clips = peak > k;
                *noise = coarse + if clips { clipping(row, inverse, &columns.inverses, k) } else { 0.0 };
            }
        }
    }
    let mut own = [(0, f32::INFINITY); SIDE];
    for (own, noise) in own.iter_mut().zip(&noise) {
        for (k, noise) in noise.iter().enumerate() {
            if *noise < own.1 {
                *own = (k, *noise);
            }
        }
    }
    let (mut common, mut least) = (0, f64::INFINITY);
    for k in 0..HALF_RANGES.len() {
        let mut total = 0.0;
        for y in 0..SIDE {
            let alone = own[y].1 / OWN;
            total += rms[y] * rms[y] * f64::from(if noise[y][k] < alone { noise[y][k] } else { alone });
        }
        if total < least {
            (common, least) = (k, total);
        }
    }
    let mut bits = [0; SIDE];
    for y in 0..SIDE {
        let k = if own[y].1 < OWN * noise[y][common] { own[y].0 } else { common };
        bits[y] = f32_to_f16((rms[y] * f64::from(HALF_RANGES[k].0)) as f32);
    }
    bits
}

/// The largest magnitude of a row times `unit` under column scales.
#[inline(always)]
fn peak_lanes(row: &[f32], unit: f32, inverses: &[f32]) -> f32 {
    let mut peaks = [0.0f32; 8];
    for (row, inverses) in row.chunks(8).zip(inverses.chunks(8)) {
        for ((peak, v), i) in peaks.iter_mut().zip(row).zip(inverses) {
            let a = (v * unit * i).abs();
            *peak = if a > *peak { a } else { *peak };
        }
    }
    peaks.into_iter().fold(0.0, |m, p| if p > m { p } else { m })
}

/// Mean square of what exceeds `k` among the row's magnitudes times `unit`.
#[inline(always)]
fn clipping(row: &[f32], unit: f32, inverses: &[f32], k: f32) -> f32 {
    let mut sums = [0.0f32; 8];
    for (row, inverses) in row.chunks(8).zip(inverses.chunks(8)) {
        for ((sum, v), i) in sums.iter_mut().zip(row).zip(inverses) {
            let over = (v * unit * i).abs() - k;
            let over = if over > 0.0 { over } else { 0.0 };
            *sum += over * over;
        }
    }
    sums.iter().sum::<f32>() / row.len().max(1) as f32
}
