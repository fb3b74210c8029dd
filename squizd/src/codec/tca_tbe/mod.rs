//! TCA-TBE: bfloat16 without loss.
//!
//! Exponents of trained weights cluster: seven neighbouring values cover all
//! but a few per cent. Each superblock of 1024 weights of a row stores its
//! base exponent and the offsets from it as bit planes, sign and mantissa as
//! they are, and what lies outside in a side stream; section 8 of the
//! specification has the layout. The idea of bit planes over an exponent
//! window is ZipServ's (arXiv 2603.17435).

mod check;
mod decode;
mod dispatch;
mod encode;
mod escapes;
#[cfg(test)]
mod golden;
#[cfg(target_arch = "aarch64")]
mod neon;
mod payload;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod words;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::half_float::bf16_to_f32;
use super::sample::Sample;
use super::stream::{checked_geometry, chunk_elements, energy, for_row_chunks, geometry};
use super::{
    Activation, Codec, EncodeOptions, EncodeStats, Encoded, Kernel, Operation, OptionKind, PayloadSink,
    Request, Rows, Violation, raw,
};
use crate::{Error, Result, simd::Level};
use decode::Corrupt;
use encode::{Coding, Encoder};
pub(crate) use escapes::escapes;
use payload::{Head, Payload, SUPERBLOCK};
use squizd_spec::{CodecId, DType, Geometry, Matrix, Params, tbe};
use std::{collections::BTreeMap, fmt, ops::Range, str::FromStr, sync::Mutex};

/// The codec.
pub(super) const CODEC: &dyn Codec = &TcaTbe;

struct TcaTbe;

/// Which of the codings to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Three planes: about 11.3 bits per weight, read in place by kernels.
    #[default]
    Tbe3,
    /// Two planes and two more levels: about 10.8 bits per weight, for disks
    /// and CPUs.
    Tbe2,
}

impl Profile {
    const fn wire(self) -> u8 {
        match self {
            Self::Tbe3 => tbe::TBE3,
            Self::Tbe2 => tbe::TBE2,
        }
    }
}

impl FromStr for Profile {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "tbe3" => Ok(Self::Tbe3),
            "tbe2" => Ok(Self::Tbe2),
            _ => Err(Error::invalid(format!("unknown profile {text:?} of tca-tbe; allowed: tbe3, tbe2"))),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tbe3 => "tbe3",
            Self::Tbe2 => "tbe2",
        })
    }
}

/// Offsets around the window, as [`encode::palette`] gives without weights.
const NEAREST: [u8; 6] = [3, 255, 4, 254, 5, 253];

fn params(coding: Coding) -> Params {
    let mut params = Params::default();
    params[0] = coding.profile;
    if coding.profile == tbe::TBE2 {
        params[1..7].copy_from_slice(&coding.palette);
    }
    params
}

fn coding(params: &Params) -> Coding {
    let [profile, a, b, c, d, e, f, ..] = *params;
    Coding { profile, palette: [a, b, c, d, e, f] }
}

/// Whether the coding saves nothing: the payload's length estimated from
/// `sample`, whole rows of `cols` weights (or the beginning of one).
fn saves_nothing(sample: &[u16], cols: usize, matrix: Matrix, params: &Params) -> Result<bool> {
    let geometry = geometry(CodecId::TCA_TBE, "sample", matrix, params)?;
    let (mut encoder, mut stream, mut fixed) = (Encoder::new(coding(params)), Vec::new(), Vec::new());
    for words in sample.chunks(cols.max(1)).flat_map(|row| row.chunks(SUPERBLOCK)) {
        fixed.clear();
        fixed.resize(coding(params).bytes(words.len()), 0);
        encoder.push(words, &mut fixed, &mut stream);
    }
    let per_weight = stream.len() as f64 / sample.len().max(1) as f64;
    let (_, start) = payload::tail_starts(&geometry, matrix.rows);
    let estimate = payload::total_length(start, (per_weight * matrix.elements() as f64).ceil() as u64);
    Ok(estimate >= 2 * matrix.elements())
}

/// The bfloat16s of `range`.
fn read_words(
    rows: &dyn Rows,
    range: &Range<u64>,
    words: &mut Vec<u16>,
    values: &mut Vec<f32>,
) -> Result<()> {
    let count = chunk_elements(rows, range)?;
    words.clear();
    values.resize(count, 0.0);
    if let Some(bytes) = rows.read_native(range.clone())? {
        if bytes.len() != 2 * count {
            return Err(Error::invalid(format!(
                "tensor {}: source gave {} bytes for {count} BF16 values",
                rows.name(),
                bytes.len()
            )));
        }
        words.extend(bytes.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)));
        for (v, w) in values.iter_mut().zip(&*words) {
            *v = bf16_to_f32(*w);
        }
        return Ok(());
    }
    rows.read_f32(range.clone(), values)?;
    words.extend(values.iter().map(|v| (v.to_bits() >> 16) as u16));
    Ok(())
}

/// Refuses all but BF16.
fn only_bf16(dtype: DType) -> std::result::Result<(), String> {
    if dtype == DType::BF16 {
        Ok(())
    } else {
        Err(format!(
            "its source is {dtype}, and tca-tbe stores BF16 without rounding: choose another codec, or lossless, which keeps other types as they are"
        ))
    }
}

