//! Products with AVX2 for windows of 8 bits: eight rows of four columns at a
//! time.
//!
//! One shuffle puts the 32 bits that hold a row's four windows into each of
//! eight lanes; shifts by lane move each window into a byte. The table is odd:
//! half of it, 128 bytes, is looked up in eight shuffles of 16 entries. The k-th
//! sees the index less 16 k, which gives zero where that is negative, and holds
//! the exclusive-or of its 16 entries with those before: what the first shuffles
//! up to the entry's own give cancels but for the entry.
#![allow(unsafe_code, reason = "x86 intrinsics")]

use super::matvec::SCALED;
use super::tile::{SIDE, Trellis};
use crate::codec::activation::Rotated;
use std::arch::x86_64 as x;

/// Bytes that 32 weights are loaded from.
const REACH: usize = 24;

/// Where the windows of 32 weights lie, from the byte in which the first begins.
struct Windows {
    /// Byte, from that one, where the upper four lanes' 16 bytes begin.
    upper: usize,
    /// Bytes of each lane, counted within its four lanes' 16 bytes.
    bytes: [i8; 32],
    /// First bit of each lane's first window.
    first: [i32; 8],
    /// What moves each further window, counted from there, to its byte.
    left: [[i32; 8]; 3],
}

impl Windows {
    /// For weights whose first window begins at bit `phase` (0 or 4) of its byte.
    fn new(trellis: Trellis, phase: usize) -> Self {
        let bit = |lane: usize, column: usize| phase + trellis.offset(4 * lane + column);
        let upper = bit(4, 0) / 8;
        let mut windows = Self { upper, bytes: [0; 32], first: [0; 8], left: [[0; 8]; 3] };
        for lane in 0..8 {
            let byte = bit(lane, 0) / 8;
            for i in 0..4 {
                windows.bytes[4 * lane + i] = (byte + i - if lane < 4 { 0 } else { upper }) as i8;
            }
            windows.first[lane] = (bit(lane, 0) % 8) as i32;
            for c in 1..4 {
                windows.left[c - 1][lane] = (8 * c + bit(lane, 0) - bit(lane, c)) as i32;
            }
        }
        windows
    }
}

/// Table and windows in registers.
struct Reader {
    rate: usize,
    /// The exclusive-or of 16 entries and the 16 before, in both halves.
    steps: [x::__m256i; 8],
    upper: [usize; 2],
    bytes: [x::__m256i; 2],
    first: [x::__m256i; 2],
    left: [[x::__m256i; 3]; 2],
}

impl Reader {
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn new(trellis: Trellis, table: &[i8]) -> Self {
        let mut entries = [[0u8; 16]; 9];
        for (entry, value) in entries[1..].as_flattened_mut().iter_mut().zip(table) {
            *entry = value.cast_unsigned();
        }
        let windows = [0, 4].map(|phase| Windows::new(trellis, phase));
        // SAFETY: arrays of 16 and 32 bytes.
        unsafe {
            let entry = |k: usize| x::_mm_loadu_si128(entries[k].as_ptr().cast());
            let steps = std::array::from_fn(|k| {
                let step = x::_mm_xor_si128(entry(k), entry(k + 1));
                x::_mm256_broadcastsi128_si256(step)
            });
            let lanes = |v: &[i32; 8]| x::_mm256_loadu_si256(v.as_ptr().cast());
            Self {
                rate: trellis.rate,
                steps,
                upper: [0, 1].map(|p: usize| windows[p].upper),
                bytes: [0, 1].map(|p: usize| x::_mm256_loadu_si256(windows[p].bytes.as_ptr().cast())),
                first: [0, 1].map(|p: usize| lanes(&windows[p].first)),
                left: [0, 1].map(|p: usize| [0, 1, 2].map(|c: usize| lanes(&windows[p].left[c]))),
            }
        }
    }

