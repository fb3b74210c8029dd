//! Two passes over the rows: what every tile would make of each rate, then
//! codes at the rates chosen.

use super::allocate::{RATES, Tile};
use super::block::{BLOCK, Blocks, encode_bf16};
use crate::codec::guide::Guide;
use crate::codec::half_float::{bf16_to_f32, f32_to_bf16};
use crate::codec::ldlq::Feedback;
use crate::codec::stream::{for_row_chunks_of, read_finite};
use crate::codec::{EncodeStats, InputMoments, Rows};
use crate::{Error, Result};
use rayon::prelude::*;
use squizd_spec::hybrid_layout::{STRIP, UNIT, UNITS};
use squizd_spec::{CodecId, DType, Matrix};
use std::{borrow::Cow, collections::BTreeMap, ops::Range, sync::Mutex, sync::PoisonError};

/// Share of the mean that is added to every importance: a channel that
/// calibration never saw still counts.
const FLOOR: f64 = 0.01;
/// Bits of the rates that have codes.
const BITS: std::ops::RangeInclusive<u32> = 2..=5;

/// What is known of the inputs of a tensor's rows.
pub(super) struct Inputs<'a>(Vec<Part<'a>>);

/// The rows with one set of moments.
pub(super) struct Part<'a> {
    pub(super) rows: Range<u64>,
    pub(super) moments: &'a InputMoments,
    /// What an error in each column costs, 1 on average over all rows.
    pub(super) costs: Vec<f32>,
    feedback: Option<Feedback>,
}

impl<'a> Inputs<'a> {
    /// Costs by importance.
    pub(super) fn by_importance(guide: Guide<'a>, rows: u64) -> Self {
        Self::new(guide, rows, |_| None)
    }

    /// Costs of errors that are compensated where all of `H` is known, else by
    /// importance.
    pub(super) fn compensated(guide: Guide<'a>, rows: u64) -> Self {
        Self::new(guide, rows, factor)
    }

    fn new(guide: Guide<'a>, total: u64, factor: impl Fn(&InputMoments) -> Option<Feedback>) -> Self {
        let sum = |v: &[f32]| v.iter().map(|v| f64::from(*v)).sum::<f64>();
        let mut parts: Vec<_> = guide
            .split(0..total)
            .filter_map(|(rows, moments)| {
                let moments = moments?;
                let feedback = factor(moments);
                let costs = match &feedback {
                    Some(f) => f.pivots().iter().map(|d| *d as f32).collect(),
                    None => moments.importance.clone(),
                };
                // The factors of a whole stack would be as large as its
                // moments: they are made again, one at a time.
                let feedback = feedback.filter(|_| rows == (0..total));
                Some(Part { rows, moments, costs, feedback })
            })
            .collect();
        let count: usize = parts.iter().map(|p| p.costs.len()).sum();
        let mean = parts.iter().map(|p| sum(&p.costs)).sum::<f64>() / count.max(1) as f64;
        if !(mean > 0.0 && mean.is_finite()) {
            return Self(Vec::new());
        }
        for part in &mut parts {
            part.costs.iter_mut().for_each(|v| *v = (f64::from(*v) / mean + FLOOR) as f32);
        }
        Self(parts)
    }

    /// What is known of `row`.
    pub(super) fn at(&self, row: u64) -> Option<&Part<'a>> {
        self.0.iter().find(|part| part.rows.contains(&row))
    }

    /// The costs of errors in the columns of `row`.
    pub(super) fn costs(&self, row: u64) -> Option<&[f32]> {
        self.at(row).map(|part| part.costs.as_slice())
    }
}

impl Part<'_> {
    /// What errors are compensated with, if it was kept.
    pub(super) fn feedback(&self) -> Option<&Feedback> {
        self.feedback.as_ref()
    }

    /// The same made again.
    pub(super) fn make_feedback(&self) -> Option<Feedback> {
        factor(self.moments)
    }
}

fn factor(moments: &InputMoments) -> Option<Feedback> {
    let h = moments.hessian()?;
    Feedback::new(h.par_iter().map(|v| f64::from(*v)).collect(), moments.importance.len(), 1)
}

/// The rows, kept for a second pass.
struct Kept<'a>(&'a dyn Rows);

