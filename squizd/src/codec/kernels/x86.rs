//! Row loops that the x86 levels share: all but the integer dot products of
//! the 8-bit precision, which each level brings.
//!
//! Everything here is `#[inline(always)]` into the entry points of [`super::avx2`]
//! and [`super::avx512`], which are compiled for at least AVX2, FMA and F16C
//! and run only where the CPU has them; that is what makes the intrinsics sound.
#![allow(unsafe_code)] // x86 intrinsics
#![allow(clippy::wildcard_imports, reason = "intrinsics")]

use super::{OCTET, Rows};
use crate::codec::activation::{Activation, Octet, Quantized};
use crate::codec::half_float::f16_to_f32;
use crate::codec::integer::{Compact, Layout, ScaleFormat};
use crate::codec::lanes::{F32x8, exp2i};
use std::{arch::x86_64::*, marker::PhantomData};

/// The integer dot products of a level.
pub(super) trait Dots {
    /// Of up to an octet of INT4 blocks, in whole pairs, with paired codes of
    /// `x`, in [`super::PAIR_ORDER`]; 0 for blocks that are not there.
    fn int4(codes: &[u8], paired: &[i8; 256]) -> __m256i;

    /// Of a block of signed bytes with codes of `x`, as eight partial sums.
    fn q8(codes: &[u8; 32], x: &[i8; 32]) -> __m256i;
}

/// The sum of eight lanes.
#[inline(always)]
pub(super) fn sum(v: __m256) -> f32 {
    // SAFETY: see the module's comment.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

/// The first `N` bytes of `bytes`, zeros where they end earlier.
#[inline(always)]
pub(super) fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    if let Some(whole) = bytes.first_chunk() {
        return *whole;
    }
    let mut out = [0; N];
    for (o, b) in out.iter_mut().zip(bytes) {
        *o = *b;
    }
    out
}

