//! HYBRID: a rate for every 64 columns of 16 rows, under a budget of bits.
//!
//! Rates are 2, 3, 4 and 5 bits and bfloat16 ([`block`]), chosen from the error
//! that each would make of a tile, weighed by calibration's importances where
//! there are any ([`allocate`]). Rows of a strip have the same rates, so a
//! reader finds any block from one record of the strip's map.
//!
//! A tile of one row would follow the weights more closely, but its map costs
//! more than it gains: at 3.5 bits in all, trained matrices of a Qwen3 model
//! reach 16.9 dB with tiles of one row, 17.5 with 4, 17.65 with 8, 17.7 with 16
//! and 17.75 with 32 (INT3's fine layout, without any map: 17.9). So on
//! ordinary tensors without calibration one rate for all is better, and HYBRID
//! is for rates in between, for tensors whose parts differ, and for calibration
//! that says which inputs matter.

mod allocate;
mod block;
mod check;
mod curve;
mod encode;
mod guided;
#[cfg(test)]
mod guided_tests;
#[cfg(target_arch = "aarch64")]
mod neon;
mod payload;
mod product;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::integer::guided::output_error;
use super::lanes::exponent;
use super::ldlq::Feedback;
use super::sample::Sample;
use super::stream::{checked_geometry, for_row_chunks_of, geometry, out_of_range, read_finite};
use super::{
    Activation, Codec, EncodeOptions, EncodeStats, Encoded, Kernel, Operation, OptionKind, PayloadSink,
    Precision, Request, Rows, Violation,
};
use crate::{Error, Result, simd::Level};
use allocate::{by_variance, least_error};
use block::{BLOCK, Blocks};
pub use curve::{RdPoint, curves_to_csv, curves_to_svg, rd_curve};
use encode::{Inputs, RowOut, Survey, encode_row, places};
use payload::Payload;
use serde::{Deserialize, Serialize};
use squizd_spec::hybrid_layout::{MAPPED, Parts, STRIP, UNIT, UNITS, parts};
use squizd_spec::{CodecId, DType, Geometry, Matrix, Params, PayloadLength};
use std::{fmt, ops::Range, str::FromStr};

/// The codec.
pub(super) const CODEC: &dyn Codec = &Hybrid;

/// Bits per weight aimed at without a wish, in thousandths.
const RATE: u16 = 4000;
/// Share of tiles that get 4 bits by variance.
const SHARE: f64 = 0.75;
/// The largest stored step lies this many octaves above 2^exponent.
const OCTAVES: i32 = 63;
/// Octaves between the largest sampled weight and the largest stored step.
const HEADROOM: i32 = 11;

/// How the bits are spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Allocation {
    /// The source documents' rule, for comparison: 4 bits for the three
    /// quarters of tiles of largest variance, 2 bits for the others.
    Variance,
}

impl FromStr for Allocation {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "variance" => Ok(Self::Variance),
            _ => Err(Error::invalid(format!("unknown allocation {text:?}; allowed: variance"))),
        }
    }
}

impl fmt::Display for Allocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variance => f.pad("variance"),
        }
    }
}

struct Hybrid;

fn params(target: u16, exponent: i8) -> Params {
    let mut params = Params::default();
    params[..2].copy_from_slice(&target.to_le_bytes());
    params[2] = exponent.cast_unsigned();
    params
}

fn parts_of(name: &str, matrix: Matrix) -> Result<Parts> {
    parts(matrix)
        .ok_or_else(|| Error::unsupported(format!("tensor {name}: its payload would exceed 2^64 bytes")))
}

