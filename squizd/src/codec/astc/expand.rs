//! Blocks to indices and palettes, fast: what products and decoding read.
//!
//! The result of [`Block::unpack`], which stays the reference and says why a
//! block is not allowed. Levels lie in the block from its top downwards in groups
//! of a few digits: tables give all digits of a group at once, for its bits in
//! the order in which they are stored. Endpoint values and partitions come from
//! tables as well.

use super::block::{Block, Levels, endpoint_range, endpoint_value, head_bits};
use super::ise::{QUINT_PARTS, QUINTS, Range, TRIT_PARTS, TRITS};
use super::strip::value;
use super::{TEXELS, partition};
use std::sync::OnceLock;

/// Texels of a block, padded to whole registers of 16.
pub(super) const PADDED: usize = 48;

/// A block's texels: their levels and partitions, which index its palette of
/// values in `[-1, 1]`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Expanded {
    /// Eight entries for each partition.
    pub(super) palette: [[f32; 8]; 4],
    pub(super) levels: [u8; PADDED],
    /// Eight times the partition of each texel.
    pub(super) map: &'static [u8; PADDED],
}

static ONE_PARTITION: [u8; PADDED] = [0; PADDED];

impl Expanded {
    /// All zeros: what a block that is not allowed decodes to.
    pub(super) const ZERO: Self = Self { palette: [[0.0; 8]; 4], levels: [0; PADDED], map: &ONE_PARTITION };

    /// The value of texel `i`.
    #[inline(always)]
    pub(super) fn value(&self, i: usize) -> f32 {
        let index = usize::from((self.levels[i] | self.map[i]) & 31);
        self.palette[index / 8][index % 8]
    }
}

/// How blocks of some number of levels and partitions are laid out.
#[derive(Debug)]
pub(super) struct Mode {
    /// Levels less 2.
    pub(super) levels: usize,
    /// Steps of the levels in 64ths.
    pub(super) steps: [u32; 8],
    pub(super) partitions: usize,
    pub(super) range: Range,
    /// 8-bit values of endpoint codes.
    pub(super) values: [u8; 256],
    /// Where endpoints begin, and the bits between them and the levels.
    start: u32,
    pub(super) spare: u128,
}

/// Everything looked up.
pub(super) struct Tables {
    /// By the three range bits of the mode and the partitions less 1.
    modes: [[Option<Mode>; 4]; 8],
    /// Digits of a group's stored bits, a byte each, by levels less 2.
    two: Box<[u64; 256]>,
    three: Box<[u64; 256]>,
    four: Box<[u64; 256]>,
    five: Box<[u64; 128]>,
    six: Box<[u64; 8192]>,
    /// Eight times the partition of each texel, by partitions less 2 and seed.
    maps: Vec<[u8; PADDED]>,
}

impl Tables {
    /// The one instance.
    pub(super) fn get() -> &'static Self {
        static TABLES: OnceLock<Tables> = OnceLock::new();
        TABLES.get_or_init(|| Self {
            modes: std::array::from_fn(|bits| std::array::from_fn(|p| mode(bits as u32, p + 1))),
            two: Box::new(group(2, 8)),
            three: Box::new(group(3, 5)),
            four: Box::new(group(4, 4)),
            five: Box::new(group(5, 3)),
            six: Box::new(group(6, 5)),
            maps: (2..5).flat_map(|n| (0..partition::SEEDS).map(move |seed| map(n, seed))).collect(),
        })
    }
}

/// The mode of three range bits and so many partitions, if there is one.
pub(super) fn mode(bits: u32, partitions: usize) -> Option<Mode> {
    let count = (2..7).find(|n| Levels::of(*n).mode == bits)?;
    let levels = Levels::of(count);
    let range = endpoint_range(levels, partitions)?;
    let start = head_bits(partitions);
    let end = start + range.size(2 * partitions as u32);
    let spare = (u128::MAX << end) & (u128::MAX >> levels.size());
    let mut steps = [0; 8];
    for (step, s) in steps.iter_mut().zip(levels.steps) {
        *step = *s;
    }
    let values =
        std::array::from_fn(|code| if code < range.len() { endpoint_value(range, code as u8) } else { 0 });
    Some(Mode { levels: count - 2, steps, partitions, range, values, start, spare })
}

