//! ggml's types of sixteen unevenly spaced levels. Low nibbles are the first
//! half of a run's weights, high nibbles the second.

use super::{blocks, half};

/// Levels of IQ4.
const IQ4: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];
/// e2m1 values, doubled. As in ggml, code 8 is +0.
const E2M1: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// `scale * level` of the low nibbles, then of the high ones.
#[inline(always)]
fn levels(codes: &[u8], levels: &[f32; 16], scale: f32, out: &mut [f32]) {
    let (low, high) = out.split_at_mut(codes.len());
    for ((l, h), q) in low.iter_mut().zip(high).zip(codes) {
        *l = scale * levels[usize::from(q & 15)];
        *h = scale * levels[usize::from(q >> 4)];
    }
}

/// `f16 d | 16 nibble bytes`: d * level.
pub(super) fn iq4_nl(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |&[d0, d1, ref qs @ ..]: &[u8; 18], out: &mut [f32; 32]| {
        levels(qs, &IQ4, half(d0, d1), out);
    });
}

/// `f16 d | u16 of high scale pairs | 4 bytes of low scale nibbles | 128 nibble
/// bytes`: (d * (scale - 32)) * level per 32 weights.
pub(super) fn iq4_xs(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 136], out: &mut [f32; 256]| {
        let (d, high) = (half(b[0], b[1]), u16::from_le_bytes([b[2], b[3]]));
        let runs = b[8..].as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<32>().0);
        for (g, (qs, out)) in runs.enumerate() {
            let scale = b[4 + g / 2] >> (g % 2 * 4) & 15 | ((high >> (2 * g) & 3) as u8) << 4;
            levels(qs, &IQ4, d * (f32::from(scale) - 32.0), out);
        }
    });
}

/// `e8m0 scale | 16 nibble bytes`: half the scale times the doubled e2m1 value.
/// As in ggml, a scale of 255 is 2^128, not NaN.
pub(super) fn mxfp4(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |&[e, ref qs @ ..]: &[u8; 17], out: &mut [f32; 32]| {
        // 2^(e - 128); the two smallest are subnormal.
        let bits = if e < 2 { 0x0020_0000 << e } else { (u32::from(e) - 1) << 23 };
        levels(qs, &E2M1, f32::from_bits(bits), out);
    });
}

/// Half of an unsigned e4m3 number of bias 7; 0 for 0x7f, its NaN. The top bit
/// counts only there.
#[inline(always)]
fn half_ue4m3(x: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(x >> 3 & 15), f32::from(x & 7));
    match (x, exponent) {
        (0x7f, _) => 0.0,
        // 2^-10 and 2^(exponent - 8) over 8.
        (_, 0) => mantissa * f32::from_bits((127 - 10) << 23),
        _ => (8.0 + mantissa) * f32::from_bits((127 + exponent - 11) << 23),
    }
}

/// `4 x e4m3 scale | 4 x 8 nibble bytes`: half the scale times the doubled e2m1
/// value per 16 weights.
pub(super) fn nvfp4(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |&[s0, s1, s2, s3, ref qs @ ..]: &[u8; 36], out: &mut [f32; 64]| {
        let runs = qs.as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<16>().0);
        for ((qs, out), scale) in runs.zip([s0, s1, s2, s3]) {
            levels(qs, &E2M1, half_ue4m3(scale), out);
        }
    });
}
