//! The function of every family stays; the mistakes that scaling invites do
//! not come back.
#![allow(clippy::float_cmp, reason = "these values are exact")]

use super::{search::WORTHWHILE, *};
use crate::{
    Error, Result,
    calibration::{Calibration, Collected, CollectedSink, Detail, collect, input_of},
    codec::InputMoments,
    eval,
    plan::{CodecChoice, Plan, Recipe},
    runtime::{
        InputShape, Model,
        family_tests::{Case, FAMILIES},
        testing::max_difference,
    },
    source::{TensorInfo, TensorSource, testing::MemorySource},
};
use serde_json::json;
use squizd_spec::{CodecId, DType, Role};

/// Moments by input name.
#[derive(Default)]
struct Known(BTreeMap<String, Vec<InputMoments>>);

impl Calibration for Known {
    fn moments(&self, tensor: &TensorInfo) -> Result<Option<Vec<InputMoments>>> {
        Ok(input_of(tensor).and_then(|input| self.0.get(&input).cloned()))
    }

    fn sha256(&self, _: &dyn Fn() -> bool) -> Result<[u8; 32]> {
        Ok([7; 32])
    }
}

impl CollectedSink for Known {
    fn input(&mut self, shape: &InputShape, collected: &[Collected]) -> Result<()> {
        let name = crate::calibration::input_name(shape.role, shape.layer).unwrap();
        let sets =
            collected.iter().map(|c| InputMoments { importance: c.importance.clone(), hessian: Vec::new() });
        self.0.insert(name, sets.collect());
        Ok(())
    }

    fn window_done(&mut self) -> Result<()> {
        Ok(())
    }
}

fn recipe(codec: &str) -> Recipe {
    Recipe::new(codec.parse::<CodecChoice>().unwrap())
}

fn found(source: &dyn TensorSource, known: &Known, codec: &str, alphas: &[f32]) -> Scales {
    let plan = Plan::choose(source, &recipe(codec)).unwrap();
    search(source, &plan, known, alphas, |_| Ok(())).unwrap()
}

#[test]
fn every_family_computes_what_it_did() {
    for name in FAMILIES {
        let (case, weights) = Case::open(name);
        let model = Model::new(&case.model, &&weights).unwrap();
        let mut known = Known::default();
        collect(&model, &[&case.ids], Detail::Importance, &mut known).unwrap();
        let source = MemorySource::of_case(&case);
        let scales = found(&source, &known, "raw", &[0.5]);
        // Attention, value, feed-forward and up of every layer.
        assert_eq!(scales.groups.len(), 4 * usize::from(case.model.num_layers), "{name}");
        assert!(
            scales.groups.iter().all(|g| g.alpha == 0.5 && g.max_scale > 1.01),
            "{name}: {:?}",
            scales.groups
        );
        let scaled = ScaledSource::new(&source, &scales);
        let weights = MemorySource::weights(&scaled);
        let model = Model::new(&case.model, &&weights).unwrap();
        let logits = eval::logits(&model, &case.ids).unwrap();
        let difference = max_difference(&logits, &case.logits);
        assert!(difference < 1e-4, "{name}: {difference}");

        // The scaled model's inputs are what its calibration says.
        let mut again = Known::default();
        collect(&model, &[&case.ids], Detail::Importance, &mut again).unwrap();
        let divided = ScaledCalibration::new(&known, &scales);
        for info in scaled.tensors() {
            let (Some(a), Some(b)) = (divided.moments(info).unwrap(), again.moments(info).unwrap()) else {
                continue;
            };
            for (a, b) in a.iter().zip(&b) {
                for (a, b) in a.importance.iter().zip(&b.importance) {
                    assert!((a - b).abs() < 1e-3 * b.abs() + 1e-6, "{name} {}: {a} {b}", info.name);
                }
            }
        }
    }
}

