//! AVX2: codes become signed bytes by one table look-up (`pshufb`) each.
#![allow(unsafe_code)] // loads through pointers
#![allow(clippy::wildcard_imports, reason = "intrinsics")]

use super::super::Rows;
use super::super::x86::{load_32, load_octet, padded, sum};
use super::whole_groups;
use crate::codec::activation::Activation;
use crate::codec::mxfp4::{DOUBLED, half_scale};
use std::arch::x86_64::*;

/// Rows times the 8-bit form of `x`. The CPU must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q8(x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) {
    let paired = x.quantized().paired.as_chunks::<256>().0;
    for (y, (codes, scales)) in y.iter_mut().zip(rows.iter()) {
        let mut acc = _mm256_setzero_ps();
        let octets = codes.chunks(128).zip(scales.chunks(8)).zip(paired.iter().zip(x.octets()));
        for ((codes, stored), (paired, x)) in octets {
            let dots = match codes.first_chunk() {
                Some::<&[u8; 128]>(whole) => dots(whole, paired),
                None => dots(codes, paired),
            };
            let scale = _mm256_mul_ps(half_scales(padded(stored)), load_octet(&x.scales));
            acc = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dots), acc);
        }
        *y = sum(acc);
    }
}

/// Twice the elements of the codes, for a look-up by nibbles.
#[inline(always)]
fn table() -> __m128i {
    // SAFETY: only called from entry points compiled for at least AVX2; 16
    // readable bytes.
    unsafe { _mm_loadu_si128(DOUBLED.as_ptr().cast()) }
}

/// Integer products of a level.
pub(super) trait Products {
    /// Sums of products of 32 bytes of codes, two groups, with the paired codes of
    /// `x` for their low and high nibbles: within each half of the register, of one
    /// group.
    fn of(codes: __m256i, first: __m256i, second: __m256i) -> __m256i;
}

/// The products of each pair in up to an octet of groups.
#[inline(always)]
pub(super) fn each_pair<P: Products>(codes: &[u8], paired: &[i8; 256]) -> [__m256i; 4] {
    #[inline(always)]
    fn pair<P: Products>(codes: &[u8; 32], x: &[i8; 64]) -> __m256i {
        // SAFETY: only called from entry points compiled for at least AVX2; two
        // halves of 64 readable bytes.
        let (first, second) =
            unsafe { (_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(32).cast())) };
        P::of(load_32(codes), first, second)
    }
    // SAFETY: as above.
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

struct Maddubs;

impl Products for Maddubs {
    #[inline(always)]
    fn of(codes: __m256i, first: __m256i, second: __m256i) -> __m256i {
        // SAFETY: only called from this file's entry points.
        unsafe {
            let (table, nibble) = (_mm256_broadcastsi128_si256(table()), _mm256_set1_epi8(15));
            let low = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, nibble));
            let high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16::<4>(codes), nibble));
            // maddubs wants one factor unsigned: |w| times x with w's sign.
            _mm256_add_epi16(
                _mm256_maddubs_epi16(_mm256_abs_epi8(low), _mm256_sign_epi8(first, low)),
                _mm256_maddubs_epi16(_mm256_abs_epi8(high), _mm256_sign_epi8(second, high)),
            )
        }
    }
}

/// Dot products of up to an octet of groups with paired codes of `x`, in
/// [`super::super::PAIR_ORDER`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots(codes: &[u8], paired: &[i8; 256]) -> __m256i {
    let [a, b, c, d] = each_pair::<Maddubs>(codes, paired);
    // A product sum is at most 4 * 12 * 127 = 6096, so two rounds of horizontal
    // adds stay below 2^15; the third widens.
    let sums = _mm256_hadd_epi16(_mm256_hadd_epi16(a, b), _mm256_hadd_epi16(c, d));
    _mm256_madd_epi16(sums, _mm256_set1_epi16(1))
}

/// Halved scales of an octet's bytes, in [`super::super::PAIR_ORDER`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn half_scales(stored: [u8; 8]) -> __m256 {
    const ORDER: i64 = i64::from_le_bytes([0, 2, 4, 6, 1, 3, 5, 7]);
    let stored = _mm_cvtsi64_si128(i64::from_le_bytes(stored));
    let bytes = _mm256_cvtepu8_epi32(_mm_shuffle_epi8(stored, _mm_cvtsi64_si128(ORDER)));
    // 2^(s - 127) by its exponent field; byte 0 is the subnormal 2^-127 and
    // 255 a NaN, made of infinity by one mantissa bit.
    let half = _mm256_set1_epi32(0x0040_0000);
    let powers = _mm256_max_epi32(_mm256_slli_epi32::<23>(bytes), half);
    let nan = _mm256_and_si256(_mm256_cmpeq_epi32(bytes, _mm256_set1_epi32(255)), half);
    _mm256_mul_ps(_mm256_castsi256_ps(_mm256_or_si256(powers, nan)), _mm256_set1_ps(0.5))
}

/// Rows times the floats of `x`. The CPU must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn f32(x: &[f32], rows: Rows<'_>, y: &mut [f32]) {
    let (groups, tail) = whole_groups(x);
    let low = _mm_set1_epi8(15);
    for (y, (codes, scales)) in y.iter_mut().zip(rows.iter()) {
        let mut acc = _mm256_setzero_ps();
        for (i, (codes, s)) in codes.as_chunks::<16>().0.iter().zip(scales).enumerate() {
            // SAFETY: 16 readable bytes.
            let codes = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
            let halves = [
                _mm_shuffle_epi8(table(), _mm_and_si128(codes, low)),
                _mm_shuffle_epi8(table(), _mm_and_si128(_mm_srli_epi16::<4>(codes), low)),
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
