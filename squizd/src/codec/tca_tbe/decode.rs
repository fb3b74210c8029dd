//! From bit planes and side stream to exponents, and on to numbers.
//!
//! The loops are written over a level's [`Lanes`] and inlined into the entry
//! points of [`super::dispatch`], which are compiled for that level.

use super::payload::{PLANE, Payload, SUPERBLOCK, Superblock, nibble_table};
use squizd_spec::tbe;
use std::{cell::Cell, ops::Range};

/// What an instruction set does better than plain code.
pub(super) trait Lanes: Sized {
    /// Exponents of `block`, of a payload with `palette` ([`tbe::TBE2`]) or
    /// without ([`tbe::TBE3`]), into `scratch.e`; returns the length of its
    /// part of the side stream, `None` if the stream ends before it.
    #[inline(always)]
    fn exponents(block: &Superblock<'_>, palette: Option<[u8; 6]>, scratch: &mut Scratch) -> Option<usize> {
        match palette {
            Some(palette) => tbe2::<Self>(block, palette, scratch),
            None => tbe3::<Self>(block, scratch),
        }
    }

    /// Weight j of the superblock is bit j / w of byte j % w in each plane of
    /// w bytes; `e[j]` becomes the entry of `table` whose number the planes'
    /// bits are, the first plane's the lowest. All planes have the same
    /// length, at most [`PLANE`].
    fn expand<const P: usize>(planes: [&[u8]; P], table: &[u8; 16], e: &mut Exponents);

    /// The entries of `table` that the nibbles of `packed` number, the low
    /// nibble of each byte first.
    fn look_up(packed: &[u8; 16], table: &[u8; 16], out: &mut [u8; 32]);

    /// The low bits of `bits`, one after the other, where `mask` has ones.
    fn deposit(bits: u64, mask: u64) -> u64;

    /// bfloat16s from sign/mantissa bytes and exponents; `stream` hints that
    /// they will not be read soon. Starts loading `ahead` meanwhile.
    fn bf16(signs: &[u8], exponents: &[u8], out: &mut [u16], stream: bool, ahead: &[u8]);

    /// Brings a vector into the order that [`Lanes::dot`] reads it in, within
    /// each whole run of [`RUN`].
    fn arrange(x: &mut [f32]);

    /// Sum of products with an arranged part of a vector. Starts loading
    /// `ahead` meanwhile.
    fn dot(signs: &[u8], exponents: &[u8], x: &[f32], ahead: &[u8]) -> f32;
}

/// Weights of a step of [`Lanes::dot`].
pub(super) const RUN: usize = 32;

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

/// Room for one superblock; aligned, as vectors that straddle cache lines cost
/// twice.
#[repr(align(64))]
pub(super) struct Scratch {
    /// Exponents; behind the superblock's, what is written in vain.
    pub(super) e: Exponents,
    /// The weights whose exponent is in the side stream, as a bit plane.
    open: [u8; PLANE],
    /// Their exponents, and what is read in vain.
    pub(super) escapes: Escapes,
    /// Exponents of all that the first level of TBE2 holds, and of the second.
    pub(super) firsts: Escapes,
    pub(super) seconds: Escapes,
    /// Bit planes of table indices (TBE2).
    planes: [[u8; PLANE]; 4],
    /// Places of the last width other than [`PLANE`].
    ragged: (usize, Places),
}

/// Exponents of a superblock, in a power of two for cheap bounds.
pub(super) type Exponents = [u8; 2 * SUPERBLOCK];

/// Exponents, one after the other, of a superblock's weights, and a vector.
pub(super) type Escapes = [u8; SUPERBLOCK + 64];

/// 64-bit words of a bit plane.
pub(super) const WORDS: usize = PLANE / 8;
/// Escapes of TBE3 per word that are placed without looking at how many there are.
const SLOTS: usize = 3;

/// The weight that each bit of a word of a plane belongs to, counted from the
/// word's first byte; for bit 64, that of no weight, one behind them all.
type Places = [u16; 65];

const fn places(width: usize) -> Places {
    let mut places = [SUPERBLOCK as u16; 65];
    let mut bit = 0;
    while bit < 64 {
        places[bit] = (bit % 8 * width + bit / 8) as u16;
        bit += 1;
    }
    places
}

static FULL: Places = places(PLANE);

