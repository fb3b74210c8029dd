//! x86 kernels that take each half of a 32-block by itself: for groups of 16,
//! and for codes of 2 and 3 bits in any layout with f16 scales (the fine layout
//! with 8-bit inputs is in [`super::fine`]).
//!
//! A 32-byte load holds two blocks of 4-bit codes, or the 2-bit parts of four.
//! Each field of it meets the inputs in the same order
//! (`paired`, `quartered`), and fields of the first and of the second half of
//! blocks are summed apart.
//!
//! Everything here is `#[inline(always)]` into the entry points of [`super::avx2`]
//! and [`super::avx512`], which are compiled for at least AVX2, FMA and F16C
//! and run only where the CPU has them; that is what makes the intrinsics sound.
#![allow(unsafe_code)] // x86 intrinsics
#![allow(clippy::wildcard_imports, reason = "intrinsics")]

use super::fine::{self, HalfDots};
use super::x86::{
    OctetScales, Pairs, StoredScales, entries_12, half_pairs, load_32, load_octet, padded, sum,
};
use super::{OCTET, Rows};
use crate::codec::activation::{Activation, Octet};
use crate::codec::integer::{Fine, Layout, ScaleFormat, codes};
use crate::codec::lanes::{F32x8, exp2i};
use std::{arch::x86_64::*, marker::PhantomData};

/// Products of unsigned codes with signed inputs, as a level sums them; eight
/// products of neighbours do not overflow for codes up to 15.
pub(super) trait Products {
    /// Adds products of neighbouring bytes.
    fn add(sums: __m256i, codes: __m256i, x: __m256i) -> __m256i;

    /// Sums of four products each, in 32 bits.
    fn quads(sums: __m256i) -> __m256i;
}

/// Scales of the first and second halves of an octet's blocks.
trait HalfScales: Copy {
    /// Bytes of an octet's scales.
    fn bytes(self) -> usize;

    /// Scales from the beginning of `stored`; bytes past its end are zeros.
    fn unpack(self, stored: &[u8]) -> [OctetScales; 2];
}

/// Both halves of a block have one scale.
#[derive(Clone, Copy)]
struct Whole<T>(T);

impl<T: StoredScales> HalfScales for Whole<T> {
    #[inline(always)]
    fn bytes(self) -> usize {
        self.0.bytes()
    }

    #[inline(always)]
    fn unpack(self, stored: &[u8]) -> [OctetScales; 2] {
        let OctetScales { scale, minus } = self.0.unpack(stored);
        [OctetScales { scale, minus }, OctetScales { scale, minus }]
    }
}

impl HalfScales for Fine {
    #[inline(always)]
    fn bytes(self) -> usize {
        16
    }

    #[inline(always)]
    fn unpack(self, stored: &[u8]) -> [OctetScales; 2] {
        let stored: [u8; 16] = padded(stored);
        // SAFETY: see the module's comment; 16 readable bytes.
        unsafe {
            let words = _mm_loadu_si128(stored.as_ptr().cast());
            // Both groups of a block: scale, min, scale, min of 3 bits.
            let entries = _mm256_cvtepu16_epi32(entries_12(words));
            let heads = _mm_cvtph_ps(words);
            let (d, dmin) = (_mm256_broadcastss_ps(heads), _mm256_broadcastss_ps(_mm_movehdup_ps(heads)));
            let three = |bits: __m256i| _mm256_cvtepi32_ps(_mm256_and_si256(bits, _mm256_set1_epi32(7)));
            let half = |sc: __m256, m: __m256| {
                let scale = _mm256_mul_ps(d, _mm256_add_ps(sc, _mm256_set1_ps(self.scale_bias)));
                let min = _mm256_mul_ps(dmin, _mm256_sub_ps(m, _mm256_set1_ps(3.5)));
                OctetScales { scale, minus: _mm256_fmadd_ps(scale, _mm256_set1_ps(self.code_bias), min) }
            };
            [
                half(three(entries), three(_mm256_srli_epi32::<3>(entries))),
                half(three(_mm256_srli_epi32::<6>(entries)), three(_mm256_srli_epi32::<9>(entries))),
            ]
        }
    }
}

/// An f16 (scale, offset) pair for each half.
#[derive(Clone, Copy)]
struct G16;

impl HalfScales for G16 {
    #[inline(always)]
    fn bytes(self) -> usize {
        64
    }

