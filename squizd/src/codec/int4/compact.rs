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

use super::fit::Groups;
use super::{Coded, OVERFLOW, Tally};
use crate::codec::half_float::{f16_to_f32, f32_to_f16};
use crate::codec::lanes::{F32x8, LANES, exp2i};

/// Weights of a superblock and of a group.
pub(super) const SUPERBLOCK: usize = 256;
pub(super) const GROUP: usize = 32;
/// Clipping pairs tried per group; more gain less than 0.03 dB.
const TRIES: usize = 6;
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
    pub(super) fn encode_rows(self, values: &[f32], cols: usize, out: Coded<'_>) -> Tally {
        let mut tally = Tally::default();
        let mut groups = Groups::<GROUP>::EMPTY;
        let mut codes = [F32x8::ZERO; GROUP];
        let rows = values.chunks_exact(cols).zip(out.codes.chunks_exact_mut(out.code_stride));
        for (row, ((w, code_row), scale_row)) in
            rows.zip(out.scales.chunks_exact_mut(out.scale_stride)).enumerate()
        {
            for ((w, code_bytes), scale_bytes) in w
                .chunks(SUPERBLOCK)
                .zip(code_row.chunks_mut(SUPERBLOCK / 2))
                .zip(scale_row.chunks_mut(2 * LANES))
            {
                groups.load(w.chunks(GROUP));
                groups.normalise(true);
                let scales = self.choose(&groups);
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
    fn choose(self, groups: &Groups<GROUP>) -> Scales {
        let centred = self.min_bias > 0.0;
        let mut fit = groups.fit(TRIES, !centred);
        let shift = groups.shift[0];
        let unit =
            Unit { down: exp2i(shift - self.exponent), up: exp2i(self.exponent), normal: exp2i(-shift) };
        let bias = F32x8::splat(self.code_bias);
        let min_bias = F32x8::splat(self.min_bias);
        let mut wanted_scale = fit.scale;

        // dmin from the mins of the unrounded scales.
        let minus = F32x8::ZERO - (fit.offset(fit.scale) + fit.scale * bias);
        let (reach, steps) =
            if centred { (minus.abs().max_lane(), TOP - 32.0) } else { (minus.max_lane(), TOP) };
        let (dmin_bits, dmin) = unit.store(reach.max(0.0) / steps);
        let per_dmin = F32x8::splat(dmin).recip_or_zero();

        // A group of equal values has no scale of its own: it takes one whose
        // codes make up for the rounding of its min.
        for l in 0..LANES {
            if groups.hi.0[l] <= groups.lo.0[l] {
                let m = round_even(minus.0[l] * per_dmin.0[l]).clamp(-self.min_bias, TOP - self.min_bias);
                let rest = groups.lo.0[l] + dmin * m;
                wanted_scale.0[l] = if centred { rest.abs() } else { (rest / 15.0).max(0.0) };
                fit.mean_code.0[l] = self.code_bias;
            }
        }
        let (d_bits, d) = unit.store(wanted_scale.max_lane().max(0.0) / TOP);
        let per_d = F32x8::splat(d).recip_or_zero();
        // A group far flatter than its neighbours still gets the finest scale.
        let least = F32x8::splat(if d > 0.0 { 1.0 } else { 0.0 });
        let sc = (wanted_scale * per_d).min(F32x8::splat(TOP)).round().max(least);
        let scale = sc * F32x8::splat(d);
        let minus = F32x8::ZERO - (fit.offset(scale) + scale * bias);
        let m = (minus * per_dmin).max(F32x8::ZERO - min_bias).min(F32x8::splat(TOP) - min_bias).round();
        let mut words = u128::from(d_bits) | u128::from(dmin_bits) << 16;
        for l in 0..LANES {
            let entry = sc.0[l] as u32 | ((m.0[l] + self.min_bias) as u32) << 6;
            words |= u128::from(entry) << (32 + 12 * l);
        }
        Scales {
            words,
            scale,
            minus: m * F32x8::splat(dmin),
            overflow: d_bits >= OVERFLOW || dmin_bits >= OVERFLOW,
        }
    }
}

/// Chosen scales: as stored, and as the codes see them.
struct Scales {
    words: u128,
    scale: F32x8,
    minus: F32x8,
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
pub(super) fn pack(codes: &[F32x8; GROUP], out: &mut [u8]) {
    let mut bytes = [[0u8; 16]; LANES];
    for j in 0..16 {
        // Up to 255, so the low byte of the sum with 2^23.
        let pair = codes[j] + codes[j + 16] * F32x8::splat(16.0) + F32x8::splat(8_388_608.0);
        for l in 0..LANES {
            bytes[l][j] = pair.0[l].to_bits() as u8;
        }
    }
    for (out, group) in out.chunks_exact_mut(16).zip(&bytes) {
        out.copy_from_slice(group);
    }
}
