//! Integer blocks as small integers, for products with many inputs: codes, and
//! the fine layout's scales in units of `d` as their factors.

use super::codes::{self, BLOCK};
use super::layout::{Layout, block_scales};
use crate::Result;
use crate::codec::Encoded;
use crate::codec::panel::{BlockScales, Panel, ROWS};
use crate::codec::stream::{checked_geometry, plane_rows};
use crate::simd::multiversion;
use squizd_spec::CodecId;
use std::ops::Range;

/// Whether a block of 32 has one scale but for small integers, whose products
/// with codes of `bits` fit a byte.
pub(super) fn takes(bits: u32, layout: Layout) -> bool {
    match layout {
        Layout::Compact(_) => true,
        Layout::Fine(fine) => super::fit::top(bits) * fine.largest_scale() <= 255.0,
        Layout::Plain { group, .. } => group >= BLOCK,
    }
}

/// Unpacks `rows` of a stored tensor.
pub(super) fn rows(
    bits: u32,
    id: CodecId,
    tensor: &Encoded<'_>,
    rows: Range<u64>,
    out: &mut Panel,
) -> Result<()> {
    let count = rows.end.saturating_sub(rows.start) as usize;
    let [codes, scales, ..] = checked_geometry(id, tensor, &rows, count, 1)?.planes;
    let (codes, scales) = (plane_rows(tensor.data, codes, &rows), plane_rows(tensor.data, scales, &rows));
    unpack(bits, Layout::of(bits, tensor.params), tensor.matrix.cols as usize, codes, scales, out);
    Ok(())
}

multiversion! {
    fn unpack(bits: u32, layout: Layout, cols: usize, codes: &[u8], scales: &[u8], out: &mut Panel) = unpack_bits;
}

#[inline(always)]
fn unpack_bits(bits: u32, layout: Layout, cols: usize, codes: &[u8], scales: &[u8], out: &mut Panel) {
    match bits {
        2 => unpack_rows::<2>(layout, cols, codes, scales, out),
        3 => unpack_rows::<3>(layout, cols, codes, scales, out),
        _ => unpack_rows::<4>(layout, cols, codes, scales, out),
    }
}

#[inline(always)]
fn unpack_rows<const B: u32>(layout: Layout, cols: usize, codes: &[u8], scales: &[u8], out: &mut Panel) {
    let blocks = cols.div_ceil(BLOCK);
    let code_stride = codes::row_bytes(B, blocks).max(1);
    let scale_stride = (scales.len() / (codes.len() / code_stride).max(1)).max(1);
    // An octet of all rows, which stays in the first cache, after the other.
    for octet in 0..blocks.div_ceil(8) {
        let here = 8 * octet..blocks.min(8 * octet + 8);
        if let Layout::Fine(fine) = layout {
            let mut stored = [[0; 16]; ROWS];
            for (to, scales) in stored.iter_mut().zip(scales.chunks_exact(scale_stride)) {
                let from = scales.get(16 * octet..).unwrap_or_default();
                match from.first_chunk() {
                    Some(whole) => *to = *whole,
                    None => to.iter_mut().zip(from).for_each(|(t, f)| *t = *f),
                }
            }
            fine.put_scales(&stored, out.blocks_from(here.start));
        } else {
            for (row, scales) in scales.chunks_exact(scale_stride).enumerate() {
                for (at, scales) in here.clone().zip(octet_scales(layout, scales, octet)) {
                    out.put_scales(row, at, scales);
                }
            }
        }
        for at in here {
            if B == 4 {
                let mut stored = [[0; 16]; ROWS];
                for (stored, codes) in stored.iter_mut().zip(codes.chunks_exact(code_stride)) {
                    *stored = codes.as_chunks::<16>().0.get(at).copied().unwrap_or_default();
                }
                out.put_nibbles(at, &stored);
            } else {
                for (row, codes) in codes.chunks_exact(code_stride).enumerate() {
                    out.put_codes(row, at, codes::fields::<B>(codes, blocks, at));
                }
            }
        }
    }
}

/// Of a row's eight blocks from `8 * octet` on.
#[inline(always)]
fn octet_scales(layout: Layout, stored: &[u8], octet: usize) -> [BlockScales; 8] {
    let (scales, minuses) = block_scales(layout, stored, octet);
    let bias = layout.code_bias();
    let mut out = [BlockScales::default(); 8];
    for ((out, scale), minus) in out.iter_mut().zip(scales).zip(minuses) {
        let minus = std::array::from_fn(|h| bias * scale[h] + minus[h]);
        *out = BlockScales { factors: [1; 2], scale: scale[0], minus };
    }
    out
}