/// What encoding some rows leaves for the end.
struct Tail {
    /// Of each superblock: bytes of its part of the side stream, and flags.
    parts: Vec<(u16, u16)>,
    stream: Vec<u8>,
}

/// Buffers of a worker.
struct Buffers {
    encoder: Encoder,
    words: Vec<u16>,
    values: Vec<f32>,
    fixed: Vec<u8>,
    bases: Vec<u8>,
}

impl Buffers {
    fn new(coding: Coding) -> Self {
        let (words, values, fixed, bases) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { encoder: Encoder::new(coding), words, values, fixed, bases }
    }

    /// Encodes whole rows of `cols` words into `fixed` and `bases`.
    fn encode(&mut self, cols: usize, coding: Coding) -> Tail {
        let rows = self.words.len() / cols.max(1);
        let row_bytes = coding.bytes(cols);
        self.fixed.clear();
        self.fixed.resize(rows * row_bytes, 0);
        self.bases.clear();
        let mut tail = Tail { parts: Vec::new(), stream: Vec::new() };
        let full = coding.bytes(SUPERBLOCK);
        for (row, fixed) in
            self.words.chunks_exact(cols.max(1)).zip(self.fixed.chunks_exact_mut(row_bytes.max(1)))
        {
            for (words, fixed) in row.chunks(SUPERBLOCK).zip(fixed.chunks_mut(full)) {
                let before = tail.stream.len();
                let (base, flags) = self.encoder.push(words, fixed, &mut tail.stream);
                self.bases.push(base);
                tail.parts.push(((tail.stream.len() - before) as u16, flags));
            }
        }
        tail
    }
}

/// Writes index, anchors, side stream and head; returns the payload's length.
fn write_tails(
    rows: &dyn Rows,
    geometry: &Geometry,
    profile: u8,
    tails: &BTreeMap<u64, Tail>,
    sink: &dyn PayloadSink,
) -> Result<u64> {
    let matrix = rows.matrix();
    let (anchors_at, start) = payload::tail_starts(geometry, matrix.rows);
    let (mut index, mut anchors) = (Vec::new(), Vec::new());
    let (mut end, mut anchor, mut count) = (0u64, 0u64, 0u64);
    for tail in tails.values() {
        sink.write_at(start + end, &tail.stream)?;
        for (length, flags) in &tail.parts {
            if count.is_multiple_of(tbe::ANCHORED) {
                anchor = end;
                let stored = u32::try_from(anchor).map_err(|_| {
                    Error::unsupported(format!(
                        "tensor {0}: tca-tbe would need a side stream beyond 4 GiB: keep it with --tensor-type '^{0}$=bf16'",
                        rows.name()
                    ))
                })?;
                anchors.extend_from_slice(&stored.to_le_bytes());
            }
            index.extend_from_slice(&((end - anchor) as u16 | flags).to_le_bytes());
            end += u64::from(*length);
            count += 1;
        }
    }
    sink.write_at(geometry.planes[0].offset, &index)?;
    sink.write_at(anchors_at, &anchors)?;
    sink.write_at(0, &Head::of(matrix, profile, end).to_bytes())?;
    Ok(payload::total_length(start, end))
}

/// The error for a payload that contradicts itself.
fn corrupt(name: &str, at: Corrupt) -> Error {
    Error::invalid(format!(
        "tensor {name}: row {}, superblock {}: its escapes do not lie within the side stream; the file is damaged",
        at.row, at.superblock
    ))
}

/// A coded payload whose rows `rows` can be decoded into `out` values; `None`
/// for the profile that stores plain numbers.
fn open<'a>(tensor: &Encoded<'a>, rows: &Range<u64>, out: usize) -> Result<Option<Payload<'a>>> {
    checked_geometry(CodecId::TCA_TBE, tensor, rows, out, tensor.matrix.cols)?;
    if tensor.params.first() == Some(&tbe::PLAIN) {
        return Ok(None);
    }
    let wrong = |v: Violation| Error::invalid(format!("tensor {}: {}", tensor.name, v.message));
    Payload::parse(tensor).map(Some).map_err(wrong)
}

/// Outputs from this many bytes up go around the caches.
const STREAM_FROM: usize = 8 << 20;

/// Decodes `rows` of a tensor of this codec into `out` (`rows.len() * cols`
/// values), the bits of the source's bfloat16s.
///
/// # Errors
/// If sizes do not go together, or the payload is damaged.
pub fn decode_bf16(tensor: &Encoded<'_>, rows: Range<u64>, out: &mut [u16]) -> Result<()> {
    let Some(payload) = open(tensor, &rows, out.len())? else {
        let start = (rows.start * tensor.matrix.cols) as usize;
        let words = tensor.data.as_chunks().0.iter().skip(start);
        for (o, word) in out.iter_mut().zip(words) {
            *o = u16::from_le_bytes(*word);
        }
        return Ok(());
    };
    let stream = size_of_val(out) >= STREAM_FROM;
    let done = dispatch::rows_to_bf16(&payload, rows.start as usize..rows.end as usize, out, stream);
    if stream {
        dispatch::fence();
    }
    done.map_err(|at| corrupt(tensor.name, at))
}

