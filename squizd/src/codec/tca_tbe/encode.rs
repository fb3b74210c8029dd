//! From bfloat16s to bit planes and side stream.

use super::payload::{NIBBLES, PLANE, SUPERBLOCK, nibble_table};
use crate::simd::multiversion;
use squizd_spec::tbe;

/// How superblocks are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Coding {
    /// [`tbe::TBE3`] or [`tbe::TBE2`].
    pub(super) profile: u8,
    /// Exponent offsets of the second and third level (TBE2).
    pub(super) palette: [u8; 6],
}

impl Coding {
    /// Exponents that the planes can tell apart: all codes but 0.
    fn window(self) -> u8 {
        if self.profile == tbe::TBE2 { 3 } else { 7 }
    }

    /// Bytes of a superblock's planes and sign/mantissa bytes.
    pub(super) fn bytes(self, weights: usize) -> usize {
        weights.div_ceil(32) * (4 * usize::from(self.profile) + 32)
    }
}

/// Exponents and sign/mantissa bytes of a superblock.
struct Split {
    exponents: [u8; SUPERBLOCK],
    /// How often each exponent occurs, counted four ways to break dependencies.
    counts: [[u16; 256]; 4],
}

impl Split {
    /// Splits `words`; the sign/mantissa bytes go to `signs`.
    fn of(words: &[u16], signs: &mut [u8]) -> Self {
        let mut split = Self { exponents: [0; SUPERBLOCK], counts: [[0; 256]; 4] };
        part(words, &mut split.exponents, signs);
        for exponents in split.exponents[..words.len().min(SUPERBLOCK)].chunks(4) {
            for (counts, e) in split.counts.iter_mut().zip(exponents) {
                counts[usize::from(*e)] += 1;
            }
        }
        split
    }

    /// How often exponent `e` occurs.
    fn count(&self, e: usize) -> u32 {
        self.counts.iter().map(|c| c.get(e).map_or(0, |n| u32::from(*n))).sum()
    }

    /// The lowest of the bases whose `width` exponents are the most frequent.
    fn base(&self, width: u8) -> u8 {
        let width = usize::from(width);
        let mut sum: u32 = (0..width).map(|e| self.count(e)).sum();
        let mut best = (sum, 0);
        for base in 1..=256 - width {
            sum = sum + self.count(base + width - 1) - self.count(base - 1);
            if sum > best.0 {
                best = (sum, base);
            }
        }
        best.1 as u8
    }
}

multiversion! {
    /// Exponents and sign/mantissa bytes of `words`.
    fn part(words: &[u16], exponents: &mut [u8], signs: &mut [u8]) = part_lanes;
}

#[inline(always)]
fn part_lanes(words: &[u16], exponents: &mut [u8], signs: &mut [u8]) {
    for ((w, e), s) in words.iter().zip(exponents).zip(signs) {
        *e = (w >> 7) as u8;
        *s = (w >> 8) as u8 & 0x80 | *w as u8 & 0x7f;
    }
}

/// Codes of a superblock, one byte each, and its bit planes.
struct Planes {
    codes: [u8; SUPERBLOCK],
    bits: [[u8; PLANE]; 3],
}

multiversion! {
    /// Codes of `exponents` (0 outside the window, 1 past `weights`) and their
    /// planes of `width` bytes.
    fn transpose(exponents: &[u8; SUPERBLOCK], weights: usize, base: u8, window: u8, width: usize, out: &mut Planes)
        = transpose_lanes;
}

#[inline(always)]
fn transpose_lanes(
    exponents: &[u8; SUPERBLOCK],
    weights: usize,
    base: u8,
    window: u8,
    width: usize,
    out: &mut Planes,
) {
    for (code, e) in out.codes.iter_mut().zip(exponents) {
        let d = e.wrapping_sub(base);
        *code = if d < window { d + 1 } else { 0 };
    }
    for code in out.codes.iter_mut().skip(weights) {
        *code = 1;
    }
    let [low, mid, high] = &mut out.bits;
    (*low, *mid, *high) = ([0; PLANE], [0; PLANE], [0; PLANE]);
    for (bit, codes) in out.codes.chunks_exact(width.max(4)).take(8).enumerate() {
        for (((c, low), mid), high) in codes.iter().zip(&mut *low).zip(&mut *mid).zip(&mut *high) {
            *low |= (c & 1) << bit;
            *mid |= (c >> 1 & 1) << bit;
            *high |= (c >> 2 & 1) << bit;
        }
    }
}

