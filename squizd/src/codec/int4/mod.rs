//! INT4: 4-bit codes with a scale and an offset per group.
//!
//! Two layouts ([`plain`], [`compact`]) share one code plane: per 32 weights 16
//! bytes, byte `j` holding weight `j` in its low and weight `j + 16` in its
//! high nibble. Both are quantized by least squares over clipped ranges
//! ([`fit`]); ggml's 4-bit blocks are repacked without loss ([`import`]).
#![allow(clippy::needless_range_loop, reason = "one index runs over several arrays of lanes")]

mod check;
mod compact;
mod decode;
mod fit;
mod import;
mod plain;
#[cfg(test)]
mod tests;

use super::lanes::{F32x8, LANES, Lanes, exponent};
use super::sample::Sample;
use super::stream::{for_row_chunks, geometry, out_of_range, read_finite};
use super::{
    Activation, Codec, EncodeOptions, EncodeStats, Encoded, OptionKind, PayloadSink, Request, Rows, Violation,
};
use crate::{Error, Result, simd};
pub(super) use compact::Compact;
pub(super) use decode::block_scales;
pub(super) use plain::ScaleFormat;

use import::Block;
use squizd_spec::{CodecId, DType, Geometry, Matrix, Params, int_layout};
use std::ops::Range;

/// The codec.
pub(super) const CODEC: &dyn Codec = &Int4;

/// f16 bit patterns from here on are infinite or NaN.
const OVERFLOW: u16 = 0x7c00;
/// Group sizes of the plain layout.
const GROUP_SIZES: [u16; 4] = [16, 32, 64, 128];
/// Largest sampled magnitude that plain f16 scales are used for: leaves rows
/// outside the sample a factor of eight before f16 overflows.
const F16_PEAK: f32 = 8192.0;
/// The f16 format must not add more than this to the noise of f32.
const F16_NOISE: f64 = 1.01;
/// The compact layout must not make more than this times the noise of plain
/// groups of 32 (3 dB), or those are used.
const COMPACT_NOISE: f64 = 2.0;

struct Int4;

/// A tensor's parameters, typed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Layout {
    Plain { group: usize, format: ScaleFormat },
    Compact(Compact),
}

impl Layout {
    /// The layout of parameters that [`CodecId::geometry`] accepted.
    pub(super) fn of(params: &Params) -> Self {
        if params[0] == int_layout::PLAIN {
            Self::Plain { group: usize::from(params[1]), format: ScaleFormat::new(params[2]) }
        } else {
            Self::Compact(Compact::new(params[3], params[4]))
        }
    }

    /// What is subtracted from codes.
    pub(super) fn code_bias(self) -> f32 {
        match self {
            Self::Plain { .. } => 0.0,
            Self::Compact(compact) => compact.code_bias,
        }
    }
}

fn plain_params(group: u8, format: u8) -> Params {
    let mut params = Params::default();
    params[..3].copy_from_slice(&[int_layout::PLAIN, group, format]);
    params
}

fn compact_params(min_bias: u8, exponent: i8) -> Params {
    let mut params = Params::default();
    params[..5].copy_from_slice(&[int_layout::COMPACT, 32, 0, min_bias, exponent.cast_unsigned()]);
    params
}

/// Output planes of some rows: zeroed bytes, and bytes per row.
struct Coded<'a> {
    codes: &'a mut [u8],
    code_stride: usize,
    scales: &'a mut [u8],
    scale_stride: usize,
}

/// What encoding some rows came to.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    stats: EncodeStats,
    /// The first row one of whose scales overflowed.
    overflow: Option<usize>,
}

impl Tally {
    /// Adds eight groups' sums, which are in units of `2^shift` squared.
    #[inline(always)]
    fn add(&mut self, signal: F32x8, noise: F32x8, shift: &[i32; LANES]) {
        if *shift == [0; LANES] {
            self.stats.signal += signal.sum_f64();
            self.stats.noise += noise.sum_f64();
            return;
        }
        for l in 0..LANES {
            let unit = f64::from_bits(((1023 + 2 * shift[l]) as u64) << 52);
            self.stats.signal += f64::from(signal.0[l]) * unit;
            self.stats.noise += f64::from(noise.0[l]) * unit;
        }
    }

    fn overflow(&mut self, row: usize) {
        self.overflow.get_or_insert(row);
    }
}

