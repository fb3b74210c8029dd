//! NEON: byte shuffles for the table look-up; the rest vectorises by itself.
#![allow(unsafe_code)] // NEON intrinsics, which AArch64's baseline has

use super::decode::{Exponents, Lanes, Plain};
use super::payload::PLANE;
#[allow(clippy::wildcard_imports, reason = "a page of intrinsics")]
use std::arch::aarch64::*;

/// NEON.
pub(super) struct Neon;

impl Lanes for Neon {
    /// As in AVX2's, 16 bytes of each plane at a time.
    #[inline(always)]
    fn expand<const P: usize>(planes: [&[u8]; P], table: &[u8; 16], e: &mut Exponents) {
        let width = planes.iter().map(|p| p.len()).min().unwrap_or(0);
        if !(16..=PLANE).contains(&width) || !(3..=4).contains(&P) {
            return Plain::expand(planes, table, e);
        }
        let mut at = 0;
        loop {
            // SAFETY: NEON is part of AArch64. Every plane has at least
            // `at + 16` bytes, and `e` has `8 * width` of them.
            unsafe {
                let (fives, threes, nibble) = (vdupq_n_u8(0x55), vdupq_n_u8(0x33), vdupq_n_u8(0x0f));
                let table = vld1q_u8(table.as_ptr());
                let load = |k: usize| planes.get(k).map_or(vdupq_n_u8(0), |p| vld1q_u8(p.as_ptr().add(at)));
                let (p0, p1, p2, p3) = (load(0), load(1), load(2), load(3));
                // Bit select takes its first operand where the mask has ones.
                let (even01, odd01) =
                    (vbslq_u8(fives, p0, vshlq_n_u8::<1>(p1)), vbslq_u8(fives, vshrq_n_u8::<1>(p0), p1));
                let (even23, odd23) =
                    (vbslq_u8(fives, p2, vshlq_n_u8::<1>(p3)), vbslq_u8(fives, vshrq_n_u8::<1>(p2), p3));
                let nibbles = [
                    vbslq_u8(threes, even01, vshlq_n_u8::<2>(even23)),
                    vbslq_u8(threes, odd01, vshlq_n_u8::<2>(odd23)),
                    vbslq_u8(threes, vshrq_n_u8::<2>(even01), even23),
                    vbslq_u8(threes, vshrq_n_u8::<2>(odd01), odd23),
                ];
                let out = e.as_mut_ptr().add(at);
                for (bit, n) in nibbles.into_iter().enumerate() {
                    vst1q_u8(out.add(bit * width), vqtbl1q_u8(table, vandq_u8(n, nibble)));
                    vst1q_u8(out.add((bit + 4) * width), vqtbl1q_u8(table, vshrq_n_u8::<4>(n)));
                }
            }
            if at + 16 >= width {
                return;
            }
            // The last step overlaps the one before where 16 does not divide.
            at = (at + 16).min(width - 16);
        }
    }

    #[inline(always)]
    fn look_up(packed: &[u8; 16], table: &[u8; 16], out: &mut [u8; 32]) {
        Plain::look_up(packed, table, out);
    }

    #[inline(always)]
    fn deposit(bits: u64, mask: u64) -> u64 {
        Plain::deposit(bits, mask)
    }

    #[inline(always)]
    fn bf16(signs: &[u8], exponents: &[u8], out: &mut [u16], stream: bool, ahead: &[u8]) {
        Plain::bf16(signs, exponents, out, stream, ahead);
    }

    #[inline(always)]
    fn arrange(x: &mut [f32]) {
        Plain::arrange(x);
    }

    #[inline(always)]
    fn dot(signs: &[u8], exponents: &[u8], x: &[f32], ahead: &[u8]) -> f32 {
        Plain::dot(signs, exponents, x, ahead)
    }
}