#[inline(always)]
pub(super) fn load_octet(x: &[f32; 8]) -> __m256 {
    // SAFETY: see the module's comment; 32 readable bytes.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[inline(always)]
pub(super) fn load_32(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: see the module's comment; 32 readable bytes.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Scales of an octet's blocks, in [`super::PAIR_ORDER`], and what is
/// subtracted after scaling unsigned codes.
pub(super) struct OctetScales {
    pub(super) scale: __m256,
    pub(super) minus: __m256,
}

/// How a layout stores the scales of an octet.
pub(super) trait StoredScales: Copy {
    /// Bytes of an octet's scales.
    fn bytes(self) -> usize;

    /// Scales from the beginning of `stored`; bytes past its end are zeros.
    fn unpack(self, stored: &[u8]) -> OctetScales;
}

/// Rows of INT4: `sum over blocks of s dot(q, x) - minus sum(x)`, times `unit`.
#[inline(always)]
fn int4_rows<O: Octets>(layout: impl StoredScales, unit: f32, x: O, rows: Rows<'_>, y: &mut [f32]) {
    let whole = rows.code_stride / 128;
    // Bytes of the last, partial octet, in whole pairs of blocks. What lies
    // past the row's end, be it the next row's bytes, meets inputs of 0.
    let rest = (rows.code_stride % 128).next_multiple_of(32);
    for (i, (y, (codes, scales))) in y.iter_mut().zip(rows.iter()).enumerate() {
        // SAFETY: see the module's comment.
        let mut acc = unsafe { _mm256_setzero_ps() };
        let octets = codes.as_chunks::<128>().0.iter().zip(scales.chunks_exact(layout.bytes()));
        for (o, (codes, stored)) in octets.enumerate() {
            acc = x.add(acc, o, codes, &layout.unpack(stored));
        }
        if rest > 0 {
            let stored =
                rows.scales.get(i * rows.scale_stride + whole * layout.bytes()..).unwrap_or_default();
            let codes = rows.codes.get(i * rows.code_stride + whole * 128..).unwrap_or_default();
            let w = layout.unpack(stored);
            acc = match codes.get(..rest) {
                Some(codes) => x.add(acc, whole, codes, &w),
                None => x.add(acc, whole, &padded::<128>(codes), &w),
            };
        }
        *y = unit * sum(acc);
    }
}

/// What is done with an octet of INT4 blocks.
trait Octets: Copy {
    /// Adds the products of octet `i` to `acc`; `codes` has up to 128 bytes in
    /// whole pairs of blocks.
    fn add(self, acc: __m256, i: usize, codes: &[u8], w: &OctetScales) -> __m256;
}

/// INT4 rows times `x`; `false` for layouts without a kernel here (groups of
/// 16, and f32 scales).
#[inline(always)]
fn int4<O: Octets>(layout: Layout, x: O, rows: Rows<'_>, y: &mut [f32]) -> bool {
    match layout {
        Layout::Compact(compact) => int4_rows::<O>(compact, exp2i(compact.exponent), x, rows, y),
        Layout::Plain { group: group @ 32.., format: ScaleFormat::F16 } => {
            int4_rows::<O>(Pairs::of(group), 1.0, x, rows, y);
        }
        _ => return false,
    }
    true
}

/// INT4 rows times the 8-bit form of `x`.
#[inline(always)]
pub(super) fn int4_q8<D: Dots>(layout: Layout, x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) -> bool {
    int4(
        layout,
        ByQ8::<D> { paired: x.quantized().paired.as_chunks().0, octets: x.octets(), dots: PhantomData },
        rows,
        y,
    )
}

/// INT4 rows times the floats of `x`.
#[inline(always)]
pub(super) fn int4_f32(layout: Layout, x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) -> bool {
    let (whole, rest) = x.x().as_chunks::<OCTET>();
    let mut tail = [0.0; OCTET];
    for (t, x) in tail.iter_mut().zip(rest) {
        *t = *x;
    }
    int4(layout, ByF32 { whole, tail: &tail, octets: x.octets() }, rows, y)
}

/// By integer dot products.
struct ByQ8<'a, D> {
    paired: &'a [[i8; OCTET]],
    octets: &'a [Octet],
    dots: PhantomData<D>,
}

impl<D> Clone for ByQ8<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<D> Copy for ByQ8<'_, D> {}

impl<D: Dots> Octets for ByQ8<'_, D> {
    #[inline(always)]
    fn add(self, acc: __m256, i: usize, codes: &[u8], w: &OctetScales) -> __m256 {
        let (Some(paired), Some(x)) = (self.paired.get(i), self.octets.get(i)) else {
            return acc;
        };
        // SAFETY: see the module's comment.
        unsafe {
            let scale = _mm256_mul_ps(w.scale, load_octet(&x.scales));
            let acc = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(D::int4(codes, paired)), acc);
            _mm256_fnmadd_ps(w.minus, load_octet(&x.sums), acc)
        }
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
    fn add(self, acc: __m256, i: usize, codes: &[u8], w: &OctetScales) -> __m256 {
        let Some(sums) = self.octets.get(i) else { return acc };
        let x = self.whole.get(i).unwrap_or(self.tail);
        let mut scales = F32x8::ZERO;
        // SAFETY: see the module's comment; all loads are of parts of arrays.
        unsafe {
            _mm256_store_ps(scales.0.as_mut_ptr(), w.scale);
            let mut acc = _mm256_fnmadd_ps(w.minus, load_octet(&sums.sums), acc);
            let blocks = codes.as_chunks::<16>().0.iter().zip(x.as_chunks::<32>().0);
            for (g, (codes, x)) in blocks.enumerate() {
                let codes = _mm_loadu_si128(codes.as_ptr().cast());
                let low = _mm_and_si128(codes, _mm_set1_epi8(15));
                let high = _mm_and_si128(_mm_srli_epi16::<4>(codes), _mm_set1_epi8(15));
                let dot = _mm256_mul_ps(from_u8(low), _mm256_loadu_ps(x.as_ptr()));
                let dot = _mm256_fmadd_ps(
                    from_u8(_mm_srli_si128::<8>(low)),
                    _mm256_loadu_ps(x.as_ptr().add(8)),
                    dot,
                );
                let dot = _mm256_fmadd_ps(from_u8(high), _mm256_loadu_ps(x.as_ptr().add(16)), dot);
                let dot = _mm256_fmadd_ps(
                    from_u8(_mm_srli_si128::<8>(high)),
                    _mm256_loadu_ps(x.as_ptr().add(24)),
                    dot,
                );
                // PAIR_ORDER: even blocks first, then odd ones.
                let scale = scales.0[g / 2 + g % 2 * 4];
                acc = _mm256_fmadd_ps(_mm256_set1_ps(scale), dot, acc);
            }
            acc
        }
    }
}

/// The low eight bytes as floats.
#[inline(always)]
fn from_u8(bytes: __m128i) -> __m256 {
    // SAFETY: see the module's comment.
    unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)) }
}

