//! The compact layout, 4.5 bits per weight: 256-weight superblocks with f16
//! `d` and `dmin`, and per group of 32 a 6-bit scale `sc` and min `m`.
//!
//! ```text
//! bias 0:   w = (d sc) q - dmin m                 (ggml's Q4_K)
//! bias 32:  w = (d sc) (q - 8) - dmin (m - 32)    (centred)
//! ```
//!
//! Centred, the second term is what is left of a group's offset after its
//! scale has placed the range around zero: small for weights, so that its six
//! bits cost almost nothing, and of either sign.
#![allow(clippy::needless_range_loop, reason = "one index runs over several arrays of lanes")]

use super::fit::Groups;
use super::{Coded, OVERFLOW, Tally};
use crate::codec::half_float::{f16_to_f32, f32_to_f16};
use crate::codec::lanes::{LANES, Lanes, exp2i};

/// Weights of a superblock and of a group.
pub(super) const SUPERBLOCK: usize = 256;
pub(super) const GROUP: usize = 32;
/// Clipping pairs tried per group; twelve would gain less than 0.02 dB.
const TRIES: usize = 8;
/// Largest 6-bit value.
const TOP: f32 = 63.0;

/// What the tensor's parameters say about superblocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::codec) struct Compact {
    /// Subtracted from codes: 0 or 8.
    pub(in crate::codec) code_bias: f32,
    /// Subtracted from mins: 0 or 32.
    pub(in crate::codec) min_bias: f32,
    /// `d` and `dmin` are multiplied by 2 to this.
    pub(in crate::codec) exponent: i32,
}

impl Compact {
    /// The layout of the parameter bytes `min bias` and `exponent`.
    pub(super) fn new(min_bias: u8, exponent: u8) -> Self {
        Self {
            code_bias: f32::from(min_bias / 4),
            min_bias: f32::from(min_bias),
            exponent: i32::from(exponent.cast_signed()),
        }
    }

    /// Scale and subtrahend of each group of a stored superblock (its 4 to 16
    /// bytes; missing bytes read as 0).
    #[inline(always)]
    pub(in crate::codec) fn unpack(self, stored: &[u8]) -> ([f32; LANES], [f32; LANES]) {
        let mut bytes = [0; 16];
        for (b, s) in bytes.iter_mut().zip(stored) {
            *b = *s;
        }
        let words = u128::from_le_bytes(bytes);
        let unit = exp2i(self.exponent);
        let d = f16_to_f32(words as u16) * unit;
        let dmin = f16_to_f32((words >> 16) as u16) * unit;
        let (mut scales, mut minuses) = ([0.0; LANES], [0.0; LANES]);
        for l in 0..LANES {
            let entry = (words >> (32 + 12 * l)) as u32;
            scales[l] = d * (entry & 63) as f32;
            minuses[l] = dmin * ((entry >> 6 & 63) as f32 - self.min_bias);
        }
        (scales, minuses)
    }

    /// Encodes the rows `values` of `cols` columns.
    #[inline(always)]
    pub(super) fn encode_rows<V: Lanes>(self, values: &[f32], cols: usize, out: &mut Coded<'_>) -> Tally {
        let mut tally = Tally::default();
        let mut groups = Groups::<GROUP>::EMPTY;
        let mut codes = [V::zero(); GROUP];
        let rows = values.chunks_exact(cols).zip(out.codes.chunks_exact_mut(out.code_stride));
        for (row, ((w, code_row), scale_row)) in
            rows.zip(out.scales.chunks_exact_mut(out.scale_stride)).enumerate()
        {
            for ((w, code_bytes), scale_bytes) in w
                .chunks(SUPERBLOCK)
                .zip(code_row.chunks_mut(SUPERBLOCK / 2))
                .zip(scale_row.chunks_mut(2 * LANES))
            {
                groups.load::<V>(w.chunks(GROUP));
                groups.normalise::<V>(true);
                let scales = self.choose::<V>(&groups);
                let (signal, noise) = groups.assign(scales.scale, scales.minus, self.code_bias, &mut codes);
                tally.add(signal, noise, &groups.shift);
                if scales.overflow {
                    tally.overflow(row);
                }
                let present = w.len().div_ceil(GROUP);
                let kept = u128::MAX >> (128 - (32 + 12 * present));
                for (b, p) in scale_bytes.iter_mut().zip((scales.words & kept).to_le_bytes()) {
                    *b = p;
                }
                pack(&codes, code_bytes);
            }
        }
        tally
    }

