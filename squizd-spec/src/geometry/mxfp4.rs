//! MXFP4.

use super::{one_of, rest_zero, stacked};
use crate::codec_id::{GeometryError, GeometryResult, Matrix, Params};

/// MXFP4: plane 0 holds the codes as INT4's does, rows padded to 32; plane 1
/// holds one byte of scale per group of 32.
///
/// Parameters: 0 = group size (32).
pub(crate) fn mxfp4(m: Matrix, params: &Params) -> GeometryResult {
    one_of(params, 0, "group size", &[32])?;
    rest_zero(params, 1)?;
    let groups = m.cols.div_ceil(32);
    stacked(m.rows, &[groups.checked_mul(16).ok_or(GeometryError::Overflow)?, groups])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CodecId;
    use crate::codec_id::Plane;
    use crate::geometry::test_params as params;

    #[test]
    fn four_and_a_quarter_bits() {
        let m = Matrix { rows: 512, cols: 1536 };
        let g = CodecId::MXFP4.geometry(m, &params(&[32])).unwrap();
        assert_eq!(g.length.max() * 8 * 4, m.elements() * 17);
        assert_eq!(g.planes[1], Plane { offset: 512 * 768, row_stride: 48 });
        let ragged = CodecId::MXFP4.geometry(Matrix { rows: 3, cols: 33 }, &params(&[32])).unwrap();
        assert_eq!(ragged.length.max(), 256 + 3 * 2);
        for head in [&[16][..], &[], &[32, 1]] {
            assert!(CodecId::MXFP4.geometry(m, &params(head)).is_err());
        }
    }
}
