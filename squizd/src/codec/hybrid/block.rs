//! One block: 64 weights of a row at one rate.
//!
//! Four groups of 16 under one step, all in one word of 32 bits: an 8-bit
//! float `d` (6 bits of exponent, 2 of mantissa; 0 is zero), and per group 3
//! bits of scale `sc` and 3 of min `m`. With `h = (2^bits - 1) / 2`:
//!
//! ```text
//! w = (d (sc + 6)) (q - h) - (d mu) (m - 3.5)
//! ```
//!
//! This is the integer codecs' fine layout with a step of its own for every
//! block, which blocks of different size need, instead of two finer ones per
//! 256 weights; `mu`, between the two, is fixed per rate. On Gaussian weights
//! it makes 11.6, 17.8, 23.7 and 29.4 dB at 2, 3, 4 and 5 bits and half a bit
//! of scales (fine: 11.6, 17.9, 23.9).
#![allow(clippy::needless_range_loop, reason = "one index runs over several arrays of lanes")]

use crate::codec::half_float::{bf16_to_f32, f32_to_bf16};
use crate::codec::integer::codes::{fields, pack_row};
use crate::codec::integer::fit::{Attempt, Fit, Groups, Quantizer, top};
use crate::codec::lanes::{F32x8, LANES, Lanes, at_each_level, exp2i};

/// Weights of a block and of a group.
pub(super) const BLOCK: usize = 64;
const GROUP: usize = 16;
/// Groups of a block: half of the lanes.
const GROUPS: usize = BLOCK / GROUP;
/// Added to scales.
const SCALE_BIAS: f32 = 6.0;
/// Largest 3-bit value, and what is subtracted from mins.
const TOP: f32 = 7.0;
const MIN_BIAS: f32 = 3.5;
/// Steps tried, relative to the largest not above the one that reaches all
/// groups, in stored values.
const TRIES: [i32; 4] = [1, 0, -1, -2];
/// A block whose mins ask for a larger step than its scales do gets this part
/// of it.
const MIN_REACH: f32 = 0.6;

/// Step of mins over step of scales.
pub(super) const fn mu(bits: u32) -> f32 {
    match bits {
        2 => 2.25,
        3 => 3.5,
        4 => 8.0,
        _ => 20.0,
    }
}

/// The step of a stored byte under the tensor's exponent, times `2^-shift`.
#[inline(always)]
pub(super) fn step(byte: i32, exponent: i32, shift: i32) -> f32 {
    if byte == 0 { 0.0 } else { exp2i(exponent + (byte >> 2) - shift) * (1.0 + (byte & 3) as f32 * 0.25) }
}

/// Scale and subtrahend of a stored block's groups.
#[inline(always)]
pub(super) fn unpack<const B: u32>(word: u32, exponent: i32) -> [(f32, f32); GROUPS] {
    let d = step((word & 255) as i32, exponent, 0);
    let min_step = d * mu(B);
    std::array::from_fn(|g| {
        let entry = word >> (8 + 6 * g);
        (d * ((entry & 7) as f32 + SCALE_BIAS), min_step * ((entry >> 3 & 7) as f32 - MIN_BIAS))
    })
}

/// Decodes a block of `B` bits.
#[inline(always)]
pub(super) fn decode<const B: u32>(word: u32, exponent: i32, codes: &[u8], out: &mut [f32; BLOCK]) {
    let (groups, bias) = (unpack::<B>(word, exponent), top(B) / 2.0);
    for k in 0..2 {
        for (f, field) in fields::<B>(codes, 2, k).into_iter().enumerate() {
            let (scale, minus) = groups[2 * k + f / 2];
            for (i, q) in field.to_le_bytes().into_iter().enumerate() {
                out[32 * k + 8 * f + i] = scale * (f32::from(q) - bias) - minus;
            }
        }
    }
}

/// Decodes a block of bfloat16.
#[inline(always)]
pub(super) fn decode_bf16(codes: &[u8], out: &mut [f32; BLOCK]) {
    for (out, word) in out.iter_mut().zip(codes.as_chunks().0) {
        *out = bf16_to_f32(u16::from_le_bytes(*word));
    }
}

