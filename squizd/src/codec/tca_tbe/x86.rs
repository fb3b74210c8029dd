//! AVX2 with BMI2. Levels above it use the same code: it is bound by memory.
//!
//! Every function is `#[inline(always)]` into entry points compiled for these
//! features (see [`super::dispatch`]), which run only where the CPU has them.
#![allow(unsafe_code)] // x86 intrinsics, whose features the entry points have

use super::decode::{Exponents, Lanes, Plain, RUN};
use super::payload::PLANE;
#[allow(clippy::wildcard_imports, reason = "a page of intrinsics")]
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
        _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16::<$n>($a), $mask), _mm256_andnot_si256($mask, $b))
    };
}

/// Starts loading the `i`th of 32 parts of `ahead`: all at once, they would
/// fill the queue of outstanding loads.
#[inline(always)]
fn prefetch(ahead: &[u8], i: usize) {
    let part = ahead.as_ptr().wrapping_add(i * (ahead.len() / 32));
    // SAFETY: the CPU has SSE; a prefetch never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(part.cast()) }
}

/// 32 bfloat16s.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn words(signs: &[u8; 32], exponents: &[u8; 32]) -> [__m256i; 2] {
    let half = |at: usize| {
        // SAFETY: the caller's promise; 16 bytes from 0 or 16 of 32.
        unsafe {
            let s = _mm256_cvtepi8_epi16(_mm_loadu_si128(signs.as_ptr().add(at).cast()));
            let e = _mm256_cvtepu8_epi16(_mm_loadu_si128(exponents.as_ptr().add(at).cast()));
            let keep = _mm256_set1_epi16(0x807f_u16.cast_signed());
            _mm256_or_si256(_mm256_and_si256(s, keep), _mm256_slli_epi16::<7>(e))
        }
    };
    [half(0), half(16)]
}

impl Lanes for Avx2 {
    /// A transposition in three steps: pairs of planes into 2-bit fields, these
    /// into nibbles, nibbles into bytes; the shuffle is the table look-up.
    #[inline(always)]
    fn expand<const P: usize>(planes: [&[u8]; P], table: &[u8; 16], e: &mut Exponents) {
        let width = planes.iter().map(|p| p.len()).min().unwrap_or(0);
        if !(32..=PLANE).contains(&width) || !(3..=4).contains(&P) {
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
                    planes
                        .get(k)
                        .map_or(_mm256_setzero_si256(), |p| _mm256_loadu_si256(p.as_ptr().add(at).cast()))
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
    fn look_up(packed: &[u8; 16], table: &[u8; 16], out: &mut [u8; 32]) {
        // SAFETY: the CPU has AVX2 (see the module's comment); 16 readable and
        // 32 writable bytes.
        unsafe {
            let nibble = _mm_set1_epi8(0x0f);
            let table = _mm_loadu_si128(table.as_ptr().cast());
            let packed = _mm_loadu_si128(packed.as_ptr().cast());
            let low = _mm_and_si128(packed, nibble);
            let high = _mm_and_si128(_mm_srli_epi16::<4>(packed), nibble);
            let to: *mut __m128i = out.as_mut_ptr().cast();
            _mm_storeu_si128(to, _mm_shuffle_epi8(table, _mm_unpacklo_epi8(low, high)));
            _mm_storeu_si128(to.add(1), _mm_shuffle_epi8(table, _mm_unpackhi_epi8(low, high)));
        }
    }

    #[inline(always)]
    fn deposit(bits: u64, mask: u64) -> u64 {
        // SAFETY: the CPU has BMI2 (see the module's comment).
        unsafe { _pdep_u64(bits, mask) }
    }

    #[inline(always)]
    fn bf16(signs: &[u8], exponents: &[u8], out: &mut [u16], stream: bool, ahead: &[u8]) {
        let (s, s_rest) = signs.as_chunks::<32>();
        let (e, e_rest) = exponents.as_chunks::<32>();
        // Half registers, as allocators align to 16 bytes.
        let stream = stream && out.as_ptr().addr().is_multiple_of(16);
        let (o, o_rest) = out.as_chunks_mut::<32>();
        for (i, ((s, e), o)) in s.iter().zip(e).zip(o).enumerate() {
            prefetch(ahead, i);
            // SAFETY: the CPU has AVX2 (see the module's comment); 32 bytes of
            // `s` and `e`, 64 of `o`, aligned to 16 where streamed.
            unsafe {
                let [a, b] = words(s, e);
                let to: *mut __m128i = o.as_mut_ptr().cast();
                if stream {
                    _mm_stream_si128(to, _mm256_castsi256_si128(a));
                    _mm_stream_si128(to.add(1), _mm256_extracti128_si256::<1>(a));
                    _mm_stream_si128(to.add(2), _mm256_castsi256_si128(b));
                    _mm_stream_si128(to.add(3), _mm256_extracti128_si256::<1>(b));
                } else {
                    _mm256_storeu_si256(to.cast(), a);
                    _mm256_storeu_si256(to.add(2).cast(), b);
                }
            }
        }
        Plain::bf16(s_rest, e_rest, o_rest, false, &[]);
    }

    /// In each 16 the quads 0, 2, 1, 3.
    #[inline(always)]
    fn arrange(x: &mut [f32]) {
        for x in x.as_chunks_mut::<RUN>().0.as_flattened_mut().as_chunks_mut::<16>().0 {
            let (low, high) = x.split_at_mut(8);
            low[4..].swap_with_slice(&mut high[..4]);
        }
    }

    #[inline(always)]
    fn dot(signs: &[u8], exponents: &[u8], x: &[f32], ahead: &[u8]) -> f32 {
        let ((s, s_rest), (e, e_rest)) = (signs.as_chunks::<RUN>(), exponents.as_chunks::<RUN>());
        let (x, x_rest) = x.as_chunks::<RUN>();
        // SAFETY: the CPU has AVX2 and FMA (see the module's comment); 32
        // bytes of `s` and `e` and 32 floats of `x` per step.
        let sum = unsafe {
            let mut acc = [_mm256_setzero_ps(); 4];
            let zero = _mm256_setzero_si256();
            for (i, ((s, e), x)) in s.iter().zip(e).zip(x).enumerate() {
                prefetch(ahead, i);
                let [a, b] = words(s, e);
                // Zeros below each word: the weights 0 to 3 and 8 to 11 of its
                // 16, then 4 to 7 and 12 to 15.
                let floats = [
                    _mm256_unpacklo_epi16(zero, a),
                    _mm256_unpackhi_epi16(zero, a),
                    _mm256_unpacklo_epi16(zero, b),
                    _mm256_unpackhi_epi16(zero, b),
                ];
                for (l, (acc, w)) in acc.iter_mut().zip(floats).enumerate() {
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
        sum + Plain::dot(s_rest, e_rest, x_rest, &[])
    }
}

/// Waits for streamed stores, so that other threads see them.
pub(super) fn fence() {
    // SAFETY: the CPU has SSE.
    unsafe { _mm_sfence() }
}
