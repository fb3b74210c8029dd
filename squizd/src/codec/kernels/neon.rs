//! NEON kernels; products of the 8-bit precision by `sdot`, which multiplies
//! four signed bytes by four and adds them in 32 bits (a code of 4 bits is a
//! signed byte too).
//!
//! All helpers are `#[inline(always)]` into the entry points, which are
//! compiled for the dot product extension and run only where the CPU has it.
#![allow(unsafe_code)] // NEON intrinsics and one instruction as assembly
#![allow(clippy::wildcard_imports, reason = "intrinsics")]

use super::{OCTET, Rows};
use crate::codec::activation::{Activation, Precision};
use crate::codec::half_float::f16_to_f32;
use crate::codec::integer::{Compact, Fine, Layout, ScaleFormat, codes};
use crate::codec::lanes::exp2i;
use crate::codec::q8::scale;
use std::arch::{aarch64::*, asm};

/// Rows of codes of `B` bits times `x`; `false` for f32 scales. The CPU must
/// have the dot product extension.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn integer<const B: u32>(
    layout: Layout,
    x: &Activation<'_>,
    rows: Rows<'_>,
    y: &mut [f32],
) -> bool {
    match layout {
        Layout::Compact(compact) => integer_rows::<B, _>(compact, exp2i(compact.exponent), x, rows, y),
        Layout::Fine(fine) => integer_rows::<B, _>(fine, exp2i(fine.exponent), x, rows, y),
        Layout::Plain { group: 16, format: ScaleFormat::F16 } => integer_rows::<B, _>(G16, 1.0, x, rows, y),
        Layout::Plain { group, format: ScaleFormat::F16 } => {
            integer_rows::<B, _>(Pairs { blocks: group / 32 }, 1.0, x, rows, y);
        }
        Layout::Plain { .. } => return false,
    }
    true
}

/// Q8 rows times `x`. The CPU must have the dot product extension.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn q8(scale_bytes: usize, x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) {
    match x.precision() {
        Precision::Q8 => q8_q8(scale_bytes, x, rows, y),
        Precision::F32 => q8_f32(scale_bytes, x.x(), rows, y),
    }
}

/// Eight floats.
type Pair = [float32x4_t; 2];

/// Scales of an octet's blocks, and what is subtracted after scaling unsigned
/// codes.
#[derive(Clone, Copy)]
struct OctetScales {
    scale: Pair,
    minus: Pair,
}

/// How a layout stores the scales of an octet.
trait StoredScales: Copy {
    /// Whether both halves of a block have one scale.
    const WHOLE: bool;

    /// Scales of the blocks' first and second halves from the beginning of
    /// `stored`; bytes past its end are zeros.
    fn unpack(self, stored: &[u8]) -> [OctetScales; 2];

    /// Bytes of an octet's scales.
    fn bytes(self) -> usize;
}

