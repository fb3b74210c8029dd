//! A tensor's parameters, typed, and the codes of its row scales.

use super::levels::GROUP;
use super::rotation::Rotation;
use super::table;
use super::tile::Trellis;
use crate::codec::lanes::exponent;
use squizd_spec::{Params, sqint};

/// The seed of all sign patterns: tensors that share an input share its
/// rotation, so that a runtime rotates once for query, key and value.
pub(super) const SEED: u64 = 0x5351_5a44_5351_3201;

/// What the parameters say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Form {
    pub(super) coding: Coding,
    pub(super) log_block: u8,
    pub(super) seed: u64,
    pub(super) scales: Scales,
}

/// How rotated and scaled weights are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// Four levels a weight, scales of 64.
    Levels,
    /// Tiles of a trellis code, one scale a row.
    Trellis {
        trellis: Trellis,
        /// Number of its table.
        table: u8,
    },
}

impl Coding {
    /// The trellis at `rate` eighths of a bit with windows of `window` bits.
    pub(super) fn trellis(rate: u8, window: u32) -> Self {
        Self::Trellis { trellis: Trellis { rate: usize::from(rate), window }, table: table::suited(rate) }
    }
}

/// How scales are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scales {
    /// `(16 + code mod 16) 2^(code / 16)` times this; code 0 is zero.
    Byte(f32),
    /// binary32.
    Single,
}

impl Form {
    /// The form of parameters that the geometry accepted.
    pub(super) fn of(params: &Params) -> Self {
        let word = |at: usize| std::array::from_fn(|i| params[at + i]);
        let trellis = Trellis { rate: usize::from(params[1]), window: u32::from(params[2]) };
        Self {
            coding: if params[0] == sqint::LEVELS {
                Coding::Levels
            } else {
                Coding::Trellis { trellis, table: params[3] }
            },
            log_block: params[4],
            seed: u64::from_le_bytes(std::array::from_fn(|i| params[8 + i])),
            scales: if params[6] == sqint::SCALE_BYTE {
                Scales::Byte(f32::from_le_bytes(word(16)))
            } else {
                Scales::Single
            },
        }
    }

    /// The form for `cols` columns.
    pub(super) fn new(cols: u64, coding: Coding, scales: Scales) -> Self {
        Self { coding, log_block: Rotation::log_block(cols), seed: SEED, scales }
    }

    /// The parameters that say this.
    pub(super) fn params(self) -> Params {
        let mut params = Params::default();
        match self.coding {
            Coding::Levels => params[0] = sqint::LEVELS,
            Coding::Trellis { trellis, table } => {
                params[..4].copy_from_slice(&[
                    sqint::TRELLIS,
                    trellis.rate as u8,
                    trellis.window as u8,
                    table,
                ]);
            }
        }
        params[4] = self.log_block;
        params[8..16].copy_from_slice(&self.seed.to_le_bytes());
        match self.scales {
            Scales::Byte(unit) => params[16..20].copy_from_slice(&unit.to_le_bytes()),
            Scales::Single => params[6] = sqint::SCALE_F32,
        }
        params
    }

    /// Values of the trellis states; none without a trellis.
    pub(super) fn table(self) -> &'static [i8] {
        match self.coding {
            Coding::Levels => &[],
            Coding::Trellis { trellis, table } => table::table(trellis.window, table),
        }
    }

    /// The same as floats.
    pub(super) fn floats(self) -> &'static [f32] {
        match self.coding {
            Coding::Levels => &[],
            Coding::Trellis { trellis, table } => table::floats(trellis.window, table),
        }
    }

    /// Scales of a row of `cols` columns.
    pub(super) fn scales_per_row(self, cols: usize) -> usize {
        match self.coding {
            Coding::Levels => cols.div_ceil(GROUP),
            Coding::Trellis { .. } => 1,
        }
    }

    /// The rotation of `cols` columns.
    pub(super) fn rotation(self, cols: usize) -> Rotation {
        Rotation::new(cols, self.log_block, self.seed)
    }

    /// Identifies the rotation among those of one width.
    pub(super) fn rotation_key(self) -> (u64, u8) {
        (self.seed, self.log_block)
    }
}

/// Row scales up to this many times the largest sampled one are stored.
const HEADROOM: f32 = 128.0;
/// Sampled row scales further apart than this are stored as binary32.
const SPREAD: f32 = 256.0;
/// The largest code's multiple of the tensor's scale.
const LARGEST: f32 = (31 << 15) as f32;

