//! One block from weights: every mode's best candidate, the best of them kept.

use super::alphabet::{Mode, modes};
use super::block::{Block, GREY, Levels, Symbols, from_unorm16, texel};
use super::fit::{Fit, Subset, fit};
use super::survey::{Candidate, Request, Workspace, survey};
use super::{Quality, TEXELS, partition};

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
            Quality::Default => Self { modes: 3, starts: 2, rounds: 4, pairs: 48, keep: 2 },
            Quality::Max => Self { modes: 7, starts: 5, rounds: 8, pairs: 64, keep: 8 },
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
    let subset = Subset::collect(target.values.into_iter().zip(target.weights));
    let found = fit_whole(target, &subset, single, effort);
    settle(target, single, 0, &[found], &mut best);
    for mode in others.iter().take(effort.modes - 1) {
        let request = Request::new(&target.values, &target.weights, best.cost, effort.pairs, effort.keep);
        let Some(request) = request else { break };
        let candidates = survey(workspace, mode, &request);
        let refined = candidates.iter().map(|c| (c.partitioning, refine(target, mode, c, effort)));
        let cost = |fits: &[Fit; 4]| fits.iter().map(|f| f.cost).sum::<f32>();
        if let Some((index, fits)) = refined.min_by(|a, b| cost(&a.1).total_cmp(&cost(&b.1))) {
            let seed = mode.partitionings.seeds.get(index).copied().unwrap_or(0);
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

/// Endpoints of each partition of a candidate, in the order of its map.
fn refine(target: &Target, mode: &Mode, candidate: &Candidate, effort: Effort) -> [Fit; 4] {
    let list = mode.partitionings;
    let mut fits = [Fit { cost: 0.0, low: 0, high: 1 }; 4];
    let (Some(seed), Some(members)) =
        (list.seeds.get(candidate.partitioning), list.members.get(candidate.partitioning))
    else {
        return fits;
    };
    let map = partition::map(mode.partitions, usize::from(*seed));
    let mut start = [(0, 1); 4];
    // The subset that none of the explicit ones is holds texel 0.
    start[usize::from(map[0] & 3)] = candidate.pairs[mode.partitions - 1];
    for (member, pair) in members.iter().zip(candidate.pairs).take(mode.partitions - 1) {
        let masks = list.masks(*member);
        let first = (0..TEXELS).find(|i| masks[i / 6] >> (i % 6) & 1 == 1).unwrap_or(0);
        start[usize::from(map[first] & 3)] = pair;
    }
    for (p, (fit_, (low, high))) in fits.iter_mut().zip(start).take(mode.partitions).enumerate() {
        let texels = target.values.iter().zip(&target.weights).zip(map);
        let inside = texels.filter(|(_, of)| usize::from(**of) == p).map(|((v, w), _)| (*v, *w));
        *fit_ = fit(&Subset::collect(inside), mode, (usize::from(low), usize::from(high)), effort.rounds);
    }
    fits
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
    let (mut cost, mut levels) = (0.0, [0; TEXELS]);
    let texels = target.values.iter().zip(&target.weights).zip(map);
    for (level, ((v, w), of)) in levels.iter_mut().zip(texels) {
        let mut least = f32::INFINITY;
        for (i, value) in palette[usize::from(of & 3)].iter().enumerate().take(mode.levels) {
            let error = (value - v) * (value - v);
            if error < least {
                (least, *level) = (error, i as u8);
            }
        }
        cost += least * w;
    }
    best.offer(cost, || {
        let mut endpoints = [0; 8];
        for (ends, fit) in endpoints.as_chunks_mut::<2>().0.iter_mut().zip(fits).take(mode.partitions) {
            *ends = [mode.codes[fit.low], mode.codes[fit.high]];
        }
        Block::Levels(Symbols { levels: mode.levels, partitions: mode.partitions, seed, endpoints, texels: levels })
    });
}
