//! Codec ids and the payload geometry of each: how many bytes a tensor's
//! payload has and where its planes lie, computed from shape and parameters
//! alone with checked arithmetic, so that the validator needs no codec.
//!
//! Adding a codec here is one line in `wire_codecs!` and one geometry function.

use crate::geometry::astc;
use crate::layout::{PARAMS_SIZE, TENSOR_ALIGN, flags};
use alloc::{format, string::String};

/// The 2-D view every codec works on: all dimensions but the last, flattened,
/// times the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Product of all dimensions but the last (1 for a vector).
    pub rows: u64,
    /// The last, contiguous dimension.
    pub cols: u64,
}

impl Matrix {
    /// The matrix view of `dims` (outermost first); `None` on overflow or rank 0.
    pub fn of(dims: &[u64]) -> Option<Self> {
        let (&cols, outer) = dims.split_last()?;
        let rows = outer.iter().try_fold(1u64, |acc, &d| acc.checked_mul(d))?;
        rows.checked_mul(cols)?;
        Some(Self { rows, cols })
    }

    /// Number of weights. Cannot overflow for a value from [`Matrix::of`].
    pub const fn elements(self) -> u64 {
        self.rows.saturating_mul(self.cols)
    }
}

/// One plane of a payload: `rows` runs of `row_stride` bytes from `offset`
/// (ASTC's block and column planes have other runs, see [`crate::astc`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plane {
    /// Offset from the start of the payload, a multiple of 256.
    pub offset: u64,
    /// Bytes per matrix row.
    pub row_stride: u64,
}

/// Payload length of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadLength {
    /// Known before encoding.
    Exact(u64),
    /// Depends on the values; the payload carries its own index.
    Within {
        /// Smallest possible payload.
        min: u64,
        /// Largest possible payload.
        max: u64,
    },
}

impl PayloadLength {
    /// Whether `length` is possible.
    pub const fn allows(self, length: u64) -> bool {
        match self {
            Self::Exact(n) => n == length,
            Self::Within { min, max } => min <= length && length <= max,
        }
    }

    /// The bound to reserve space for.
    pub const fn max(self) -> u64 {
        match self {
            Self::Exact(n) => n,
            Self::Within { max, .. } => max,
        }
    }
}

/// Planes and length of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Planes in file order; unused ones are zero.
    pub planes: [Plane; 4],
    /// Planes used.
    pub plane_count: usize,
    /// Payload length.
    pub length: PayloadLength,
}

/// Why a record's codec, shape and parameters do not go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GeometryError {
    /// No codec of this number in this version.
    UnknownCodec,
    /// A parameter byte has a value the codec does not allow.
    Param {
        /// Index into the 32 parameter bytes.
        index: usize,
        /// Field, value found, value allowed.
        message: String,
    },
    /// Sizes overflow 64 bits.
    Overflow,
}

impl GeometryError {
    pub(crate) fn param(index: usize, message: String) -> Self {
        Self::Param { index, message }
    }
}

type GeometryResult = Result<Geometry, GeometryError>;

/// Parameter bytes of a record.
pub type Params = [u8; PARAMS_SIZE];

/// Codec number on the wire; unknown numbers survive.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CodecId(pub u16);

macro_rules! wire_codecs {
    ($( $(#[$meta:meta])* $konst:ident = $value:literal, $name:literal, $flag:expr, $geometry:expr; )*) => {
        impl CodecId {
            $( $(#[$meta])* pub const $konst: Self = Self($value); )*

            /// Every codec this version defines, in wire order.
            pub const ALL: &'static [Self] = &[$(Self::$konst),*];

            /// The codec's name as on the command line.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 { $( $value => Some($name), )* _ => None }
            }

            /// Header flag bit that a tensor of this codec sets, 0 for none.
            pub const fn flag(self) -> u32 {
                match self.0 { $( $value => $flag, )* _ => 0 }
            }

            /// Planes and payload length of a tensor of this codec.
            pub fn geometry(self, matrix: Matrix, params: &Params) -> GeometryResult {
                match self.0 {
                    $( $value => $geometry(matrix, params), )*
                    _ => Err(GeometryError::UnknownCodec),
                }
            }
        }
    };
}

wire_codecs! {
    /// 32-bit floats.
    RAW_F32 = 1, "f32", 0, |m, p| raw(m, p, 4);
    /// 16-bit IEEE floats.
    RAW_F16 = 2, "f16", 0, |m, p| raw(m, p, 2);
    /// bfloat16.
    RAW_BF16 = 3, "bf16", 0, |m, p| raw(m, p, 2);
    /// Signed bytes.
    RAW_I8 = 4, "i8", 0, |m, p| raw(m, p, 1);
    /// Signed bytes with one scale per group.
    Q8 = 6, "q8", 0, q8;
    /// 4-bit codes, asymmetric.
    INT4 = 7, "int4", flags::INT4, int4;
    /// ASTC 6x6 textures of luminance blocks, scales per row and column.
    ASTC = 10, "astc", flags::ASTC, astc::geometry;
    /// BF16 without loss: bit planes of exponent codes, escapes aside.
    TCA_TBE = 11, "tca-tbe", flags::TCA_TBE, tca_tbe;
}

impl CodecId {
    /// The codec with this command-line name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.name() == Some(name))
    }

    /// Whether the payload is the plain little-endian numbers.
    pub const fn is_raw(self) -> bool {
        self.0 >= 1 && self.0 <= 4
    }
}

impl core::fmt::Display for CodecId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => f.pad(&format!("Unknown codec 0x{:04x}", self.0)),
        }
    }
}

