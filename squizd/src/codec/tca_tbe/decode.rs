//! From bit planes and side stream to exponents, and on to numbers.
//!
//! The loops are written over a level's [`Lanes`] and inlined into the entry
//! points of [`super::dispatch`], which are compiled for that level.

use super::payload::{PLANE, Payload, SUPERBLOCK, Superblock};
use squizd_spec::tbe;
use std::ops::Range;

/// What an instruction set does better than plain code.
pub(super) trait Lanes {
    /// Weight j of the superblock is bit j / w of byte j % w in each plane of
    /// w bytes; `e[j]` becomes the entry of `table` whose number the planes'
    /// bits are, the first plane's the lowest. All planes have the same
    /// length, at most [`PLANE`].
    fn expand<const P: usize>(planes: [&[u8]; P], table: &[u8; 16], e: &mut [u8; SUPERBLOCK]);

    /// The low bits of `bits`, one after the other, where `mask` has ones.
    fn deposit(bits: u64, mask: u64) -> u64;

    /// bfloat16s from sign/mantissa bytes and exponents; `stream` hints that
    /// they will not be read soon.
    fn bf16(signs: &[u8], exponents: &[u8], out: &mut [u16], stream: bool);

    /// Sum of products with `x`.
    fn dot(signs: &[u8], exponents: &[u8], x: &[f32]) -> f32;

    /// Starts loading `bytes`.
    fn prefetch(bytes: &[u8]);
}

/// A weight from its sign/mantissa byte and exponent.
#[inline(always)]
pub(super) fn bf16(sign: u8, exponent: u8) -> u16 {
    u16::from(sign & 0x80) << 8 | u16::from(exponent) << 7 | u16::from(sign & 0x7f)
}

/// The same as an `f32`.
#[inline(always)]
pub(super) fn float(sign: u8, exponent: u8) -> f32 {
    f32::from_bits(u32::from(bf16(sign, exponent)) << 16)
}

/// Room for one superblock.
pub(super) struct Scratch {
    /// Exponents.
    pub(super) e: [u8; SUPERBLOCK],
    /// Weights whose exponent is a byte of the side stream, in its order.
    at: [u16; SUPERBLOCK + RUN],
    /// Bit planes of table indices (TBE2).
    planes: [[u8; PLANE]; 4],
}

/// Positions found per word before looking at how many there are.
const RUN: usize = 4;
/// 64-bit words of a bit plane.
const WORDS: usize = PLANE / 8;

impl Scratch {
    pub(super) fn new() -> Self {
        Self { e: [0; SUPERBLOCK], at: [0; SUPERBLOCK + RUN], planes: [[0; PLANE]; 4] }
    }

    /// Appends the weights that `ones`, word `q` of a plane of `width` bytes,
    /// marks, in the order of the bits; returns how many there are now.
    #[inline(always)]
    fn mark(&mut self, count: usize, mut ones: u64, q: usize, width: usize) -> usize {
        let weight = |bit: u32| ((bit & 7) as usize * width + (bit >> 3) as usize + 8 * q) as u16;
        let found = ones.count_ones() as usize;
        // A branch per escape would be mispredicted; a few spare slots are not.
        if let Some(slots) = self.at.get_mut(count..count + RUN) {
            for slot in slots {
                *slot = weight(ones.trailing_zeros());
                ones &= ones.wrapping_sub(1);
            }
        }
        if found > RUN {
            for slot in self.at.iter_mut().skip(count + RUN).take(found - RUN) {
                *slot = weight(ones.trailing_zeros());
                ones &= ones.wrapping_sub(1);
            }
        }
        count + found
    }

    /// Puts `exponents` where the first of them were marked.
    #[inline(always)]
    fn patch(&mut self, exponents: &[u8]) {
        for (at, exponent) in self.at.iter().zip(exponents) {
            self.e[usize::from(*at) % SUPERBLOCK] = *exponent;
        }
    }
}

/// Word `q` of a plane whose length is a multiple of 4, and which of its bits
/// belong to the plane.
#[inline(always)]
fn word(plane: &[u8], q: usize) -> (u64, u64) {
    match plane.get(8 * q..8 * q + 8).and_then(|b| b.try_into().ok()) {
        Some(b) => (u64::from_le_bytes(b), u64::MAX),
        None => match plane.get(8 * q..8 * q + 4).and_then(|b| b.try_into().ok()) {
            Some(b) => (u32::from_le_bytes(b).into(), u32::MAX.into()),
            None => (0, 0),
        },
    }
}

