//! Matrix times vector, straight from stored blocks.
//!
//! Every kernel computes, per block of 32 weights with codes `q`,
//!
//! ```text
//! sum(w x) = s sum((q - b) x) - c sum(x) = s sum(q x) - (c + b s) sum(x)
//! ```
//!
//! so that the inner loop multiplies small unsigned integers. [`generic`] is
//! the reference; the intrinsics of `avx2`, `avx512` and `neon` take over where
//! the level in use has them.

#![allow(unsafe_code)] // calls to functions compiled for detected CPU features

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod fine;
#[cfg(target_arch = "x86_64")]
mod fours;
mod generic;
#[cfg(target_arch = "x86_64")]
mod halves;
mod mxfp4;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
pub(super) use neon::sdot;

use super::activation::{Activation, Precision};
use super::integer::{Layout, ScaleFormat, codes};
use super::stream::{checked_geometry, plane_rows};
use super::{Encoded, Kernel, q8 as q8_codec};
use crate::simd::{Level, level};
use squizd_spec::CodecId;
use std::ops::Range;

/// Weights of an octet: eight blocks of 32.
pub(super) const OCTET: usize = 256;
/// The order in which paired block sums come out of two rounds of horizontal
/// adds: even blocks in the low half of a register, odd ones in the high half.
#[cfg(any(target_arch = "x86_64", test))]
pub(super) const PAIR_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Rows of a two-plane tensor: codes and scales, and their bytes per row.
#[derive(Clone, Copy)]
struct Rows<'a> {
    codes: &'a [u8],
    code_stride: usize,
    scales: &'a [u8],
    scale_stride: usize,
    /// Blocks of 32 weights per row.
    blocks: usize,
}

impl<'a> Rows<'a> {
    /// The planes of `rows`; `None` if any size does not fit the others.
    fn of(
        id: CodecId,
        tensor: &Encoded<'a>,
        x: &Activation<'_>,
        rows: &Range<u64>,
        y: &[f32],
    ) -> Option<Self> {
        let geometry = checked_geometry(id, tensor, rows, y.len(), 1).ok()?;
        if tensor.matrix.cols != x.x().len() as u64 || tensor.matrix.cols == 0 {
            return None;
        }
        let [codes, scales, ..] = geometry.planes;
        Some(Self {
            codes: plane_rows(tensor.data, codes, rows),
            code_stride: codes.row_stride as usize,
            scales: plane_rows(tensor.data, scales, rows),
            scale_stride: scales.row_stride as usize,
            blocks: tensor.matrix.cols.div_ceil(codes::BLOCK as u64) as usize,
        })
    }

    /// Codes and scales of row `i`; empty past the last.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn row(self, i: usize) -> (&'a [u8], &'a [u8]) {
        let part = |plane: &'a [u8], stride: usize| {
            plane.get(i * stride..).and_then(|rows| rows.get(..stride)).unwrap_or_default()
        };
        (part(self.codes, self.code_stride), part(self.scales, self.scale_stride))
    }

    /// Codes and scales of each row.
    fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.codes.chunks_exact(self.code_stride).zip(self.scales.chunks_exact(self.scale_stride))
    }
}

/// The code for blocks whose products are summed in `precision`.
const fn block_kernel(asked: Level, precision: Precision) -> Kernel {
    match (asked, precision) {
        (Level::Scalar, _) => Kernel::with(Level::Scalar, ""),
        (Level::Avx2, Precision::Q8) => Kernel::with(asked, "maddubs"),
        (Level::Avx512, Precision::Q8) => Kernel::with(asked, "vnni"),
        (Level::Neon, Precision::Q8) => Kernel::with(asked, "dotprod"),
        (_, Precision::F32) => Kernel::with(asked, "fma"),
    }
}

/// The code that multiplies rows of an integer codec.
pub(super) const fn integer_kernel(layout: Layout, precision: Precision, asked: Level) -> Kernel {
    match layout {
        Layout::Plain { format: ScaleFormat::F32, .. } => {
            Kernel::plain(asked, "groups with f32 scales have no vector kernel")
        }
        _ => block_kernel(asked, precision),
    }
}

/// The code that multiplies rows of Q8.
pub(super) const fn q8_kernel(precision: Precision, asked: Level) -> Kernel {
    block_kernel(asked, precision)
}

