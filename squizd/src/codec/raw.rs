//! The plain little-endian numbers: `f32`, `f16`, `bf16`, `i8`.
//!
//! A source of the same type passes through bit for bit, NaN payloads
//! included. From another type the nearest value is stored, ties to even, and
//! the error reported; a finite weight that would become infinite is refused.

use super::half_float::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::stream::{
    checked_geometry, chunk_elements, energy, for_row_chunks, geometry, out_of_range, plane_rows, read_finite,
};
use super::{
    Activation, Codec, EncodeOptions, EncodeStats, Encoded, Kernel, Operation, PayloadSink, Request, Rows,
    Violation,
};
use crate::{
    Error, Result,
    simd::{Level, multiversion},
};
use squizd_spec::{CodecId, DType, Matrix, Params};
use std::ops::Range;

/// One element type.
struct Raw {
    id: CodecId,
    dtype: DType,
    size: usize,
    decode: fn(&[u8], &mut [f32]),
    encode: fn(&[f32], &mut [u8]) -> EncodeStats,
    dot: fn(&[u8], &[f32]) -> f32,
}

/// The four raw codecs.
pub(super) const F32: &dyn Codec = &Raw {
    id: CodecId::RAW_F32,
    dtype: DType::F32,
    size: 4,
    decode: decode_f32,
    encode: encode_f32,
    dot: dot_f32,
};
pub(super) const F16: &dyn Codec = &Raw {
    id: CodecId::RAW_F16,
    dtype: DType::F16,
    size: 2,
    decode: decode_f16,
    encode: encode_f16,
    dot: dot_f16_best,
};
pub(super) const BF16: &dyn Codec = &Raw {
    id: CodecId::RAW_BF16,
    dtype: DType::BF16,
    size: 2,
    decode: decode_bf16,
    encode: encode_bf16,
    dot: dot_bf16,
};
pub(super) const I8: &dyn Codec = &Raw {
    id: CodecId::RAW_I8,
    dtype: DType::I8,
    size: 1,
    decode: decode_i8,
    encode: encode_i8,
    dot: dot_i8,
};

/// Instantiates the loops of one element type.
macro_rules! element {
    ($size:literal, $load:expr, $store:expr, $decode:ident, $encode:ident, $dot:ident, $d:ident, $e:ident, $p:ident) => {
        multiversion! { fn $decode(bytes: &[u8], out: &mut [f32]) = $d; }
        multiversion! { fn $encode(values: &[f32], bytes: &mut [u8]) -> EncodeStats = $e; }
        multiversion! { fn $dot(bytes: &[u8], x: &[f32]) -> f32 = $p; }

        #[inline(always)]
        fn $d(bytes: &[u8], out: &mut [f32]) {
            for (b, o) in bytes.as_chunks::<$size>().0.iter().zip(out) {
                *o = $load(*b);
            }
        }

        #[inline(always)]
        fn $e(values: &[f32], bytes: &mut [u8]) -> EncodeStats {
            let (mut signal, mut noise) = ([0.0f64; 8], [0.0f64; 8]);
            for (v, b) in values.chunks(8).zip(bytes.chunks_mut(8 * $size)) {
                for (l, (&v, b)) in v.iter().zip(b.as_chunks_mut::<$size>().0).enumerate() {
                    *b = $store(v);
                    let error = f64::from(v) - f64::from($load(*b));
                    signal[l] += f64::from(v) * f64::from(v);
                    noise[l] += error * error;
                }
            }
            EncodeStats::new(signal.iter().sum(), noise.iter().sum())
        }

        #[inline(always)]
        fn $p(bytes: &[u8], x: &[f32]) -> f32 {
            const LANES: usize = 32;
            let (chunks, rest) = bytes.as_chunks::<$size>().0.as_chunks::<LANES>();
            let (xs, x_rest) = x.as_chunks::<LANES>();
            let mut sum = [0.0f32; LANES];
            for (b, x) in chunks.iter().zip(xs) {
                for l in 0..LANES {
                    sum[l] += $load(b[l]) * x[l];
                }
            }
            let tail: f32 = rest.iter().zip(x_rest).map(|(b, x)| $load(*b) * x).sum();
            sum.iter().sum::<f32>() + tail
        }
    };
}

element!(4, f32::from_le_bytes, f32::to_le_bytes, decode_f32, encode_f32, dot_f32, d_f32, e_f32, p_f32);
element!(2, load_f16, store_f16, decode_f16, encode_f16, dot_f16, d_f16, e_f16, p_f16);
element!(2, load_bf16, store_bf16, decode_bf16, encode_bf16, dot_bf16, d_bf16, e_bf16, p_bf16);
element!(1, load_i8, store_i8, decode_i8, encode_i8, dot_i8, d_i8, e_i8, p_i8);

fn dot_f16_best(bytes: &[u8], x: &[f32]) -> f32 {
    super::kernels::dot_f16(bytes, x).unwrap_or_else(|| dot_f16(bytes, x))
}

#[inline(always)]
fn load_f16(b: [u8; 2]) -> f32 {
    f16_to_f32(u16::from_le_bytes(b))
}

#[inline(always)]
fn store_f16(v: f32) -> [u8; 2] {
    f32_to_f16(v).to_le_bytes()
}

#[inline(always)]
fn load_bf16(b: [u8; 2]) -> f32 {
    bf16_to_f32(u16::from_le_bytes(b))
}

#[inline(always)]
fn store_bf16(v: f32) -> [u8; 2] {
    f32_to_bf16(v).to_le_bytes()
}