/// A block with grouped-query attention where a few channels are loud.
fn loud() -> (MemorySource, Known) {
    let mut source = MemorySource::new(json!({}));
    let at = Some(0);
    source.add(Role::ATTN_NORM, at, &[64], (0..64).map(|i| 1.0 + i as f32 / 64.0).collect());
    for (role, rows) in [(Role::ATTN_Q, 64), (Role::ATTN_K, 32), (Role::ATTN_V, 32)] {
        source.add_gaussian(role, at, &[rows, 64]);
    }
    source.add_gaussian(Role::ATTN_OUTPUT, at, &[64, 64]);
    source.add(Role::FFN_NORM, at, &[64], vec![0.5; 64]);
    for (role, dims) in [(Role::FFN_GATE, [96, 64]), (Role::FFN_UP, [96, 64]), (Role::FFN_DOWN, [64, 96])] {
        source.add_gaussian(role, at, &dims);
    }
    let moments = |n: usize| {
        let importance =
            (0..n).map(|i| if i % 16 == 3 { 400.0 } else { 1.0 + i as f32 / n as f32 }).collect();
        vec![InputMoments { importance, hessian: Vec::new() }]
    };
    let names = ["attn_q", "attn_output", "ffn_gate", "ffn_down"];
    let known = names.map(|n| (format!("blk.0.{n}.input"), moments(if n == "ffn_down" { 96 } else { 64 })));
    (source, Known(known.into()))
}

#[test]
fn a_gain_is_divided_once_and_in_the_right_direction() {
    let (source, known) = loud();
    let scales = found(&source, &known, "raw", &[0.5]);
    let scaled = ScaledSource::new(&source, &scales);
    let both = |name: &str| (MemorySource::values_of(&source, name), MemorySource::values_of(&scaled, name));
    let (gain, gain_scaled) = both("blk.0.attn_norm.weight");
    let s: Vec<f32> = gain.iter().zip(&gain_scaled).map(|(a, b)| a / b).collect();
    // Once, not once for each of query, key and value: the weights have the
    // same factor, not its cube.
    for name in ["attn_q", "attn_k"] {
        let (w, scaled) = both(&format!("blk.0.{name}.weight"));
        for (row, scaled) in w.chunks(64).zip(scaled.chunks(64)) {
            for ((w, scaled), s) in row.iter().zip(scaled).zip(&s) {
                assert!((w * s - scaled).abs() <= 1e-5 * w.abs(), "{name}");
            }
        }
    }
    // Weights of loud channels grow, their gains shrink.
    let loudest = s.iter().copied().fold(0.0, f32::max);
    assert!(s[3] > 2.0 && s[3] == loudest && s[0] < 1.0, "{s:?}");
    // rms^alpha up to a factor, the geometric mean of which is one.
    assert!((s[3] / s[0] - 400f32.powf(0.25)).abs() < 1e-3);
    assert!(s.iter().map(|s| s.ln()).sum::<f32>().abs() < 1e-3);
}

#[test]
fn tensors_are_scaled_alone_and_in_any_pieces() {
    let (source, known) = loud();
    let scales = found(&source, &known, "raw", &[0.3]);
    let scaled = ScaledSource::new(&source, &scales);
    for (index, info) in scaled.tensors().iter().enumerate() {
        assert!(scales.changes(index) && info.dtype == DType::F32, "{}", info.name);
        let whole = MemorySource::values_of(&scaled, &info.name);
        assert_ne!(whole, MemorySource::values_of(&source, &info.name), "{}", info.name);
        let mut pieces = vec![0.0; whole.len()];
        let cols = info.cols();
        for start in (0..info.rows()).rev().step_by(5) {
            let rows = start.saturating_sub(4)..start + 1;
            let values = &mut pieces[(rows.start * cols) as usize..(rows.end * cols) as usize];
            scaled.read_f32(index, rows.clone(), values).unwrap();
            assert!(scaled.read_native(index, rows).unwrap().is_none(), "the source's bytes are not scaled");
        }
        assert_eq!(pieces, whole, "{}", info.name);
    }
}

