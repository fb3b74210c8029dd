//! INT4's fine layout times 8-bit inputs on AVX2, four rows at a time.
//!
//! Whole octets of a row are computed as [`super::fine`] does. The blocks behind
//! them would leave most lanes of another octet empty (a row of 576 columns has
//! two), so that of each pair of them the four rows' make one register: lanes 0
//! to 3 are the first block of every row, lanes 4 to 7 the second.
//!
//! Everything here is `#[inline(always)]` into the entry points of [`super::avx2`],
//! which are compiled for AVX2, FMA and F16C and run only where the CPU has them;
//! that is what makes the intrinsics sound.
#![allow(unsafe_code)] // x86 intrinsics
#![allow(clippy::wildcard_imports, reason = "intrinsics")]

use super::fine::{Constants, add};
use super::x86::load_32;
use super::{OCTET, Rows};
use crate::codec::activation::{Activation, Octet};
use crate::codec::integer::Fine;
use crate::codec::lanes::exp2i;
use std::arch::x86_64::*;
use std::array::from_fn;

/// Bytes of codes between what is multiplied and what is asked of memory:
/// prefetching by the CPU itself ends with each page.
const AHEAD: usize = 2048;

/// Dot products of a pair of blocks with the paired codes of an input: sums of
/// two pairs of products, first halves of both blocks in the first eight bytes of
/// both lanes, second halves in the others.
#[inline(always)]
pub(super) fn pair(codes: &[u8; 32], x: &[i8; 64]) -> __m256i {
    // SAFETY: see the module's comment; loads of parts of the arrays.
    unsafe {
        let low = _mm256_set1_epi8(15);
        let codes = load_32(codes);
        let first = _mm256_loadu_si256(x.as_ptr().cast());
        let second = _mm256_loadu_si256(x.as_ptr().add(32).cast());
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), low);
        _mm256_hadd_epi16(
            _mm256_maddubs_epi16(_mm256_and_si256(codes, low), first),
            _mm256_maddubs_epi16(high, second),
        )
    }
}

/// Sums of halves of eight blocks from what [`pair`] gave for each two.
#[inline(always)]
pub(super) fn halves([a, b, c, d]: [__m256i; 4]) -> __m256i {
    // SAFETY: see the module's comment.
    unsafe { _mm256_hadd_epi16(_mm256_hadd_epi16(a, b), _mm256_hadd_epi16(c, d)) }
}

/// An input's form for a pair of blocks of four rows.
#[derive(Clone, Copy)]
struct PairInput<'a> {
    codes: &'a [i8; 64],
    /// Sums of the codes of both halves of a block.
    sums: __m256i,
    scales: __m256,
}

impl<'a> PairInput<'a> {
    /// Pair `p` of an octet.
    #[inline(always)]
    fn new(p: usize, codes: &'a [i8; 64], octet: &Octet) -> Self {
        let (first, second) = (p as i32, p as i32 + 4);
        // SAFETY: see the module's comment; 32 readable bytes each.
        unsafe {
            let order = _mm256_setr_epi32(first, first, first, first, second, second, second, second);
            let sums = _mm256_loadu_si256(octet.codes.as_ptr().cast());
            Self {
                codes,
                sums: _mm256_permutevar8x32_epi32(sums, order),
                scales: _mm256_permutevar8x32_ps(_mm256_loadu_ps(octet.scales.as_ptr()), order),
            }
        }
    }
}

/// Rows times the 8-bit form of `x`; `false` if a row ends within a pair of
/// blocks.
#[inline(always)]
pub(super) fn rows(layout: Fine, x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) -> bool {
    if !rows.blocks.is_multiple_of(2) {
        return false;
    }
    let (inputs, octets) = (x.quantized().paired.as_chunks::<OCTET>().0, x.octets());
    let (whole, pairs) = (rows.blocks / 8, rows.blocks % 8 / 2);
    let constants = Constants::of(layout);
    let unit = 0.5 * exp2i(layout.exponent);
    let tail: [Option<PairInput<'_>>; 3] = from_fn(|p| {
        let codes = inputs.get(whole)?.as_chunks::<64>().0.get(p)?;
        (p < pairs).then_some(PairInput::new(p, codes, octets.get(whole)?))
    });
    let last = y.len().saturating_sub(1);
    for (i, y) in y.chunks_mut(4).enumerate() {
        let four: [_; 4] = from_fn(|j| rows.row((4 * i + j).min(last)));
        // SAFETY: see the module's comment; the array has 16 bytes.
        let products = unsafe {
            let mut octet_sums = [_mm256_setzero_ps(); 4];
            for (sum, row) in octet_sums.iter_mut().zip(four) {
                *sum = whole_octets(constants, inputs, octets, row);
            }
            let [a, b, c, d] = octet_sums;
            let mut sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
            for (p, x) in tail.iter().flatten().enumerate() {
                sums = add_pair(sums, constants, whole, p, x, four);
            }
            let sums = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
            let mut products = [0.0f32; 4];
            _mm_storeu_ps(products.as_mut_ptr(), _mm_mul_ps(sums, _mm_set1_ps(unit)));
            products
        };
        for (y, product) in y.iter_mut().zip(products) {
            *y = product;
        }
    }
    true
}

