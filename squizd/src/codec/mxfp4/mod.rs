//! MXFP4: the 4-bit float format of the OCP Microscaling specification v1.0,
//! elements of 4 bits under one power of two per 32, 4.25 bits per weight.
//!
//! Plane 0 has INT4's nibbles, plane 1 a byte of scale per group, so a ggml
//! MXFP4 block is taken over without loss by splitting it.

mod e2m1;
mod encode;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use super::check::{padding, payload, slice};
use super::panel::{BlockScales, Panel};
use super::stream::{checked_geometry, energy, for_row_chunks, geometry, plane_rows, read_finite};
use super::{
    Activation, Codec, EncodeOptions, EncodeStats, Encoded, Kernel, Operation, PayloadSink, Request, Rows,
    Violation,
};
use crate::{
    Error, Result,
    simd::{Level, multiversion},
};
pub(super) use e2m1::{DOUBLED, half_scale};
use e2m1::{NAN_SCALE, RAISE, doubled, raised};
use encode::{BLOCK, encode_rows, reaches_two, repack};
use squizd_spec::{CodecId, DType, Geometry, Matrix, Params};
use std::ops::Range;

/// The codec.
pub(super) const CODEC: &dyn Codec = &Mxfp4;

/// Weights of a group.
const GROUP: usize = 32;

struct Mxfp4;

/// The parameters of every tensor.
fn params() -> Params {
    let mut params = Params::default();
    params[0] = GROUP as u8;
    params
}

/// Whether blocks of `dtype` are taken over without loss.
fn imports_exactly(dtype: DType, matrix: Matrix) -> bool {
    dtype == DType::MXFP4 && matrix.cols.is_multiple_of(GROUP as u64)
}

multiversion! {
    /// Decodes whole rows of `cols` columns.
    fn decode_rows(codes: &[u8], scales: &[u8], cols: usize, out: &mut [f32]) = decode_lanes;
}

#[inline(always)]
fn decode_lanes(codes: &[u8], scales: &[u8], cols: usize, out: &mut [f32]) {
    let groups = cols.div_ceil(GROUP);
    let rows = out.chunks_exact_mut(cols).zip(codes.chunks_exact(groups * GROUP / 2));
    for ((out, codes), scales) in rows.zip(scales.chunks_exact(groups)) {
        let codes = codes.as_chunks::<{ GROUP / 2 }>().0;
        for ((out, codes), scale) in out.chunks_mut(GROUP).zip(codes).zip(scales) {
            let half = half_scale(*scale);
            let mut block = [0.0; GROUP];
            let (low, high) = block.split_at_mut(GROUP / 2);
            for ((low, high), code) in low.iter_mut().zip(high).zip(codes) {
                *low = half * doubled(code & 15);
                *high = half * doubled(code >> 4);
            }
            if let Ok(out) = <&mut [f32; GROUP]>::try_from(&mut *out) {
                *out = block;
            } else {
                for (o, b) in out.iter_mut().zip(block) {
                    *o = b;
                }
            }
        }
    }
}

multiversion! {
    /// Puts whole rows of `cols` columns into a panel.
    fn unpack(codes: &[u8], scales: &[u8], cols: usize, out: &mut Panel) = unpack_lanes;
}

#[inline(always)]
fn unpack_lanes(codes: &[u8], scales: &[u8], cols: usize, out: &mut Panel) {
    let groups = cols.div_ceil(GROUP).max(1);
    let rows = codes.chunks_exact(groups * GROUP / 2).zip(scales.chunks_exact(groups));
    for (row, (codes, scales)) in rows.enumerate() {
        let groups = codes.as_chunks::<{ GROUP / 2 }>().0.iter().zip(scales);
        for (at, (stored, scale)) in groups.enumerate() {
            let mut block = [0; GROUP];
            for (i, byte) in stored.iter().enumerate() {
                block[i] = raised(byte & 15);
                block[i + GROUP / 2] = raised(byte >> 4);
            }
            let words = block.as_chunks::<8>().0;
            let codes = std::array::from_fn(|i| u64::from_le_bytes(words[i]));
            let scale = half_scale(*scale);
            let minus = [f32::from(RAISE) * scale; 2];
            out.put_scales(row, at, BlockScales { factors: [1; 2], scale, minus });
            out.put_codes(row, at, codes);
        }
    }
}