impl Scratch {
    pub(super) fn new() -> Self {
        Self {
            e: [0; 2 * SUPERBLOCK],
            open: [0; PLANE],
            escapes: [0; SUPERBLOCK + 64],
            firsts: [0; SUPERBLOCK + 64],
            seconds: [0; SUPERBLOCK + 64],
            planes: [[0; PLANE]; 4],
            ragged: (0, FULL),
        }
    }

    /// How many weights `open` marks.
    #[inline(always)]
    fn count(&self) -> usize {
        let words = self.open.as_chunks::<8>().0.iter();
        words.map(|w| u64::from_le_bytes(*w).count_ones() as usize).sum()
    }

    /// Gives the weights that `open` marks the exponents of `escapes`, or of
    /// `self.escapes`: byte after byte of the plane of `width` bytes, in each
    /// from the lowest bit. `SLOTS` more exponents must be readable.
    ///
    /// A branch per escape would often be mispredicted; a few stores in vain
    /// cost less. Where escapes are rare, `SLOTS` is 0.
    #[inline(always)]
    fn patch<const SLOTS: usize>(&mut self, width: usize, escapes: Option<&[u8]>) {
        if width != PLANE && self.ragged.0 != width {
            self.ragged = (width, places(width));
        }
        let places = if width == PLANE { &FULL } else { &self.ragged.1 };
        let escapes = escapes.unwrap_or(&self.escapes);
        let mut next = 0;
        for (q, word) in self.open.as_chunks::<8>().0.iter().enumerate() {
            let mut bits = u64::from_le_bytes(*word);
            let found = bits.count_ones() as usize;
            let mut put = |exponent: u8| {
                let at = usize::from(places[bits.trailing_zeros() as usize]) + 8 * q;
                self.e[at % (2 * SUPERBLOCK)] = exponent;
                bits &= bits.wrapping_sub(1);
            };
            if let Some(slots) = escapes.get(next..next + SLOTS) {
                for exponent in slots {
                    put(*exponent);
                }
            }
            if found > SLOTS {
                let more = escapes.get(next + SLOTS..next + found);
                for exponent in more.unwrap_or_default() {
                    put(*exponent);
                }
            }
            next += found;
        }
    }
}

