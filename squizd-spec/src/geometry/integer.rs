//! Q8 and the integer codecs.

use super::{one_of, rest_zero, scale_bytes, stacked};
use crate::codec_id::{GeometryError, GeometryResult, Matrix, Params};

/// Q8: plane 0 holds one signed byte per weight, rows padded to 32; plane 1
/// holds one scale per group of 32.
///
/// Parameters: 0 = group size (32), 1 = scale format (0 f16, 1 f32).
pub(crate) fn q8(m: Matrix, params: &Params) -> GeometryResult {
    one_of(params, 0, "group size", &[32])?;
    let format = one_of(params, 1, "scale format", &[0, 1])?;
    rest_zero(params, 2)?;
    let groups = m.cols.div_ceil(32);
    let codes = groups.checked_mul(32).ok_or(GeometryError::Overflow)?;
    stacked(m.rows, &[codes, groups.checked_mul(scale_bytes(format, 1)).ok_or(GeometryError::Overflow)?])
}

/// Layouts of the integer codecs (parameter byte 0).
pub mod int_layout {
    /// Scale and real-valued offset per group.
    pub const PLAIN: u8 = 0;
    /// 6-bit scales and mins per 32 weights under f16 `d` and `dmin` per 256.
    pub const COMPACT: u8 = 1;
}

/// Bytes of one row's scale plane in the compact layout: per 256 weights `d`
/// and `dmin` (f16) and eight 12-bit (scale, min) pairs; the last superblock
/// stores only its own groups, padded to 4 bytes.
fn compact_row(cols: u64) -> Option<u64> {
    let full = cols / 256;
    let groups = (cols % 256).div_ceil(32);
    let tail = if groups == 0 { 0 } else { 4 + (groups * 12).div_ceil(32) * 4 };
    full.checked_mul(16)?.checked_add(tail)
}

/// INT4: plane 0 holds the codes, 16 bytes per 32 weights (byte j: weight j in
/// the low nibble, weight j+16 in the high one), rows padded to 32; plane 1
/// holds the scales.
///
/// Parameters: 0 = layout, 1 = group size, 2 = scale format (plain: 0 f16,
/// 1 f32), 3 = min bias (compact: 0 or 32), 4 = exponent e (compact: signed,
/// `d` and `dmin` are multiplied by 2^e).
///
/// A weight of code q is, every operation rounded to f32:
/// plain `offset + scale q`; compact with bias 0 (ggml's Q4_K)
/// `(d sc) q - dmin m`; compact with bias 32 (centred)
/// `(d sc) (q - 8) - dmin (m - 32)`.
pub(crate) fn int4(m: Matrix, params: &Params) -> GeometryResult {
    let codes = m.cols.div_ceil(32).checked_mul(16).ok_or(GeometryError::Overflow)?;
    let layout = one_of(params, 0, "layout", &[int_layout::PLAIN, int_layout::COMPACT])?;
    let scales = if layout == int_layout::PLAIN {
        let group = one_of(params, 1, "group size", &[16, 32, 64, 128])?;
        let format = one_of(params, 2, "scale format", &[0, 1])?;
        rest_zero(params, 3)?;
        m.cols.div_ceil(u64::from(group)).checked_mul(scale_bytes(format, 2))
    } else {
        one_of(params, 1, "group size", &[32])?;
        one_of(params, 2, "scale format", &[0])?;
        one_of(params, 3, "min bias", &[0, 32])?;
        rest_zero(params, 5)?;
        compact_row(m.cols)
    };
    stacked(m.rows, &[codes, scales.ok_or(GeometryError::Overflow)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CodecId;
    use crate::codec_id::Plane;
    use crate::geometry::test_params as params;

    #[test]
    fn compact_is_four_and_a_half_bits() {
        let m = Matrix { rows: 512, cols: 1536 };
        let g = CodecId::INT4.geometry(m, &params(&[1, 32])).unwrap();
        assert_eq!(g.length.max() * 8 * 2, m.elements() * 9);
        assert_eq!(g.planes[1], Plane { offset: 512 * 768, row_stride: 96 });
    }

    #[test]
    fn ragged_rows_store_their_own_groups_only() {
        assert_eq!(compact_row(576), Some(2 * 16 + 4 + 4));
        assert_eq!(compact_row(1), Some(8));
        assert_eq!(compact_row(255), Some(16));
    }
}
