//! The best path through a tile's trellis.
//!
//! A path's cost is the sum of squared distances of targets and table values.
//! Targets and values are 16-bit numbers in 1/256 of a table unit, costs are
//! saturating 16-bit sums of `round(d^2 / 2^15)`: sixteen states a register and
//! the same bytes from every instruction set. At 4 bits a weight a step costs
//! some ten units on average, and exact costs find paths 0.0004 dB better.
//!
//! The search runs from the last weight to the first, because then a step's
//! predecessors lie `2^(L-k)` apart and its successors side by side: with the
//! cost `c(s)` of the best rest of a path that has the window s at weight
//! t + 1, and k the bits between the windows,
//!
//! ```text
//! m_t(j) = min over h < 2^k of c(h 2^(L-k) + j)      j < 2^(L-k)
//! c'(s)  = m_t(s >> k) + d(x_t, v(s))^2
//! ```
//!
//! Only the `m_t` are kept; the way back computes the 2^k candidates of each
//! step again. The stream bites its tail: a short search over the weights
//! around the seam finds the bits that the first and the last window share, a
//! second search over all weights keeps them.

use super::tile::{TILE, Trellis};
use crate::simd;

/// Weights on either side of the seam that decide about it: 0.01 dB less than
/// all of them, at a quarter of the time.
const SEAM: usize = 32;
/// Steps after which the smallest cost is subtracted from all.
const LEVELLING: usize = 4;

/// Targets of a tile in stream order.
pub(super) struct Targets {
    /// In 1/256 of a table unit.
    pub(super) x: [i16; TILE],
    /// Weights that exist (a ragged edge's others cost nothing).
    pub(super) exists: [bool; TILE],
}

/// One worker's search.
pub(super) struct Search {
    trellis: Trellis,
    /// Values in 1/256 of a table unit.
    table: Vec<i16>,
    cost: Vec<u16>,
    /// `m` of each step, a quarter as many as states reserved.
    merged: Vec<u16>,
}

impl Search {
    /// A search through `trellis` with the values of `table`.
    pub(super) fn new(trellis: Trellis, table: &[i8]) -> Self {
        let states = trellis.states();
        Self {
            trellis,
            table: table.iter().map(|v| i16::from(*v) << 8).collect(),
            cost: vec![0; states],
            merged: vec![0; TILE * states / 4],
        }
    }

    /// The windows of a good path for `targets`: successive ones overlap, the
    /// last one with the first.
    #[allow(unsafe_code, reason = "calls the copy compiled for a detected level")]
    pub(super) fn path(&mut self, targets: &Targets, states: &mut [u16; TILE]) {
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2")]
        fn avx2(search: &mut Search, targets: &Targets, states: &mut [u16; TILE]) {
            search.path_with::<super::x86::Avx2>(targets, states);
        }
        match simd::level() {
            // SAFETY: the level is only ever one this CPU supports, and both have AVX2.
            #[cfg(target_arch = "x86_64")]
            simd::Level::Avx2 | simd::Level::Avx512 => unsafe { avx2(self, targets, states) },
            _ => self.path_with::<Portable>(targets, states),
        }
    }

    #[inline(always)]
    fn path_with<S: Steps>(&mut self, targets: &Targets, states: &mut [u16; TILE]) {
        let mut seam = [0; 2 * SEAM];
        self.search::<S>(targets, TILE - SEAM, None, &mut seam);
        let shared = self.trellis.window - self.trellis.shift(TILE - 1);
        let bits = usize::from(seam[SEAM]) & ((1 << shared) - 1);
        self.search::<S>(targets, 0, Some(bits), states);
    }

    /// The best windows of `out.len()` weights from `first` on, cyclically. With
    /// `shared`, the bits shared by the first and last windows of the tile
    /// have that value (should costs saturate, the last windows may differ: the
    /// packed bits then still decode, to something a little worse).
    #[inline(always)]
    fn search<S: Steps>(&mut self, targets: &Targets, first: usize, shared: Option<usize>, out: &mut [u16]) {
        let stride = self.trellis.states() / 4;
        let steps = out.len();
        for i in (0..steps).rev() {
            let t = (first + i) % TILE;
            let k = self.trellis.shift(t);
            let m = &mut self.merged[i * stride..][..self.trellis.states() >> k];
            match shared {
                _ if i + 1 < steps => S::merge(&self.cost, m, i % LEVELLING == 0),
                None => m.fill(0),
                Some(bits) => {
                    m.fill(u16::MAX);
                    if let Some(m) = m.get_mut(bits) {
                        *m = 0;
                    }
                }
            }
            if targets.exists[t] {
                S::branch(&mut self.cost, m, &self.table, targets.x[t], k);
            } else {
                for (s, cost) in self.cost.iter_mut().enumerate() {
                    *cost = m[s >> k];
                }
            }
        }
        self.trace(targets, first, shared, out);
    }