/// Stores a block as bfloat16; false if a weight became infinite.
#[inline(always)]
pub(super) fn encode_bf16(w: &[f32], out: &mut [u8]) -> bool {
    let mut finite = true;
    for (w, out) in w.iter().zip(out.as_chunks_mut().0) {
        let word = f32_to_bf16(*w);
        finite &= word & 0x7f80 != 0x7f80;
        *out = word.to_le_bytes();
    }
    finite
}

/// Up to two blocks on their way.
pub(super) struct Blocks {
    groups: Groups,
    /// Weights of each.
    lengths: [usize; 2],
}

/// The scales chosen for two blocks.
pub(super) struct Chosen {
    /// As stored.
    pub(super) words: [u32; 2],
    scale: F32x8,
    minus: F32x8,
    /// Error of each block that importances weigh.
    pub(super) errors: [f64; 2],
    /// Whether the step of a block is too large to be stored.
    pub(super) overflow: [bool; 2],
}

/// Scales and mins of the groups, in units of the step, and what they come to.
#[derive(Clone, Copy)]
struct Choice<V> {
    /// The blocks' stored steps.
    bytes: [i32; 2],
    step: V,
    scale: V,
    min: V,
    error: V,
    /// Sum of the codes, by importance.
    codes: V,
}

/// What a rate says of its codes.
#[derive(Clone, Copy)]
struct Rate {
    quantizer: Quantizer,
    mu: f32,
}

impl Rate {
    fn new(bits: u32) -> Self {
        Self { quantizer: Quantizer { top: top(bits), bias: top(bits) / 2.0 }, mu: mu(bits) }
    }
}

impl Blocks {
    pub(super) fn new() -> Self {
        Self { groups: Groups::new(GROUP), lengths: [0; 2] }
    }

    /// Loads one or two blocks of up to 64 weights, and their importances.
    pub(super) fn load(&mut self, blocks: [&[f32]; 2], importance: Option<[&[f32]; 2]>) {
        self.lengths = blocks.map(<[f32]>::len);
        self.groups.load(lanes(blocks).into_iter(), importance.map(|v| lanes(v).into_iter()));
        let mut peaks = self.groups.peaks();
        for block in peaks.0.as_chunks_mut::<GROUPS>().0 {
            *block = [block.iter().fold(0.0f32, |m, p| m.max(*p)); GROUPS];
        }
        self.groups.normalise(peaks);
    }

    /// Scales for `bits`.
    pub(super) fn choose(&mut self, bits: u32, exponent: i32) -> Chosen {
        let fit = self.groups.fit(bits, false);
        let rate = Rate::new(bits);
        let (first, overflow) = self.first_steps(&fit, rate, exponent);
        let mut chosen = search(self, &fit, rate, exponent, first);
        chosen.overflow = overflow;
        chosen
    }

    /// The stored steps to begin with, and whether they are too large.
    fn first_steps(&self, fit: &Fit, rate: Rate, exponent: i32) -> ([i32; 2], [bool; 2]) {
        let reach = (fit.scale * F32x8::splat(-rate.quantizer.bias) - fit.offset(fit.scale)).abs();
        let (mut bytes, mut overflow) = ([0; 2], [false; 2]);
        for b in 0..2 {
            let lanes = GROUPS * b..GROUPS * (b + 1);
            let largest = |v: &F32x8| v.0[lanes.clone()].iter().fold(0.0f32, |m, x| m.max(*x));
            let wanted = (largest(&fit.scale) / (TOP + SCALE_BIAS))
                .max(MIN_REACH * largest(&reach) / (MIN_BIAS * rate.mu));
            if wanted >= f32::MIN_POSITIVE {
                // Exponent and upper two bits of the mantissa, as stored.
                let byte = (wanted.to_bits() >> 21) as i32 - (127 << 2)
                    + 4 * (self.groups.shift[GROUPS * b] - exponent);
                bytes[b] = byte.clamp(1, 255);
                overflow[b] = byte > 255;
            }
        }
        (bytes, overflow)
    }

