//! ZPLANES: any plain numbers without loss, for keeping.
//!
//! Elements are split into byte planes ([`planes`]), chunks of 2^18 weights of
//! which are coded by themselves as zstd frames, by order-0 entropy coding, or
//! not at all ([`pieces`]), whichever is smallest. The exponents of trained
//! weights need 2.6 bits in place of 8; mantissas are noise.
//!
//! Nothing reads this in place: runtimes decode it once ([`Codec::unpack`]).

mod encode;
#[cfg(test)]
mod golden;
mod payload;
mod pieces;
mod planes;
mod rans;
#[cfg(test)]
mod tests;

use super::check::payload as checked;
use super::stream::{checked_geometry, geometry};
use super::{
    Activation, Codec, EncodeOptions, EncodeStats, Encoded, Kernel, Operation, OptionKind, PayloadSink,
    Request, Rows, Unpacked, Violation, codec,
};
use crate::{Error, Result, simd::Level};
use payload::{Corrupt, Payload};
use planes::Element;
use rayon::prelude::*;
use squizd_spec::{CodecId, DType, Matrix, Params, zp};
use std::{borrow::Cow, ops::Range};

/// The codec.
pub(super) const CODEC: &dyn Codec = &Zplanes;

/// zstd's level where none is asked for. Entropy coding does better on weights
/// at any level; higher ones pay where values repeat.
const LEVEL: u8 = 3;
/// A payload that grows more than this many times when unpacked, past the
/// first [`UNPACK_FLOOR`] bytes, is refused: weights do not.
const UNPACK_RATIO: u64 = 1024;
const UNPACK_FLOOR: u64 = 64 << 20;

struct Zplanes;

fn params(profile: u8, element: Element) -> Params {
    let mut params = Params::default();
    params[..2].copy_from_slice(&[profile, element.raw.0 as u8]);
    params
}

/// The element type of a source, or why it has none.
fn element(dtype: DType) -> std::result::Result<Element, String> {
    Element::of(dtype).ok_or_else(|| {
        format!("its source is {dtype}, and zplanes keeps F32, F16, BF16 and I8 numbers: choose another codec, or lossless, which keeps other types as they are")
    })
}

/// The same as the codec's errors.
fn element_of(rows: &dyn Rows) -> Result<Element> {
    element(rows.dtype()).map_err(|why| Error::unsupported(format!("tensor {}: {why}", rows.name())))
}

/// The zstd level asked for.
fn level(options: &EncodeOptions) -> Result<i32> {
    let level = options.level.unwrap_or(LEVEL);
    if (1..=22).contains(&level) {
        Ok(i32::from(level))
    } else {
        Err(Error::invalid(format!("zstd level is {level}, allowed 1 to 22")))
    }
}

/// Parameters that the geometry has accepted.
fn stored(params: &Params) -> Result<(bool, Element)> {
    let [profile, id, ..] = *params;
    let element = Element::stored(id).ok_or_else(|| Error::invalid(format!("element type is {id}")))?;
    Ok((profile == zp::CODED, element))
}

/// A stored tensor, sizes checked: its coded payload, or the raw codec that
/// reads it.
enum Opened<'a> {
    Raw(&'static dyn Codec),
    Coded(Payload<'a>),
}

fn raw_codec(element: Element) -> Result<&'static dyn Codec> {
    codec(element.raw).ok_or_else(|| Error::unsupported(format!("this build has no codec {}", element.raw)))
}

fn open<'a>(tensor: &Encoded<'a>, rows: &Range<u64>, out: usize, per_row: u64) -> Result<Opened<'a>> {
    checked_geometry(CodecId::ZPLANES, tensor, rows, out, per_row)?;
    let (coded, element) = stored(tensor.params)?;
    if !coded {
        return Ok(Opened::Raw(raw_codec(element)?));
    }
    let wrong = |c: Corrupt| {
        Error::invalid(format!("tensor {}: payload byte {}: {}", tensor.name, c.offset, c.message))
    };
    Payload::of(tensor, element).map(Opened::Coded).map_err(wrong)
}

/// The parameters of every raw tensor.
const RAW_PARAMS: &Params = &[0; 32];

