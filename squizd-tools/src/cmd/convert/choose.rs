//! The searches in front of a conversion, and what they must not lead to.

use super::{Args, report, wish};
use crate::{
    Failure,
    cmd::{Common, interrupt, progress},
};
use indicatif::ProgressBar;
use squizd::{
    Error,
    auto::{self, Budget},
    awq::{self, Scales},
    calibration::Calibration,
    plan::{CodecChoice, Plan, Recipe},
    rules::{Judged, broken},
    source::TensorSource,
};
use std::collections::BTreeMap;

/// Stops a search on a signal.
fn go_on() -> squizd::Result<()> {
    if interrupt::requested() { Err(Error::Cancelled) } else { Ok(()) }
}

/// `auto`'s codec of every matrix.
pub(super) fn codecs(
    args: &Args,
    source: &dyn TensorSource,
    recipe: &Recipe,
    budget: Budget,
    calibration: Option<&dyn Calibration>,
    bar: &ProgressBar,
) -> Result<BTreeMap<String, CodecChoice>, Failure> {
    let candidates = wish::candidates(args)?;
    let chosen = auto::choose(source, recipe, &candidates, budget, calibration, |info| {
        bar.set_message(info.name.clone());
        bar.inc(1);
        go_on()
    });
    bar.finish_and_clear();
    Ok(chosen
        .map_err(|e| match e {
            Error::Invalid(message) => Failure::usage(message),
            other => other.into(),
        })?
        .codecs)
}

/// AWQ's scales.
pub(super) fn scales(
    source: &dyn TensorSource,
    plan: &Plan,
    calibration: &dyn Calibration,
    alphas: &[f32],
    common: Common,
) -> Result<Scales, Failure> {
    let bar = progress::bar(common, u64::from(source.model().num_layers) * 4, "scaling");
    let scales = awq::search(source, plan, calibration, alphas, |group| {
        bar.set_message(group.input.clone());
        bar.inc(1);
        go_on()
    });
    bar.finish_and_clear();
    let scales = scales?;
    report::scaled(&scales.groups);
    Ok(scales)
}

/// Refuses combinations that were measured to be broken.
pub(super) fn refuse_broken(
    source: &dyn TensorSource,
    plan: &Plan,
    compensated: bool,
    force: bool,
) -> Result<(), Failure> {
    let judged = plan.tensors.iter().filter_map(|p| {
        let info = source.tensors().get(p.index)?;
        let (role, layer, part) = (info.role, info.layer, info.part);
        Some(Judged { codec: p.codec, role, layer, part, elements: info.elements() })
    });
    for rule in broken(source.model(), judged, compensated) {
        if !force {
            return Err(Failure::usage(format!(
                "{} ({}): {}; --force converts all the same",
                rule.measured, rule.id, rule.instead
            )));
        }
        eprintln!("warning: {} ({})", rule.measured, rule.id);
    }
    Ok(())
}