#[inline(always)]
fn load_i8(b: [u8; 1]) -> f32 {
    f32::from(b[0].cast_signed())
}

#[inline(always)]
fn store_i8(v: f32) -> [u8; 1] {
    [(v.round_ties_even().clamp(-128.0, 127.0) as i8).cast_unsigned()]
}

impl Raw {
    /// The error for the first weight that became infinite when stored.
    #[cold]
    fn overflow(&self, rows: &dyn Rows, first_row: u64, bytes: &[u8]) -> Error {
        let mut stored = vec![0.0; bytes.len() / self.size];
        (self.decode)(bytes, &mut stored);
        let at = stored.iter().position(|v| !v.is_finite()).unwrap_or(0) as u64;
        out_of_range(rows, first_row + at / rows.matrix().cols.max(1), self.id)
    }

    /// Copies the source bytes of `range`, if the source has them unchanged.
    fn pass_through(
        &self,
        rows: &dyn Rows,
        range: Range<u64>,
        offset: u64,
        sink: &dyn PayloadSink,
        values: &mut Vec<f32>,
    ) -> Result<Option<EncodeStats>> {
        if rows.dtype() != self.dtype {
            return Ok(None);
        }
        let Some(bytes) = rows.read_native(range.clone())? else { return Ok(None) };
        values.resize(chunk_elements(rows, &range)?, 0.0);
        if bytes.len() != values.len().saturating_mul(self.size) {
            return Err(Error::invalid(format!(
                "tensor {}: source gave {} bytes for {} {} values",
                rows.name(),
                bytes.len(),
                values.len(),
                self.dtype
            )));
        }
        sink.write_at(offset, &bytes)?;
        (self.decode)(&bytes, values);
        Ok(Some(EncodeStats::new(energy(values), 0.0)))
    }
}

impl Codec for Raw {
    fn id(&self) -> CodecId {
        self.id
    }

    fn takes_guide(&self) -> bool {
        false
    }

    fn accepts(&self, _: Matrix) -> std::result::Result<(), String> {
        Ok(())
    }

    fn imports(&self, dtype: DType, _: Matrix, _: &EncodeOptions) -> bool {
        // Every smaller type's numbers are among f32's; bytes are among both halves'.
        dtype == self.dtype
            || dtype == DType::I8
            || (self.dtype == DType::F32 && matches!(dtype, DType::F16 | DType::BF16))
    }

    fn nominal(&self, _: Matrix, _: DType, _: &EncodeOptions) -> Result<Params> {
        Ok(Params::default())
    }

    fn plan(&self, _: &dyn Rows, _: &Request<'_>) -> Result<Params> {
        Ok(Params::default())
    }

    fn encode(
        &self,
        rows: &dyn Rows,
        params: &Params,
        _: &Request<'_>,
        sink: &dyn PayloadSink,
    ) -> Result<(u64, EncodeStats)> {
        let geometry = geometry(self.id, rows.name(), rows.matrix(), params)?;
        let stride = geometry.planes[0].row_stride;
        let stats = for_row_chunks(rows, <(Vec<f32>, Vec<u8>)>::default, |(values, bytes), range| {
            let offset = range.start * stride;
            if let Some(stats) = self.pass_through(rows, range.clone(), offset, sink, values)? {
                return Ok(stats);
            }
            if self.dtype == rows.dtype() || self.dtype == DType::F32 {
                // Nothing is rounded, so NaN and infinity may stay.
                values.resize(chunk_elements(rows, &range)?, 0.0);
                rows.read_f32(range.clone(), values)?;
                bytes.resize(values.len() * self.size, 0);
                (self.encode)(values, bytes);
                sink.write_at(offset, bytes)?;
                return Ok(EncodeStats::new(energy(values), 0.0));
            }
            read_finite(rows, range.clone(), self.id, values)?;
            bytes.resize(values.len() * self.size, 0);
            let stats = (self.encode)(values, bytes);
            if !stats.noise.is_finite() {
                return Err(self.overflow(rows, range.start, bytes));
            }
            sink.write_at(offset, bytes)?;
            Ok(stats)
        })?;
        Ok((geometry.length.max(), stats))
    }

    fn decode(&self, tensor: &Encoded<'_>, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let plane = checked_geometry(self.id, tensor, &rows, out.len(), tensor.matrix.cols)?.planes[0];
        (self.decode)(plane_rows(tensor.data, plane, &rows), out);
        Ok(())
    }

    fn check(&self, tensor: &Encoded<'_>) -> std::result::Result<(), Violation> {
        super::check::payload(self.id, tensor).map(|_| ())
    }

    fn kernel(&self, _: &Params, operation: Operation, level: Level) -> Kernel {
        match operation {
            Operation::Matvec(_) if self.id == CodecId::RAW_F16 => super::kernels::f16_kernel(level),
            _ => Kernel::compiled(level),
        }
    }

    fn matvec(&self, tensor: &Encoded<'_>, x: &Activation<'_>, rows: Range<u64>, y: &mut [f32]) {
        let geometry = checked_geometry(self.id, tensor, &rows, y.len(), 1);
        let (Ok(geometry), true) = (geometry, x.x().len() as u64 == tensor.matrix.cols && !x.x().is_empty())
        else {
            y.fill(f32::NAN);
            return;
        };
        let plane = geometry.planes[0];
        let data = plane_rows(tensor.data, plane, &rows);
        for (y, row) in y.iter_mut().zip(data.chunks_exact(plane.row_stride as usize)) {
            *y = (self.dot)(row, x.x());
        }
    }
}