/// Appends bits to a stream, the lowest of each byte first.
struct BitWriter<'a> {
    stream: &'a mut Vec<u8>,
    pending: u8,
    count: u32,
}

impl<'a> BitWriter<'a> {
    fn new(stream: &'a mut Vec<u8>) -> Self {
        Self { stream, pending: 0, count: 0 }
    }

    fn push(&mut self, bit: u8) {
        self.pending |= (bit & 1) << self.count;
        self.count += 1;
        if self.count == 8 {
            self.stream.push(self.pending);
            (self.pending, self.count) = (0, 0);
        }
    }

    /// The low bits of all codes, then the high ones.
    fn level(&mut self, codes: &[u8]) {
        for shift in 0..2 {
            for code in codes {
                self.push(code >> shift);
            }
        }
    }

    fn finish(self) {
        if self.count > 0 {
            self.stream.push(self.pending);
        }
    }
}

/// Encodes superblocks one after the other.
pub(super) struct Encoder {
    coding: Coding,
    planes: Planes,
    /// Exponents outside the window, in plane order.
    escaped: Vec<u8>,
    /// TBE2: their second-level codes, and the third-level codes of those with
    /// 0. TBE3: their nibbles.
    levels: [Vec<u8>; 2],
}

impl Encoder {
    pub(super) fn new(coding: Coding) -> Self {
        Self {
            coding,
            planes: Planes { codes: [0; SUPERBLOCK], bits: [[0; PLANE]; 3] },
            escaped: Vec::with_capacity(SUPERBLOCK),
            levels: [Vec::new(), Vec::new()],
        }
    }

    /// Encodes `words`, at most [`SUPERBLOCK`], into `fixed` (of
    /// [`Coding::bytes`], zero) and the end of `stream`; returns the base and
    /// the flags of the index entry.
    pub(super) fn push(&mut self, words: &[u16], fixed: &mut [u8], stream: &mut Vec<u8>) -> (u8, u16) {
        let width = words.len().div_ceil(32) * 4;
        let count = usize::from(self.coding.profile);
        let (planes, signs) = fixed.split_at_mut((count * width).min(fixed.len()));
        let split = Split::of(words, signs);
        let window = self.coding.window();
        let base = split.base(window);
        transpose(&split.exponents, words.len(), base, window, width, &mut self.planes);
        for (plane, bits) in planes.chunks_exact_mut(width.max(1)).zip(&self.planes.bits) {
            plane.copy_from_slice(bits.get(..width).unwrap_or_default());
        }
        self.escapes(&split.exponents, width);
        if self.coding.profile == tbe::TBE2 {
            self.push_levels(base, stream);
            (base, 0)
        } else if self.push_nibbles(base, stream) {
            (base, NIBBLES)
        } else {
            stream.extend_from_slice(&self.escaped);
            (base, 0)
        }
    }

    /// Appends the escapes as nibbles, if there are any and nibbles hold them all.
    fn push_nibbles(&mut self, base: u8, stream: &mut Vec<u8>) -> bool {
        let table = nibble_table(base);
        let codes = &mut self.levels[0];
        codes.clear();
        let nibbles = self.escaped.iter().map_while(|e| table.iter().position(|t| t == e));
        codes.extend(nibbles.map(|n| n as u8));
        let all = !codes.is_empty() && codes.len() == self.escaped.len();
        if all {
            stream.extend(codes.chunks(2).map(|n| n.iter().rev().fold(0, |acc, n| acc << 4 | n)));
        }
        all
    }

    /// Collects the exponents whose code is 0: byte after byte of the planes,
    /// in each from the lowest bit.
    fn escapes(&mut self, exponents: &[u8; SUPERBLOCK], width: usize) {
        self.escaped.clear();
        let [low, mid, high] = &self.planes.bits;
        for (i, ((a, b), c)) in low.iter().zip(mid).zip(high).enumerate().take(width) {
            let mut open = !(a | b | c);
            while open != 0 {
                let at = open.trailing_zeros() as usize * width + i;
                self.escaped.push(exponents.get(at).copied().unwrap_or(0));
                open &= open - 1;
            }
        }
    }

