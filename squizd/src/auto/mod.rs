//! Choosing each tensor's codec under a budget.
//!
//! Every candidate codec is tried on sampled rows of every matrix. Its error is
//! that of the outputs relative to the outputs: with importance `h`,
//! `sum h e^2 / sum h w^2` (arXiv 2411.17525 finds a model's loss to grow
//! linearly with the tensors' relative squared errors). The choice minimises
//! the sum over all matrices, each weighted by how far its errors reach
//! ([`hull`] and [`solve`]), for at most the budget's bytes.

mod hull;
#[cfg(test)]
mod tests;

use crate::{
    Error, Result,
    calibration::{Calibration, Shared},
    codec::{InputMoments, Sample, codec, output_error},
    plan::{CodecChoice, Plan, Reason, Recipe},
    source::{TensorInfo, TensorSource},
};
use hull::{Choice, solve};
use squizd_spec::Role;
use std::collections::BTreeMap;

/// Candidates by default, as far as this build has them.
pub const CANDIDATES: &[&str] = &[
    "sqint2:2",
    "sqint2:2.125",
    "sqint2:2.5",
    "sqint2:3",
    "sqint2:3.5",
    "sqint2:4",
    "int3",
    "int4",
    "q8",
    "bf16",
];

/// Rows of a tensor that are tried.
const ROWS: u64 = 128;

/// How large the payloads of all tensors together may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Bits per weight.
    BitsPerWeight(f64),
    /// Bytes, each tensor padded to 256.
    Bytes(u64),
}

/// What was chosen.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// Codecs by tensor name, for [`Recipe::chosen`].
    pub codecs: BTreeMap<String, CodecChoice>,
    /// Weighted sum of relative errors that was expected.
    pub error: f64,
}

/// Chooses among `candidates` for every matrix that `recipe` leaves open.
/// `done` is called after each matrix and may stop.
///
/// # Errors
/// If the budget is below what the cheapest candidates need, no candidate takes
/// a matrix, or reading fails.
pub fn choose(
    source: &dyn TensorSource,
    recipe: &Recipe,
    candidates: &[CodecChoice],
    budget: Budget,
    calibration: Option<&dyn Calibration>,
    mut done: impl FnMut(&TensorInfo) -> Result<()>,
) -> Result<Chosen> {
    let plans: Vec<Plan> = candidates
        .iter()
        .map(|choice| {
            let with =
                Recipe { default: *choice, routes: Vec::new(), chosen: BTreeMap::new(), ..recipe.clone() };
            Plan::choose(source, &with)
        })
        .collect::<Result<_>>()?;
    let Some(first) = plans.first() else {
        return Err(Error::invalid("no candidate codec is given"));
    };
    let tied = source.model().tie_embeddings;
    let shared = calibration.map(|c| Shared::new(c, tied));
    let size = |bytes: u64| match budget {
        Budget::BitsPerWeight(_) => bytes,
        Budget::Bytes(_) => bytes.next_multiple_of(squizd_spec::layout::TENSOR_ALIGN),
    };
    let mut fixed = 0u64;
    let mut open = Vec::new();
    for (index, info) in source.tensors().iter().enumerate() {
        let planned = plans.iter().map(|p| p.tensors.get(index));
        let mut options: Vec<(Choice, CodecChoice)> = Vec::new();
        let mut trial = None;
        for (choice, planned) in candidates.iter().zip(planned) {
            let Some(planned) = planned.filter(|p| is_candidate(p.reason, p.codec, choice)) else { continue };
            let (sample, moments) = match &trial {
                Some(trial) => trial,
                None => trial.insert(read(source, index, info, shared.as_ref())?),
            };
            // What is imported or kept exactly has no error.
            let error = match planned.reason {
                Reason::Imported => 0.0,
                _ => relative_error(sample, planned, moments.as_ref())?,
            };
            let cost = error * reach(info.role, tied);
            options.push((Choice { bytes: size(planned.length.max()), cost }, *choice));
        }
        if options.is_empty() {
            fixed = fixed.saturating_add(first.tensors.get(index).map_or(0, |p| size(p.length.max())));
            continue;
        }
        open.push((info.name.clone(), options));
        done(info)?;
    }
    let weights: u64 = source.tensors().iter().map(TensorInfo::elements).sum();
    let bytes = match budget {
        Budget::Bytes(bytes) => bytes,
        Budget::BitsPerWeight(bits) => (bits * weights as f64 / 8.0) as u64,
    };
    let tables: Vec<Vec<Choice>> = open.iter().map(|(_, o)| o.iter().map(|(o, _)| *o).collect()).collect();
    let Some(picks) = solve(&tables, bytes.saturating_sub(fixed)).filter(|_| bytes >= fixed) else {
        let least = tables.iter().filter_map(|t| t.iter().map(|o| o.bytes).min()).sum::<u64>() + fixed;
        return Err(Error::invalid(format!(
            "the budget is {bytes} bytes of payload ({:.3} bits per weight), but the cheapest candidates need {least} \
             ({:.3}): raise it, or add cheaper candidates",
            bytes as f64 * 8.0 / weights.max(1) as f64,
            least as f64 * 8.0 / weights.max(1) as f64
        )));
    };
    let mut chosen = Chosen::default();
    for ((name, options), pick) in open.into_iter().zip(picks) {
        if let Some((option, choice)) = options.get(pick) {
            chosen.error += option.cost;
            chosen.codecs.insert(name, *choice);
        }
    }
    Ok(chosen)
}

/// Whether a plan's entry is the candidate itself, or its exact import.
fn is_candidate(reason: Reason, planned: squizd_spec::CodecId, choice: &CodecChoice) -> bool {
    matches!(reason, Reason::Recipe | Reason::Imported) && Some(planned) == choice.codec
}

fn read(
    source: &dyn TensorSource,
    index: usize,
    info: &TensorInfo,
    shared: Option<&Shared<'_>>,
) -> Result<(Sample, Option<InputMoments>)> {
    let sample = Sample::read(source, index, info, 0..info.rows(), ROWS)?;
    let moments = shared.map(|s| s.moments(info)).transpose()?.flatten();
    // One importance for a whole stack: the mean of its experts'.
    let mean = moments.and_then(|moments| {
        let mut mean = vec![0.0f32; moments.first()?.importance.len()];
        for m in moments.iter() {
            mean.iter_mut().zip(&m.importance).for_each(|(a, b)| *a += *b / moments.len() as f32);
        }
        (mean.len() == sample.cols()).then_some(InputMoments { importance: mean, hessian: Vec::new() })
    });
    Ok((sample, mean))
}

fn relative_error(
    sample: &Sample,
    planned: &crate::plan::PlannedTensor,
    moments: Option<&InputMoments>,
) -> Result<f64> {
    let codec = codec(planned.codec)
        .ok_or_else(|| Error::unsupported(format!("this build has no codec {}", planned.codec)))?;
    let mut errors = sample.round_trip(codec, planned.options, moments)?;
    errors.iter_mut().zip(&sample.values).for_each(|(e, w)| *e -= w);
    let energy = output_error(&sample.values, sample.cols(), moments);
    let error = output_error(&errors, sample.cols(), moments);
    Ok(if energy > 0.0 { error / energy } else { error })
}

/// How far a matrix' relative error reaches, against that of a projection in
/// the middle of the stack: the head acts on the logits without a residual
/// stream that dilutes it.
fn reach(role: Role, tied: bool) -> f64 {
    match role {
        Role::OUTPUT => 2.0,
        Role::TOKEN_EMBD if tied => 2.0,
        _ => 1.0,
    }
}
