//! Eight `f32` lanes with IEEE semantics on every target: each operation is
//! one rounding per lane, nothing is fused or reassociated, so an encoder
//! written with them gives the same bits however it is compiled.

use std::ops::{Add, Div, Mul, Sub};

/// Lanes of [`F32x8`].
pub(super) const LANES: usize = 8;

/// Eight lanes.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(32))]
pub(super) struct F32x8(pub(super) [f32; LANES]);

macro_rules! lanewise {
    ($trait:ident, $method:ident, $op:tt) => {
        impl $trait for F32x8 {
            type Output = Self;

            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                let mut out = [0.0; LANES];
                for l in 0..LANES {
                    out[l] = self.0[l] $op other.0[l];
                }
                Self(out)
            }
        }
    };
}

lanewise!(Add, add, +);
lanewise!(Sub, sub, -);
lanewise!(Mul, mul, *);
lanewise!(Div, div, /);

impl F32x8 {
    pub(super) const ZERO: Self = Self([0.0; LANES]);

    #[inline(always)]
    pub(super) const fn splat(x: f32) -> Self {
        Self([x; LANES])
    }

    /// The smaller of each pair (`other` where either is NaN).
    #[inline(always)]
    pub(super) fn min(self, other: Self) -> Self {
        self.select_lt(other, self, other)
    }

    /// The larger of each pair (`other` where either is NaN).
    #[inline(always)]
    pub(super) fn max(self, other: Self) -> Self {
        other.select_lt(self, self, other)
    }

    /// `yes` where `self < other`, else `no`.
    #[inline(always)]
    pub(super) fn select_lt(self, other: Self, yes: Self, no: Self) -> Self {
        let mut out = [0.0; LANES];
        for l in 0..LANES {
            out[l] = if self.0[l] < other.0[l] { yes.0[l] } else { no.0[l] };
        }
        Self(out)
    }

    /// The nearest integer, ties to even, for lanes within 2^22 of zero:
    /// adding 1.5 * 2^23 leaves no fraction bits.
    #[inline(always)]
    pub(super) fn round(self) -> Self {
        let magic = Self::splat(12_582_912.0);
        self + magic - magic
    }

    #[inline(always)]
    pub(super) fn abs(self) -> Self {
        let mut out = [0.0; LANES];
        for l in 0..LANES {
            out[l] = self.0[l].abs();
        }
        Self(out)
    }

    /// `1 / self`, and 0 where `self` is so small that the quotient could
    /// overflow (or is 0, or NaN).
    #[inline(always)]
    pub(super) fn recip_or_zero(self) -> Self {
        let tiny = Self::splat(1e-30);
        tiny.select_lt(self.abs(), Self::splat(1.0) / self, Self::ZERO)
    }

    /// The largest lane.
    #[inline(always)]
    pub(super) fn max_lane(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, |m, v| if v > m { v } else { m })
    }

    /// The sum of the lanes in f64, first lane first.
    #[inline(always)]
    pub(super) fn sum_f64(self) -> f64 {
        self.0.into_iter().map(f64::from).sum()
    }
}

/// `2^e`, for `-149 <= e <= 127` (beyond: 0 or infinity).
#[inline(always)]
pub(super) fn exp2i(e: i32) -> f32 {
    match e {
        128.. => f32::INFINITY,
        -126..=127 => f32::from_bits(((e + 127) as u32) << 23),
        -149..=-127 => f32::from_bits(1 << (e + 149)),
        _ => 0.0,
    }
}

/// `floor(log2(x))` of a positive finite `x`, at least -126.
#[inline(always)]
pub(super) fn exponent(x: f32) -> i32 {
    ((x.to_bits() >> 23) as i32 & 0xff).max(1) - 127
}
