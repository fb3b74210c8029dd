//! Codec ids and the payload geometry of each: how many bytes a tensor's
//! payload has and where its planes lie, computed from shape and parameters
//! alone with checked arithmetic, so that the validator needs no codec.
//!
//! Adding a codec is one line in `wire_codecs!` and one geometry function
//! (`geometry/`).

use crate::geometry::{
    astc, hybrid_geometry, integer, mxfp4, q8, raw, sqint2_geometry, tca_tbe, zplanes_geometry,
};
use crate::layout::{PARAMS_SIZE, flags};
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
    /// Bytes per matrix row; 0 where rows lie interleaved in tiles.
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

pub(crate) type GeometryResult = Result<Geometry, GeometryError>;

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
    /// Any plain numbers: byte planes, coded chunk by chunk, for keeping.
    ZPLANES = 5, "zplanes", 0, zplanes_geometry;
    /// Signed bytes with one scale per group.
    Q8 = 6, "q8", 0, q8;
    /// 4-bit codes, asymmetric.
    INT4 = 7, "int4", flags::INT4, |m, p| integer(m, p, 4);
    /// 3-bit codes, asymmetric.
    INT3 = 8, "int3", flags::INT3, |m, p| integer(m, p, 3);
    /// 2-bit codes, asymmetric.
    INT2 = 9, "int2", flags::INT2, |m, p| integer(m, p, 2);
    /// ASTC 6x6 textures of luminance blocks, scales per row and column.
    ASTC = 10, "astc", flags::ASTC, astc::geometry;
    /// BF16 without loss: bit planes of exponent codes, escapes aside.
    TCA_TBE = 11, "tca-tbe", flags::TCA_TBE, tca_tbe;
    /// OCP Microscaling 4-bit floats under a power of two per 32.
    MXFP4 = 12, "mxfp4", flags::MXFP4, mxfp4;
    /// A rate for every 64 columns of 16 rows: 2, 3, 4 or 5 bits, or bfloat16.
    HYBRID = 13, "hybrid", flags::HYBRID, hybrid_geometry;
    /// 2 to 4 bits a weight: trellis-coded under a Hadamard rotation.
    SQINT2 = 14, "sqint2", flags::SQINT2, sqint2_geometry;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::test_params as params;

    #[test]
    fn bad_parameters_are_named() {
        let m = Matrix { rows: 1, cols: 32 };
        let err = CodecId::INT4.geometry(m, &params(&[0, 48])).unwrap_err();
        assert_eq!(err, GeometryError::param(1, "group size is 48, allowed [16, 32, 64, 128]".into()));
        assert!(CodecId::RAW_F32.geometry(m, &params(&[0, 0, 1])).is_err());
        assert_eq!(CodecId(999).geometry(m, &params(&[])), Err(GeometryError::UnknownCodec));
    }

    #[test]
    fn raw_codecs_and_names() {
        let raw = [CodecId::RAW_F32, CodecId::RAW_F16, CodecId::RAW_BF16, CodecId::RAW_I8];
        for codec in CodecId::ALL {
            assert_eq!(codec.is_raw(), raw.contains(codec), "{codec}");
            assert_eq!(format!("{codec:?}"), codec.name().unwrap());
        }
        assert!(!CodecId(0).is_raw() && !CodecId(200).is_raw());
        assert_eq!(format!("{:?}", CodecId(200)), "Unknown codec 0x00c8");
    }

    #[test]
    fn lengths_within_the_bounds_are_allowed() {
        let within = PayloadLength::Within { min: 4, max: 6 };
        assert_eq!([3, 4, 5, 6, 7].map(|n| within.allows(n)), [false, true, true, true, false]);
        assert_eq!([3, 4, 5].map(|n| PayloadLength::Exact(4).allows(n)), [false, true, false]);
        assert_eq!((within.max(), PayloadLength::Exact(4).max()), (6, 4));
    }

    #[test]
    fn overflow_is_an_error() {
        let m = Matrix { rows: 1 << 40, cols: 1 << 30 };
        assert_eq!(CodecId::RAW_F32.geometry(m, &params(&[])), Err(GeometryError::Overflow));
    }
}
