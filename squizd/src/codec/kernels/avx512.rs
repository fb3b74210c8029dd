//! AVX-512 kernels; products of the 8-bit precision by VNNI's `dpbusd`, which
//! multiplies four unsigned by four signed bytes into 32 bits.
#![allow(unsafe_code)] // x86 intrinsics, sound as x86.rs explains
#![allow(clippy::wildcard_imports, reason = "intrinsics")]

use super::fine::{ENTRIES, HalfDots};
use super::halves::{self, Planes, Products};
use super::x86::{self, Dots, load_32};
use super::{OCTET, Rows};
use crate::codec::activation::{Activation, Octet, Precision};
use crate::codec::integer::{Fine, Layout};
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
    fn two_rows<const B: u32>(
        layout: Fine,
        low: [&[u8]; 2],
        stored: [&[u8]; 2],
        x: &[[i8; OCTET]],
        octets: &[Octet],
    ) -> ([__m256; 2], usize) {
        // SAFETY: only called from this file's entry points.
        let mut acc = unsafe { _mm512_setzero_ps() };
        let mut done = 0;
        if B == 4 {
            let [(low, low_end), (next_low, next_low_end)] = low.map(|l| l.as_chunks::<128>());
            let [(stored, end), (next_stored, next_end)] = stored.map(|s| s.as_chunks::<16>());
            let rows = low.iter().zip(next_low).zip(stored.iter().zip(next_stored));
            for (((low, next_low), (stored, next_stored)), (x, octet)) in rows.zip(x.iter().zip(octets)) {
                acc = fine_rows(acc, layout, [low, next_low], [stored, next_stored], x, octet);
                done += 1;
            }
            if !low_end.is_empty()
                && let (Some(x), Some(octet)) = (x.get(done), octets.get(done))
            {
                // Of a last scale that is whole, none is left.
                let ends = [end, next_end];
                let last = [stored, next_stored].map(|s| s.get(done).map_or(&[][..], |s| &s[..]));
                let stored = [0, 1].map(|i: usize| if ends[i].is_empty() { last[i] } else { ends[i] });
                acc = fine_rows(acc, layout, [low_end, next_low_end], stored, x, octet);
                done += 1;
            }
        }
        // SAFETY: as above.
        (unsafe { [_mm512_castps512_ps256(acc), _mm512_extractf32x8_ps::<1>(acc)] }, done)
    }

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

/// The first 32 bytes, zeros where they end earlier; only for [`fine_rows`].
#[inline(always)]
fn masked_32(bytes: &[u8]) -> __m256i {
    // SAFETY: only called by `fine_rows`; no more is read than there is.
    unsafe {
        match bytes.first_chunk() {
            Some(whole) => load_32(whole),
            None => _mm256_maskz_loadu_epi8((1 << bytes.len()) - 1, bytes.as_ptr().cast()),
        }
    }
}

/// The first 16 bytes, zeros where they end earlier; only for [`fine_rows`].
#[inline(always)]
fn masked_16(bytes: &[u8]) -> __m128i {
    // SAFETY: as of `masked_32`.
    unsafe {
        match bytes.first_chunk::<16>() {
            Some(whole) => _mm_loadu_si128(whole.as_ptr().cast()),
            None => _mm_maskz_loadu_epi8((1 << bytes.len()) - 1, bytes.as_ptr().cast()),
        }
    }
}

/// The same 32 bytes twice; only for [`fine_rows`].
#[inline(always)]
fn twice(bytes: *const u8) -> __m512i {
    // SAFETY: only called by `fine_rows`, with 32 readable bytes.
    unsafe { _mm512_broadcast_i64x4(_mm256_loadu_si256(bytes.cast())) }
}

