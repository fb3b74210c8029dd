//! Exhaustive search over partitionings and pairs of endpoints, in 16-bit
//! integers.
//!
//! For a set of pairs of endpoints (32 or 64 lanes) the cost of each texel
//! under each pair, its squared distance to the nearest level, is computed once.
//! Costs add up over texels, so a table per row of the block gives the cost of
//! any subset of that row, and the cost of any subset of the block, for all
//! pairs at once, is a sum of six entries (of two, with the tables of three
//! rows shared by several subsets). A partitioning costs the sum over its
//! subsets of the cheapest pair.

use super::alphabet::{Mode, Partitionings};
use super::words::{U16x16, WORDS, Words};
use super::{SIDE, TEXELS};
use crate::simd;

/// Lanes at most.
const MAX_PAIRS: usize = 64;
/// Steps of the grid of endpoints at most: 55 pairs, neighbours left out.
const MAX_STEPS: usize = 11;
/// Cost that stands for the error to beat; all 36 texels at [`CAP`] stay below
/// 2^16.
const TARGET: f32 = 6000.0;
/// Largest 256-fold square root of a texel's cost: 36 squares fit 16 bits.
const CAP: u16 = 10_861;
/// Candidates kept at most.
pub(super) const MAX_KEPT: usize = 8;

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    /// Values in 1/32768 of the texels' range.
    values: [u16; TEXELS],
    /// Factors that take distances (shifted by `shift`) to 256-fold square
    /// roots of costs, in 1/65536.
    gains: [u16; TEXELS],
    shift: u32,
    /// Pairs tried at most, 32 or 64.
    pairs: usize,
    /// Candidates kept.
    keep: usize,
}

impl Request {
    /// A search among `values` (0 to 255 is the range) with weights at most 1,
    /// for errors below `bound`; `None` where nothing is left to gain.
    pub(super) fn new(
        values: &[f32; TEXELS],
        weights: &[f32; TEXELS],
        bound: f32,
        pairs: usize,
        keep: usize,
    ) -> Option<Self> {
        // 256 square roots of cost per 1/32768.
        let gain = 256.0 * (TARGET / bound).sqrt() / 128.5;
        if !(gain.is_finite() && gain < 1024.0) {
            return None;
        }
        // Distances times 2^shift saturate where costs reach the cap.
        let shift = (0..10).find(|s| gain < (1 << s) as f32).unwrap_or(10);
        let factor = gain * (65_536 >> shift) as f32;
        Some(Self {
            values: values.map(|v| (v * 128.5).clamp(0.0, 32_767.0) as u16),
            gains: weights.map(|w| (factor * w.sqrt()).min(65_535.0) as u16),
            shift,
            pairs,
            keep: keep.min(MAX_KEPT),
        })
    }
}

/// A partitioning with the pair of endpoints found for each subset (the explicit
/// ones, then the rest), as indices of the mode's values.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Candidate {
    pub(super) partitioning: usize,
    pub(super) pairs: [(u8, u8); 4],
}

/// The best candidates of a search.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Candidates {
    list: [Candidate; MAX_KEPT],
    count: usize,
    /// Whether all endpoints in question were tried (neighbours as pairs apart),
    /// so that there is nothing to refine.
    pub(super) complete: bool,
}

impl Candidates {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.list.iter().take(self.count)
    }
}

/// Costs of a subset of texels under each pair, in memory.
type Stored<const V: usize> = [U16x16; V];

/// The same to compute with.
#[derive(Clone, Copy)]
struct Costs<W, const V: usize>([W; V]);

impl<W: Words, const V: usize> Costs<W, V> {
    #[inline(always)]
    fn load(stored: &Stored<V>) -> Self {
        // Loops, for closures are not compiled for the instruction set.
        let mut out = [W::splat(0); V];
        for v in 0..V {
            out[v] = W::load(&stored[v]);
        }
        Self(out)
    }

    #[inline(always)]
    fn store(self) -> Stored<V> {
        let mut out = [U16x16::ZERO; V];
        for v in 0..V {
            out[v] = self.0[v].store();
        }
        out
    }

