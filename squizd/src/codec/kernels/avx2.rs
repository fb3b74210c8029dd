//! AVX2 kernels of the 8-bit precision.
#![allow(unsafe_code)] // x86 intrinsics

use super::Rows;
use crate::codec::activation::Quantized;
use crate::codec::int4::Layout;

pub(super) fn int4(_layout: Layout, _x: &Quantized, _rows: Rows<'_>, _y: &mut [f32]) -> bool {
    false
}

pub(super) fn q8(_scale_bytes: usize, _x: &Quantized, _rows: Rows<'_>, _y: &mut [f32]) -> bool {
    false
}
