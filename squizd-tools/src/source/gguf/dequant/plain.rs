//! Plain numbers, little-endian.

use super::{blocks, half};

pub(super) fn f32(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |b: &[u8; 4], [x]| *x = f32::from_le_bytes(*b));
}

pub(super) fn f16(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |&[lo, hi], [x]| *x = half(lo, hi));
}

pub(super) fn bf16(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |&[lo, hi], [x]| *x = f32::from_bits(u32::from_le_bytes([0, 0, lo, hi])));
}

pub(super) fn i8(bytes: &[u8], out: &mut [f32]) {
    blocks(bytes, out, |&[b], [x]| *x = f32::from(b.cast_signed()));
}
