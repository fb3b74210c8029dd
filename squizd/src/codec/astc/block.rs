//! One block: 16 bytes to texels and back, for the blocks that `.squizd` allows
//! (Khronos Data Format 1.3, ASTC §23.8 to §23.23).
//!
//! Allowed are 6x6 weight grids in one plane, one to four partitions that all
//! have luminance endpoints (mode 0), and grey constant blocks: what LDR and
//! HDR profiles decode alike.

use super::ise::Range;
use super::{TEXELS, partition};

/// A texel in units of 1/65536: 0 to 65536.
pub(super) type Texel = u32;
/// The texel that stands for the weight 0.
pub(super) const GREY: Texel = 1 << 15;

/// Interpolation levels and how their numbers are packed.
#[derive(Debug)]
pub(super) struct Levels {
    /// Range of the packed numbers.
    pub(super) range: Range,
    /// The three range bits of the block mode.
    pub(super) mode: u32,
    /// Interpolation weights in 64ths, ascending.
    pub(super) steps: &'static [u32],
    /// Packed number of each level.
    codes: [u8; 6],
    /// Level of each packed number.
    pub(super) by_code: [u8; 6],
}

/// The level counts that a 6x6 grid can have (eight would need 108 of at most
/// 96 bits).
static LEVELS: [Levels; 5] = [
    in_order(Range::Bits(1), 2, &[0, 64]),
    in_order(Range::Trits(0), 3, &[0, 32, 64]),
    in_order(Range::Bits(2), 4, &[0, 21, 43, 64]),
    in_order(Range::Quints(0), 5, &[0, 16, 32, 48, 64]),
    Levels {
        range: Range::Trits(1),
        mode: 6,
        steps: &[0, 12, 25, 39, 52, 64],
        codes: [0, 2, 4, 5, 3, 1],
        by_code: [0, 5, 1, 4, 2, 3],
    },
];

/// Levels packed in ascending order.
const fn in_order(range: Range, mode: u32, steps: &'static [u32]) -> Levels {
    const ORDER: [u8; 6] = [0, 1, 2, 3, 4, 5];
    Levels { range, mode, steps, codes: ORDER, by_code: ORDER }
}

impl Levels {
    fn count(&self) -> usize {
        self.steps.len()
    }

    /// The levels of this many steps (2 to 6).
    pub(super) fn of(count: usize) -> &'static Self {
        LEVELS.get(count.wrapping_sub(2)).unwrap_or(&LEVELS[0])
    }

    /// Bits of a block's 36 levels.
    pub(super) fn size(&self) -> u32 {
        self.range.size(TEXELS as u32)
    }
}

/// The widest range of endpoint values for `partitions` at `levels`, the one
/// that the format implies; `None` where too few bits remain.
pub(super) fn endpoint_range(levels: &Levels, partitions: usize) -> Option<Range> {
    /// Ranges of endpoint values, the widest first, down to six values.
    const RANGES: [Range; 17] = [
        Range::Bits(8),
        Range::Trits(6),
        Range::Quints(5),
        Range::Bits(7),
        Range::Trits(5),
        Range::Quints(4),
        Range::Bits(6),
        Range::Trits(4),
        Range::Quints(3),
        Range::Bits(5),
        Range::Trits(3),
        Range::Quints(2),
        Range::Bits(4),
        Range::Trits(2),
        Range::Quints(1),
        Range::Bits(3),
        Range::Trits(1),
    ];
    let left = (128 - head_bits(partitions)).checked_sub(levels.size())?;
    RANGES.into_iter().find(|r| r.size(2 * partitions as u32) <= left)
}

/// Bits before the endpoints: mode, partition count, then seed and endpoint mode.
pub(super) fn head_bits(partitions: usize) -> u32 {
    if partitions == 1 { 17 } else { 29 }
}

