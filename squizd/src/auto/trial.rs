//! What each candidate makes of a sample of a tensor.
//!
//! Candidates encode sampled rows as they would all, without calibration. A
//! codec that makes every tensor's weights Gaussian first
//! ([`Codec::gaussianizes`]) makes errors that depend on the tensor by one
//! factor only: one of its candidates is tried, the others follow from what they
//! make of Gaussian weights.
//!
//! [`Codec::gaussianizes`]: crate::codec::Codec::gaussianizes

use crate::{
    Error, Result,
    calibration::Moments,
    codec::{InputMoments, Sample, codec, output_error, uncompensated},
    plan::{CodecChoice, PlannedTensor, Reason},
    source::{TensorInfo, TensorSource},
};
use rayon::prelude::*;
use squizd_spec::{CodecId, Matrix, Params, PayloadLength};
use std::sync::{Arc, Weak};

/// Weights of a tensor that are tried, as far as [`ROWS`] allow.
const WEIGHTS: u64 = 1 << 15;
/// Fewest and most rows tried: rows differ, an embedding's above all.
const ROWS: (u64, u64) = (64, 128);
/// Shape of the Gaussian weights tried.
const GAUSSIAN: (u64, u64) = (32, 1024);

/// The error of each candidate on Gaussian weights; `None` for those whose
/// error depends on the weights' distribution.
///
/// # Errors
/// If a candidate cannot encode them.
pub(super) fn gaussian_errors(candidates: &[CodecChoice]) -> Result<Vec<Option<f64>>> {
    let sample = Sample::gaussian(GAUSSIAN.0, GAUSSIAN.1);
    let error = |choice: &CodecChoice| {
        let known = choice.codec.and_then(codec).filter(|c| c.gaussianizes(&choice.options));
        known.map(|codec| Ok(relative_error(&sample, codec, choice.options, None)?.1)).transpose()
    };
    candidates.par_iter().map(error).collect()
}

/// A tensor's sample, and what its errors are weighed by.
pub(super) struct Trial {
    matrix: Matrix,
    sample: Sample,
    importance: Option<InputMoments>,
    /// Share of the error that compensation leaves.
    pub(super) left: f64,
}

/// Knows the share of errors that compensation leaves, for the input last asked
/// for: tensors with one input follow one another.
#[derive(Default)]
pub(super) struct Left(Option<(Weak<[InputMoments]>, f64)>);

impl Left {
    fn of(&mut self, moments: &Moments) -> f64 {
        if let Some((last, left)) = &self.0
            && std::ptr::addr_eq(last.as_ptr(), Arc::as_ptr(moments))
        {
            return *left;
        }
        // A stack's experts are alike enough for one of them to tell.
        let left = moments.first().map_or(1.0, uncompensated);
        self.0 = Some((Arc::downgrade(moments), left));
        left
    }
}

/// What a candidate makes of a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// Relative to the weights.
    pub(super) error: f64,
    /// Of the payload.
    pub(super) bytes: u64,
}

/// A candidate, by its number, and what it would be for the tensor.
pub(super) type Planned<'a> = (usize, &'a PlannedTensor);

impl Trial {
    /// Reads the sample of tensor `index`.
    ///
    /// # Errors
    /// If reading fails.
    pub(super) fn read(
        source: &dyn TensorSource,
        index: usize,
        info: &TensorInfo,
        moments: Option<&Moments>,
        left: &mut Left,
    ) -> Result<Self> {
        let rows = (WEIGHTS / info.cols().max(1)).clamp(ROWS.0, ROWS.1);
        let sample = Sample::read(source, index, info, 0..info.rows(), rows)?;
        // One importance for a whole stack: the mean of its experts'.
        let importance = moments.and_then(|moments| {
            let mut mean = vec![0.0f32; moments.first()?.importance.len()];
            for m in moments.iter() {
                mean.iter_mut().zip(&m.importance).for_each(|(a, b)| *a += *b / moments.len() as f32);
            }
            (mean.len() == sample.cols()).then_some(InputMoments { importance: mean, hessian: Vec::new() })
        });
        let left = moments.map_or(1.0, |m| left.of(m));
        let matrix = Matrix::of(&info.dims).unwrap_or(Matrix { rows: info.rows(), cols: info.cols() });
        Ok(Self { matrix, sample, importance, left })
    }

