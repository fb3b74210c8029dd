//! What the encoder knows beforehand of each block mode it uses: endpoint
//! values in order, and the partitionings worth trying.

use super::block::{Levels, endpoint_range, endpoint_value, texel};
use super::{SIDE, TEXELS, partition};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

/// A number of levels and partitions, and the endpoint values they leave room for.
pub(super) struct Mode {
    pub(super) levels: usize,
    pub(super) partitions: usize,
    /// Interpolation weights, ascending from 0 to 1.
    pub(super) steps: [f32; 6],
    /// Endpoint values, ascending.
    pub(super) values: Vec<u8>,
    /// The same as floats.
    pub(super) reals: Vec<f32>,
    /// Code of each value.
    pub(super) codes: Vec<u8>,
    /// Texels of each pair of values at each level, halved to 15 bits: pair
    /// (i, j) is entry `i * values.len() + j`.
    pub(super) texels: Vec<[u16; 6]>,
    /// Index of the value nearest to each byte.
    nearest: [u8; 256],
    /// Index of the largest value but the last not above each byte.
    below: [u8; 256],
    /// The partitionings; empty for one partition.
    pub(super) partitionings: &'static Partitionings,
}

impl Mode {
    fn new(levels: usize, partitions: usize) -> Self {
        let format = Levels::of(levels);
        let mut pairs: Vec<(u8, u8)> = endpoint_range(format, partitions).map_or_else(Vec::new, |range| {
            (0..range.len()).map(|c| (endpoint_value(range, c as u8), c as u8)).collect()
        });
        pairs.sort_unstable();
        let values: Vec<u8> = pairs.iter().map(|p| p.0).collect();
        let nearest = std::array::from_fn(|byte| {
            let distance = |v: u8| usize::from(v).abs_diff(byte);
            (0..values.len()).min_by_key(|i| distance(values[*i])).unwrap_or(0) as u8
        });
        let last = values.len().saturating_sub(2);
        let below = std::array::from_fn(|byte| {
            values.partition_point(|v| usize::from(*v) <= byte).saturating_sub(1).min(last) as u8
        });
        // One partition is fitted, not surveyed, and its table would be large.
        let surveyed = if partitions > 1 { values.as_slice() } else { &[] };
        let texels = surveyed.iter().flat_map(|low| {
            surveyed.iter().map(|high| {
                let mut texels = [0; 6];
                for (t, step) in texels.iter_mut().zip(format.steps) {
                    *t = (texel(*low, *high, *step) / 2).min(32_767) as u16;
                }
                texels
            })
        });
        let texels = texels.collect();
        let mut steps = [1.0; 6];
        for (step, weight) in steps.iter_mut().zip(format.steps) {
            *step = *weight as f32 / 64.0;
        }
        let codes = pairs.iter().map(|p| p.1).collect();
        let partitionings = Partitionings::of(partitions);
        let reals = values.iter().map(|v| f32::from(*v)).collect();
        Self { levels, partitions, steps, values, reals, codes, texels, nearest, below, partitionings }
    }

    /// Index of the value nearest to `x` (any number; NaN counts as 0).
    #[inline(always)]
    pub(super) fn index(&self, x: f32) -> usize {
        usize::from(self.nearest[usize::from((x + 0.5) as u8)])
    }

    /// Index of the largest value but the last not above `x`; 0 if there is none.
    #[inline(always)]
    pub(super) fn below(&self, x: f32) -> usize {
        usize::from(self.below[usize::from(x as u8)])
    }
}

/// Modes in the order the encoder tries them, which is that of what they gain
/// on weights; those with three levels or fewer gain nothing measurable.
pub(super) fn modes() -> &'static [Mode] {
    static MODES: OnceLock<Vec<Mode>> = OnceLock::new();
    const TRIED: [(usize, usize); 5] = [(6, 1), (5, 2), (4, 4), (4, 3), (4, 2)];
    MODES.get_or_init(|| TRIED.iter().map(|&(levels, partitions)| Mode::new(levels, partitions)).collect())
}

/// Which texels of each row of a block belong to a subset: bit x of mask y.
pub(super) type Masks = [u8; SIDE];

/// The distinct partitionings into a number of subsets, each of two texels or
/// more, taken apart so that sums over subsets share their work.
///
/// Texel 0's subset is the rest of the others ("explicit" subsets), which are
/// listed once each, ordered by their upper three rows.
#[derive(Default)]
pub(super) struct Partitionings {
    /// Distinct upper halves of explicit subsets.
    pub(super) uppers: Vec<[u8; 3]>,
    /// Distinct lower halves.
    pub(super) lowers: Vec<[u8; 3]>,
    /// Explicit subsets: indices of upper and lower half, ascending.
    pub(super) subsets: Vec<(u16, u16)>,
    /// Each partitioning's explicit subsets, one fewer than partitions; for two
    /// partitions subset `i` is partitioning `i`.
    pub(super) members: Vec<[u16; 3]>,
    /// Seed of each partitioning.
    pub(super) seeds: Vec<u16>,
    /// Texels of each partitioning, ordered by the partitions of its map, and
    /// where each partition ends.
    texels: Vec<([u8; TEXELS], [u8; 4])>,
}