/// Encodes whole rows of `cols` columns.
#[allow(unsafe_code, reason = "calls the copy compiled for a detected level")]
fn encode_rows(layout: Layout, values: &[f32], cols: usize, out: &mut Coded<'_>) -> Tally {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn avx2(layout: Layout, values: &[f32], cols: usize, out: &mut Coded<'_>) -> Tally {
        encode_lanes::<super::lanes::Avx>(layout, values, cols, out)
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
    fn avx512(layout: Layout, values: &[f32], cols: usize, out: &mut Coded<'_>) -> Tally {
        encode_lanes::<super::lanes::Avx>(layout, values, cols, out)
    }
    match simd::level() {
        // SAFETY: the level is only ever one this CPU supports.
        #[cfg(target_arch = "x86_64")]
        simd::Level::Avx2 => unsafe { avx2(layout, values, cols, out) },
        // SAFETY: the level is only ever one this CPU supports.
        #[cfg(target_arch = "x86_64")]
        simd::Level::Avx512 => unsafe { avx512(layout, values, cols, out) },
        _ => encode_lanes::<F32x8>(layout, values, cols, out),
    }
}

#[inline(always)]
fn encode_lanes<V: Lanes>(layout: Layout, values: &[f32], cols: usize, out: &mut Coded<'_>) -> Tally {
    match layout {
        Layout::Compact(compact) => compact.encode_rows::<V>(values, cols, out),
        Layout::Plain { group: 16, format } => plain::encode_rows::<V, 16>(format, values, cols, out),
        Layout::Plain { group: 32, format } => plain::encode_rows::<V, 32>(format, values, cols, out),
        Layout::Plain { group: 64, format } => plain::encode_rows::<V, 64>(format, values, cols, out),
        Layout::Plain { format, .. } => plain::encode_rows::<V, 128>(format, values, cols, out),
    }
}

/// Noise of encoding the trial rows with `params`.
fn trial(sample: &Sample, params: &Params) -> f64 {
    let cols = sample.trial_cols;
    let rows = sample.trial.len() / cols.max(1);
    let matrix = Matrix { rows: rows as u64, cols: cols as u64 };
    let Ok(Geometry { planes: [codes, scales, ..], .. }) = CodecId::INT4.geometry(matrix, params) else {
        return f64::INFINITY;
    };
    let (code_stride, scale_stride) = (codes.row_stride as usize, scales.row_stride as usize);
    let mut out = Coded {
        codes: &mut vec![0; rows * code_stride],
        code_stride,
        scales: &mut vec![0; rows * scale_stride],
        scale_stride,
    };
    encode_rows(Layout::of(params), &sample.trial, cols, &mut out).stats.noise
}

/// Parameters of the plain layout: f16 scales unless the largest sampled
/// weight exceeds [`F16_PEAK`] or they cost more than [`F16_NOISE`].
fn plan_plain(sample: &Sample, group: u8) -> Params {
    let [half, single] = [plain_params(group, 0), plain_params(group, 1)];
    if sample.peak <= F16_PEAK && trial(sample, &half) <= F16_NOISE * trial(sample, &single) {
        half
    } else {
        single
    }
}

/// Parameters without a group size: the compact layout with the bias of
/// smaller error, unless it is [`COMPACT_NOISE`] times as noisy as plain
/// groups of 32.
///
/// The exponent puts the largest `dmin` that the sampled magnitudes can need
/// near 2^5: rows outside the sample may be 2^11 times as large, and `d` keeps
/// full precision down to 2^-14 of its usual size.
fn plan_default(sample: &Sample) -> Params {
    let e = if sample.peak > 0.0 { (exponent(sample.peak) - 9).max(-128) as i8 } else { 0 };
    let [zero, centred] = [compact_params(0, e), compact_params(32, e)];
    let (from_zero, from_centre) = (trial(sample, &zero), trial(sample, &centred));
    let (compact, noise) = if from_zero < from_centre { (zero, from_zero) } else { (centred, from_centre) };
    if noise <= COMPACT_NOISE * trial(sample, &plain_params(32, 1)) {
        compact
    } else {
        plan_plain(sample, 32)
    }
}

/// Parameters that take a source's blocks over as they are, and their type;
/// `None` if the options ask for another group size.
fn import_params(dtype: DType, matrix: Matrix, options: &EncodeOptions) -> Option<(Block, Params)> {
    let block = Block::of(dtype)?;
    let params = match (block, options.group_size) {
        (Block::Q4K, None) => compact_params(0, 0),
        (Block::Q4_0 | Block::Q4_1, None | Some(32)) => plain_params(32, 0),
        _ => return None,
    };
    matrix.cols.is_multiple_of(block.size().0 as u64).then_some((block, params))
}

/// A group size of the plain layout.
fn plain_group(group: u16) -> Result<u8> {
    u8::try_from(group)
        .ok()
        .filter(|_| GROUP_SIZES.contains(&group))
        .ok_or_else(|| Error::invalid(format!("int4 group size is {group}, allowed {GROUP_SIZES:?}")))
}

impl Codec for Int4 {
    fn id(&self) -> CodecId {
        CodecId::INT4
    }

