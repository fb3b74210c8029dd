//! Choosing each tensor's codec under a budget.
//!
//! Every candidate codec is tried on sampled rows of every matrix ([`trial`]).
//! Its error is that of the outputs relative to the weights' size; a model's
//! divergence grows linearly with these errors, by as much for each matrix as
//! its errors reach ([`reach`]). The choice minimises the sum over all matrices
//! ([`hull`]) for at most the budget's bytes.

mod hull;
mod reach;
#[cfg(test)]
mod tests;
mod trial;

use crate::{
    Error, Result,
    calibration::{Calibration, Shared},
    plan::{CodecChoice, Plan, Reason, Recipe},
    source::{TensorInfo, TensorSource},
};
use hull::{Choice, solve};
use rayon::prelude::*;
use reach::reach;
use std::collections::BTreeMap;
use trial::{Left, Outcome, Planned, Trial};

/// Candidates by default, as far as this build has them: the trellis codes up
/// to 4 bits, INT4 (which also takes over a source's 4-bit blocks), HYBRID up to
/// its 5-bit codes, and what is nearly lossless.
pub const CANDIDATES: &[&str] = &[
    "sqint2:2",
    "sqint2:2.125",
    "sqint2:2.25",
    "sqint2:2.5",
    "sqint2:2.75",
    "sqint2:3",
    "sqint2:3.25",
    "sqint2:3.5",
    "sqint2:3.75",
    "sqint2:4",
    "int4",
    "hybrid:4.5",
    "hybrid:5",
    "hybrid:5.53",
    "q8",
    "bf16",
];

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
    let gaussian = trial::gaussian_errors(candidates)?;
    let (tied, layers) = (source.model().tie_embeddings, source.model().num_layers);
    let shared = calibration.map(|c| Shared::new(c, tied));
    let size = |bytes: u64| match budget {
        Budget::BitsPerWeight(_) => bytes,
        Budget::Bytes(_) => bytes.next_multiple_of(squizd_spec::layout::TENSOR_ALIGN),
    };
    let mut fixed = 0u64;
    let mut open: Vec<(&TensorInfo, Vec<Planned<'_>>)> = Vec::new();
    for (index, info) in source.tensors().iter().enumerate() {
        let planned = plans.iter().map(|p| p.tensors.get(index)).zip(candidates).enumerate();
        let own: Vec<Planned<'_>> = planned
            .filter_map(|(i, (p, choice))| Some((i, p.filter(|p| is_candidate(p.reason, p.codec, choice))?)))
            .collect();
        if own.is_empty() {
            fixed = fixed.saturating_add(first.tensors.get(index).map_or(0, |p| size(p.length.max())));
        } else {
            open.push((info, own));
        }
    }
    // Samples are read in order, so that tensors with one input read its
    // moments once, and tried side by side.
    let mut tables: Vec<Vec<Choice>> = Vec::with_capacity(open.len());
    let mut left = Left::default();
    for batch in open.chunks(4 * rayon::current_num_threads()) {
        let mut trials = Vec::with_capacity(batch.len());
        for (info, own) in batch {
            let moments = shared.as_ref().map(|s| s.moments(info)).transpose()?.flatten();
            let index = own.first().map_or(0, |(_, p)| p.index);
            trials.push(Trial::read(source, index, info, moments.as_ref(), &mut left)?);
        }
        let outcomes: Vec<Vec<Outcome>> = trials
            .par_iter()
            .zip(batch)
            .map(|(trial, (_, own))| trial.outcomes(own, &gaussian))
            .collect::<Result<_>>()?;
        for (((info, _), trial), outcomes) in batch.iter().zip(&trials).zip(outcomes) {
            let reach = reach(info, layers, tied) * trial.left;
            let choice = |o: Outcome| Choice { bytes: size(o.bytes), cost: o.error * reach };
            tables.push(outcomes.into_iter().map(choice).collect());
            done(info)?;
        }
    }
    let weights: u64 = source.tensors().iter().map(TensorInfo::elements).sum();
    let bytes = match budget {
        Budget::Bytes(bytes) => bytes,
        Budget::BitsPerWeight(bits) => (bits * weights as f64 / 8.0) as u64,
    };
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
    for (((info, own), table), pick) in open.into_iter().zip(tables).zip(picks) {
        let choice = own.get(pick).and_then(|(i, _)| candidates.get(*i));
        if let (Some(choice), Some(option)) = (choice, table.get(pick)) {
            chosen.error += option.cost;
            chosen.codecs.insert(info.name.clone(), *choice);
        }
    }
    Ok(chosen)
}

/// Whether a plan's entry is the candidate itself, or its exact import.
fn is_candidate(reason: Reason, planned: squizd_spec::CodecId, choice: &CodecChoice) -> bool {
    matches!(reason, Reason::Recipe | Reason::Imported) && Some(planned) == choice.codec
}
