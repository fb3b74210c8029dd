//! ggml's 32-weight blocks. Low nibbles are weights 0 to 15, high nibbles 16 to 31.

use super::{blocks, half};

/// `f16 d | 16 nibble bytes`: d * (q - 8).
pub(super) fn q4_0(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |&[d0, d1, ref qs @ ..]: &[u8; 18], out: &mut [f32; 32]| {
        let d = half(d0, d1);
        nibbles(qs, out, |q| d * (q - 8.0));
    });
}

/// `f16 d | f16 m | 16 nibble bytes`: d * q + m.
pub(super) fn q4_1(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |&[d0, d1, m0, m1, ref qs @ ..]: &[u8; 20], out: &mut [f32; 32]| {
        let (d, m) = (half(d0, d1), half(m0, m1));
        nibbles(qs, out, |q| d * q + m);
    });
}

/// `f16 d | 32 fifth bits | 16 nibble bytes`: d * (q - 16).
pub(super) fn q5_0(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |&[d0, d1, h0, h1, h2, h3, ref qs @ ..]: &[u8; 22], out: &mut [f32; 32]| {
        let d = half(d0, d1);
        five_bits([h0, h1, h2, h3], qs, out, |q| d * (q - 16.0));
    });
}

/// `f16 d | f16 m | 32 fifth bits | 16 nibble bytes`: d * q + m.
pub(super) fn q5_1(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |&[d0, d1, m0, m1, h0, h1, h2, h3, ref qs @ ..]: &[u8; 24], out: &mut [f32; 32]| {
        let (d, m) = (half(d0, d1), half(m0, m1));
        five_bits([h0, h1, h2, h3], qs, out, |q| d * q + m);
    });
}

/// `f16 d | 32 i8`: q * d.
pub(super) fn q8_0(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |&[d0, d1, ref qs @ ..]: &[u8; 34], out: &mut [f32; 32]| {
        let d = half(d0, d1);
        for (x, q) in out.iter_mut().zip(qs) {
            *x = f32::from(q.cast_signed()) * d;
        }
    });
}

#[inline(always)]
fn nibbles(qs: &[u8; 16], out: &mut [f32; 32], value: impl Fn(f32) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for ((l, h), q) in low.iter_mut().zip(high).zip(qs) {
        *l = value(f32::from(q & 15));
        *h = value(f32::from(q >> 4));
    }
}

#[inline(always)]
fn five_bits(fifth: [u8; 4], qs: &[u8; 16], out: &mut [f32; 32], value: impl Fn(f32) -> f32) {
    let fifth = u32::from_le_bytes(fifth);
    let (low, high) = out.split_at_mut(16);
    for (j, ((l, h), q)) in low.iter_mut().zip(high).zip(qs).enumerate() {
        let bit = |i: usize| ((fifth >> i) as u8 & 1) << 4;
        *l = value(f32::from(q & 15 | bit(j)));
        *h = value(f32::from(q >> 4 | bit(j + 16)));
    }
}
