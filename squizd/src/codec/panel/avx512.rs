//! AVX-512 with VNNI: `dpbusd` multiplies four unsigned by four signed bytes
//! into 32 bits. Factors are in the codes.
#![allow(unsafe_code)] // x86 intrinsics
#![allow(clippy::wildcard_imports, reason = "intrinsics")]

use super::{Block, Columns, Input, ROWS, tiles};
use std::arch::x86_64::*;

/// Registers of a tile's rows.
const WIDE: usize = 2;

/// Adds the products with all inputs. The CPU must have what
/// [`crate::simd::Level::Avx512`] asks for.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn multiply(panel: &[Block], x: Columns<'_>, out: &mut [[f32; ROWS]]) {
    tiles!(tile, panel, x, out, 4 2 1);
}

/// All rows by `T` inputs.
#[inline(always)]
fn tile<const T: usize>(panel: &[Block], x: [&[Input]; T], out: &mut [[f32; ROWS]; T]) {
    for row in (0..ROWS).step_by(16 * WIDE) {
        rows(panel, x, row, out);
    }
}

/// `WIDE` registers of rows from `row` on by `T` inputs.
#[inline(always)]
fn rows<const T: usize>(panel: &[Block], x: [&[Input]; T], row: usize, out: &mut [[f32; ROWS]; T]) {
    assert!(x.iter().all(|x| x.len() == panel.len()) && row + 16 * WIDE <= ROWS);
    // SAFETY: inlined into `multiply` alone. Loads and stores are of 16 of 32
    // words from `row + 16 r` on, within their arrays by the assertion, and of 4
    // bytes of a block's 32 codes; inputs have a block for each of the panel's by
    // the assertion.
    unsafe {
        let load = |floats: &[f32; ROWS]| -> [__m512; WIDE] {
            std::array::from_fn(|r| _mm512_loadu_ps(floats.as_ptr().add(row + 16 * r)))
        };
        let mut sums = [[_mm512_setzero_ps(); WIDE]; T];
        for (sums, out) in sums.iter_mut().zip(&*out) {
            *sums = load(out);
        }
        for (b, block) in panel.iter().enumerate() {
            let mut dots = [[_mm512_setzero_si512(); WIDE]; T];
            for (w, codes) in block.codes.iter().enumerate() {
                let codes = codes.as_ptr().add(row);
                let codes: [_; WIDE] = std::array::from_fn(|r| _mm512_loadu_si512(codes.add(16 * r).cast()));
                for (dots, x) in dots.iter_mut().zip(x) {
                    let x = x.get_unchecked(b).codes.as_ptr().add(4 * w).cast::<[u8; 4]>();
                    let x = _mm512_set1_epi32(i32::from_le_bytes(x.read()));
                    for (dot, codes) in dots.iter_mut().zip(codes) {
                        *dot = _mm512_dpbusd_epi32(*dot, codes, x);
                    }
                }
            }
            let (scales, minus) = (load(&block.scales), [load(&block.minus[0]), load(&block.minus[1])]);
            for ((sums, dots), x) in sums.iter_mut().zip(dots).zip(x) {
                let x = x.get_unchecked(b);
                for r in 0..WIDE {
                    let scale = _mm512_mul_ps(scales[r], _mm512_set1_ps(x.scale));
                    let sum = _mm512_fmadd_ps(scale, _mm512_cvtepi32_ps(dots[r]), sums[r]);
                    let sum = _mm512_fnmadd_ps(minus[0][r], _mm512_set1_ps(x.sums[0]), sum);
                    sums[r] = _mm512_fnmadd_ps(minus[1][r], _mm512_set1_ps(x.sums[1]), sum);
                }
            }
        }
        for (sums, out) in sums.into_iter().zip(out) {
            for (r, sum) in sums.into_iter().enumerate() {
                _mm512_storeu_ps(out.as_mut_ptr().add(row + 16 * r), sum);
            }
        }
    }
}