    /// Nearest scales and mins under the steps `bytes`.
    #[inline(always)]
    fn nearest<V: Lanes>(&self, fit: &Fit, rate: Rate, bytes: [i32; 2], exponent: i32) -> Choice<V> {
        let mut steps = F32x8::ZERO;
        for l in 0..LANES {
            steps.0[l] = step(bytes[l / GROUPS], exponent, self.groups.shift[l]);
        }
        let step = V::load(&steps);
        let scale = nearest_scale(V::load(&fit.scale) * step.recip_or_zero());
        let codes = V::load(&fit.mean_code) - V::splat(rate.quantizer.bias);
        let min = nearest_min(wanted_min(fit, rate, scale, codes, step));
        self.attempt(rate, bytes, step, scale, min)
    }

    #[inline(always)]
    fn attempt<V: Lanes>(&self, rate: Rate, bytes: [i32; 2], step: V, scale: V, min: V) -> Choice<V> {
        let minus = min * V::splat(rate.mu) * step;
        let Attempt { error, codes, .. } = self.groups.attempt(scale * step, minus, rate.quantizer);
        Choice { bytes, step, scale, min, error, codes }
    }

    /// The best choice among the neighbouring scales and mins of `from`.
    #[inline(always)]
    fn neighbours<V: Lanes>(&self, fit: &Fit, rate: Rate, from: &Choice<V>) -> Choice<V> {
        let mean_code = from.codes / self.groups.counts::<V>();
        let (mut scale, mut min, mut least) = (from.scale, from.min, from.error);
        for scale_step in [-1.0, 0.0, 1.0] {
            let next_scale = nearest_scale(from.scale + V::splat(scale_step));
            let wanted = wanted_min(fit, rate, next_scale, mean_code, from.step);
            for min_step in [-1.0, 0.0, 1.0] {
                let next_min = nearest_min(wanted + V::splat(min_step));
                let minus = next_min * V::splat(rate.mu) * from.step;
                let error = self.groups.error(next_scale * from.step, minus, rate.quantizer);
                scale = error.select_lt(least, next_scale, scale);
                min = error.select_lt(least, next_min, min);
                least = error.select_lt(least, error, least);
            }
        }
        self.attempt(rate, from.bytes, from.step, scale, min)
    }

    #[inline(always)]
    fn store<V: Lanes>(&self, rate: Rate, best: &Choice<V>) -> Chosen {
        let scale = (best.scale - V::splat(SCALE_BIAS)).store();
        let min = (best.min + V::splat(MIN_BIAS)).store();
        let error = best.error.store();
        let (mut words, mut errors) = ([0; 2], [0.0; 2]);
        for l in 0..LANES {
            let b = l / GROUPS;
            if best.bytes[b] == 0 {
                continue;
            }
            words[b] |= best.bytes[b] as u32;
            if l % GROUPS * GROUP < self.lengths[b] {
                let entry = scale.0[l] as u32 & 7 | (min.0[l] as u32 & 7) << 3;
                words[b] |= entry << (8 + 6 * (l % GROUPS));
            }
        }
        for l in 0..LANES {
            errors[l / GROUPS] += f64::from(error.0[l]) * square(self.groups.shift[l]);
        }
        Chosen {
            words,
            scale: (best.scale * best.step).store(),
            minus: (best.min * V::splat(rate.mu) * best.step).store(),
            errors,
            overflow: [false; 2],
        }
    }

    /// Codes under the scales chosen, packed into the blocks' bytes; returns
    /// the energy of weights and of errors.
    pub(super) fn assign(&self, bits: u32, chosen: &Chosen, mut put: impl FnMut(usize, &[u8])) -> (f64, f64) {
        let mut codes = [0; 2 * BLOCK];
        let quantizer = Rate::new(bits).quantizer;
        let (signal, noise) = self.groups.assign(chosen.scale, chosen.minus, quantizer, &mut codes);
        let mut packed = [0; 8 * 5];
        let packed = &mut packed[..8 * bits as usize];
        for (b, codes) in codes.chunks_exact_mut(BLOCK).enumerate() {
            // Nothing is stored past the row's end, or of a block of zeros.
            let length = if chosen.words[b] == 0 { 0 } else { self.lengths[b] };
            codes[length..].fill(0);
            match bits {
                2 => pack_row::<2>(codes, packed),
                3 => pack_row::<3>(codes, packed),
                4 => pack_row::<4>(codes, packed),
                _ => pack_row::<5>(codes, packed),
            }
            put(b, packed);
        }
        let total = |lanes: F32x8| -> f64 {
            (0..LANES).map(|l| f64::from(lanes.0[l]) * square(self.groups.shift[l])).sum()
        };
        (total(signal), total(noise))
    }
}

