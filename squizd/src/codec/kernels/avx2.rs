//! AVX2 kernels; products of the 8-bit precision by `maddubs`, which
//! multiplies unsigned by signed bytes and adds neighbours in 16 bits.
#![allow(unsafe_code)] // x86 intrinsics, sound as x86.rs explains
#![allow(clippy::wildcard_imports, reason = "intrinsics")]

use super::fine::HalfDots;
use super::fours;
use super::halves::{self, Planes, Products};
use super::x86::{self, Dots, load_32};
use super::{OCTET, Rows};
use crate::codec::activation::{Activation, Octet, Precision};
use crate::codec::integer::{Fine, Layout};
use std::arch::x86_64::*;

/// Rows of codes of `B` bits times `x`; `false` if the layout has no kernel
/// here. The CPU must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn integer<const B: u32>(
    layout: Layout,
    x: &Activation<'_>,
    rows: Rows<'_>,
    y: &mut [f32],
) -> bool {
    match x.precision() {
        Precision::Q8 => {
            (B == 4 && int4_q8(layout, x, rows, y)) || halves::by_q8::<Maddubs, B>(layout, x, rows, y)
        }
        Precision::F32 => {
            (B == 4 && x86::int4_f32(layout, x, rows, y)) || halves::by_f32::<B>(layout, x, rows, y)
        }
    }
}

#[inline(always)]
fn int4_q8(layout: Layout, x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) -> bool {
    match layout {
        Layout::Fine(fine) => fours::rows(fine, x, rows, y),
        _ => x86::int4_q8::<Maddubs>(layout, x, rows, y),
    }
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

impl HalfDots for Maddubs {
    #[inline(always)]
    fn two_rows<const B: u32>(
        _: Fine,
        _: [&[u8]; 2],
        _: [&[u8]; 2],
        _: &[[i8; OCTET]],
        _: &[Octet],
    ) -> ([__m256; 2], usize) {
        // SAFETY: only called from this file's entry points.
        ([unsafe { _mm256_setzero_ps() }; 2], 0)
    }

    #[inline(always)]
    fn dots<const B: u32>(codes: Planes<'_>, x: &[i8; OCTET]) -> __m256i {
        // SAFETY: only called from this file's entry points; all loads are of
        // 32-byte arrays.
        unsafe {
            if B < 4 {
                let [[a, b], [c, d]] = halves::pair_sums::<Self, B>(codes, x);
                let sums = _mm256_hadd_epi16(_mm256_hadd_epi16(a, c), _mm256_hadd_epi16(b, d));
                // First halves of two blocks, then second halves: side by side.
                let order = _mm256_broadcastsi128_si256(_mm_setr_epi8(
                    0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15,
                ));
                return halves::sort_fours(_mm256_shuffle_epi8(sums, order));
            }
            let mut sums = [_mm256_setzero_si256(); 4];
            let pairs = codes.low.as_chunks::<32>().0.iter().zip(x.as_chunks::<64>().0);
            for (sum, (codes, x)) in sums.iter_mut().zip(pairs) {
                *sum = fours::pair(codes, x);
            }
            fours::halves(sums)
        }
    }
}