    fn options(&self) -> &'static [OptionKind] {
        &[OptionKind::GroupSize]
    }

    fn accepts(&self, _: Matrix) -> std::result::Result<(), String> {
        Ok(())
    }

    fn imports(&self, dtype: DType, matrix: Matrix, options: &EncodeOptions) -> bool {
        import_params(dtype, matrix, options).is_some()
    }

    fn nominal(&self, matrix: Matrix, dtype: DType, options: &EncodeOptions) -> Result<Params> {
        match (import_params(dtype, matrix, options), options.group_size) {
            (Some((_, params)), _) => Ok(params),
            (None, None) => Ok(compact_params(32, 0)),
            (None, Some(group)) => Ok(plain_params(plain_group(group)?, 0)),
        }
    }

    fn plan(&self, rows: &dyn Rows, request: &Request<'_>) -> Result<Params> {
        let options = &request.options;
        let matrix = rows.matrix();
        if let Some((_, params)) = import_params(rows.dtype(), matrix, options)
            && matrix.rows > 0
            && rows.read_native(0..1)?.is_some()
        {
            return Ok(params);
        }
        match options.group_size {
            None => Ok(plan_default(&Sample::read(rows)?)),
            Some(group) => Ok(plan_plain(&Sample::read(rows)?, plain_group(group)?)),
        }
    }

    fn encode(
        &self,
        rows: &dyn Rows,
        params: &Params,
        _: &Request<'_>,
        sink: &dyn PayloadSink,
    ) -> Result<(u64, EncodeStats)> {
        let matrix = rows.matrix();
        let Geometry { planes: [code_plane, scale_plane, ..], length, .. } =
            geometry(self.id(), rows.name(), matrix, params)?;
        if matrix.elements() == 0 {
            return Ok((length.max(), EncodeStats::default()));
        }
        let layout = Layout::of(params);
        let source = import_params(rows.dtype(), matrix, &EncodeOptions::default())
            .filter(|(_, import)| import == params);
        let (code_stride, scale_stride) = (code_plane.row_stride as usize, scale_plane.row_stride as usize);
        let cols = matrix.cols as usize;
        let stats = for_row_chunks(rows, Buffers::default, |buffers, range| {
            let Buffers { values, codes, scales } = buffers;
            let count = (range.end - range.start) as usize;
            codes.clear();
            codes.resize(count * code_stride, 0);
            scales.clear();
            scales.resize(count * scale_stride, 0);
            let native = match source {
                Some((block, _)) => rows.read_native(range.clone())?.map(|bytes| (block, bytes)),
                None => None,
            };
            let stats = if let Some((block, bytes)) = native {
                repack(rows, &range, block, &bytes, codes, scales)?;
                decode::energy(layout, cols, codes, scales)
            } else {
                read_finite(rows, range.clone(), self.id(), values)?;
                let mut out = Coded { codes, code_stride, scales, scale_stride };
                let tally = encode_rows(layout, values, cols, &mut out);
                if let Some(row) = tally.overflow {
                    return Err(out_of_range(rows, range.start + row as u64, self.id()));
                }
                tally.stats
            };
            sink.write_at(code_plane.offset + range.start * code_plane.row_stride, codes)?;
            sink.write_at(scale_plane.offset + range.start * scale_plane.row_stride, scales)?;
            Ok(stats)
        })?;
        Ok((length.max(), stats))
    }

    fn decode(&self, tensor: &Encoded<'_>, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        decode::rows(tensor, rows, out)
    }

    fn check(&self, tensor: &Encoded<'_>) -> std::result::Result<(), Violation> {
        check::check(tensor)
    }

    fn matvec(&self, tensor: &Encoded<'_>, x: &Activation<'_>, rows: Range<u64>, y: &mut [f32]) {
        super::kernels::int4(tensor, x, rows, y);
    }
}

/// One worker's buffers.
#[derive(Default)]
struct Buffers {
    values: Vec<f32>,
    codes: Vec<u8>,
    scales: Vec<u8>,
}

/// Takes the source blocks of `range` over.
fn repack(
    rows: &dyn Rows,
    range: &Range<u64>,
    block: Block,
    bytes: &[u8],
    codes: &mut [u8],
    scales: &mut [u8],
) -> Result<()> {
    let (weights, size) = block.size();
    let per_row = rows.matrix().cols / weights as u64;
    let wanted = (range.end - range.start) * per_row * size as u64;
    if bytes.len() as u64 != wanted {
        return Err(Error::invalid(format!(
            "tensor {}: source gave {} bytes for rows {}..{} of {}, {wanted} expected",
            rows.name(),
            bytes.len(),
            range.start,
            range.end,
            rows.dtype()
        )));
    }
    block.repack(bytes, codes, scales).map_err(|at| {
        let (row, column) = (range.start + at as u64 / per_row, at as u64 % per_row * weights as u64);
        Error::invalid(format!(
            "tensor {0}: the {1} block at row {row}, column {column} has a scale that is not finite or beyond f16: repair the source, or keep the tensor with --tensor-type '^{0}$=f32'",
            rows.name(),
            rows.dtype()
        ))
    })
}