    #[inline(always)]
    fn unpack(self, stored: &[u8]) -> [OctetScales; 2] {
        let stored: [u8; 64] = padded(stored);
        // SAFETY: see the module's comment; 32 readable bytes each.
        unsafe {
            let load = |at: usize| _mm256_loadu_ps(stored.as_ptr().add(at).cast());
            let (a, b) = (load(0), load(32));
            let order = |v: __m256| half_pairs(sort_fours(_mm256_castps_si256(v)));
            [order(_mm256_shuffle_ps::<0b10_00_10_00>(a, b)), order(_mm256_shuffle_ps::<0b11_01_11_01>(a, b))]
        }
    }
}

/// Blocks 0, 1, 4, 5, 2, 3, 6, 7 into [`super::PAIR_ORDER`].
#[inline(always)]
pub(super) fn sort_fours(v: __m256i) -> __m256i {
    // SAFETY: see the module's comment.
    unsafe { _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 2, 6, 1, 5, 3, 7)) }
}

/// Codes of an octet: the planes' bytes.
#[derive(Clone, Copy)]
pub(super) struct Planes<'a> {
    pub(super) low: &'a [u8],
    pub(super) high: &'a [u8],
}

/// What is done with an octet.
trait Octets: Copy {
    /// Adds the products of octet `i` to `acc`.
    fn add<const B: u32>(self, acc: __m256, i: usize, codes: Planes<'_>, w: &[OctetScales; 2]) -> __m256;
}

/// Rows of codes of `B` bits times the 8-bit form of `x`; `false` for f32 scales.
#[inline(always)]
pub(super) fn by_q8<P: Products + HalfDots, const B: u32>(
    layout: Layout,
    x: &Activation<'_>,
    rows: Rows<'_>,
    y: &mut [f32],
) -> bool {
    if let Layout::Fine(fine) = layout {
        fine::rows::<P, B>(fine, x, rows, y);
        return true;
    }
    let q = x.quantized();
    let inputs = if B == 4 { &q.paired } else { &q.quartered };
    let x = ByQ8::<P> { inputs: inputs.as_chunks().0, octets: x.octets(), products: PhantomData };
    dispatch::<_, B>(layout, x, rows, y)
}

/// Rows of codes of `B` bits times the floats of `x`; `false` for f32 scales.
#[inline(always)]
pub(super) fn by_f32<const B: u32>(
    layout: Layout,
    x: &Activation<'_>,
    rows: Rows<'_>,
    y: &mut [f32],
) -> bool {
    let (whole, rest) = x.x().as_chunks::<OCTET>();
    let mut tail = [0.0; OCTET];
    for (t, x) in tail.iter_mut().zip(rest) {
        *t = *x;
    }
    let x = ByF32 { whole, tail: &tail, octets: x.octets() };
    if let Layout::Fine(fine) = layout {
        half_rows::<_, _, B>(fine, exp2i(fine.exponent), x, rows, y);
        return true;
    }
    dispatch::<_, B>(layout, x, rows, y)
}

#[inline(always)]
fn dispatch<O: Octets, const B: u32>(layout: Layout, x: O, rows: Rows<'_>, y: &mut [f32]) -> bool {
    match layout {
        Layout::Compact(compact) => {
            half_rows::<O, _, B>(Whole(compact), exp2i(compact.exponent), x, rows, y);
        }
        Layout::Plain { group: 16, format: ScaleFormat::F16 } => half_rows::<O, _, B>(G16, 1.0, x, rows, y),
        Layout::Plain { group, format: ScaleFormat::F16 } => {
            half_rows::<O, _, B>(Whole(Pairs::of(group)), 1.0, x, rows, y);
        }
        Layout::Plain { .. } | Layout::Fine(_) => return false,
    }
    true
}

/// `length` bytes of `plane` from `at`, through `buffer` where it ends earlier.
#[inline(always)]
pub(super) fn part<'a>(plane: &'a [u8], at: usize, length: usize, buffer: &'a mut [u8; 128]) -> &'a [u8] {
    if let Some(part) = plane.get(at..at + length) {
        return part;
    }
    *buffer = padded(plane.get(at..).unwrap_or_default());
    buffer.get(..length).unwrap_or_default()
}

/// `sum over half blocks of s dot(q, x) - minus sum(x)`, times `unit`, of each
/// row.
#[inline(always)]
fn half_rows<O: Octets, L: HalfScales, const B: u32>(
    layout: L,
    unit: f32,
    x: O,
    rows: Rows<'_>,
    y: &mut [f32],
) {
    let octets = rows.blocks.div_ceil(8);
    let (low_octet, high_octet) = (8 * codes::low_bytes(B), if B % 2 == 1 { 32 } else { 0 });
    let (mut low_tail, mut high_tail) = ([0; 128], [0; 128]);
    for (y, (codes, stored)) in y.iter_mut().zip(rows.iter()) {
        let (low, high) = codes.split_at((codes::low_bytes(B) * rows.blocks).min(codes.len()));
        // SAFETY: see the module's comment.
        let mut acc = unsafe { _mm256_setzero_ps() };
        for i in 0..octets {
            let planes = Planes {
                low: part(low, i * low_octet, low_octet, &mut low_tail),
                high: part(high, i * high_octet, high_octet, &mut high_tail),
            };
            let w = layout.unpack(stored.get(i * layout.bytes()..).unwrap_or_default());
            acc = x.add::<B>(acc, i, planes, &w);
        }
        *y = unit * sum(acc);
    }
}

/// By integer dot products.
struct ByQ8<'a, P> {
    inputs: &'a [[i8; OCTET]],
    octets: &'a [Octet],
    products: PhantomData<P>,
}

