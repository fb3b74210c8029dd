//! AVX2 with BMI2, and AVX-512 with VBMI2.
//!
//! Every function is inlined into or called from entry points compiled for
//! these features (see [`super::dispatch`]), which run only where the CPU has
//! them.
#![allow(unsafe_code)] // x86 intrinsics, whose features the entry points have

use super::decode::{Escapes, Exponents, Lanes, LevelBits, Plain, RUN, Scratch, WORDS, tbe3};
use super::payload::{PLANE, SUPERBLOCK, Superblock};
use super::words::{Level, plane_words, unset, with_slack};
#[allow(clippy::wildcard_imports, reason = "a page of intrinsics")]
use std::arch::x86_64::*;

/// AVX2, BMI and POPCNT.
pub(super) struct Avx2;

/// `a & mask | (b & mask) << n` for a byte-wise mask that clears what crosses.
macro_rules! merge {
    ($a:expr, $b:expr, $mask:expr, $n:literal) => {
        _mm256_or_si256(_mm256_and_si256($a, $mask), _mm256_slli_epi16::<$n>(_mm256_and_si256($b, $mask)))
    };
}

/// The same for the bits that `mask` leaves out, moved down by `n`.
macro_rules! merge_high {
    ($a:expr, $b:expr, $mask:expr, $n:literal) => {
        _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16::<$n>($a), $mask), _mm256_andnot_si256($mask, $b))
    };
}

/// Starts loading the `i`th of 32 parts of `ahead`: all at once, they would
/// fill the queue of outstanding loads.
#[inline(always)]
fn prefetch(ahead: &[u8], i: usize) {
    let part = ahead.as_ptr().wrapping_add(i * (ahead.len() / 32));
    // SAFETY: the CPU has SSE; a prefetch never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(part.cast()) }
}

/// 32 bfloat16s.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn words(signs: &[u8; 32], exponents: &[u8; 32]) -> [__m256i; 2] {
    let half = |at: usize| {
        // SAFETY: the caller's promise; 16 bytes from 0 or 16 of 32.
        unsafe {
            let s = _mm256_cvtepi8_epi16(_mm_loadu_si128(signs.as_ptr().add(at).cast()));
            let e = _mm256_cvtepu8_epi16(_mm_loadu_si128(exponents.as_ptr().add(at).cast()));
            let keep = _mm256_set1_epi16(0x807f_u16.cast_signed());
            _mm256_or_si256(_mm256_and_si256(s, keep), _mm256_slli_epi16::<7>(e))
        }
    };
    [half(0), half(16)]
}