/// `acc + four products each` of signed bytes.
#[inline(always)]
pub(in crate::codec) fn sdot(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: registers in, register out; see the module's comment for the
    // instruction.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inout(vreg) acc,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

#[inline(always)]
pub(super) fn load_4(x: &[f32; 4]) -> float32x4_t {
    // SAFETY: NEON is AArch64's baseline; 16 readable bytes.
    unsafe { vld1q_f32(x.as_ptr()) }
}

#[inline(always)]
fn load_pair(x: &[f32; 8]) -> Pair {
    let (halves, _) = x.as_chunks::<4>();
    [load_4(&halves[0]), load_4(&halves[1])]
}

#[inline(always)]
fn load_bytes(x: &[u8; 16]) -> uint8x16_t {
    // SAFETY: NEON is AArch64's baseline; 16 readable bytes.
    unsafe { vld1q_u8(x.as_ptr()) }
}

#[inline(always)]
pub(super) fn load_codes(x: &[i8; 16]) -> int8x16_t {
    // SAFETY: NEON is AArch64's baseline; 16 readable bytes.
    unsafe { vld1q_s8(x.as_ptr()) }
}

/// Low and high nibbles of 16 bytes.
#[inline(always)]
pub(super) fn nibbles(codes: &[u8; 16]) -> [uint8x16_t; 2] {
    let codes = load_bytes(codes);
    // SAFETY: NEON is AArch64's baseline.
    unsafe { [vandq_u8(codes, vdupq_n_u8(15)), vshrq_n_u8::<4>(codes)] }
}

/// Codes of both halves of block `k` of an octet's planes.
#[inline(always)]
fn halves<const B: u32>(low: &[u8; 128], high: &[u8; 32], k: usize) -> [uint8x16_t; 2] {
    // SAFETY: NEON is AArch64's baseline.
    unsafe {
        if B == 4 {
            return nibbles(&padded(low.get(16 * k..).unwrap_or_default()));
        }
        // Field f of eight bytes is weights 8 f .. 8 f + 8: a half is two
        // copies, each shifted to its field.
        let word = u64::from_le_bytes(padded(low.get(8 * k..).unwrap_or_default()));
        let all = vdupq_n_u64(word);
        let field = |word: uint64x2_t, first: i64, mask: u8| {
            let shifts = [-first, -first - 2];
            let shifted = vshlq_u64(word, vld1q_s64(shifts.as_ptr()));
            vandq_u8(vreinterpretq_u8_u64(shifted), vdupq_n_u8(mask))
        };
        let mut codes = [field(all, 0, 3), field(all, 4, 3)];
        if B == 3 {
            let bits = u32::from_le_bytes(padded(high.get(4 * k..).unwrap_or_default()));
            // Bit p of byte b is weight 4 p + b: fields are bits 2 f of one
            // copy and 2 f + 1 of the other, moved to bit 2.
            let spread = vdupq_n_u64(u64::from(bits) | u64::from(bits >> 1) << 32);
            for (h, codes) in codes.iter_mut().enumerate() {
                *codes = vorrq_u8(*codes, field(spread, 4 * h as i64 - 2, 4));
            }
        }
        codes
    }
}

/// `acc + q x` of sixteen unsigned bytes.
#[inline(always)]
fn add_floats(mut acc: float32x4_t, q: uint8x16_t, x: &[f32; 16]) -> float32x4_t {
    let x = x.as_chunks::<4>().0;
    // SAFETY: NEON is AArch64's baseline.
    unsafe {
        let (low, high) = (vmovl_u8(vget_low_u8(q)), vmovl_u8(vget_high_u8(q)));
        for (i, half) in [low, high].into_iter().enumerate() {
            let first = vcvtq_f32_u32(vmovl_u16(vget_low_u16(half)));
            let second = vcvtq_f32_u32(vmovl_u16(vget_high_u16(half)));
            acc = vfmaq_f32(acc, first, load_4(&x[2 * i]));
            acc = vfmaq_f32(acc, second, load_4(&x[2 * i + 1]));
        }
    }
    acc
}

/// The first `N` elements of `part`, defaults where it ends earlier.
#[inline(always)]
fn padded<T: Copy + Default, const N: usize>(part: &[T]) -> [T; N] {
    if let Some(whole) = part.first_chunk() {
        return *whole;
    }
    let mut out = [T::default(); N];
    for (o, p) in out.iter_mut().zip(part) {
        *o = *p;
    }
    out
}

/// Rows of codes of `B` bits: `sum over blocks of s dot(q, x) - minus sum(x)`,
/// times `unit`.
#[inline(always)]
fn integer_rows<const B: u32, L: StoredScales>(
    layout: L,
    unit: f32,
    x: &Activation<'_>,
    rows: Rows<'_>,
    y: &mut [f32],
) {
    let sums = x.sums().as_chunks::<16>().0;
    let low_octet = 8 * codes::low_bytes(B);
    for (y, (codes, stored)) in y.iter_mut().zip(rows.iter()) {
        let (low, high) = codes.split_at((codes::low_bytes(B) * rows.blocks).min(codes.len()));
        // SAFETY: NEON is AArch64's baseline.
        let mut acc = unsafe { vdupq_n_f32(0.0) };
        for (i, sums) in sums.iter().enumerate().take(rows.blocks.div_ceil(8)) {
            let w = layout.unpack(stored.get(i * layout.bytes()..).unwrap_or_default());
            let end = ((i + 1) * low_octet).min(low.len());
            let low: [u8; 128] = padded(low.get(i * low_octet..end).unwrap_or_default());
            let high: [u8; 32] = padded(high.get(32 * i..).unwrap_or_default());
            let dots = match x.precision() {
                Precision::Q8 => dots_q8::<B>(&low, &high, x, i, L::WHOLE),
                Precision::F32 => dots_f32::<B>(&low, &high, x.x(), i, L::WHOLE),
            };
            let halves = half_sums(sums);
            for h in 0..2 {
                for p in 0..2 {
                    // SAFETY: NEON is AArch64's baseline.
                    unsafe {
                        acc = vfmaq_f32(acc, w[h].scale[p], dots[h][p]);
                        acc = vfmsq_f32(acc, w[h].minus[p], halves[h][p]);
                    }
                }
            }
        }
        // SAFETY: NEON is AArch64's baseline.
        *y = unit * unsafe { vaddvq_f32(acc) };
    }
}

/// Sums of the first and of the second halves of blocks.
#[inline(always)]
fn half_sums(sums: &[f32; 16]) -> [Pair; 2] {
    let quads = sums.as_chunks::<4>().0;
    let [a, b, c, d] = [load_4(&quads[0]), load_4(&quads[1]), load_4(&quads[2]), load_4(&quads[3])];
    // SAFETY: NEON is AArch64's baseline.
    unsafe { [[vuzp1q_f32(a, b), vuzp1q_f32(c, d)], [vuzp2q_f32(a, b), vuzp2q_f32(c, d)]] }
}

/// `dx dot(q, x)` of the halves of octet `i`'s blocks, by integers; with
/// `together`, of whole blocks, and zeros.
#[inline(always)]
fn dots_q8<const B: u32>(
    low: &[u8; 128],
    high: &[u8; 32],
    x: &Activation<'_>,
    i: usize,
    together: bool,
) -> [Pair; 2] {
    let q = x.quantized();
    // SAFETY: NEON is AArch64's baseline.
    unsafe {
        let zero = vdupq_n_s32(0);
        let mut sums = [[zero; 8]; 2];
        let (Some(x), Some(dx)) = (q.codes.as_chunks::<OCTET>().0.get(i), q.scales.as_chunks::<8>().0.get(i))
        else {
            return [[vdupq_n_f32(0.0); 2]; 2];
        };
        for (k, x) in x.as_chunks::<32>().0.iter().enumerate() {
            let (codes, x) = (halves::<B>(low, high, k), x.as_chunks::<16>().0);
            for h in 0..2 {
                let to = if together { 0 } else { h };
                sums[to][k] = sdot(sums[to][k], vreinterpretq_s8_u8(codes[h]), load_codes(&x[h]));
            }
        }
        let dx = load_pair(dx);
        sums.map(|[a, b, c, d, e, f, g, h]| {
            let first = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
            let second = vpaddq_s32(vpaddq_s32(e, f), vpaddq_s32(g, h));
            [vmulq_f32(dx[0], vcvtq_f32_s32(first)), vmulq_f32(dx[1], vcvtq_f32_s32(second))]
        })
    }
}

/// `dot(q, x)` likewise, by floats.
#[inline(always)]
fn dots_f32<const B: u32>(
    low: &[u8; 128],
    high: &[u8; 32],
    x: &[f32],
    i: usize,
    together: bool,
) -> [Pair; 2] {
    let x: [f32; OCTET] = padded(x.get(i * OCTET..).unwrap_or_default());
    // SAFETY: NEON is AArch64's baseline.
    unsafe {
        let mut sums = [[vdupq_n_f32(0.0); 8]; 2];
        for (k, x) in x.as_chunks::<32>().0.iter().enumerate() {
            let (codes, x) = (halves::<B>(low, high, k), x.as_chunks::<16>().0);
            for h in 0..2 {
                let to = if together { 0 } else { h };
                sums[to][k] = add_floats(sums[to][k], codes[h], &x[h]);
            }
        }
        sums.map(|[a, b, c, d, e, f, g, h]| {
            [vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)), vpaddq_f32(vpaddq_f32(e, f), vpaddq_f32(g, h))]
        })
    }
}

