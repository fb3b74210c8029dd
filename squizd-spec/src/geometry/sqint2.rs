//! SQINT2: trellis-coded weights under a Hadamard rotation of the columns.

use super::{one_of, rest_zero};
use crate::codec_id::{Geometry, GeometryError, GeometryResult, Matrix, Params, PayloadLength, Plane};
use crate::layout::TENSOR_ALIGN;
use alloc::format;

/// Constants of SQINT2's wire layout.
pub mod sqint {
    /// Layout (parameter byte 0): four levels, 2 bits a weight, scales per 64.
    pub const LEVELS: u8 = 0;
    /// Layout: trellis-coded tiles, one scale per row.
    pub const TRELLIS: u8 = 1;
    /// Rows and columns of a tile.
    pub const TILE: u64 = 16;
    /// Weights that share a scale in layout [`LEVELS`].
    pub const GROUP: u64 = 64;
    /// Scale format (parameter byte 6): a byte under the tensor's scale.
    pub const SCALE_BYTE: u8 = 0;
    /// Scale format: binary32.
    pub const SCALE_F32: u8 = 1;
    /// The largest Hadamard block is 2^12 columns.
    pub const MAX_LOG_BLOCK: u8 = 12;
}
use sqint::{GROUP, LEVELS, MAX_LOG_BLOCK, SCALE_BYTE, SCALE_F32, TILE, TRELLIS};

/// SQINT2: plane 0 holds the scales, row after row; plane 1 the codes: in
/// layout LEVELS 16 bytes per 64 weights, rows padded to 64; in layout TRELLIS
/// strips of 16 rows (the last one padded), each a run of 16x16 tiles of 4n bytes.
///
/// Parameters: 0 = layout, 1 = n (trellis: rate in eighths of a bit, 16 to 32),
/// 2 = window bits L (trellis: 8, 10, 12), 3 = table (trellis: 0 to 2),
/// 4 = log2 of the Hadamard block, 5 = 0, 6 = scale format, 7 = 0, 8 to 15 =
/// sign seed, 16 to 19 = tensor scale (f32; byte scales only).
pub(crate) fn sqint2_geometry(m: Matrix, params: &Params) -> GeometryResult {
    let layout = one_of(params, 0, "layout", &[LEVELS, TRELLIS])?;
    let rate = params[1];
    if layout == TRELLIS {
        if !(16..=32).contains(&rate) {
            return Err(GeometryError::param(1, format!("rate is {rate} eighths, allowed 16 to 32")));
        }
        one_of(params, 2, "window bits", &[8, 10, 12])?;
        one_of(params, 3, "table", &[0, 1, 2])?;
    } else {
        one_of(params, 1, "rate", &[0])?;
        one_of(params, 2, "window bits", &[0])?;
        one_of(params, 3, "table", &[0])?;
    }
    let block = params[4];
    if block > MAX_LOG_BLOCK || m.cols.max(1) >> block == 0 {
        return Err(GeometryError::param(
            4,
            format!(
                "log2 of the Hadamard block is {block}, at most {MAX_LOG_BLOCK} and 2^{block} <= {} columns allowed",
                m.cols
            ),
        ));
    }
    one_of(params, 5, "parameter byte 5", &[0])?;
    let format = one_of(params, 6, "scale format", &[SCALE_BYTE, SCALE_F32])?;
    one_of(params, 7, "parameter byte 7", &[0])?;
    let scale = u32::from_le_bytes([params[16], params[17], params[18], params[19]]);
    // Positive, finite and not subnormal; 0 where it is not used.
    let legal = if format == SCALE_BYTE { (0x0080_0000..0x7f80_0000).contains(&scale) } else { scale == 0 };
    if !legal {
        return Err(GeometryError::param(
            16,
            format!(
                "tensor scale has the bits {scale:#010x}, must be a positive normal number with byte scales and 0 with f32 scales"
            ),
        ));
    }
    rest_zero(params, 20)?;
    planes(m, layout, u64::from(rate), format).ok_or(GeometryError::Overflow)
}