/// The 8-bit value of endpoint code `code` (§23.13).
pub(super) fn endpoint_value(range: Range, code: u8) -> u8 {
    let bits = range.bits();
    let low = u32::from(code) & ((1 << bits) - 1);
    let high = u32::from(code) >> bits;
    let bit = |i: u32| low >> i & 1;
    // b..f are the bits of the code above its lowest, a.
    let place = |pattern: &[(u32, u32)]| pattern.iter().fold(0, |b, &(at, i)| b | bit(i) << at);
    let (c, b) = match range {
        Range::Bits(_) => {
            let mut value = u32::from(code) << (8 - bits);
            let mut filled = bits;
            while filled < 8 {
                value |= value >> filled;
                filled *= 2;
            }
            return value as u8;
        }
        Range::Trits(1) => (204, 0),
        Range::Trits(2) => (93, place(&[(8, 1), (4, 1), (2, 1), (1, 1)])),
        Range::Trits(3) => (44, place(&[(8, 2), (7, 1), (3, 2), (2, 1), (1, 2), (0, 1)])),
        Range::Trits(4) => (22, place(&[(8, 3), (7, 2), (6, 1), (2, 3), (1, 2), (0, 1)])),
        Range::Trits(5) => (11, place(&[(8, 4), (7, 3), (6, 2), (5, 1), (1, 4), (0, 3)])),
        Range::Trits(_) => (5, place(&[(8, 5), (7, 4), (6, 3), (5, 2), (4, 1), (0, 5)])),
        Range::Quints(1) => (113, 0),
        Range::Quints(2) => (54, place(&[(8, 1), (3, 1), (2, 1)])),
        Range::Quints(3) => (26, place(&[(8, 2), (7, 1), (2, 2), (1, 1), (0, 2)])),
        Range::Quints(4) => (13, place(&[(8, 3), (7, 2), (6, 1), (1, 3), (0, 2)])),
        Range::Quints(_) => (6, place(&[(8, 4), (7, 3), (6, 2), (5, 1), (0, 4)])),
    };
    let a = if bit(0) == 0 { 0 } else { 0x1ff };
    let t = (high * c + b) ^ a;
    (a & 0x80 | t >> 2) as u8
}

/// The texel between endpoints `low` and `high` (8 bits each) at `step` 64ths:
/// interpolated in 16 bits, over 65536, rounded to f16 toward zero; 65535 is 1.
#[inline(always)]
pub(super) fn texel(low: u8, high: u8, step: u32) -> Texel {
    let wide = |e: u8| u32::from(e) * 257;
    from_unorm16((wide(low) * (64 - step) + wide(high) * step + 32) >> 6)
}

/// The texel of a 16-bit value (see [`texel`]).
#[inline(always)]
pub(super) fn from_unorm16(c: u32) -> Texel {
    // f16 keeps 11 significant bits.
    let dropped = (21 - (c | 1).leading_zeros() as i32).max(0) as u32;
    if c == 0xffff { 1 << 16 } else { c >> dropped << dropped }
}

/// Why a block is none of those allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Finding code.
    pub(super) code: &'static str,
    /// What was found and what is allowed.
    pub(super) message: &'static str,
}

const fn fault(message: &'static str) -> Fault {
    Fault { code: "astc-block", message }
}

/// A block taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// All texels alike: a 16-bit value.
    Constant(u16),
    /// Texels between the endpoints of their partition.
    Levels(Symbols),
}

/// Contents of a block of levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Symbols {
    /// Steps between endpoints, 2 to 6.
    pub(super) levels: usize,
    /// Partitions, 1 to 4.
    pub(super) partitions: usize,
    /// Partition seed; 0 for one partition.
    pub(super) seed: u16,
    /// Codes of each partition's two endpoints, in [`endpoint_range`].
    pub(super) endpoints: [u8; 8],
    /// Level of each texel, ascending from the first endpoint to the second.
    pub(super) texels: [u8; TEXELS],
}

/// Mode bits of a 6x6 grid in one plane, without its three range bits, and
/// where all its bits lie.
pub(super) const MODE: u32 = 0b001_0000_0000;
pub(super) const MODE_MASK: u32 = 0b111_1110_0011;
/// Mode bits of constant blocks: LDR, reserved bits set.
const CONSTANT: u32 = 0b1101_1111_1100;