impl Codec for TcaTbe {
    fn id(&self) -> CodecId {
        CodecId::TCA_TBE
    }

    fn takes_guide(&self) -> bool {
        false
    }

    fn accepts(&self, _: Matrix) -> std::result::Result<(), String> {
        Ok(())
    }

    fn accepts_dtype(&self, dtype: DType) -> std::result::Result<(), String> {
        only_bf16(dtype)
    }

    fn options(&self) -> &'static [OptionKind] {
        &[OptionKind::Profile]
    }

    fn imports(&self, dtype: DType, _: Matrix, _: &EncodeOptions) -> bool {
        dtype == DType::BF16
    }

    fn nominal(&self, _: Matrix, _: DType, options: &EncodeOptions) -> Result<Params> {
        let profile = options.profile.unwrap_or_default().wire();
        Ok(params(Coding { profile, palette: NEAREST }))
    }

    /// The palette, and whether coding saves anything, are decided from a
    /// sample; so a tensor whose other rows are unlike it may end up larger
    /// than plain, but never wrong.
    fn plan(&self, rows: &dyn Rows, request: &Request<'_>) -> Result<Params> {
        only_bf16(rows.dtype())
            .map_err(|why| Error::unsupported(format!("tensor {}: {why}", rows.name())))?;
        let profile = request.options.profile.unwrap_or_default().wire();
        let sample = Sample::read(rows)?;
        let words: Vec<u16> = sample.trial.iter().map(|v| (v.to_bits() >> 16) as u16).collect();
        let cols = sample.trial_cols;
        let palette = encode::palette(words.chunks(cols.max(1)));
        let params = params(Coding { profile, palette });
        let plain = saves_nothing(&words, cols, rows.matrix(), &params)?;
        Ok(if plain { Params::default() } else { params })
    }

    fn encode(
        &self,
        rows: &dyn Rows,
        params: &Params,
        request: &Request<'_>,
        sink: &dyn PayloadSink,
    ) -> Result<(u64, EncodeStats)> {
        only_bf16(rows.dtype())
            .map_err(|why| Error::unsupported(format!("tensor {}: {why}", rows.name())))?;
        let coding = coding(params);
        if coding.profile == tbe::PLAIN {
            return raw::BF16.encode(rows, params, request, sink);
        }
        let matrix = rows.matrix();
        let geometry = geometry(self.id(), rows.name(), matrix, params)?;
        let [_, base_plane, fixed_plane, _] = geometry.planes;
        let tails = Mutex::new(BTreeMap::new());
        let stats = for_row_chunks(
            rows,
            || Buffers::new(coding),
            |buffers, range| {
                read_words(rows, &range, &mut buffers.words, &mut buffers.values)?;
                let tail = buffers.encode(matrix.cols as usize, coding);
                sink.write_at(base_plane.offset + range.start * base_plane.row_stride, &buffers.bases)?;
                sink.write_at(fixed_plane.offset + range.start * fixed_plane.row_stride, &buffers.fixed)?;
                tails.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(range.start, tail);
                Ok(EncodeStats::new(energy(&buffers.values), 0.0))
            },
        )?;
        let tails = tails.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok((write_tails(rows, &geometry, coding.profile, &tails, sink)?, stats))
    }

    fn decode(&self, tensor: &Encoded<'_>, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        match open(tensor, &rows, out.len())? {
            None => raw::BF16.decode(tensor, rows, out),
            Some(payload) => dispatch::rows_to_f32(&payload, rows.start as usize..rows.end as usize, out)
                .map_err(|at| corrupt(tensor.name, at)),
        }
    }

    fn check(&self, tensor: &Encoded<'_>) -> std::result::Result<(), Violation> {
        check::check(tensor)
    }

    fn layout(&self, params: &Params) -> String {
        match params.first() {
            Some(&tbe::PLAIN) => "plain".to_owned(),
            Some(&tbe::TBE2) => "tbe2".to_owned(),
            _ => "tbe3".to_owned(),
        }
    }

    fn kernel(&self, params: &Params, operation: Operation, level: Level) -> Kernel {
        if params.first() == Some(&tbe::PLAIN) {
            return raw::BF16.kernel(params, operation, level);
        }
        dispatch::kernel(level)
    }

    fn matvec(&self, tensor: &Encoded<'_>, x: &Activation<'_>, rows: Range<u64>, y: &mut [f32]) {
        let wanted = tensor.matrix.cols.saturating_mul(y.len() as u64);
        let opened = usize::try_from(wanted).ok().and_then(|n| open(tensor, &rows, n).ok());
        match opened {
            Some(opened) if x.x().len() as u64 == tensor.matrix.cols => match opened {
                None => raw::BF16.matvec(tensor, x, rows, y),
                Some(payload) => {
                    dispatch::rows_dot(&payload, x.x(), rows.start as usize..rows.end as usize, y);
                }
            },
            _ => y.fill(f32::NAN),
        }
    }
}
