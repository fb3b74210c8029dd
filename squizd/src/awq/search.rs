//! Choosing each group's exponent.

use super::{
    Factors, GroupScale, Scales, Sets,
    group::{Group, Heads, Producer, groups},
    scaled::divide,
};
use crate::{
    Error, Result,
    calibration::{Calibration, Moments, Shared},
    codec::{Codec, EncodeOptions, InputMoments, Sample, codec, output_error},
    plan::{Plan, Reason},
    source::{TensorInfo, TensorSource},
};
use squizd_spec::Role;
use std::sync::Arc;

/// Exponents tried by default. On groups of 32 weights one loud channel widens
/// the step of 31 others, so that small ones often win; the source documents
/// found 0.1.
pub const ALPHAS: &[f32] =
    &[0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0];

/// Rows of a tensor that are tried.
const ROWS: u64 = 128;
/// Rows of each expert of a stack.
const EXPERT_ROWS: u64 = 16;
/// Experts of a stack.
const EXPERTS: usize = 8;
/// Products with a Hessian's elements that judging one trial may take.
const JUDGED: usize = 1 << 27;
/// Channels quieter than this fraction of the loudest are scaled as if they
/// were this loud: a channel that was silent on the text may still speak.
const QUIETEST: f64 = 1e-4;
/// A group is scaled only where that lowers the error by this much: less is
/// within what sampling sees by chance.
pub(super) const WORTHWHILE: f64 = 0.99;

/// Searches the exponent of every group of `source` among `alphas`, by the error
/// that the codecs of `plan` make. With a single exponent all groups are scaled
/// by it, searched or not. `done` is called after each group and may stop.
///
/// # Errors
/// If an exponent is not between 0 and 1, the model has tensors of unknown
/// role (one of them might read a scaled input), or reading fails.
pub fn search(
    source: &dyn TensorSource,
    plan: &Plan,
    calibration: &dyn Calibration,
    alphas: &[f32],
    mut done: impl FnMut(&GroupScale) -> Result<()>,
) -> Result<Scales> {
    if let Some(bad) = alphas.iter().find(|a| !(0.0..=1.0).contains(*a)) {
        return Err(Error::invalid(format!("AWQ exponent {bad} is not between 0 and 1")));
    }
    if let Some(other) = source.tensors().iter().find(|t| t.role == Role::OTHER || t.role.name().is_none()) {
        return Err(Error::unsupported(format!(
            "tensor {}: what it does is unknown, so it might read an input that AWQ scales; convert without --awq",
            other.name
        )));
    }
    let shared = Shared::new(calibration, source.model().tie_embeddings);
    let mut scales = Scales::default();
    for group in groups(source.model(), source.tensors()) {
        let found = Search { source, plan, group: &group }.run(&shared, alphas)?;
        let Some((outcome, sets)) = found else { continue };
        done(&outcome)?;
        if outcome.alpha > 0.0 {
            scales.fold(source.tensors(), &group, sets);
        }
        scales.groups.push(outcome);
    }
    Ok(scales)
}

struct Search<'a> {
    source: &'a dyn TensorSource,
    plan: &'a Plan,
    group: &'a Group,
}

/// Sampled rows that read an input, with its moments and their codec.
struct Trial {
    sample: Sample,
    codec: &'static dyn Codec,
    options: EncodeOptions,
    /// Which expert's.
    part: usize,
    /// Rows that one sampled row stands for.
    weight: f64,
}

