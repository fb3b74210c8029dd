//! Planes and payload length of each codec: one file a codec family, all
//! arithmetic checked.

mod hybrid;
mod integer;
mod mxfp4;
mod sqint2;
mod tca_tbe;
mod zplanes;

pub(crate) use hybrid::hybrid_geometry;
pub use hybrid::hybrid_layout;
pub use integer::int_layout;
pub(crate) use integer::{integer, q8};
pub(crate) use mxfp4::mxfp4;
pub use sqint2::sqint;
pub(crate) use sqint2::sqint2_geometry;
pub use tca_tbe::tbe;
pub(crate) use tca_tbe::tca_tbe;
pub(crate) use zplanes::zplanes_geometry;
pub use zplanes::{ZplanesShape, zp};

use crate::codec_id::{Geometry, GeometryError, GeometryResult, Matrix, Params, PayloadLength, Plane};
use crate::layout::TENSOR_ALIGN;
use alloc::format;

/// Refuses a non-zero byte among `params[from..]`.
fn rest_zero(params: &Params, from: usize) -> Result<(), GeometryError> {
    match params.iter().enumerate().skip(from).find(|(_, b)| **b != 0) {
        Some((i, b)) => Err(GeometryError::param(i, format!("parameter byte {i} is {b}, must be 0"))),
        None => Ok(()),
    }
}

/// `params[index]` if it is one of `allowed`.
fn one_of(params: &Params, index: usize, field: &str, allowed: &[u8]) -> Result<u8, GeometryError> {
    let value = params.get(index).copied().unwrap_or(0);
    if allowed.contains(&value) {
        Ok(value)
    } else {
        Err(GeometryError::param(index, format!("{field} is {value}, allowed {allowed:?}")))
    }
}

/// Lays planes of the given row strides one after the other, each at a
/// multiple of 256; the payload ends where the last plane ends.
fn stacked(rows: u64, strides: &[u64]) -> GeometryResult {
    let mut planes = [Plane::default(); 4];
    let mut end = 0u64;
    for (plane, &row_stride) in planes.iter_mut().zip(strides) {
        let offset = end.checked_next_multiple_of(TENSOR_ALIGN).ok_or(GeometryError::Overflow)?;
        let bytes = rows.checked_mul(row_stride).ok_or(GeometryError::Overflow)?;
        end = offset.checked_add(bytes).ok_or(GeometryError::Overflow)?;
        *plane = Plane { offset, row_stride };
    }
    Ok(Geometry { planes, plane_count: strides.len(), length: PayloadLength::Exact(end) })
}

pub(crate) fn raw(m: Matrix, params: &Params, size: u64) -> GeometryResult {
    rest_zero(params, 0)?;
    stacked(m.rows, &[m.cols.checked_mul(size).ok_or(GeometryError::Overflow)?])
}

/// Bytes of one stored scale (`per` values) for scale format 0 (f16) or 1 (f32).
fn scale_bytes(format: u8, per: u64) -> u64 {
    per * if format == 0 { 2 } else { 4 }
}

/// Parameters that begin with `head`, the rest zero.
#[cfg(test)]
pub(crate) fn test_params(head: &[u8]) -> Params {
    let mut params = Params::default();
    params[..head.len()].copy_from_slice(head);
    params
}