impl Block {
    /// Takes a stored block apart.
    pub(super) fn unpack(stored: &[u8; 16]) -> Result<Self, Fault> {
        let word = u128::from_le_bytes(*stored);
        let field = |at: u32, bits: u32| (word >> at) as u32 & ((1 << bits) - 1);
        let mode = field(0, 11);
        if mode & 0x1ff == CONSTANT & 0x1ff {
            return constant(word);
        }
        let range = mode >> 4 & 1 | (mode >> 2 & 3) << 1;
        let levels = LEVELS.iter().find(|l| mode & MODE_MASK == MODE && l.mode == range);
        let levels = levels.ok_or(fault("block mode is not a 6x6 grid of 2 to 6 levels in one plane"))?;
        let partitions = field(11, 2) as usize + 1;
        let (seed, endpoint_mode) =
            if partitions == 1 { (0, field(13, 4)) } else { (field(13, 10), field(23, 6)) };
        if endpoint_mode != 0 {
            return Err(fault("endpoint mode is not 0 (luminance) for all partitions"));
        }
        let range = endpoint_range(levels, partitions)
            .ok_or(fault("levels and partitions leave too few bits for endpoints"))?;
        let (start, size) = (head_bits(partitions), range.size(2 * partitions as u32));
        let mut symbols = Symbols {
            levels: levels.count(),
            partitions,
            seed: seed as u16,
            endpoints: [0; 8],
            texels: [0; TEXELS],
        };
        range.unpack(word >> start, symbols.endpoints.get_mut(..2 * partitions).unwrap_or_default());
        levels.range.unpack(word.reverse_bits(), &mut symbols.texels);
        let spare = 128 - levels.size() - start - size;
        if word >> (start + size) & ((1 << spare) - 1) != 0 {
            return Err(Fault {
                code: "astc-spare-bits",
                message: "bits between endpoints and levels are not 0",
            });
        }
        for texel in &mut symbols.texels {
            *texel = levels.by_code.get(usize::from(*texel)).copied().unwrap_or(0);
        }
        Ok(Self::Levels(symbols))
    }

    /// The stored form.
    pub(super) fn pack(&self) -> [u8; 16] {
        match self {
            Self::Constant(value) => {
                let extent = u128::from(u64::MAX >> 12) << 12;
                let grey = (u128::from(*value) * 0x0001_0001_0001) | (0xffff << 48);
                (u128::from(CONSTANT) | extent | grey << 64).to_le_bytes()
            }
            Self::Levels(symbols) => symbols.pack().to_le_bytes(),
        }
    }

    /// The texels, row-major.
    pub(super) fn texels(&self) -> [Texel; TEXELS] {
        match self {
            Self::Constant(value) => [from_unorm16(u32::from(*value)); TEXELS],
            Self::Levels(symbols) => {
                let palette = symbols.palette();
                let map = partition::map(symbols.partitions, usize::from(symbols.seed));
                std::array::from_fn(|i| palette[usize::from(map[i] & 3)][usize::from(symbols.texels[i] & 7)])
            }
        }
    }
}

/// A constant block (void extent) of one grey.
fn constant(word: u128) -> Result<Block, Fault> {
    let violation = |message| Err(Fault { code: "astc-constant", message });
    if word as u32 & 0xfff != CONSTANT {
        return violation("constant block is HDR or has reserved bits, allowed is LDR");
    }
    if word as u64 >> 12 != u64::MAX >> 12 {
        return violation("constant block has an extent, allowed are all ones");
    }
    let [r, g, b, a] = [64, 80, 96, 112].map(|at| (word >> at) as u16);
    if [g, b, a] != [r, r, 0xffff] {
        return violation("constant block is not an opaque grey");
    }
    Ok(Block::Constant(r))
}

impl Symbols {
    /// The texel of each level, by partition.
    pub(super) fn palette(&self) -> [[Texel; 8]; 4] {
        let mut palette = [[0; 8]; 4];
        let levels = Levels::of(self.levels);
        let Some(range) = endpoint_range(levels, self.partitions) else { return palette };
        for (palette, ends) in palette.iter_mut().zip(self.endpoints.as_chunks::<2>().0).take(self.partitions)
        {
            let [low, high] = ends.map(|code| endpoint_value(range, code));
            for (texel_, step) in palette.iter_mut().zip(levels.steps) {
                *texel_ = texel(low, high, *step);
            }
        }
        palette
    }

