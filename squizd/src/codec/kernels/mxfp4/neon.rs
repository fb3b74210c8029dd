//! NEON: codes become signed bytes by one table look-up (`tbl`) each; products
//! of the 8-bit precision by `sdot`.
#![allow(unsafe_code)] // NEON intrinsics, sound as neon.rs explains
#![allow(clippy::wildcard_imports, reason = "intrinsics")]

use super::super::Rows;
use super::super::neon::{load_4, load_codes, nibbles, sdot};
use super::whole_groups;
use crate::codec::activation::Activation;
use crate::codec::mxfp4::{DOUBLED, half_scale};
use std::arch::aarch64::*;

/// Twice the elements of 32 codes: low nibbles, high nibbles.
#[inline(always)]
fn elements(codes: &[u8; 16]) -> [int8x16_t; 2] {
    // SAFETY: NEON is AArch64's baseline.
    nibbles(codes).map(|n| unsafe { vqtbl1q_s8(load_codes(&DOUBLED), n) })
}

/// Rows times the 8-bit form of `x`. The CPU must have the dot product extension.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn q8(x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) {
    let x = x.quantized();
    for (y, (codes, scales)) in y.iter_mut().zip(rows.iter()) {
        let groups = codes.as_chunks::<16>().0.iter().zip(scales);
        let mut acc = vdupq_n_f32(0.0);
        for ((codes, s), (x, dx)) in groups.zip(x.codes.as_chunks::<32>().0.iter().zip(&x.scales)) {
            let ([low, high], x) = (elements(codes), x.as_chunks::<16>().0);
            let first = sdot(vdupq_n_s32(0), low, load_codes(&x[0]));
            let dot = sdot(first, high, load_codes(&x[1]));
            acc = vfmaq_n_f32(acc, vcvtq_f32_s32(dot), half_scale(*s) * dx);
        }
        *y = vaddvq_f32(acc);
    }
}

/// Rows times the floats of `x`. The CPU must have the dot product extension.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn f32(x: &[f32], rows: Rows<'_>, y: &mut [f32]) {
    let (groups, tail) = whole_groups(x);
    for (y, (codes, scales)) in y.iter_mut().zip(rows.iter()) {
        let mut acc = vdupq_n_f32(0.0);
        for (i, (codes, s)) in codes.as_chunks::<16>().0.iter().zip(scales).enumerate() {
            let x = groups.get(i).unwrap_or(&tail).as_chunks::<16>().0;
            let mut dot = vdupq_n_f32(0.0);
            for (q, x) in elements(codes).into_iter().zip(x) {
                let x = x.as_chunks::<4>().0;
                let halves = [vmovl_s8(vget_low_s8(q)), vmovl_s8(vget_high_s8(q))];
                for (i, half) in halves.into_iter().enumerate() {
                    let first = vcvtq_f32_s32(vmovl_s16(vget_low_s16(half)));
                    let second = vcvtq_f32_s32(vmovl_s16(vget_high_s16(half)));
                    dot = vfmaq_f32(dot, first, load_4(&x[2 * i]));
                    dot = vfmaq_f32(dot, second, load_4(&x[2 * i + 1]));
                }
            }
            acc = vfmaq_n_f32(acc, dot, half_scale(*s));
        }
        *y = vaddvq_f32(acc);
    }
}