impl<P> Clone for ByQ8<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for ByQ8<'_, P> {}

impl<P: Products> Octets for ByQ8<'_, P> {
    #[inline(always)]
    fn add<const B: u32>(self, acc: __m256, i: usize, codes: Planes<'_>, w: &[OctetScales; 2]) -> __m256 {
        let (Some(inputs), Some(x)) = (self.inputs.get(i), self.octets.get(i)) else {
            return acc;
        };
        let dots = if B == 4 { nibble_dots::<P>(codes, inputs) } else { pair_dots::<P, B>(codes, inputs) };
        let mut acc = acc;
        for h in 0..2 {
            // SAFETY: see the module's comment.
            unsafe {
                let scale = _mm256_mul_ps(w[h].scale, load_octet(&x.scales));
                acc = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(dots[h]), acc);
                acc = _mm256_fnmadd_ps(w[h].minus, load_octet(&x.halves[h]), acc);
            }
        }
        acc
    }
}

/// Dot products of both halves of eight blocks of 4-bit codes, in
/// [`super::PAIR_ORDER`].
#[inline(always)]
fn nibble_dots<P: Products>(codes: Planes<'_>, inputs: &[i8; OCTET]) -> [__m256i; 2] {
    // SAFETY: see the module's comment; all loads are of 32-byte arrays.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 4]; 2];
        let mut dots = [_mm256_setzero_si256(); 2];
        let pairs = codes.low.as_chunks::<32>().0.iter().zip(inputs.as_chunks::<64>().0);
        for (i, (codes, x)) in pairs.enumerate().take(4) {
            let codes = load_32(codes);
            let fields = [codes, _mm256_srli_epi16::<4>(codes)];
            for h in 0..2 {
                let q = _mm256_and_si256(fields[h], _mm256_set1_epi8(15));
                let x = _mm256_loadu_si256(x.as_ptr().add(32 * h).cast());
                sums[h][i] = P::quads(P::add(_mm256_setzero_si256(), q, x));
            }
        }
        for ([a, b, c, d], dots) in sums.into_iter().zip(&mut dots) {
            *dots = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        }
        dots
    }
}

/// The same of codes of 2 or 3 bits.
#[inline(always)]
fn pair_dots<P: Products, const B: u32>(codes: Planes<'_>, inputs: &[i8; OCTET]) -> [__m256i; 2] {
    let [[a, b], [c, d]] = pair_sums::<P, B>(codes, inputs);
    // SAFETY: see the module's comment.
    unsafe {
        [
            sort_fours(_mm256_hadd_epi32(P::quads(a), P::quads(b))),
            sort_fours(_mm256_hadd_epi32(P::quads(c), P::quads(d))),
        ]
    }
}