/// Takes the source blocks of `range` over.
fn import(
    rows: &dyn Rows,
    range: &Range<u64>,
    blocks: &[u8],
    codes: &mut [u8],
    scales: &mut [u8],
) -> Result<()> {
    if blocks.len() / BLOCK != scales.len() || !blocks.len().is_multiple_of(BLOCK) {
        return Err(Error::invalid(format!(
            "tensor {}: source gave {} bytes for rows {}..{} of {}",
            rows.name(),
            blocks.len(),
            range.start,
            range.end,
            rows.dtype()
        )));
    }
    let per_row = (rows.matrix().cols / GROUP as u64).max(1);
    repack(blocks, codes, scales).map_err(|at| {
        Error::invalid(format!(
            "tensor {0}: the MXFP4 block at row {1}, column {2} has the scale of NaN or a weight beyond f32: repair the source",
            rows.name(),
            range.start + at as u64 / per_row,
            at as u64 % per_row * GROUP as u64
        ))
    })
}

impl Codec for Mxfp4 {
    fn id(&self) -> CodecId {
        CodecId::MXFP4
    }

    fn accepts(&self, _: Matrix) -> std::result::Result<(), String> {
        Ok(())
    }

    fn imports(&self, dtype: DType, matrix: Matrix, _: &EncodeOptions) -> bool {
        imports_exactly(dtype, matrix)
    }

    fn nominal(&self, _: Matrix, _: DType, _: &EncodeOptions) -> Result<Params> {
        Ok(params())
    }

    fn plan(&self, _: &dyn Rows, _: &Request<'_>) -> Result<Params> {
        Ok(params())
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
        let cols = matrix.cols as usize;
        let (code_stride, scale_stride) = (code_plane.row_stride as usize, scale_plane.row_stride as usize);
        let buffers = <(Vec<f32>, Vec<u8>, Vec<u8>)>::default;
        let stats = for_row_chunks(rows, buffers, |(values, codes, scales), range| {
            let count = (range.end - range.start) as usize;
            codes.resize(count * code_stride, 0);
            scales.resize(count * scale_stride, 0);
            let importable = imports_exactly(rows.dtype(), matrix);
            let native = if importable { rows.read_native(range.clone())? } else { None };
            let mut stats = EncodeStats::default();
            if let Some(blocks) = native {
                import(rows, &range, &blocks, codes, scales)?;
                values.resize(count * cols, 0.0);
                decode_rows(codes, scales, cols, values);
                stats.signal = energy(values);
            } else {
                read_finite(rows, range.clone(), self.id(), values)?;
                for (part, moments) in request.guide.split(range.clone()) {
                    let part = (part.start - range.start) as usize..(part.end - range.start) as usize;
                    let importance = moments.map_or(&[][..], |m| &m.importance);
                    let coded = encode_rows(
                        values.get(part.start * cols..part.end * cols).unwrap_or_default(),
                        cols,
                        importance,
                        codes.get_mut(part.start * code_stride..part.end * code_stride).unwrap_or_default(),
                        scales
                            .get_mut(part.start * scale_stride..part.end * scale_stride)
                            .unwrap_or_default(),
                    );
                    stats.signal += coded.signal;
                    stats.noise += coded.noise;
                }
            }
            sink.write_at(code_plane.offset + range.start * code_plane.row_stride, codes)?;
            sink.write_at(scale_plane.offset + range.start * scale_plane.row_stride, scales)?;
            Ok(stats)
        })?;
        Ok((length.max(), stats))
    }