/// The eight 12-bit entries behind the first 32 bits, in PAIR_ORDER.
#[inline(always)]
pub(super) fn entries_12(words: __m128i) -> __m128i {
    // SAFETY: see the module's comment.
    unsafe {
        // The 16 bits that hold each entry; those of odd groups begin at bit 4.
        let windows =
            _mm_shuffle_epi8(words, _mm_setr_epi8(4, 5, 7, 8, 10, 11, 13, 14, 5, 6, 8, 9, 11, 12, 14, 15));
        let lifted = _mm_mullo_epi16(windows, _mm_setr_epi16(16, 16, 16, 16, 1, 1, 1, 1));
        _mm_srli_epi16::<4>(lifted)
    }
}

impl StoredScales for Compact {
    #[inline(always)]
    fn bytes(self) -> usize {
        16
    }

    #[inline(always)]
    fn unpack(self, stored: &[u8]) -> OctetScales {
        let stored: [u8; 16] = padded(stored);
        // SAFETY: see the module's comment; 16 readable bytes.
        unsafe {
            let words = _mm_loadu_si128(stored.as_ptr().cast());
            let entries = entries_12(words);
            let sc = _mm256_cvtepu16_epi32(_mm_and_si128(entries, _mm_set1_epi16(63)));
            let m = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(_mm_srli_epi16::<6>(entries)));
            let heads = _mm_cvtph_ps(words);
            let scale = _mm256_mul_ps(_mm256_broadcastss_ps(heads), _mm256_cvtepi32_ps(sc));
            let dmin = _mm256_broadcastss_ps(_mm_movehdup_ps(heads));
            let m = _mm256_sub_ps(m, _mm256_set1_ps(self.min_bias));
            let minus = _mm256_fmadd_ps(scale, _mm256_set1_ps(self.code_bias), _mm256_mul_ps(dmin, m));
            OctetScales { scale, minus }
        }
    }
}

/// f16 (scale, offset) pairs for groups of 32 or more: which one belongs to
/// each block of an octet, in [`super::PAIR_ORDER`], and the bytes of an octet's.
#[derive(Clone, Copy)]
pub(super) struct Pairs {
    order: [i32; 8],
    bytes: usize,
}

impl Pairs {
    /// Of groups of `group` weights.
    pub(super) fn of(group: usize) -> Self {
        let order = match group {
            32 => [0, 2, 4, 6, 1, 3, 5, 7],
            64 => [0, 1, 2, 3, 0, 1, 2, 3],
            _ => [0, 0, 1, 1, 0, 0, 1, 1],
        };
        Self { order, bytes: OCTET / group.max(32) * 4 }
    }
}

impl StoredScales for Pairs {
    #[inline(always)]
    fn bytes(self) -> usize {
        self.bytes
    }

    #[inline(always)]
    fn unpack(self, stored: &[u8]) -> OctetScales {
        // SAFETY: see the module's comment; 32, 16 and 8 readable bytes.
        unsafe {
            let pairs = match self.bytes {
                32 => load_32(&padded(stored)),
                16 => _mm256_castsi128_si256(_mm_loadu_si128(padded::<16>(stored).as_ptr().cast())),
                _ => _mm256_castsi128_si256(_mm_loadl_epi64(padded::<8>(stored).as_ptr().cast())),
            };
            let order = _mm256_loadu_si256(self.order.as_ptr().cast());
            half_pairs(_mm256_permutevar8x32_epi32(pairs, order))
        }
    }
}

/// Eight (scale, offset) pairs of f16.
#[inline(always)]
pub(super) fn half_pairs(pairs: __m256i) -> OctetScales {
    // SAFETY: see the module's comment.
    unsafe {
        let scales = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff));
        let packed = _mm256_packus_epi32(scales, _mm256_srli_epi32::<16>(pairs));
        let sorted = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
        let offset = _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(sorted));
        OctetScales {
            scale: _mm256_cvtph_ps(_mm256_castsi256_si128(sorted)),
            minus: _mm256_xor_ps(offset, _mm256_set1_ps(-0.0)),
        }
    }
}