    #[inline(always)]
    fn plus(mut self, stored: &Stored<V>) -> Self {
        for v in 0..V {
            self.0[v] = self.0[v].plus(W::load(&stored[v]));
        }
        self
    }

    #[inline(always)]
    fn minus(mut self, stored: &Stored<V>) -> Self {
        for v in 0..V {
            self.0[v] = self.0[v].minus(W::load(&stored[v]));
        }
        self
    }

    #[inline(always)]
    fn least(self) -> u16 {
        let mut least = self.0[0];
        for v in 1..V {
            least = least.min(self.0[v]);
        }
        least.least()
    }

    /// The first of the cheapest pairs.
    #[inline(always)]
    fn cheapest(self) -> usize {
        let least = self.least();
        self.store().iter().flat_map(|v| v.0).position(|c| c == least).unwrap_or(0)
    }
}

/// Tables of one search.
struct Tables<const V: usize> {
    /// By row of the block and mask of its texels.
    rows: [[Stored<V>; 1 << SIDE]; SIDE],
    /// By lower half.
    lowers: Vec<Stored<V>>,
    /// By explicit subset.
    subsets: Vec<Stored<V>>,
    least: Vec<u16>,
}

impl<const V: usize> Default for Tables<V> {
    fn default() -> Self {
        let rows = [[[U16x16::ZERO; V]; 1 << SIDE]; SIDE];
        Self { rows, lowers: Vec::new(), subsets: Vec::new(), least: Vec::new() }
    }
}

/// One worker's tables, for half and all of the lanes.
#[derive(Default)]
pub(super) struct Workspace {
    half: Box<Tables<2>>,
    all: Box<Tables<4>>,
}

/// The candidates of `mode` with the smallest costs, the smallest first.
#[allow(unsafe_code, reason = "calls the copy compiled for a detected level")]
pub(super) fn survey(workspace: &mut Workspace, mode: &Mode, request: &Request) -> Candidates {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn avx2(workspace: &mut Workspace, mode: &Mode, request: &Request) -> Candidates {
        survey_words::<super::words::Avx>(workspace, mode, request)
    }
    match simd::level() {
        // SAFETY: the level is only ever one this CPU supports.
        #[cfg(target_arch = "x86_64")]
        simd::Level::Avx2 | simd::Level::Avx512 => unsafe { avx2(workspace, mode, request) },
        _ => survey_words::<U16x16>(workspace, mode, request),
    }
}

#[inline(always)]
fn survey_words<W: Words>(workspace: &mut Workspace, mode: &Mode, request: &Request) -> Candidates {
    let mut pairs = [(0, 0); MAX_PAIRS];
    let (count, complete) = choose_pairs(mode, request, &mut pairs);
    let found = match count {
        0..=32 => search::<W, 2>(&mut workspace.half, mode, request, &pairs),
        _ => search::<W, 4>(&mut workspace.all, mode, request, &pairs),
    };
    Candidates { complete, ..found }
}

