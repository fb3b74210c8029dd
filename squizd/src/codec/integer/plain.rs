//! The plain layout: a scale and a real-valued offset per group of 16, 32, 64
//! or 128 weights, `w = offset + scale q`, stored as two f16 (one u32, scale
//! in the low half) or two f32.

use super::encode::{Coded, Tally};
use super::fit::{Groups, Quantizer, top};
use super::unit::OVERFLOW;
use crate::codec::half_float::{f16_to_f32, f32_to_f16};
use crate::codec::lanes::{F32x8, LANES, exp2i};

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

/// Chosen scales and subtrahends of up to eight groups, as the codes see them.
struct Scales {
    scale: F32x8,
    minus: F32x8,
    /// The first group one of whose numbers overflowed.
    overflow: Option<usize>,
}

impl ScaleFormat {
    /// Scales and offsets of the first `present` groups, which `put` is given
    /// as stored.
    fn choose(
        self,
        groups: &mut Groups,
        bits: u32,
        present: usize,
        mut put: impl FnMut(usize, &[u8]),
    ) -> Scales {
        let pair = self.pair_bytes();
        let fit = groups.fit(bits, false);
        let mut chosen = Scales { scale: F32x8::ZERO, minus: F32x8::ZERO, overflow: None };
        let Scales { scale, minus, overflow } = &mut chosen;
        for l in 0..present {
            let flat = groups.hi.0[l] <= groups.lo.0[l];
            let (mut scale_bytes, s, mut wide) = self.store(fit.scale.0[l], groups.shift[l]);
            scale.0[l] = s;
            let wanted = if flat { groups.lo.0[l] } else { fit.offset(*scale).0[l] };
            let (offset_bytes, o, offset_wide) = self.store(wanted, groups.shift[l]);
            minus.0[l] = -o;
            if flat {
                // Equal values: the scale makes up for the rounding of the offset.
                (scale_bytes, scale.0[l], wide) = self.store(groups.lo.0[l] - o, groups.shift[l]);
            }
            let mut bytes = [0; 8];
            let (low, high) = bytes[..pair].split_at_mut(pair / 2);
            low.copy_from_slice(&scale_bytes[..pair / 2]);
            high.copy_from_slice(&offset_bytes[..pair / 2]);
            put(l, &bytes[..pair]);
            if wide || offset_wide {
                overflow.get_or_insert(l);
            }
        }
        chosen
    }

    /// Encodes the rows `values` of `cols` columns in groups of `group`.
    pub(super) fn encode_rows(
        self,
        bits: u32,
        group: usize,
        values: &[f32],
        cols: usize,
        importance: Option<&[f32]>,
        out: &mut Coded<'_>,
    ) -> Tally {
        let mut tally = Tally::default();
        let mut groups = Groups::new(group);
        let mut codes = vec![0; LANES * group];
        let quantizer = Quantizer { top: top(bits), bias: 0.0 };
        let pair = self.pair_bytes();
        let per_row = cols.div_ceil(group);
        let total = values.len() / cols * per_row;
        // Eight groups at a time, across the ends of rows.
        let place = |index: usize| (index / per_row, index % per_row * group);
        for first in (0..total).step_by(LANES) {
            let present = LANES.min(total - first);
            let weights = |index: usize| {
                let (row, column) = place(index);
                let start = row * cols + column;
                values.get(start..(start + group).min((row + 1) * cols)).unwrap_or_default()
            };
            let importances = importance.map(|importance| {
                (first..first + present).map(|index| {
                    let column = place(index).1;
                    importance.get(column..(column + group).min(cols)).unwrap_or_default()
                })
            });
            groups.load((first..first + present).map(weights), importances);
            groups.normalise(groups.peaks());
            let (scales, stride) = (&mut *out.scales, out.scale_stride);
            let Scales { scale, minus, overflow } = self.choose(&mut groups, bits, present, |l, bytes| {
                let (row, column) = place(first + l);
                let at = row * stride + column / group * pair;
                scales.get_mut(at..at + pair).unwrap_or_default().copy_from_slice(bytes);
            });
            if let Some(l) = overflow {
                tally.overflow(place(first + l).0);
            }
            let (signal, noise) = groups.assign(scale, minus, quantizer, &mut codes);
            tally.add(signal, noise, &groups.shift);
            for (l, own) in codes.chunks_exact(group).take(present).enumerate() {
                let (row, column) = place(first + l);
                let start = row * out.code_stride + column;
                let end = (start + group).min(row * out.code_stride + cols);
                for (byte, code) in out.codes.get_mut(start..end).unwrap_or_default().iter_mut().zip(own) {
                    *byte = *code;
                }
            }
        }
        tally
    }
}
