//! Blocks times 8-bit inputs with AVX2, and with AVX-512 and VNNI.
//!
//! Everything here is `#[inline(always)]` into the entry points of
//! [`super::product`], which are compiled for a kernel's instructions and run
//! only where the CPU has them; that is what makes the intrinsics sound.
#![allow(unsafe_code, reason = "x86 intrinsics")]

use super::block::{BLOCK, mu};
use super::product::{Column, Inputs, Loops, Sums};
use crate::codec::integer::fit::top;
use std::arch::x86_64 as x;

/// AVX2 and FMA: 32 weights a register.
pub(super) struct Avx2;

/// AVX-512 F, BW, DQ, VL and VNNI: 64 weights a register.
pub(super) struct Avx512;

/// First bit of a group's scale in the word, for each four weights of a block;
/// its min lies three bits above.
const SCALES: [i32; 16] = [8, 8, 8, 8, 14, 14, 14, 14, 20, 20, 20, 20, 26, 26, 26, 26];
/// What brings the high bits of each four weights to bit 0.
const HIGH: [i32; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7];

/// A value for the first four weights of each group, zeros for the others.
#[inline(always)]
fn first_quads(values: &[f32; 4]) -> [f32; 16] {
    let mut out = [0.0; 16];
    for (out, value) in out.as_chunks_mut::<4>().0.iter_mut().zip(values) {
        out[0] = *value;
    }
    out
}

impl Avx2 {
    /// Codes of the `k`th 32 weights, in order.
    #[inline(always)]
    fn codes<const B: u32, const N: usize>(codes: &[u8; N], k: usize) -> x::__m256i {
        assert!(N == 8 * B as usize && k < 2);
        let at = codes.as_ptr();
        // SAFETY: see the module's comment. A half's low parts are 16 or 8 bytes
        // from 16 k or 8 k of the 32 or 16, its high bits 4 of the last 8.
        unsafe {
            let low = if B >= 4 {
                let bytes = x::_mm256_broadcastsi128_si256(x::_mm_loadu_si128(at.add(16 * k).cast()));
                let fields = x::_mm256_srlv_epi64(bytes, x::_mm256_setr_epi64x(0, 0, 4, 4));
                x::_mm256_and_si256(fields, x::_mm256_set1_epi8(15))
            } else {
                let bytes = x::_mm256_set1_epi64x(at.add(8 * k).cast::<i64>().read_unaligned());
                let fields = x::_mm256_srlv_epi64(bytes, x::_mm256_setr_epi64x(0, 2, 4, 6));
                x::_mm256_and_si256(fields, x::_mm256_set1_epi8(3))
            };
            if B.is_multiple_of(2) {
                return low;
            }
            let bits = x::_mm256_set1_epi32(at.add(N - 8 + 4 * k).cast::<i32>().read_unaligned());
            let bits = x::_mm256_srlv_epi32(bits, x::_mm256_loadu_si256(HIGH.as_ptr().cast()));
            let bits = x::_mm256_and_si256(bits, x::_mm256_set1_epi8(1));
            x::_mm256_or_si256(low, x::_mm256_sllv_epi32(bits, x::_mm256_set1_epi32(B as i32 - 1)))
        }
    }
}