/// Pairs of endpoints from a grid over the values' range and one step beyond;
/// returns their number, repeats the last in the lanes left, and says whether
/// the grid has every value there.
///
/// Where only half the lanes are to be used, the pairs are those around the
/// mean: endpoints of a subset that lies on one side of it are rarely best.
fn choose_pairs(mode: &Mode, request: &Request, pairs: &mut [(u8, u8); MAX_PAIRS]) -> (usize, bool) {
    let (mut low, mut high, mut sum, mut weight) = (u16::MAX, 0, 0u64, 0u64);
    for (v, g) in request.values.iter().zip(&request.gains) {
        if *g > 0 {
            (low, high) = (low.min(*v), high.max(*v));
            sum += u64::from(*v) * u64::from(*g);
            weight += u64::from(*g);
        }
    }
    let top = mode.values.len() - 1;
    let first = mode.index(f32::from(low) / 128.5).saturating_sub(1).min(top - 1);
    let last = (mode.index(f32::from(high) / 128.5) + 1).clamp(first + 1, top);
    let span = last - first;
    let steps = span.min(MAX_STEPS);
    let mut grid = [0; MAX_STEPS + 1];
    for (i, value) in grid.iter_mut().enumerate().take(steps + 1) {
        *value = (first + (i * span + steps / 2) / steps) as u8;
    }
    let grid = &grid[..=steps];
    let mut count = 0;
    if request.pairs > MAX_PAIRS / 2 {
        // Neighbours make pairs where there is room for them: of 12 values 55
        // pairs are none, of 10 values all 45 fit.
        let gap = if steps > 9 { 2 } else { 1 };
        for (i, low) in grid.iter().enumerate() {
            for (pair, high) in pairs[count..].iter_mut().zip(&grid[(i + gap).min(steps + 1)..]) {
                *pair = (*low, *high);
                count += 1;
            }
        }
    } else {
        let mean = (sum / weight.max(1)) as f32 / 128.5;
        let split = grid.partition_point(|v| mode.reals[usize::from(*v)] <= mean).clamp(1, steps);
        let (lows, highs) = grid.split_at(split);
        // At most 36; then the narrowest three and the widest are left out.
        let crowded = lows.len() * highs.len() > MAX_PAIRS / 2;
        for (i, low) in lows.iter().enumerate() {
            for (j, high) in highs.iter().enumerate() {
                let width = split - i + j;
                if !crowded || (3..steps).contains(&width) {
                    pairs[count] = (*low, *high);
                    count += 1;
                }
            }
        }
    }
    let repeated = pairs[count.saturating_sub(1)];
    pairs[count..].fill(repeated);
    (count, steps == span)
}

#[inline(always)]
fn search<W: Words, const V: usize>(
    tables: &mut Tables<V>,
    mode: &Mode,
    request: &Request,
    pairs: &[(u8, u8); MAX_PAIRS],
) -> Candidates {
    match mode.levels {
        4 => tabulate::<W, V, 4>(tables, mode, request, pairs),
        _ => tabulate::<W, V, 5>(tables, mode, request, pairs),
    }
    let list = mode.partitionings;
    let all = whole::<W, V>(&tables.rows);
    sum_subsets::<W, V>(tables, list);
    let mut best = Best { costs: [u32::MAX; MAX_KEPT], indices: [0; MAX_KEPT], keep: request.keep };
    match mode.partitions {
        2 => compare::<W, V, 1>(tables, list, all, &mut best),
        3 => compare::<W, V, 2>(tables, list, all, &mut best),
        _ => compare::<W, V, 3>(tables, list, all, &mut best),
    }
    let mut found = Candidates::default();
    for (candidate, &index) in found.list.iter_mut().zip(best.found()) {
        candidate.partitioning = index;
        let (mut rest, explicit) = (all, mode.partitions - 1);
        for (pair, member) in candidate.pairs.iter_mut().zip(&list.members[index]).take(explicit) {
            let costs = &tables.subsets[usize::from(*member)];
            *pair = pairs[Costs::<W, V>::load(costs).cheapest()];
            rest = rest.minus(costs);
        }
        candidate.pairs[explicit] = pairs[rest.cheapest()];
        found.count += 1;
    }
    found
}

/// Fills the tables of rows and lower halves.
#[inline(always)]
fn tabulate<W: Words, const V: usize, const L: usize>(
    tables: &mut Tables<V>,
    mode: &Mode,
    request: &Request,
    pairs: &[(u8, u8); MAX_PAIRS],
) {
    let mut levels = [[U16x16::ZERO; V]; L];
    for (n, &(low, high)) in pairs[..V * WORDS].iter().enumerate() {
        let texels = &mode.texels[usize::from(low) * mode.values.len() + usize::from(high)];
        for (level, texel) in levels.iter_mut().zip(texels) {
            level[n / WORDS].0[n % WORDS] = *texel;
        }
    }
    let most = W::splat(u16::MAX >> request.shift);
    let cap = W::splat(CAP);
    let texels = request.values.iter().zip(&request.gains);
    for (i, (&value, &gain)) in texels.enumerate() {
        let (value, gain) = (W::splat(value), W::splat(gain));
        let mut costs = Costs([W::splat(0); V]);
        for v in 0..V {
            let mut distance = W::load(&levels[0][v]).distance(value);
            for level in &levels[1..] {
                distance = distance.min(W::load(&level[v]).distance(value));
            }
            let root = distance.min(most).shifted(request.shift).high_product(gain).min(cap);
            costs.0[v] = root.high_product(root);
        }
        let row = &mut tables.rows[i / SIDE];
        let bit = 1 << (i % SIDE);
        for mask in 0..bit {
            row[bit + mask] = costs.plus(&row[mask]).store();
        }
    }
    tables.lowers.resize(mode.partitionings.lowers.len(), [U16x16::ZERO; V]);
    for (costs, masks) in tables.lowers.iter_mut().zip(&mode.partitionings.lowers) {
        let [_, _, _, rows @ ..] = &tables.rows;
        *costs = half::<W, V>(rows, masks).store();
    }
}