/// The rate asked for. By variance the rate follows from the rule; what is
/// stored is an upper bound.
fn target(matrix: Matrix, options: &EncodeOptions) -> Result<u16> {
    if options.allocation.is_none() {
        return Ok(options.rate.unwrap_or(RATE));
    }
    if options.rate.is_some() {
        return Err(Error::invalid("hybrid by variance has its own rate; leave the rate out"));
    }
    let parts = parts_of("", matrix)?;
    let tiles = (parts.blocks * parts.strips) as f64;
    let units = 2.0 * tiles + 2.0 * (SHARE * tiles).round();
    let bits = 8.0 * (parts.codes as f64 + units * (STRIP * UNIT) as f64) / matrix.elements().max(1) as f64;
    Ok((1000.0 * bits).ceil().min(65535.0) as u16)
}

/// The exponent that sampled rows ask for.
fn plan_exponent(sample: &Sample) -> i8 {
    let peak = if sample.peak > 0.0 { exponent(sample.peak) } else { 0 };
    (peak + HEADROOM - OCTAVES).clamp(i32::from(i8::MIN), i32::from(squizd_spec::hybrid_layout::MAX_EXPONENT))
        as i8
}

/// Rates of all tiles within the payload's `length`.
fn allocate(survey: &Survey, options: &EncodeOptions, codes_at: u64, length: PayloadLength) -> Vec<u8> {
    let budget = length.max().saturating_sub(codes_at) / UNIT;
    if options.allocation == Some(Allocation::Variance) {
        let rates = by_variance(&survey.variances, SHARE);
        let units = survey.tiles.iter().zip(&rates).map(|(t, r)| UNITS[usize::from(*r)] * t.rows);
        if units.sum::<u64>() <= budget {
            return rates;
        }
    }
    least_error(&survey.tiles, budget)
}

/// Map and starts of the strips.
fn index(name: &str, rates: &[u8], parts: &Parts, rows: u64) -> Result<(Vec<u8>, Vec<u32>)> {
    let mut map = Vec::with_capacity((parts.strips * parts.map_stride) as usize);
    let mut starts = vec![0];
    let mut end = 0u64;
    for (strip, rates) in rates.chunks(parts.blocks.max(1) as usize).enumerate() {
        let mut offset = 0;
        for eight in rates.chunks(MAPPED as usize) {
            let word = eight.iter().rev().fold(0u32, |word, r| word << 4 | u32::from(*r));
            map.extend(word.to_le_bytes());
            map.extend((offset as u32).to_le_bytes());
            offset += eight.iter().map(|r| UNITS[usize::from(*r)]).sum::<u64>();
        }
        end += offset * (rows - strip as u64 * STRIP).min(STRIP);
        starts.push(u32::try_from(end).map_err(|_| {
            Error::unsupported(format!("tensor {name}: its codes exceed 32 GiB: choose a codec of one rate"))
        })?);
    }
    Ok((map, starts))
}

impl Codec for Hybrid {
    fn id(&self) -> CodecId {
        CodecId::HYBRID
    }

