//! AVX2: `maddubs` multiplies unsigned by signed bytes and adds neighbours in 16
//! bits, where the four sums of a half block fit for codes up to 31:
//! `8 * 31 * 127 < 2^15`. The next step multiplies them by the half's factor.
#![allow(unsafe_code)] // x86 intrinsics
#![allow(clippy::wildcard_imports, reason = "intrinsics")]

use super::{Block, Columns, Input, ROWS, tiles};
use std::arch::x86_64::*;

/// Registers of a tile's rows.
const WIDE: usize = 1;

/// Adds the products with all inputs. The CPU must have AVX2 and FMA.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn multiply(panel: &[Block], x: Columns<'_>, out: &mut [[f32; ROWS]]) {
    tiles!(tile, panel, x, out, 6 2 1);
}

/// All rows by `T` inputs.
#[inline(always)]
fn tile<const T: usize>(panel: &[Block], x: [&[Input]; T], out: &mut [[f32; ROWS]; T]) {
    for row in (0..ROWS).step_by(8 * WIDE) {
        rows(panel, x, row, out);
    }
}

/// `WIDE` registers of rows from `row` on by `T` inputs.
#[inline(always)]
fn rows<const T: usize>(panel: &[Block], x: [&[Input]; T], row: usize, out: &mut [[f32; ROWS]; T]) {
    assert!(x.iter().all(|x| x.len() == panel.len()) && row + 8 * WIDE <= ROWS);
    // SAFETY: inlined into `multiply` alone. Loads and stores are of 8 of 32
    // words from `row + 8 r` on, within their arrays by the assertion, and of 4
    // bytes of a block's 32 codes; inputs have a block for each of the panel's by
    // the assertion.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); WIDE]; T];
        for (sums, out) in sums.iter_mut().zip(&*out) {
            for (r, sum) in sums.iter_mut().enumerate() {
                *sum = _mm256_loadu_ps(out.as_ptr().add(row + 8 * r));
            }
        }
        for (b, block) in panel.iter().enumerate() {
            let mut dots = [[_mm256_setzero_si256(); WIDE]; T];
            for h in 0..2 {
                let mut half = [[_mm256_setzero_si256(); WIDE]; T];
                for w in 4 * h..4 * h + 4 {
                    let codes = block.codes[w].as_ptr().add(row);
                    let codes: [_; WIDE] =
                        std::array::from_fn(|r| _mm256_load_si256(codes.add(8 * r).cast()));
                    for (half, x) in half.iter_mut().zip(x) {
                        let x = x.get_unchecked(b).codes.as_ptr().add(4 * w).cast::<[u8; 4]>();
                        let x = _mm256_set1_epi32(i32::from_le_bytes(x.read()));
                        for (sum, codes) in half.iter_mut().zip(codes) {
                            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(codes, x));
                        }
                    }
                }
                for r in 0..WIDE {
                    let factors = _mm256_load_si256(block.factors[h].as_ptr().add(row + 8 * r).cast());
                    for (dots, half) in dots.iter_mut().zip(half) {
                        dots[r] = _mm256_add_epi32(dots[r], _mm256_madd_epi16(half[r], factors));
                    }
                }
            }
            for r in 0..WIDE {
                let at = row + 8 * r;
                let scales = _mm256_load_ps(block.scales.as_ptr().add(at));
                let minus = [0, 1].map(|h: usize| _mm256_load_ps(block.minus[h].as_ptr().add(at)));
                for ((sums, dots), x) in sums.iter_mut().zip(dots).zip(x) {
                    let x = x.get_unchecked(b);
                    let scale = _mm256_mul_ps(scales, _mm256_set1_ps(x.scale));
                    let sum = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dots[r]), sums[r]);
                    let sum = _mm256_fnmadd_ps(minus[0], _mm256_set1_ps(x.sums[0]), sum);
                    sums[r] = _mm256_fnmadd_ps(minus[1], _mm256_set1_ps(x.sums[1]), sum);
                }
            }
        }
        for (sums, out) in sums.into_iter().zip(out) {
            for (r, sum) in sums.into_iter().enumerate() {
                _mm256_storeu_ps(out.as_mut_ptr().add(row + 8 * r), sum);
            }
        }
    }
}
