//! ASTC: 6x6 blocks of 16 bytes over the whole matrix, row-major, then one
//! scale per row and, in scale mode [`RANK_1`], one per column.
//!
//! Parameters: 0 = footprint, 1 = scale mode, 2 = exponent e (signed: scales
//! are multiplied by 2^e).

use super::{one_of, rest_zero, stacked_runs};
use crate::codec_id::{GeometryError, GeometryResult, Matrix, Params};

/// Texels of a block along each side; also rows of the matrix per row of blocks.
pub const SIDE: u64 = 6;
/// Bytes of a block.
pub const BLOCK_BYTES: u64 = 16;
/// Footprint 6x6 (parameter byte 0: width in the high, height in the low nibble).
pub const FOOTPRINT: u8 = 0x66;
/// Scale mode (parameter byte 1): one scale per row.
pub const ROW: u8 = 0;
/// Scale mode: one scale per row and one per column.
pub const RANK_1: u8 = 1;
/// Blocks along a side of a texture at most: 16380 texels, the largest multiple
/// of six that GPUs with a limit of 16384 take.
pub const TEXTURE_BLOCKS: u64 = 2730;

/// Plane 0 holds ⌈rows/6⌉ runs of ⌈cols/6⌉ blocks (its `row_stride` counts a row
/// of blocks), plane 1 a scale per row, plane 2 (rank-1) one run: a scale per
/// column.
pub(crate) fn geometry(m: Matrix, params: &Params) -> GeometryResult {
    one_of(params, 0, "footprint", &[FOOTPRINT])?;
    let mode = one_of(params, 1, "scale mode", &[ROW, RANK_1])?;
    rest_zero(params, 3)?;
    let stride = m.cols.div_ceil(SIDE).checked_mul(BLOCK_BYTES).ok_or(GeometryError::Overflow)?;
    let columns = m.cols.checked_mul(2).ok_or(GeometryError::Overflow)?;
    let runs = [(m.rows.div_ceil(SIDE), stride), (m.rows, 2), (1, columns)];
    stacked_runs(runs.into_iter().take(if mode == ROW { 2 } else { 3 }))
}

/// A part of the block plane that fits one texture.
///
/// Its rows of blocks are `row_stride` bytes apart in plane 0, which is what
/// uploads take (`bytes_per_row` in wgpu, `bytesPerRow` in Metal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Texture {
    /// First row of blocks.
    pub row: u64,
    /// First column of blocks.
    pub col: u64,
    /// Rows of blocks, at most [`TEXTURE_BLOCKS`].
    pub rows: u64,
    /// Columns of blocks, at most [`TEXTURE_BLOCKS`].
    pub cols: u64,
}

impl Texture {
    /// Byte offset of the first block in plane 0 of a matrix.
    pub fn offset(&self, matrix: Matrix) -> u64 {
        (self.row * matrix.cols.div_ceil(SIDE) + self.col) * BLOCK_BYTES
    }
}

/// The textures that cover a matrix, row-major: one, unless a side passes
/// 16380 texels.
pub fn textures(matrix: Matrix) -> impl Iterator<Item = Texture> {
    let (rows, cols) = (matrix.rows.div_ceil(SIDE), matrix.cols.div_ceil(SIDE));
    let across = cols.div_ceil(TEXTURE_BLOCKS);
    (0..rows.div_ceil(TEXTURE_BLOCKS).saturating_mul(across)).map(move |i| {
        let (row, col) = (i / across * TEXTURE_BLOCKS, i % across * TEXTURE_BLOCKS);
        Texture { row, col, rows: (rows - row).min(TEXTURE_BLOCKS), cols: (cols - col).min(TEXTURE_BLOCKS) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::test_params as params;
    use crate::{CodecId, PayloadLength, Plane};
    use alloc::vec::Vec;

    #[test]
    fn blocks_rows_columns() {
        let m = Matrix { rows: 7, cols: 13 };
        let g = CodecId::ASTC.geometry(m, &params(&[0x66, RANK_1, 250])).unwrap();
        let planes = [(0, 48), (256, 2), (512, 26)];
        for (plane, (offset, row_stride)) in g.planes.iter().zip(planes) {
            assert_eq!(*plane, Plane { offset, row_stride });
        }
        assert_eq!((g.plane_count, g.length), (3, PayloadLength::Exact(512 + 26)));
        let g = CodecId::ASTC.geometry(m, &params(&[0x66])).unwrap();
        assert_eq!((g.plane_count, g.length), (2, PayloadLength::Exact(256 + 14)));
    }

    #[test]
    fn bad_parameters_and_sizes_are_errors() {
        let m = Matrix { rows: 6, cols: 6 };
        for bad in [&[0x44][..], &[0], &[0x66, 2], &[0x66, 0, 0, 1]] {
            assert!(CodecId::ASTC.geometry(m, &params(bad)).is_err(), "{bad:?}");
        }
        for (rows, cols) in [(u64::MAX, 6), (6, u64::MAX), (1 << 40, 1 << 30)] {
            let huge = Matrix { rows, cols };
            assert_eq!(CodecId::ASTC.geometry(huge, &params(&[0x66, 1])), Err(GeometryError::Overflow));
        }
    }

    #[test]
    fn textures_cover_every_block_once() {
        let small = Matrix { rows: 7, cols: 16380 };
        let only = Texture { row: 0, col: 0, rows: 2, cols: 2730 };
        assert_eq!(textures(small).collect::<Vec<_>>(), [only]);
        let m = Matrix { rows: 40_000, cols: 16_381 };
        let all: Vec<_> = textures(m).collect();
        assert_eq!(all.len(), 6);
        assert_eq!(all.iter().map(|t| t.rows * t.cols).sum::<u64>(), 6667 * 2731);
        assert_eq!(all[3], Texture { row: 2730, col: 2730, rows: 2730, cols: 1 });
        assert_eq!(all[3].offset(m), (2730 * 2731 + 2730) * 16);
        assert_eq!(textures(Matrix { rows: 0, cols: 6 }).count(), 0);
        assert_eq!(textures(Matrix { rows: 6, cols: 0 }).count(), 0);
    }
}