/// Plain rows as the raw codec takes them.
fn plain<'a>(tensor: &Encoded<'a>, rows: u64, data: &'a [u8]) -> Encoded<'a> {
    Encoded { name: tensor.name, matrix: Matrix { rows, cols: tensor.matrix.cols }, params: RAW_PARAMS, data }
}

impl Codec for Zplanes {
    fn id(&self) -> CodecId {
        CodecId::ZPLANES
    }

    fn options(&self) -> &'static [OptionKind] {
        &[OptionKind::Level]
    }

    fn takes_guide(&self) -> bool {
        false
    }

    fn accepts(&self, _: Matrix) -> std::result::Result<(), String> {
        Ok(())
    }

    fn accepts_dtype(&self, dtype: DType) -> std::result::Result<(), String> {
        element(dtype).map(|_| ())
    }

    fn imports(&self, dtype: DType, _: Matrix, _: &EncodeOptions) -> bool {
        Element::of(dtype).is_some()
    }

    fn nominal(&self, _: Matrix, dtype: DType, options: &EncodeOptions) -> Result<Params> {
        level(options)?;
        element(dtype).map(|e| params(zp::CODED, e)).map_err(Error::unsupported)
    }

    /// Whether coding saves anything is decided from a sample; so a tensor
    /// whose other rows are unlike it may end up an index larger than plain.
    fn plan(&self, rows: &dyn Rows, request: &Request<'_>) -> Result<Params> {
        let element = element_of(rows)?;
        let shrinks = encode::shrinks(rows, element, level(&request.options)?)?;
        Ok(params(if shrinks { zp::CODED } else { zp::PLAIN }, element))
    }

    fn encode(
        &self,
        rows: &dyn Rows,
        params: &Params,
        request: &Request<'_>,
        sink: &dyn PayloadSink,
    ) -> Result<(u64, EncodeStats)> {
        let element = element_of(rows)?;
        geometry(self.id(), rows.name(), rows.matrix(), params)?;
        match stored(params)? {
            (_, e) if e != element => Err(Error::invalid(format!(
                "tensor {}: element type is {}, its source is {}",
                rows.name(),
                e.raw,
                rows.dtype()
            ))),
            (false, _) => raw_codec(element)?.encode(rows, RAW_PARAMS, request, sink),
            (true, _) => encode::encode(rows, element, level(&request.options)?, sink),
        }
    }

    fn decode(&self, tensor: &Encoded<'_>, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let cols = tensor.matrix.cols;
        match open(tensor, &rows, out.len(), cols)? {
            Opened::Raw(raw) => raw.decode(&plain(tensor, tensor.matrix.rows, tensor.data), rows, out),
            Opened::Coded(payload) => {
                let (raw, mut rest) = (raw_codec(payload.element)?, out);
                payload.rows(rows, |part, bytes| {
                    let count = part.end - part.start;
                    let (values, behind) = std::mem::take(&mut rest).split_at_mut((count * cols) as usize);
                    rest = behind;
                    raw.decode(&plain(tensor, count, bytes), 0..count, values)
                })
            }
        }
    }

    fn check(&self, tensor: &Encoded<'_>) -> std::result::Result<(), Violation> {
        checked(self.id(), tensor)?;
        let violation = |Corrupt { offset, code, message }| Violation { offset, code, message };
        match stored(tensor.params) {
            Ok((true, element)) => check(tensor, element).map_err(violation),
            _ => Ok(()),
        }
    }

    fn layout(&self, params: &Params) -> String {
        let Ok((_, element)) = stored(params) else { return String::new() };
        element.raw.to_string()
    }

    fn kernel(&self, params: &Params, operation: Operation, level: Level) -> Kernel {
        match stored(params).and_then(|(coded, element)| Ok((coded, raw_codec(element)?))) {
            Ok((false, raw)) => raw.kernel(RAW_PARAMS, operation, level),
            _ => Kernel::plain(level, "entropy-coded planes are unpacked in plain code"),
        }
    }

    fn unpacked(&self, matrix: Matrix, params: &Params) -> Option<Unpacked> {
        let (coded, element) = stored(params).ok()?;
        let size = if coded { element.size as u64 } else { 0 };
        Some(Unpacked { codec: element.raw, bytes: matrix.elements().saturating_mul(size) })
    }

    /// Decodes the chunks that hold `rows` first: for testing a file, not for
    /// running it.
    fn matvec(&self, tensor: &Encoded<'_>, x: &Activation<'_>, rows: Range<u64>, y: &mut [f32]) {
        let opened = open(tensor, &rows, y.len(), 1);
        let done = match opened {
            Ok(_) if x.x().len() as u64 != tensor.matrix.cols => None,
            Ok(Opened::Raw(raw)) => {
                raw.matvec(&plain(tensor, tensor.matrix.rows, tensor.data), x, rows, y);
                return;
            }
            Ok(Opened::Coded(payload)) => raw_codec(payload.element).ok().and_then(|raw| {
                let mut rest = &mut *y;
                let done = payload.rows(rows, |part, bytes| {
                    let count = part.end - part.start;
                    let (now, behind) = std::mem::take(&mut rest).split_at_mut(count as usize);
                    rest = behind;
                    raw.matvec(&plain(tensor, count, bytes), x, 0..count, now);
                    Ok(())
                });
                done.ok()
            }),
            Err(_) => None,
        };
        if done.is_none() {
            y.fill(f32::NAN);
        }
    }

    fn unpack<'a>(&self, tensor: &Encoded<'a>) -> Result<Option<(CodecId, Cow<'a, [u8]>)>> {
        let cols = tensor.matrix.cols;
        let payload = match open(tensor, &(0..0), 0, cols)? {
            Opened::Raw(raw) => return Ok(Some((raw.id(), Cow::Borrowed(tensor.data)))),
            Opened::Coded(payload) => payload,
        };
        let element = payload.element;
        let size = tensor.matrix.elements().saturating_mul(element.size as u64);
        let allowed = UNPACK_FLOOR.saturating_add(UNPACK_RATIO.saturating_mul(tensor.data.len() as u64));
        let refused = |why: String| Error::unsupported(format!("tensor {}: {why}", tensor.name));
        if size > allowed {
            return Err(refused(format!(
                "{} bytes would unpack to {size}, allowed {allowed}",
                tensor.data.len()
            )));
        }
        let mut bytes = Vec::new();
        let wanted = usize::try_from(size).ok().filter(|n| bytes.try_reserve_exact(*n).is_ok());
        let wanted = wanted.ok_or_else(|| refused(format!("no memory for {size} bytes")))?;
        bytes.resize(wanted, 0u8);
        let step = (payload.shape.chunk_rows * cols) as usize * element.size;
        bytes.par_chunks_mut(step.max(1)).enumerate().try_for_each_init(
            Vec::new,
            |planes, (chunk, out)| {
                let count = payload.chunk(chunk as u64, planes).map_err(|c| payload.error(&c))?;
                element.merge(planes, count, 0..count, out);
                Ok::<_, Error>(())
            },
        )?;
        Ok(Some((element.raw, Cow::Owned(bytes))))
    }
}

/// Decodes every piece and checks that its form is one that encoders write.
fn check(tensor: &Encoded<'_>, element: Element) -> std::result::Result<(), Corrupt> {
    let payload = Payload::of(tensor, element)?;
    let shape = payload.shape;
    let index_end = shape.chunks * shape.planes * zp::ENTRY;
    let between = super::check::slice(tensor.data, index_end, shape.data);
    if let Some((i, b)) = between.iter().enumerate().find(|(_, b)| **b != 0) {
        return Err(Corrupt {
            offset: index_end + i as u64,
            code: "payload-padding",
            message: format!("padding byte is {b:#04x}, must be 0"),
        });
    }
    let mut planes = Vec::new();
    for chunk in 0..shape.chunks {
        let rows = payload.rows_of(chunk);
        let length = ((rows.end - rows.start) * tensor.matrix.cols) as usize;
        for p in 0..shape.planes {
            let (method, place) = payload.place(chunk * shape.planes + p)?;
            pieces::check(method, payload.bytes(&place), length).map_err(|message| Corrupt {
                offset: place.start,
                code: "zplanes-piece",
                message,
            })?;
        }
        payload.chunk(chunk, &mut planes)?;
    }
    Ok(())
}
