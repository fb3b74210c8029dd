//! INT4, INT3 and INT2: codes of 4, 3 or 2 bits with a scale and an offset per
//! group.
//!
//! One implementation serves all three. Three layouts ([`plain`], [`compact`],
//! [`fine`]) share the code planes of [`codes`]; all are quantized by least
//! squares over clipped ranges ([`fit`]), and ggml's 4-bit blocks are repacked
//! without loss ([`import`]).

mod check;
mod clips;
pub(super) mod codes;
mod compact;
mod decode;
mod encode;
mod fine;
pub(super) mod fit;
pub(super) mod guided;
#[cfg(test)]
mod guided_tests;
mod import;
mod layout;
mod panel;
mod plain;
#[cfg(test)]
mod tests;
mod unit;

use super::lanes::exponent;
use super::panel::Panel;
use super::sample::Sample;
use super::stream::{for_row_chunks_of, geometry, out_of_range, read_finite};
use super::{
    Activation, Codec, EncodeOptions, EncodeStats, Encoded, Kernel, Operation, OptionKind, PayloadSink,
    Request, Rows, Violation,
};
use crate::{Error, Result, simd::Level};
pub(super) use compact::Compact;
pub(super) use fine::Fine;
pub use layout::IntegerLayout;
pub(super) use layout::{Layout, block_scales};
pub(super) use plain::ScaleFormat;

use codes::BLOCK;
use encode::{Coded, Tally};
use guided::Inputs;
use import::Block;
use layout::{compact_params, fine_params, plain_params};
use squizd_spec::{CodecId, DType, Geometry, Matrix, Params};
use std::ops::Range;

/// The codecs.
pub(super) const INT4: &dyn Codec = &Integer { bits: 4 };
pub(super) const INT3: &dyn Codec = &Integer { bits: 3 };
pub(super) const INT2: &dyn Codec = &Integer { bits: 2 };

/// Group sizes of the plain layout.
const GROUP_SIZES: [u16; 4] = [16, 32, 64, 128];
/// Largest sampled magnitude that plain f16 scales are used for: leaves rows
/// outside the sample a factor of eight before f16 overflows.
const F16_PEAK: f32 = 8192.0;
/// The f16 format must not add more than this to the noise of f32.
const F16_NOISE: f64 = 1.01;
/// A hierarchical layout must not make more than this times the noise of plain
/// groups of 32 (3 dB), or those are used.
const HIERARCHY_NOISE: f64 = 2.0;
/// Scale biases of the fine layout to try: for tensors whose groups are much
/// alike, and for those with flat groups beside others.
const SCALE_BIASES: [u8; 2] = [6, 1];

/// The codec of codes of `bits`.
struct Integer {
    bits: u32,
}

/// The wire id of codes of `bits`.
const fn id(bits: u32) -> CodecId {
    match bits {
        2 => CodecId::INT2,
        3 => CodecId::INT3,
        _ => CodecId::INT4,
    }
}

/// Noise of encoding the trial rows with `params`.
fn trial(bits: u32, sample: &Sample, params: &Params) -> f64 {
    let cols = sample.trial_cols;
    let rows = sample.trial.len() / cols.max(1);
    let matrix = Matrix { rows: rows as u64, cols: cols as u64 };
    let Ok(Geometry { planes: [_, scales, ..], .. }) = id(bits).geometry(matrix, params) else {
        return f64::INFINITY;
    };
    let (code_stride, scale_stride) = (cols.div_ceil(BLOCK) * BLOCK, scales.row_stride as usize);
    let mut out = Coded {
        codes: &mut vec![0; rows * code_stride],
        code_stride,
        scales: &mut vec![0; rows * scale_stride],
        scale_stride,
    };
    encode::encode_rows(bits, Layout::of(bits, params), &sample.trial, cols, None, &mut out).stats.noise
}

/// Parameters of the plain layout: f16 scales unless the largest sampled
/// weight exceeds [`F16_PEAK`] or they cost more than [`F16_NOISE`].
fn plan_plain(bits: u32, sample: &Sample, group: u8) -> Params {
    let [half, single] = [plain_params(group, 0), plain_params(group, 1)];
    if sample.peak <= F16_PEAK && trial(bits, sample, &half) <= F16_NOISE * trial(bits, sample, &single) {
        half
    } else {
        single
    }
}

/// Parameters of one of the `layouts` (compact, fine): those of least error,
/// unless they are [`HIERARCHY_NOISE`] times as noisy as plain groups of 32.
///
/// The exponents put the largest `dmin` that the sampled magnitudes can need
/// near 2^5: rows outside the sample may be 2^11 times as large, and `d` keeps
/// full precision down to 2^-14 of its usual size.
fn plan_hierarchy(bits: u32, sample: &Sample, layouts: &[IntegerLayout]) -> Params {
    let below =
        |steps: i32| if sample.peak > 0.0 { (exponent(sample.peak) - steps).max(-128) as i8 } else { 0 };
    let candidates = layouts.iter().flat_map(|layout| match layout {
        IntegerLayout::Fine => SCALE_BIASES.map(|bias| fine_params(bias, below(6))),
        _ => [compact_params(32, below(9)), compact_params(0, below(9))],
    });
    let plain = plain_params(32, 1);
    let best = candidates
        .map(|params| (trial(bits, sample, &params), params))
        .reduce(|best, next| if next.0 < best.0 { next } else { best });
    match best {
        Some((noise, params)) if noise <= HIERARCHY_NOISE * trial(bits, sample, &plain) => params,
        _ => plan_plain(bits, sample, 32),
    }
}