/// Exponents of TBE3 into `scratch.e`; `None` if the side stream's part is not
/// as long as the planes say.
#[inline(always)]
fn tbe3<L: Lanes>(block: &Superblock<'_>, scratch: &mut Scratch) -> Option<()> {
    let (low, rest) = block.planes.split_at_checked(block.width)?;
    let (mid, high) = rest.split_at_checked(block.width)?;
    let mut table = [0; 16];
    for (code, entry) in (0..8u8).zip(&mut table) {
        *entry = block.base.wrapping_add(code).wrapping_sub(1);
    }
    let mut count = 0;
    for q in 0..block.width.div_ceil(8).min(WORDS) {
        let ((a, valid), (b, _), (c, _)) = (word(low, q), word(mid, q), word(high, q));
        count = scratch.mark(count, !(a | b | c) & valid, q, block.width);
    }
    L::expand([low, mid, high], &table, &mut scratch.e);
    (block.stream.len() == count).then(|| scratch.patch(block.stream))
}

/// 64 bits of `bytes` from bit `at`; `None` near the end.
#[inline(always)]
fn bits(bytes: &[u8], at: usize) -> Option<u64> {
    let window: [u8; 16] = bytes.get(at / 8..at / 8 + 16)?.try_into().ok()?;
    Some((u128::from_le_bytes(window) >> (at % 8)) as u64)
}

/// Exponents of TBE2 into `scratch.e`; `None` as in [`tbe3`].
///
/// Ones of `open` mark the weights without an exponent yet. A level stores the
/// low bits of their codes, then the high ones; code 0 leaves a weight open.
/// The bits of all levels together, and two planes that tell the levels apart,
/// index one table.
#[inline(always)]
fn tbe2<L: Lanes>(block: &Superblock<'_>, palette: [u8; 6], scratch: &mut Scratch) -> Option<()> {
    let (low, high) = block.planes.split_at_checked(block.width)?;
    let words = block.width.div_ceil(8).min(WORDS);
    let (mut index, mut open) = ([[0u64; WORDS]; 4], [0u64; WORDS]);
    let mut first = 0;
    for q in 0..words {
        let ((a, valid), (b, _)) = (word(low, q), word(high, q));
        (index[0][q], index[1][q], open[q]) = (a, b, !(a | b) & valid);
        first += open[q].count_ones() as usize;
    }
    let (mut low_at, mut high_at, mut second) = (0, first, 0);
    for q in 0..words {
        let mask = open[q];
        let a = L::deposit(bits(block.padded_stream, low_at)?, mask);
        let b = L::deposit(bits(block.padded_stream, high_at)?, mask);
        let found = mask.count_ones() as usize;
        (low_at, high_at) = (low_at + found, high_at + found);
        index[0][q] |= a;
        index[1][q] |= b;
        index[2][q] = a | b;
        open[q] = mask & !(a | b);
        index[3][q] = open[q];
        second += open[q].count_ones() as usize;
    }
    (low_at, high_at) = (2 * first, 2 * first + second);
    let mut count = 0;
    for q in 0..words {
        let mask = open[q];
        let a = L::deposit(bits(block.padded_stream, low_at)?, mask);
        let b = L::deposit(bits(block.padded_stream, high_at)?, mask);
        let found = mask.count_ones() as usize;
        (low_at, high_at) = (low_at + found, high_at + found);
        index[0][q] |= a;
        index[1][q] |= b;
        count = scratch.mark(count, mask & !(a | b), q, block.width);
    }
    for (plane, words) in scratch.planes.iter_mut().zip(&index) {
        for (bytes, word) in plane.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
    }
    let [a, b, c, d, e, f] = palette;
    let mut table = [0, 0, 1, 2, 0, a, b, c, 0, d, e, f, 0, 0, 0, 0];
    for entry in &mut table {
        *entry = block.base.wrapping_add(*entry);
    }
    let width = block.width.min(PLANE);
    L::expand(scratch.planes.each_ref().map(|p| &p[..width]), &table, &mut scratch.e);
    let raw = block.stream.get((2 * (first + second)).div_ceil(8)..)?;
    (raw.len() == count).then(|| scratch.patch(raw))
}

/// Exponents of `block` into `scratch.e`.
#[inline(always)]
pub(super) fn exponents<L: Lanes>(
    payload: &Payload<'_>,
    block: &Superblock<'_>,
    scratch: &mut Scratch,
) -> Option<()> {
    if payload.profile == tbe::TBE2 {
        tbe2::<L>(block, payload.palette, scratch)
    } else {
        tbe3::<L>(block, scratch)
    }
}

/// Superblocks ahead of the one being decoded that are prefetched.
const AHEAD: usize = 2;

/// A superblock whose side stream does not fit its planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Corrupt {
    pub(super) row: usize,
    pub(super) superblock: usize,
}