    fn decode(&self, tensor: &Encoded<'_>, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        let cols = tensor.matrix.cols;
        let [codes, scales, ..] = checked_geometry(self.id(), tensor, &rows, out.len(), cols)?.planes;
        if !out.is_empty() {
            decode_rows(
                plane_rows(tensor.data, codes, &rows),
                plane_rows(tensor.data, scales, &rows),
                cols as usize,
                out,
            );
        }
        Ok(())
    }

    fn check(&self, tensor: &Encoded<'_>) -> std::result::Result<(), Violation> {
        let geometry = payload(self.id(), tensor)?;
        let [codes, scales, ..] = geometry.planes;
        for row in 0..tensor.matrix.rows {
            tail(tensor, codes.offset + row * codes.row_stride)?;
        }
        padding(tensor, &geometry)?;
        let bytes = tensor.data.get(scales.offset as usize..).unwrap_or_default();
        for (i, scale) in bytes.iter().enumerate().filter(|(_, s)| **s >= NAN_SCALE - 1) {
            let offset = scales.offset + i as u64;
            if *scale == NAN_SCALE {
                return Err(Violation {
                    offset,
                    code: "mxfp4-scale-nan",
                    message: format!("scale byte {scale} is NaN, allowed 0 to 254"),
                });
            }
            let group = codes.offset + i as u64 * GROUP as u64 / 2;
            let coded = slice(tensor.data, group, group + GROUP as u64 / 2);
            if let Some((j, byte)) = coded.iter().enumerate().find(|(_, b)| reaches_two(**b)) {
                return Err(Violation {
                    offset: group + j as u64,
                    code: "mxfp4-overflow",
                    message: format!("codes {byte:#04x} under the scale 2^127 are infinite"),
                });
            }
        }
        Ok(())
    }

    fn kernel(&self, _: &Params, operation: Operation, level: Level) -> Kernel {
        match operation {
            Operation::Matvec(precision) => super::kernels::mxfp4_kernel(precision, level),
            Operation::Decode => Kernel::compiled(level),
        }
    }

    fn matvec(&self, tensor: &Encoded<'_>, x: &Activation<'_>, rows: Range<u64>, y: &mut [f32]) {
        super::kernels::mxfp4(tensor, x, rows, y);
    }

    fn has_panels(&self, _: &Params, _: Level) -> bool {
        true
    }

    fn panel(&self, tensor: &Encoded<'_>, rows: Range<u64>, out: &mut Panel) -> Result<()> {
        let count = rows.end.saturating_sub(rows.start) as usize;
        let [codes, scales, ..] = checked_geometry(self.id(), tensor, &rows, count, 1)?.planes;
        let (codes, scales) = (plane_rows(tensor.data, codes, &rows), plane_rows(tensor.data, scales, &rows));
        unpack(codes, scales, tensor.matrix.cols as usize, out);
        Ok(())
    }
}

/// Refuses codes past the last weight of the row at `start`.
fn tail(tensor: &Encoded<'_>, start: u64) -> std::result::Result<(), Violation> {
    let (half, weights) = (GROUP as u64 / 2, tensor.matrix.cols % GROUP as u64);
    if weights == 0 {
        return Ok(());
    }
    let last = start + tensor.matrix.cols / GROUP as u64 * half;
    for (j, byte) in slice(tensor.data, last, last + half).iter().enumerate() {
        let low = if (j as u64) < weights { 0 } else { 0x0f };
        let high = if j as u64 + half < weights { 0 } else { 0xf0 };
        if byte & (low | high) != 0 {
            return Err(Violation {
                offset: last + j as u64,
                code: "mxfp4-tail-code",
                message: format!(
                    "byte {byte:#04x} has a code past the row's {} weights, must be 0",
                    tensor.matrix.cols
                ),
            });
        }
    }
    Ok(())
}