/// The eight 12-bit entries behind the first 32 bits of a stored superblock,
/// and its `d` and `dmin`.
#[inline(always)]
fn superblock(stored: &[u8]) -> (uint16x8_t, f32, f32) {
    // The bytes that hold each entry; those of odd groups begin at bit 4.
    const WINDOWS: [u8; 16] = [4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12, 13, 14, 14, 15];
    const LIFT: [i16; 8] = [4, 0, 4, 0, 4, 0, 4, 0];
    let stored: [u8; 16] = padded(stored);
    let d = f16_to_f32(u16::from_le_bytes([stored[0], stored[1]]));
    let dmin = f16_to_f32(u16::from_le_bytes([stored[2], stored[3]]));
    // SAFETY: NEON is AArch64's baseline; 16 readable bytes each.
    unsafe {
        let windows = vreinterpretq_u16_u8(vqtbl1q_u8(load_bytes(&stored), load_bytes(&WINDOWS)));
        (vshrq_n_u16::<4>(vshlq_u16(windows, vld1q_s16(LIFT.as_ptr()))), d, dmin)
    }
}

/// Eight small integers as floats.
#[inline(always)]
fn floats(v: uint16x8_t) -> Pair {
    // SAFETY: NEON is AArch64's baseline.
    unsafe { [vcvtq_f32_u32(vmovl_u16(vget_low_u16(v))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(v)))] }
}

