//! NEON with the dot product extension: `sdot` multiplies four signed by four
//! signed bytes into 32 bits.
#![allow(unsafe_code)] // NEON intrinsics
#![allow(clippy::wildcard_imports, reason = "intrinsics")]

use super::{Block, Columns, Input, ROWS, tiles};
use crate::codec::kernels::sdot;
use std::arch::aarch64::*;

/// Registers of a tile's rows.
const WIDE: usize = 2;

/// Adds the products with all inputs. The CPU must have the dot product
/// extension.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn multiply(panel: &[Block], x: Columns<'_>, out: &mut [[f32; ROWS]]) {
    tiles!(tile, panel, x, out, 4 2 1);
}

/// All rows by `T` inputs.
#[inline(always)]
fn tile<const T: usize>(panel: &[Block], x: [&[Input]; T], out: &mut [[f32; ROWS]; T]) {
    for row in (0..ROWS).step_by(4 * WIDE) {
        rows(panel, x, row, out);
    }
}

/// `WIDE` registers of rows from `row` on by `T` inputs.
#[inline(always)]
fn rows<const T: usize>(panel: &[Block], x: [&[Input]; T], row: usize, out: &mut [[f32; ROWS]; T]) {
    assert!(x.iter().all(|x| x.len() == panel.len()) && row + 4 * WIDE <= ROWS);
    // SAFETY: NEON is AArch64's baseline. Loads and stores are of 4 of 32 words
    // from `row + 4 r` on, within their arrays by the assertion, and of 4 bytes of
    // a block's 32 codes; inputs have a block for each of the panel's by the
    // assertion.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); WIDE]; T];
        for (sums, out) in sums.iter_mut().zip(&*out) {
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = vld1q_f32(out.as_ptr().add(row + 4 * r));
            }
        }
        for (b, block) in panel.iter().enumerate() {
            let mut dots = [[vdupq_n_s32(0); WIDE]; T];
            for h in 0..2 {
                let mut half = [[vdupq_n_s32(0); WIDE]; T];
                for w in 4 * h..4 * h + 4 {
                    let codes = block.codes[w].as_ptr().add(row);
                    let codes: [_; WIDE] = std::array::from_fn(|r| vld1q_s8(codes.add(4 * r).cast()));
                    for (half, x) in half.iter_mut().zip(x) {
                        let x = x.get_unchecked(b).codes.as_ptr().add(4 * w).cast::<[u8; 4]>();
                        let x = vreinterpretq_s8_s32(vdupq_n_s32(i32::from_le_bytes(x.read())));
                        for (sum, codes) in half.iter_mut().zip(codes) {
                            *sum = sdot(*sum, codes, x);
                        }
                    }
                }
                for r in 0..WIDE {
                    let factors = vld1q_u32(block.factors[h].as_ptr().add(row + 4 * r));
                    let factors = vreinterpretq_s32_u32(vshrq_n_u32::<16>(factors));
                    for (dots, half) in dots.iter_mut().zip(half) {
                        dots[r] = vmlaq_s32(dots[r], half[r], factors);
                    }
                }
            }
            for r in 0..WIDE {
                let at = row + 4 * r;
                let scales = vld1q_f32(block.scales.as_ptr().add(at));
                let minus = [0, 1].map(|h: usize| vld1q_f32(block.minus[h].as_ptr().add(at)));
                for ((sums, dots), x) in sums.iter_mut().zip(dots).zip(x) {
                    let x = x.get_unchecked(b);
                    let sum = vfmaq_f32(sums[r], vmulq_n_f32(scales, x.scale), vcvtq_f32_s32(dots[r]));
                    let sum = vfmsq_n_f32(sum, minus[0], x.sums[0]);
                    sums[r] = vfmsq_n_f32(sum, minus[1], x.sums[1]);
                }
            }
        }
        for (sums, out) in sums.into_iter().zip(out) {
            for (r, sum) in sums.into_iter().enumerate() {
                vst1q_f32(out.as_mut_ptr().add(row + 4 * r), sum);
            }
        }
    }
}
