//! Tiles with AVX2: the values of eight rows of a column at once.
//!
//! Eight rows of four columns are 4 n bits: 32 weights. One shuffle puts the 32
//! bits that hold a row's four windows into each of eight lanes; for each of
//! the four columns a shift by lane, a mask and a gather follow. A product adds
//! a fused multiply-add with the column's input: its sums never cross lanes.
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

/// Reads the tiles of one trellis.
struct Reader<'a> {
    trellis: Trellis,
    floats: &'a [f32],
    phases: [Windows; 2],
}

impl<'a> Reader<'a> {
    /// With `floats` as the states' values.
    fn new(trellis: Trellis, floats: &'a [f32]) -> Self {
        assert!(floats.len() == trellis.states());
        Self { trellis, floats, phases: [Windows::new(trellis, 0), Windows::new(trellis, 4)] }
    }

    /// The values of the eight weights of each of four columns that are the
    /// `block`th 32 weights of `stream`.
    ///
    /// # Safety
    /// The CPU has AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn block(&self, stream: &Stream, block: usize) -> [x::__m256; 4] {
        let stream = stream.bytes();
        let bit = 4 * self.trellis.rate * block;
        let windows = &self.phases[usize::from(!bit.is_multiple_of(8))];
        let (low, high) = (bit / 8, bit / 8 + windows.upper);
        assert!(high + 16 <= stream.len());
        // SAFETY: 16 bytes from `high`, and so from `low <= high`, lie in the
        // stream by the assertion; the arrays have 32 bytes each.
        let (words, shifts) = unsafe {
            let words = x::_mm256_set_m128i(
                x::_mm_loadu_si128(stream.as_ptr().add(high).cast()),
                x::_mm_loadu_si128(stream.as_ptr().add(low).cast()),
            );
            let bytes = x::_mm256_loadu_si256(windows.bytes.as_ptr().cast());
            let shifts = [0, 1, 2, 3].map(|c| x::_mm256_loadu_si256(windows.shifts[c].as_ptr().cast()));
            (x::_mm256_shuffle_epi8(words, bytes), shifts)
        };
        let mask = x::_mm256_set1_epi32(self.floats.len() as i32 - 1);
        let mut values = [x::_mm256_setzero_ps(); 4];
        for (values, shift) in values.iter_mut().zip(shifts) {
            let states = x::_mm256_and_si256(x::_mm256_srlv_epi32(words, shift), mask);
            // SAFETY: masked states are indices of `floats`, whose length is the
            // power of two that `new` asserts.
            *values = unsafe { x::_mm256_i32gather_ps::<4>(self.floats.as_ptr(), states) };
        }
        values
    }
}

/// `sums[r] += sum over columns c of value(r, c) x[c]` for a strip of whole
/// tiles, `x` one value per column.
///
/// # Safety
/// The CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn product(
    trellis: Trellis,
    floats: &[f32],
    tiles: &[u8],
    x: &[f32],
    sums: &mut [f32; SIDE],
) {
    let reader = Reader::new(trellis, floats);
    // SAFETY: `sums` has 16 floats.
    let mut acc = unsafe { [x::_mm256_loadu_ps(sums.as_ptr()), x::_mm256_loadu_ps(sums.as_ptr().add(8))] };
    for (tile, x_tile) in tiles.chunks_exact(trellis.bytes()).zip(x.as_chunks::<SIDE>().0) {
        let stream = Stream::new(tile);
        for block in 0..8 {
            // SAFETY: AVX2 is available.
            let values = unsafe { reader.block(&stream, block) };
            for (value, input) in values.into_iter().zip(&x_tile[block / 2 * 4..]) {
                acc[block % 2] = x::_mm256_fmadd_ps(value, x::_mm256_set1_ps(*input), acc[block % 2]);
            }
        }
    }
    // SAFETY: `sums` has 16 floats.
    unsafe {
        x::_mm256_storeu_ps(sums.as_mut_ptr(), acc[0]);
        x::_mm256_storeu_ps(sums.as_mut_ptr().add(8), acc[1]);
    }
}

/// The values of a strip's tiles, row by row.
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn values(trellis: Trellis, floats: &[f32], tiles: &[u8], out: &mut [f32]) {
    let reader = Reader::new(trellis, floats);
    let stride = out.len() / SIDE;
    let mut columns = [[0.0; SIDE]; SIDE];
    for (k, tile) in tiles.chunks_exact(trellis.bytes()).enumerate() {
        let stream = Stream::new(tile);
        for block in 0..8 {
            // SAFETY: AVX2 is available.
            let values = unsafe { reader.block(&stream, block) };
            for (value, column) in values.into_iter().zip(&mut columns[block / 2 * 4..]) {
                // SAFETY: eight of the column's sixteen floats, from 0 or 8 on.
                unsafe { x::_mm256_storeu_ps(column.as_mut_ptr().add(block % 2 * 8), value) };
            }
        }
        for (r, row) in out.chunks_exact_mut(stride).enumerate() {
            for (out, column) in row[k * SIDE..][..SIDE].iter_mut().zip(&columns) {
                *out = column[r];
            }
        }
    }
}
