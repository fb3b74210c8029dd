//! The compact layout, `bits + 0.5` per weight: 256-weight superblocks with f16
//! `d` and `dmin`, and per group of 32 a 6-bit scale `sc` and min `m`. With
//! `h = 2^(bits - 1)`:
//!
//! ```text
//! bias 0:   w = (d sc) q - dmin m                 (4 bits: ggml's Q4_K)
//! bias 32:  w = (d sc) (q - h) - dmin (m - 32)    (centred)
//! ```
//!
//! Centred, the second term is what is left of a group's offset after its
//! scale has placed the range around zero: small for weights, so that its six
//! bits cost almost nothing, and of either sign.
#![allow(clippy::needless_range_loop, reason = "one index runs over several arrays of lanes")]

use super::fit::{Groups, top};
use super::unit::{Unit, head};
use crate::codec::lanes::{F32x8, LANES, Lanes};

/// Weights of a group.
pub(super) const GROUP: usize = 32;
/// Largest 6-bit value.
const TOP: f32 = 63.0;

/// What the tensor's parameters say about superblocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::codec) struct Compact {
    /// Subtracted from codes: 0 or half of their number.
    pub(in crate::codec) code_bias: f32,
    /// Subtracted from mins: 0 or 32.
    pub(in crate::codec) min_bias: f32,
    /// `d` and `dmin` are multiplied by 2 to this.
    pub(in crate::codec) exponent: i32,
}

impl Compact {
    /// The layout of codes of `bits` under the parameter bytes `min bias` and
    /// `exponent`.
    pub(super) fn new(bits: u32, min_bias: u8, exponent: u8) -> Self {
        Self {
            code_bias: f32::from(min_bias >> 6_u32.saturating_sub(bits)),
            min_bias: f32::from(min_bias),
            exponent: i32::from(exponent.cast_signed()),
        }
    }

    /// Scale and subtrahend of each group of a stored superblock (its 4 to 16
    /// bytes; missing bytes read as 0).
    #[inline(always)]
    pub(in crate::codec) fn unpack(self, stored: &[u8]) -> ([f32; LANES], [f32; LANES]) {
        let (d, dmin, entries) = head(stored, self.exponent);
        let (mut scales, mut minuses) = ([0.0; LANES], [0.0; LANES]);
        for l in 0..LANES {
            let entry = (entries >> (12 * l)) as u32;
            scales[l] = d * (entry & 63) as f32;
            minuses[l] = dmin * ((entry >> 6 & 63) as f32 - self.min_bias);
        }
        (scales, minuses)
    }

    /// Scales and mins of a superblock of codes of `bits`, in the groups'
    /// normalised units.
    pub(super) fn choose(self, groups: &mut Groups, bits: u32) -> Scales {
        let centred = self.min_bias > 0.0;
        let mut fit = groups.fit(bits, !centred);
        let unit = Unit::new(groups.shift[0], self.exponent);
        let bias = F32x8::splat(self.code_bias);
        let min_bias = F32x8::splat(self.min_bias);
        let mut wanted_scale = fit.scale;

        // dmin from the mins of the unrounded scales.
        let minus = F32x8::ZERO - (fit.offset(fit.scale) + fit.scale * bias);
        let (reach, steps) =
            if centred { (minus.abs().max_lane(), TOP - 32.0) } else { (minus.max_lane(), TOP) };
        let dmin = unit.store(reach.max(0.0) / steps);
        let per_dmin = F32x8::splat(dmin.value).recip_or_zero();

        // A group of equal values has no scale of its own: it takes one whose
        // codes make up for the rounding of its min.
        for l in 0..LANES {
            if groups.hi.0[l] <= groups.lo.0[l] {
                let m = round_even(minus.0[l] * per_dmin.0[l]).clamp(-self.min_bias, TOP - self.min_bias);
                let rest = groups.lo.0[l] + dmin.value * m;
                wanted_scale.0[l] = if centred { rest.abs() } else { (rest / top(bits)).max(0.0) };
                fit.mean_code.0[l] = self.code_bias;
            }
        }
        let d = unit.store(wanted_scale.max_lane().max(0.0) / TOP);
        let per_d = F32x8::splat(d.value).recip_or_zero();
        // A group far flatter than its neighbours still gets the finest scale.
        let least = F32x8::splat(if d.value > 0.0 { 1.0 } else { 0.0 });
        let sc = (wanted_scale * per_d).min(F32x8::splat(TOP)).round().max(least);
        let scale = sc * F32x8::splat(d.value);
        let minus = F32x8::ZERO - (fit.offset(scale) + scale * bias);
        let m = (minus * per_dmin).max(F32x8::ZERO - min_bias).min(F32x8::splat(TOP) - min_bias).round();
        // Below 2^12, so the low bits of the sum with 2^23.
        let entries = sc + (m + min_bias) * F32x8::splat(64.0) + F32x8::splat(8_388_608.0);
        let four = |e: &[f32]| e.iter().rev().fold(0u64, |w, e| w << 12 | u64::from(e.to_bits() & 0xfff));
        let (low, high) = entries.0.split_at(4);
        let words = u128::from(d.bits)
            | u128::from(dmin.bits) << 16
            | u128::from(four(low)) << 32
            | u128::from(four(high)) << 80;
        let minus = m * F32x8::splat(dmin.value);
        Scales { words, scale, minus, overflow: d.overflows() || dmin.overflows() }
    }
}

/// Chosen scales: as stored, and as the codes see them.
pub(super) struct Scales {
    pub(super) words: u128,
    pub(super) scale: F32x8,
    pub(super) minus: F32x8,
    pub(super) overflow: bool,
}

/// The nearest integer, ties to even, for `|x| < 2^22`.
#[inline(always)]
fn round_even(x: f32) -> f32 {
    x + 12_582_912.0 - 12_582_912.0
}