/// Sums of products of codes of 2 or 3 bits: of first and second halves, each
/// of blocks 0 to 3 and 4 to 7, eight bytes' worth a block.
#[inline(always)]
pub(super) fn pair_sums<P: Products, const B: u32>(
    codes: Planes<'_>,
    inputs: &[i8; OCTET],
) -> [[__m256i; 2]; 2] {
    // SAFETY: see the module's comment; all loads are of 32-byte arrays.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); 2]; 2];
        let fours = codes.low.as_chunks::<32>().0.iter().zip(inputs.as_chunks::<128>().0);
        for (i, (low, x)) in fours.enumerate().take(2) {
            let low = load_32(low);
            let mut fields =
                [low, _mm256_srli_epi16::<2>(low), _mm256_srli_epi16::<4>(low), _mm256_srli_epi16::<6>(low)];
            for field in &mut fields {
                *field = _mm256_and_si256(*field, _mm256_set1_epi8(3));
            }
            if B == 3 {
                let high = high_bits(codes.high, i);
                let bits = [
                    _mm256_slli_epi16::<2>(high),
                    high,
                    _mm256_srli_epi16::<2>(high),
                    _mm256_srli_epi16::<4>(high),
                ];
                for (field, bits) in fields.iter_mut().zip(bits) {
                    *field = _mm256_or_si256(*field, _mm256_and_si256(bits, _mm256_set1_epi8(4)));
                }
            }
            for (f, (q, x)) in fields.into_iter().zip(x.as_chunks::<32>().0).enumerate() {
                let x = _mm256_loadu_si256(x.as_ptr().cast());
                sums[f / 2][i] = P::add(sums[f / 2][i], q, x);
            }
        }
        sums
    }
}

/// The high bits of blocks `4 i .. 4 i + 4`, eight bytes each: bit `2 f` of a
/// byte belongs to field `f`.
#[inline(always)]
fn high_bits(high: &[u8], i: usize) -> __m256i {
    // SAFETY: see the module's comment.
    unsafe {
        let all = load_32(&padded(high));
        let first = 4 * i as i32;
        let order = _mm256_add_epi32(_mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3), _mm256_set1_epi32(first));
        // Weights 8 f .. 8 f + 4 are bits 2 f of the four bytes, the next four
        // bits 2 f + 1.
        _mm256_srlv_epi32(_mm256_permutevar8x32_epi32(all, order), _mm256_setr_epi32(0, 1, 0, 1, 0, 1, 0, 1))
    }
}

/// By floats.
#[derive(Clone, Copy)]
struct ByF32<'a> {
    whole: &'a [[f32; OCTET]],
    tail: &'a [f32; OCTET],
    octets: &'a [Octet],
}

impl Octets for ByF32<'_> {
    #[inline(always)]
    fn add<const B: u32>(self, acc: __m256, i: usize, codes: Planes<'_>, w: &[OctetScales; 2]) -> __m256 {
        let Some(sums) = self.octets.get(i) else { return acc };
        let x = self.whole.get(i).unwrap_or(self.tail);
        let mut row = [0; 160];
        let (low, high) = row.split_at_mut(codes.low.len().min(128));
        low.copy_from_slice(codes.low.get(..low.len()).unwrap_or_default());
        for (to, from) in high.iter_mut().zip(codes.high) {
            *to = *from;
        }
        let mut acc = acc;
        let mut scales = [F32x8::ZERO; 2];
        // SAFETY: see the module's comment; all loads are of parts of arrays.
        unsafe {
            for h in 0..2 {
                _mm256_store_ps(scales[h].0.as_mut_ptr(), w[h].scale);
                acc = _mm256_fnmadd_ps(w[h].minus, load_octet(&sums.halves[h]), acc);
            }
            for (g, x) in x.as_chunks::<32>().0.iter().enumerate() {
                let fields = codes::fields::<B>(&row, 8, g);
                let x = x.as_chunks::<8>().0;
                // PAIR_ORDER: even blocks first, then odd ones.
                let place = g / 2 + g % 2 * 4;
                for h in 0..2 {
                    let dot = _mm256_mul_ps(from_word(fields[2 * h]), load_octet(&x[2 * h]));
                    let dot = _mm256_fmadd_ps(from_word(fields[2 * h + 1]), load_octet(&x[2 * h + 1]), dot);
                    acc = _mm256_fmadd_ps(_mm256_set1_ps(scales[h].0[place]), dot, acc);
                }
            }
            acc
        }
    }
}

/// Eight bytes as floats.
#[inline(always)]
fn from_word(word: u64) -> __m256 {
    // SAFETY: see the module's comment.
    unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(word.cast_signed()))) }
}