impl Scales {
    /// Bytes of a scale.
    pub(super) fn bytes(self) -> usize {
        if matches!(self, Self::Byte(_)) { 1 } else { 4 }
    }

    /// The format for rows whose root mean squares are like `sampled`.
    pub(super) fn plan(sampled: impl Iterator<Item = f32>) -> Self {
        let (low, high) = sampled
            .filter(|rms| *rms > 0.0)
            .fold((f32::INFINITY, 0.0f32), |(low, high), rms| (low.min(rms), high.max(rms)));
        let unit = high / table::UNIT * (HEADROOM / LARGEST);
        if unit.is_normal() && high <= SPREAD * low { Self::Byte(unit) } else { Self::Single }
    }

    /// A scale, every operation rounded to binary32.
    pub(super) fn read(self, stored: &[u8]) -> f32 {
        match (self, stored) {
            (Self::Byte(_), [0]) => 0.0,
            (Self::Byte(unit), [code]) => unit * ((16 + u32::from(code % 16)) << (code / 16)) as f32,
            (Self::Single, [a, b, c, d]) => f32::from_le_bytes([*a, *b, *c, *d]),
            _ => f32::NAN,
        }
    }

    /// Stores the scale nearest to `mantissa * 2^exponent` (not negative) in
    /// `out`; `None` if it is too large.
    pub(super) fn write(self, mantissa: f32, exponent: i32, out: &mut [u8]) -> Option<()> {
        let value = f64::from(mantissa) * libm::exp2(f64::from(exponent));
        match self {
            Self::Byte(unit) => {
                let code = byte_code(value / f64::from(unit))?;
                out.copy_from_slice(&[code]);
            }
            Self::Single => {
                let value = value as f32;
                if value.is_infinite() {
                    return None;
                }
                out.copy_from_slice(&value.to_le_bytes());
            }
        }
        Some(())
    }
}

/// The code of the multiple nearest to `ratio`; 0 where zero weights err less
/// than coarse ones.
fn byte_code(ratio: f64) -> Option<u8> {
    if ratio < 4.25 {
        return Some(0);
    }
    if ratio > f64::from(LARGEST) * 1.01 {
        return None;
    }
    let shift = (exponent(ratio as f32) - 4).max(0);
    let step = f64::from(1u32 << shift);
    let mantissa = (libm::rint(ratio / step) as u32).max(16);
    let (mantissa, shift) = if mantissa == 32 { (16, shift + 1) } else { (mantissa, shift) };
    if shift > 15 { Some(255) } else { Some(((shift as u8) << 4 | (mantissa - 16) as u8).max(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_the_code_of_its_value() {
        let scales = Scales::Byte(0.125);
        for code in 0..=255u8 {
            let value = scales.read(&[code]);
            let mut out = [77];
            scales.write(value, 0, &mut out).unwrap();
            assert_eq!(out, [code]);
        }
        assert_eq!(scales.write(1.0, 30, &mut [0]), None);
        assert_eq!(scales.write(LARGEST * 0.125 * 1.005, 0, &mut [0]), Some(()));
    }

    #[test]
    fn codes_are_within_three_percent() {
        let scales = Scales::Byte(1.0);
        let mut ratio = 17.0f32;
        while ratio < LARGEST {
            let mut out = [0];
            scales.write(ratio, 0, &mut out).unwrap();
            let error = scales.read(&out) / ratio - 1.0;
            assert!(error.abs() < 0.0323, "{ratio}: {error}");
            ratio *= 1.003;
        }
    }

    #[test]
    fn params_read_back() {
        for scales in [Scales::Byte(3e-9), Scales::Single] {
            for coding in [Coding::trellis(25, 10), Coding::Levels] {
                let form = Form::new(576, coding, scales);
                assert_eq!(Form::of(&form.params()), form);
            }
        }
    }

    #[test]
    fn wide_spreads_and_tiny_weights_take_single_precision() {
        assert!(matches!(Scales::plan([1.0, 0.0, 0.01].into_iter()), Scales::Byte(_)));
        for rms in [[1.0, 1e-3], [1e-36, 1e-36], [0.0, 0.0]] {
            assert_eq!(Scales::plan(rms.into_iter()), Scales::Single);
        }
        for magnitude in [1e-30, 1e30] {
            assert!(matches!(Scales::plan([magnitude].into_iter()), Scales::Byte(_)));
        }
    }
}