/// The layouts to choose from, and the group size if it is the plain one.
fn wished(bits: u32, options: &EncodeOptions) -> Result<(&'static [IntegerLayout], Option<u8>)> {
    use IntegerLayout::{Compact, Fine, Plain};
    match (options.layout, options.group_size) {
        (None | Some(Plain), Some(group)) => plain_group(bits, group).map(|g| (&[][..], Some(g))),
        (Some(Plain), None) => Ok((&[], Some(32))),
        (Some(layout), Some(group)) => Err(Error::invalid(format!(
            "{} layout {layout} has no group size, but g{group} is asked for",
            id(bits)
        ))),
        (Some(Compact), None) => Ok((&[Compact], None)),
        (Some(Fine), None) => Ok((&[Fine], None)),
        (None, None) => Ok((&[Fine, Compact], None)),
    }
}

/// Parameters that take a source's blocks over as they are, and their type;
/// `None` if the options ask for another layout or group size.
fn import_params(
    bits: u32,
    dtype: DType,
    matrix: Matrix,
    options: &EncodeOptions,
) -> Option<(Block, Params)> {
    use IntegerLayout::{Compact, Plain};
    let block = Block::of(bits, dtype)?;
    let params = match (block, options.layout, options.group_size) {
        (Block::Q4K, None | Some(Compact), None) => compact_params(0, 0),
        (Block::Q4_0 | Block::Q4_1, None | Some(Plain), None | Some(32)) => plain_params(32, 0),
        _ => return None,
    };
    matrix.cols.is_multiple_of(block.size().0 as u64).then_some((block, params))
}

/// A group size of the plain layout.
fn plain_group(bits: u32, group: u16) -> Result<u8> {
    u8::try_from(group)
        .ok()
        .filter(|_| GROUP_SIZES.contains(&group))
        .ok_or_else(|| Error::invalid(format!("{} group size is {group}, allowed {GROUP_SIZES:?}", id(bits))))
}

impl Codec for Integer {
    fn id(&self) -> CodecId {
        id(self.bits)
    }