impl Search<'_> {
    /// The best exponent and its scales; `None` where calibration knows nothing
    /// or nothing is to be gained.
    fn run(&self, shared: &Shared<'_>, alphas: &[f32]) -> Result<Option<(GroupScale, Sets)>> {
        let tensors = self.source.tensors();
        let fixed = match alphas {
            [one] => Some(*one),
            _ => None,
        };
        // Every tensor of the group is changed: none of them may be one that
        // the source's own blocks are taken over from.
        let changed = self.group.readers.iter().chain(self.group.producer.tensors());
        if changed
            .clone()
            .filter_map(|i| self.plan.tensors.get(*i))
            .any(|p| matches!(p.reason, Reason::Imported | Reason::Requantized))
        {
            return Ok(None);
        }
        let Some(first) = self
            .group
            .readers
            .iter()
            .filter_map(|i| tensors.get(*i))
            .find(|t| crate::calibration::input_of(t).as_deref() == Some(&self.group.input))
        else {
            return Ok(None);
        };
        let Some(moments) = shared.moments(first)? else { return Ok(None) };
        check(first, &moments)?;
        let loudness = self.loudness(&moments);
        let trials = self.trials(&moments)?;
        if trials.is_empty() && fixed.is_none() {
            return Ok(None);
        }
        let mut best: Option<(f64, f32)> = None;
        let plain = error(&trials, &moments, &sets(&loudness, 0.0))?;
        for &alpha in alphas.iter().filter(|a| **a > 0.0) {
            let error = error(&trials, &moments, &sets(&loudness, alpha))?;
            if best.is_none_or(|(least, _)| error < least) {
                best = Some((error, alpha));
            }
        }
        let chosen = best.filter(|(error, _)| fixed.is_some() || *error < WORTHWHILE * plain);
        let (error, alpha) = chosen.unwrap_or((plain, 0.0));
        let sets = sets(&loudness, alpha);
        let max_scale = sets.iter().flatten().copied().fold(0.0, f32::max);
        let error_ratio = if plain > 0.0 { error / plain } else { 1.0 };
        Ok(Some((GroupScale { input: self.group.input.clone(), alpha, error_ratio, max_scale }, sets)))
    }

    /// Root mean square of each channel, by the sets that scales will have:
    /// one over all experts for a norm, one over all query heads that share a
    /// value head.
    fn loudness(&self, moments: &Moments) -> Vec<Vec<f64>> {
        let importance =
            |m: &InputMoments| -> Vec<f64> { m.importance.iter().map(|h| f64::from(*h)).collect() };
        let mut sets: Vec<Vec<f64>> = moments.iter().map(importance).collect();
        match &self.group.producer {
            Producer::Up(_) => {}
            Producer::Norm(_) => {
                let mut mean = vec![0.0; sets.first().map_or(0, Vec::len)];
                for set in &sets {
                    mean.iter_mut().zip(set).for_each(|(m, h)| *m += h);
                }
                sets = vec![mean];
            }
            Producer::Value { heads, .. } => {
                for set in &mut sets {
                    heads.share(set);
                }
            }
        }
        for set in &mut sets {
            let loudest = set.iter().copied().fold(0.0, f64::max).sqrt();
            for h in set {
                *h = h.sqrt().max(QUIETEST * loudest);
            }
        }
        sets
    }

    fn trials(&self, moments: &Moments) -> Result<Vec<Trial>> {
        let mut trials = Vec::new();
        for &index in &self.group.readers {
            let found = self.source.tensors().get(index).zip(self.plan.tensors.get(index));
            let Some((info, planned)) = found else { continue };
            let Some(codec) = codec(planned.codec).filter(|c| c.takes_guide()) else { continue };
            let experts = u64::from(info.experts.max(1));
            let rows = info.rows() / experts;
            let wanted = if experts > 1 { EXPERT_ROWS } else { ROWS };
            let step = (experts as usize).div_ceil(EXPERTS);
            for expert in (0..experts as usize).step_by(step) {
                let range = expert as u64 * rows..(expert as u64 + 1) * rows;
                let sample = Sample::read(self.source, index, info, range, wanted)?;
                let sampled = stored_rows(&sample).max(1);
                let weight = rows as f64 * step as f64 / sampled as f64;
                // Experts of one stack and a dense layer beside them may share an input.
                let part = expert.min(moments.len().saturating_sub(1));
                trials.push(Trial { sample, codec, options: planned.options, part, weight });
            }
        }
        Ok(trials)
    }
}

fn check(first: &TensorInfo, moments: &Moments) -> Result<()> {
    let fits = moments.iter().all(|m| m.importance.len() as u64 == first.cols())
        && moments.len() == usize::from(first.experts.max(1));
    if fits {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "tensor {}: {} sets of {} channels do not go with its shape {:?}: the calibration is of another model",
        first.name,
        moments.len(),
        moments.first().map_or(0, |m| m.importance.len()),
        first.dims
    )))
}

