//! x86 kernels of the fine layout for 8-bit inputs.
//!
//! Scales and mins are small integers, so the halves of a block are weighed and
//! added as integers before anything becomes a float. With `q` the codes, `x`
//! the inputs' codes and `dx` their scale, twice a block's part of a row is
//!
//! ```text
//! dx (d (sum_h 2 sc_h dot_h - h sum_h 2 sc_h x_h) - dmin sum_h (2 m_h - 7) x_h)
//! dot_h = sum(q x), x_h = sum(x) over half h of the block
//! ```
//!
//! and each sum over the two halves is one multiply-add of neighbouring 16-bit
//! integers: `|dot_h| <= 16 * 15 * 127`, which is below 2^15.
//!
//! Everything here is `#[inline(always)]` into the entry points of [`super::avx2`]
//! and [`super::avx512`], which are compiled for at least AVX2, FMA and F16C
//! and run only where the CPU has them; that is what makes the intrinsics sound.
#![allow(unsafe_code)] // x86 intrinsics
#![allow(clippy::wildcard_imports, reason = "intrinsics")]

use super::halves::{Planes, part};
use super::x86::{load_32, load_octet, padded, sum};
use super::{OCTET, PAIR_ORDER, Rows};
use crate::codec::activation::{Activation, Octet};
use crate::codec::integer::{Fine, codes};
use crate::codec::lanes::exp2i;
use std::arch::x86_64::*;

/// The integer dot products of a level.
pub(super) trait HalfDots {
    /// Of both halves of the blocks of an octet with the codes of `x` in the
    /// order of the planes' fields: 16 bits each, the halves of a block side by
    /// side, blocks in [`super::PAIR_ORDER`].
    fn dots<const B: u32>(codes: Planes<'_>, x: &[i8; OCTET]) -> __m256i;

    /// Twice the parts of two rows' first octets, added octet by octet as
    /// [`add`] does, as far as the level takes two rows at once, and how many
    /// octets those are.
    fn two_rows<const B: u32>(
        layout: Fine,
        low: [&[u8]; 2],
        stored: [&[u8]; 2],
        x: &[[i8; OCTET]],
        octets: &[Octet],
    ) -> ([__m256; 2], usize);
}

/// For each half block in the order of [`HalfDots`]: the two bytes of a stored
/// superblock that hold its 6-bit entry, and the factor that moves the entry to
/// bit 10.
pub(super) const ENTRIES: ([u8; 32], [i16; 16]) = {
    let (mut windows, mut factors) = ([0; 32], [0; 16]);
    let mut i = 0;
    while i < 16 {
        let bit = 32 + 6 * (2 * PAIR_ORDER[i / 2] + i % 2);
        windows[2 * i] = (bit / 8) as u8;
        // What follows the last entry is moved out.
        windows[2 * i + 1] = ((bit / 8 + 1) % 16) as u8;
        factors[i] = 1 << (10 - bit % 8);
        i += 1;
    }
    (windows, factors)
};

/// Numbers that all octets need, in registers.
#[derive(Clone, Copy)]
pub(super) struct Constants {
    windows: __m256i,
    factors: __m256i,
    /// Twice the layout's.
    scale_bias: __m256i,
    code_bias: __m256,
}

impl Constants {
    #[inline(always)]
    pub(super) fn of(layout: Fine) -> Self {
        // SAFETY: see the module's comment; 32 readable bytes each.
        unsafe {
            Self {
                windows: load_32(&ENTRIES.0),
                factors: _mm256_loadu_si256(ENTRIES.1.as_ptr().cast()),
                scale_bias: _mm256_set1_epi16(2 * layout.scale_bias as i16),
                code_bias: _mm256_set1_ps(layout.code_bias),
            }
        }
    }