    /// The windows of the `block`th 32 weights of a tile, whose bytes from where
    /// they begin are `stored`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn states(&self, stored: &[u8; REACH], block: usize) -> x::__m256i {
        let phase = usize::from(!(4 * self.rate * block).is_multiple_of(8));
        let upper = self.upper[phase];
        assert!(upper + 16 <= REACH);
        // SAFETY: 16 bytes from `upper`, and so from 0, lie in the array by the
        // assertion.
        let words = unsafe {
            x::_mm256_set_m128i(
                x::_mm_loadu_si128(stored.as_ptr().add(upper).cast()),
                x::_mm_loadu_si128(stored.as_ptr().cast()),
            )
        };
        let words = x::_mm256_shuffle_epi8(words, self.bytes[phase]);
        let words = x::_mm256_srlv_epi32(words, self.first[phase]);
        let mut states = x::_mm256_and_si256(words, x::_mm256_set1_epi32(0xff));
        for (left, mask) in self.left[phase].into_iter().zip([0xff00, 0xff_0000, 0xff << 24]) {
            let window = x::_mm256_and_si256(x::_mm256_sllv_epi32(words, left), x::_mm256_set1_epi32(mask));
            states = x::_mm256_or_si256(states, window);
        }
        states
    }

    /// Sums over four columns of the values of `states` times `codes`.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn dots(&self, states: x::__m256i, codes: [i8; 4]) -> x::__m256i {
        let zero = x::_mm256_setzero_si256();
        // States of the upper half are complements of those of the lower one.
        let mut index = x::_mm256_xor_si256(states, x::_mm256_cmpgt_epi8(zero, states));
        let mut values = zero;
        for step in self.steps {
            values = x::_mm256_xor_si256(values, x::_mm256_shuffle_epi8(step, index));
            index = x::_mm256_sub_epi8(index, x::_mm256_set1_epi8(16));
        }
        let codes = x::_mm256_set1_epi32(i32::from_le_bytes(codes.map(i8::cast_unsigned)));
        // Signs of value and of state to the input; a state of 0 must not clear it.
        let codes = x::_mm256_sign_epi8(codes, x::_mm256_or_si256(states, x::_mm256_set1_epi8(1)));
        let codes = x::_mm256_sign_epi8(codes, values);
        // Two products of at most 127 * 127 fit 16 bits.
        let pairs = x::_mm256_maddubs_epi16(x::_mm256_abs_epi8(values), codes);
        x::_mm256_madd_epi16(pairs, x::_mm256_set1_epi16(1))
    }
}

/// `sums[r] += sum over columns c of value(r, c) x[c]` for a strip of whole
/// tiles of windows of 8 bits.
///
/// # Safety
/// The CPU has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn product(
    trellis: Trellis,
    table: &[i8],
    tiles: &[u8],
    x: &Rotated,
    sums: &mut [f32; SIDE],
) {
    let reader = Reader::new(trellis, table);
    // SAFETY: `sums` has 16 floats.
    let mut acc = unsafe { [x::_mm256_loadu_ps(sums.as_ptr()), x::_mm256_loadu_ps(sums.as_ptr().add(8))] };
    let size = trellis.bytes();
    let blocks = x.codes.as_chunks::<SCALED>().0.iter().zip(&x.scales);
    for (i, (codes, scale)) in blocks.enumerate() {
        // From two tiles on, so that loads may reach beyond a tile.
        let Some(pair) = tiles.get(2 * size * i..).filter(|t| !t.is_empty()) else { break };
        let mut dots = [x::_mm256_setzero_si256(); 2];
        for (codes, rest) in
            codes.as_chunks::<SIDE>().0.iter().zip([pair, pair.get(size..).unwrap_or_default()])
        {
            let (Some(tile), Some(first)) = (rest.get(..size), rest.first_chunk::<16>()) else { break };
            // The tile's last bytes, and its first ones behind them.
            let mut lap = [0; 48];
            if let Some(last) = tile.last_chunk::<32>() {
                lap[..32].copy_from_slice(last);
                lap[32..].copy_from_slice(first);
            }
            for (c, codes) in codes.as_chunks::<4>().0.iter().enumerate() {
                for (half, dots) in dots.iter_mut().enumerate() {
                    let block = 2 * c + half;
                    let at = reader.rate * block / 2;
                    let direct = rest.get(at..).filter(|_| block < 7).and_then(|s| s.first_chunk());
                    let lapped = || lap.get(at + 32 - size..).and_then(|s| s.first_chunk());
                    if let Some(stored) = direct.or_else(lapped) {
                        let states = reader.states(stored, block);
                        *dots = x::_mm256_add_epi32(*dots, reader.dots(states, *codes));
                    }
                }
            }
        }
        for (acc, dots) in acc.iter_mut().zip(dots) {
            *acc = x::_mm256_fmadd_ps(x::_mm256_set1_ps(*scale), x::_mm256_cvtepi32_ps(dots), *acc);
        }
    }
    // SAFETY: `sums` has 16 floats.
    unsafe {
        x::_mm256_storeu_ps(sums.as_mut_ptr(), acc[0]);
        x::_mm256_storeu_ps(sums.as_mut_ptr().add(8), acc[1]);
    }
}