/// The levels of `digits` numbers for each value of their bits, highest first.
pub(super) fn group<const ENTRIES: usize>(levels: usize, digits: usize) -> [u64; ENTRIES] {
    let levels = Levels::of(levels);
    std::array::from_fn(|stored| {
        let bits = (stored as u32).reverse_bits() >> (u32::BITS - ENTRIES.ilog2());
        let mut numbers = [0; 8];
        levels.range.unpack(u128::from(bits), numbers.get_mut(..digits).unwrap_or_default());
        u64::from_le_bytes(numbers.map(|n| levels.by_code.get(usize::from(n)).copied().unwrap_or(0)))
    })
}

fn map(partitions: usize, seed: usize) -> [u8; PADDED] {
    let mut out = [0; PADDED];
    for (out, p) in out.iter_mut().zip(partition::map(partitions, seed)) {
        *out = 8 * (p & 3);
    }
    out
}

/// The levels of all texels: groups of `N` digits in the `K` bits that
/// `ENTRIES` is a power of, the last one in `LAST` bits.
#[inline(always)]
fn digits<const N: usize, const LAST: u32, const ENTRIES: usize>(
    word: u128,
    table: &[u64; ENTRIES],
    out: &mut [u8; PADDED],
) {
    let bits = ENTRIES.ilog2();
    let groups = TEXELS.div_ceil(N);
    for g in 0..groups {
        let mut stored = (word >> (128 - bits * (g as u32 + 1))) as usize & (ENTRIES - 1);
        if g + 1 == groups {
            stored &= usize::MAX << (bits - LAST);
        }
        out[N * g..N * g + 8].copy_from_slice(&table[stored].to_le_bytes());
    }
}

/// `count` endpoint codes from the low bits of `word`, which are the only ones.
#[inline(always)]
fn codes(range: Range, word: u64, count: usize) -> [u8; 10] {
    // The ranges that the modes come to, with constant shifts.
    match range {
        Range::Trits(2) => shared::<5, 2>(word, count, TRIT_PARTS, &TRITS),
        Range::Trits(5) => shared::<5, 5>(word, count, TRIT_PARTS, &TRITS),
        Range::Trits(6) => shared::<5, 6>(word, count, TRIT_PARTS, &TRITS),
        Range::Quints(1) => shared::<3, 1>(word, count, QUINT_PARTS, &QUINTS),
        Range::Quints(2) => shared::<3, 2>(word, count, QUINT_PARTS, &QUINTS),
        Range::Bits(8) => {
            let mut out = [0; 10];
            out[..8].copy_from_slice(&word.to_le_bytes());
            out
        }
        range => {
            let mut out = [0; 10];
            range.unpack(u128::from(word), out.get_mut(..count).unwrap_or_default());
            out
        }
    }
}

/// The same where `N` numbers share packed high digits above `BITS` own bits.
#[inline(always)]
fn shared<const N: usize, const BITS: u32>(
    mut word: u64,
    count: usize,
    parts: [u32; N],
    table: &[[u8; 5]],
) -> [u8; 10] {
    let mut out = [0; 10];
    for out in out.chunks_exact_mut(N).take(count.div_ceil(N)) {
        let (mut packed, mut shift) = (0, 0);
        for i in 0..N {
            out[i] = (word & ((1 << BITS) - 1)) as u8;
            word >>= BITS;
            packed |= (word as usize & ((1 << parts[i]) - 1)) << shift;
            word >>= parts[i];
            shift += parts[i];
        }
        for (out, high) in out.iter_mut().zip(table.get(packed).copied().unwrap_or_default()) {
            *out |= high << BITS;
        }
    }
    out
}