    fn options(&self) -> &'static [OptionKind] {
        &[OptionKind::Rate, OptionKind::Allocation]
    }

    fn accepts(&self, _: Matrix) -> std::result::Result<(), String> {
        Ok(())
    }

    fn imports(&self, _: DType, _: Matrix, _: &EncodeOptions) -> bool {
        false
    }

    fn nominal(&self, matrix: Matrix, _: DType, options: &EncodeOptions) -> Result<Params> {
        Ok(params(target(matrix, options)?, 0))
    }

    fn plan(&self, rows: &dyn Rows, request: &Request<'_>) -> Result<Params> {
        let target = target(rows.matrix(), &request.options)?;
        Ok(params(target, plan_exponent(&Sample::read(rows)?)))
    }

    fn encode(
        &self,
        rows: &dyn Rows,
        params: &Params,
        request: &Request<'_>,
        sink: &dyn PayloadSink,
    ) -> Result<(u64, EncodeStats)> {
        let matrix = rows.matrix();
        let Geometry { length, planes: [scale_plane, ..], .. } =
            geometry(self.id(), rows.name(), matrix, params)?;
        let parts = parts_of(rows.name(), matrix)?;
        if matrix.elements() == 0 {
            return Ok((parts.codes, EncodeStats::default()));
        }
        let exponent = i32::from(params[2].cast_signed());
        let inputs = Inputs::compensated(request.guide, matrix.rows);
        let survey = encode::survey(rows, exponent, &inputs)?;
        let rates = allocate(&survey, &request.options, parts.codes, length);
        let (map, starts) = index(rows.name(), &rates, &parts, matrix.rows)?;
        let (cols, blocks) = (matrix.cols as usize, parts.blocks as usize);
        let mut stats = EncodeStats::default();
        for (own, _) in request.guide.split(0..matrix.rows) {
            // A strip is encoded with the part of its first row.
            let strips = own.start.next_multiple_of(STRIP)..own.end.next_multiple_of(STRIP).min(matrix.rows);
            let known = inputs.at(own.start);
            let kept = known.and_then(encode::Part::feedback);
            let made = known.filter(|_| kept.is_none()).and_then(encode::Part::make_feedback);
            let feedback = kept.or(made.as_ref());
            let context = Context { cols, exponent, inputs: &inputs, own, feedback };
            let part = for_row_chunks_of(rows, strips, STRIP, Buffers::new, |buffers, range| {
                read_finite(rows, range.clone(), self.id(), &mut buffers.values)?;
                let first_strip = (range.start / STRIP) as usize;
                let rates = rates.get(first_strip * blocks..).unwrap_or_default();
                if let Some(row) = buffers.encode(&context, rates, range.start) {
                    return Err(out_of_range(rows, range.start + row as u64, self.id()));
                }
                sink.write_at(range.start * scale_plane.row_stride, &buffers.words)?;
                let start = u64::from(starts.get(first_strip).copied().unwrap_or_default());
                sink.write_at(parts.codes + start * UNIT, &buffers.codes)?;
                Ok(buffers.stats)
            })?;
            stats = stats + part;
        }
        sink.write_at(parts.map, &map)?;
        sink.write_at(parts.starts, &starts.iter().flat_map(|s| s.to_le_bytes()).collect::<Vec<_>>())?;
        let units = u64::from(starts.last().copied().unwrap_or_default());
        Ok((parts.codes + units * UNIT, stats))
    }

    fn decode(&self, tensor: &Encoded<'_>, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        checked_geometry(self.id(), tensor, &rows, out.len(), tensor.matrix.cols)?;
        if out.is_empty() {
            return Ok(());
        }
        let range = rows.start as usize..rows.end as usize;
        match Payload::of(tensor) {
            Some(payload) if payload::decode_rows(&payload, range, out) => Ok(()),
            _ => Err(Error::invalid(format!(
                "tensor {}: the map of rows {}..{} points outside the payload; the file is damaged",
                tensor.name, rows.start, rows.end
            ))),
        }
    }

    fn check(&self, tensor: &Encoded<'_>) -> std::result::Result<(), Violation> {
        check::check(tensor)
    }

    fn kernel(&self, _: &Params, operation: Operation, level: Level) -> Kernel {
        match operation {
            Operation::Matvec(Precision::Q8) => product::kernel(level),
            _ => Kernel::compiled(level),
        }
    }

    fn matvec(&self, tensor: &Encoded<'_>, x: &Activation<'_>, rows: Range<u64>, y: &mut [f32]) {
        let fits = checked_geometry(self.id(), tensor, &rows, y.len(), 1).is_ok()
            && tensor.matrix.cols == x.x().len() as u64
            && tensor.matrix.cols > 0;
        let rows = rows.start as usize..rows.end as usize;
        match (Payload::of(tensor).filter(|_| fits), x.precision()) {
            (Some(payload), Precision::Q8) => product::rows(&payload, rows, x, y),
            (Some(payload), Precision::F32) => payload::dot_rows(&payload, rows, x.x(), y),
            (None, _) => y.fill(f32::NAN),
        }
    }
}

