//! INT4 blocks to `f32`, with the format's exact rounding.

use super::Layout;
use crate::codec::kernels::OCTET;
use crate::codec::stream::{checked_geometry, plane_rows};
use crate::codec::{EncodeStats, Encoded};
use crate::{Result, simd::multiversion};
use squizd_spec::CodecId;
use std::ops::Range;

/// Decodes `rows` of a stored tensor.
pub(super) fn rows(tensor: &Encoded<'_>, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
    let geometry = checked_geometry(CodecId::INT4, tensor, &rows, out.len(), tensor.matrix.cols)?;
    if out.is_empty() {
        return Ok(());
    }
    let [codes, scales, ..] = geometry.planes;
    decode_rows(
        Layout::of(tensor.params),
        tensor.matrix.cols as usize,
        plane_rows(tensor.data, codes, &rows),
        plane_rows(tensor.data, scales, &rows),
        out,
    );
    Ok(())
}

/// Energy of encoded rows, and no error: what was taken over as it was.
pub(super) fn energy(layout: Layout, cols: usize, codes: &[u8], scales: &[u8]) -> EncodeStats {
    let per_row = codes.len() / cols.div_ceil(32).max(1) / 16;
    let mut values = vec![0.0; per_row * cols];
    decode_rows(layout, cols, codes, scales, &mut values);
    EncodeStats { signal: crate::codec::stream::energy(&values), noise: 0.0 }
}

multiversion! {
    /// Decodes whole rows of `cols` columns.
    fn decode_rows(layout: Layout, cols: usize, codes: &[u8], scales: &[u8], out: &mut [f32]) = decode_lanes;
}

#[inline(always)]
fn decode_lanes(layout: Layout, cols: usize, codes: &[u8], scales: &[u8], out: &mut [f32]) {
    let code_stride = cols.div_ceil(32) * 16;
    let rows = out.chunks_exact_mut(cols).zip(codes.chunks_exact(code_stride));
    let scale_stride = scales.len() / (codes.len() / code_stride).max(1);
    for ((out, codes), scales) in rows.zip(scales.chunks_exact(scale_stride)) {
        let octets = out.chunks_mut(OCTET).zip(codes.chunks(OCTET / 2));
        for (octet, (out, codes)) in octets.enumerate() {
            let (s, c) = block_scales(layout, scales, octet);
            let blocks = out.chunks_mut(32).zip(codes.as_chunks::<16>().0);
            for ((out, codes), (s, c)) in blocks.zip(s.into_iter().zip(c)) {
                decode_32(codes, s, layout.code_bias(), c, out);
            }
        }
    }
}

/// Scales and subtrahends of a row's eight 32-blocks from `8 * octet`, one for
/// each half of a block; 0 past the row's end.
#[inline(always)]
pub(in crate::codec) fn block_scales(
    layout: Layout,
    scales: &[u8],
    octet: usize,
) -> ([[f32; 2]; 8], [[f32; 2]; 8]) {
    let (mut s, mut c) = ([[0.0; 2]; 8], [[0.0; 2]; 8]);
    match layout {
        Layout::Compact(compact) => {
            let (scale, minus) = compact.unpack(scales.get(16 * octet..).unwrap_or_default());
            (s, c) = (scale.map(|s| [s; 2]), minus.map(|c| [c; 2]));
        }
        Layout::Plain { group, format } => {
            for h in 0..16 {
                let pair = (OCTET * octet + 16 * h) / group * format.pair_bytes();
                let (scale, offset) = format.unpack(scales.get(pair..).unwrap_or_default());
                (s[h / 2][h % 2], c[h / 2][h % 2]) = (scale, -offset);
            }
        }
    }
    (s, c)
}

/// `scale * (q - bias) - minus` for 32 codes, one scale per half.
#[inline(always)]
fn decode_32(codes: &[u8; 16], scale: [f32; 2], bias: f32, minus: [f32; 2], out: &mut [f32]) {
    let mut block = [0.0f32; 32];
    for j in 0..16 {
        block[j] = scale[0] * (f32::from(codes[j] & 15) - bias) - minus[0];
        block[j + 16] = scale[1] * (f32::from(codes[j] >> 4) - bias) - minus[1];
    }
    if let Ok(out) = <&mut [f32; 32]>::try_from(&mut *out) {
        *out = block;
    } else {
        for (o, b) in out.iter_mut().zip(block) {
            *o = b;
        }
    }
}
