//! Blocks times 8-bit inputs with NEON's dot products.
//!
//! Everything here is `#[inline(always)]` into the entry point of
//! [`super::product`], which is compiled for NEON and the dot product extension
//! and runs only where the CPU has them.
#![allow(unsafe_code, reason = "NEON intrinsics")]

use super::block;
use super::product::{BASE, Column, Inputs, Loops, Sums};
use crate::codec::integer::fit::top;
use crate::codec::kernels::sdot;
use std::arch::aarch64 as a;

/// NEON with dot products: 16 weights a register.
pub(super) struct Neon;

/// Codes of the four groups of a block.
#[inline(always)]
fn codes<const B: u32, const N: usize>(codes: &[u8; N]) -> [a::uint8x16_t; 4] {
    assert!(N == 8 * B as usize);
    let at = codes.as_ptr();
    // SAFETY: NEON is AArch64's baseline. Low parts are the first 32 or 16
    // bytes, high bits four each of the last 8.
    unsafe {
        let mut groups = if B >= 4 {
            let low = |k: usize| a::vandq_u8(a::vld1q_u8(at.add(16 * k)), a::vdupq_n_u8(15));
            let high = |k: usize| a::vshrq_n_u8::<4>(a::vld1q_u8(at.add(16 * k)));
            [low(0), high(0), low(1), high(1)]
        } else {
            let all = |k: usize| {
                let half = a::vld1_u8(at.add(8 * k));
                let pairs = a::vcombine_u8(half, a::vshr_n_u8::<2>(half));
                [pairs, a::vshrq_n_u8::<4>(pairs)].map(|p| a::vandq_u8(p, a::vdupq_n_u8(3)))
            };
            let ([a, b], [c, d]) = (all(0), all(1));
            [a, b, c, d]
        };
        if B % 2 == 1 {
            for (g, group) in groups.iter_mut().enumerate() {
                let bits = at.add(N - 8 + g / 2 * 4).cast::<u32>().read_unaligned();
                let first = -((g % 2 * 4) as i32);
                let shifts = a::vsubq_s32(a::vdupq_n_s32(first), a::vld1q_s32([0, 1, 2, 3].as_ptr()));
                let bits = a::vreinterpretq_u8_u32(a::vshlq_u32(a::vdupq_n_u32(bits), shifts));
                let bit = a::vandq_u8(bits, a::vdupq_n_u8(1));
                *group = a::vorrq_u8(*group, a::vshlq_u8(bit, a::vdupq_n_s8(B as i8 - 1)));
            }
        }
        groups
    }
}

impl Loops for Neon {
    #[inline(always)]
    fn coded<const B: u32, const N: usize>(
        column: Column<'_>,
        x: &Inputs<'_>,
        _: &[f32; 256],
        sums: &mut [Sums],
    ) {
        let half = top(B) / 2.0;
        for ((bytes, word), sums) in column.rows::<N>().zip(sums) {
            let groups = block::unpack::<B>(word, BASE);
            let mut minus = 0.0;
            // SAFETY: NEON is AArch64's baseline; 16 bytes and four floats each.
            unsafe {
                let mut acc = a::vld1q_f32(sums.coded.as_ptr());
                let each = codes::<B, N>(bytes).into_iter().zip(groups).zip(x.codes.as_chunks::<16>().0);
                for (g, ((q, (scale, min)), x_codes)) in each.enumerate() {
                    let q = a::vreinterpretq_s8_u8(q);
                    let dots = sdot(a::vdupq_n_s32(0), q, a::vld1q_s8(x_codes.as_ptr()));
                    acc = a::vfmaq_n_f32(acc, a::vcvtq_f32_s32(dots), scale * x.scales[g / 2]);
                    minus += (scale * half + min) * x.sums[g];
                }
                a::vst1q_f32(sums.coded.as_mut_ptr(), acc);
            }
            sums.coded[4] -= minus;
        }
    }
}
