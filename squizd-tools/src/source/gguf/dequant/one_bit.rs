//! ggml's IQ1 and ternary types: weights of three values.

use super::grids::IQ1;
use super::iq_quants::eight;
use super::{blocks, half};

/// What the coordinates' numbers of IQ1 stand for.
const THREE: [f32; 4] = [-1.0, 0.0, 1.0, 0.0];
/// What all weights of a run are moved by, up or down.
const DELTA: f32 = 0.125;

/// `scale * (coordinate + delta)`.
#[inline(always)]
fn moved(out: &mut [f32; 8], scale: f32, entry: u16, down: bool) {
    let delta = if down { -DELTA } else { DELTA };
    let grid = eight(IQ1[usize::from(entry & 2047)], THREE);
    for (o, g) in out.iter_mut().zip(grid) {
        *o = scale * (g + delta);
    }
}

/// `f16 d | 32 low bytes of entries | 8 x u16`: the word has four times three
/// high bits of entries, the scale s in bits 12 to 14, the direction in bit 15;
/// d * (2 s + 1) per 32 weights.
pub(super) fn iq1_s(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 50], out: &mut [f32; 256]| {
        let d = half(b[0], b[1]);
        let words = b[34..].as_chunks::<2>().0;
        for (k, (low, out)) in b[2..34].iter().zip(out.as_chunks_mut().0).enumerate() {
            let word = u16::from_le_bytes(words[k / 4]);
            let scale = d * f32::from(2 * (word >> 12 & 7) + 1);
            let entry = u16::from(*low) | (word >> (k % 4 * 3) & 7) << 8;
            moved(out, scale, entry, word >> 15 == 1);
        }
    });
}

/// `32 low bytes of entries | 16 bytes of nibbles (three high bits of an entry,
/// direction) | 4 x u16`: the words have a nibble of the f16 d each on top, the
/// lowest first, and four 3-bit scales s below; d * (2 s + 1) per 16 weights.
pub(super) fn iq1_m(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 56], out: &mut [f32; 256]| {
        let words = [48, 50, 52, 54].map(|i| u16::from_le_bytes([b[i], b[i + 1]]));
        let [d0, d1, d2, d3] = words.map(|w| w >> 12);
        let [lo, hi] = (d0 | d1 << 4 | d2 << 8 | d3 << 12).to_le_bytes();
        let d = half(lo, hi);
        for (k, (low, out)) in b[..32].iter().zip(out.as_chunks_mut().0).enumerate() {
            let high = b[32 + k / 2] >> (k % 2 * 4);
            let scale = d * f32::from(2 * (words[k / 8] >> (k / 2 % 4 * 3) & 7) + 1);
            moved(out, scale, u16::from(*low) | u16::from(high & 7) << 8, high & 8 != 0);
        }
    });
}

/// The ternary digit of `byte` that `power` of three brings to the front, less
/// one: bytes are fractions of 256 in base three.
#[inline(always)]
fn digit(byte: u8, power: u8) -> f32 {
    let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
    f32::from(digit) - 1.0
}

/// `32 and 16 bytes of five digits | 4 bytes of four digits | f16 d`: d * digit.
/// Byte i of n holds weights i, n + i, 2n + i and so on.
pub(super) fn tq1_0(bytes: &[u8], out: &mut [f32]) {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    blocks(bytes, out, |b: &[u8; 54], out: &mut [f32; 256]| {
        let d = half(b[52], b[53]);
        let (first, rest) = out.split_at_mut(160);
        let (second, third) = rest.split_at_mut(80);
        for (bytes, out) in [(&b[..32], first), (&b[32..48], second), (&b[48..52], third)] {
            for (out, power) in out.chunks_exact_mut(bytes.len()).zip(POWERS) {
                for (o, byte) in out.iter_mut().zip(bytes) {
                    *o = d * digit(*byte, power);
                }
            }
        }
    });
}

/// `64 bytes of 2-bit codes | f16 d`: d * (q - 1). Byte i of a 32-byte run
/// holds weights i, i + 32, i + 64, i + 96.
pub(super) fn tq2_0(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 66], out: &mut [f32; 256]| {
        let d = half(b[64], b[65]);
        let runs = b[..64].as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<128>().0);
        for (run, out) in runs {
            for (shift, out) in [0, 2, 4, 6].into_iter().zip(out.as_chunks_mut::<32>().0) {
                for (o, byte) in out.iter_mut().zip(run) {
                    *o = d * (f32::from(byte >> shift & 3) - 1.0);
                }
            }
        }
    });
}