impl Loops for Avx2 {
    #[inline(always)]
    fn coded<const B: u32, const N: usize>(
        column: Column<'_>,
        inputs: &Inputs<'_>,
        steps: &[f32; 256],
        sums: &mut [Sums],
    ) {
        let quads = first_quads(inputs.sums);
        for k in 0..2 {
            // SAFETY: see the module's comment; halves of 64 bytes and of 16 words.
            unsafe {
                let q = x::_mm256_loadu_si256(inputs.codes.as_ptr().add(32 * k).cast());
                let dx = x::_mm256_set1_ps(inputs.scales[k]);
                let sum = x::_mm256_loadu_ps(quads.as_ptr().add(8 * k));
                let minus = x::_mm256_mul_ps(sum, x::_mm256_set1_ps(-top(B) / 2.0));
                let min = x::_mm256_mul_ps(sum, x::_mm256_set1_ps(mu(B)));
                let middle = x::_mm256_mul_ps(min, x::_mm256_set1_ps(3.5));
                let scale_at = x::_mm256_loadu_si256(SCALES.as_ptr().add(8 * k).cast());
                let min_at = x::_mm256_add_epi32(scale_at, x::_mm256_set1_epi32(3));
                let seven = x::_mm256_set1_epi32(7);
                for ((codes, word), sums) in column.rows::<N>().zip(&mut *sums) {
                    // Two products of at most 31 * 128 fit 16 bits.
                    let pairs = x::_mm256_maddubs_epi16(Self::codes::<B, N>(codes, k), q);
                    let dots = x::_mm256_cvtepi32_ps(x::_mm256_madd_epi16(pairs, x::_mm256_set1_epi16(1)));
                    let product = x::_mm256_fmadd_ps(dots, dx, minus);
                    let words = x::_mm256_set1_epi32(word.cast_signed());
                    let field = |at| x::_mm256_and_si256(x::_mm256_srlv_epi32(words, at), seven);
                    let scale =
                        x::_mm256_cvtepi32_ps(x::_mm256_add_epi32(field(scale_at), x::_mm256_set1_epi32(6)));
                    let mins = x::_mm256_cvtepi32_ps(field(min_at));
                    let part = x::_mm256_fnmadd_ps(mins, min, x::_mm256_fmadd_ps(scale, product, middle));
                    let step = x::_mm256_set1_ps(steps[(word & 255) as usize]);
                    let to = sums.coded.as_mut_ptr().add(8 * k);
                    x::_mm256_storeu_ps(to, x::_mm256_fmadd_ps(step, part, x::_mm256_loadu_ps(to)));
                }
            }
        }
    }

    #[inline(always)]
    fn plain(column: Column<'_>, inputs: &Inputs<'_>, sums: &mut [Sums]) {
        for ((codes, _), sums) in column.rows::<{ 2 * BLOCK }>().zip(sums) {
            // SAFETY: see the module's comment; eight words and floats from
            // 16 j + 8 h of 64, of which 8 h of 16 sums.
            unsafe {
                for h in 0..2 {
                    let to = sums.plain.as_mut_ptr().add(8 * h);
                    let mut sum = x::_mm256_loadu_ps(to);
                    for j in 0..4 {
                        let at = 16 * j + 8 * h;
                        let words = x::_mm_loadu_si128(codes.as_ptr().add(2 * at).cast());
                        let floats = x::_mm256_slli_epi32::<16>(x::_mm256_cvtepu16_epi32(words));
                        let input = x::_mm256_loadu_ps(inputs.floats.as_ptr().add(at));
                        sum = x::_mm256_fmadd_ps(x::_mm256_castsi256_ps(floats), input, sum);
                    }
                    x::_mm256_storeu_ps(to, sum);
                }
            }
        }
    }
}

impl Avx512 {
    /// Codes of the block, in order.
    #[inline(always)]
    fn codes<const B: u32, const N: usize>(codes: &[u8; N]) -> x::__m512i {
        assert!(N == 8 * B as usize);
        let at = codes.as_ptr();
        // SAFETY: see the module's comment. Low parts are the first 32 or 16
        // bytes, high bits the last 8.
        unsafe {
            let low = if B >= 4 {
                let bytes = x::_mm512_castsi256_si512(x::_mm256_loadu_si256(at.cast()));
                let halves = x::_mm512_permutexvar_epi64(x::_mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3), bytes);
                let fields = x::_mm512_srlv_epi64(halves, x::_mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
                x::_mm512_and_si512(fields, x::_mm512_set1_epi8(15))
            } else {
                let bytes = x::_mm512_castsi128_si512(x::_mm_loadu_si128(at.cast()));
                let halves = x::_mm512_permutexvar_epi64(x::_mm512_setr_epi64(0, 0, 0, 0, 1, 1, 1, 1), bytes);
                let fields = x::_mm512_srlv_epi64(halves, x::_mm512_setr_epi64(0, 2, 4, 6, 0, 2, 4, 6));
                x::_mm512_and_si512(fields, x::_mm512_set1_epi8(3))
            };
            if B.is_multiple_of(2) {
                return low;
            }
            let bits = x::_mm512_set1_epi64(at.add(N - 8).cast::<i64>().read_unaligned());
            let halves = x::_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
            let bits = x::_mm512_permutexvar_epi32(halves, bits);
            let turn = x::_mm512_sub_epi32(
                x::_mm512_set1_epi32(B as i32 - 1),
                x::_mm512_loadu_si512(HIGH.as_ptr().cast()),
            );
            // low | bits & mask; a rotation takes its count modulo 32.
            let mask = x::_mm512_set1_epi8(1 << (B - 1));
            x::_mm512_ternarylogic_epi32::<0xf8>(low, x::_mm512_rolv_epi32(bits, turn), mask)
        }
    }
}