    fn options(&self) -> &'static [OptionKind] {
        &[OptionKind::GroupSize, OptionKind::Layout]
    }

    fn accepts(&self, _: Matrix) -> std::result::Result<(), String> {
        Ok(())
    }

    fn imports(&self, dtype: DType, matrix: Matrix, options: &EncodeOptions) -> bool {
        import_params(self.bits, dtype, matrix, options).is_some()
    }

    fn nominal(&self, matrix: Matrix, dtype: DType, options: &EncodeOptions) -> Result<Params> {
        if let Some((_, params)) = import_params(self.bits, dtype, matrix, options) {
            return Ok(params);
        }
        Ok(match wished(self.bits, options)? {
            (_, Some(group)) => plain_params(group, 0),
            ([IntegerLayout::Fine, ..], None) => fine_params(SCALE_BIASES[0], 0),
            (_, None) => compact_params(32, 0),
        })
    }

    fn plan(&self, rows: &dyn Rows, request: &Request<'_>) -> Result<Params> {
        let options = &request.options;
        let matrix = rows.matrix();
        if let Some((_, params)) = import_params(self.bits, rows.dtype(), matrix, options)
            && matrix.rows > 0
            && rows.read_native(0..1)?.is_some()
        {
            return Ok(params);
        }
        match wished(self.bits, options)? {
            (_, Some(group)) => Ok(plan_plain(self.bits, &Sample::read(rows)?, group)),
            (layouts, None) => Ok(plan_hierarchy(self.bits, &Sample::read(rows)?, layouts)),
        }
    }

    fn encode(
        &self,
        rows: &dyn Rows,
        params: &Params,
        request: &Request<'_>,
        sink: &dyn PayloadSink,
    ) -> Result<(u64, EncodeStats)> {
        let matrix = rows.matrix();
        let Geometry { planes: [code_plane, scale_plane, ..], length, .. } =
            geometry(self.id(), rows.name(), matrix, params)?;
        if matrix.elements() == 0 {
            return Ok((length.max(), EncodeStats::default()));
        }
        let layout = Layout::of(self.bits, params);
        let source = import_params(self.bits, rows.dtype(), matrix, &EncodeOptions::default())
            .filter(|(_, import)| import == params);
        let cols = matrix.cols as usize;
        let mut stats = EncodeStats::default();
        for (part, moments) in request.guide.split(0..matrix.rows) {
            let inputs = moments.filter(|_| source.is_none()).and_then(Inputs::new);
            let part = for_row_chunks_of(rows, part, 1, Buffers::default, |buffers, range| {
                let Buffers { packed, scales, .. } = buffers;
                let count = (range.end - range.start) as usize;
                zeroed(packed, count * code_plane.row_stride as usize);
                zeroed(scales, count * scale_plane.row_stride as usize);
                let native = match source {
                    Some((block, _)) => rows.read_native(range.clone())?.map(|bytes| (block, bytes)),
                    None => None,
                };
                let stats = if let Some((block, bytes)) = native {
                    repack(rows, &range, block, &bytes, packed, scales)?;
                    decode::energy(self.bits, layout, cols, packed, scales)
                } else {
                    read_finite(rows, range.clone(), self.id(), &mut buffers.values)?;
                    let tally = buffers.encode(self.bits, layout, cols, inputs.as_ref());
                    if let Some(row) = tally.overflow {
                        return Err(out_of_range(rows, range.start + row as u64, self.id()));
                    }
                    tally.stats
                };
                sink.write_at(code_plane.offset + range.start * code_plane.row_stride, &buffers.packed)?;
                sink.write_at(scale_plane.offset + range.start * scale_plane.row_stride, &buffers.scales)?;
                Ok(stats)
            })?;
            stats = stats + part;
        }
        Ok((length.max(), stats))
    }

    fn decode(&self, tensor: &Encoded<'_>, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        decode::rows(self.bits, self.id(), tensor, rows, out)
    }

    fn check(&self, tensor: &Encoded<'_>) -> std::result::Result<(), Violation> {
        check::check(self.bits, self.id(), tensor)
    }

    fn layout(&self, params: &Params) -> String {
        match Layout::of(self.bits, params) {
            Layout::Compact(_) => IntegerLayout::Compact.to_string(),
            Layout::Fine(_) => IntegerLayout::Fine.to_string(),
            Layout::Plain { group, format: ScaleFormat::F16 } => format!("g{group}"),
            Layout::Plain { group, format: ScaleFormat::F32 } => format!("g{group}-f32"),
        }
    }

    fn kernel(&self, params: &Params, operation: Operation, level: Level) -> Kernel {
        match operation {
            Operation::Matvec(precision) => {
                super::kernels::integer_kernel(Layout::of(self.bits, params), precision, level)
            }
            Operation::Decode => Kernel::compiled(level),
        }
    }

    fn matvec(&self, tensor: &Encoded<'_>, x: &Activation<'_>, rows: Range<u64>, y: &mut [f32]) {
        super::kernels::integer(self.bits, self.id(), tensor, x, rows, y);
    }

    fn has_panels(&self, params: &Params, _: Level) -> bool {
        panel::takes(self.bits, Layout::of(self.bits, params))
    }

    fn panel(&self, tensor: &Encoded<'_>, rows: Range<u64>, out: &mut Panel) -> Result<()> {
        panel::rows(self.bits, self.id(), tensor, rows, out)
    }
}

/// One worker's buffers.
#[derive(Default)]
struct Buffers {
    values: Vec<f32>,
    /// One byte per weight, rows in whole blocks.
    codes: Vec<u8>,
    packed: Vec<u8>,
    scales: Vec<u8>,
    decoded: Vec<f32>,
    compensating: guided::Worker,
}

impl Buffers {
    /// Encodes the rows of `values`; `packed` and `scales` have their lengths.
    fn encode(&mut self, bits: u32, layout: Layout, cols: usize, inputs: Option<&Inputs<'_>>) -> Tally {
        let Self { values, codes, packed, scales, .. } = self;
        let (count, blocks) = (values.len() / cols, cols.div_ceil(BLOCK));
        zeroed(codes, count * blocks * BLOCK);
        let scale_stride = scales.len() / count.max(1);
        let mut out = Coded { codes, code_stride: blocks * BLOCK, scales, scale_stride };
        let importance = inputs.map(Inputs::importance);
        let mut tally = match (inputs.and_then(Inputs::feedback), importance) {
            (Some(feedback), Some(importance)) => {
                self.compensating.encode_rows(bits, layout, values, cols, importance, feedback, &mut out)
            }
            _ => encode::encode_rows(bits, layout, values, cols, importance, &mut out),
        };
        codes::pack_rows(bits, codes, blocks, packed);
        if let Some(inputs) = inputs
            && tally.stats.output.is_none()
        {
            self.decoded.clear();
            self.decoded.resize(values.len(), 0.0);
            decode::decode_rows(bits, layout, cols, packed, scales, &mut self.decoded);
            tally.stats.output = Some(inputs.output(values, &self.decoded));
        }
        tally
    }
}

fn zeroed(bytes: &mut Vec<u8>, length: usize) {
    bytes.clear();
    bytes.resize(length, 0);
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