/// The same scales for both halves. Whole blocks are summed as first halves,
/// but sums of inputs are apart.
#[inline(always)]
fn both(scales: OctetScales) -> [OctetScales; 2] {
    [scales; 2]
}

impl StoredScales for Compact {
    const WHOLE: bool = true;

    #[inline(always)]
    fn unpack(self, stored: &[u8]) -> [OctetScales; 2] {
        let (entries, d, dmin) = superblock(stored);
        // SAFETY: NEON is AArch64's baseline.
        unsafe {
            let (sc, m) = (vandq_u16(entries, vdupq_n_u16(63)), vshrq_n_u16::<6>(entries));
            let scale = floats(sc).map(|sc| vmulq_n_f32(sc, d));
            let m = floats(m).map(|m| vmulq_n_f32(vsubq_f32(m, vdupq_n_f32(self.min_bias)), dmin));
            let minus = |p: usize| vfmaq_n_f32(m[p], scale[p], self.code_bias);
            both(OctetScales { scale, minus: [minus(0), minus(1)] })
        }
    }

    #[inline(always)]
    fn bytes(self) -> usize {
        16
    }
}

impl StoredScales for Fine {
    const WHOLE: bool = false;

    #[inline(always)]
    fn unpack(self, stored: &[u8]) -> [OctetScales; 2] {
        // Both groups of a block: scale, min, scale, min of 3 bits.
        let (entries, d, dmin) = superblock(stored);
        // SAFETY: NEON is AArch64's baseline.
        unsafe {
            let three = |bits: uint16x8_t| floats(vandq_u16(bits, vdupq_n_u16(7)));
            let half = |sc: Pair, m: Pair| {
                let scale = sc.map(|sc| vmulq_n_f32(vaddq_f32(sc, vdupq_n_f32(self.scale_bias)), d));
                let m = m.map(|m| vmulq_n_f32(vsubq_f32(m, vdupq_n_f32(3.5)), dmin));
                let minus = |p: usize| vfmaq_n_f32(m[p], scale[p], self.code_bias);
                OctetScales { scale, minus: [minus(0), minus(1)] }
            };
            [
                half(three(entries), three(vshrq_n_u16::<3>(entries))),
                half(three(vshrq_n_u16::<6>(entries)), three(vshrq_n_u16::<9>(entries))),
            ]
        }
    }

    #[inline(always)]
    fn bytes(self) -> usize {
        16
    }
}

/// f16 (scale, offset) pairs, each for `blocks` blocks of 32.
#[derive(Clone, Copy)]
struct Pairs {
    blocks: usize,
}