    /// Adds twice the parts of eight blocks: both halves' `dots`, twice their
    /// stored scales and mins, the blocks' `d` and `dmin`, and of the input both
    /// halves' sums of codes, and the scale.
    #[inline(always)]
    pub(super) fn add_scaled(
        self,
        acc: __m256,
        dots: __m256i,
        (scales, mins): (__m256i, __m256i),
        (d, dmin): (__m256, __m256),
        (x_codes, dx): (__m256i, __m256),
    ) -> __m256 {
        // SAFETY: see the module's comment.
        unsafe {
            let scales = _mm256_add_epi16(scales, self.scale_bias);
            let mins = _mm256_sub_epi16(mins, _mm256_set1_epi16(7));
            let products = _mm256_cvtepi32_ps(_mm256_madd_epi16(scales, dots));
            let centre = _mm256_cvtepi32_ps(_mm256_madd_epi16(scales, x_codes));
            let minus = _mm256_cvtepi32_ps(_mm256_madd_epi16(mins, x_codes));
            let scaled = _mm256_mul_ps(d, _mm256_fnmadd_ps(self.code_bias, centre, products));
            _mm256_fmadd_ps(dx, _mm256_fnmadd_ps(dmin, minus, scaled), acc)
        }
    }
}

/// Rows of codes of `B` bits times the 8-bit form of `x`.
#[inline(always)]
pub(super) fn rows<D: HalfDots, const B: u32>(
    layout: Fine,
    x: &Activation<'_>,
    rows: Rows<'_>,
    y: &mut [f32],
) {
    let q = x.quantized();
    let inputs = if B == 4 { &q.paired } else { &q.quartered }.as_chunks::<OCTET>().0;
    let constants = Constants::of(layout);
    let unit = 0.5 * exp2i(layout.exponent);
    let inputs = Inputs { codes: inputs, octets: x.octets(), blocks: rows.blocks };
    let low_bytes = codes::low_bytes(B) * rows.blocks;
    let mut all = y.iter_mut().zip(rows.iter());
    while let Some((y, row)) = all.next() {
        let Some((next_y, next)) = all.next() else {
            // SAFETY: see the module's comment.
            *y = unit * rest::<D, B>(unsafe { _mm256_setzero_ps() }, 0, constants, inputs, row);
            break;
        };
        let low = [row.0, next.0].map(|codes| codes.get(..low_bytes).unwrap_or_default());
        let (acc, done) = D::two_rows::<B>(layout, low, [row.1, next.1], inputs.codes, inputs.octets);
        *y = unit * rest::<D, B>(acc[0], done, constants, inputs, row);
        *next_y = unit * rest::<D, B>(acc[1], done, constants, inputs, next);
    }
}

/// The inputs in the forms that are needed, and how many blocks of 32 they are.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    codes: &'a [[i8; OCTET]],
    octets: &'a [Octet],
    blocks: usize,
}

/// The sum of `acc` and of a row's octets from `done` on; a row is its codes and
/// its scales.
#[inline(always)]
fn rest<D: HalfDots, const B: u32>(
    mut acc: __m256,
    done: usize,
    constants: Constants,
    inputs: Inputs<'_>,
    (codes, stored): (&[u8], &[u8]),
) -> f32 {
    let (low_octet, high_octet) = (8 * codes::low_bytes(B), if B % 2 == 1 { 32 } else { 0 });
    let (low, high) = codes.split_at((codes::low_bytes(B) * inputs.blocks).min(codes.len()));
    let octets = low.chunks_exact(low_octet).zip(stored.as_chunks::<16>().0);
    let octets = octets.zip(inputs.codes.iter().zip(inputs.octets)).enumerate().skip(done);
    for (i, ((low, stored), (inputs, x))) in octets {
        let planes = Planes { low, high: high.get(high_octet * i..).unwrap_or_default() };
        acc = add(acc, constants, D::dots::<B>(planes, inputs), stored, x);
    }
    let whole = inputs.blocks / 8;
    if !inputs.blocks.is_multiple_of(8)
        && done <= whole
        && let (Some(inputs), Some(x)) = (inputs.codes.get(whole), inputs.octets.get(whole))
    {
        let (mut low_tail, mut high_tail) = ([0; 128], [0; 128]);
        let planes = Planes {
            low: part(low, whole * low_octet, low_octet, &mut low_tail),
            high: part(high, whole * high_octet, high_octet, &mut high_tail),
        };
        let stored = padded(stored.get(16 * whole..).unwrap_or_default());
        acc = add(acc, constants, D::dots::<B>(planes, inputs), &stored, x);
    }
    sum(acc)
}

/// Adds an octet's part.
#[inline(always)]
pub(super) fn add(acc: __m256, constants: Constants, dots: __m256i, stored: &[u8; 16], x: &Octet) -> __m256 {
    // SAFETY: see the module's comment; 16 and 32 readable bytes.
    unsafe {
        let words = _mm_loadu_si128(stored.as_ptr().cast());
        let windows = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(words), constants.windows);
        // Scales are bits 10 to 12, mins 13 to 15.
        let entries = _mm256_mullo_epi16(windows, constants.factors);
        let even = _mm256_set1_epi16(14);
        let scales = _mm256_and_si256(_mm256_srli_epi16::<9>(entries), even);
        let mins = _mm256_and_si256(_mm256_srli_epi16::<12>(entries), even);
        let heads = _mm_cvtph_ps(words);
        let heads = (_mm256_broadcastss_ps(heads), _mm256_broadcastss_ps(_mm_movehdup_ps(heads)));
        let x_codes = _mm256_loadu_si256(x.codes.as_ptr().cast());
        constants.add_scaled(acc, dots, (scales, mins), heads, (x_codes, load_octet(&x.scales)))
    }
}
