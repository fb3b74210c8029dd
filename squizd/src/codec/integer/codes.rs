//! The code planes of the integer codecs, in blocks of 32 weights.
//!
//! A plane of `k`-bit fields gives a block `4 k` bytes: byte `j` holds weight
//! `j + 4 k f` in its field `f` (bits `k f ..`). So every field of a word of
//! four bytes is four neighbouring weights, which is what integer dot products
//! of GPUs take, and a field of the whole block is a run of `4 k` weights.
//! Codes of 2 and 4 bits are one plane; those of 3 are two, of 2 bits and of 1
//! bit: the row's low parts first, then its high parts, so that both load in
//! whole words.

use crate::simd::multiversion;

/// Weights of a block.
pub(in crate::codec) const BLOCK: usize = 32;

/// Every byte 1.
const ONES: u64 = 0x0101_0101_0101_0101;

/// Bits of a code in the low plane; one more, if any, is in the high plane.
const fn low_bits(bits: u32) -> u32 {
    bits & !1
}

/// Bytes of a block in the low plane.
pub(in crate::codec) const fn low_bytes(bits: u32) -> usize {
    4 * low_bits(bits) as usize
}

/// Bytes of a row of `blocks` blocks.
pub(in crate::codec) const fn row_bytes(bits: u32, blocks: usize) -> usize {
    4 * bits as usize * blocks
}

/// Field widths of a code's planes, with the bytes of a row before each.
pub(super) fn planes(bits: u32, blocks: usize) -> impl Iterator<Item = (u32, usize)> {
    let high = (bits % 2 == 1).then_some((1, low_bytes(bits) * blocks));
    std::iter::once((low_bits(bits), 0)).chain(high)
}

/// `N` bytes from `at`; zeros past the end.
#[inline(always)]
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|b| b.first_chunk()).copied().unwrap_or([0; N])
}

/// The codes of block `k` of a row of `blocks` blocks, in order, eight to a
/// word; zeros past the row's end.
#[inline(always)]
pub(in crate::codec) fn fields<const B: u32>(row: &[u8], blocks: usize, k: usize) -> [u64; 4] {
    let word = |at| u64::from_le_bytes(bytes_at(row, at));
    let at = low_bytes(B) * k;
    let mut fields = if low_bits(B) == 4 {
        let (first, second) = (word(at), word(at + 8));
        [first, second, first >> 4, second >> 4].map(|f| f & (15 * ONES))
    } else {
        let all = word(at);
        [all, all >> 2, all >> 4, all >> 6].map(|f| f & (3 * ONES))
    };
    if B % 2 == 1 {
        let high = u32::from_le_bytes(bytes_at(row, low_bytes(B) * blocks + 4 * k));
        // Bit p of byte b is weight 4 p + b: fields of eight are bits 2 f of
        // one copy and 2 f + 1 of the other.
        let spread = u64::from(high) | u64::from(high >> 1) << 32;
        for (f, field) in fields.iter_mut().enumerate() {
            *field |= (spread >> (2 * f) & ONES) << (B - 1);
        }
    }
    fields
}

/// The codes of block `k`, one byte each.
#[inline(always)]
pub(in crate::codec) fn unpack<const B: u32>(row: &[u8], blocks: usize, k: usize) -> [u8; BLOCK] {
    let mut codes = [0; BLOCK];
    for (codes, field) in codes.as_chunks_mut::<8>().0.iter_mut().zip(fields::<B>(row, blocks, k)) {
        *codes = field.to_le_bytes();
    }
    codes
}

multiversion! {
    /// Packs rows of `blocks` blocks of codes of `bits`, one byte each.
    pub(super) fn pack_rows(bits: u32, codes: &[u8], blocks: usize, out: &mut [u8]) = pack_rows_lanes;
}

#[inline(always)]
fn pack_rows_lanes(bits: u32, codes: &[u8], blocks: usize, out: &mut [u8]) {
    let rows = codes.chunks_exact((blocks * BLOCK).max(1));
    for (codes, out) in rows.zip(out.chunks_exact_mut(row_bytes(bits, blocks).max(1))) {
        match bits {
            2 => pack_row::<2>(codes, out),
            3 => pack_row::<3>(codes, out),
            _ => pack_row::<4>(codes, out),
        }
    }
}

/// Packs a row's codes, one byte each in whole blocks, into its planes.
#[inline(always)]
pub(in crate::codec) fn pack_row<const B: u32>(codes: &[u8], out: &mut [u8]) {
    let (blocks, _) = codes.as_chunks::<BLOCK>();
    let (low, high) = out.split_at_mut((low_bytes(B) * blocks.len()).min(out.len()));
    if low_bits(B) == 4 {
        for (codes, out) in blocks.iter().zip(low.as_chunks_mut::<16>().0) {
            for j in 0..16 {
                out[j] = codes[j] & 15 | codes[j + 16] << 4;
            }
        }
    } else {
        for (codes, out) in blocks.iter().zip(low.as_chunks_mut::<8>().0) {
            for j in 0..8 {
                out[j] =
                    codes[j] & 3 | (codes[j + 8] & 3) << 2 | (codes[j + 16] & 3) << 4 | codes[j + 24] << 6;
            }
        }
    }
    if B % 2 == 1 {
        for (codes, out) in blocks.iter().zip(high.as_chunks_mut::<4>().0) {
            *out = [0; 4];
            for (p, codes) in codes.as_chunks::<4>().0.iter().enumerate() {
                for (out, code) in out.iter_mut().zip(codes) {
                    *out |= (code >> (B - 1)) << p;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<const B: u32>() {
        let codes: Vec<u8> = (0..96u32).map(|i| (i * 37 % 61 % (1 << B)) as u8).collect();
        let mut row = vec![0xff; row_bytes(B, 3)];
        pack_row::<B>(&codes, &mut row);
        for k in 0..3 {
            assert_eq!(unpack::<B>(&row, 3, k), codes[32 * k..32 * k + 32], "{B} bits");
            // By the definition, plane after plane.
            for i in 0..BLOCK {
                let mut code = 0;
                let mut shift = 0;
                for (bits, start) in planes(B, 3) {
                    let width = 4 * bits as usize;
                    let byte = row[start + width * k + i % width];
                    code |= (byte >> (bits as usize * (i / width)) & ((1 << bits) - 1)) << shift;
                    shift += bits;
                }
                assert_eq!(code, codes[32 * k + i], "{B} bits, weight {i}");
            }
        }
        assert_eq!(unpack::<B>(&row, 3, 9), [0; 32]);
    }

    #[test]
    fn planes_hold_every_code() {
        round_trip::<2>();
        round_trip::<3>();
        round_trip::<4>();
        round_trip::<5>();
    }
}