/// Adds an octet's parts of two rows of INT4's fine layout, as [`super::fine`]
/// computes that of one: lanes 0 to 7 are the first row's blocks in
/// PAIR_ORDER, lanes 8 to 15 the second's. Inputs are the same for both, so that
/// loads alone bring them into place. Codes and scales may end early: a row of
/// 576 columns, say, has a quarter of a third octet.
#[inline(always)]
fn fine_rows(
    acc: __m512,
    layout: Fine,
    low: [&[u8]; 2],
    stored: [&[u8]; 2],
    x: &[i8; OCTET],
    octet: &Octet,
) -> __m512 {
    // SAFETY: only called from this file's entry points; all loads lie within
    // the arrays: 32 bytes at most at 64 * 3 + 32 of 256 inputs, and of an octet's
    // numbers; those of codes and scales are masked.
    unsafe {
        let nibble = _mm512_set1_epi8(15);
        let mut r = [_mm512_setzero_si512(); 4];
        for (k, r) in r.iter_mut().enumerate() {
            let Some(first) = low[0].get(32 * k..).filter(|l| !l.is_empty()) else { break };
            let codes = [first, low[1].get(32 * k..).unwrap_or_default()].map(masked_32);
            let codes = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(codes[0]), codes[1]);
            let inputs = x.as_ptr().cast::<u8>().add(64 * k);
            let zero = _mm512_setzero_si512();
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), nibble);
            let firsts = _mm512_dpbusd_epi32(zero, _mm512_and_si512(codes, nibble), twice(inputs));
            let seconds = _mm512_dpbusd_epi32(zero, high, twice(inputs.add(32)));
            // Every sum fits 16 bits: second halves move beside first ones.
            *r = _mm512_mask_blend_epi16(0xaaaa_aaaa, firsts, _mm512_slli_epi32::<16>(seconds));
        }
        // A lane of 128 bits holds four partial sums of its block.
        let p = _mm512_add_epi16(_mm512_unpacklo_epi32(r[0], r[1]), _mm512_unpackhi_epi32(r[0], r[1]));
        let q = _mm512_add_epi16(_mm512_unpacklo_epi32(r[2], r[3]), _mm512_unpackhi_epi32(r[2], r[3]));
        let dots = _mm512_add_epi16(_mm512_unpacklo_epi64(p, q), _mm512_unpackhi_epi64(p, q));

        let words = stored.map(masked_16);
        let [first, second] = words.map(|w| _mm256_broadcastsi128_si256(w));
        let windows = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second);
        let windows = _mm512_shuffle_epi8(windows, twice(ENTRIES.0.as_ptr()));
        let entries = _mm512_mullo_epi16(windows, twice(ENTRIES.1.as_ptr().cast()));
        let even = _mm512_set1_epi16(14);
        let scales = _mm512_and_si512(_mm512_srli_epi16::<9>(entries), even);
        let scales = _mm512_add_epi16(scales, _mm512_set1_epi16(2 * layout.scale_bias as i16));
        let mins = _mm512_and_si512(_mm512_srli_epi16::<12>(entries), even);
        let mins = _mm512_sub_epi16(mins, _mm512_set1_epi16(7));
        let heads = _mm512_castps128_ps512(_mm_cvtph_ps(_mm_unpacklo_epi32(words[0], words[1])));
        let d =
            _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2), heads);
        let dmin =
            _mm512_permutexvar_ps(_mm512_setr_epi32(1, 1, 1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 3, 3, 3, 3), heads);

        let x_codes = twice(octet.codes.as_ptr().cast());
        let dx = _mm512_castsi512_ps(twice(octet.scales.as_ptr().cast()));
        let products = _mm512_cvtepi32_ps(_mm512_madd_epi16(scales, dots));
        let centre = _mm512_cvtepi32_ps(_mm512_madd_epi16(scales, x_codes));
        let minus = _mm512_cvtepi32_ps(_mm512_madd_epi16(mins, x_codes));
        let code_bias = _mm512_set1_ps(layout.code_bias);
        let scaled = _mm512_mul_ps(d, _mm512_fnmadd_ps(code_bias, centre, products));
        _mm512_fmadd_ps(dx, _mm512_fnmadd_ps(dmin, minus, scaled), acc)
    }
}