impl Lanes for Avx2 {
    /// A transposition in three steps: pairs of planes into 2-bit fields, these
    /// into nibbles, nibbles into bytes; the shuffle is the table look-up.
    #[inline(always)]
    fn expand<const P: usize>(planes: [&[u8]; P], table: &[u8; 16], e: &mut Exponents) {
        let width = planes.iter().map(|p| p.len()).min().unwrap_or(0);
        if !(32..=PLANE).contains(&width) || !(3..=4).contains(&P) {
            return Plain::expand(planes, table, e);
        }
        let mut at = 0;
        loop {
            // SAFETY: the CPU has AVX2 (see the module's comment). Every plane
            // has at least `at + 32` bytes, and `e` has `8 * width` of them.
            unsafe {
                let (fives, threes) = (_mm256_set1_epi8(0x55), _mm256_set1_epi8(0x33));
                let nibble = _mm256_set1_epi8(0x0f);
                let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
                let load = |k: usize| {
                    planes
                        .get(k)
                        .map_or(_mm256_setzero_si256(), |p| _mm256_loadu_si256(p.as_ptr().add(at).cast()))
                };
                let (p0, p1, p2, p3) = (load(0), load(1), load(2), load(3));
                let (even01, odd01) = (merge!(p0, p1, fives, 1), merge_high!(p0, p1, fives, 1));
                let (even23, odd23) = (merge!(p2, p3, fives, 1), merge_high!(p2, p3, fives, 1));
                // Low nibbles are bits 0, 1, 2, 3 of the planes, high ones 4, 5, 6, 7.
                let nibbles = [
                    merge!(even01, even23, threes, 2),
                    merge!(odd01, odd23, threes, 2),
                    merge_high!(even01, even23, threes, 2),
                    merge_high!(odd01, odd23, threes, 2),
                ];
                let out = e.as_mut_ptr().add(at);
                for (bit, n) in nibbles.into_iter().enumerate() {
                    let low = _mm256_and_si256(n, nibble);
                    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(n), nibble);
                    _mm256_storeu_si256(out.add(bit * width).cast(), _mm256_shuffle_epi8(table, low));
                    _mm256_storeu_si256(out.add((bit + 4) * width).cast(), _mm256_shuffle_epi8(table, high));
                }
            }
            if at + 32 >= width {
                return;
            }
            // The last step overlaps the one before where 32 does not divide.
            at = (at + 32).min(width - 32);
        }
    }

    #[inline(always)]
    fn look_up(packed: &[u8; 16], table: &[u8; 16], out: &mut [u8; 32]) {
        // SAFETY: the CPU has AVX2 (see the module's comment); 16 readable and
        // 32 writable bytes.
        unsafe {
            let nibble = _mm_set1_epi8(0x0f);
            let table = _mm_loadu_si128(table.as_ptr().cast());
            let packed = _mm_loadu_si128(packed.as_ptr().cast());
            let low = _mm_and_si128(packed, nibble);
            let high = _mm_and_si128(_mm_srli_epi16::<4>(packed), nibble);
            let to: *mut __m128i = out.as_mut_ptr().cast();
            _mm_storeu_si128(to, _mm_shuffle_epi8(table, _mm_unpacklo_epi8(low, high)));
            _mm_storeu_si128(to.add(1), _mm_shuffle_epi8(table, _mm_unpackhi_epi8(low, high)));
        }
    }

    #[inline(always)]
    fn deposit(bits: u64, mask: u64) -> u64 {
        // SAFETY: the CPU has BMI2 (see the module's comment).
        unsafe { _pdep_u64(bits, mask) }
    }

    #[inline(always)]
    fn bf16(signs: &[u8], exponents: &[u8], out: &mut [u16], stream: bool, ahead: &[u8]) {
        let (s, s_rest) = signs.as_chunks::<32>();
        let (e, e_rest) = exponents.as_chunks::<32>();
        // Half registers, as allocators align to 16 bytes.
        let stream = stream && out.as_ptr().addr().is_multiple_of(16);
        let (o, o_rest) = out.as_chunks_mut::<32>();
        for (i, ((s, e), o)) in s.iter().zip(e).zip(o).enumerate() {
            prefetch(ahead, i);
            // SAFETY: the CPU has AVX2 (see the module's comment); 32 bytes of
            // `s` and `e`, 64 of `o`, aligned to 16 where streamed.
            unsafe {
                let [a, b] = words(s, e);
                let to: *mut __m128i = o.as_mut_ptr().cast();
                if stream {
                    _mm_stream_si128(to, _mm256_castsi256_si128(a));
                    _mm_stream_si128(to.add(1), _mm256_extracti128_si256::<1>(a));
                    _mm_stream_si128(to.add(2), _mm256_castsi256_si128(b));
                    _mm_stream_si128(to.add(3), _mm256_extracti128_si256::<1>(b));
                } else {
                    _mm256_storeu_si256(to.cast(), a);
                    _mm256_storeu_si256(to.add(2).cast(), b);
                }
            }
        }
        Plain::bf16(s_rest, e_rest, o_rest, false, &[]);
    }

    /// In each 16 the quads 0, 2, 1, 3.
    #[inline(always)]
    fn arrange(x: &mut [f32]) {
        for x in x.as_chunks_mut::<RUN>().0.as_flattened_mut().as_chunks_mut::<16>().0 {
            let (low, high) = x.split_at_mut(8);
            low[4..].swap_with_slice(&mut high[..4]);
        }
    }

    #[inline(always)]
    fn dot(signs: &[u8], exponents: &[u8], x: &[f32], ahead: &[u8]) -> f32 {
        let ((s, s_rest), (e, e_rest)) = (signs.as_chunks::<RUN>(), exponents.as_chunks::<RUN>());
        let (x, x_rest) = x.as_chunks::<RUN>();
        // SAFETY: the CPU has AVX2 and FMA (see the module's comment); 32
        // bytes of `s` and `e` and 32 floats of `x` per step.
        let sum = unsafe {
            let mut acc = [_mm256_setzero_ps(); 4];
            let zero = _mm256_setzero_si256();
            for (i, ((s, e), x)) in s.iter().zip(e).zip(x).enumerate() {
                prefetch(ahead, i);
                let [a, b] = words(s, e);
                // Zeros below each word: the weights 0 to 3 and 8 to 11 of its
                // 16, then 4 to 7 and 12 to 15.
                let floats = [
                    _mm256_unpacklo_epi16(zero, a),
                    _mm256_unpackhi_epi16(zero, a),
                    _mm256_unpacklo_epi16(zero, b),
                    _mm256_unpackhi_epi16(zero, b),
                ];
                for (l, (acc, w)) in acc.iter_mut().zip(floats).enumerate() {
                    let x = _mm256_loadu_ps(x.as_ptr().add(8 * l));
                    *acc = _mm256_fmadd_ps(_mm256_castsi256_ps(w), x, *acc);
                }
            }
            let [a, b, c, d] = acc;
            let sum = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
            let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        };
        sum + Plain::dot(s_rest, e_rest, x_rest, &[])
    }
}

