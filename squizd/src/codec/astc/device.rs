//! Tables for kernels that decode blocks on a device (`shaders/astc.wgsl`).

use super::expand::{Mode, group, mode};
use super::ise::{QUINTS, Range, TRITS};
use super::partition;

/// Number of partitions at most, and of values of the three range bits.
const PARTITIONS: usize = 4;
const RANGES: u32 = 8;

/// Words, in this order:
///
/// - 8 of each mode, by range bits and partitions: levels (0 where there is no
///   such mode), kind and size of the endpoints; the levels' steps, a byte each;
///   a mask of the bits that are zero;
/// - for each of them the 8-bit values of 256 endpoint codes;
/// - digits of 256 groups of trits, of 128 groups of quints, four bits each;
/// - levels of 64 groups of six texels of two levels, 256 of five of three, 64 of
///   three of four, 128 of three of five, 8192 of five of six: five bits each;
/// - 4 words for each map, of two to four partitions, by seed: the low bit of the
///   partition of texel (x, y) is bit 5 x + y of the first word, or of row 5 bit
///   5 x of the second; the high bits lie likewise in the others.
pub(crate) fn device_tables() -> Vec<u32> {
    let modes: Vec<Option<Mode>> =
        (0..RANGES).flat_map(|bits| (1..=PARTITIONS).map(move |p| mode(bits, p))).collect();
    let mut words = Vec::new();
    for mode in &modes {
        words.extend(mode.as_ref().map_or([0; 8], about));
    }
    for mode in &modes {
        let values = mode.as_ref().map_or([0; 256], |m| m.values);
        words.extend(values.as_chunks::<4>().0.iter().map(|v| u32::from_le_bytes(*v)));
    }
    words.extend(TRITS.iter().map(|digits| packed(digits, 4)));
    words.extend(QUINTS.iter().map(|digits| packed(&digits[..3], 4)));
    let levels = |groups: &[u64], digits: usize| -> Vec<u32> {
        groups.iter().map(|g| packed(g.to_le_bytes().get(..digits).unwrap_or_default(), 5)).collect()
    };
    words.extend(levels(&group::<64>(2, 6), 6));
    words.extend(levels(&group::<256>(3, 5), 5));
    words.extend(levels(&group::<64>(4, 3), 3));
    words.extend(levels(&group::<128>(5, 3), 3));
    words.extend(levels(&group::<8192>(6, 5), 5));
    for partitions in 2..=PARTITIONS {
        for seed in 0..partition::SEEDS {
            let map = partition::map(partitions, seed);
            for bit in 0..2 {
                let bits = map.map(|p| p >> bit & 1);
                let rows = bits.as_chunks::<6>().0.iter().map(|row| packed(row, 5));
                // Five rows in one word, the last in another.
                let mut halves = [0; 2];
                for (y, row) in rows.enumerate() {
                    halves[y / 5] |= row << (y % 5);
                }
                words.extend(halves);
            }
        }
    }
    words
}

/// The texels of a block, row by row, as hardware returns them; those of a block
/// that is not allowed are 1/2.
#[cfg(all(test, feature = "gpu"))]
pub(crate) fn device_texels(block: &[u8; 16]) -> [f32; super::TEXELS] {
    let mut expanded = super::expand::Expanded::ZERO;
    super::expand::expand(super::expand::Tables::get(), block, &mut expanded);
    // Exact: 11 significant bits.
    std::array::from_fn(|i| 0.5 * (expanded.value(i) + 1.0))
}

fn about(mode: &Mode) -> [u32; 8] {
    let (kind, bits) = match mode.range {
        Range::Bits(bits) => (0, bits),
        Range::Trits(bits) => (1, bits),
        Range::Quints(bits) => (2, bits),
    };
    let size = mode.range.size(2 * mode.partitions as u32);
    let spare = |i: u32| (mode.spare >> (32 * i)) as u32;
    let [a, b, c, d, e, f, ..] = mode.steps;
    [
        1 | (mode.levels as u32 + 2) << 4 | kind << 8 | u32::from(bits) << 12 | size << 16,
        a | b << 8 | c << 16 | d << 24,
        e | f << 8,
        0,
        spare(0),
        spare(1),
        spare(2),
        spare(3),
    ]
}

/// Numbers of `bits` bits, the first lowest.
fn packed(numbers: &[u8], bits: u32) -> u32 {
    numbers.iter().rev().fold(0, |word, n| word << bits | u32::from(*n))
}