impl StoredScales for Pairs {
    const WHOLE: bool = true;

    #[inline(always)]
    fn unpack(self, stored: &[u8]) -> [OctetScales; 2] {
        let stored: [u8; 32] = padded(stored);
        let pairs = stored.as_chunks::<4>().0;
        both(octet_pairs(|i| pairs[i / self.blocks]))
    }

    #[inline(always)]
    fn bytes(self) -> usize {
        32 / self.blocks
    }
}

/// An f16 (scale, offset) pair for each half.
#[derive(Clone, Copy)]
struct G16;

impl StoredScales for G16 {
    const WHOLE: bool = false;

    #[inline(always)]
    fn unpack(self, stored: &[u8]) -> [OctetScales; 2] {
        let stored: [u8; 64] = padded(stored);
        let pairs = stored.as_chunks::<4>().0;
        [octet_pairs(|i| pairs[2 * i]), octet_pairs(|i| pairs[2 * i + 1])]
    }

    #[inline(always)]
    fn bytes(self) -> usize {
        64
    }
}

/// The pairs `pair(0)` to `pair(7)`.
#[inline(always)]
fn octet_pairs(pair: impl Fn(usize) -> [u8; 4]) -> OctetScales {
    let (mut scale, mut minus) = ([0.0; 8], [0.0; 8]);
    for i in 0..8 {
        let [a, b, c, d] = pair(i);
        scale[i] = f16_to_f32(u16::from_le_bytes([a, b]));
        minus[i] = -f16_to_f32(u16::from_le_bytes([c, d]));
    }
    OctetScales { scale: load_pair(&scale), minus: load_pair(&minus) }
}

#[inline(always)]
fn q8_q8(scale_bytes: usize, x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) {
    let x = x.quantized();
    for (y, (codes, stored)) in y.iter_mut().zip(rows.iter()) {
        let blocks = codes.as_chunks::<32>().0.iter().zip(stored.chunks_exact(scale_bytes));
        // SAFETY: NEON is AArch64's baseline.
        unsafe {
            let mut acc = vdupq_n_f32(0.0);
            for ((codes, stored), (x, dx)) in blocks.zip(x.codes.as_chunks::<32>().0.iter().zip(&x.scales)) {
                let (codes, x) = (codes.as_chunks::<16>().0, x.as_chunks::<16>().0);
                let w = |h: usize| vreinterpretq_s8_u8(load_bytes(&codes[h]));
                let first = sdot(vdupq_n_s32(0), w(0), load_codes(&x[0]));
                let dot = sdot(first, w(1), load_codes(&x[1]));
                acc = vfmaq_n_f32(acc, vcvtq_f32_s32(dot), scale(stored) * dx);
            }
            *y = vaddvq_f32(acc);
        }
    }
}

#[inline(always)]
fn q8_f32(scale_bytes: usize, x: &[f32], rows: Rows<'_>, y: &mut [f32]) {
    for (y, (codes, stored)) in y.iter_mut().zip(rows.iter()) {
        let blocks = codes.as_chunks::<32>().0.iter().zip(stored.chunks_exact(scale_bytes));
        // SAFETY: NEON is AArch64's baseline.
        unsafe {
            let mut acc = vdupq_n_f32(0.0);
            for ((codes, stored), x) in blocks.zip(x.chunks(32)) {
                let x: [f32; 32] = padded(x);
                let mut dot = vdupq_n_f32(0.0);
                for (codes, x) in codes.as_chunks::<8>().0.iter().zip(x.as_chunks::<8>().0) {
                    let q = vmovl_s8(vreinterpret_s8_u8(vld1_u8(codes.as_ptr())));
                    let x = load_pair(x);
                    dot = vfmaq_f32(dot, vcvtq_f32_s32(vmovl_s16(vget_low_s16(q))), x[0]);
                    dot = vfmaq_f32(dot, vcvtq_f32_s32(vmovl_s16(vget_high_s16(q))), x[1]);
                }
                acc = vfmaq_n_f32(acc, dot, scale(stored));
            }
            *y = vaddvq_f32(acc);
        }
    }
}
