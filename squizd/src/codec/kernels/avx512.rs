//! AVX-512 kernels; products of the 8-bit precision by VNNI's `dpbusd`, which
//! multiplies four unsigned by four signed bytes into 32 bits.
#![allow(unsafe_code)] // x86 intrinsics, sound as x86.rs explains
#![allow(clippy::wildcard_imports, reason = "intrinsics")]

use super::fine::HalfDots;
use super::halves::{self, Planes, Products};
use super::x86::{self, Dots, load_32};
use super::{OCTET, Rows};
use crate::codec::activation::{Activation, Precision};
use crate::codec::integer::Layout;
use std::arch::x86_64::*;

/// Rows of codes of `B` bits times `x`; `false` if the layout has no kernel
/// here. The CPU must have what [`crate::simd::Level::Avx512`] asks for.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn integer<const B: u32>(
    layout: Layout,
    x: &Activation<'_>,
    rows: Rows<'_>,
    y: &mut [f32],
) -> bool {
    match x.precision() {
        Precision::Q8 => {
            (B == 4 && x86::int4_q8::<Vnni>(layout, x, rows, y))
                || halves::by_q8::<Vnni, B>(layout, x, rows, y)
        }
        // Eight floats at a time either way.
        Precision::F32 => super::avx2::integer::<B>(layout, x, rows, y),
    }
}

/// Q8 rows times `x`. The CPU must have what [`crate::simd::Level::Avx512`] asks for.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn q8(scale_bytes: usize, x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) {
    match x.precision() {
        Precision::Q8 => x86::q8_q8::<Vnni>(scale_bytes, x.quantized(), rows, y),
        Precision::F32 => x86::q8_f32(scale_bytes, x.x(), rows, y),
    }
}

struct Vnni;

impl Dots for Vnni {
    #[inline(always)]
    fn int4(codes: &[u8], paired: &[i8; 256]) -> __m256i {
        // SAFETY: only called from this file's entry points; all loads are of
        // 64-byte parts of the arrays.
        unsafe {
            let low = _mm512_set1_epi8(15);
            let mut products = [_mm512_setzero_si512(); 2];
            let quads = codes.chunks(64).zip(paired.as_chunks::<128>().0);
            for (product, (codes, x)) in products.iter_mut().zip(quads) {
                let codes = match codes.first_chunk::<64>() {
                    Some(codes) => _mm512_loadu_si512(codes.as_ptr().cast()),
                    None => _mm512_zextsi256_si512(load_32(&x86::padded(codes))),
                };
                // Two pairs of blocks, each first halves then second halves.
                let (a, b) =
                    (_mm512_loadu_si512(x.as_ptr().cast()), _mm512_loadu_si512(x.as_ptr().add(64).cast()));
                let first = _mm512_shuffle_i64x2::<0x44>(a, b);
                let second = _mm512_shuffle_i64x2::<0xee>(a, b);
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), low);
                *product = _mm512_dpbusd_epi32(*product, _mm512_and_si512(codes, low), first);
                *product = _mm512_dpbusd_epi32(*product, high, second);
            }
            // Lane l holds four partial sums of block l (p) and of block l + 4 (q):
            // fold them to p, q, p, q, then pick in PAIR_ORDER.
            let [p, q] = products;
            let halves = _mm512_add_epi32(_mm512_unpacklo_epi32(p, q), _mm512_unpackhi_epi32(p, q));
            let sums = _mm512_add_epi32(halves, _mm512_shuffle_epi32::<0x4e>(halves));
            let order = _mm512_setr_epi32(0, 8, 1, 9, 4, 12, 5, 13, 0, 0, 0, 0, 0, 0, 0, 0);
            _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, sums))
        }
    }

    #[inline(always)]
    fn q8(codes: &[u8; 32], x: &[i8; 32]) -> __m256i {
        // SAFETY: only called from this file's entry points; loads of 32 bytes.
        unsafe {
            let (w, x) = (load_32(codes), _mm256_loadu_si256(x.as_ptr().cast()));
            // |w| (up to 128, unsigned) times x with w's sign.
            let x = _mm256_sign_epi8(x, w);
            _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_abs_epi8(w), x)
        }
    }
}

impl Products for Vnni {
    #[inline(always)]
    fn add(sums: __m256i, codes: __m256i, x: __m256i) -> __m256i {
        // SAFETY: only called from this file's entry points.
        unsafe { _mm256_dpbusd_epi32(sums, codes, x) }
    }

    #[inline(always)]
    fn quads(sums: __m256i) -> __m256i {
        sums
    }
}

impl HalfDots for Vnni {
    #[inline(always)]
    fn dots<const B: u32>(codes: Planes<'_>, x: &[i8; OCTET]) -> __m256i {
        // SAFETY: only called from this file's entry points; all loads are of
        // 64-byte arrays.
        unsafe {
            if B < 4 {
                let [[a, b], [c, d]] = halves::pair_sums::<Self, B>(codes, x);
                // Every sum fits 16 bits: second halves move beside first ones.
                let p = _mm256_castsi256_ps(_mm256_blend_epi16::<0xaa>(a, _mm256_slli_epi32::<16>(c)));
                let q = _mm256_castsi256_ps(_mm256_blend_epi16::<0xaa>(b, _mm256_slli_epi32::<16>(d)));
                let even = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(p, q));
                let odd = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(p, q));
                return halves::sort_fours(_mm256_add_epi16(even, odd));
            }
            // Registers of 32 bytes: with those of 64, the rest of the work would
            // have one port less.
            let low = _mm256_set1_epi8(15);
            let zero = _mm256_setzero_si256();
            let mut sums = [zero; 4];
            let pairs = codes.low.as_chunks::<32>().0.iter().zip(x.as_chunks::<64>().0);
            for (sum, (codes, x)) in sums.iter_mut().zip(pairs) {
                let codes = load_32(codes);
                let first = _mm256_loadu_si256(x.as_ptr().cast());
                let second = _mm256_loadu_si256(x.as_ptr().add(32).cast());
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), low);
                // Every sum fits 16 bits: first halves before second ones.
                *sum = _mm256_packs_epi32(
                    _mm256_dpbusd_epi32(zero, _mm256_and_si256(codes, low), first),
                    _mm256_dpbusd_epi32(zero, high, second),
                );
            }
            let [a, b, c, d] = sums;
            _mm256_hadd_epi16(_mm256_hadd_epi16(a, b), _mm256_hadd_epi16(c, d))
        }
    }
}
