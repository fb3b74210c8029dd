//! ASTC: 6x6 texture blocks of luminance, 128 bits per 36 weights, that Apple's
//! texture units decode; scales per row and (rank-1) per column.
//!
//! A weight is `w = ((r_i 2^e) c_j) v` with `v = 2 t - 1` of the texel `t`.
//! [`block`] takes blocks apart and puts them together with [`ise`] and
//! [`partition`]; the encoder searches all partitionings of a few block modes
//! ([`survey`]), refines endpoints by least squares ([`fit`]) and keeps the best
//! ([`encode`]). Scales come from [`norm`].

mod alphabet;
mod block;
mod check;
mod decode;
#[cfg(feature = "gpu")]
mod device;
mod encode;
mod expand;
mod fit;
mod ise;
mod norm;
#[cfg(all(test, feature = "arm-astcenc"))]
mod oracle;
mod partition;
mod plan;
mod product;
mod strip;
mod survey;
#[cfg(test)]
mod tests;
mod words;

use super::half_float::f16_to_f32;
use super::lanes::exp2i;
use super::stream::{for_row_steps, geometry, out_of_range, read_finite};
use super::{
    Activation, Codec, EncodeOptions, EncodeStats, Encoded, Kernel, Operation, OptionKind, PayloadSink,
    Quality, Request, Rows, Violation,
};
use crate::{Result, simd::Level};
use norm::Columns;
use squizd_spec::{CodecId, DType, Geometry, Matrix, Params, astc};
use std::ops::Range;
use strip::{Buffers, Plan};

#[cfg(feature = "gpu")]
pub(crate) use device::device_tables;
#[cfg(all(test, feature = "gpu"))]
pub(crate) use device::device_texels;

/// The codec.
pub(super) const CODEC: &dyn Codec = &Astc;

/// Texels along a block's sides, and in a block.
const SIDE: usize = 6;
const TEXELS: usize = SIDE * SIDE;
/// Weights of one task.
const TASK_WEIGHTS: u64 = 1 << 14;

struct Astc;

/// Scales of a stored tensor.
struct Scales<'a> {
    unit: f32,
    rows: &'a [[u8; 2]],
    columns: Option<&'a [[u8; 2]]>,
}

impl<'a> Scales<'a> {
    /// Of a tensor with this geometry and a payload of the right length.
    fn of(tensor: &Encoded<'a>, geometry: &Geometry) -> Self {
        let plane = |offset: u64, count: u64| {
            tensor.data.get(offset as usize..(offset + 2 * count) as usize).unwrap_or_default().as_chunks().0
        };
        let [_, rows, columns, _] = geometry.planes;
        Self {
            unit: exp2i(exponent(tensor.params)),
            rows: plane(rows.offset, tensor.matrix.rows),
            columns: (geometry.plane_count == 3).then(|| plane(columns.offset, tensor.matrix.cols)),
        }
    }

    /// `r 2^e` of a row.
    fn row(&self, row: u64) -> f32 {
        self.rows.get(row as usize).map_or(0.0, |r| f16_to_f32(u16::from_le_bytes(*r)) * self.unit)
    }

    /// The scales of as many columns from `first` on as `out` holds; 0 past the
    /// last.
    fn columns(&self, first: usize, out: &mut [f32]) {
        match self.columns {
            Some(scales) => {
                out.fill(0.0);
                for (out, c) in out.iter_mut().zip(scales.get(first..).unwrap_or_default()) {
                    *out = f16_to_f32(u16::from_le_bytes(*c));
                }
            }
            None => out.fill(1.0),
        }
    }
}

/// The exponent of the scales.
fn exponent(params: &Params) -> i32 {
    i32::from(params[2].cast_signed())
}

fn params(mode: u8, exponent: i8) -> Params {
    let mut params = Params::default();
    params[..3].copy_from_slice(&[astc::FOOTPRINT, mode, exponent.cast_unsigned()]);
    params
}

impl Codec for Astc {
    fn id(&self) -> CodecId {
        CodecId::ASTC
    }

    fn options(&self) -> &'static [OptionKind] {
        &[OptionKind::Quality]
    }

    fn accepts(&self, _: Matrix) -> std::result::Result<(), String> {
        Ok(())
    }

    fn imports(&self, _: DType, _: Matrix, _: &EncodeOptions) -> bool {
        false
    }

    fn nominal(&self, matrix: Matrix, _: DType, _: &EncodeOptions) -> Result<Params> {
        Ok(plan::nominal(matrix))
    }

    fn plan(&self, rows: &dyn Rows, _: &Request<'_>) -> Result<Params> {
        plan::plan(rows)
    }

    fn encode(
        &self,
        rows: &dyn Rows,
        params: &Params,
        request: &Request<'_>,
        sink: &dyn PayloadSink,
    ) -> Result<(u64, EncodeStats)> {
        let matrix = rows.matrix();
        let Geometry { planes: [block_plane, row_plane, column_plane, _], plane_count, length } =
            geometry(self.id(), rows.name(), matrix, params)?;
        if matrix.elements() == 0 {
            return Ok((length.max(), EncodeStats::default()));
        }
        let columns = if plane_count == 3 {
            let columns = Columns::of_rows(rows, exp2i(-exponent(params)))?;
            let bytes: Vec<u8> = columns.bits.iter().flat_map(|b| b.to_le_bytes()).collect();
            sink.write_at(column_plane.offset, &bytes)?;
            columns
        } else {
            Columns::ones(matrix.cols as usize)
        };
        let plan = Plan {
            exponent: exponent(params),
            columns: &columns,
            quality: request.options.quality.unwrap_or(Quality::Default),
            guide: request.guide,
        };
        let step = (TASK_WEIGHTS / matrix.cols).next_multiple_of(astc::SIDE).max(astc::SIDE);
        let stats = for_row_steps(rows, 0..matrix.rows, step, Buffers::new, |buffers, range| {
            read_finite(rows, range.clone(), self.id(), &mut buffers.values)?;
            let stats = buffers
                .encode(&plan, range.start)
                .map_err(|row| out_of_range(rows, range.start + row as u64, self.id()))?;
            sink.write_at(range.start / astc::SIDE * block_plane.row_stride, &buffers.blocks)?;
            sink.write_at(row_plane.offset + range.start * row_plane.row_stride, &buffers.scales)?;
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

    fn kernel(&self, _: &Params, operation: Operation, level: Level) -> Kernel {
        match operation {
            Operation::Matvec(_) => product::kernel(level),
            Operation::Decode => Kernel::plain(level, "texture blocks are decoded by tables, in plain code"),
        }
    }

    fn matvec(&self, tensor: &Encoded<'_>, x: &Activation<'_>, rows: Range<u64>, y: &mut [f32]) {
        product::rows(tensor, x, rows, y);
    }
}