impl core::fmt::Debug for CodecId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

/// Refuses a non-zero byte among `params[from..]`.
pub(crate) fn rest_zero(params: &Params, from: usize) -> Result<(), GeometryError> {
    match params.iter().enumerate().skip(from).find(|(_, b)| **b != 0) {
        Some((i, b)) => Err(GeometryError::param(i, format!("parameter byte {i} is {b}, must be 0"))),
        None => Ok(()),
    }
}

/// `params[index]` if it is one of `allowed`.
pub(crate) fn one_of(
    params: &Params,
    index: usize,
    field: &str,
    allowed: &[u8],
) -> Result<u8, GeometryError> {
    let value = params.get(index).copied().unwrap_or(0);
    if allowed.contains(&value) {
        Ok(value)
    } else {
        Err(GeometryError::param(index, format!("{field} is {value}, allowed {allowed:?}")))
    }
}

/// Lays planes of the given row strides one after the other.
fn stacked(rows: u64, strides: &[u64]) -> GeometryResult {
    let mut runs = [(0, 0); 4];
    for (run, stride) in runs.iter_mut().zip(strides) {
        *run = (rows, *stride);
    }
    stacked_runs(&runs[..strides.len()])
}

/// Lays planes one after the other, each at a multiple of 256 and given by its
/// number of runs and their bytes; the payload ends where the last plane ends.
pub(crate) fn stacked_runs(runs: &[(u64, u64)]) -> GeometryResult {
    let mut planes = [Plane::default(); 4];
    let mut end = 0u64;
    for (plane, &(count, row_stride)) in planes.iter_mut().zip(runs) {
        let offset = end.checked_next_multiple_of(TENSOR_ALIGN).ok_or(GeometryError::Overflow)?;
        let bytes = count.checked_mul(row_stride).ok_or(GeometryError::Overflow)?;
        end = offset.checked_add(bytes).ok_or(GeometryError::Overflow)?;
        *plane = Plane { offset, row_stride };
    }
    Ok(Geometry { planes, plane_count: runs.len(), length: PayloadLength::Exact(end) })
}

fn raw(m: Matrix, params: &Params, size: u64) -> GeometryResult {
    rest_zero(params, 0)?;
    stacked(m.rows, &[m.cols.checked_mul(size).ok_or(GeometryError::Overflow)?])
}

/// Bytes of one stored scale (`per` values) for scale format 0 (f16) or 1 (f32).
fn scale_bytes(format: u8, per: u64) -> u64 {
    per * if format == 0 { 2 } else { 4 }
}

/// Q8: plane 0 holds one signed byte per weight, rows padded to 32; plane 1
/// holds one scale per group of 32.
///
/// Parameters: 0 = group size (32), 1 = scale format (0 f16, 1 f32).
fn q8(m: Matrix, params: &Params) -> GeometryResult {
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
fn int4(m: Matrix, params: &Params) -> GeometryResult {
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
fn tca_tbe(m: Matrix, params: &Params) -> GeometryResult {
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

    fn params(head: &[u8]) -> Params {
        let mut p = [0; PARAMS_SIZE];
        p[..head.len()].copy_from_slice(head);
        p
    }

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

    #[test]
    fn bad_parameters_are_named() {
        let m = Matrix { rows: 1, cols: 32 };
        let err = CodecId::INT4.geometry(m, &params(&[0, 48])).unwrap_err();
        assert_eq!(err, GeometryError::param(1, "group size is 48, allowed [16, 32, 64, 128]".into()));
        assert!(CodecId::RAW_F32.geometry(m, &params(&[0, 0, 1])).is_err());
        assert_eq!(CodecId(999).geometry(m, &params(&[])), Err(GeometryError::UnknownCodec));
    }

    #[test]
    fn overflow_is_an_error() {
        let m = Matrix { rows: 1 << 40, cols: 1 << 30 };
        assert_eq!(CodecId::RAW_F32.geometry(m, &params(&[])), Err(GeometryError::Overflow));
    }
}
