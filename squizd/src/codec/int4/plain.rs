//! The plain layout: a scale and a real-valued offset per group of 16, 32, 64
//! or 128 weights, `w = offset + scale q`, stored as two f16 (one u32, scale
//! in the low half) or two f32.

use super::fit::Groups;
use super::{Coded, OVERFLOW, Tally};
use crate::codec::half_float::{f16_to_f32, f32_to_f16};
use crate::codec::lanes::{F32x8, LANES, Lanes, exp2i};

/// Clipping pairs tried per group.
const TRIES: usize = 8;

/// How scales and offsets are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::codec) enum ScaleFormat {
    F16,
    F32,
}

impl ScaleFormat {
    /// The format of the parameter byte.
    pub(super) fn new(byte: u8) -> Self {
        if byte == 0 { Self::F16 } else { Self::F32 }
    }

    /// Bytes of a (scale, offset) pair.
    pub(in crate::codec) const fn pair_bytes(self) -> usize {
        match self {
            Self::F16 => 4,
            Self::F32 => 8,
        }
    }

    /// Scale and offset of a stored pair.
    #[inline(always)]
    pub(in crate::codec) fn unpack(self, pair: &[u8]) -> (f32, f32) {
        match (self, pair) {
            (Self::F16, &[a, b, c, d, ..]) => {
                (f16_to_f32(u16::from_le_bytes([a, b])), f16_to_f32(u16::from_le_bytes([c, d])))
            }
            (Self::F32, &[a, b, c, d, e, f, g, h, ..]) => {
                (f32::from_le_bytes([a, b, c, d]), f32::from_le_bytes([e, f, g, h]))
            }
            _ => (0.0, 0.0),
        }
    }

    /// `x * 2^shift` as stored: its bytes (two or four used), its value over
    /// `2^shift`, and whether it is infinite.
    #[inline(always)]
    fn store(self, x: f32, shift: i32) -> ([u8; 4], f32, bool) {
        let x = x * exp2i(shift);
        match self {
            Self::F16 => {
                let bits = f32_to_f16(x);
                let [a, b] = bits.to_le_bytes();
                ([a, b, 0, 0], f16_to_f32(bits) * exp2i(-shift), bits & 0x7fff >= OVERFLOW)
            }
            Self::F32 => (x.to_le_bytes(), x * exp2i(-shift), !x.is_finite()),
        }
    }
}

/// Encodes the rows `values` of `cols` columns in groups of `G`.
#[inline(always)]
pub(super) fn encode_rows<V: Lanes, const G: usize>(
    format: ScaleFormat,
    values: &[f32],
    cols: usize,
    out: &mut Coded<'_>,
) -> Tally {
    let mut tally = Tally::default();
    let mut groups = Groups::<G>::EMPTY;
    let mut codes = [V::zero(); G];
    let pair = format.pair_bytes();
    let per_row = cols.div_ceil(G);
    let total = values.len() / cols * per_row;
    // Eight groups at a time, across the ends of rows.
    let group = |index: usize| {
        let start = index / per_row * cols + index % per_row * G;
        let end = (start + G).min((index / per_row + 1) * cols);
        values.get(start..end).unwrap_or_default()
    };
    for first in (0..total).step_by(LANES) {
        let present = LANES.min(total - first);
        groups.load::<V>((first..first + present).map(group));
        groups.normalise::<V>(false);
        let fit = groups.fit::<V>(TRIES, false);
        let (mut scale, mut minus) = (F32x8::ZERO, F32x8::ZERO);
        for l in 0..present {
            let row = (first + l) / per_row;
            let at = row * out.scale_stride + (first + l) % per_row * pair;
            let flat = groups.hi.0[l] <= groups.lo.0[l];
            let (mut scale_bytes, s, mut wide) = format.store(fit.scale.0[l], groups.shift[l]);
            scale.0[l] = s;
            let wanted = if flat { groups.lo.0[l] } else { fit.offset(scale).0[l] };
            let (offset_bytes, o, offset_wide) = format.store(wanted, groups.shift[l]);
            minus.0[l] = -o;
            if flat {
                // Equal values: the scale makes up for the rounding of the offset.
                (scale_bytes, scale.0[l], wide) = format.store(groups.lo.0[l] - o, groups.shift[l]);
            }
            let bytes = out.scales.get_mut(at..at + pair).unwrap_or_default();
            let (low, high) = bytes.split_at_mut(pair / 2);
            low.copy_from_slice(&scale_bytes[..pair / 2]);
            high.copy_from_slice(&offset_bytes[..pair / 2]);
            if wide || offset_wide {
                tally.overflow(row);
            }
        }
        let (signal, noise) = groups.assign(V::load(&scale), V::load(&minus), 0.0, &mut codes);
        tally.add(signal, noise, &groups.shift);
        let codes = codes.map(V::store);
        for l in 0..present {
            let row = (first + l) / per_row;
            let start = (first + l) % per_row * G;
            let code_row = &mut out.codes[row * out.code_stride..(row + 1) * out.code_stride];
            scatter(&codes, l, start, code_row);
        }
    }
    tally
}

/// Writes the codes of lane `l`, whose first weight is at column `start`, into
/// a row's nibbles.
#[inline(always)]
fn scatter<const G: usize>(codes: &[F32x8; G], l: usize, start: usize, row: &mut [u8]) {
    let mut bytes = [0u8; G];
    for (b, c) in bytes.iter_mut().zip(codes) {
        *b = (c.0[l] + 8_388_608.0).to_bits() as u8;
    }
    for (i, half) in bytes.as_chunks::<16>().0.iter().enumerate() {
        let column = start + 16 * i;
        let at = column / 32 * 16;
        let shift = if column.is_multiple_of(32) { 0 } else { 4 };
        for (out, code) in row.get_mut(at..at + 16).unwrap_or_default().iter_mut().zip(half) {
            *out |= code << shift;
        }
    }
}
