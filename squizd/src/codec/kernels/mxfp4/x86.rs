//! The row loop of 8-bit inputs that the x86 levels share, and AVX2: codes become
//! signed bytes by one table look-up (`pshufb`) each.
//!
//! What is `#[inline(always)]` here is inlined into the entry points of this file
//! and of [`super::avx512`], which are compiled for at least AVX2, FMA and F16C and
//! run only where the CPU has them; that is what makes the intrinsics sound.
#![allow(unsafe_code)] // x86 intrinsics
#![allow(clippy::wildcard_imports, reason = "intrinsics")]

use super::super::Rows;
use super::super::x86::{load_32, load_octet, padded, sum};
use super::whole_groups;
use crate::codec::activation::{Activation, Octet};
use crate::codec::mxfp4::{DOUBLED, half_scale};
use std::arch::x86_64::*;

/// Integer products of a level.
pub(super) trait Products {
    /// Sums of products of 32 bytes of codes, two groups, with the paired codes of
    /// `x` for their low and high nibbles: within each half of the register, of one
    /// group.
    fn of(codes: __m256i, first: __m256i, second: __m256i) -> __m256i;

    /// Dot products of doubled elements, in [`super::super::PAIR_ORDER`], from the
    /// sums of an octet's four pairs of groups.
    fn dots(sums: [__m256i; 4], x: &Octet) -> __m256i;
}

/// Rows times the 8-bit form of `x`.
#[inline(always)]
pub(super) fn q8_rows<P: Products>(x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) {
    let paired = x.quantized().paired.as_chunks::<256>().0;
    for (y, (codes, scales)) in y.iter_mut().zip(rows.iter()) {
        // SAFETY: see the module's comment.
        let mut acc = unsafe { _mm256_setzero_ps() };
        let octets = codes.chunks(128).zip(scales.chunks(8)).zip(paired.iter().zip(x.octets()));
        for ((codes, stored), (paired, x)) in octets {
            let sums = match codes.first_chunk() {
                Some::<&[u8; 128]>(whole) => each_pair::<P>(whole, paired),
                None => each_pair::<P>(codes, paired),
            };
            // SAFETY: see the module's comment.
            acc = unsafe {
                let scale = _mm256_mul_ps(half_scales(padded(stored)), load_octet(&x.scales));
                _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(P::dots(sums, x)), acc)
            };
        }
        *y = sum(acc);
    }
}

/// The products of each pair in up to an octet of groups.
#[inline(always)]
fn each_pair<P: Products>(codes: &[u8], paired: &[i8; 256]) -> [__m256i; 4] {
    // SAFETY: see the module's comment.
    let mut sums = [unsafe { _mm256_setzero_si256() }; 4];
    let (whole, rest) = codes.as_chunks::<32>();
    let inputs = paired.as_chunks::<64>().0;
    for (sum, (codes, x)) in sums.iter_mut().zip(whole.iter().zip(inputs)) {
        *sum = pair::<P>(codes, x);
    }
    if !rest.is_empty()
        && let (Some(sum), Some(x)) = (sums.get_mut(whole.len()), inputs.get(whole.len()))
    {
        *sum = pair::<P>(&padded(rest), x);
    }
    sums
}

#[inline(always)]
fn pair<P: Products>(codes: &[u8; 32], x: &[i8; 64]) -> __m256i {
    // SAFETY: see the module's comment; two halves of 64 readable bytes.
    let (first, second) =
        unsafe { (_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(32).cast())) };
    P::of(load_32(codes), first, second)
}

/// What a look-up finds by low and by high nibbles of 32 bytes.
#[inline(always)]
pub(super) fn look_up(table: &[i8; 16], codes: __m256i) -> (__m256i, __m256i) {
    // SAFETY: see the module's comment; 16 readable bytes.
    unsafe {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        let nibble = _mm256_set1_epi8(15);
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble);
        let low = _mm256_and_si256(codes, nibble);
        (_mm256_shuffle_epi8(table, low), _mm256_shuffle_epi8(table, high))
    }
}

