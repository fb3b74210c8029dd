//! Which of a block's two to four partitions a texel belongs to (Khronos Data
//! Format 1.3, ASTC §23.21), for 6x6 blocks.

use super::TEXELS;
use std::sync::OnceLock;

/// Values of the partition seed.
pub(super) const SEEDS: usize = 1024;

/// The partition of each texel, by count of partitions and seed.
pub(super) fn map(partitions: usize, seed: usize) -> &'static [u8; TEXELS] {
    static MAPS: OnceLock<Vec<[u8; TEXELS]>> = OnceLock::new();
    const ONE: [u8; TEXELS] = [0; TEXELS];
    let maps = MAPS.get_or_init(|| (2..5).flat_map(|n| (0..SEEDS).map(move |s| texels(n, s))).collect());
    match partitions {
        0 | 1 => &ONE,
        n => maps.get((n - 2) * SEEDS + seed).unwrap_or(&ONE),
    }
}

fn texels(partitions: usize, seed: usize) -> [u8; TEXELS] {
    let select = Selector::new(seed as u32, partitions as u32);
    std::array::from_fn(|i| select.partition(i as u32 % 6, i as u32 / 6))
}

/// The generator of one partitioning: four lines a texel is held against.
struct Selector {
    partitions: u32,
    hash: u32,
    slopes: [u32; 8],
}

impl Selector {
    fn new(seed: u32, partitions: u32) -> Self {
        let seed = seed + (partitions - 1) * 1024;
        let hash = hash52(seed);
        let fine = if seed & 2 == 0 { 5 } else { 4 };
        let coarse = if partitions == 3 { 6 } else { 5 };
        let shifts = if seed & 1 == 0 { [coarse, fine] } else { [fine, coarse] };
        let slopes = std::array::from_fn(|i| {
            let nibble = hash >> (4 * i) & 15;
            (nibble * nibble) >> shifts[i % 2]
        });
        Self { partitions, hash, slopes }
    }

    fn partition(&self, x: u32, y: u32) -> u8 {
        let line = |i: usize| {
            let offset = self.hash >> (14 - 4 * i);
            (self.slopes[2 * i] * x).wrapping_add(self.slopes[2 * i + 1] * y).wrapping_add(offset) & 63
        };
        // The first of the largest wins.
        let (mut best, mut largest) = (0, line(0));
        for i in 1..self.partitions as usize {
            let value = line(i);
            if value > largest {
                (best, largest) = (i as u8, value);
            }
        }
        best
    }
}

fn hash52(seed: u32) -> u32 {
    let mut p = seed;
    p ^= p >> 15;
    p = p.wrapping_sub(p << 17);
    p = p.wrapping_add(p << 7);
    p = p.wrapping_add(p << 4);
    p ^= p >> 5;
    p = p.wrapping_add(p << 16);
    p ^= p >> 7;
    p ^= p >> 3;
    p ^= p << 6;
    p ^ p >> 17
}