    /// Appends the levels of TBE2 and the exponents that no level holds.
    fn push_levels(&mut self, base: u8, stream: &mut Vec<u8>) {
        let code = |palette: &[u8], e: u8| {
            palette.iter().position(|p| base.wrapping_add(*p) == e).map_or(0, |i| i as u8 + 1)
        };
        let (second, third) = self.coding.palette.split_at(3);
        let [codes2, codes3] = &mut self.levels;
        codes2.clear();
        codes3.clear();
        codes2.extend(self.escaped.iter().map(|e| code(second, *e)));
        let open = self.escaped.iter().zip(&*codes2).filter(|(_, c)| **c == 0).map(|(e, _)| *e);
        codes3.extend(open.clone().map(|e| code(third, e)));
        let mut bits = BitWriter::new(stream);
        bits.level(codes2);
        bits.level(codes3);
        bits.finish();
        stream.extend(open.zip(&*codes3).filter(|(_, c)| **c == 0).map(|(e, _)| e));
    }
}

/// The palette of TBE2 for `rows`, each a row of weights: the most frequent
/// exponents outside the window, as offsets from the base of their superblock.
/// Among equals the nearer to the window comes first.
pub(super) fn palette<'a>(rows: impl Iterator<Item = &'a [u16]>) -> [u8; 6] {
    let window = Coding { profile: tbe::TBE2, palette: [0; 6] }.window();
    let mut counts = [0u64; 256];
    let mut signs = [0; SUPERBLOCK];
    for words in rows.flat_map(|row| row.chunks(SUPERBLOCK)) {
        let split = Split::of(words, &mut signs);
        let base = split.base(window);
        for e in 0..=255u8 {
            counts[usize::from(e.wrapping_sub(base))] += u64::from(split.count(e.into()));
        }
    }
    let mut offsets: Vec<u8> = (window..=255).collect();
    let distance = |d: u8| (d - window).min(255 - d);
    offsets.sort_by_key(|d| (std::cmp::Reverse(counts[usize::from(*d)]), distance(*d), *d));
    let mut palette = [0; 6];
    palette.copy_from_slice(&offsets[..6]);
    palette
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_is_the_lowest_of_the_fullest_windows() {
        let words: Vec<u16> = [9, 10, 10, 15, 16, 200].map(|e: u16| e << 7).to_vec();
        let split = Split::of(&words, &mut [0; 8]);
        assert_eq!(split.base(7), 9);
        assert_eq!(split.base(3), 8);
        let top = Split::of(&[0x7f80; 5], &mut [0; 5]);
        assert_eq!((top.base(7), top.base(3)), (249, 253));
        assert_eq!(Split::of(&[0; 5], &mut [0; 5]).base(7), 0);
    }

    #[test]
    fn the_palette_holds_the_most_frequent_offsets_outside_the_window() {
        let exponents = [[100u16; 50], [101; 50], [102; 50]].concat();
        let extra = [(99, 9), (103, 8), (98, 7), (104, 6), (97, 5), (105, 4), (50, 3)];
        let words: Vec<u16> = exponents
            .into_iter()
            .chain(extra.into_iter().flat_map(|(e, n)| std::iter::repeat_n(e, n)))
            .map(|e| e << 7)
            .collect();
        assert_eq!(palette(std::iter::once(&words[..])), [255, 3, 254, 4, 253, 5]);
        assert_eq!(palette(std::iter::empty()), [3, 255, 4, 254, 5, 253]);
    }

    #[test]
    fn bits_fill_bytes_from_the_lowest() {
        let mut stream = vec![7];
        let mut bits = BitWriter::new(&mut stream);
        bits.level(&[1, 2, 3, 0, 1]);
        bits.finish();
        // Low bits 1 0 1 0 1, high bits 0 1 1 0 0.
        assert_eq!(stream, [7, 0b1101_0101, 0]);
    }
}
