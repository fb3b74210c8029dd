//! ggml's IQ2 and IQ3 types: magnitudes are points of a codebook ([`grids`]),
//! signs are stored apart, and a 4-bit scale serves each 16 or 32 weights.

use super::grids::{IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};
use super::{blocks, half};

/// What the coordinates' numbers stand for.
const TWO_BITS: [f32; 4] = [8.0, 25.0, 43.0, 0.0];
const THREE_BITS_XXS: [f32; 8] = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];
const THREE_BITS_S: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];

/// Eight signs of which seven are stored: an even number of them is negative.
#[inline(always)]
fn even_signs(seven: u32) -> u8 {
    let seven = (seven & 0x7f) as u8;
    seven | (seven.count_ones() as u8 & 1) << 7
}

/// `scale * magnitude`, negated where `signs` has a bit.
#[inline(always)]
fn signed(out: &mut [f32; 8], scale: f32, magnitudes: [f32; 8], signs: u8) {
    for i in 0..8 {
        let sign = u32::from(signs >> i & 1) << 31;
        out[i] = f32::from_bits((scale * magnitudes[i]).to_bits() ^ sign);
    }
}

/// An entry's eight coordinates of 2 bits.
#[inline(always)]
pub(super) fn eight(entry: u16, values: [f32; 4]) -> [f32; 8] {
    std::array::from_fn(|i| values[usize::from(entry >> (2 * i) & 3)])
}

/// Two entries' eight coordinates of 4 bits.
#[inline(always)]
fn twice_four(entries: [u16; 2], values: &[f32; 8]) -> [f32; 8] {
    std::array::from_fn(|i| values[usize::from(entries[i / 4] >> (4 * (i % 4)) & 7)])
}

/// Nibble `i` of `bytes`, low ones first.
#[inline(always)]
fn nibble(bytes: &[u8], i: usize) -> f32 {
    f32::from(bytes[i / 2] >> (i % 2 * 4) & 15)
}

/// `f16 d | 8 x (4 entries, u32)`: the word has four times seven signs and the
/// scale s above them; d * (0.5 + s) / 4 per 32 weights.
pub(super) fn iq2_xxs(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 66], out: &mut [f32; 256]| {
        let d = half(b[0], b[1]);
        let runs = b[2..].as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<32>().0);
        for (&[a, b, c, e, ref word @ ..], out) in runs {
            let word = u32::from_le_bytes(*word);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
            for (k, (entry, out)) in [a, b, c, e].into_iter().zip(out.as_chunks_mut().0).enumerate() {
                let grid = eight(IQ2_XXS[usize::from(entry)], TWO_BITS);
                signed(out, scale, grid, even_signs(word >> (7 * k)));
            }
        }
    });
}

/// `f16 d | 32 x u16 | 8 bytes of scale nibbles`: nine bits of entry, seven
/// signs; d * (0.5 + s) / 4 per 16 weights.
pub(super) fn iq2_xs(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 74], out: &mut [f32; 256]| {
        let d = half(b[0], b[1]);
        let words = b[2..66].as_chunks::<2>().0.iter().zip(out.as_chunks_mut().0);
        for (k, (word, out)) in words.enumerate() {
            let word = u16::from_le_bytes(*word);
            let scale = d * (0.5 + nibble(&b[66..], k / 2)) * 0.25;
            let grid = eight(IQ2_XS[usize::from(word & 511)], TWO_BITS);
            signed(out, scale, grid, even_signs(u32::from(word >> 9)));
        }
    });
}

/// `f16 d | 32 low bytes of entries | 32 bytes of signs | 8 bytes of high bit
/// pairs | 8 bytes of scale nibbles`: d * (0.5 + s) / 4 per 16 weights.
pub(super) fn iq2_s(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 82], out: &mut [f32; 256]| {
        let d = half(b[0], b[1]);
        let (low, signs, high, scales) = (&b[2..34], &b[34..66], &b[66..74], &b[74..]);
        for (k, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
            let entry = u16::from(low[k]) | u16::from(high[k / 4] >> (k % 4 * 2) & 3) << 8;
            let scale = d * (0.5 + nibble(scales, k / 2)) * 0.25;
            signed(out, scale, eight(IQ2_S[usize::from(entry)], TWO_BITS), signs[k]);
        }
    });
}

/// `f16 d | 64 entries | 8 x u32`: the word as in IQ2_XXS; d * (0.5 + s) / 2
/// per 32 weights.
pub(super) fn iq3_xxs(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 98], out: &mut [f32; 256]| {
        let d = half(b[0], b[1]);
        let words = b[66..].as_chunks::<4>().0;
        let runs = b[2..66].as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<32>().0);
        for ((entries, out), word) in runs.zip(words) {
            let word = u32::from_le_bytes(*word);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
            let pairs = entries.as_chunks::<2>().0.iter().zip(out.as_chunks_mut().0);
            for (k, (pair, out)) in pairs.enumerate() {
                let grid = twice_four(pair.map(|e| IQ3_XXS[usize::from(e)]), &THREE_BITS_XXS);
                signed(out, scale, grid, even_signs(word >> (7 * k)));
            }
        }
    });
}

/// `f16 d | 64 low bytes of entries | 8 bytes of ninth bits | 32 bytes of signs
/// | 4 bytes of scale nibbles`: d * (1 + 2 s) per 32 weights.
pub(super) fn iq3_s(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 110], out: &mut [f32; 256]| {
        let d = half(b[0], b[1]);
        let (low, ninth, signs, scales) = (&b[2..66], &b[66..74], &b[74..106], &b[106..]);
        let entry = |j: usize| IQ3_S[usize::from(low[j]) | usize::from(ninth[j / 8] >> (j % 8) & 1) << 8];
        for (k, out) in out.as_chunks_mut().0.iter_mut().enumerate() {
            let scale = d * (1.0 + 2.0 * nibble(scales, k / 4));
            signed(out, scale, twice_four([entry(2 * k), entry(2 * k + 1)], &THREE_BITS_S), signs[k]);
        }
    });
}