/// Rows of Q8 times the 8-bit form of `x`: `sum over blocks of d dx dot(q, x)`.
#[inline(always)]
pub(super) fn q8_q8<D: Dots>(scale_bytes: usize, x: &Quantized, rows: Rows<'_>, y: &mut [f32]) {
    let (blocks, dx) = (x.codes.as_chunks::<32>().0, x.scales.as_chunks::<8>().0);
    for (y, (codes, scales)) in y.iter_mut().zip(rows.iter()) {
        // SAFETY: see the module's comment.
        let mut acc = unsafe { [_mm256_setzero_ps(); 2] };
        let octets = codes.chunks(OCTET).zip(scales.chunks(8 * scale_bytes));
        for (((codes, stored), x), dx) in octets.zip(blocks.chunks(8)).zip(dx) {
            let mut factors = F32x8::ZERO;
            // SAFETY: see the module's comment.
            unsafe {
                let d = q8_scales(scale_bytes, stored);
                _mm256_store_ps(factors.0.as_mut_ptr(), _mm256_mul_ps(d, load_octet(dx)));
            }
            let blocks = codes.as_chunks::<32>().0.iter().zip(x).zip(factors.0);
            for (i, ((codes, x), factor)) in blocks.enumerate() {
                // SAFETY: see the module's comment.
                acc[i % 2] = unsafe {
                    let dot = _mm256_cvtepi32_ps(D::q8(codes, x));
                    _mm256_fmadd_ps(_mm256_set1_ps(factor), dot, acc[i % 2])
                };
            }
        }
        // SAFETY: see the module's comment.
        *y = sum(unsafe { _mm256_add_ps(acc[0], acc[1]) });
    }
}

/// Rows of Q8 times the floats of `x`.
#[inline(always)]
pub(super) fn q8_f32(scale_bytes: usize, x: &[f32], rows: Rows<'_>, y: &mut [f32]) {
    let (whole, rest) = x.as_chunks::<32>();
    let mut tail = [0.0; 32];
    for (t, x) in tail.iter_mut().zip(rest) {
        *t = *x;
    }
    for (y, (codes, scales)) in y.iter_mut().zip(rows.iter()) {
        // SAFETY: see the module's comment.
        let mut acc = unsafe { _mm256_setzero_ps() };
        let blocks = codes.as_chunks::<32>().0.iter().zip(scales.chunks_exact(scale_bytes));
        for (i, (codes, stored)) in blocks.enumerate() {
            let x = whole.get(i).unwrap_or(&tail);
            // SAFETY: see the module's comment; all loads are of parts of arrays.
            unsafe {
                let mut dot = _mm256_setzero_ps();
                for (codes, x) in codes.as_chunks::<8>().0.iter().zip(x.as_chunks::<8>().0) {
                    let q = _mm256_cvtepi8_epi32(_mm_loadl_epi64(codes.as_ptr().cast()));
                    dot = _mm256_fmadd_ps(_mm256_cvtepi32_ps(q), load_octet(x), dot);
                }
                acc = _mm256_fmadd_ps(_mm256_set1_ps(crate::codec::q8::scale(stored)), dot, acc);
            }
        }
        *y = sum(acc);
    }
}

/// Eight scales of two or four bytes; zeros where `stored` ends earlier.
#[inline(always)]
fn q8_scales(scale_bytes: usize, stored: &[u8]) -> __m256 {
    // SAFETY: see the module's comment; 16 and 32 readable bytes.
    unsafe {
        if scale_bytes == 2 {
            _mm256_cvtph_ps(_mm_loadu_si128(padded::<16>(stored).as_ptr().cast()))
        } else {
            _mm256_loadu_ps(padded::<32>(stored).as_ptr().cast())
        }
    }
}

/// Dot product of IEEE halves with floats.
#[inline(always)]
pub(super) fn dot_f16(halves: &[u8], x: &[f32]) -> f32 {
    let (whole, rest) = halves.as_chunks::<32>();
    let (xs, x_rest) = x.as_chunks::<16>();
    // SAFETY: see the module's comment; all loads are of parts of arrays.
    let mut acc = unsafe { [_mm256_setzero_ps(); 2] };
    for (halves, x) in whole.iter().zip(xs) {
        for (acc, (halves, x)) in acc.iter_mut().zip(halves.as_chunks::<16>().0.iter().zip(x.as_chunks().0)) {
            // SAFETY: see the module's comment; 16 readable bytes.
            *acc = unsafe {
                let w = _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().cast()));
                _mm256_fmadd_ps(w, load_octet(x), *acc)
            };
        }
    }
    let tail = rest.as_chunks::<2>().0.iter().zip(x_rest);
    let tail: f32 = tail.map(|(h, x)| f16_to_f32(u16::from_le_bytes(*h)) * x).sum();
    // SAFETY: see the module's comment.
    sum(unsafe { _mm256_add_ps(acc[0], acc[1]) }) + tail
}