/// Halved scales of an octet's bytes, in [`super::super::PAIR_ORDER`].
#[inline(always)]
fn half_scales(stored: [u8; 8]) -> __m256 {
    const ORDER: i64 = i64::from_le_bytes([0, 2, 4, 6, 1, 3, 5, 7]);
    // SAFETY: see the module's comment.
    unsafe {
        let stored = _mm_cvtsi64_si128(i64::from_le_bytes(stored));
        let bytes = _mm256_cvtepu8_epi32(_mm_shuffle_epi8(stored, _mm_cvtsi64_si128(ORDER)));
        // 2^(s - 127) by its exponent field; byte 0 is the subnormal 2^-127 and
        // 255 a NaN, made of infinity by one mantissa bit.
        let half = _mm256_set1_epi32(0x0040_0000);
        let powers = _mm256_max_epi32(_mm256_slli_epi32::<23>(bytes), half);
        let nan = _mm256_and_si256(_mm256_cmpeq_epi32(bytes, _mm256_set1_epi32(255)), half);
        _mm256_mul_ps(_mm256_castsi256_ps(_mm256_or_si256(powers, nan)), _mm256_set1_ps(0.5))
    }
}

/// Rows times the 8-bit form of `x`. The CPU must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q8(x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) {
    q8_rows::<Maddubs>(x, rows, y);
}

struct Maddubs;

impl Products for Maddubs {
    #[inline(always)]
    fn of(codes: __m256i, first: __m256i, second: __m256i) -> __m256i {
        let (low, high) = look_up(&DOUBLED, codes);
        // SAFETY: see the module's comment.
        unsafe {
            // maddubs wants one factor unsigned: |w| times x with w's sign.
            _mm256_add_epi16(
                _mm256_maddubs_epi16(_mm256_abs_epi8(low), _mm256_sign_epi8(first, low)),
                _mm256_maddubs_epi16(_mm256_abs_epi8(high), _mm256_sign_epi8(second, high)),
            )
        }
    }

    #[inline(always)]
    fn dots([a, b, c, d]: [__m256i; 4], _: &Octet) -> __m256i {
        // SAFETY: see the module's comment.
        unsafe {
            // A product sum is at most 4 * 12 * 127 = 6096, so two rounds of
            // horizontal adds stay below 2^15; the third widens.
            let sums = _mm256_hadd_epi16(_mm256_hadd_epi16(a, b), _mm256_hadd_epi16(c, d));
            _mm256_madd_epi16(sums, _mm256_set1_epi16(1))
        }
    }
}

/// Rows times the floats of `x`. The CPU must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn f32(x: &[f32], rows: Rows<'_>, y: &mut [f32]) {
    let (groups, tail) = whole_groups(x);
    let low = _mm_set1_epi8(15);
    // SAFETY: 16 readable bytes.
    let table = unsafe { _mm_loadu_si128(DOUBLED.as_ptr().cast()) };
    for (y, (codes, scales)) in y.iter_mut().zip(rows.iter()) {
        let mut acc = _mm256_setzero_ps();
        for (i, (codes, s)) in codes.as_chunks::<16>().0.iter().zip(scales).enumerate() {
            // SAFETY: 16 readable bytes.
            let codes = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
            let halves = [
                _mm_shuffle_epi8(table, _mm_and_si128(codes, low)),
                _mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16::<4>(codes), low)),
            ];
            let x = groups.get(i).unwrap_or(&tail).as_chunks::<16>().0;
            let mut dot = _mm256_setzero_ps();
            for (q, x) in halves.into_iter().zip(x) {
                for (q, x) in [q, _mm_srli_si128::<8>(q)].into_iter().zip(x.as_chunks::<8>().0) {
                    let q = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q));
                    dot = _mm256_fmadd_ps(q, load_octet(x), dot);
                }
            }
            acc = _mm256_fmadd_ps(_mm256_set1_ps(half_scale(*s)), dot, acc);
        }
        *y = sum(acc);
    }
}
