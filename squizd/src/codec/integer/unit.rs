//! Between the groups' normalised units and stored f16 values.

use crate::codec::half_float::{f16_to_f32, f32_to_f16};
use crate::codec::lanes::exp2i;

/// f16 bit patterns from here on are infinite or NaN.
pub(super) const OVERFLOW: u16 = 0x7c00;

/// The unit of a superblock's `d` and `dmin`.
#[derive(Clone, Copy)]
pub(super) struct Unit {
    down: f32,
    up: f32,
    normal: f32,
}

/// A stored f16: its bits, and its value in normalised units.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Half {
    pub(super) bits: u16,
    pub(super) value: f32,
}

impl Unit {
    /// Groups multiplied by `2^-shift`, f16 values multiplied by `2^exponent`.
    #[inline(always)]
    pub(super) fn new(shift: i32, exponent: i32) -> Self {
        Self { down: exp2i(shift - exponent), up: exp2i(exponent), normal: exp2i(-shift) }
    }

    /// The f16 nearest to `x`.
    #[inline(always)]
    pub(super) fn store(&self, x: f32) -> Half {
        // Zero stays zero even where `down` overflows.
        let bits = f32_to_f16(if x == 0.0 { 0.0 } else { x * self.down });
        Half { bits, value: f16_to_f32(bits) * self.up * self.normal }
    }
}

impl Half {
    /// Whether it is infinite or NaN.
    #[inline(always)]
    pub(super) fn overflows(self) -> bool {
        self.bits & 0x7fff >= OVERFLOW
    }
}

/// `d` and `dmin` of a stored superblock, times 2^`exponent`, and the 96 bits
/// behind them; missing bytes read as 0.
#[inline(always)]
pub(super) fn head(stored: &[u8], exponent: i32) -> (f32, f32, u128) {
    let mut bytes = [0; 16];
    for (b, s) in bytes.iter_mut().zip(stored) {
        *b = *s;
    }
    let words = u128::from_le_bytes(bytes);
    let unit = exp2i(exponent);
    (f16_to_f32(words as u16) * unit, f16_to_f32((words >> 16) as u16) * unit, words >> 32)
}