/// Exponents of TBE3 into `scratch.e`; returns the length of the superblock's
/// part of the side stream, `None` if the stream ends before it.
#[inline(always)]
pub(super) fn tbe3<L: Lanes>(block: &Superblock<'_>, scratch: &mut Scratch) -> Option<usize> {
    let (low, rest) = block.planes.split_at_checked(block.width)?;
    let (mid, high) = rest.split_at_checked(block.width)?;
    let mut table = [0; 16];
    for (code, entry) in (0..8u8).zip(&mut table) {
        *entry = block.base.wrapping_add(code).wrapping_sub(1);
    }
    let (open, unused) = scratch.open.split_at_mut_checked(block.width)?;
    for (((open, a), b), c) in open.iter_mut().zip(low).zip(mid).zip(high) {
        *open = !(a | b | c);
    }
    unused.fill(0);
    L::expand([low, mid, high], &table, &mut scratch.e);
    let count = scratch.count();
    if !block.nibbles {
        block.stream.get(..count)?;
        scratch.patch::<SLOTS>(block.width, Some(block.padded_stream));
        return Some(count);
    }
    let length = count.div_ceil(2);
    block.stream.get(..length)?;
    let table = nibble_table(block.base);
    // Whole steps, which the zeros behind the stream allow.
    let packed = block.padded_stream.get(..count.div_ceil(32) * 16)?.as_chunks::<16>().0;
    for (packed, out) in packed.iter().zip(scratch.escapes.as_chunks_mut::<32>().0) {
        L::look_up(packed, &table, out);
    }
    scratch.patch::<SLOTS>(block.width, None);
    Some(length)
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

/// The longest bits of both levels, and room for whole words.
pub(super) type LevelBits = [u8; SUPERBLOCK / 2 + 16];

/// `count` bits from bit `at`, with others above them.
#[inline(always)]
pub(super) fn bits(bytes: &LevelBits, at: usize, count: usize) -> u64 {
    let word = |i: usize| {
        let window = bytes.get(i..i + 8).and_then(|b| b.try_into().ok());
        window.map_or(0, u64::from_le_bytes)
    };
    let byte = at / 8 % (SUPERBLOCK / 2);
    let low = word(byte) >> (at % 8);
    // One load holds 57 bits from any bit of its first byte; rarely are more wanted.
    if count <= 57 { low } else { low | word(byte + 7) << (56 - at % 8) }
}

/// Exponents of TBE2 into `scratch.e`; returns as [`tbe3`] does.
///
/// Ones of `open` mark the weights without an exponent yet. A level stores the
/// low bits of their codes, then the high ones; code 0 leaves a weight open.
/// The bits of all levels together, and two planes that tell the levels apart,
/// index one table.
#[inline(always)]
fn tbe2<L: Lanes>(block: &Superblock<'_>, palette: [u8; 6], scratch: &mut Scratch) -> Option<usize> {
    let (low, high) = block.planes.split_at_checked(block.width)?;
    let words = block.width.div_ceil(8).min(WORDS);
    // Read in place but at the stream's end: words of a fresh copy would
    // straddle the stores that made it.
    let mut end = [0; SUPERBLOCK / 2 + 16];
    let levels: &LevelBits = if let Some(levels) = block.padded_stream.first_chunk() {
        levels
    } else {
        end.iter_mut().zip(block.padded_stream).for_each(|(to, from)| *to = *from);
        &end
    };
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
        let found = mask.count_ones() as usize;
        let a = L::deposit(bits(levels, low_at, found), mask);
        let b = L::deposit(bits(levels, high_at, found), mask);
        (low_at, high_at) = (low_at + found, high_at + found);
        index[0][q] |= a;
        index[1][q] |= b;
        index[2][q] = a | b;
        open[q] = mask & !(a | b);
        index[3][q] = open[q];
        second += open[q].count_ones() as usize;
    }
    (low_at, high_at) = (2 * first, 2 * first + second);
    for q in 0..words {
        let mask = open[q];
        let found = mask.count_ones() as usize;
        let a = L::deposit(bits(levels, low_at, found), mask);
        let b = L::deposit(bits(levels, high_at, found), mask);
        (low_at, high_at) = (low_at + found, high_at + found);
        index[0][q] |= a;
        index[1][q] |= b;
        open[q] = mask & !(a | b);
    }
    let bytes = |plane: &mut [u8; PLANE], words: &[u64; WORDS]| {
        for (bytes, word) in plane.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
    };
    scratch.planes.iter_mut().zip(&index).for_each(|(plane, words)| bytes(plane, words));
    bytes(&mut scratch.open, &open);
    let [a, b, c, d, e, f] = palette;
    let mut table = [0, 0, 1, 2, 0, a, b, c, 0, d, e, f, 0, 0, 0, 0];
    for entry in &mut table {
        *entry = block.base.wrapping_add(*entry);
    }
    let width = block.width.min(PLANE);
    L::expand(scratch.planes.each_ref().map(|p| &p[..width]), &table, &mut scratch.e);
    let before = (2 * (first + second)).div_ceil(8);
    let length = before + scratch.count();
    block.stream.get(..length)?;
    scratch.patch::<0>(block.width, block.padded_stream.get(before..));
    Some(length)
}

/// Exponents of `block` into `scratch.e`; returns the length of its part of
/// the side stream, `None` if the stream ends before it.
#[inline(always)]
pub(super) fn exponents<L: Lanes>(
    payload: &Payload<'_>,
    block: &Superblock<'_>,
    scratch: &mut Scratch,
) -> Option<usize> {
    L::exponents(block, (payload.profile == tbe::TBE2).then_some(payload.palette), scratch)
}

/// Superblocks ahead of the one being decoded that are prefetched.
const AHEAD: usize = 2;

/// A superblock whose part of the side stream does not lie within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Corrupt {
    pub(super) row: usize,
    pub(super) superblock: usize,
}

/// Calls `each` with the sign/mantissa bytes and exponents of every superblock
/// of `rows`, in order, and with bytes that are worth loading meanwhile.
#[inline(always)]
fn for_superblocks<L: Lanes>(
    payload: &Payload<'_>,
    rows: Range<usize>,
    scratch: &mut Scratch,
    mut each: impl FnMut(&[u8], &[u8], &[u8]),
) -> Result<(), Corrupt> {
    let full = PLANE * (payload.plane_count() + 8);
    for row in rows {
        for superblock in 0..payload.per_row {
            let ahead = row * payload.row_bytes + (superblock + AHEAD) * full;
            let ahead = payload.fixed.get(ahead..ahead + full).unwrap_or_default();
            let block = payload.superblock(row, superblock).and_then(|block| {
                exponents::<L>(payload, &block, scratch)?;
                Some((block.signs.get(..block.weights)?, scratch.e.get(..block.weights)?))
            });
            let (signs, exponents) = block.ok_or(Corrupt { row, superblock })?;
            each(signs, exponents, ahead);
        }
    }
    Ok(())
}