/// Takes `stored` apart.
#[inline(always)]
pub(super) fn expand(tables: &'static Tables, stored: &[u8; 16], out: &mut Expanded) {
    let word = u128::from_le_bytes(*stored);
    let head = word as u32;
    let range = head >> 4 & 1 | (head >> 2 & 3) << 1;
    let partitions = (head >> 11 & 3) as usize + 1;
    // Six bits of endpoint mode, or four after 13 bits for one partition.
    let endpoint_mode = if partitions == 1 { head >> 13 & 15 } else { head >> 23 & 63 };
    let mode = match &tables.modes[range as usize & 7][partitions - 1] {
        Some(mode)
            if head & super::block::MODE_MASK == super::block::MODE
                && endpoint_mode == 0
                && word & mode.spare == 0 =>
        {
            mode
        }
        _ => return rare(stored, out),
    };
    match mode.levels {
        0 => digits::<8, 4, 256>(word, &tables.two, &mut out.levels),
        1 => digits::<5, 2, 256>(word, &tables.three, &mut out.levels),
        2 => digits::<4, 8, 256>(word, &tables.four, &mut out.levels),
        3 => digits::<3, 7, 128>(word, &tables.five, &mut out.levels),
        _ => digits::<5, 3, 8192>(word, &tables.six, &mut out.levels),
    }
    let seed = (head >> 13) as usize & (partition::SEEDS - 1);
    out.map = match mode.partitions {
        1 => &ONE_PARTITION,
        n => tables.maps.get((n - 2) * partition::SEEDS + seed).unwrap_or(&ONE_PARTITION),
    };
    let size = mode.range.size(2 * mode.partitions as u32);
    let ends = (word >> mode.start) as u64 & (u64::MAX >> (64 - size));
    let codes = codes(mode.range, ends, 2 * mode.partitions);
    for (palette, codes) in out.palette.iter_mut().zip(codes.as_chunks::<2>().0).take(mode.partitions) {
        let [low, high] = codes.map(|c| 257 * u32::from(mode.values[usize::from(c)]));
        for (value, step) in palette.iter_mut().zip(mode.steps) {
            let c = (low * (64 - step) + high * step + 32) >> 6;
            // Rounded to f16, 11 significant bits, toward zero; 65535 is 1.
            let down = f32::from_bits((c as f32).to_bits() & 0xffff_e000);
            let texel = if c == 0xffff { 65536.0 } else { down };
            *value = texel * (1.0 / 32768.0) - 1.0;
        }
    }
}

/// Blocks that are constant or not allowed.
#[cold]
fn rare(stored: &[u8; 16], out: &mut Expanded) {
    *out = Expanded::ZERO;
    if let Ok(block) = Block::unpack(stored) {
        out.palette[0][0] = value(block.texels()[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::block::tests::symbols;
    use super::*;
    use proptest::prelude::*;

    fn values(stored: &[u8; 16]) -> Vec<u32> {
        // Whatever was there before.
        let mut out = Expanded { palette: [[7.0; 8]; 4], levels: [255; PADDED], map: &ONE_PARTITION };
        expand(Tables::get(), stored, &mut out);
        (0..TEXELS).map(|i| out.value(i).to_bits()).collect()
    }

    fn reference(stored: &[u8; 16]) -> Vec<u32> {
        let texels = Block::unpack(stored).map_or([0.0; TEXELS], |b| b.texels().map(value));
        texels.iter().map(|v| v.to_bits()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]

        #[test]
        fn blocks_expand_to_their_texels(symbols in symbols(), grey: u16) {
            for block in [Block::Levels(symbols.clone()), Block::Constant(grey)] {
                let stored = block.pack();
                prop_assert_eq!(values(&stored), reference(&stored));
            }
        }

        #[test]
        fn any_bytes_expand_as_they_unpack(
            bytes: [u8; 16],
            mode in prop::sample::select(vec![0x108u16, 0x118, 0x10c, 0x11c, 0x11e, 0x1fc]),
            partitions in 0u16..4,
        ) {
            let mut stored = bytes;
            let head = mode | partitions << 11;
            stored[..2].copy_from_slice(&head.to_le_bytes());
            prop_assert_eq!(values(&stored), reference(&stored));
            prop_assert_eq!(values(&bytes), reference(&bytes));
        }
    }
}