/// What the rows of one part have in common.
struct Context<'a> {
    cols: usize,
    exponent: i32,
    inputs: &'a Inputs<'a>,
    /// The part's rows.
    own: Range<u64>,
    /// What their errors are compensated with.
    feedback: Option<&'a Feedback>,
}

/// One worker's memory.
struct Buffers {
    kernel: Blocks,
    guided: guided::Worker,
    values: Vec<f32>,
    words: Vec<u8>,
    codes: Vec<u8>,
    decoded: Vec<f32>,
    stats: EncodeStats,
}

impl Buffers {
    fn new() -> Self {
        Self {
            kernel: Blocks::new(),
            guided: guided::Worker::default(),
            values: Vec::new(),
            words: Vec::new(),
            codes: Vec::new(),
            decoded: Vec::new(),
            stats: EncodeStats::default(),
        }
    }

    /// Encodes the rows of `values`, which begin with a strip, at the rates of
    /// their strips' blocks; the first row whose numbers overflow, if any.
    fn encode(&mut self, context: &Context<'_>, rates: &[u8], first_row: u64) -> Option<usize> {
        let cols = context.cols;
        let (blocks, strip_rows) = (cols.div_ceil(BLOCK), STRIP as usize);
        let values = std::mem::take(&mut self.values);
        let mut words = std::mem::take(&mut self.words);
        words.clear();
        words.resize(values.len() / cols * blocks * 4, 0);
        self.codes.clear();
        self.stats = EncodeStats::default();
        let strips = values.chunks(strip_rows * cols).zip(words.chunks_mut(strip_rows * blocks * 4));
        let mut overflow = None;
        for (strip, ((values, words), rates)) in strips.zip(rates.chunks(blocks)).enumerate() {
            let row = strip * strip_rows;
            let bad = self.encode_strip(context, first_row + row as u64, values, words, rates);
            if let Some(bad) = bad {
                overflow = Some(row + bad);
                break;
            }
        }
        (self.values, self.words) = (values, words);
        overflow
    }

    /// Encodes one strip behind the codes of those before it.
    fn encode_strip(
        &mut self,
        context: &Context<'_>,
        first_row: u64,
        values: &[f32],
        words: &mut [u8],
        rates: &[u8],
    ) -> Option<usize> {
        let &Context { cols, exponent, inputs, .. } = context;
        let (places, stride) = places(rates);
        let start = self.codes.len();
        let count = values.len() / cols;
        self.codes.resize(start + count * stride, 0);
        let codes = self.codes.get_mut(start..).unwrap_or_default();
        let within = context.own.end >= first_row + count as u64;
        if let (Some(feedback), Some(costs), true) = (context.feedback, inputs.costs(first_row), within) {
            let strip = guided::Strip { values, cols, exponent, rates, places: &places, costs, feedback };
            let (stats, overflow) = self.guided.encode(&mut self.kernel, &strip, words, codes);
            self.stats = self.stats + stats;
            return overflow;
        }
        let rows = values.chunks_exact(cols).zip(words.chunks_exact_mut(words.len() / count.max(1)));
        for (i, ((w, words), codes)) in rows.zip(codes.chunks_exact_mut(stride.max(1))).enumerate() {
            let known = inputs.at(first_row + i as u64);
            let costs = known.map(|k| k.costs.as_slice());
            let mut out = RowOut { words, codes, stats: self.stats, overflow: false };
            encode_row(&mut self.kernel, w, costs, exponent, rates, &places, &mut out);
            self.stats = out.stats;
            if out.overflow {
                return Some(i);
            }
            if let Some(known) = known {
                self.decoded.clear();
                self.decoded.resize(cols, 0.0);
                payload::decode_row(exponent, rates, out.words, out.codes, &mut self.decoded);
                let output = output_error(&known.moments.importance, w, &self.decoded);
                self.stats = self.stats + EncodeStats { output: Some(output), ..EncodeStats::default() };
            }
        }
        None
    }
}
