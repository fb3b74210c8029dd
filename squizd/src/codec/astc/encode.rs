//! One block from weights: every mode's best candidate, the best of them kept.

use super::alphabet::{Mode, modes};
use super::block::{Block, GREY, Levels, Symbols, from_unorm16, texel};
use super::fit::{Fit, Subset, fit};
use super::survey::{Candidate, Request, Workspace, survey};
use super::{TEXELS, partition};
use crate::codec::Quality;
use crate::simd::multiversion;

/// Texels in units of 1/65536 per endpoint unit.
pub(super) const UNIT: f32 = 257.0;

/// A block to encode.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// Values in endpoint units: 0 to 255 is the range, but any finite value may
    /// be wanted.
    pub(super) values: [f32; TEXELS],
    /// Weights of the squared errors, at most 1; 0 where there is no weight.
    pub(super) weights: [f32; TEXELS],
}

/// How hard to look.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// How many modes are tried.
    modes: usize,
    /// Starts of the one-partition fit, and rounds of each fit.
    starts: usize,
    rounds: usize,
    /// Pairs of endpoints surveyed, and candidates refined.
    pairs: usize,
    keep: usize,
}

impl Effort {
    fn of(quality: Quality) -> Self {
        match quality {
            Quality::Fast => Self { modes: 1, starts: 3, rounds: 6, pairs: 0, keep: 0 },
            Quality::Default => Self { modes: 3, starts: 2, rounds: 3, pairs: 32, keep: 2 },
            Quality::Max => Self { modes: 5, starts: 3, rounds: 6, pairs: 64, keep: 2 },
        }
    }
}

/// The best block so far.
struct Choice {
    cost: f32,
    block: Block,
}

impl Choice {
    fn offer(&mut self, cost: f32, block: impl FnOnce() -> Block) {
        if cost < self.cost {
            *self = Self { cost, block: block() };
        }
    }
}

/// The block of least error found.
pub(super) fn encode(target: &Target, quality: Quality, workspace: &mut Workspace) -> Block {
    let effort = Effort::of(quality);
    let mut best = constant(target);
    if best.cost <= 0.0 {
        return best.block;
    }
    let [single, others @ ..] = modes() else { return best.block };
    let subset = Subset::of(target, 0..TEXELS);
    let found = fit_whole(target, &subset, single, effort);
    settle(target, single, 0, &[found], &mut best);
    for mode in others.iter().take(effort.modes - 1) {
        let request = Request::new(&target.values, &target.weights, best.cost, effort.pairs, effort.keep);
        let Some(request) = request else { break };
        let candidates = survey(workspace, mode, &request);
        let rounds = if candidates.complete { 0 } else { effort.rounds };
        let mut least = f32::INFINITY;
        let mut chosen = None;
        for candidate in candidates.iter() {
            let (seed, fits) = refine(target, mode, candidate, rounds);
            if rounds == 0 {
                settle(target, mode, seed, &fits, &mut best);
                continue;
            }
            let cost = fits.iter().map(|f| f.cost).sum::<f32>();
            if cost < least {
                (least, chosen) = (cost, Some((seed, fits)));
            }
        }
        if let Some((seed, fits)) = chosen {
            settle(target, mode, seed, &fits, &mut best);
        }
    }
    best.block
}

/// The grey of least error.
fn constant(target: &Target) -> Choice {
    let weighted = target.values.iter().zip(&target.weights);
    let (sum, weight) = weighted.clone().fold((0.0f32, 0.0f32), |(s, n), (v, w)| (s + v * w, n + w));
    let mean = if weight > 0.0 { sum / weight } else { GREY as f32 / UNIT };
    // Texels are rounded down to 11 bits: the middle of a step represents it.
    let near = (mean * UNIT).clamp(0.0, 65_535.0) as u32;
    let step = (1u32 << 21) >> (near | 1).leading_zeros().min(21);
    let grey = (near + step / 2).min(65_535);
    let value = from_unorm16(grey) as f32 / UNIT;
    let cost = weighted.fold(0.0, |cost, (v, w)| cost + w * (v - value) * (v - value));
    Choice { cost, block: Block::Constant(from_unorm16(grey).min(65_535) as u16) }
}

