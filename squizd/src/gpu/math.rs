//! In which numbers a product is computed.

use super::device::Abilities;
use crate::codec::Precision;

/// The form of the inputs and the arithmetic of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Math {
    /// 32-bit floats; the reference.
    F32,
    /// Inputs over their block's peak as halves; products and the sums of a
    /// block in halves, the rest in 32 bits.
    F16,
    /// Inputs as signed bytes with one scale per 32, integer dot products.
    I8,
    /// Inputs as whole numbers of 24 bits with one scale per 32, integer dot
    /// products with each of their three bytes: as exact as [`Math::F32`], and
    /// faster where products of bytes are.
    I24,
}

impl Math {
    /// What is fast on a device where [`Precision`] allows it.
    pub fn for_precision(precision: Precision, abilities: Abilities) -> Self {
        match precision {
            Precision::Q8 if abilities.dot8 => Self::I8,
            Precision::Q8 if abilities.f16 => Self::F16,
            Precision::F32 if abilities.dot8 => Self::I24,
            Precision::F32 | Precision::Q8 => Self::F32,
        }
    }

    /// The flag with which `emit.wgsl` writes it.
    pub(super) const fn emitted(self) -> Option<&'static str> {
        match self {
            // The shader packs halves; it computes with none.
            Self::F16 => Some("HALVES_OUT"),
            other => other.flag(),
        }
    }

    /// Bytes of a value.
    pub(super) const fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::I8 => 1,
            Self::I24 => 3,
        }
    }

    /// The flag that shaders know it by.
    pub(super) const fn flag(self) -> Option<&'static str> {
        match self {
            Self::F32 => None,
            Self::F16 => Some("F16"),
            Self::I8 => Some("I8"),
            Self::I24 => Some("I24"),
        }
    }
}

impl std::fmt::Display for Math {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::I8 => "i8",
            Self::I24 => "i24",
        })
    }
}

/// As [`Math`] prints itself.
impl std::str::FromStr for Math {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::F32, Self::F16, Self::I8, Self::I24];
        let found = all.into_iter().find(|math| math.to_string() == text);
        found.ok_or_else(|| format!("{text:?} is none of f32, f16, i8, i24"))
    }
}
