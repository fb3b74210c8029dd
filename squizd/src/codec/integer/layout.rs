//! A tensor's parameters, typed, and its stored scales read back.

use super::compact::Compact;
use super::fine::Fine;
use super::plain::ScaleFormat;
use crate::codec::kernels::OCTET;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use squizd_spec::{Params, int_layout};
use std::{fmt, str::FromStr};

/// Weights of a superblock of the hierarchical layouts.
pub(super) const SUPERBLOCK: usize = 256;

/// How an integer codec stores scales, for a user to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntegerLayout {
    /// Scale and real-valued offset per group of 16 to 128.
    Plain,
    /// 6-bit scales and mins per 32 weights under f16 ones per 256.
    Compact,
    /// 3-bit scales and mins per 16 weights under f16 ones per 256.
    Fine,
}

impl IntegerLayout {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Plain, "plain"), (Self::Compact, "compact"), (Self::Fine, "fine")];
}

impl FromStr for IntegerLayout {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|(_, name)| *name == text)
            .map(|(layout, _)| layout)
            .ok_or_else(|| Error::invalid(format!("unknown layout {text:?}; allowed: plain, compact, fine")))
    }
}

impl fmt::Display for IntegerLayout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(Self::ALL.into_iter().find(|(l, _)| l == self).map_or("", |(_, name)| name))
    }
}

/// A tensor's parameters, typed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::codec) enum Layout {
    Plain { group: usize, format: ScaleFormat },
    Compact(Compact),
    Fine(Fine),
}

impl Layout {
    /// The layout of parameters of a codec of `bits` that
    /// [`squizd_spec::CodecId::geometry`] accepted.
    pub(in crate::codec) fn of(bits: u32, params: &Params) -> Self {
        let [layout, group, format, bias, exponent, ..] = *params;
        match layout {
            int_layout::PLAIN => Self::Plain { group: usize::from(group), format: ScaleFormat::new(format) },
            int_layout::COMPACT => Self::Compact(Compact::new(bits, bias, exponent)),
            _ => Self::Fine(Fine::new(bits, bias, exponent)),
        }
    }

    /// What is subtracted from codes.
    #[inline(always)]
    pub(in crate::codec) fn code_bias(self) -> f32 {
        match self {
            Self::Plain { .. } => 0.0,
            Self::Compact(compact) => compact.code_bias,
            Self::Fine(fine) => fine.code_bias,
        }
    }
}

/// Parameters of the plain layout.
pub(super) fn plain_params(group: u8, format: u8) -> Params {
    let mut params = Params::default();
    params[..3].copy_from_slice(&[int_layout::PLAIN, group, format]);
    params
}

/// Parameters of the compact layout.
pub(super) fn compact_params(min_bias: u8, exponent: i8) -> Params {
    let mut params = Params::default();
    params[..5].copy_from_slice(&[int_layout::COMPACT, 32, 0, min_bias, exponent.cast_unsigned()]);
    params
}

/// Parameters of the fine layout.
pub(super) fn fine_params(scale_bias: u8, exponent: i8) -> Params {
    let mut params = Params::default();
    params[..5].copy_from_slice(&[int_layout::FINE, 16, 0, scale_bias, exponent.cast_unsigned()]);
    params
}

/// Scales and subtrahends of a row's eight 32-blocks from `8 * octet`, one for
/// each half of a block; 0 past the row's end.
#[inline(always)]
pub(in crate::codec) fn block_scales(
    layout: Layout,
    scales: &[u8],
    octet: usize,
) -> ([[f32; 2]; 8], [[f32; 2]; 8]) {
    let (mut s, mut c) = ([[0.0; 2]; 8], [[0.0; 2]; 8]);
    match layout {
        Layout::Compact(compact) => {
            let (scale, minus) = compact.unpack(scales.get(16 * octet..).unwrap_or_default());
            (s, c) = (scale.map(|s| [s; 2]), minus.map(|c| [c; 2]));
        }
        Layout::Fine(fine) => {
            let (scale, minus) = fine.unpack(scales.get(16 * octet..).unwrap_or_default());
            s.as_flattened_mut().copy_from_slice(&scale);
            c.as_flattened_mut().copy_from_slice(&minus);
        }
        Layout::Plain { group, format } => {
            for h in 0..16 {
                let pair = (OCTET * octet + 16 * h) / group * format.pair_bytes();
                let (scale, offset) = format.unpack(scales.get(pair..).unwrap_or_default());
                (s[h / 2][h % 2], c[h / 2][h % 2]) = (scale, -offset);
            }
        }
    }
    (s, c)
}
