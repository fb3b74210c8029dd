//! Row loops of the 8-bit precision that the x86 levels share: all but the
//! integer dot products, which each level brings as functions.
//!
//! Everything here is `#[inline(always)]` into the entry points of [`super::avx2`]
//! and [`super::avx512`], which are compiled for at least AVX2, FMA and F16C
//! and run only where the CPU has them; that is what makes the intrinsics sound.
#![allow(unsafe_code)] // x86 intrinsics

use super::{OCTET, Rows};
use crate::codec::activation::{Octet, Quantized};
use crate::codec::int4::{Compact, Layout, ScaleFormat};
use crate::codec::lanes::{F32x8, exp2i};
use std::arch::x86_64::*;

/// The integer dot products of a level.
pub(super) trait Dots {
    /// Of an octet of INT4 blocks with paired codes of `x`, in
    /// [`super::PAIR_ORDER`].
    fn int4(codes: &[u8; 128], paired: &[i8; 256]) -> __m256i;

    /// Of a block of signed bytes with codes of `x`, as eight partial sums.
    fn q8(codes: &[u8; 32], x: &[i8; 32]) -> __m256i;
}

/// The sum of eight lanes.
#[inline(always)]
fn sum(v: __m256) -> f32 {
    // SAFETY: see the module's comment.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

/// The first `N` bytes of `bytes`, zeros where they end earlier.
#[inline(always)]
fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
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
fn load_octet(x: &[f32; 8]) -> __m256 {
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
struct OctetScales {
    scale: __m256,
    minus: __m256,
}

/// How a layout stores the scales of an octet in `S` bytes.
trait StoredScales<const S: usize>: Copy {
    fn unpack(self, stored: &[u8; S]) -> OctetScales;
}

/// Rows of INT4: `sum over blocks of s dx dot(q, x) - minus sum(x)`, times `unit`.
#[inline(always)]
fn int4_rows<D: Dots, const S: usize>(
    layout: impl StoredScales<S>,
    unit: f32,
    x: &Quantized,
    rows: Rows<'_>,
    y: &mut [f32],
) {
    let paired = x.paired.as_chunks::<OCTET>().0;
    for (y, (codes, scales)) in y.iter_mut().zip(rows.iter()) {
        let (octets, code_tail) = codes.as_chunks::<128>();
        let (stored, scale_tail) = scales.as_chunks::<S>();
        // SAFETY: see the module's comment.
        let mut acc = unsafe { _mm256_setzero_ps() };
        for (((codes, stored), paired), x) in octets.iter().zip(stored).zip(paired).zip(&x.octets) {
            acc = octet::<D>(acc, codes, &layout.unpack(stored), paired, x);
        }
        if let (false, Some(paired), Some(x)) = (code_tail.is_empty(), paired.last(), x.octets.last()) {
            let stored = stored.get(octets.len()).copied().unwrap_or_else(|| padded(scale_tail));
            acc = octet::<D>(acc, &padded(code_tail), &layout.unpack(&stored), paired, x);
        }
        *y = unit * sum(acc);
    }
}

/// Adds an octet's products to `acc`.
#[inline(always)]
fn octet<D: Dots>(
    acc: __m256,
    codes: &[u8; 128],
    w: &OctetScales,
    paired: &[i8; OCTET],
    x: &Octet,
) -> __m256 {
    // SAFETY: see the module's comment.
    unsafe {
        let scale = _mm256_mul_ps(w.scale, load_octet(&x.scales));
        let acc = _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(D::int4(codes, paired)), acc);
        _mm256_fnmadd_ps(w.minus, load_octet(&x.sums), acc)
    }
}

/// INT4 rows times `x`; `false` for layouts without a kernel (plain groups of
/// 16 and f32 scales).
#[inline(always)]
pub(super) fn int4<D: Dots>(layout: Layout, x: &Quantized, rows: Rows<'_>, y: &mut [f32]) -> bool {
    match layout {
        Layout::Compact(compact) => int4_rows::<D, 16>(compact, exp2i(compact.exponent), x, rows, y),
        Layout::Plain { group: 32, format: ScaleFormat::F16 } => {
            int4_rows::<D, 32>(Pairs([0, 2, 4, 6, 1, 3, 5, 7]), 1.0, x, rows, y);
        }
        Layout::Plain { group: 64, format: ScaleFormat::F16 } => {
            int4_rows::<D, 16>(Pairs([0, 1, 2, 3, 0, 1, 2, 3]), 1.0, x, rows, y);
        }
        Layout::Plain { group: 128, format: ScaleFormat::F16 } => {
            int4_rows::<D, 8>(Pairs([0, 0, 1, 1, 0, 0, 1, 1]), 1.0, x, rows, y);
        }
        Layout::Plain { .. } => return false,
    }
    true
}

impl StoredScales<16> for Compact {
    #[inline(always)]
    fn unpack(self, stored: &[u8; 16]) -> OctetScales {
        // SAFETY: see the module's comment; 16 readable bytes.
        unsafe {
            let words = _mm_loadu_si128(stored.as_ptr().cast());
            // The 16 bits that hold each 12-bit entry, in PAIR_ORDER; entries
            // of odd groups begin at bit 4.
            let windows = _mm_shuffle_epi8(
                words,
                _mm_setr_epi8(4, 5, 7, 8, 10, 11, 13, 14, 5, 6, 8, 9, 11, 12, 14, 15),
            );
            let lifted = _mm_mullo_epi16(windows, _mm_setr_epi16(16, 16, 16, 16, 1, 1, 1, 1));
            let entries = _mm_srli_epi16::<4>(lifted);
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

/// f16 (scale, offset) pairs: which one belongs to each block of an octet, in
/// [`super::PAIR_ORDER`].
#[derive(Clone, Copy)]
struct Pairs([i32; 8]);

impl<const S: usize> StoredScales<S> for Pairs {
    #[inline(always)]
    fn unpack(self, stored: &[u8; S]) -> OctetScales {
        // SAFETY: see the module's comment; 32 readable bytes.
        unsafe {
            let order = _mm256_loadu_si256(self.0.as_ptr().cast());
            let pairs = _mm256_permutevar8x32_epi32(load_32(&padded(stored)), order);
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
}

/// Rows of Q8: `sum over blocks of d dx dot(q, x)`.
#[inline(always)]
pub(super) fn q8<D: Dots>(scale_bytes: usize, x: &Quantized, rows: Rows<'_>, y: &mut [f32]) {
    let (blocks, dx) = (x.codes.as_chunks::<32>().0, x.scales.as_chunks::<8>().0);
    for (y, (codes, scales)) in y.iter_mut().zip(rows.iter()) {
        // SAFETY: see the module's comment.
        let mut acc = unsafe { [_mm256_setzero_ps(); 2] };
        let octets = codes.chunks(OCTET).zip(scales.chunks(8 * scale_bytes));
        for (((codes, stored), x), dx) in octets.zip(blocks.chunks(8)).zip(dx) {
            let mut factors = F32x8([0.0; 8]);
            // SAFETY: see the module's comment; 16 and 32 readable bytes.
            unsafe {
                let d = if scale_bytes == 2 {
                    _mm256_cvtph_ps(_mm_loadu_si128(padded::<16>(stored).as_ptr().cast()))
                } else {
                    _mm256_loadu_ps(padded::<32>(stored).as_ptr().cast())
                };
                _mm256_store_ps(factors.0.as_mut_ptr(), _mm256_mul_ps(d, load_octet(dx)));
            }
            for (i, ((codes, x), factor)) in
                codes.as_chunks::<32>().0.iter().zip(x).zip(factors.0).enumerate()
            {
                // SAFETY: see the module's comment.
                acc[i % 2] = unsafe {
                    _mm256_fmadd_ps(_mm256_set1_ps(factor), _mm256_cvtepi32_ps(D::q8(codes, x)), acc[i % 2])
                };
            }
        }
        // SAFETY: see the module's comment.
        *y = sum(unsafe { _mm256_add_ps(acc[0], acc[1]) });
    }
}