impl Rows for Kept<'_> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn matrix(&self) -> Matrix {
        self.0.matrix()
    }

    fn dtype(&self) -> DType {
        self.0.dtype()
    }

    fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        self.0.read_f32(rows, out)
    }

    fn read_native(&self, rows: Range<u64>) -> Result<Option<Cow<'_, [u8]>>> {
        self.0.read_native(rows)
    }

    fn release(&self, _: Range<u64>) {}
}

/// What a first pass finds.
pub(super) struct Survey {
    /// Tiles strip by strip.
    pub(super) tiles: Vec<Tile>,
    /// Sum of squares about the mean of each tile.
    pub(super) variances: Vec<f64>,
    /// Energy of the weights, by importance.
    pub(super) signal: f64,
}

/// Errors of a row's blocks at 2 to 5 bits.
fn survey_row(
    blocks: &mut Blocks,
    w: &[f32],
    importance: Option<&[f32]>,
    exponent: i32,
    errors: &mut [[f64; RATES]],
) {
    for (i, errors) in errors.chunks_mut(2).enumerate() {
        let pair = |x| [part(x, 2 * i), part(x, 2 * i + 1)];
        blocks.load(pair(w), importance.map(pair));
        for bits in BITS {
            let chosen = blocks.choose(bits, exponent);
            for (errors, error) in errors.iter_mut().zip(chosen.errors) {
                errors[bits as usize - 2] = error;
            }
        }
    }
}

/// Block `index` of a row, as far as it is there.
#[inline(always)]
pub(super) fn part(row: &[f32], index: usize) -> &[f32] {
    row.get(index * BLOCK..((index + 1) * BLOCK).min(row.len())).unwrap_or_default()
}

/// Reads all rows and measures every tile.
pub(super) fn survey(rows: &dyn Rows, exponent: i32, inputs: &Inputs<'_>) -> Result<Survey> {
    let matrix = rows.matrix();
    let cols = matrix.cols as usize;
    let blocks = cols.div_ceil(BLOCK);
    let chunks = Mutex::new(BTreeMap::new());
    let buffers = || (Blocks::new(), Vec::new(), vec![[0.0; RATES]; blocks]);
    for_row_chunks_of(&Kept(rows), 0..matrix.rows, STRIP, buffers, |(kernel, values, errors), range| {
        read_finite(rows, range.clone(), CodecId::HYBRID, values)?;
        let (mut tiles, mut variances, mut signal) = (Vec::new(), Vec::new(), 0.0);
        for (s, strip) in values.chunks(STRIP as usize * cols).enumerate() {
            let first = range.start + s as u64 * STRIP;
            let count = strip.len() / cols.max(1);
            let mut own = vec![Tile { errors: [0.0; RATES], rows: count as u64 }; blocks];
            let mut moments = vec![[0.0f64; 2]; blocks];
            for (row, w) in (first..).zip(strip.chunks_exact(cols)) {
                let importance = inputs.costs(row);
                survey_row(kernel, w, importance, exponent, errors);
                for (b, ((tile, errors), moments)) in
                    own.iter_mut().zip(&*errors).zip(&mut moments).enumerate()
                {
                    for (sum, error) in tile.errors.iter_mut().zip(errors) {
                        *sum += error;
                    }
                    let importance = importance.map(|v| part(v, b));
                    for (i, w) in part(w, b).iter().enumerate() {
                        let v = importance.and_then(|v| v.get(i)).map_or(1.0, |v| f64::from(*v));
                        let rounded = f64::from(bf16_to_f32(f32_to_bf16(*w)));
                        let w = f64::from(*w);
                        // An infinite error rules bfloat16 out.
                        tile.errors[RATES - 1] += v * (w - rounded) * (w - rounded);
                        signal += v * w * w;
                        moments[0] += w;
                        moments[1] += w * w;
                    }
                }
            }
            for (b, [sum, squares]) in moments.into_iter().enumerate() {
                let weights = (count * part(&strip[..cols], b).len()).max(1) as f64;
                variances.push(squares / weights - (sum / weights) * (sum / weights));
            }
            tiles.append(&mut own);
        }
        let found = Survey { tiles, variances, signal };
        chunks.lock().unwrap_or_else(PoisonError::into_inner).insert(range.start, found);
        Ok(EncodeStats::default())
    })?;
    let mut all = Survey { tiles: Vec::new(), variances: Vec::new(), signal: 0.0 };
    for found in chunks.into_inner().unwrap_or_else(PoisonError::into_inner).into_values() {
        all.tiles.extend(found.tiles);
        all.variances.extend(found.variances);
        all.signal += found.signal;
    }
    if all.tiles.len() as u64 > u64::from(u32::MAX) {
        return Err(Error::unsupported(format!(
            "tensor {}: {} tiles of 16 x 64 weights, at most 2^32 can be given rates",
            rows.name(),
            all.tiles.len()
        )));
    }
    Ok(all)
}

