//! Planes and payload length of each codec: one file a codec family, all
//! arithmetic checked.

pub mod astc;
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

/// Lays planes of the given row strides one after the other.
fn stacked(rows: u64, strides: &[u64]) -> GeometryResult {
    stacked_runs(strides.iter().map(|stride| (rows, *stride)))
}

/// Lays up to four planes one after the other, each at a multiple of 256 and
/// given by its number of runs and their bytes; the payload ends where the last
/// plane ends.
fn stacked_runs(runs: impl Iterator<Item = (u64, u64)>) -> GeometryResult {
    let mut planes = [Plane::default(); 4];
    let (mut end, mut plane_count) = (0u64, 0);
    for (plane, (count, row_stride)) in planes.iter_mut().zip(runs) {
        let offset = end.checked_next_multiple_of(TENSOR_ALIGN).ok_or(GeometryError::Overflow)?;
        let bytes = count.checked_mul(row_stride).ok_or(GeometryError::Overflow)?;
        end = offset.checked_add(bytes).ok_or(GeometryError::Overflow)?;
        *plane = Plane { offset, row_stride };
        plane_count += 1;
    }
    Ok(Geometry { planes, plane_count, length: PayloadLength::Exact(end) })
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