    /// Scales and mins of a superblock, in the groups' normalised units.
    #[inline(always)]
    fn choose<V: Lanes>(self, groups: &Groups<GROUP>) -> Scales<V> {
        let centred = self.min_bias > 0.0;
        let mut fit = groups.fit::<V>(TRIES, !centred);
        let shift = groups.shift[0];
        let unit =
            Unit { down: exp2i(shift - self.exponent), up: exp2i(self.exponent), normal: exp2i(-shift) };
        let bias = V::splat(self.code_bias);
        let min_bias = V::splat(self.min_bias);
        let mut wanted_scale = fit.scale;

        // dmin from the mins of the unrounded scales.
        let scale = V::load(&fit.scale);
        let minus = V::zero() - (fit.offset(scale) + scale * bias);
        let (reach, steps) = if centred {
            (minus.abs().store().max_lane(), TOP - 32.0)
        } else {
            (minus.store().max_lane(), TOP)
        };
        let (dmin_bits, dmin) = unit.store(reach.max(0.0) / steps);
        let per_dmin = V::splat(dmin).recip_or_zero();
        let (flat_minus, flat_per_dmin) = (minus.store(), per_dmin.store());

        // A group of equal values has no scale of its own: it takes one whose
        // codes make up for the rounding of its min.
        for l in 0..LANES {
            if groups.hi.0[l] <= groups.lo.0[l] {
                let m = round_even(flat_minus.0[l] * flat_per_dmin.0[l])
                    .clamp(-self.min_bias, TOP - self.min_bias);
                let rest = groups.lo.0[l] + dmin * m;
                wanted_scale.0[l] = if centred { rest.abs() } else { (rest / 15.0).max(0.0) };
                fit.mean_code.0[l] = self.code_bias;
            }
        }
        let (d_bits, d) = unit.store(wanted_scale.max_lane().max(0.0) / TOP);
        let per_d = V::splat(d).recip_or_zero();
        // A group far flatter than its neighbours still gets the finest scale.
        let least = V::splat(if d > 0.0 { 1.0 } else { 0.0 });
        let sc = (V::load(&wanted_scale) * per_d).min(V::splat(TOP)).round().max(least);
        let scale = sc * V::splat(d);
        let minus = V::zero() - (fit.offset(scale) + scale * bias);
        let m = (minus * per_dmin).max(V::zero() - min_bias).min(V::splat(TOP) - min_bias).round();
        // Below 2^12, so the low bits of the sum with 2^23.
        let entries = sc + (m + min_bias) * V::splat(64.0) + V::splat(8_388_608.0);
        let entries = entries.store();
        let four = |e: &[f32]| e.iter().rev().fold(0u64, |w, e| w << 12 | u64::from(e.to_bits() & 0xfff));
        let (low, high) = entries.0.split_at(4);
        let words = u128::from(d_bits)
            | u128::from(dmin_bits) << 16
            | u128::from(four(low)) << 32
            | u128::from(four(high)) << 80;
        Scales {
            words,
            scale,
            minus: m * V::splat(dmin),
            overflow: d_bits >= OVERFLOW || dmin_bits >= OVERFLOW,
        }
    }
}

/// Chosen scales: as stored, and as the codes see them.
struct Scales<V> {
    words: u128,
    scale: V,
    minus: V,
    overflow: bool,
}

/// Between the groups' normalised units and stored f16 values.
struct Unit {
    down: f32,
    up: f32,
    normal: f32,
}

impl Unit {
    /// The f16 nearest to `x`, and its value in normalised units.
    #[inline(always)]
    fn store(&self, x: f32) -> (u16, f32) {
        // Zero stays zero even where `down` overflows.
        let bits = f32_to_f16(if x == 0.0 { 0.0 } else { x * self.down });
        (bits, f16_to_f32(bits) * self.up * self.normal)
    }
}

/// The nearest integer, ties to even, for `|x| < 2^22`.
#[inline(always)]
fn round_even(x: f32) -> f32 {
    x + 12_582_912.0 - 12_582_912.0
}

/// Packs the codes of up to eight groups: 16 bytes per group, byte `j` holding
/// code `j` in its low and code `j + 16` in its high nibble.
#[inline(always)]
fn pack<V: Lanes>(codes: &[V; GROUP], out: &mut [u8]) {
    let mut bytes = [[0u8; 16]; LANES];
    for j in 0..16 {
        // Up to 255, so the low byte of the sum with 2^23.
        let pair = codes[j] + codes[j + 16] * V::splat(16.0) + V::splat(8_388_608.0);
        let pair = pair.store();
        for l in 0..LANES {
            bytes[l][j] = pair.0[l].to_bits() as u8;
        }
    }
    for (out, group) in out.chunks_exact_mut(16).zip(&bytes) {
        out.copy_from_slice(group);
    }
}