/// Endpoints for all texels in one partition.
fn fit_whole(target: &Target, subset: &Subset, mode: &Mode, effort: Effort) -> Fit {
    /// How far inside the range the endpoints start, as parts of it.
    const STARTS: [(f32, f32); 5] = [(0.04, 0.04), (0.12, 0.12), (0.0, 0.0), (0.04, 0.16), (0.16, 0.04)];
    let (mut low, mut high) = (f32::INFINITY, f32::NEG_INFINITY);
    for (v, w) in target.values.iter().zip(&target.weights) {
        if *w > 0.0 {
            (low, high) = (low.min(*v), high.max(*v));
        }
    }
    let range = high - low;
    let top = mode.values.len() - 1;
    let mut best = Fit { cost: f32::INFINITY, low: 0, high: top };
    for (below, above) in STARTS.into_iter().take(effort.starts) {
        let first = mode.index(low + below * range).min(top - 1);
        let last = mode.index(high - above * range).max(first + 1);
        let found = fit(subset, mode, (first, last), effort.rounds);
        if found.cost < best.cost {
            best = found;
        }
    }
    best
}

/// Seed of a candidate and the endpoints of each partition, in the order of its
/// map, refined in at most `rounds` rounds.
fn refine(target: &Target, mode: &Mode, candidate: &Candidate, rounds: usize) -> (u16, [Fit; 4]) {
    let list = mode.partitionings;
    let mut fits = [Fit { cost: 0.0, low: 0, high: 1 }; 4];
    let (Some(&seed), Some(members)) =
        (list.seeds.get(candidate.partitioning), list.members.get(candidate.partitioning))
    else {
        return (0, fits);
    };
    let map = partition::map(mode.partitions, usize::from(seed));
    let mut start = |texel: usize, (low, high): (u8, u8)| {
        let fit = &mut fits[usize::from(map[texel] & 3)];
        (fit.low, fit.high) = (usize::from(low), usize::from(high));
    };
    // The subset that none of the explicit ones is holds texel 0.
    start(0, candidate.pairs[mode.partitions - 1]);
    for (member, pair) in members.iter().zip(candidate.pairs).take(mode.partitions - 1) {
        start(list.first_texel(*member), pair);
    }
    if rounds > 0 {
        let texels = list.texels(candidate.partitioning);
        for (found, texels) in fits.iter_mut().zip(texels) {
            let subset = Subset::of(target, texels.iter().map(|t| usize::from(*t)));
            *found = fit(&subset, mode, (found.low, found.high), rounds);
        }
    }
    (seed, fits)
}

/// Assigns levels with the decoder's exact texels and offers the block.
fn settle(target: &Target, mode: &Mode, seed: u16, fits: &[Fit], best: &mut Choice) {
    let mut palette = [[f32::INFINITY; 8]; 4];
    for (palette, fit) in palette.iter_mut().zip(fits).take(mode.partitions) {
        let [low, high] = [fit.low, fit.high].map(|i| mode.values[i]);
        for (value, step) in palette.iter_mut().zip(Levels::of(mode.levels).steps) {
            *value = texel(low, high, *step) as f32 / UNIT;
        }
    }
    let map = partition::map(mode.partitions, usize::from(seed));
    let (cost, levels) = assign(target, &palette, map, mode.levels);
    best.offer(cost, || {
        let mut endpoints = [0; 8];
        for (ends, fit) in endpoints.as_chunks_mut::<2>().0.iter_mut().zip(fits).take(mode.partitions) {
            *ends = [mode.codes[fit.low], mode.codes[fit.high]];
        }
        Block::Levels(Symbols {
            levels: mode.levels,
            partitions: mode.partitions,
            seed,
            endpoints,
            texels: levels,
        })
    });
}

multiversion! {
    /// The nearest of the first `count` values of each texel's palette, and the
    /// error they leave.
    fn assign(target: &Target, palette: &[[f32; 8]; 4], map: &[u8; TEXELS], count: usize) -> (f32, [u8; TEXELS]) = assign_lanes;
}

#[inline(always)]
fn assign_lanes(
    target: &Target,
    palette: &[[f32; 8]; 4],
    map: &[u8; TEXELS],
    count: usize,
) -> (f32, [u8; TEXELS]) {
    let (mut least, mut levels) = ([f32::INFINITY; TEXELS], [0u32; TEXELS]);
    for level in 0..count {
        let mut values = [0.0; TEXELS];
        for i in 0..TEXELS {
            values[i] = palette[usize::from(map[i] & 3)][level & 7];
        }
        for i in 0..TEXELS {
            let error = (values[i] - target.values[i]) * (values[i] - target.values[i]);
            levels[i] = if error < least[i] { level as u32 } else { levels[i] };
            least[i] = if error < least[i] { error } else { least[i] };
        }
    }
    let mut sums = [0.0f32; 4];
    for (errors, weights) in least.as_chunks::<4>().0.iter().zip(target.weights.as_chunks::<4>().0) {
        for l in 0..4 {
            sums[l] += errors[l] * weights[l];
        }
    }
    let [a, b, c, d] = sums;
    ((a + c) + (b + d), levels.map(|l| l as u8))
}
