//! TCA-TBE.

use super::{one_of, rest_zero, stacked};
use crate::codec_id::{Geometry, GeometryError, GeometryResult, Matrix, Params, PayloadLength, Plane};
use crate::layout::TENSOR_ALIGN;

/// Constants of TCA-TBE's wire layout.
pub mod tbe {
    /// Profile (parameter byte 0): the plain numbers, where coding saves nothing.
    pub const PLAIN: u8 = 0;
    /// Profile: three planes, escapes as bytes.
    pub const TBE3: u8 = 3;
    /// Profile: two planes, two further levels, then bytes.
    pub const TBE2: u8 = 2;
    /// Weights of a superblock; a row's last one may have fewer.
    pub const SUPERBLOCK: u64 = 1024;
    /// Bytes of the head, before the first plane.
    pub const HEAD: u64 = 64;
    /// Superblocks, in file order, that share an anchor.
    pub const ANCHORED: u64 = 32;
    /// Anchors and side stream begin at multiples of this, and the payload ends
    /// at one.
    pub const STREAM_ALIGN: u64 = 64;
    /// Zero bytes that follow the side stream at least, so that a reader may
    /// load whole words.
    pub const STREAM_SLACK: u64 = 16;
}

/// TCA-TBE: plane 0 holds where each superblock's part of the side stream
/// begins, counted from its anchor (u16), plane 1 its base exponent (u8),
/// plane 2 its bit planes and sign/mantissa bytes, rows padded to 32 weights.
/// Anchors (u32) and side stream follow.
///
/// Parameters: 0 = profile, 1 to 6 = palette of signed exponent offsets (TBE2).
pub(crate) fn tca_tbe(m: Matrix, params: &Params) -> GeometryResult {
    let profile = one_of(params, 0, "profile", &[tbe::PLAIN, tbe::TBE2, tbe::TBE3])?;
    rest_zero(params, if profile == tbe::TBE2 { 7 } else { 1 })?;
    if profile == tbe::PLAIN {
        return stacked(m.rows, &[m.cols.checked_mul(2).ok_or(GeometryError::Overflow)?]);
    }
    tca_tbe_coded(m, profile).ok_or(GeometryError::Overflow)
}

/// The coded profiles; `None` on overflow.
fn tca_tbe_coded(m: Matrix, profile: u8) -> Option<Geometry> {
    let per_row = m.cols.div_ceil(tbe::SUPERBLOCK);
    // 32 weights: 4 bytes of each plane, 32 sign/mantissa bytes.
    let fixed = m.cols.div_ceil(32).checked_mul(4 * u64::from(profile) + 32)?;
    let mut planes = [Plane::default(); 4];
    let mut end = tbe::HEAD;
    for (plane, row_stride) in planes.iter_mut().zip([per_row.checked_mul(2)?, per_row, fixed]) {
        let offset = end.checked_next_multiple_of(TENSOR_ALIGN)?;
        end = offset.checked_add(m.rows.checked_mul(row_stride)?)?;
        *plane = Plane { offset, row_stride };
    }
    // A superblock of n weights: at most n bytes, and in TBE2 4 n bits before them.
    let bits = if profile == tbe::TBE2 { m.cols.div_ceil(2).checked_add(per_row)? } else { 0 };
    let longest = m.rows.checked_mul(m.cols.checked_add(bits)?)?.min(u64::from(u32::MAX));
    let anchors = m.rows.checked_mul(per_row)?.div_ceil(tbe::ANCHORED).checked_mul(4)?;
    let stream = end
        .checked_next_multiple_of(tbe::STREAM_ALIGN)?
        .checked_add(anchors)?
        .checked_next_multiple_of(tbe::STREAM_ALIGN)?;
    let total = |length: u64| {
        stream
            .checked_add(length)?
            .checked_add(tbe::STREAM_SLACK)?
            .checked_next_multiple_of(tbe::STREAM_ALIGN)
    };
    let length = PayloadLength::Within { min: total(0)?, max: total(longest)? };
    Some(Geometry { planes, plane_count: 3, length })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CodecId;
    use crate::geometry::test_params as params;

    #[test]
    fn tca_tbe_is_eleven_bits_and_25_more_a_superblock() {
        let m = Matrix { rows: 512, cols: 2048 };
        let g = CodecId::TCA_TBE.geometry(m, &params(&[tbe::TBE3])).unwrap();
        let planes = [(256, 4), (256 + 2048, 2), (256 + 2048 + 1024, 2816)];
        for (plane, (offset, row_stride)) in g.planes.iter().zip(planes) {
            assert_eq!(*plane, Plane { offset, row_stride });
        }
        let stream = 256 + 2048 + 1024 + 512 * 2816 + 1024 / 32 * 4;
        assert_eq!(g.length, PayloadLength::Within { min: stream + 64, max: stream + 512 * 2048 + 64 });
        let g = CodecId::TCA_TBE.geometry(m, &params(&[tbe::TBE2, 255, 3])).unwrap();
        assert_eq!(g.planes[2].row_stride, 2560);
        let plain = CodecId::TCA_TBE.geometry(m, &params(&[tbe::PLAIN])).unwrap();
        assert_eq!(plain.length, PayloadLength::Exact(512 * 4096));
        assert!(CodecId::TCA_TBE.geometry(m, &params(&[tbe::TBE3, 255])).is_err());
        assert!(CodecId::TCA_TBE.geometry(m, &params(&[1])).is_err());
        let huge = Matrix { rows: 1 << 36, cols: 1 << 30 };
        assert_eq!(CodecId::TCA_TBE.geometry(huge, &params(&[3])), Err(GeometryError::Overflow));
    }
}