    fn pack(&self) -> u128 {
        let levels = Levels::of(self.levels);
        let codes = self.texels.map(|t| levels.codes.get(usize::from(t)).copied().unwrap_or(0));
        let mode = MODE | (levels.mode & 1) << 4 | (levels.mode >> 1) << 2;
        let head = mode | (self.partitions as u32 - 1) << 11 | u32::from(self.seed) << 13;
        let endpoints = endpoint_range(levels, self.partitions)
            .map_or(0, |r| r.pack(self.endpoints.get(..2 * self.partitions).unwrap_or_default()));
        u128::from(head) | endpoints << head_bits(self.partitions) | levels.range.pack(&codes).reverse_bits()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fifteen_modes_with_these_endpoint_counts() {
        let counts = |partitions: usize| -> Vec<Option<usize>> {
            LEVELS.iter().map(|l| endpoint_range(l, partitions).map(Range::len)).collect()
        };
        assert_eq!(counts(1), [256; 5].map(Some));
        assert_eq!(counts(2), [Some(256), Some(256), Some(96), Some(12), None]);
        assert_eq!(counts(3), [Some(256), Some(96), Some(20), None, None]);
        assert_eq!(counts(4), [Some(192), Some(32), Some(10), None, None]);
    }

    #[test]
    fn endpoint_values_span_eight_bits_evenly() {
        for levels in &LEVELS {
            for range in (1..5).filter_map(|p| endpoint_range(levels, p)) {
                let mut values: Vec<_> = (0..range.len()).map(|c| endpoint_value(range, c as u8)).collect();
                values.sort_unstable();
                let step = 255.0 / (range.len() - 1) as f32;
                for (i, v) in values.iter().enumerate() {
                    assert!((f32::from(*v) - i as f32 * step).abs() <= 1.0, "{range:?} {i} {v}");
                }
            }
        }
    }

    #[test]
    fn texels_round_to_f16_toward_zero() {
        for c in 0..0xffff {
            let exact = half::f16::from_f32(c as f32 / 65536.0);
            let down =
                if exact.to_f32() > c as f32 / 65536.0 { exact.to_bits() - 1 } else { exact.to_bits() };
            let down = half::f16::from_bits(down).to_f32();
            assert_eq!((from_unorm16(c) as f32 / 65536.0).to_bits(), down.to_bits(), "{c}");
        }
        assert_eq!(from_unorm16(0xffff), 1 << 16);
    }

    pub(in crate::codec::astc) fn symbols() -> impl Strategy<Value = Symbols> {
        let modes: Vec<(usize, usize)> = (2..7)
            .flat_map(|l| (1..5).map(move |p| (l, p)))
            .filter(|&(l, p)| endpoint_range(Levels::of(l), p).is_some())
            .collect();
        (prop::sample::select(modes), 0u16..1024, any::<[u8; 8]>(), any::<[u8; 32]>(), any::<[u8; 4]>())
            .prop_map(|((levels, partitions), seed, mut endpoints, a, b)| {
                let range = endpoint_range(Levels::of(levels), partitions).unwrap();
                for (i, e) in endpoints.iter_mut().enumerate() {
                    *e = if i < 2 * partitions { (usize::from(*e) % range.len()) as u8 } else { 0 };
                }
                let mut texels = [0; TEXELS];
                for (t, r) in texels.iter_mut().zip(a.into_iter().chain(b)) {
                    *t = r % levels as u8;
                }
                let seed = if partitions == 1 { 0 } else { seed };
                Symbols { levels, partitions, seed, endpoints, texels }
            })
    }

    proptest! {
        #[test]
        fn blocks_round_trip(symbols in symbols(), grey: u16) {
            for block in [Block::Levels(symbols.clone()), Block::Constant(grey)] {
                prop_assert_eq!(Block::unpack(&block.pack()), Ok(block));
            }
        }

        #[test]
        fn any_bytes_are_a_block_or_a_fault(bytes: [u8; 16], mode in prop::sample::select(vec![0x1fcu16, 0x10c, 0x118, 0x11c])) {
            let mut stored = bytes;
            stored[0] = mode as u8;
            stored[1] = stored[1] & 0xfe | 1;
            for bytes in [bytes, stored] {
                if let Ok(block) = Block::unpack(&bytes) {
                    prop_assert!(block.texels().iter().all(|t| *t <= 1 << 16));
                }
            }
        }
    }
}