/// AVX-512 with VBMI2 and VPOPCNTDQ, and all of [`Avx2`].
///
/// In TBE2 a word of a bit plane is a mask register: exponents come from masked
/// additions, those of the next level from an expansion under the mask of the
/// weights without a code, all without a branch on the data. That yields 64
/// exponents in the order of the plane's bits, which transpositions of bytes
/// and of quarter words bring into the order of the weights. The few escapes of
/// TBE3 do not pay for these shuffles, which have one port.
pub(super) struct Avx512;

/// 64 bytes from `at`, or zeros where there are fewer.
#[target_feature(enable = "avx512f")]
#[inline]
fn load(bytes: &[u8], at: usize) -> __m512i {
    match bytes.get(at..at + 64) {
        // SAFETY: 64 bytes.
        Some(b) => unsafe { _mm512_loadu_si512(b.as_ptr().cast()) },
        None => _mm512_setzero_si512(),
    }
}

/// Stores 64 bytes at `at` if there are as many.
#[target_feature(enable = "avx512f")]
#[inline]
fn store(bytes: &mut [u8], at: usize, v: __m512i) {
    if let Some(b) = bytes.get_mut(at..at + 64) {
        // SAFETY: 64 bytes.
        unsafe { _mm512_storeu_si512(b.as_mut_ptr().cast(), v) }
    }
}

/// Exponents of the weights of each plane bit into the order of the weights:
/// code c, made of the bits of `planes`, gives `base + c - 1`, and code 0, which
/// `open` marks, the next of `escapes`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
#[inline]
fn place<const P: usize>(
    planes: &[[u64; WORDS]; P],
    open: &[u64; WORDS],
    base: u8,
    escapes: &[u8],
    width: usize,
    e: &mut Exponents,
) {
    // Byte 8 b + i from byte 8 i + b.
    let mut order = [0u8; 64];
    for (to, from) in order.iter_mut().enumerate() {
        *from = (to % 8 * 8 + to / 8) as u8;
    }
    let order = load(&order, 0);
    let lowest = _mm512_set1_epi8(base.wrapping_sub(1).cast_signed());
    let mut next = 0;
    // Eight exponents, of eight bytes of a plane, for each of its eight bits.
    let mut step = |q: usize| {
        let q = q % WORDS;
        let mut v = lowest;
        for (k, plane) in planes.iter().enumerate() {
            v = _mm512_mask_add_epi8(v, plane[q], v, _mm512_set1_epi8(1 << k));
        }
        let v = _mm512_mask_expand_epi8(v, open[q], load(escapes, next));
        next += open[q].count_ones() as usize;
        _mm512_permutexvar_epi8(order, v)
    };
    let groups = width / 64;
    for group in 0..groups {
        let mut v = [lowest; 8];
        for (i, v) in v.iter_mut().enumerate() {
            *v = step(8 * group + i);
        }
        let [a, b, c, d, e4, f, g, h] = v;
        let even = [
            _mm512_unpacklo_epi64(a, b),
            _mm512_unpacklo_epi64(c, d),
            _mm512_unpacklo_epi64(e4, f),
            _mm512_unpacklo_epi64(g, h),
        ];
        let odd = [
            _mm512_unpackhi_epi64(a, b),
            _mm512_unpackhi_epi64(c, d),
            _mm512_unpackhi_epi64(e4, f),
            _mm512_unpackhi_epi64(g, h),
        ];
        for (bit, [a, b, c, d]) in [even, odd].into_iter().enumerate() {
            let (ab, cd) = (_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0x44>(c, d));
            let (ab_high, cd_high) = (_mm512_shuffle_i64x2::<0xee>(a, b), _mm512_shuffle_i64x2::<0xee>(c, d));
            let rows = [
                _mm512_shuffle_i64x2::<0x88>(ab, cd),
                _mm512_shuffle_i64x2::<0xdd>(ab, cd),
                _mm512_shuffle_i64x2::<0x88>(ab_high, cd_high),
                _mm512_shuffle_i64x2::<0xdd>(ab_high, cd_high),
            ];
            for (pair, row) in rows.into_iter().enumerate() {
                store(e, (2 * pair + bit) * width + 64 * group, row);
            }
        }
    }
    for q in 8 * groups..width.div_ceil(8) {
        let mut bytes = [0; 64];
        store(&mut bytes, 0, step(q));
        // The last word may be half a one.
        let length = (width - 8 * q).min(8);
        for (bit, from) in bytes.as_chunks::<8>().0.iter().enumerate() {
            let at = bit * width + 8 * q;
            if let (Some(to), 8) = (e.get_mut(at..at + 8), length) {
                to.copy_from_slice(from);
            } else if let (Some(to), Some(from)) = (e.get_mut(at..at + 4), from.first_chunk::<4>()) {
                to.copy_from_slice(from);
            }
        }
    }
}

