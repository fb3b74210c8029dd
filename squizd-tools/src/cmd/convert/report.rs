//! The plan before and the summary after a conversion.

use super::preflight::Forecast;
use crate::{Failure, calibration::Coverage, output};
use serde_json::json;
use squizd::{
    Error,
    awq::GroupScale,
    convert::{Outcome, TensorOutcome},
    plan::{Plan, Reason},
    source::{TensorInfo, TensorSource},
    writer::unfinished,
};
use squizd_spec::{CodecId, DType, Hex};
use std::{fmt::Write, path::Path, time::Duration};

fn source_bytes(source: &dyn TensorSource) -> u64 {
    source.provenance().files.iter().map(|f| f.bytes).sum()
}

fn planned<'a>(
    source: &'a dyn TensorSource,
    plan: &'a Plan,
) -> impl Iterator<Item = (&'a TensorInfo, &'a squizd::plan::PlannedTensor)> {
    plan.tensors.iter().filter_map(|p| source.tensors().get(p.index).map(|t| (t, p)))
}

/// Says which tensors the source had already quantized in a way no layout holds.
pub(super) fn warn_requantized(source: &dyn TensorSource, plan: &Plan) {
    let names: Vec<_> = planned(source, plan).filter(|(_, p)| p.reason == Reason::Requantized).collect();
    if let Some((first, _)) = names.first() {
        eprintln!(
            "warning: {} tensor(s) are already quantized in the source ({} of {}, for instance) and are stored as q8 \
             rather than quantized twice; --allow-requantize encodes them as asked",
            names.len(),
            first.name,
            first.dtype
        );
    }
}

/// Says what AWQ found.
pub(super) fn scaled(scales: &[GroupScale]) {
    let mut alphas: Vec<f32> = scales.iter().map(|g| g.alpha).filter(|a| *a > 0.0).collect();
    alphas.sort_by(f32::total_cmp);
    let Some(median) = alphas.get(alphas.len() / 2) else {
        eprintln!("AWQ: none of {} groups gains by scaling", scales.len());
        return;
    };
    let mean = scales.iter().map(|g| g.error_ratio).sum::<f64>() / scales.len() as f64;
    eprintln!(
        "AWQ: {} of {} groups scaled, alpha {median} in the median; output errors {mean:.3} of what they were",
        alphas.len(),
        scales.len()
    );
}

/// Says which linear layers the calibration does not know.
///
/// # Errors
/// If it knows none.
pub(super) fn warn_uncalibrated(coverage: &Coverage) -> Result<(), Failure> {
    let Some(first) = coverage.unknown.first() else { return Ok(()) };
    if coverage.known == 0 {
        return Err(Failure::usage(format!(
            "the calibration knows no linear layer of this model ({first}, for instance): it is of another model"
        )));
    }
    eprintln!(
        "warning: the calibration does not know {} of the linear layers ({first}, for instance)",
        coverage.unknown.len()
    );
    Ok(())
}

/// `--dry-run`.
pub(super) fn plan(
    source: &dyn TensorSource,
    plan: &Plan,
    forecast: &Forecast,
    target: &Path,
    as_json: bool,
) -> Result<(), Failure> {
    let weights: u64 = source.tensors().iter().map(TensorInfo::elements).sum();
    let payload: u64 = plan.tensors.iter().map(|t| t.length.max()).sum();
    let bpw = |bytes: u64, n: u64| bytes as f64 * 8.0 / n.max(1) as f64;
    if as_json {
        let tensors: Vec<_> = planned(source, plan)
            .map(|(t, p)| {
                json!({
                    "name": t.name, "source": t.source_name, "dims": t.dims, "from": t.dtype.to_string(),
                    "codec": p.codec.to_string(), "reason": p.reason, "bytes": p.length.max(),
                    "bpw": bpw(p.length.max(), t.elements()),
                })
            })
            .collect();
        return output::json(&json!({
            "output": target.display().to_string(),
            "tensors": tensors,
            "weights": weights,
            "payload_bytes": payload,
            "bpw": bpw(payload, weights),
            "source_bytes": source_bytes(source),
            "forecast": forecast,
        }));
    }
    let rows = planned(source, plan).map(|(t, p)| {
        vec![
            t.name.clone(),
            t.dtype.to_string(),
            p.codec.to_string(),
            why(p.reason).to_owned(),
            output::dims(&t.dims),
            output::count(p.length.max()),
            format!("{:.3}", bpw(p.length.max(), t.elements())),
        ]
    });
    output::line(output::table(&["tensor", "from", "codec", "because", "shape", "bytes", "bpw"], 4, rows))?;
    output::line(format!(
        "\n{} weights, payload {} = {:.4} bits per weight; would write {} ({} at most)",
        output::count(weights),
        output::bytes(payload),
        bpw(payload, weights),
        target.display(),
        output::bytes(forecast.output_bytes)
    ))?;
    output::line(format!(
        "expected peak memory {}, disk needed {} of {} free",
        output::bytes(forecast.peak_memory),
        output::bytes(forecast.output_bytes),
        output::bytes(forecast.free_disk)
    ))
}

fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::Recipe => "recipe",
        Reason::Override => "--tensor-type",
        Reason::KeptRaw => "kept raw",
        Reason::Imported => "imported exactly",
        Reason::Requantized => "source quantized",
        Reason::Shape => "shape",
        Reason::SourceType => "source type",
    }
}

/// Tensors of a lossless codec whose payload is not smaller than their numbers.
fn unshrunk(source: &dyn TensorSource, plan: &Plan, outcome: &Outcome) -> usize {
    let plain = |dtype| match dtype {
        DType::F32 => 4,
        DType::I8 => 1,
        _ => 2,
    };
    let lossless = [CodecId::TCA_TBE, CodecId::ZPLANES];
    planned(source, plan)
        .zip(&outcome.tensors)
        .filter(|((info, _), t)| lossless.contains(&t.codec) && t.bytes >= t.weights * plain(info.dtype))
        .count()
}

/// A conversion that failed, with what is left of it.
pub(super) fn interrupted(e: Error, target: &Path, tensors: usize) -> Failure {
    let may_be_left = matches!(e, Error::Io { .. } | Error::Cancelled);
    let mut failure = Failure::from(e);
    if may_be_left && let Some(work) = unfinished(target) {
        let _ = write!(
            failure.message,
            "; {} of {tensors} tensors are kept in {} ({}): the same command with --resume goes on with them, or \
             remove it and {}",
            work.tensors,
            work.part.display(),
            output::bytes(work.bytes),
            work.journal.display()
        );
    }
    failure
}

/// A conversion that is over.
pub(super) struct Done<'a> {
    pub(super) outcome: &'a Outcome,
    pub(super) elapsed: Duration,
    pub(super) scales: &'a [GroupScale],
}

/// After the conversion.
pub(super) fn summary(
    source: &dyn TensorSource,
    plan: &Plan,
    done: &Done<'_>,
    target: &Path,
    as_json: bool,
) -> Result<(), Failure> {
    let Done { outcome, elapsed, scales } = *done;
    let weights: u64 = outcome.tensors.iter().map(|t| t.weights).sum();
    let payload: u64 = outcome.tensors.iter().map(|t| t.bytes).sum();
    let bpw = payload as f64 * 8.0 / weights.max(1) as f64;
    let from = source_bytes(source);
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let lossy: Vec<&TensorOutcome> = outcome.tensors.iter().filter(|t| t.stats.noise > 0.0).collect();
    let mean = lossy.iter().map(|t| t.stats.snr_db()).sum::<f64>() / lossy.len().max(1) as f64;
    let worst = lossy.iter().min_by(|a, b| a.stats.snr_db().total_cmp(&b.stats.snr_db()));
    let imported = plan.tensors.iter().filter(|p| p.reason == Reason::Imported).count();
    let unshrunk = unshrunk(source, plan, outcome);
    if as_json {
        let tensors: Vec<_> = outcome
            .tensors
            .iter()
            .map(|t| {
                json!({
                    "name": t.name, "codec": t.codec.to_string(), "bytes": t.bytes,
                    "bpw": t.bytes as f64 * 8.0 / t.weights.max(1) as f64,
                    "snr_db": (t.stats.noise > 0.0).then(|| t.stats.snr_db()),
                })
            })
            .collect();
        return output::json(&json!({
            "output": target.display().to_string(),
            "bytes": outcome.file.length,
            "root_digest": Hex(&outcome.file.root_digest).to_string(),
            "weights": weights,
            "bpw": bpw,
            "source_bytes": from,
            "ratio": from as f64 / outcome.file.length as f64,
            "seconds": seconds,
            "gb_per_second": from as f64 / 1e9 / seconds,
            "mean_snr_db": (!lossy.is_empty()).then_some(mean),
            "worst_tensor": worst.map(|t| &t.name),
            "worst_snr_db": worst.map(|t| t.stats.snr_db()),
            "imported_exactly": imported,
            "awq": scales,
            "did_not_shrink": unshrunk,
            "taken_over": outcome.taken_over,
            "tensors": tensors,
        }));
    }
    if outcome.taken_over > 0 {
        output::line(format!("went on after {} finished tensors", outcome.taken_over))?;
    }
    output::line(format!(
        "{}: {} ({:.4} bits per weight), {:.2}x smaller than the source's {}",
        target.display(),
        output::bytes(outcome.file.length),
        bpw,
        from as f64 / outcome.file.length as f64,
        output::bytes(from)
    ))?;
    output::line(format!(
        "{} tensors in {seconds:.2} s, {:.3} GB/s of source, {:.1} Mweights/s",
        outcome.tensors.len(),
        from as f64 / 1e9 / seconds,
        weights as f64 / 1e6 / seconds
    ))?;
    match worst {
        Some(t) => output::line(format!(
            "mean SNR {} over {} lossy tensors; worst {} at {}",
            output::decibels(mean),
            lossy.len(),
            t.name,
            output::decibels(t.stats.snr_db())
        ))?,
        None => output::line("every tensor is stored exactly")?,
    }
    if imported > 0 {
        output::line(format!("{imported} quantized tensors were imported without loss"))?;
    }
    if unshrunk > 0 {
        output::line(format!("{unshrunk} tensors did not shrink and are stored as plain numbers"))?;
    }
    Ok(())
}
