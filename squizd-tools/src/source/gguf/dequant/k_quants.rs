//! ggml's 256-weight superblocks: f16 superscales times small integer scales
//! per 16 or 32 weights.

use super::{blocks, half};

/// `16 scale/min nibbles | 64 bytes of 2-bit codes | f16 d | f16 dmin`:
/// (d * scale) * q - (dmin * min) per 16 weights.
pub(super) fn q2_k(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 84], out: &mut [f32; 256]| {
        let (d, dmin) = (half(b[80], b[81]), half(b[82], b[83]));
        let (codes, _) = b[16..80].as_chunks::<32>();
        // Byte i of a 32-byte run holds weights i, i + 32, i + 64, i + 96.
        for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = b[g];
            let dl = d * f32::from(scale & 15);
            let ml = dmin * f32::from(scale >> 4);
            let shift = g / 2 % 4 * 2;
            let run = &codes[g / 8].as_chunks::<16>().0[g % 2];
            for (x, q) in out.iter_mut().zip(run) {
                *x = dl * f32::from(q >> shift & 3) - ml;
            }
        }
    });
}

/// `32 bytes of high bits | 64 bytes of 2-bit codes | 12 bytes of 6-bit scales | f16 d`:
/// (d * (scale - 32)) * (q - 4 where the high bit is clear) per 16 weights.
pub(super) fn q3_k(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 110], out: &mut [f32; 256]| {
        let d = half(b[108], b[109]);
        let (codes, _) = b[32..96].as_chunks::<32>();
        let packed = &b[96..108];
        for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            // Low four bits: nibbles of bytes 0..8, all low ones first. High
            // two: bit pairs of bytes 8..12, all lowest ones first.
            let low = packed[g % 8] >> (g / 8 * 4) & 15;
            let high = packed[8 + g % 4] >> (g / 4 * 2) & 3;
            let dl = d * (f32::from(low | high << 4) - 32.0);
            let (shift, bit) = (g / 2 % 4 * 2, g / 2);
            let run = &codes[g / 8].as_chunks::<16>().0[g % 2];
            let mask = &b[..32].as_chunks::<16>().0[g % 2];
            for ((x, q), m) in out.iter_mut().zip(run).zip(mask) {
                let clear = (m >> bit & 1) ^ 1;
                let q = (q >> shift & 3).cast_signed() - (clear << 2).cast_signed();
                *x = dl * f32::from(q);
            }
        }
    });
}

/// The eight 6-bit scales and eight 6-bit minima of Q4_K and Q5_K.
///
/// Bytes 0..4 and 4..8 hold scales and minima 0..4 in their low six bits; the
/// top two bits belong to number 4..8, whose low nibbles share bytes 8..12.
#[inline(always)]
fn scales_and_minima(packed: &[u8; 12]) -> [(f32, f32); 8] {
    std::array::from_fn(|j| {
        let i = j % 4;
        let (s, m, low) = (packed[i], packed[4 + i], packed[8 + i]);
        let (scale, min) =
            if j < 4 { (s & 63, m & 63) } else { (low & 15 | s >> 2 & 0x30, low >> 4 | m >> 2 & 0x30) };
        (f32::from(scale), f32::from(min))
    })
}

/// `f16 d | f16 dmin | 12 bytes of scales | 128 nibble bytes`:
/// (d * scale) * q - (dmin * min) per 32 weights; byte i of a 32-byte run
/// holds weights i and i + 32.
pub(super) fn q4_k(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |&[d0, d1, m0, m1, ref rest @ ..]: &[u8; 144], out: &mut [f32; 256]| {
        let (d, dmin) = (half(d0, d1), half(m0, m1));
        let Some((packed, codes)) = rest.split_first_chunk::<12>() else { return };
        let groups = scales_and_minima(packed);
        for ((out, qs), pair) in out
            .as_chunks_mut::<64>()
            .0
            .iter_mut()
            .zip(codes.as_chunks::<32>().0)
            .zip(groups.as_chunks::<2>().0)
        {
            let [(d_low, m_low), (d_high, m_high)] = pair.map(|(s, m)| (d * s, dmin * m));
            let (low, high) = out.split_at_mut(32);
            for ((l, h), q) in low.iter_mut().zip(high).zip(qs) {
                *l = d_low * f32::from(q & 15) - m_low;
                *h = d_high * f32::from(q >> 4) - m_high;
            }
        }
    });
}

/// `f16 d | f16 dmin | 12 bytes of scales | 32 bytes of fifth bits | 128 nibble bytes`:
/// as Q4_K; bit g of fifth-bit byte i belongs to weight i of group g.
pub(super) fn q5_k(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |&[d0, d1, m0, m1, ref rest @ ..]: &[u8; 176], out: &mut [f32; 256]| {
        let (d, dmin) = (half(d0, d1), half(m0, m1));
        let Some((packed, rest)) = rest.split_first_chunk::<12>() else { return };
        let Some((fifths, codes)) = rest.split_first_chunk::<32>() else { return };
        let groups = scales_and_minima(packed);
        let runs = codes.as_chunks::<32>().0.iter().zip(groups.as_chunks::<2>().0);
        for (r, (out, (qs, pair))) in out.as_chunks_mut::<64>().0.iter_mut().zip(runs).enumerate() {
            let [(d_low, m_low), (d_high, m_high)] = pair.map(|(s, m)| (d * s, dmin * m));
            let (low, high) = out.split_at_mut(32);
            for (((l, h), q), fifth) in low.iter_mut().zip(high).zip(qs).zip(fifths) {
                let bits = fifth >> (2 * r);
                *l = d_low * f32::from(q & 15 | (bits & 1) << 4) - m_low;
                *h = d_high * f32::from(q >> 4 | (bits & 2) << 3) - m_high;
            }
        }
    });
}

/// `128 bytes of low nibbles | 64 bytes of high bit pairs | 16 i8 scales | f16 d`:
/// (d * scale) * (q - 32) per 16 weights. Byte i of a 64-byte nibble run holds
/// weights i and i + 64; byte i of a 32-byte pair run weights i, i + 32, i + 64, i + 96.
pub(super) fn q6_k(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 210], out: &mut [f32; 256]| {
        let d = half(b[208], b[209]);
        let (lows, _) = b[..128].as_chunks::<16>();
        let (highs, _) = b[128..192].as_chunks::<16>();
        for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let dl = d * f32::from(b[192 + g].cast_signed());
            let (run, within) = (g / 8, g % 8);
            let low = &lows[run * 4 + within % 4];
            let high = &highs[run * 2 + within % 2];
            let (low_shift, high_shift) = (within / 4 * 4, within / 2 * 2);
            for ((x, l), h) in out.iter_mut().zip(low).zip(high) {
                let q = l >> low_shift & 15 | (h >> high_shift & 3) << 4;
                *x = dl * f32::from(q.cast_signed() - 32);
            }
        }
    });
}