/// [`Lanes::exponents`] of TBE3.
#[target_feature(enable = "avx2,fma,bmi1,bmi2,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512vpopcntdq")]
fn exponents3(block: &Superblock<'_>, scratch: &mut Scratch) -> Option<usize> {
    tbe3::<Avx512>(block, scratch)
}

/// [`Avx2::expand`] with twice the width.
#[target_feature(enable = "avx512f,avx512bw")]
fn expand512(planes: [&[u8; PLANE]; 3], table: &[u8; 16], e: &mut Exponents) {
    // SAFETY: 16 bytes.
    let table = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(table.as_ptr().cast()) });
    let [fives, threes, nibble] = [_mm512_set1_epi8(0x55), _mm512_set1_epi8(0x33), _mm512_set1_epi8(0x0f)];
    for at in [0, 64] {
        let [a, b, c] = [load(planes[0], at), load(planes[1], at), load(planes[2], at)];
        // 0xca takes the second operand where the first has ones, else the third.
        let even = _mm512_ternarylogic_epi32::<0xca>(fives, a, _mm512_slli_epi16::<1>(b));
        let odd = _mm512_ternarylogic_epi32::<0xca>(fives, _mm512_srli_epi16::<1>(a), b);
        let (c_even, c_odd) = (_mm512_and_si512(c, fives), _mm512_andnot_si512(fives, c));
        // Low nibbles are bits 0, 1, 2, 3 of the planes, high ones 4, 5, 6, 7.
        let nibbles = [
            _mm512_ternarylogic_epi32::<0xca>(threes, even, _mm512_slli_epi16::<2>(c_even)),
            _mm512_ternarylogic_epi32::<0xca>(threes, odd, _mm512_slli_epi16::<1>(c_odd)),
            _mm512_ternarylogic_epi32::<0xca>(threes, _mm512_srli_epi16::<2>(even), c_even),
            _mm512_ternarylogic_epi32::<0xca>(
                threes,
                _mm512_srli_epi16::<2>(odd),
                _mm512_srli_epi16::<1>(c_odd),
            ),
        ];
        for (bit, n) in nibbles.into_iter().enumerate() {
            let low = _mm512_and_si512(n, nibble);
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(n), nibble);
            store(e, bit * PLANE + at, _mm512_shuffle_epi8(table, low));
            store(e, (bit + 4) * PLANE + at, _mm512_shuffle_epi8(table, high));
        }
    }
}