/// The planes; `None` on overflow.
fn planes(m: Matrix, layout: u8, rate: u64, format: u8) -> Option<Geometry> {
    let size = if format == SCALE_BYTE { 1 } else { 4 };
    let groups = if layout == TRELLIS { u64::from(m.cols > 0) } else { m.cols.div_ceil(GROUP) };
    let scales = Plane { offset: 0, row_stride: groups.checked_mul(size)? };
    let offset = m.rows.checked_mul(scales.row_stride)?.checked_next_multiple_of(TENSOR_ALIGN)?;
    let (row_stride, bytes) = if layout == TRELLIS {
        let strip = m.cols.div_ceil(TILE).checked_mul(4 * rate)?;
        // Rows of a tile lie interleaved: there is no row stride.
        (0, m.rows.div_ceil(TILE).checked_mul(strip)?)
    } else {
        let row = m.cols.div_ceil(GROUP).checked_mul(GROUP / 4)?;
        (row, m.rows.checked_mul(row)?)
    };
    let codes = Plane { offset, row_stride };
    let length = PayloadLength::Exact(offset.checked_add(bytes)?);
    Some(Geometry { planes: [scales, codes, Plane::default(), Plane::default()], plane_count: 2, length })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::test_params;

    fn params(head: &[u8], scale: f32) -> Params {
        let mut p = test_params(head);
        p[16..20].copy_from_slice(&scale.to_le_bytes());
        p
    }

    #[test]
    fn the_default_counts_2_13_bits() {
        let m = Matrix { rows: 512, cols: 1536 };
        let g = sqint2_geometry(m, &params(&[1, 17, 8, 0, 10], 1.0)).unwrap();
        assert_eq!(g.planes[1], Plane { offset: 512, row_stride: 0 });
        assert_eq!(g.length, PayloadLength::Exact(512 + 512 * 1536 * 17 / 64));
        let g = sqint2_geometry(m, &params(&[0, 0, 0, 0, 10], 1.0)).unwrap();
        assert_eq!(g.length, PayloadLength::Exact(512 * 24 + 512 * 1536 / 4));
    }

    #[test]
    fn only_ragged_edges_pad() {
        let g =
            |rows, cols| sqint2_geometry(Matrix { rows, cols }, &params(&[1, 24, 10], 1.0)).unwrap().length;
        assert_eq!(g(1, 1), PayloadLength::Exact(256 + 96));
        assert_eq!(g(17, 33), PayloadLength::Exact(256 + 2 * 3 * 96));
        assert_eq!(g(0, 33), PayloadLength::Exact(0));
        assert_eq!(g(17, 0), PayloadLength::Exact(0));
    }

    #[test]
    fn bad_parameters_are_named() {
        let m = Matrix { rows: 1, cols: 64 };
        let at = |p: &Params| match sqint2_geometry(m, p) {
            Err(GeometryError::Param { index, .. }) => index,
            other => panic!("{other:?}"),
        };
        for (head, index) in [
            (&[2u8][..], 0),
            (&[1, 15, 8], 1),
            (&[1, 33, 8], 1),
            (&[1, 17, 9], 2),
            (&[1, 17, 8, 3], 3),
            (&[0, 17], 1),
            (&[1, 17, 8, 0, 7], 4),
            (&[1, 17, 8, 0, 255], 4),
            (&[1, 17, 8, 0, 6, 1], 5),
            (&[1, 17, 8, 0, 6, 0, 2], 6),
            (&[1, 17, 8, 0, 6, 0, 0, 1], 7),
            (&[1, 17, 8, 0, 6, 0, 1], 16),
        ] {
            assert_eq!(at(&params(head, 1.0)), index, "{head:?}");
        }
        for scale in [0.0, -1.0, f32::INFINITY, f32::NAN, 1e-40] {
            assert_eq!(at(&params(&[1, 17, 8], scale)), 16, "{scale}");
        }
    }

    #[test]
    fn the_largest_block_is_allowed() {
        let with =
            |cols, block| sqint2_geometry(Matrix { rows: 1, cols }, &params(&[1, 17, 8, 0, block], 1.0));
        assert!(with(4096, MAX_LOG_BLOCK).is_ok());
        assert!(matches!(with(4095, MAX_LOG_BLOCK), Err(GeometryError::Param { index: 4, .. })));
        assert!(matches!(with(8192, MAX_LOG_BLOCK + 1), Err(GeometryError::Param { index: 4, .. })));
    }

    #[test]
    fn overflow_is_an_error() {
        let m = Matrix { rows: 1 << 32, cols: u64::MAX >> 3 };
        assert_eq!(sqint2_geometry(m, &params(&[1, 17, 8], 1.0)), Err(GeometryError::Overflow));
    }
}