/// Sums over the masks of three rows.
#[inline(always)]
fn half<W: Words, const V: usize>(rows: &[[Stored<V>; 1 << SIDE]; 3], masks: &[u8; 3]) -> Costs<W, V> {
    let [a, b, c] = masks.map(|m| usize::from(m & 63));
    Costs::load(&rows[0][a]).plus(&rows[1][b]).plus(&rows[2][c])
}

/// Sums over all texels.
#[inline(always)]
fn whole<W: Words, const V: usize>(rows: &[[Stored<V>; 1 << SIDE]; SIDE]) -> Costs<W, V> {
    const FULL: usize = (1 << SIDE) - 1;
    let [first, others @ ..] = rows;
    let mut all = Costs::load(&first[FULL]);
    for row in others {
        all = all.plus(&row[FULL]);
    }
    all
}

/// Costs of each explicit subset.
#[inline(always)]
fn sum_subsets<W: Words, const V: usize>(tables: &mut Tables<V>, list: &Partitionings) {
    tables.subsets.resize(list.subsets.len(), [U16x16::ZERO; V]);
    tables.least.resize(list.subsets.len(), 0);
    let (mut upper, mut of) = (Costs([W::splat(0); V]), usize::MAX);
    let sums = tables.subsets.iter_mut().zip(&mut tables.least);
    for ((sum, least), &(above, below)) in sums.zip(&list.subsets) {
        if usize::from(above) != of {
            of = usize::from(above);
            let [rows @ .., _, _, _] = &tables.rows;
            upper = half(rows, &list.uppers[of]);
        }
        let costs = upper.plus(&tables.lowers[usize::from(below)]);
        *sum = costs.store();
        *least = costs.least();
    }
}

/// Offers every partitioning, of `E` explicit subsets and the rest of `all`.
#[inline(always)]
fn compare<W: Words, const V: usize, const E: usize>(
    tables: &Tables<V>,
    list: &Partitionings,
    all: Costs<W, V>,
    best: &mut Best,
) {
    for (index, members) in list.members.iter().enumerate() {
        let (mut rest, mut cost) = (all, 0u32);
        for member in &members[..E] {
            cost = cost.wrapping_add(u32::from(tables.least[usize::from(*member)]));
        }
        if cost >= best.costs[best.keep - 1] {
            continue;
        }
        for member in &members[..E] {
            rest = rest.minus(&tables.subsets[usize::from(*member)]);
        }
        best.offer(index, cost.wrapping_add(u32::from(rest.least())));
    }
}

/// The cheapest partitionings so far, ascending; of equals the first stays.
struct Best {
    costs: [u32; MAX_KEPT],
    indices: [usize; MAX_KEPT],
    keep: usize,
}

impl Best {
    #[inline(always)]
    fn offer(&mut self, index: usize, cost: u32) {
        if cost < self.costs[self.keep - 1] {
            let mut at = self.keep - 1;
            while at > 0 && cost < self.costs[at - 1] {
                self.costs[at] = self.costs[at - 1];
                self.indices[at] = self.indices[at - 1];
                at -= 1;
            }
            self.costs[at] = cost;
            self.indices[at] = index;
        }
    }

    fn found(&self) -> &[usize] {
        let count = self.costs[..self.keep].iter().take_while(|c| **c < u32::MAX).count();
        &self.indices[..count]
    }
}