    /// Follows the best path from the first weight on.
    #[inline(always)]
    fn trace(&self, targets: &Targets, first: usize, shared: Option<usize>, out: &mut [u16]) {
        let Trellis { window, .. } = self.trellis;
        let stride = self.trellis.states() / 4;
        let best = |candidates: &mut dyn Iterator<Item = (u16, usize)>| {
            candidates.min_by_key(|(cost, _)| *cost).map_or(0, |(_, s)| s)
        };
        let heads = |k: u32, low: usize| (0..1usize << k).map(move |h| h << (window - k) | low);
        let mut state = match shared {
            None => best(&mut self.cost.iter().copied().zip(0..)),
            Some(bits) => best(&mut heads(self.trellis.shift(TILE - 1), bits).map(|s| (self.cost[s], s))),
        };
        for (i, out) in out.iter_mut().enumerate() {
            if i > 0 {
                let (from, t) = ((first + i - 1) % TILE, (first + i) % TILE);
                let (from, k) = (self.trellis.shift(from), self.trellis.shift(t));
                let m = &self.merged[i * stride..];
                let cost = |s: usize| {
                    let step = if targets.exists[t] { distance(targets.x[t], self.table[s]) } else { 0 };
                    (m[s >> k].saturating_add(step), s)
                };
                state = best(&mut heads(from, state >> from).map(cost));
            }
            *out = state as u16;
        }
    }
}

/// `round(d^2 / 2^15)` for the saturated difference d.
#[inline(always)]
fn distance(x: i16, value: i16) -> u16 {
    let d = i32::from(x.saturating_sub(value));
    ((d * d + 0x4000) >> 15) as u16
}

/// The two halves of a step.
pub(super) trait Steps {
    /// `m[j] = min over h of cost[h m.len() + j]`; with `level`, less the
    /// smallest.
    fn merge(cost: &[u16], m: &mut [u16], level: bool);

    /// `cost[s] = m[s >> k] + distance(x, table[s])`, saturating.
    fn branch(cost: &mut [u16], m: &[u16], table: &[i16], x: i16, k: u32);
}

/// Without intrinsics; the reference.
struct Portable;

impl Steps for Portable {
    #[inline(always)]
    fn merge(cost: &[u16], m: &mut [u16], level: bool) {
        m.fill(u16::MAX);
        for heads in cost.chunks_exact(m.len()) {
            for (m, cost) in m.iter_mut().zip(heads) {
                *m = (*m).min(*cost);
            }
        }
        if level {
            let least = m.iter().fold(u16::MAX, |a, b| a.min(*b));
            for m in m {
                *m -= least;
            }
        }
    }

    #[inline(always)]
    fn branch(cost: &mut [u16], m: &[u16], table: &[i16], x: i16, k: u32) {
        for ((cost, table), m) in cost.chunks_exact_mut(1 << k).zip(table.chunks_exact(1 << k)).zip(m) {
            for (cost, value) in cost.iter_mut().zip(table) {
                *cost = m.saturating_add(distance(x, *value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{table, tile};
    use super::*;
    use crate::codec::testing::gaussian;

    fn targets(seed: u64, spread: f32) -> Targets {
        let mut x = [0; TILE];
        for (x, g) in x.iter_mut().zip(gaussian(TILE, seed)) {
            *x = (g * spread * 256.0 * table::UNIT) as i16;
        }
        let mut exists = [true; TILE];
        exists
            .iter_mut()
            .skip(seed as usize % 5 * 40)
            .step_by(7)
            .take(seed as usize % 3)
            .for_each(|e| *e = false);
        Targets { x, exists }
    }

    #[test]
    fn every_instruction_set_finds_the_same_path() {
        for (window, rate) in [(8, 16), (8, 17), (8, 32), (10, 19), (10, 24), (12, 17), (12, 29)] {
            let trellis = Trellis { rate, window };
            let mut search = Search::new(trellis, table::table(window, table::suited(rate as u8)));
            for seed in 0..6 {
                let targets = targets(seed, [1.0, 3.0][seed as usize % 2]);
                let mut expected = [0; TILE];
                search.path_with::<Portable>(&targets, &mut expected);
                for level in simd::Level::supported() {
                    simd::force(level).unwrap();
                    let mut states = [0; TILE];
                    search.path(&targets, &mut states);
                    assert_eq!(states, expected, "{level} {window} {rate}");
                }
            }
        }
    }

    #[test]
    fn paths_close_on_gaussian_tiles() {
        for rate in 16..=32 {
            let trellis = Trellis { rate, window: 8 };
            let mut search = Search::new(trellis, table::table(8, table::suited(rate as u8)));
            let mut states = [0; TILE];
            search.path(&targets(rate as u64, 1.0), &mut states);
            let mut bytes = vec![0; trellis.bytes()];
            tile::pack(trellis, &states, &mut bytes);
            let stream = tile::Stream::new(&bytes);
            for (t, state) in states.iter().enumerate() {
                assert_eq!(stream.window(trellis.offset(t), 8), usize::from(*state), "{rate} {t}");
            }
        }
    }
}
