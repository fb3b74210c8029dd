//! ZPLANES.

use super::{one_of, raw, rest_zero};
use crate::codec_id::{Geometry, GeometryError, GeometryResult, Matrix, Params, PayloadLength, Plane};

/// Constants of ZPLANES' wire layout.
pub mod zp {
    /// Profile (parameter byte 0): the plain numbers, where coding saves nothing.
    pub const PLAIN: u8 = 0;
    /// Profile: byte planes, coded chunk by chunk.
    pub const CODED: u8 = 1;
    /// A chunk is as many whole rows as have this many weights together, at
    /// least one.
    pub const CHUNK_WEIGHTS: u64 = 1 << 18;
    /// Bytes of an index entry.
    pub const ENTRY: u64 = 8;
    /// The first piece begins at a multiple of this.
    pub const DATA_ALIGN: u64 = 64;
}

/// Sizes of a coded payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZplanesShape {
    /// Bytes of an element, and so byte planes of a chunk.
    pub planes: u64,
    /// Rows of each chunk but the last, which may have fewer.
    pub chunk_rows: u64,
    /// Chunks.
    pub chunks: u64,
    /// Where the first piece begins.
    pub data: u64,
}

impl ZplanesShape {
    /// The sizes for a matrix of elements of `planes` bytes; `None` on overflow.
    pub fn of(m: Matrix, planes: u64) -> Option<Self> {
        let chunk_rows = zp::CHUNK_WEIGHTS.checked_div(m.cols).map_or(m.rows, |r| r).max(1);
        let chunks = if m.cols == 0 { 0 } else { m.rows.div_ceil(chunk_rows) };
        let index = chunks.checked_mul(planes)?.checked_mul(zp::ENTRY)?;
        Some(Self { planes, chunk_rows, chunks, data: index.checked_next_multiple_of(zp::DATA_ALIGN)? })
    }
}

/// ZPLANES: an index of u64 per chunk and byte plane, then the pieces.
///
/// Parameters: 0 = profile, 1 = element type (id of the raw codec).
pub(crate) fn zplanes_geometry(m: Matrix, params: &Params) -> GeometryResult {
    let profile = one_of(params, 0, "profile", &[zp::PLAIN, zp::CODED])?;
    let size = match one_of(params, 1, "element type", &[1, 2, 3, 4])? {
        1 => 4,
        4 => 1,
        _ => 2,
    };
    rest_zero(params, 2)?;
    if profile == zp::PLAIN {
        return raw(m, &Params::default(), size);
    }
    zplanes_coded(m, size).ok_or(GeometryError::Overflow)
}

/// The coded profile; `None` on overflow.
fn zplanes_coded(m: Matrix, size: u64) -> Option<Geometry> {
    let shape = ZplanesShape::of(m, size)?;
    let pieces = shape.chunks.checked_mul(size)?;
    let bytes = m.rows.checked_mul(m.cols)?.checked_mul(size)?;
    let length =
        PayloadLength::Within { min: shape.data.checked_add(pieces)?, max: shape.data.checked_add(bytes)? };
    Some(Geometry { planes: [Plane::default(); 4], plane_count: 0, length })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CodecId;
    use crate::geometry::test_params as params;

    #[test]
    fn chunks_are_whole_rows() {
        let m = Matrix { rows: 1000, cols: 1000 };
        let shape = ZplanesShape::of(m, 2).unwrap();
        assert_eq!(shape, ZplanesShape { planes: 2, chunk_rows: 262, chunks: 4, data: 64 });
        let g = CodecId::ZPLANES.geometry(m, &params(&[zp::CODED, 3])).unwrap();
        assert_eq!(g.length, PayloadLength::Within { min: 64 + 8, max: 64 + 2_000_000 });
        let wide = ZplanesShape::of(Matrix { rows: 3, cols: 1 << 30 }, 4).unwrap();
        assert_eq!((wide.chunk_rows, wide.chunks, wide.data), (1, 3, 128));
        let plain = CodecId::ZPLANES.geometry(m, &params(&[zp::PLAIN, 1])).unwrap();
        assert_eq!(plain.length, PayloadLength::Exact(4_000_000));
        for (element, bytes) in [(2, 2_000_000), (3, 2_000_000), (4, 1_000_000)] {
            let plain = CodecId::ZPLANES.geometry(m, &params(&[zp::PLAIN, element])).unwrap();
            assert_eq!(plain.length, PayloadLength::Exact(bytes));
        }
        for head in [&[2, 1][..], &[1, 0], &[1, 5], &[1, 1, 1]] {
            assert!(CodecId::ZPLANES.geometry(m, &params(head)).is_err(), "{head:?}");
        }
        let huge = Matrix { rows: 1 << 34, cols: 1 << 30 };
        assert_eq!(CodecId::ZPLANES.geometry(huge, &params(&[1, 1])), Err(GeometryError::Overflow));
    }
}