/// Decodes `rows` into `out`.
#[inline(always)]
pub(super) fn rows_to_bf16<L: Lanes>(
    payload: &Payload<'_>,
    rows: Range<usize>,
    out: &mut [u16],
    stream: bool,
) -> Result<(), Corrupt> {
    let mut at = 0;
    for_superblocks::<L>(payload, rows, &mut Scratch::new(), |signs, exponents, ahead| {
        let end = at + signs.len();
        L::bf16(signs, exponents, out.get_mut(at..end).unwrap_or_default(), stream, ahead);
        at = end;
    })
}

/// Decodes `rows` into `out` as `f32`.
#[inline(always)]
pub(super) fn rows_to_f32<L: Lanes>(
    payload: &Payload<'_>,
    rows: Range<usize>,
    out: &mut [f32],
) -> Result<(), Corrupt> {
    let mut at = 0;
    for_superblocks::<L>(payload, rows, &mut Scratch::new(), |signs, exponents, _| {
        let end = at + signs.len();
        let out = out.get_mut(at..end).unwrap_or_default();
        for ((o, s), e) in out.iter_mut().zip(signs).zip(exponents) {
            *o = float(*s, *e);
        }
        at = end;
    })
}

/// `y[i] = dot(row rows.start + i, x)`; NaN for a corrupt row.
#[inline(always)]
pub(super) fn rows_dot<L: Lanes>(payload: &Payload<'_>, x: &[f32], rows: Range<usize>, y: &mut [f32]) {
    let (mut scratch, mut arranged) = (Scratch::new(), ARRANGED.take());
    arranged.clear();
    arranged.extend_from_slice(x);
    L::arrange(&mut arranged);
    for (row, y) in rows.zip(y) {
        let (mut sum, mut rest) = (0.0, &arranged[..]);
        let done = for_superblocks::<L>(payload, row..row + 1, &mut scratch, |signs, exponents, ahead| {
            sum += L::dot(signs, exponents, rest.split_off(..signs.len()).unwrap_or_default(), ahead);
        });
        *y = if done.is_ok() { sum } else { f32::NAN };
    }
    ARRANGED.set(arranged);
}

thread_local! {
    /// Memory for an input in the order that a thread's products want.
    static ARRANGED: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Plain code; the reference.
pub(super) struct Plain;

impl Lanes for Plain {
    #[inline(always)]
    fn expand<const P: usize>(planes: [&[u8]; P], table: &[u8; 16], e: &mut Exponents) {
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
    fn look_up(packed: &[u8; 16], table: &[u8; 16], out: &mut [u8; 32]) {
        for (byte, out) in packed.iter().zip(out.as_chunks_mut::<2>().0) {
            *out = [table[usize::from(byte & 15)], table[usize::from(byte >> 4)]];
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
    fn bf16(signs: &[u8], exponents: &[u8], out: &mut [u16], _: bool, _: &[u8]) {
        for ((o, s), e) in out.iter_mut().zip(signs).zip(exponents) {
            *o = bf16(*s, *e);
        }
    }

    #[inline(always)]
    fn arrange(_: &mut [f32]) {}

    #[inline(always)]
    fn dot(signs: &[u8], exponents: &[u8], x: &[f32], _: &[u8]) -> f32 {
        let ((s, s_rest), (e, e_rest)) = (signs.as_chunks::<RUN>(), exponents.as_chunks::<RUN>());
        let (x, x_rest) = x.as_chunks::<RUN>();
        let mut sum = [0.0f32; RUN];
        for ((s, e), x) in s.iter().zip(e).zip(x) {
            for l in 0..RUN {
                sum[l] += float(s[l], e[l]) * x[l];
            }
        }
        let tail: f32 = s_rest.iter().zip(e_rest).zip(x_rest).map(|((s, e), x)| float(*s, *e) * x).sum();
        sum.iter().sum::<f32>() + tail
    }
}
