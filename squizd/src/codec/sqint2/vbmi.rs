//! Products with AVX-512 VBMI and VNNI: 16 rows of four columns at a time.
//!
//! These 64 weights are `rate` bytes and the window's rest of the next ones.
//! One permutation puts the bytes that hold eight windows into each of eight
//! words of 64 bits; a multishift takes eight unaligned bytes of each word, the
//! windows' low bits, and others of the same word the bits above. Tables are
//! odd, so half a table of 2^(L-1) bytes is held in registers or nearby, in
//! pairs of registers that one permutation of 128 bytes looks up; the results
//! of several pairs are merged bit by bit of the window.
//!
//! Dot products want one operand unsigned: values are looked up with 128 added,
//! and 128 times the input's sum is subtracted to begin with.
#![allow(unsafe_code, reason = "x86 intrinsics")]

use super::matvec::SCALED;
use super::tile::{SIDE, Trellis};
use crate::codec::activation::Rotated;
use std::arch::x86_64 as x;

/// Whether the CPU has what [`product`] needs.
pub(super) fn is_supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512vbmi")
}

/// `sums[r] += sum over columns c of value(r, c) x[c]` for a strip of whole
/// tiles.
///
/// # Safety
/// [`is_supported`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
pub(super) unsafe fn product(
    trellis: Trellis,
    table: &[i8],
    tiles: &[u8],
    x: &Rotated,
    sums: &mut [f32; SIDE],
) {
    match trellis.window {
        8 => strip::<1>(trellis, table, tiles, x, sums),
        10 => strip::<4>(trellis, table, tiles, x, sums),
        _ => strip::<16>(trellis, table, tiles, x, sums),
    }
}

/// Where windows lie.
struct Windows {
    /// Byte of the 64 weights for each byte of the eight words.
    bytes: [u8; 64],
    /// First bit of each window in its word.
    bits: [u8; 64],
}

impl Windows {
    fn new(trellis: Trellis) -> Self {
        let mut windows = Self { bytes: [0; 64], bits: [0; 64] };
        for t in 0..64 {
            let first = trellis.offset(t / 8 * 8) / 8;
            windows.bytes[t] = (first + t % 8) as u8;
            windows.bits[t] = (trellis.offset(t) - 8 * first) as u8;
        }
        windows
    }
}

/// As [`product`], with `T` pairs of registers of table.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn strip<const T: usize>(trellis: Trellis, table: &[i8], tiles: &[u8], x: &Rotated, sums: &mut [f32; SIDE]) {
    let windows = Windows::new(trellis);
    let mut half = [[[0u8; 64]; 2]; T];
    for (entry, value) in half.as_flattened_mut().as_flattened_mut().iter_mut().zip(table) {
        *entry = value.cast_unsigned() ^ 0x80;
    }
    // SAFETY: arrays of 64 bytes, and 16 floats.
    let (bytes, bits, mut acc) = unsafe {
        (
            x::_mm512_loadu_si512(windows.bytes.as_ptr().cast()),
            x::_mm512_loadu_si512(windows.bits.as_ptr().cast()),
            x::_mm512_loadu_ps(sums.as_ptr()),
        )
    };
    // SAFETY: arrays of 64 bytes.
    let half = half.map(|pair| pair.map(|r| unsafe { x::_mm512_loadu_si512(r.as_ptr().cast()) }));
    let rate = trellis.rate;
    let own = u64::MAX >> (64 - rate);
    let blocks = x.codes.as_chunks::<SCALED>().0.iter().zip(&x.scales);
    for (tiles, (codes, scale)) in tiles.chunks(2 * trellis.bytes()).zip(blocks) {
        let total: i32 = codes.iter().map(|c| i32::from(*c)).sum();
        let mut dots = x::_mm512_set1_epi32(-128 * total);
        for (tile, codes) in tiles.chunks_exact(trellis.bytes()).zip(codes.as_chunks::<SIDE>().0) {
            for (b, codes) in codes.as_chunks::<4>().0.iter().enumerate() {
                // Two more bytes, of the tile's beginning after its end.
                let next = if b == 3 {
                    tile.as_ptr().wrapping_sub(rate)
                } else {
                    tile.as_ptr().wrapping_add(b * rate)
                };
                // SAFETY: only bytes that the masks name are read: `rate` of the
                // tile's 4 * `rate` from `b * rate` on, and two that follow them,
                // or for the last block the tile's first two.
                let stored = unsafe {
                    let stored = x::_mm512_maskz_loadu_epi8(own, tile.as_ptr().add(b * rate).cast());
                    x::_mm512_mask_loadu_epi8(stored, 3 << rate, next.cast())
                };
                let words = x::_mm512_permutexvar_epi8(bytes, stored);
                let values = look_up(&half, words, bits);
                let codes = x::_mm512_set1_epi32(i32::from_le_bytes(codes.map(i8::cast_unsigned)));
                dots = x::_mm512_dpbusd_epi32(dots, values, codes);
            }
        }
        acc = x::_mm512_fmadd_ps(x::_mm512_set1_ps(*scale), x::_mm512_cvtepi32_ps(dots), acc);
    }
    // SAFETY: 16 floats.
    unsafe { x::_mm512_storeu_ps(sums.as_mut_ptr(), acc) };
}

/// Values, with 128 added, of the windows that begin at `bits` of their words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn look_up<const T: usize>(half: &[[x::__m512i; 2]; T], words: x::__m512i, bits: x::__m512i) -> x::__m512i {
    // The byte whose top bit is bit 7 + n of the window.
    let shifted =
        |n: i8| x::_mm512_multishift_epi64_epi8(x::_mm512_add_epi8(bits, x::_mm512_set1_epi8(n)), words);
    let top = |n: i8| x::_mm512_movepi8_mask(shifted(n));
    let low = shifted(0);
    // States of the upper half are complements of those of the lower one.
    let depth = T.ilog2() as i8;
    let negative = if T == 1 { x::_mm512_movepi8_mask(low) } else { top(depth) };
    let index = x::_mm512_mask_sub_epi8(low, negative, x::_mm512_set1_epi8(-1), low);
    // Which of two halves of the half table each bit from 7 on picks.
    let upper: [u64; 4] = std::array::from_fn(|n| match n as i8 {
        n if n >= depth => 0,
        0 => x::_mm512_movepi8_mask(index),
        n => top(n) ^ negative,
    });
    let pair = |i: usize| x::_mm512_permutex2var_epi8(half[i][0], index, half[i][1]);
    let two = |i: usize| x::_mm512_mask_blend_epi8(upper[0], pair(i), pair(i + 1));
    let four = |i: usize| x::_mm512_mask_blend_epi8(upper[1], two(i), two(i + 2));
    let eight = |i: usize| x::_mm512_mask_blend_epi8(upper[2], four(i), four(i + 4));
    let values = match T {
        1 => pair(0),
        4 => four(0),
        _ => x::_mm512_mask_blend_epi8(upper[3], eight(0), eight(8)),
    };
    // 256 minus a value is its negative, with 128 added.
    x::_mm512_mask_sub_epi8(values, negative, x::_mm512_setzero_si512(), values)
}
