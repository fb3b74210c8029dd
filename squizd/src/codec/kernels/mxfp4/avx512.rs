//! AVX-512. With 8-bit inputs, codes become unsigned bytes, elements doubled and
//! raised by 12, which VNNI's `dpbusd` multiplies with signed ones; twelve times
//! the inputs' sum is taken off again as an integer, so the products are exact.
//! In floats, one look-up in a register of 16 numbers gives an element.
#![allow(unsafe_code)] // x86 intrinsics
#![allow(clippy::wildcard_imports, reason = "intrinsics")]

use super::super::Rows;
use super::whole_groups;
use super::x86::{Products, look_up, q8_rows};
use crate::codec::activation::{Activation, Octet};
use crate::codec::mxfp4::{DOUBLED, half_scale};
use std::arch::x86_64::*;

/// What makes the doubled elements non-negative.
const RAISE: i8 = 12;

/// Doubled elements, raised.
const RAISED: [i8; 16] = {
    let mut raised = DOUBLED;
    let mut i = 0;
    while i < 16 {
        raised[i] += RAISE;
        i += 1;
    }
    raised
};

/// Doubled elements.
const FLOATS: [f32; 16] = {
    let mut floats = [0.0; 16];
    let mut i = 0;
    while i < 16 {
        floats[i] = DOUBLED[i] as f32;
        i += 1;
    }
    floats
};

/// Rows times the 8-bit form of `x`. The CPU must have what
/// [`crate::simd::Level::Avx512`] asks for.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn q8(x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) {
    q8_rows::<Vnni>(x, rows, y);
}

struct Vnni;

impl Products for Vnni {
    // Registers of 32 bytes: with those of 64, the rest of the work would have
    // one port less.
    #[inline(always)]
    fn of(codes: __m256i, first: __m256i, second: __m256i) -> __m256i {
        let (low, high) = look_up(&RAISED, codes);
        // SAFETY: only called from this file's entry points.
        unsafe { _mm256_dpbusd_epi32(_mm256_dpbusd_epi32(_mm256_setzero_si256(), low, first), high, second) }
    }

    #[inline(always)]
    fn dots([a, b, c, d]: [__m256i; 4], x: &Octet) -> __m256i {
        // SAFETY: only called from this file's entry points; 32 readable bytes.
        unsafe {
            let raised = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
            let halves = _mm256_loadu_si256(x.codes.as_ptr().cast());
            _mm256_sub_epi32(raised, _mm256_madd_epi16(halves, _mm256_set1_epi16(i16::from(RAISE))))
        }
    }
}

/// Rows times the floats of `x`. The CPU must have what
/// [`crate::simd::Level::Avx512`] asks for.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn f32(x: &[f32], rows: Rows<'_>, y: &mut [f32]) {
    let (groups, tail) = whole_groups(x);
    // SAFETY: 64 readable bytes.
    let table = unsafe { _mm512_loadu_ps(FLOATS.as_ptr()) };
    for (y, (codes, scales)) in y.iter_mut().zip(rows.iter()) {
        let mut acc = [_mm512_setzero_ps(); 2];
        for (i, (codes, s)) in codes.as_chunks::<16>().0.iter().zip(scales).enumerate() {
            let x = groups.get(i).unwrap_or(&tail);
            // SAFETY: 16 readable bytes, and both halves of 128.
            let (codes, first, second) = unsafe {
                let codes = _mm_loadu_si128(codes.as_ptr().cast());
                (codes, _mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16)))
            };
            // The look-up takes the low four bits of each lane and no others.
            let codes = _mm512_cvtepu8_epi32(codes);
            let low = _mm512_permutexvar_ps(codes, table);
            let high = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(codes), table);
            let dot = _mm512_fmadd_ps(high, second, _mm512_mul_ps(low, first));
            acc[i % 2] = _mm512_fmadd_ps(_mm512_set1_ps(half_scale(*s)), dot, acc[i % 2]);
        }
        *y = _mm512_reduce_add_ps(_mm512_add_ps(acc[0], acc[1]));
    }
}
