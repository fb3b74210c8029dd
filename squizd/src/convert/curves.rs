//! Rate-distortion curves of the tensors that a plan stores as HYBRID.

use super::{Progress, SourceRows, guide};
use crate::{
    Error, Result,
    calibration::{Calibration, Shared},
    codec::{
        Codec, InputMoments, Request, codec,
        hybrid::{RdPoint, rd_curve},
    },
    plan::Plan,
    source::TensorSource,
};
use squizd_spec::CodecId;

/// The name that the curve of all tensors together goes by.
pub const WHOLE: &str = "(all)";

/// A tensor's rate-distortion curve.
#[derive(Clone, Debug)]
pub struct TensorCurve {
    /// Stored name, or [`WHOLE`].
    pub name: String,
    /// Weights.
    pub weights: u64,
    /// Points in order of rate.
    pub points: Vec<RdPoint>,
}

/// The curves of all tensors that `plan` stores as HYBRID, about `points`
/// points each, and last that of all of them together ([`together`]); empty if
/// there is no such tensor. Every tensor is read once.
///
/// # Errors
/// If the source cannot be read or holds NaN or infinity, if `calibration`
/// belongs to another model, or when cancelled.
pub fn rd_curves(
    source: &dyn TensorSource,
    plan: &Plan,
    calibration: Option<&dyn Calibration>,
    points: usize,
    progress: &dyn Progress,
) -> Result<Vec<TensorCurve>> {
    let shared = calibration.map(|c| Shared::new(c, source.model().tie_embeddings));
    let mut curves = Vec::new();
    for planned in plan.tensors.iter().filter(|p| p.codec == CodecId::HYBRID) {
        let info = source
            .tensors()
            .get(planned.index)
            .ok_or_else(|| Error::invalid("the plan does not belong to this source"))?;
        progress.tensor(info, planned);
        let rows = SourceRows { source, info, index: planned.index, progress };
        let takes = codec(planned.codec).is_some_and(Codec::takes_guide);
        let moments = shared.as_ref().filter(|_| takes).map(|s| s.moments(info)).transpose()?.flatten();
        let parts: Vec<&InputMoments> = moments.iter().flat_map(|m| m.iter()).collect();
        let request = Request { options: planned.options, guide: guide(info, &parts)? };
        let points = rd_curve(&rows, &request, points)?;
        progress.advance(info.elements());
        curves.push(TensorCurve { name: info.name.clone(), weights: info.elements(), points });
    }
    if !curves.is_empty() {
        curves.push(TensorCurve {
            name: WHOLE.to_owned(),
            weights: curves.iter().map(|c| c.weights).sum(),
            points: together(&curves, points),
        });
    }
    Ok(curves)
}

/// The curve of tensors that all get the same rate, as a conversion gives it to
/// them: at about `points` rates from the least to the largest, every tensor is
/// at its last point of at most that rate (at its first if there is none).
pub fn together(curves: &[TensorCurve], points: usize) -> Vec<RdPoint> {
    let rates = || curves.iter().flat_map(|c| &c.points).map(|p| p.bits_per_weight);
    let (low, high) = (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max));
    let weights: u64 = curves.iter().filter(|c| !c.points.is_empty()).map(|c| c.weights).sum();
    let mut whole: Vec<RdPoint> = Vec::with_capacity(points + 1);
    for i in 0..=points.max(1) {
        let rate = low + (high - low) * (i as f64 / points.max(1) as f64);
        let mut sum = RdPoint { bits_per_weight: 0.0, signal: 0.0, noise: 0.0 };
        for curve in curves {
            let at = curve.points.partition_point(|p| p.bits_per_weight <= rate).saturating_sub(1);
            let Some(point) = curve.points.get(at) else { continue };
            sum.bits_per_weight += point.bits_per_weight * (curve.weights as f64 / weights.max(1) as f64);
            sum.signal += point.signal;
            sum.noise += point.noise;
        }
        if whole.last().is_none_or(|last| last.bits_per_weight < sum.bits_per_weight) && weights > 0 {
            whole.push(sum);
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(weights: u64, points: &[(f64, f64)]) -> TensorCurve {
        let point = |&(bits_per_weight, noise): &(f64, f64)| RdPoint { bits_per_weight, signal: 10.0, noise };
        TensorCurve { name: String::new(), weights, points: points.iter().map(point).collect() }
    }

    #[test]
    fn tensors_of_one_rate_add_up() {
        let curves =
            [curve(300, &[(2.0, 8.0), (3.0, 4.0), (4.0, 2.0)]), curve(100, &[(3.0, 1.0), (4.0, 0.5)])];
        let whole: Vec<_> =
            together(&curves, 2).iter().map(|p| (p.bits_per_weight, p.signal, p.noise)).collect();
        // At 2 bits the second tensor has its first point, of 3.
        assert_eq!(whole, [(2.25, 20.0, 9.0), (3.0, 20.0, 5.0), (4.0, 20.0, 2.5)]);
        assert_eq!(together(&[], 5), []);
        assert_eq!(together(&[curve(5, &[])], 5), []);
    }
}