/// The code that multiplies rows of MXFP4.
pub(super) const fn mxfp4_kernel(precision: Precision, asked: Level) -> Kernel {
    block_kernel(asked, precision)
}

/// Rows of an integer codec of `bits` times `x`.
pub(super) fn integer(
    bits: u32,
    id: CodecId,
    tensor: &Encoded<'_>,
    x: &Activation<'_>,
    range: Range<u64>,
    y: &mut [f32],
) {
    let Some(rows) = Rows::of(id, tensor, x, &range, y) else {
        y.fill(f32::NAN);
        return;
    };
    let layout = Layout::of(bits, tensor.params);
    match bits {
        2 => integer_at::<2>(level(), layout, x, rows, y),
        3 => integer_at::<3>(level(), layout, x, rows, y),
        _ => integer_at::<4>(level(), layout, x, rows, y),
    }
}

/// Rows of codes of `B` bits times `x`.
fn integer_at<const B: u32>(level: Level, layout: Layout, x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) {
    let path = integer_kernel(layout, x.precision(), level).level;
    let done = match path {
        // SAFETY: callers pass a level this CPU supports.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2::integer::<B>(layout, x, rows, y) },
        // SAFETY: callers pass a level this CPU supports.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512::integer::<B>(layout, x, rows, y) },
        // SAFETY: callers pass a level this CPU supports.
        #[cfg(target_arch = "aarch64")]
        Level::Neon => unsafe { neon::integer::<B>(layout, x, rows, y) },
        _ => false,
    };
    debug_assert!(done || path == Level::Scalar, "{layout:?} has no kernel of {path}");
    match x.precision() {
        _ if done => {}
        Precision::F32 => generic::integer_f32::<B>(layout, x, rows, y),
        Precision::Q8 => generic::integer_q8::<B>(layout, x, rows, y),
    }
}

/// Q8 rows times `x`.
pub(super) fn q8(tensor: &Encoded<'_>, x: &Activation<'_>, range: Range<u64>, y: &mut [f32]) {
    let Some(rows) = Rows::of(CodecId::Q8, tensor, x, &range, y) else {
        y.fill(f32::NAN);
        return;
    };
    q8_at(level(), q8_codec::scale_bytes(tensor.params), x, rows, y);
}

fn q8_at(level: Level, scale_bytes: usize, x: &Activation<'_>, rows: Rows<'_>, y: &mut [f32]) {
    match (q8_kernel(x.precision(), level).level, x.precision()) {
        // SAFETY: callers pass a level this CPU supports.
        #[cfg(target_arch = "x86_64")]
        (Level::Avx2, _) => unsafe { avx2::q8(scale_bytes, x, rows, y) },
        // SAFETY: callers pass a level this CPU supports.
        #[cfg(target_arch = "x86_64")]
        (Level::Avx512, _) => unsafe { avx512::q8(scale_bytes, x, rows, y) },
        // SAFETY: callers pass a level this CPU supports.
        #[cfg(target_arch = "aarch64")]
        (Level::Neon, _) => unsafe { neon::q8(scale_bytes, x, rows, y) },
        (_, Precision::F32) => generic::q8_f32(scale_bytes, x, rows, y),
        (_, Precision::Q8) => generic::q8_q8(scale_bytes, x, rows, y),
    }
}

/// MXFP4 rows times `x`.
pub(super) fn mxfp4(tensor: &Encoded<'_>, x: &Activation<'_>, range: Range<u64>, y: &mut [f32]) {
    match Rows::of(CodecId::MXFP4, tensor, x, &range, y) {
        Some(rows) => mxfp4::at(level(), x, rows, y),
        None => y.fill(f32::NAN),
    }
}

/// The code that multiplies rows of IEEE halves.
pub(super) const fn f16_kernel(asked: Level) -> Kernel {
    Kernel::avx2(asked, "f16c")
}

/// Dot product of IEEE halves with floats, if the level in use converts halves
/// in hardware.
pub(super) fn dot_f16(halves: &[u8], x: &[f32]) -> Option<f32> {
    #[cfg(target_arch = "x86_64")]
    if f16_kernel(level()).level == Level::Avx2 {
        // SAFETY: the level is only ever one this CPU supports.
        return Some(unsafe { avx2::dot_f16(halves, x) });
    }
    let _ = (halves, x);
    None
}
