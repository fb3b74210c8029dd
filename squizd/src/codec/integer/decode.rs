//! Integer blocks to `f32`, with the format's exact rounding.

use super::codes::{self, BLOCK};
use super::layout::{Layout, block_scales};
use crate::Result;
use crate::codec::kernels::OCTET;
use crate::codec::stream::{checked_geometry, plane_rows};
use crate::codec::{EncodeStats, Encoded};
use crate::simd::multiversion;
use squizd_spec::CodecId;
use std::ops::Range;

/// Decodes `rows` of a stored tensor.
pub(super) fn rows(
    bits: u32,
    id: CodecId,
    tensor: &Encoded<'_>,
    rows: Range<u64>,
    out: &mut [f32],
) -> Result<()> {
    let geometry = checked_geometry(id, tensor, &rows, out.len(), tensor.matrix.cols)?;
    if out.is_empty() {
        return Ok(());
    }
    let [codes, scales, ..] = geometry.planes;
    decode_rows(
        bits,
        Layout::of(bits, tensor.params),
        tensor.matrix.cols as usize,
        plane_rows(tensor.data, codes, &rows),
        plane_rows(tensor.data, scales, &rows),
        out,
    );
    Ok(())
}

/// Energy of encoded rows, and no error: what was taken over as it was.
pub(super) fn energy(bits: u32, layout: Layout, cols: usize, codes: &[u8], scales: &[u8]) -> EncodeStats {
    let per_row = codes.len() / codes::row_bytes(bits, cols.div_ceil(BLOCK)).max(1);
    let mut values = vec![0.0; per_row * cols];
    decode_rows(bits, layout, cols, codes, scales, &mut values);
    EncodeStats::new(crate::codec::stream::energy(&values), 0.0)
}

multiversion! {
    /// Decodes whole rows of `cols` columns of codes of `bits`.
    pub(super) fn decode_rows(bits: u32, layout: Layout, cols: usize, codes: &[u8], scales: &[u8], out: &mut [f32]) = decode_bits;
}

#[inline(always)]
fn decode_bits(bits: u32, layout: Layout, cols: usize, codes: &[u8], scales: &[u8], out: &mut [f32]) {
    match bits {
        2 => decode_lanes::<2>(layout, cols, codes, scales, out),
        3 => decode_lanes::<3>(layout, cols, codes, scales, out),
        _ => decode_lanes::<4>(layout, cols, codes, scales, out),
    }
}

#[inline(always)]
fn decode_lanes<const B: u32>(layout: Layout, cols: usize, codes: &[u8], scales: &[u8], out: &mut [f32]) {
    let blocks = cols.div_ceil(BLOCK);
    let code_stride = codes::row_bytes(B, blocks);
    let rows = out.chunks_exact_mut(cols).zip(codes.chunks_exact(code_stride));
    let scale_stride = scales.len() / (codes.len() / code_stride).max(1);
    for ((out, codes), scales) in rows.zip(scales.chunks_exact(scale_stride)) {
        for (octet, out) in out.chunks_mut(OCTET).enumerate() {
            let (s, c) = block_scales(layout, scales, octet);
            for (b, (out, (s, c))) in out.chunks_mut(BLOCK).zip(s.into_iter().zip(c)).enumerate() {
                let q = codes::unpack::<B>(codes, blocks, 8 * octet + b);
                decode_32(&q, s, layout.code_bias(), c, out);
            }
        }
    }
}

/// `scale * (q - bias) - minus` for 32 codes, one scale per half.
#[inline(always)]
fn decode_32(codes: &[u8; BLOCK], scale: [f32; 2], bias: f32, minus: [f32; 2], out: &mut [f32]) {
    let mut block = [0.0f32; BLOCK];
    for h in 0..2 {
        for j in 0..16 {
            block[16 * h + j] = scale[h] * (f32::from(codes[16 * h + j]) - bias) - minus[h];
        }
    }
    if let Ok(out) = <&mut [f32; BLOCK]>::try_from(&mut *out) {
        *out = block;
    } else {
        for (o, b) in out.iter_mut().zip(block) {
            *o = b;
        }
    }
}