at_each_level! {
    /// The best of the steps near `first`, with a search for scales and mins
    /// under each.
    fn search(blocks: &Blocks, fit: &Fit, rate: Rate, exponent: i32, first: [i32; 2]) -> Chosen = search_lanes;
}

#[inline(always)]
fn search_lanes<V: Lanes>(blocks: &Blocks, fit: &Fit, rate: Rate, exponent: i32, first: [i32; 2]) -> Chosen {
    let mut best: Option<Choice<V>> = None;
    for change in TRIES {
        let mut bytes = first;
        for byte in &mut bytes {
            *byte = if *byte == 0 { 0 } else { (*byte + change).clamp(1, 255) };
        }
        let next = blocks.neighbours(fit, rate, &blocks.nearest(fit, rate, bytes, exponent));
        best = Some(match best {
            None => next,
            Some(best) => best.better(&next),
        });
    }
    let best = match best {
        Some(best) => best,
        None => blocks.nearest::<V>(fit, rate, [0; 2], exponent),
    };
    let best = blocks.neighbours(fit, rate, &best);
    blocks.store(rate, &best)
}

impl<V: Lanes> Choice<V> {
    /// Block by block the choice of smaller error, `self` on ties.
    #[inline(always)]
    fn better(&self, other: &Self) -> Self {
        let (old, new) = (self.error.store(), other.error.store());
        let (mut chosen, mut bytes) = (F32x8::ZERO, self.bytes);
        for b in 0..2 {
            let (mut own, mut its) = (0.0, 0.0);
            for l in GROUPS * b..GROUPS * (b + 1) {
                own += old.0[l];
                its += new.0[l];
            }
            if its < own {
                bytes[b] = other.bytes[b];
                for l in GROUPS * b..GROUPS * (b + 1) {
                    chosen.0[l] = 1.0;
                }
            }
        }
        let (zero, chosen) = (V::zero(), V::load(&chosen));
        Self {
            bytes,
            step: zero.select_lt(chosen, other.step, self.step),
            scale: zero.select_lt(chosen, other.scale, self.scale),
            min: zero.select_lt(chosen, other.min, self.min),
            error: zero.select_lt(chosen, other.error, self.error),
            codes: zero.select_lt(chosen, other.codes, self.codes),
        }
    }
}

/// Four groups each of two blocks, as far as they are there.
#[inline(always)]
fn lanes(blocks: [&[f32]; 2]) -> [&[f32]; LANES] {
    std::array::from_fn(|l| {
        let block = blocks[l / GROUPS];
        let start = (l % GROUPS * GROUP).min(block.len());
        block.get(start..(start + GROUP).min(block.len())).unwrap_or_default()
    })
}

/// `2^(2 shift)`.
#[inline(always)]
fn square(shift: i32) -> f64 {
    f64::from_bits(((1023 + 2 * shift) as u64) << 52)
}

/// The scale in units of the step nearest to `x`.
#[inline(always)]
fn nearest_scale<V: Lanes>(x: V) -> V {
    x.min(V::splat(TOP + SCALE_BIAS)).round().max(V::splat(SCALE_BIAS))
}

/// The min, in its units, nearest to `x`: half of an odd number.
#[inline(always)]
fn nearest_min<V: Lanes>(x: V) -> V {
    let half = V::splat(0.5);
    (x - half).max(V::splat(-MIN_BIAS - 0.5)).min(V::splat(MIN_BIAS - 0.5)).round() + half
}

/// The min that puts mean code (relative to its bias) and mean weight together.
#[inline(always)]
fn wanted_min<V: Lanes>(fit: &Fit, rate: Rate, scale: V, mean_code: V, step: V) -> V {
    let minus = scale * step * mean_code - V::load(&fit.mean);
    minus * (step * V::splat(rate.mu)).recip_or_zero()
}
