//! Q8 and the integer codecs.

use super::{one_of, rest_zero, scale_bytes, stacked};
use crate::codec_id::{GeometryError, GeometryResult, Matrix, Params};
use alloc::format;

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
    /// 3-bit scales and mins per 16 weights under f16 `d` and `dmin` per 256.
    pub const FINE: u8 = 2;
    /// Largest scale bias of the fine layout.
    pub const MAX_SCALE_BIAS: u8 = 15;
}

/// Bytes of one row's scale plane in the compact and fine layouts: per 256
/// weights `d` and `dmin` (f16) and one entry of `bits` per group; the last
/// superblock stores only its own groups, padded to 4 bytes.
fn superblocks_row(cols: u64, group: u64, bits: u64) -> Option<u64> {
    let full = cols / 256;
    let groups = (cols % 256).div_ceil(group);
    let tail = if groups == 0 { 0 } else { 4 + (groups * bits).div_ceil(32) * 4 };
    full.checked_mul(16)?.checked_add(tail)
}

/// The integer codecs of `bits`: plane 0 holds the codes, `4 bits` bytes per
/// 32 weights, rows padded to 32; plane 1 holds the scales.
///
/// In a plane of k-bit fields byte j of a block's 4k holds weight j + 4k f in
/// its field f. Codes of 4 and 2 bits are one such plane; of 3 bits a row holds
/// the blocks' low two bits, then their high bits.
///
/// Parameters: 0 = layout, 1 = group size, 2 = scale format (plain: 0 f16,
/// 1 f32), 3 = min bias (compact: 0 or 32) or scale bias c (fine: 0 to 15),
/// 4 = exponent e (not plain: signed, `d` and `dmin` are multiplied by 2^e).
///
/// A weight of code q is, every operation rounded to f32:
/// plain `offset + scale q`; compact with bias 0 (at 4 bits: ggml's Q4_K)
/// `(d sc) q - dmin m`; compact with bias 32 (centred)
/// `(d sc) (q - 2^(bits-1)) - dmin (m - 32)`;
/// fine `(d (sc + c)) (q - (2^bits - 1) / 2) - dmin (m - 3.5)`.
pub(crate) fn integer(m: Matrix, params: &Params, bits: u64) -> GeometryResult {
    let codes = m.cols.div_ceil(32).checked_mul(4 * bits).ok_or(GeometryError::Overflow)?;
    let layouts = [int_layout::PLAIN, int_layout::COMPACT, int_layout::FINE];
    let scales = match one_of(params, 0, "layout", &layouts)? {
        int_layout::PLAIN => {
            let group = one_of(params, 1, "group size", &[16, 32, 64, 128])?;
            let format = one_of(params, 2, "scale format", &[0, 1])?;
            rest_zero(params, 3)?;
            m.cols.div_ceil(u64::from(group)).checked_mul(scale_bytes(format, 2))
        }
        int_layout::COMPACT => {
            one_of(params, 1, "group size", &[32])?;
            one_of(params, 2, "scale format", &[0])?;
            one_of(params, 3, "min bias", &[0, 32])?;
            rest_zero(params, 5)?;
            superblocks_row(m.cols, 32, 12)
        }
        _ => {
            one_of(params, 1, "group size", &[16])?;
            one_of(params, 2, "scale format", &[0])?;
            if params[3] > int_layout::MAX_SCALE_BIAS {
                let message = format!("scale bias is {}, allowed 0 to 15", params[3]);
                return Err(GeometryError::param(3, message));
            }
            rest_zero(params, 5)?;
            superblocks_row(m.cols, 16, 6)
        }
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
    fn hierarchical_scales_are_half_a_bit() {
        let m = Matrix { rows: 512, cols: 1536 };
        for (id, bits) in [(CodecId::INT4, 4), (CodecId::INT3, 3), (CodecId::INT2, 2)] {
            for head in [&[1, 32][..], &[2, 16, 0, 15, 9]] {
                let g = id.geometry(m, &params(head)).unwrap();
                assert_eq!(g.length.max() * 8 * 2, m.elements() * (2 * bits + 1));
                assert_eq!(g.planes[1], Plane { offset: 512 * 192 * bits, row_stride: 96 });
            }
        }
        assert!(CodecId::INT3.geometry(m, &params(&[2, 16, 0, 16])).is_err());
        assert!(CodecId::INT3.geometry(m, &params(&[2, 32])).is_err());
    }

    #[test]
    fn ragged_rows_store_their_own_groups_only() {
        assert_eq!(superblocks_row(576, 32, 12), Some(2 * 16 + 4 + 4));
        assert_eq!(superblocks_row(1, 32, 12), Some(8));
        assert_eq!(superblocks_row(255, 32, 12), Some(16));
        assert_eq!(superblocks_row(576, 16, 6), Some(2 * 16 + 4 + 4));
        assert_eq!(superblocks_row(80, 16, 6), Some(8));
        assert_eq!(superblocks_row(255, 16, 6), Some(16));
    }
}