impl Level {
    /// Exponents of the level's `count` weights: its entries of the palette,
    /// and `escapes` in place of code 0.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt")]
    #[inline]
    fn exponents(&self, count: usize, base: u8, palette: [u8; 3], escapes: &[u8], out: &mut Escapes) {
        let [one, two, three] = palette.map(|p| _mm512_set1_epi8(base.wrapping_add(p).cast_signed()));
        let mut next = 0;
        for i in 0..count.div_ceil(64).min(WORDS) {
            let v = _mm512_mask_mov_epi8(one, self.high[i], two);
            let v = _mm512_mask_mov_epi8(v, self.high[i] & self.low[i], three);
            let v = _mm512_mask_expand_epi8(v, self.open[i], load(escapes, next));
            next += self.open[i].count_ones() as usize;
            store(out, 64 * i, v);
        }
    }
}

/// [`Lanes::exponents`] of TBE2: from the last level up, each level's open
/// weights take the exponents that the level behind it gives.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,avx512vpopcntdq,popcnt")]
#[inline(never)]
fn exponents2(block: &Superblock<'_>, palette: [u8; 6], scratch: &mut Scratch) -> Option<usize> {
    let width = block.width.min(PLANE);
    let (low, high) = block.planes.split_at_checked(width)?;
    let planes = [plane_words(low), plane_words(high.get(..width)?)];
    let (open, first) = unset(&planes, width);
    let mut end = [0; SUPERBLOCK / 2 + 16];
    let levels: &LevelBits = if let Some(levels) = block.padded_stream.first_chunk() {
        levels
    } else {
        end.iter_mut().zip(block.padded_stream).for_each(|(to, from)| *to = *from);
        &end
    };
    let (one, second) = Level::read(levels, 0, first);
    let (two, third) = Level::read(levels, 2 * first, second);
    let before = (2 * (first + second)).div_ceil(8);
    let length = before + third;
    block.stream.get(..length)?;
    let [a, b, c, d, e, f] = palette;
    let raw = with_slack(block.padded_stream.get(before..)?, third, &mut scratch.escapes);
    two.exponents(second, block.base, [d, e, f], raw, &mut scratch.seconds);
    one.exponents(first, block.base, [a, b, c], &scratch.seconds, &mut scratch.firsts);
    place(&planes, &open, block.base, &scratch.firsts, width, &mut scratch.e);
    Some(length)
}

impl Lanes for Avx512 {
    #[inline(always)]
    fn exponents(block: &Superblock<'_>, palette: Option<[u8; 6]>, scratch: &mut Scratch) -> Option<usize> {
        // SAFETY: the CPU has these features (see the module's comment).
        unsafe {
            match palette {
                Some(palette) => exponents2(block, palette, scratch),
                None => exponents3(block, scratch),
            }
        }
    }

    #[inline(always)]
    fn expand<const P: usize>(planes: [&[u8]; P], table: &[u8; 16], e: &mut Exponents) {
        let full = planes.map(|p| <&[u8; PLANE]>::try_from(p).ok());
        if let [Some(a), Some(b), Some(c)] = full[..] {
            // SAFETY: the CPU has these features (see the module's comment).
            return unsafe { expand512([a, b, c], table, e) };
        }
        Avx2::expand(planes, table, e);
    }

    #[inline(always)]
    fn look_up(packed: &[u8; 16], table: &[u8; 16], out: &mut [u8; 32]) {
        Avx2::look_up(packed, table, out);
    }

    #[inline(always)]
    fn deposit(bits: u64, mask: u64) -> u64 {
        Avx2::deposit(bits, mask)
    }

    #[inline(always)]
    fn bf16(signs: &[u8], exponents: &[u8], out: &mut [u16], stream: bool, ahead: &[u8]) {
        // Streamed in half registers: quarters of a whole one cost more than they save.
        Avx2::bf16(signs, exponents, out, stream, ahead);
    }

    #[inline(always)]
    fn arrange(x: &mut [f32]) {
        Avx2::arrange(x);
    }

    #[inline(always)]
    fn dot(signs: &[u8], exponents: &[u8], x: &[f32], ahead: &[u8]) -> f32 {
        Avx2::dot(signs, exponents, x, ahead)
    }
}

/// Waits for streamed stores, so that other threads see them.
pub(super) fn fence() {
    // SAFETY: the CPU has SSE.
    unsafe { _mm_sfence() }
}
