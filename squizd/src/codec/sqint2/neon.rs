//! Products with NEON for windows of 8 bits: four rows of four columns at a
//! time.
//!
//! A table look-up puts the 32 bits that hold a row's four windows into each of
//! four lanes, shifts by lane move each window into a byte, and two look-ups of
//! 64 entries each find the values in half of the odd table.
#![allow(unsafe_code, reason = "NEON intrinsics")]

use super::matvec::SCALED;
use super::tile::{SIDE, Stream, Trellis};
use crate::codec::activation::Rotated;
use crate::codec::kernels::sdot;
use std::arch::aarch64 as a;

/// Where the windows of 16 weights lie, from the byte in which the first begins.
struct Windows {
    /// Bytes of each lane.
    bytes: [u8; 16],
    /// Shifts to the left (negative: to the right) that put the window of each
    /// column into its byte.
    shifts: [[i32; 4]; 4],
}

impl Windows {
    /// For weights whose first window begins at bit `phase` of its byte.
    fn new(trellis: Trellis, phase: usize) -> Self {
        let bit = |lane: usize, column: usize| phase + trellis.offset(4 * lane + column);
        let mut windows = Self { bytes: [0; 16], shifts: [[0; 4]; 4] };
        for lane in 0..4 {
            let byte = bit(lane, 0) / 8;
            for i in 0..4 {
                windows.bytes[4 * lane + i] = (byte + i) as u8;
                windows.shifts[i][lane] = (8 * i + 8 * byte) as i32 - bit(lane, i) as i32;
            }
        }
        windows
    }
}

/// The 64 bytes from `at` as four registers.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn registers(bytes: &[i8; 64]) -> a::int8x16x4_t {
    // SAFETY: 64 readable bytes.
    unsafe { a::vld1q_s8_x4(bytes.as_ptr()) }
}

/// `sums[r] += sum over columns c of value(r, c) x[c]` for a strip of whole
/// tiles of windows of 8 bits.
///
/// # Safety
/// The CPU has NEON and the dot product extension.
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn product(
    trellis: Trellis,
    table: &[i8],
    tiles: &[u8],
    x: &Rotated,
    sums: &mut [f32; SIDE],
) {
    let mut half = [[0; 64]; 2];
    for (entry, value) in half.as_flattened_mut().iter_mut().zip(table) {
        *entry = *value;
    }
    let (low, high) = (registers(&half[0]), registers(&half[1]));
    // 16 weights are 2 n bits.
    let windows = [0, 2, 4, 6].map(|phase| Windows::new(trellis, phase));
    let blocks = x.codes.as_chunks::<SCALED>().0.iter().zip(&x.scales);
    for (tiles, (codes, scale)) in tiles.chunks(2 * trellis.bytes()).zip(blocks) {
        let mut dots = [a::vdupq_n_s32(0); 4];
        for (tile, codes) in tiles.chunks_exact(trellis.bytes()).zip(codes.as_chunks::<SIDE>().0) {
            let stream = Stream::new(tile);
            for (c, codes) in codes.as_chunks::<4>().0.iter().enumerate() {
                let codes =
                    a::vreinterpretq_s8_u32(a::vdupq_n_u32(u32::from_le_bytes(codes.map(i8::cast_unsigned))));
                for (quarter, dots) in dots.iter_mut().enumerate() {
                    let bit = 2 * trellis.rate * (4 * c + quarter);
                    let windows = &windows[bit % 8 / 2];
                    let Some(bytes) = stream.bytes().get(bit / 8..).and_then(|b| b.first_chunk::<16>())
                    else {
                        continue;
                    };
                    // SAFETY: arrays of 16 bytes.
                    let (words, shifts) = unsafe {
                        let words =
                            a::vqtbl1q_u8(a::vld1q_u8(bytes.as_ptr()), a::vld1q_u8(windows.bytes.as_ptr()));
                        (a::vreinterpretq_u32_u8(words), windows.shifts.map(|s| a::vld1q_s32(s.as_ptr())))
                    };
                    let mut states = a::vdupq_n_u32(0);
                    for (i, shift) in shifts.into_iter().enumerate() {
                        let window =
                            a::vandq_u32(a::vshlq_u32(words, shift), a::vdupq_n_u32(0xff << (8 * i)));
                        states = a::vorrq_u32(states, window);
                    }
                    let states = a::vreinterpretq_u8_u32(states);
                    // States of the upper half are complements of those of the lower one.
                    let negative = a::vcltzq_s8(a::vreinterpretq_s8_u8(states));
                    let index = a::veorq_u8(states, negative);
                    let first = a::vqtbl4q_s8(low, index);
                    let values = a::vqtbx4q_s8(first, high, a::vsubq_u8(index, a::vdupq_n_u8(64)));
                    // v ^ m - m is -v where m is -1.
                    let mask = a::vreinterpretq_s8_u8(negative);
                    let values = a::vsubq_s8(a::veorq_s8(values, mask), mask);
                    *dots = sdot(*dots, values, codes);
                }
            }
        }
        for (sums, dots) in sums.as_chunks_mut::<4>().0.iter_mut().zip(dots) {
            // SAFETY: four floats.
            unsafe {
                let acc = a::vfmaq_n_f32(a::vld1q_f32(sums.as_ptr()), a::vcvtq_f32_s32(dots), *scale);
                a::vst1q_f32(sums.as_mut_ptr(), acc);
            }
        }
    }
}