#[test]
fn scaled_gains_are_never_quantized() {
    let (source, known) = loud();
    let scales = found(&source, &known, "int4", &[0.2]);
    let scaled = ScaledSource::new(&source, &scales);
    let plan = Plan::choose(&scaled, &recipe("int4")).unwrap();
    for (planned, info) in plan.tensors.iter().zip(scaled.tensors()) {
        let gain = info.name.contains("norm");
        assert_eq!(planned.codec, if gain { CodecId::RAW_F32 } else { CodecId::INT4 }, "{}", info.name);
    }
}

/// Importance-weighted error of storing all matrices with a codec.
fn stored_error(source: &dyn TensorSource, known: &dyn Calibration, codec: &str) -> f64 {
    let choice: CodecChoice = codec.parse().unwrap();
    let codec = crate::codec::codec(choice.codec.unwrap()).unwrap();
    let mut total = 0.0;
    for (index, info) in source.tensors().iter().enumerate() {
        let Some(moments) = known.moments(info).unwrap() else { continue };
        let sample = crate::codec::Sample::read(source, index, info, 0..info.rows(), u64::MAX).unwrap();
        assert_eq!(sample.values, MemorySource::values_of(source, &info.name));
        let mut errors = sample.round_trip(codec, choice.options, Some(&moments[0])).unwrap();
        errors.iter_mut().zip(&sample.values).for_each(|(e, w)| *e -= w);
        total += crate::codec::output_error(&errors, sample.cols(), Some(&moments[0]));
    }
    total
}

#[test]
fn the_search_lowers_the_error_and_leaves_alone_what_it_cannot_help() {
    let (source, known) = loud();
    let scales = found(&source, &known, "int4:g32", ALPHAS);
    assert!(scales.groups.iter().any(|g| g.alpha > 0.0), "{:?}", scales.groups);
    for g in &scales.groups {
        assert!(g.error_ratio <= 1.0 && (g.alpha == 0.0) == (g.error_ratio > WORTHWHILE), "{g:?}");
    }
    let scaled = ScaledSource::new(&source, &scales);
    let divided = ScaledCalibration::new(&known, &scales);
    let (before, after) =
        (stored_error(&source, &known, "int4:g32"), stored_error(&scaled, &divided, "int4:g32"));
    println!("weighted error {before} -> {after}, {:?}", scales.groups);
    assert!(after < 0.9 * before, "{before} {after}");

    // Codecs without rounding have nothing to gain.
    assert!(found(&source, &known, "q8", ALPHAS).is_empty());
    // Channels of one loudness neither.
    let mut even = loud().1;
    even.0.values_mut().flatten().for_each(|m| m.importance.fill(1.0));
    let scales = found(&source, &even, "int4:g32", ALPHAS);
    assert!(scales.is_empty() && scales.groups.iter().all(|g| g.alpha == 0.0), "{:?}", scales.groups);
    // Silence and what calibration does not know stay as they are.
    even.0.values_mut().flatten().for_each(|m| m.importance.fill(0.0));
    assert!(found(&source, &even, "int4:g32", &[0.5]).groups.iter().all(|g| g.max_scale == 1.0));
    assert!(found(&source, &Known::default(), "int4:g32", &[0.5]).groups.is_empty());
}

#[test]
fn what_cannot_be_scaled_right_is_refused() {
    let (mut source, known) = loud();
    let plan = Plan::choose(&source, &recipe("int4")).unwrap();
    let refused = |source: &MemorySource, known: &Known, alphas: &[f32]| {
        search(source, &plan, known, alphas, |_| Ok(())).unwrap_err().to_string()
    };
    assert!(refused(&source, &known, &[1.5]).contains("1.5"));
    assert!(refused(&source, &known, &[0.1, f32::NAN]).contains("NaN"));
    let (_, mut other) = loud();
    other.0.values_mut().flatten().for_each(|m| m.importance.push(1.0));
    let message = refused(&source, &other, ALPHAS);
    assert!(message.contains("blk.0.attn_q.weight") && message.contains("another model"), "{message}");
    assert!(matches!(
        search(&source, &plan, &known, ALPHAS, |_| Err(Error::Cancelled)),
        Err(Error::Cancelled)
    ));
    source.infos[0].role = Role::OTHER;
    assert!(refused(&source, &known, ALPHAS).contains("what it does is unknown"));
}
