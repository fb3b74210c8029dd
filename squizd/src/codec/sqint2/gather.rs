//! Tiles times a vector with AVX2: eight rows of a column at once.
//!
//! Eight rows of four columns are 4 n bits: 32 weights. One shuffle puts the 32
//! bits that hold a row's four windows into each of eight lanes; for each of
//! the four columns a shift by lane, a mask, a gather and a fused
//! multiply-add with the column's input follow. Sums never cross lanes.
#![allow(unsafe_code, reason = "x86 intrinsics")]

use super::tile::{SIDE, Stream, Trellis};
use std::arch::x86_64 as x;

/// Where the windows of 32 weights lie, from the byte in which the first begins.
struct Windows {
    /// Byte, from that one, where the upper four lanes' 16 bytes begin.
    upper: usize,
    /// Bytes of each lane, counted within its four lanes' 16 bytes.
    bytes: [i8; 32],
    /// First bit of each column's window in each lane.
    shifts: [[i32; 8]; 4],
}

impl Windows {
    /// For weights whose first window begins at bit `phase` (0 or 4) of its byte.
    fn new(trellis: Trellis, phase: usize) -> Self {
        let bit = |lane: usize, column: usize| phase + trellis.offset(4 * lane + column);
        let upper = bit(4, 0) / 8;
        let mut windows = Self { upper, bytes: [0; 32], shifts: [[0; 8]; 4] };
        for lane in 0..8 {
            let first = bit(lane, 0) / 8;
            for i in 0..4 {
                windows.bytes[4 * lane + i] = (first + i - if lane < 4 { 0 } else { upper }) as i8;
                windows.shifts[i][lane] = (bit(lane, i) - 8 * first) as i32;
            }
        }
        windows
    }
}

/// `sums[r] += sum over columns c of value(r, c) x[c]` for a strip of whole
/// tiles, `x` one value per column.
///
/// # Safety
/// The CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn strip(
    trellis: Trellis,
    floats: &[f32],
    tiles: &[u8],
    x: &[f32],
    sums: &mut [f32; SIDE],
) {
    assert!(floats.len() == trellis.states());
    let phases = [Windows::new(trellis, 0), Windows::new(trellis, 4)];
    let mask = x::_mm256_set1_epi32(trellis.states() as i32 - 1);
    // SAFETY: arrays of 32 and 16 floats are read whole.
    let (bytes, shifts) = unsafe {
        (
            [0, 1].map(|p| x::_mm256_loadu_si256(phases[p].bytes.as_ptr().cast())),
            [0, 1].map(|p| phases[p].shifts.map(|s| x::_mm256_loadu_si256(s.as_ptr().cast()))),
        )
    };
    // SAFETY: `sums` has 16 floats.
    let mut acc = unsafe { [x::_mm256_loadu_ps(sums.as_ptr()), x::_mm256_loadu_ps(sums.as_ptr().add(8))] };
    for (tile, x_tile) in tiles.chunks_exact(trellis.bytes()).zip(x.as_chunks::<SIDE>().0) {
        let stream = Stream::new(tile);
        let stream = stream.bytes();
        for block in 0..8 {
            let bit = 4 * trellis.rate * block;
            let phase = usize::from(bit % 8 != 0);
            let (low, high) = (bit / 8, bit / 8 + phases[phase].upper);
            assert!(high + 16 <= stream.len());
            // SAFETY: 16 bytes from `high`, and so from `low <= high`, lie in the
            // stream by the assertion.
            let words = unsafe {
                x::_mm256_set_m128i(
                    x::_mm_loadu_si128(stream.as_ptr().add(high).cast()),
                    x::_mm_loadu_si128(stream.as_ptr().add(low).cast()),
                )
            };
            let words = x::_mm256_shuffle_epi8(words, bytes[phase]);
            for column in 0..4 {
                let states = x::_mm256_and_si256(x::_mm256_srlv_epi32(words, shifts[phase][column]), mask);
                // SAFETY: masked states are indices of `floats` by the first assertion.
                let values = unsafe { x::_mm256_i32gather_ps::<4>(floats.as_ptr(), states) };
                let input = x::_mm256_set1_ps(x_tile[block / 2 * 4 + column]);
                acc[block % 2] = x::_mm256_fmadd_ps(values, input, acc[block % 2]);
            }
        }
    }
    // SAFETY: `sums` has 16 floats.
    unsafe {
        x::_mm256_storeu_ps(sums.as_mut_ptr(), acc[0]);
        x::_mm256_storeu_ps(sums.as_mut_ptr().add(8), acc[1]);
    }
}