/// Calls `each` with the sign/mantissa bytes and exponents of every superblock
/// of `rows`, in order.
#[inline(always)]
fn for_superblocks<L: Lanes>(
    payload: &Payload<'_>,
    rows: Range<usize>,
    scratch: &mut Scratch,
    mut each: impl FnMut(&[u8], &[u8]),
) -> Result<(), Corrupt> {
    let full = PLANE * (payload.plane_count() + 8);
    for row in rows {
        for superblock in 0..payload.per_row {
            let ahead = row * payload.row_bytes + (superblock + AHEAD) * full;
            L::prefetch(payload.fixed.get(ahead..ahead + full).unwrap_or_default());
            let block = payload.superblock(row, superblock).and_then(|block| {
                exponents::<L>(payload, &block, scratch)?;
                Some((block.signs.get(..block.weights)?, scratch.e.get(..block.weights)?))
            });
            let (signs, exponents) = block.ok_or(Corrupt { row, superblock })?;
            each(signs, exponents);
        }
    }
    Ok(())
}

/// The first `n` of `*rest`, which advances behind them.
#[inline(always)]
fn take<'a, T>(rest: &mut &'a mut [T], n: usize) -> &'a mut [T] {
    rest.split_off_mut(..n).unwrap_or_default()
}

/// Decodes `rows` into `out`.
#[inline(always)]
pub(super) fn rows_to_bf16<L: Lanes>(
    payload: &Payload<'_>,
    rows: Range<usize>,
    mut out: &mut [u16],
    stream: bool,
) -> Result<(), Corrupt> {
    for_superblocks::<L>(payload, rows, &mut Scratch::new(), |signs, exponents| {
        L::bf16(signs, exponents, take(&mut out, signs.len()), stream);
    })
}

/// Decodes `rows` into `out` as `f32`.
#[inline(always)]
pub(super) fn rows_to_f32<L: Lanes>(
    payload: &Payload<'_>,
    rows: Range<usize>,
    mut out: &mut [f32],
) -> Result<(), Corrupt> {
    for_superblocks::<L>(payload, rows, &mut Scratch::new(), |signs, exponents| {
        for ((o, s), e) in take(&mut out, signs.len()).iter_mut().zip(signs).zip(exponents) {
            *o = float(*s, *e);
        }
    })
}

/// `y[i] = dot(row rows.start + i, x)`; NaN for a corrupt row.
#[inline(always)]
pub(super) fn rows_dot<L: Lanes>(payload: &Payload<'_>, x: &[f32], rows: Range<usize>, y: &mut [f32]) {
    let mut scratch = Scratch::new();
    for (row, y) in rows.zip(y) {
        let (mut sum, mut rest) = (0.0, x);
        let done = for_superblocks::<L>(payload, row..row + 1, &mut scratch, |signs, exponents| {
            sum += L::dot(signs, exponents, rest.split_off(..signs.len()).unwrap_or_default());
        });
        *y = if done.is_ok() { sum } else { f32::NAN };
    }
}

/// Plain code; the reference.
pub(super) struct Plain;

impl Lanes for Plain {
    #[inline(always)]
    fn expand<const P: usize>(planes: [&[u8]; P], table: &[u8; 16], e: &mut [u8; SUPERBLOCK]) {
        let width = planes.iter().map(|p| p.len()).min().unwrap_or(0);
        for (bit, e) in e.chunks_mut(width.max(1)).take(8).enumerate() {
            for (i, e) in e.iter_mut().enumerate().take(width) {
                let mut entry = 0;
                for (k, plane) in planes.iter().enumerate() {
                    entry |= usize::from(plane[i] >> bit & 1) << k;
                }
                *e = table[entry & 15];
            }
        }
    }

    #[inline(always)]
    fn deposit(mut bits: u64, mut mask: u64) -> u64 {
        let mut out = 0;
        while mask != 0 {
            let lowest = mask & mask.wrapping_neg();
            out |= lowest & (bits & 1).wrapping_neg();
            bits >>= 1;
            mask ^= lowest;
        }
        out
    }

    #[inline(always)]
    fn bf16(signs: &[u8], exponents: &[u8], out: &mut [u16], _: bool) {
        for ((o, s), e) in out.iter_mut().zip(signs).zip(exponents) {
            *o = bf16(*s, *e);
        }
    }

    #[inline(always)]
    fn dot(signs: &[u8], exponents: &[u8], x: &[f32]) -> f32 {
        const LANES: usize = 32;
        let ((s, s_rest), (e, e_rest)) = (signs.as_chunks::<LANES>(), exponents.as_chunks::<LANES>());
        let (x, x_rest) = x.as_chunks::<LANES>();
        let mut sum = [0.0f32; LANES];
        for ((s, e), x) in s.iter().zip(e).zip(x) {
            for l in 0..LANES {
                sum[l] += float(s[l], e[l]) * x[l];
            }
        }
        let tail: f32 = s_rest.iter().zip(e_rest).zip(x_rest).map(|((s, e), x)| float(*s, *e) * x).sum();
        sum.iter().sum::<f32>() + tail
    }

    #[inline(always)]
    fn prefetch(_: &[u8]) {}
}