impl Loops for Avx512 {
    #[inline(always)]
    fn coded<const B: u32, const N: usize>(
        column: Column<'_>,
        inputs: &Inputs<'_>,
        steps: &[f32; 256],
        sums: &mut [Sums],
    ) {
        let quads = first_quads(inputs.sums);
        // SAFETY: see the module's comment; 64 bytes, and 16 words each.
        unsafe {
            let q = x::_mm512_loadu_si512(inputs.codes.as_ptr().cast());
            let dx = x::_mm512_mask_blend_ps(
                0xff00,
                x::_mm512_set1_ps(inputs.scales[0]),
                x::_mm512_set1_ps(inputs.scales[1]),
            );
            let sum = x::_mm512_loadu_ps(quads.as_ptr());
            let minus = x::_mm512_mul_ps(sum, x::_mm512_set1_ps(-top(B) / 2.0));
            let min = x::_mm512_mul_ps(sum, x::_mm512_set1_ps(mu(B)));
            let middle = x::_mm512_mul_ps(min, x::_mm512_set1_ps(3.5));
            let scale_at = x::_mm512_loadu_si512(SCALES.as_ptr().cast());
            let min_at = x::_mm512_add_epi32(scale_at, x::_mm512_set1_epi32(3));
            let seven = x::_mm512_set1_epi32(7);
            for ((codes, word), sums) in column.rows::<N>().zip(sums) {
                let dots = x::_mm512_dpbusd_epi32(x::_mm512_setzero_si512(), Self::codes::<B, N>(codes), q);
                let product = x::_mm512_fmadd_ps(x::_mm512_cvtepi32_ps(dots), dx, minus);
                let words = x::_mm512_set1_epi32(word.cast_signed());
                let field = |at| x::_mm512_and_si512(x::_mm512_srlv_epi32(words, at), seven);
                let scale =
                    x::_mm512_cvtepi32_ps(x::_mm512_add_epi32(field(scale_at), x::_mm512_set1_epi32(6)));
                let mins = x::_mm512_cvtepi32_ps(field(min_at));
                let part = x::_mm512_fnmadd_ps(mins, min, x::_mm512_fmadd_ps(scale, product, middle));
                let step = x::_mm512_set1_ps(steps[(word & 255) as usize]);
                let to = sums.coded.as_mut_ptr();
                x::_mm512_storeu_ps(to, x::_mm512_fmadd_ps(step, part, x::_mm512_loadu_ps(to)));
            }
        }
    }

    #[inline(always)]
    fn plain(column: Column<'_>, inputs: &Inputs<'_>, sums: &mut [Sums]) {
        for ((codes, _), sums) in column.rows::<{ 2 * BLOCK }>().zip(sums) {
            // SAFETY: see the module's comment; 16 words and floats from 16 j of 64.
            unsafe {
                let to = sums.plain.as_mut_ptr();
                let mut sum = x::_mm512_loadu_ps(to);
                for j in 0..4 {
                    let words = x::_mm256_loadu_si256(codes.as_ptr().add(32 * j).cast());
                    let floats = x::_mm512_slli_epi32::<16>(x::_mm512_cvtepu16_epi32(words));
                    let input = x::_mm512_loadu_ps(inputs.floats.as_ptr().add(16 * j));
                    sum = x::_mm512_fmadd_ps(x::_mm512_castsi512_ps(floats), input, sum);
                }
                x::_mm512_storeu_ps(to, sum);
            }
        }
    }
}
