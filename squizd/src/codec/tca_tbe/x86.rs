//! AVX2 with BMI2. Levels above it use the same code: it is bound by memory.
//!
//! Every function is `#[inline(always)]` into entry points compiled for these
//! features (see [`super::dispatch`]), which run only where the CPU has them.
#![allow(unsafe_code)] // x86 intrinsics, whose features the entry points have

use super::decode::{Lanes, Plain};
use super::payload::SUPERBLOCK;
use std::arch::x86_64::*;

/// AVX2, BMI and POPCNT.
pub(super) struct Avx2;

/// `a & mask | (b & mask) << n` for a byte-wise mask that clears what crosses.
macro_rules! merge {
    ($a:expr, $b:expr, $mask:expr, $n:literal) => {
        _mm256_or_si256(_mm256_and_si256($a, $mask), _mm256_slli_epi16::<$n>(_mm256_and_si256($b, $mask)))
    };
}

/// The same for the bits that `mask` leaves out, moved down by `n`.
macro_rules! merge_high {
    ($a:expr, $b:expr, $mask:expr, $n:literal) => {
        _mm256_or_si256(
            _mm256_and_si256(_mm256_srli_epi16::<$n>($a), $mask),
            _mm256_andnot_si256($mask, $b),
        )
    };
}

impl Lanes for Avx2 {
    /// A transposition in three steps: pairs of planes into 2-bit fields, these
    /// into nibbles, nibbles into bytes; the shuffle is the table look-up.
    #[inline(always)]
    fn expand<const P: usize>(planes: [&[u8]; P], table: &[u8; 16], e: &mut [u8; SUPERBLOCK]) {
        let width = planes.iter().map(|p| p.len()).min().unwrap_or(0);
        if width < 32 || width > SUPERBLOCK / 8 || !(3..=4).contains(&P) {
            return Plain::expand(planes, table, e);
        }
        let mut at = 0;
        loop {
            // SAFETY: the CPU has AVX2 (see the module's comment). Every plane
            // has at least `at + 32` bytes, and `e` has `8 * width` of them.
            unsafe {
                let (fives, threes) = (_mm256_set1_epi8(0x55), _mm256_set1_epi8(0x33));
                let nibble = _mm256_set1_epi8(0x0f);
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                let load = |k: usize| {
                    planes.get(k).map_or(_mm256_setzero_si256(), |p| {
                        _mm256_loadu_si256(p.as_ptr().add(at).cast())
                    })
                };
                let (p0, p1, p2, p3) = (load(0), load(1), load(2), load(3));
                let (even01, odd01) = (merge!(p0, p1, fives, 1), merge_high!(p0, p1, fives, 1));
                let (even23, odd23) = (merge!(p2, p3, fives, 1), merge_high!(p2, p3, fives, 1));
                // Low nibbles are bits 0, 1, 2, 3 of the planes, high ones 4, 5, 6, 7.
                let nibbles = [
                    merge!(even01, even23, threes, 2),
                    merge!(odd01, odd23, threes, 2),
                    merge_high!(even01, even23, threes, 2),
                    merge_high!(odd01, odd23, threes, 2),
                ];
                let out = e.as_mut_ptr().add(at);
                for (bit, n) in nibbles.into_iter().enumerate() {
                    let low = _mm256_and_si256(n, nibble);
                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(n), nibble);
                    _mm256_storeu_si256(out.add(bit * width).cast(), _mm256_shuffle_epi8(table, low));
                    _mm256_storeu_si256(out.add((bit + 4) * width).cast(), _mm256_shuffle_epi8(table, high));
                }
            }
            if at + 32 >= width {
                return;
            }
            // The last step overlaps the one before where 32 does not divide.
            at = (at + 32).min(width - 32);
        }
    }

    #[inline(always)]
    fn deposit(bits: u64, mask: u64) -> u64 {
        // SAFETY: the CPU has BMI2 (see the module's comment).
        unsafe { _pdep_u64(bits, mask) }
    }

    #[inline(always)]
    fn bf16(signs: &[u8], exponents: &[u8], out: &mut [u16], stream: bool) {
        let (s, s_rest) = signs.as_chunks::<32>();
        let (e, e_rest) = exponents.as_chunks::<32>();
        let stream = stream && out.as_ptr().addr().is_multiple_of(32);
        let (o, o_rest) = out.as_chunks_mut::<32>();
        for ((s, e), o) in s.iter().zip(e).zip(o) {
            // SAFETY: the CPU has AVX2 (see the module's comment); 32 bytes of
            // `s` and `e`, 64 of `o`, aligned to 32 where streamed.
            unsafe {
                let keep = _mm256_set1_epi16(0x807f_u16.cast_signed());
                let half = |at: usize| {
                    let s = _mm256_cvtepi8_epi16(_mm_loadu_si128(s.as_ptr().add(at).cast()));
                    let e = _mm256_cvtepu8_epi16(_mm_loadu_si128(e.as_ptr().add(at).cast()));
                    _mm256_or_si256(_mm256_and_si256(s, keep), _mm256_slli_epi16::<7>(e))
                };
                let (a, b) = (half(0), half(16));
                let to: *mut __m256i = o.as_mut_ptr().cast();
                if stream {
                    _mm256_stream_si256(to, a);
                    _mm256_stream_si256(to.add(1), b);
                } else {
                    _mm256_storeu_si256(to, a);
                    _mm256_storeu_si256(to.add(1), b);
                }
            }
        }
        Plain::bf16(s_rest, e_rest, o_rest, false);
    }

    #[inline(always)]
    fn dot(signs: &[u8], exponents: &[u8], x: &[f32]) -> f32 {
        let ((s, s_rest), (e, e_rest)) = (signs.as_chunks::<32>(), exponents.as_chunks::<32>());
        let (x, x_rest) = x.as_chunks::<32>();
        // SAFETY: the CPU has AVX2 and FMA (see the module's comment); 32
        // bytes of `s` and `e` and 32 floats of `x` per step.
        let sum = unsafe {
            let mut acc = [_mm256_setzero_ps(); 4];
            let keep = _mm256_set1_epi32(0x807f_0000_u32.cast_signed());
            for ((s, e), x) in s.iter().zip(e).zip(x) {
                for (l, acc) in acc.iter_mut().enumerate() {
                    let s = _mm256_cvtepi8_epi32(_mm_loadl_epi64(s.as_ptr().add(8 * l).cast()));
                    let e = _mm256_cvtepu8_epi32(_mm_loadl_epi64(e.as_ptr().add(8 * l).cast()));
                    let sign = _mm256_and_si256(_mm256_slli_epi32::<16>(s), keep);
                    let w = _mm256_or_si256(sign, _mm256_slli_epi32::<23>(e));
                    let x = _mm256_loadu_ps(x.as_ptr().add(8 * l));
                    *acc = _mm256_fmadd_ps(_mm256_castsi256_ps(w), x, *acc);
                }
            }
            let [a, b, c, d] = acc;
            let sum = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
            let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        };
        sum + Plain::dot(s_rest, e_rest, x_rest)
    }

    #[inline(always)]
    fn prefetch(bytes: &[u8]) {
        for line in bytes.chunks(64) {
            // SAFETY: the CPU has SSE; a prefetch never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) }
        }
    }
}

/// Waits for streamed stores, so that other threads see them.
pub(super) fn fence() {
    // SAFETY: the CPU has SSE.
    unsafe { _mm_sfence() }
}
