//! The steps of the search with AVX2: sixteen states a register.
#![allow(unsafe_code, reason = "x86 intrinsics")]

use super::viterbi::Steps;
use std::arch::x86_64 as x;

/// Used only by functions compiled for AVX2, which run only where the CPU has it.
pub(super) struct Avx2;

/// States of a register.
const LANES: usize = 16;

impl Steps for Avx2 {
    #[inline(always)]
    fn merge(cost: &[u16], m: &mut [u16], level: bool) {
        let count = m.len();
        assert!(count.is_multiple_of(LANES) && cost.len().is_multiple_of(count));
        // SAFETY: AVX2 is available (see `Avx2`); `j + LANES <= count`, and every
        // row `p` of `count` costs ends within `cost`, by the assertion.
        unsafe {
            let mut least = x::_mm256_set1_epi16(-1);
            for j in (0..count).step_by(LANES) {
                let mut best = x::_mm256_set1_epi16(-1);
                for p in (0..cost.len()).step_by(count) {
                    best = x::_mm256_min_epu16(best, x::_mm256_loadu_si256(cost.as_ptr().add(p + j).cast()));
                }
                least = x::_mm256_min_epu16(least, best);
                x::_mm256_storeu_si256(m.as_mut_ptr().add(j).cast(), best);
            }
            if level {
                let halves = x::_mm_min_epu16(
                    x::_mm256_castsi256_si128(least),
                    x::_mm256_extracti128_si256::<1>(least),
                );
                let least = x::_mm256_broadcastw_epi16(x::_mm_minpos_epu16(halves));
                for j in (0..count).step_by(LANES) {
                    let at = m.as_mut_ptr().add(j);
                    let less = x::_mm256_sub_epi16(x::_mm256_loadu_si256(at.cast()), least);
                    x::_mm256_storeu_si256(at.cast(), less);
                }
            }
        }
    }

    #[inline(always)]
    fn branch(cost: &mut [u16], m: &[u16], table: &[i16], target: i16, k: u32) {
        match k {
            2 => branch::<2>(cost, m, table, target),
            3 => branch::<3>(cost, m, table, target),
            _ => branch::<4>(cost, m, table, target),
        }
    }
}

#[inline(always)]
fn branch<const K: usize>(cost: &mut [u16], m: &[u16], table: &[i16], target: i16) {
    let states = cost.len();
    assert!(states.is_multiple_of(LANES) && table.len() == states && m.len() << K == states);
    // SAFETY: AVX2 is available (see `Avx2`); by the assertion sixteen states
    // from `s` lie within `cost` and `table`, and the 16 >> K entries of `m`
    // from `s >> K` within `m`.
    unsafe {
        // Entry i of `m` spread over 2^K neighbouring states.
        let spread = match K {
            2 => x::_mm256_setr_epi8(
                0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 4, 5, 4, 5, 4, 5, 4, 5, 6, 7, 6, 7, 6, 7, 6,
                7,
            ),
            _ => x::_mm256_setr_epi8(
                0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2,
                3,
            ),
        };
        let target = x::_mm256_set1_epi16(target);
        for s in (0..states).step_by(LANES) {
            let from = m.as_ptr().add(s >> K);
            let before = match K {
                2 => {
                    x::_mm256_shuffle_epi8(x::_mm256_set1_epi64x(from.cast::<i64>().read_unaligned()), spread)
                }
                3 => {
                    x::_mm256_shuffle_epi8(x::_mm256_set1_epi32(from.cast::<i32>().read_unaligned()), spread)
                }
                _ => x::_mm256_set1_epi16((*from).cast_signed()),
            };
            let values = x::_mm256_loadu_si256(table.as_ptr().add(s).cast());
            let d = x::_mm256_subs_epi16(target, values);
            // round(d^2 / 2^15); -32768 squared gives 2^15, right as an unsigned number.
            let step = x::_mm256_mulhrs_epi16(d, d);
            x::_mm256_storeu_si256(cost.as_mut_ptr().add(s).cast(), x::_mm256_adds_epu16(before, step));
        }
    }
}