/// `rms^alpha`, with a geometric mean of one.
fn sets(loudness: &[Vec<f64>], alpha: f32) -> Sets {
    let scale = |rms: &Vec<f64>| -> Vec<f32> {
        if rms.iter().any(|r| *r <= 0.0) {
            return vec![1.0; rms.len()];
        }
        let logs: Vec<f64> = rms.iter().map(|r| f64::from(alpha) * libm::log(*r)).collect();
        let mean = logs.iter().sum::<f64>() / logs.len() as f64;
        logs.iter().map(|l| libm::exp(l - mean) as f32).collect()
    };
    loudness.iter().map(scale).collect()
}

fn stored_rows(sample: &Sample) -> usize {
    sample.values.len().checked_div(sample.cols()).unwrap_or(0)
}

/// The error at the outputs with these scales.
fn error(trials: &[Trial], moments: &Moments, sets: &Sets) -> Result<f64> {
    let mut total = 0.0;
    for trial in trials {
        let (Some(m), Some(s)) = (moments.get(trial.part), sets.get(trial.part).or(sets.first())) else {
            continue;
        };
        // Rounding is weighed by importance; what it does is judged by all of H.
        let mut guide = InputMoments { importance: m.importance.clone(), hessian: Vec::new() };
        divide(&mut guide, s);
        let sample = trial.sample.scaled(s);
        let cols = sample.cols();
        let stored = sample.round_trip(trial.codec, trial.options, Some(&guide))?;
        let rows = stored.chunks_exact(cols).zip(sample.values.chunks_exact(cols));
        let step = m.hessian().map_or(1, |h| (stored_rows(&sample) * h.len()).div_ceil(JUDGED));
        let mut errors = Vec::new();
        for (stored, scaled) in rows.step_by(step) {
            // Back in the units of the unscaled weights, where `H` is at hand.
            errors.extend(stored.iter().zip(scaled).zip(s).map(|((q, w), s)| (q - w) / s));
        }
        total += trial.weight * step as f64 * output_error(&errors, cols, Some(m));
    }
    Ok(total)
}

impl Heads {
    /// Gives the query heads of each value head their mean.
    fn share(self, channels: &mut [f64]) {
        let group = self.queries / self.keys;
        for heads in channels.chunks_exact_mut(group * self.dim) {
            for d in 0..self.dim {
                let mean = (0..group).map(|h| heads[h * self.dim + d]).sum::<f64>() / group as f64;
                (0..group).for_each(|h| heads[h * self.dim + d] = mean);
            }
        }
    }

    /// The factors of the value rows, from those of the output's columns.
    fn rows(self, columns: &[f32]) -> Vec<f32> {
        let group = self.queries / self.keys;
        columns.chunks_exact(group * self.dim).flat_map(|heads| heads[..self.dim].to_vec()).collect()
    }
}

impl Producer {
    fn tensors(&self) -> &[usize] {
        match self {
            Self::Norm(tensors) | Self::Value { tensors, .. } | Self::Up(tensors) => tensors,
        }
    }
}

impl Scales {
    /// Puts a group's scales into every tensor of it, once each.
    fn fold(&mut self, tensors: &[TensorInfo], group: &Group, sets: Sets) {
        let sets = Arc::new(sets);
        for index in &group.readers {
            self.tensors.entry(*index).or_default().columns = Some(sets.clone());
        }
        let rows = match &group.producer {
            Producer::Norm(_) => None,
            Producer::Value { heads, .. } => Some(sets.iter().flat_map(|s| heads.rows(s)).collect()),
            Producer::Up(_) => Some(sets.concat()),
        };
        let rows: Option<Arc<Vec<f32>>> = rows.map(Arc::new);
        for index in group.producer.tensors() {
            let factors: &mut Factors = self.tensors.entry(*index).or_default();
            let vector = tensors.get(*index).is_some_and(|t| t.rows() == 1);
            match &rows {
                Some(rows) if !vector => factors.rows = Some(rows.clone()),
                // A vector's values lie along its one row: a gain, or a bias.
                Some(rows) => factors.gain = Some(Arc::new(vec![rows.to_vec()])),
                None => factors.gain = Some(sets.clone()),
            }
        }
        self.inputs.insert(group.input.clone(), sets);
    }
}