impl Partitionings {
    fn of(partitions: usize) -> &'static Self {
        static ALL: OnceLock<[Partitionings; 5]> = OnceLock::new();
        let all = ALL.get_or_init(|| std::array::from_fn(Self::new));
        all.get(partitions).unwrap_or(&all[0])
    }

    fn new(partitions: usize) -> Self {
        if partitions < 2 {
            return Self::default();
        }
        // Subsets by their explicit masks; the lowest seed of each.
        let mut found: BTreeMap<Vec<Masks>, u16> = BTreeMap::new();
        for seed in 0..partition::SEEDS {
            if let Some(subsets) = canonical(partition::map(partitions, seed), partitions) {
                found.entry(subsets).or_insert(seed as u16);
            }
        }
        let halves = |part: fn(&Masks) -> [u8; 3]| -> Vec<[u8; 3]> {
            found.keys().flatten().map(part).collect::<BTreeSet<_>>().into_iter().collect()
        };
        let upper: fn(&Masks) -> [u8; 3] = |m| [m[0], m[1], m[2]];
        let lower: fn(&Masks) -> [u8; 3] = |m| [m[3], m[4], m[5]];
        let (uppers, lowers) = (halves(upper), halves(lower));
        let place = |m: &Masks| {
            let at = |list: &[[u8; 3]], half| list.binary_search(&half).unwrap_or(0) as u16;
            (at(&uppers, upper(m)), at(&lowers, lower(m)))
        };
        let subsets: Vec<_> =
            found.keys().flatten().map(place).collect::<BTreeSet<_>>().into_iter().collect();
        let members = found.keys().map(|explicit| {
            let mut indices = [0; 3];
            for (index, masks) in indices.iter_mut().zip(explicit) {
                *index = subsets.binary_search(&place(masks)).unwrap_or(0) as u16;
            }
            indices
        });
        let mut pairs: Vec<_> = members.zip(found.values().copied()).collect();
        pairs.sort_unstable();
        let (members, seeds): (_, Vec<_>) = pairs.into_iter().unzip();
        let texels = seeds.iter().map(|seed| {
            let map = partition::map(partitions, usize::from(*seed));
            let mut order: [u8; TEXELS] = std::array::from_fn(|i| i as u8);
            order.sort_by_key(|i| map[usize::from(*i)]);
            let end = |p: usize| map.iter().filter(|of| usize::from(**of) <= p).count() as u8;
            (order, std::array::from_fn(end))
        });
        let texels = texels.collect();
        Self { uppers, lowers, subsets, members, seeds, texels }
    }

    /// Texels of each partition of partitioning `index`, in the order of its map.
    pub(super) fn texels(&self, index: usize) -> impl Iterator<Item = &[u8]> {
        self.texels.get(index).into_iter().flat_map(|(order, ends)| {
            let mut start = 0;
            ends.iter().map(move |end| {
                let part = order.get(start..usize::from(*end)).unwrap_or_default();
                start = usize::from(*end);
                part
            })
        })
    }

    /// A texel of explicit subset `index`.
    pub(super) fn first_texel(&self, index: u16) -> usize {
        let masks = self.masks(index);
        let row = masks.iter().position(|m| *m != 0).unwrap_or(0);
        row * SIDE + masks[row].trailing_zeros() as usize % SIDE
    }

    /// Masks of explicit subset `index`.
    pub(super) fn masks(&self, index: u16) -> Masks {
        let (upper, lower) = self.subsets[usize::from(index)];
        let ([a, b, c], [d, e, f]) = (self.uppers[usize::from(upper)], self.lowers[usize::from(lower)]);
        [a, b, c, d, e, f]
    }
}

/// Masks of the subsets other than texel 0's, ascending; `None` if a subset
/// has fewer than two texels.
fn canonical(map: &[u8; TEXELS], partitions: usize) -> Option<Vec<Masks>> {
    let mut masks = vec![[0; SIDE]; partitions];
    for (i, p) in map.iter().enumerate() {
        masks[usize::from(*p)][i / SIDE] |= 1 << (i % SIDE);
    }
    let texels = |m: &Masks| m.iter().map(|row: &u8| row.count_ones()).sum::<u32>();
    if masks.iter().any(|m| texels(m) < 2) {
        return None;
    }
    masks.retain(|m| m[0] & 1 == 0);
    masks.sort_unstable();
    Some(masks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitionings_are_those_of_their_seeds() {
        for (partitions, count) in [(2, 513), (3, 299), (4, 240)] {
            let list = Partitionings::of(partitions);
            assert_eq!((list.seeds.len(), list.members.len()), (count, count));
            for (members, seed) in list.members.iter().zip(&list.seeds) {
                let map = partition::map(partitions, usize::from(*seed));
                for member in &members[..partitions - 1] {
                    let masks = list.masks(*member);
                    let inside = |i: usize| masks[i / SIDE] >> (i % SIDE) & 1 == 1;
                    let first = (0..TEXELS).find(|i| inside(*i)).unwrap();
                    for i in 0..TEXELS {
                        assert_eq!(inside(i), map[i] == map[first], "{partitions} {seed} {i}");
                    }
                }
            }
        }
        let two = Partitionings::of(2);
        assert!(two.members.iter().enumerate().all(|(i, m)| usize::from(m[0]) == i));
    }

    #[test]
    fn modes_are_those_of_the_format() {
        let sizes: Vec<_> = modes().iter().map(|m| (m.levels, m.partitions, m.values.len())).collect();
        let expected = [(6, 1, 256), (5, 2, 12), (4, 4, 10), (4, 3, 20), (4, 2, 96)];
        assert_eq!(sizes, expected);
        let mode = &modes()[1];
        assert_eq!((mode.index(f32::NAN), mode.index(-5.0), mode.index(300.0)), (0, 0, 11));
        assert_eq!((mode.index(11.4), mode.index(12.0), mode.values[1]), (0, 1, 23));
    }
}
