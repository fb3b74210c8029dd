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
use crate::codec::int4::{Compact, Layout, ScaleFormat};
use crate::codec::lanes::exp2i;
use crate::codec::q8::scale;
use std::arch::{aarch64::*, asm};

/// INT4 rows times `x`; `false` if the layout has no kernel here. The CPU must
/// have the dot product extension.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn int4(layout: Layout, x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) -> bool {
    match layout {
        Layout::Compact(compact) => int4_rows(compact, exp2i(compact.exponent), x, rows, y),
        Layout::Plain { group: group @ (32 | 64 | 128), format: ScaleFormat::F16 } => {
            int4_rows(Pairs { blocks: group / 32 }, 1.0, x, rows, y);
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
struct OctetScales {
    scale: Pair,
    minus: Pair,
}

/// How a layout stores the scales of an octet.
trait StoredScales: Copy {
    /// Scales from the beginning of `stored`; zeros past its end.
    fn unpack(self, stored: &[u8]) -> OctetScales;

    /// Bytes of an octet's scales.
    fn bytes(self) -> usize;
}

/// `acc + four products each` of signed bytes.
#[inline(always)]
pub(super) fn sdot(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
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

/// Rows of INT4: `sum over blocks of s dot(q, x) - minus sum(x)`, times `unit`.
#[inline(always)]
fn int4_rows(layout: impl StoredScales, unit: f32, x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) {
    let sums = x.sums().as_chunks::<16>().0;
    for (y, (codes, stored)) in y.iter_mut().zip(rows.iter()) {
        // SAFETY: NEON is AArch64's baseline.
        let mut acc = unsafe { vdupq_n_f32(0.0) };
        for (i, (codes, sums)) in codes.chunks(OCTET / 2).zip(sums).enumerate() {
            let w = layout.unpack(stored.get(i * layout.bytes()..).unwrap_or_default());
            let dots = match x.precision() {
                Precision::Q8 => dots_q8(&padded(codes), x, i, w.scale),
                Precision::F32 => dots_f32(&padded(codes), x.x(), i, w.scale),
            };
            let quads = sums.as_chunks::<4>().0;
            for h in 0..2 {
                // SAFETY: NEON is AArch64's baseline.
                unsafe {
                    acc = vaddq_f32(acc, dots[h]);
                    let blocks = vpaddq_f32(load_4(&quads[2 * h]), load_4(&quads[2 * h + 1]));
                    acc = vfmsq_f32(acc, w.minus[h], blocks);
                }
            }
        }
        // SAFETY: NEON is AArch64's baseline.
        *y = unit * unsafe { vaddvq_f32(acc) };
    }
}

/// `scale dx dot(q, x)` of octet `i`, by integers.
#[inline(always)]
fn dots_q8(codes: &[u8; 128], x: &Activation<'_>, i: usize, scale: Pair) -> Pair {
    let q = x.quantized();
    let (Some(x), Some(dx)) = (q.codes.as_chunks::<OCTET>().0.get(i), q.scales.as_chunks::<8>().0.get(i))
    else {
        return scale;
    };
    let blocks = codes.as_chunks::<16>().0.iter().zip(x.as_chunks::<32>().0);
    // SAFETY: NEON is AArch64's baseline.
    unsafe {
        let mut sums = [vdupq_n_s32(0); 8];
        for (sum, (codes, x)) in sums.iter_mut().zip(blocks) {
            let ([low, high], x) = (nibbles(codes), x.as_chunks::<16>().0);
            *sum = sdot(*sum, vreinterpretq_s8_u8(low), load_codes(&x[0]));
            *sum = sdot(*sum, vreinterpretq_s8_u8(high), load_codes(&x[1]));
        }
        let dx = load_pair(dx);
        let [a, b, c, d, e, f, g, h] = sums;
        let first = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
        let second = vpaddq_s32(vpaddq_s32(e, f), vpaddq_s32(g, h));
        [
            vmulq_f32(vmulq_f32(scale[0], dx[0]), vcvtq_f32_s32(first)),
            vmulq_f32(vmulq_f32(scale[1], dx[1]), vcvtq_f32_s32(second)),
        ]
    }
}

/// `scale dot(q, x)` of octet `i`, by floats.
#[inline(always)]
fn dots_f32(codes: &[u8; 128], x: &[f32], i: usize, scale: Pair) -> Pair {
    let x: [f32; OCTET] = padded(x.get(i * OCTET..).unwrap_or_default());
    let blocks = codes.as_chunks::<16>().0.iter().zip(x.as_chunks::<32>().0);
    // SAFETY: NEON is AArch64's baseline.
    unsafe {
        let mut sums = [vdupq_n_f32(0.0); 8];
        for (sum, (codes, x)) in sums.iter_mut().zip(blocks) {
            let ([low, high], x) = (nibbles(codes), x.as_chunks::<16>().0);
            *sum = add_floats(add_floats(*sum, low, &x[0]), high, &x[1]);
        }
        let [a, b, c, d, e, f, g, h] = sums;
        let first = vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d));
        let second = vpaddq_f32(vpaddq_f32(e, f), vpaddq_f32(g, h));
        [vmulq_f32(scale[0], first), vmulq_f32(scale[1], second)]
    }
}

impl StoredScales for Compact {
    #[inline(always)]
    fn unpack(self, stored: &[u8]) -> OctetScales {
        // The bytes that hold each 12-bit entry; those of odd groups begin at
        // bit 4.
        const WINDOWS: [u8; 16] = [4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12, 13, 14, 14, 15];
        const LIFT: [i16; 8] = [4, 0, 4, 0, 4, 0, 4, 0];
        let stored: [u8; 16] = padded(stored);
        let d = f16_to_f32(u16::from_le_bytes([stored[0], stored[1]]));
        let dmin = f16_to_f32(u16::from_le_bytes([stored[2], stored[3]]));
        // SAFETY: NEON is AArch64's baseline; 16 readable bytes each.
        unsafe {
            let windows = vreinterpretq_u16_u8(vqtbl1q_u8(load_bytes(&stored), load_bytes(&WINDOWS)));
            let entries = vshrq_n_u16::<4>(vshlq_u16(windows, vld1q_s16(LIFT.as_ptr())));
            let (sc, m) = (vandq_u16(entries, vdupq_n_u16(63)), vshrq_n_u16::<6>(entries));
            let floats = |v: uint16x8_t| {
                [vcvtq_f32_u32(vmovl_u16(vget_low_u16(v))), vcvtq_f32_u32(vmovl_u16(vget_high_u16(v)))]
            };
            let scale = floats(sc).map(|sc| vmulq_n_f32(sc, d));
            let m = floats(m).map(|m| vmulq_n_f32(vsubq_f32(m, vdupq_n_f32(self.min_bias)), dmin));
            let minus = |h: usize| vfmaq_n_f32(m[h], scale[h], self.code_bias);
            OctetScales { scale, minus: [minus(0), minus(1)] }
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
    #[inline(always)]
    fn unpack(self, stored: &[u8]) -> OctetScales {
        let stored: [u8; 32] = padded(stored);
        let pairs = stored.as_chunks::<4>().0;
        let (mut scale, mut minus) = ([0.0; 8], [0.0; 8]);
        for i in 0..8 {
            let [a, b, c, d] = pairs[i / self.blocks];
            scale[i] = f16_to_f32(u16::from_le_bytes([a, b]));
            minus[i] = -f16_to_f32(u16::from_le_bytes([c, d]));
        }
        OctetScales { scale: load_pair(&scale), minus: load_pair(&minus) }
    }

    #[inline(always)]
    fn bytes(self) -> usize {
        32 / self.blocks
    }
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
