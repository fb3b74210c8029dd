//! AVX2 kernels; products of the 8-bit precision by `maddubs`, which
//! multiplies unsigned by signed bytes and adds neighbours in 16 bits.
#![allow(unsafe_code)] // x86 intrinsics, sound as x86.rs explains
#![allow(clippy::wildcard_imports, reason = "intrinsics")]

use super::Rows;
use super::halves::{self, Products};
use super::x86::{self, Dots, load_32};
use crate::codec::activation::{Activation, Precision};
use crate::codec::integer::Layout;
use std::arch::x86_64::*;

/// Rows of codes of `B` bits times `x`; `false` if the layout has no kernel here. The CPU must
/// have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn integer<const B: u32>(
    layout: Layout,
    x: &Activation<'_>,
    rows: Rows<'_>,
    y: &mut [f32],
) -> bool {
    let whole = B == 4
        && match x.precision() {
            Precision::Q8 => x86::int4_q8::<Maddubs>(layout, x, rows, y),
            Precision::F32 => x86::int4_f32(layout, x, rows, y),
        };
    whole || halves::integer::<Maddubs, B>(layout, x, rows, y)
}

/// Q8 rows times `x`. The CPU must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q8(scale_bytes: usize, x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) {
    match x.precision() {
        Precision::Q8 => x86::q8_q8::<Maddubs>(scale_bytes, x.quantized(), rows, y),
        Precision::F32 => x86::q8_f32(scale_bytes, x.x(), rows, y),
    }
}

/// Dot product of IEEE halves with floats. The CPU must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn dot_f16(halves: &[u8], x: &[f32]) -> f32 {
    x86::dot_f16(halves, x)
}

struct Maddubs;

impl Dots for Maddubs {
    #[inline(always)]
    fn int4(codes: &[u8], paired: &[i8; 256]) -> __m256i {
        // SAFETY: only called from this file's entry points; all loads are of
        // 32-byte parts of the arrays.
        unsafe {
            let low = _mm256_set1_epi8(15);
            let mut products = [_mm256_setzero_si256(); 4];
            let pairs = codes.as_chunks::<32>().0.iter().zip(paired.as_chunks::<64>().0);
            for (product, (codes, x)) in products.iter_mut().zip(pairs) {
                let codes = load_32(codes);
                let first = _mm256_loadu_si256(x.as_ptr().cast());
                let second = _mm256_loadu_si256(x.as_ptr().add(32).cast());
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), low);
                *product = _mm256_add_epi16(
                    _mm256_maddubs_epi16(_mm256_and_si256(codes, low), first),
                    _mm256_maddubs_epi16(high, second),
                );
            }
            // A product sum is at most 4 * 15 * 127 = 7620, so two rounds of
            // horizontal adds stay below 2^15; the third widens.
            let [a, b, c, d] = products;
            let sums = _mm256_hadd_epi16(_mm256_hadd_epi16(a, b), _mm256_hadd_epi16(c, d));
            _mm256_madd_epi16(sums, _mm256_set1_epi16(1))
        }
    }

    #[inline(always)]
    fn q8(codes: &[u8; 32], x: &[i8; 32]) -> __m256i {
        // SAFETY: only called from this file's entry points; loads of 32 bytes.
        unsafe {
            let (w, x) = (load_32(codes), _mm256_loadu_si256(x.as_ptr().cast()));
            // |w| (up to 128, unsigned) times x with w's sign; two products of at
            // most 128 * 127 fit 16 bits.
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
            _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
        }
    }
}

impl Products for Maddubs {
    #[inline(always)]
    fn add(sums: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        // SAFETY: only called from this file's entry points.
        unsafe { _mm256_add_epi16(sums, _mm256_maddubs_epi16(codes, x)) }
    }

    #[inline(always)]
    fn quads(sums: __m256i) -> __m256i {
        // SAFETY: only called from this file's entry points.
        unsafe { _mm256_madd_epi16(sums, _mm256_set1_epi16(1)) }
    }
}