/// The sum of a row's whole octets.
#[inline(always)]
fn whole_octets(
    constants: Constants,
    inputs: &[[i8; OCTET]],
    octets: &[Octet],
    (codes, stored): (&[u8], &[u8]),
) -> __m256 {
    let (whole, rest) = codes.as_chunks::<128>();
    prefetch(rest, AHEAD);
    prefetch(stored, AHEAD / 8);
    // SAFETY: see the module's comment.
    let mut acc = unsafe { _mm256_setzero_ps() };
    let all = whole.iter().zip(stored.as_chunks::<16>().0).zip(inputs.iter().zip(octets));
    for ((codes, stored), (x, octet)) in all {
        let ([q0, q1, q2, q3], [x0, x1, x2, x3]) = (codes.as_chunks().0, x.as_chunks().0) else { break };
        prefetch(q0, AHEAD);
        prefetch(q2, AHEAD);
        let dots = halves([pair(q0, x0), pair(q1, x1), pair(q2, x2), pair(q3, x3)]);
        acc = add(acc, constants, dots, stored, octet);
    }
    acc
}

/// Asks for the memory `ahead` bytes behind the beginning of `bytes`, if there is
/// any.
#[inline(always)]
fn prefetch(bytes: &[u8], ahead: usize) {
    // SAFETY: a prefetch reads nothing, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(ahead).cast()) }
}

/// Adds the parts of pair `p` behind the whole octets of four rows.
#[inline(always)]
fn add_pair(
    acc: __m256,
    constants: Constants,
    whole: usize,
    p: usize,
    x: &PairInput<'_>,
    four: [(&[u8], &[u8]); 4],
) -> __m256 {
    // SAFETY: see the module's comment.
    let mut dots = [unsafe { _mm256_setzero_si256() }; 4];
    for (dots, (codes, _)) in dots.iter_mut().zip(four) {
        let codes = codes.get(128 * whole + 32 * p..).and_then(|c| c.first_chunk());
        *dots = pair(codes.unwrap_or(&[0; 32]), x.codes);
    }
    // A pair's four entries are 24 bits.
    let words = |at: usize| {
        let [a, b, c, d] = four.map(|(_, stored)| {
            let word = stored.get(16 * whole + at..).and_then(|s| s.first_chunk());
            i32::from_le_bytes(*word.unwrap_or(&[0; 4]))
        });
        // SAFETY: see the module's comment.
        unsafe { _mm_setr_epi32(a, b, c, d) }
    };
    let (heads, entries) = (words(0), words(4 + 3 * p));
    // SAFETY: see the module's comment.
    unsafe {
        let heads = _mm256_cvtph_ps(heads);
        let d = _mm256_permutevar8x32_ps(heads, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
        let dmin = _mm256_permutevar8x32_ps(heads, _mm256_setr_epi32(1, 3, 5, 7, 1, 3, 5, 7));
        // Scale, min, scale, min of 3 bits each, which go to bits 1 to 3 of 16.
        let entries = _mm256_set_m128i(_mm_srli_epi32::<12>(entries), entries);
        let both = |first: __m256i, second: __m256i| {
            _mm256_or_si256(
                _mm256_and_si256(first, _mm256_set1_epi32(14)),
                _mm256_and_si256(second, _mm256_set1_epi32(14 << 16)),
            )
        };
        let scales = both(_mm256_slli_epi32::<1>(entries), _mm256_slli_epi32::<11>(entries));
        let mins = both(_mm256_srli_epi32::<2>(entries), _mm256_slli_epi32::<8>(entries));
        constants.add_scaled(acc, halves(dots), (scales, mins), (d, dmin), (x.sums, x.scales))
    }
}