    /// What the candidates `planned` make of the tensor, in their order;
    /// `gaussian` has the errors of all candidates on Gaussian weights.
    ///
    /// # Errors
    /// If a candidate cannot encode the sample.
    pub(super) fn outcomes(&self, planned: &[Planned<'_>], gaussian: &[Option<f64>]) -> Result<Vec<Outcome>> {
        let known = |(candidate, planned): &Planned<'_>| {
            let error = gaussian.get(*candidate).copied().flatten();
            error.filter(|e| *e > 0.0 && planned.reason != Reason::Imported)
        };
        // Of each codec with known errors, the middle candidate's is measured.
        let mut factors: Vec<(CodecId, f64)> = Vec::new();
        for (_, first) in planned.iter().filter(|p| known(p).is_some()) {
            if factors.iter().any(|(codec, _)| *codec == first.codec) {
                continue;
            }
            let own: Vec<_> =
                planned.iter().filter(|p| p.1.codec == first.codec && known(p).is_some()).collect();
            if let Some(middle) = own.get(own.len() / 2)
                && let Some(expected) = known(middle)
            {
                factors.push((first.codec, self.measure(middle.1)?.error / expected));
            }
        }
        let outcome = |p: &Planned<'_>| {
            let factor = factors.iter().find(|(codec, _)| *codec == p.1.codec).map(|(_, factor)| factor);
            let bytes = p.1.length.max();
            match (p.1.reason, known(p).zip(factor)) {
                // What is imported or kept exactly has no error.
                (Reason::Imported, _) => Ok(Outcome { error: 0.0, bytes }),
                (_, Some((expected, factor))) => Ok(Outcome { error: expected * factor, bytes }),
                _ => self.measure(p.1),
            }
        };
        planned.par_iter().map(outcome).collect()
    }

    fn measure(&self, planned: &PlannedTensor) -> Result<Outcome> {
        let codec = codec(planned.codec)
            .ok_or_else(|| Error::unsupported(format!("this build has no codec {}", planned.codec)))?;
        let (params, error) = relative_error(&self.sample, codec, planned.options, self.importance.as_ref())?;
        // Values may ask for a layout that is larger than what a plan counts with.
        let actual = planned.codec.geometry(self.matrix, &params).map(|g| g.length);
        let bytes = match (planned.length, actual) {
            (PayloadLength::Exact(planned), Ok(PayloadLength::Exact(actual))) => planned.max(actual),
            _ => planned.length.max(),
        };
        Ok(Outcome { error, bytes })
    }
}

/// The codec's parameters, and the error of the outputs, in units of what an error as large as the weights
/// and independent of the inputs would make: that is what reaches are relative
/// to.
fn relative_error(
    sample: &Sample,
    codec: &dyn crate::codec::Codec,
    options: crate::codec::EncodeOptions,
    importance: Option<&InputMoments>,
) -> Result<(Params, f64)> {
    let (params, mut errors) = sample.stored(codec, options, None)?;
    errors.iter_mut().zip(&sample.values).for_each(|(e, w)| *e -= w);
    let energy = output_error(&sample.values, sample.cols(), None);
    let mean = importance.map_or(1.0, |m| {
        m.importance.iter().map(|h| f64::from(*h)).sum::<f64>() / m.importance.len().max(1) as f64
    });
    let error = output_error(&errors, sample.cols(), importance.filter(|_| mean > 0.0));
    let unit = if mean > 0.0 { energy * mean } else { energy };
    Ok((params, if unit > 0.0 { error / unit } else { error }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Plan, Recipe};
    use crate::source::testing::MemorySource;
    use squizd_spec::Role;

    fn candidates(names: &[&str]) -> Vec<CodecChoice> {
        names.iter().map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn rates_not_tried_are_predicted_closely() {
        let names = ["sqint2:2", "sqint2:2.5", "sqint2:3", "sqint2:3.5", "sqint2:4", "int4", "hybrid:4.5"];
        let choices = candidates(&names);
        let gaussian = gaussian_errors(&choices).unwrap();
        assert_eq!(
            gaussian.iter().map(Option::is_some).collect::<Vec<_>>(),
            names.map(|n| n.starts_with("sqint2"))
        );
        assert!(gaussian[..5].is_sorted_by(|a, b| a > b), "{gaussian:?}");
        // Columns of unlike size, heavy tails.
        let mut source = MemorySource::new(serde_json::json!({}));
        let mut w = crate::codec::testing::gaussian(96 * 320, 3);
        for (i, w) in w.iter_mut().enumerate() {
            *w *= w.abs() * (1.0 + (i % 320) as f32 / 100.0);
        }
        source.add(Role::FFN_UP, Some(0), &[96, 320], w);
        let plans: Vec<_> = choices
            .iter()
            .map(|c| Plan::choose(&source, &Recipe::new(*c)).unwrap().tensors.remove(0))
            .collect();
        let planned: Vec<Planned<'_>> = plans.iter().enumerate().collect();
        let trial = Trial::read(&source, 0, &source.infos[0], None, &mut Left::default()).unwrap();
        let outcomes = trial.outcomes(&planned, &gaussian).unwrap();
        for ((outcome, plan), name) in outcomes.iter().zip(&plans).zip(names) {
            let measured = trial.measure(plan).unwrap();
            let decibels = 10.0 * (outcome.error / measured.error).log10();
            assert!(decibels.abs() < 0.25, "{name}: {outcome:?} {measured:?}");
            assert_eq!(outcome.bytes, plan.length.max(), "{name}");
        }
    }

    #[test]
    fn a_layout_that_the_values_ask_for_is_counted() {
        // Weights of 16 levels per 32: plain groups store them exactly, fine ones do not.
        let mut source = MemorySource::new(serde_json::json!({}));
        let level = |i: usize| ((i * 7 + i / 32) % 16) as f32 * if i / 32 % 2 == 0 { 1.0 } else { 0.3 };
        source.add(Role::FFN_UP, Some(0), &[64, 512], (0..64 * 512).map(level).collect());
        let plan = Plan::choose(&source, &Recipe::new("int4".parse().unwrap())).unwrap().tensors.remove(0);
        let trial = Trial::read(&source, 0, &source.infos[0], None, &mut Left::default()).unwrap();
        let outcome = trial.outcomes(&[(0, &plan)], &[None]).unwrap()[0];
        assert_eq!((plan.length.max(), outcome.bytes), (64 * 512 * 9 / 16, 64 * 512 * 10 / 16));
        assert!(outcome.error < 1e-4, "{outcome:?}");
    }
}
