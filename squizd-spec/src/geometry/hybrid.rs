//! HYBRID.

use super::rest_zero;
use crate::codec_id::{Geometry, GeometryError, GeometryResult, Matrix, Params, PayloadLength, Plane};
use crate::layout::TENSOR_ALIGN;
use alloc::format;

/// Constants and parts of HYBRID's wire layout.
pub mod hybrid_layout {
    use super::{Matrix, TENSOR_ALIGN};

    /// Rows of a strip, which share a rate in each block of columns.
    pub const STRIP: u64 = 16;
    /// Columns of a block.
    pub const BLOCK: u64 = 64;
    /// Codes are counted in units of this many bytes.
    pub const UNIT: u64 = 8;
    /// Units of a block of 64 weights by its rate code: 2, 3, 4 and 5 bits, and
    /// bfloat16.
    pub const UNITS: [u64; 5] = [2, 3, 4, 5, 16];
    /// Blocks that one record of the map describes.
    pub const MAPPED: u64 = 8;
    /// Largest exponent: steps stay finite.
    pub const MAX_EXPONENT: i8 = 64;

    /// Where the parts of a payload begin.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Parts {
        /// Blocks of a row.
        pub blocks: u64,
        /// Strips of the matrix.
        pub strips: u64,
        /// Bytes of a strip's map.
        pub map_stride: u64,
        /// The map: rates and offsets by strip.
        pub map: u64,
        /// Where the codes of each strip begin, and where the last one's end (u32).
        pub starts: u64,
        /// The codes.
        pub codes: u64,
    }

    /// The parts of a matrix's payload; `None` on overflow.
    pub fn parts(m: Matrix) -> Option<Parts> {
        let (blocks, strips) = (m.cols.div_ceil(BLOCK), m.rows.div_ceil(STRIP));
        let map_stride = blocks.div_ceil(MAPPED).checked_mul(8)?;
        let after = |start: u64, bytes: u64| start.checked_add(bytes)?.checked_next_multiple_of(TENSOR_ALIGN);
        let map = after(0, m.rows.checked_mul(blocks.checked_mul(4)?)?)?;
        let starts = after(map, strips.checked_mul(map_stride)?)?;
        let codes = after(starts, strips.checked_add(1)?.checked_mul(4)?)?;
        Some(Parts { blocks, strips, map_stride, map, starts, codes })
    }
}

/// HYBRID: plane 0 holds one scale word (u32) per row and block of 64; map,
/// starts and codes follow.
///
/// Parameters: 0 and 1 = bits per weight aimed at, in thousandths, which a
/// payload exceeds only if even two bits everywhere do; 2 = exponent, signed.
pub(crate) fn hybrid_geometry(m: Matrix, params: &Params) -> GeometryResult {
    let target = u16::from_le_bytes([params[0], params[1]]);
    if target == 0 {
        return Err(GeometryError::param(0, "bits per weight aimed at are 0".into()));
    }
    let exponent = params[2].cast_signed();
    if exponent > hybrid_layout::MAX_EXPONENT {
        let message = format!("exponent is {exponent}, at most {} allowed", hybrid_layout::MAX_EXPONENT);
        return Err(GeometryError::param(2, message));
    }
    rest_zero(params, 3)?;
    sized(m, target).ok_or(GeometryError::Overflow)
}

fn sized(m: Matrix, target: u16) -> Option<Geometry> {
    let parts = hybrid_layout::parts(m)?;
    let mut planes = [Plane::default(); 4];
    planes[0].row_stride = parts.blocks.checked_mul(4)?;
    let with = |units: u64| {
        let bytes = m.rows.checked_mul(parts.blocks)?.checked_mul(units * hybrid_layout::UNIT)?;
        parts.codes.checked_add(bytes)
    };
    let (min, full) = (with(2)?, with(16)?);
    let budget = u128::from(m.rows) * u128::from(m.cols) * u128::from(target) / 8000;
    let max = u64::try_from(budget).map_or(full, |b| b.min(full)).max(min);
    Some(Geometry { planes, plane_count: 1, length: PayloadLength::Within { min, max } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CodecId;
    use crate::geometry::test_params as params;

    #[test]
    fn parts_and_bounds() {
        let m = Matrix { rows: 100, cols: 600 };
        let parts = hybrid_layout::parts(m).unwrap();
        assert_eq!((parts.blocks, parts.strips, parts.map_stride), (10, 7, 16));
        assert_eq!((parts.map, parts.starts, parts.codes), (4096, 4352, 4608));
        let g = CodecId::HYBRID.geometry(m, &params(&[0xa0, 0x0f, 0xfa])).unwrap();
        assert_eq!(g.planes[0], Plane { offset: 0, row_stride: 40 });
        assert_eq!(g.length, PayloadLength::Within { min: 4608 + 16_000, max: 30_000 });
        // Even two bits are more than one bit.
        let g = CodecId::HYBRID.geometry(m, &params(&[0xe8, 0x03])).unwrap();
        assert_eq!(g.length, PayloadLength::Within { min: 20_608, max: 20_608 });
    }

    #[test]
    fn bad_parameters_are_named() {
        let m = Matrix { rows: 1, cols: 64 };
        let index = |head: &[u8]| match CodecId::HYBRID.geometry(m, &params(head)) {
            Err(GeometryError::Param { index, .. }) => index,
            other => panic!("{other:?}"),
        };
        assert_eq!(index(&[0, 0]), 0);
        assert_eq!(index(&[1, 0, 65]), 2);
        assert_eq!(index(&[1, 0, 64, 1]), 3);
        let huge = Matrix { rows: 1 << 50, cols: 1 << 13 };
        assert_eq!(CodecId::HYBRID.geometry(huge, &params(&[1])), Err(GeometryError::Overflow));
    }
}