/// A row on its way out.
pub(super) struct RowOut<'a> {
    /// Scale words of its blocks.
    pub(super) words: &'a mut [u8],
    /// Codes of its blocks.
    pub(super) codes: &'a mut [u8],
    /// Signal and noise so far.
    pub(super) stats: EncodeStats,
    /// Whether a step or a bfloat16 overflowed.
    pub(super) overflow: bool,
}

/// Encodes those blocks of a row that have `bits`; `places` says where each
/// block's codes begin.
#[allow(clippy::too_many_arguments, reason = "one step of encode_row")]
fn encode_blocks(
    bits: u32,
    blocks: &mut Blocks,
    w: &[f32],
    importance: Option<&[f32]>,
    exponent: i32,
    rates: &[u8],
    places: &[usize],
    out: &mut RowOut<'_>,
) {
    let mut own = rates.iter().enumerate().filter(|(_, r)| u32::from(**r) + 2 == bits).map(|(b, _)| b);
    while let Some(first) = own.next() {
        let second = own.next();
        let pair = |x| [part(x, first), second.map_or(&[][..], |b| part(x, b))];
        blocks.load(pair(w), importance.map(pair));
        let chosen = blocks.choose(bits, exponent);
        let indices = [Some(first), second];
        for (index, (word, overflow)) in
            indices.into_iter().zip(chosen.words.into_iter().zip(chosen.overflow))
        {
            let Some(index) = index else { continue };
            out.overflow |= overflow;
            if let Some(words) = out.words.get_mut(4 * index..4 * index + 4) {
                words.copy_from_slice(&word.to_le_bytes());
            }
        }
        let (signal, noise) = blocks.assign(bits, &chosen, |b, packed| {
            let place = indices[b].and_then(|index| places.get(index)).copied();
            if let Some(codes) = place.and_then(|at| out.codes.get_mut(at..at + packed.len())) {
                codes.copy_from_slice(packed);
            }
        });
        out.stats.signal += signal;
        out.stats.noise += noise;
    }
}

/// Encodes a row with a rate for each block.
pub(super) fn encode_row(
    blocks: &mut Blocks,
    w: &[f32],
    importance: Option<&[f32]>,
    exponent: i32,
    rates: &[u8],
    places: &[usize],
    out: &mut RowOut<'_>,
) {
    for bits in BITS {
        encode_blocks(bits, blocks, w, importance, exponent, rates, places, out);
    }
    for (b, at) in
        rates.iter().zip(places).enumerate().filter(|(_, (r, _))| **r == 4).map(|(b, (_, at))| (b, *at))
    {
        let w = part(w, b);
        if let Some(codes) = out.codes.get_mut(at..at + 2 * BLOCK) {
            out.overflow |= !encode_bf16(w, codes);
        }
        for w in w {
            let rounded = f64::from(bf16_to_f32(f32_to_bf16(*w)));
            let w = f64::from(*w);
            out.stats.signal += w * w;
            out.stats.noise += (w - rounded) * (w - rounded);
        }
    }
}

/// Where each block's codes begin in a row, and where they end.
pub(super) fn places(rates: &[u8]) -> (Vec<usize>, usize) {
    let mut end = 0;
    let starts = rates
        .iter()
        .map(|r| {
            let start = end;
            end += UNITS.get(usize::from(*r)).map_or(0, |u| (u * UNIT) as usize);
            start
        })
        .collect();
    (starts, end)
}
