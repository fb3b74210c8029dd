//! Whole models on the device against the CPU's f32 path.

use super::math::Math;
use super::model::GpuModel;
use super::session::GpuSession;
use super::tests::gpu;
use super::weights::Residency;
use crate::runtime::family_tests::{Case, FAMILIES};
use crate::runtime::testing::{Trained, argmax, max_difference};
use crate::runtime::{KvType, Model, Session, SessionOptions};
use squizd_spec::CodecId;
use std::ops::ControlFlow;

/// Bound on the largest difference of a logit, f32 throughout.
const BOUND: f32 = 2e-4;

fn load<'m, 'w>(model: &'m Model<'w>, math: Math) -> Option<GpuModel<'m, 'w>> {
    Some(GpuModel::new(gpu()?, model, None, math, &mut |_| {}).unwrap())
}

/// Greedy continuation on the CPU, one token at a time.
fn greedy_cpu(model: &Model<'_>, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut session = Session::new(model, SessionOptions::default()).unwrap();
    let mut id = argmax(session.forward(prompt).unwrap());
    let mut ids = vec![id];
    while ids.len() < count {
        id = argmax(session.forward(&[id]).unwrap());
        ids.push(id);
    }
    ids
}

#[test]
fn tiny_text_and_logits_are_those_of_the_cpu() {
    let trained = Trained::tiny();
    let codecs = [
        CodecId::Q8,
        CodecId::INT4,
        CodecId::INT3,
        CodecId::INT2,
        CodecId::MXFP4,
        CodecId::HYBRID,
        CodecId::ZPLANES,
        CodecId::TCA_TBE,
        CodecId::SQINT2,
        CodecId::ASTC,
    ];
    for codec in std::iter::once(None).chain(codecs.map(Some)) {
        let weights = codec.map(|c| trained.weights.encoded(c));
        let weights = weights.as_ref().unwrap_or(&trained.weights);
        let model = Model::new(&trained.config, &weights).unwrap();
        let Some(on_gpu) = load(&model, Math::F32) else { return };
        let options = SessionOptions { context: 256, ..SessionOptions::default() };
        let prompt = trained.reference().ids("ids.0");
        let (first, want) = {
            let mut session = Session::new(&model, options).unwrap();
            let logits = session.forward(&prompt).unwrap();
            (logits.to_vec(), greedy_cpu(&model, &prompt, 24))
        };
        let mut session = GpuSession::new(&on_gpu, options).unwrap();
        let logits = session.forward(&prompt).unwrap();
        let difference = max_difference(logits, &first);
        println!("{codec:?}: largest logit difference {difference:e}");
        assert!(difference < BOUND, "{codec:?}: {difference}");
        let start = argmax(logits);
        assert_eq!(start, want[0]);
        // Token by token, then without round trips.
        let mut ids = vec![start];
        while ids.len() < 12 {
            ids.push(argmax(session.forward(&ids[ids.len() - 1..]).unwrap()));
        }
        ids.push(session.likeliest(&ids[11..]).unwrap());
        let mut rest = Vec::new();
        let take = |id: u32, rest: &mut Vec<u32>, most: usize| {
            rest.push(id);
            if rest.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        // Broken off with a token under way, and on again.
        session.greedy(ids[12], 11, &mut |id| take(id, &mut rest, 4)).unwrap();
        assert_eq!(session.tokens().len(), prompt.len() + 16);
        session.greedy(rest[3], 7, &mut |id| take(id, &mut rest, 99)).unwrap();
        ids.extend(rest);
        assert_eq!(ids, want, "{codec:?}");
        // Attention, four products, which make norms and gating themselves; strips of
        // HYBRID are not joined. Kernels of other lanes are told all.
        let (mut per_layer, mut others) = match codec {
            Some(CodecId::HYBRID) => (8, 2),
            Some(CodecId::ASTC) => (8, 3),
            _ => (5, 2),
        };
        if on_gpu.blocks && !trained.config.head_dim.is_multiple_of(32) {
            per_layer += 1;
        }
        // Four inputs of a layer are rotated, two of them norms and one gated on the
        // way, that of the head, a norm, too, and the row of the embedding.
        if codec == Some(CodecId::SQINT2) {
            per_layer += 4;
            others += 2;
        }
        let layers = usize::from(trained.config.num_layers);
        assert_eq!(session.dispatches_per_token().unwrap(), per_layer * layers + others, "{codec:?}");
    }
}

/// All logits come back, or the likeliest: the same tokens are drawn.
#[cfg(feature = "text")]
#[test]
fn draws_from_the_likeliest_are_those_from_all() {
    use crate::runtime::{GenerateOptions, generate, generate_from};
    use crate::text::{Sampler, SamplerOptions};
    let trained = Trained::tiny();
    let weights = trained.weights.encoded(CodecId::INT4);
    let model = Model::new(&trained.config, &&weights).unwrap();
    let Some(on_gpu) = load(&model, Math::F32) else { return };
    let prompt = trained.reference().ids("ids.0");
    let until = GenerateOptions { max_tokens: 24, stop: &[] };
    for top_k in [2, 12, 300] {
        let options = SamplerOptions { temperature: 0.9, top_p: 0.95, top_k, min_p: 0.01, seed: 5 };
        let mut session = GpuSession::new(&on_gpu, SessionOptions::default()).unwrap();
        let mut sampler = Sampler::new(options).unwrap();
        let all = generate(
            &mut session,
            &prompt,
            &until,
            |logits| sampler.sample(logits),
            |_| ControlFlow::Continue(()),
        );
        session.truncate(0);
        let mut sampler = Sampler::new(options).unwrap();
        let reach = sampler.reach().unwrap();
        let top = generate_from(
            &mut session,
            &prompt,
            &until,
            reach,
            |top| sampler.sample_of(top),
            |_| ControlFlow::Continue(()),
        );
        let (all, top) = (all.unwrap(), top.unwrap());
        assert_eq!(all.tokens, top.tokens, "{top_k}");
        assert_eq!(top.tokens.len(), 24);
    }
}

#[test]
fn rounded_inputs_cost_what_they_should() {
    let trained = Trained::tiny();
    let weights = trained.weights.encoded(CodecId::INT4);
    let model = Model::new(&trained.config, &&weights).unwrap();
    let prompt = trained.reference().ids("greedy.1");
    let by_steps = |math: Math| {
        let on_gpu = load(&model, math)?;
        let mut session = GpuSession::new(&on_gpu, SessionOptions::default()).unwrap();
        for id in &prompt {
            session.forward(&[*id]).unwrap();
        }
        assert_eq!(on_gpu.math(), math);
        Some(session.logits_mut().to_vec())
    };
    let Some(exact) = by_steps(Math::F32) else { return };
    for (math, bound) in [(Math::I8, 0.5), (Math::F16, 0.05), (Math::I24, 2e-4)] {
        if math == Math::F16 && !gpu().is_some_and(|g| g.abilities().f16) {
            continue;
        }
        let difference = by_steps(math).map_or(f32::NAN, |logits| max_difference(&logits, &exact));
        println!("{math}: largest logit difference {difference}");
        assert!(difference > 0.0 && difference < bound, "{math}: {difference}");
    }
}

#[test]
fn every_family_agrees_with_the_reference() {
    for name in FAMILIES {
        let (case, weights) = Case::open(name);
        let model = Model::new(&case.model, &&weights).unwrap();
        let Some(on_gpu) = load(&model, Math::F32) else { return };
        let vocab = model.vocab_size();
        for batch in [64, 1, 5] {
            let options = SessionOptions { batch, ..SessionOptions::default() };
            let mut session = GpuSession::new(&on_gpu, options).unwrap();
            let mut worst = 0f32;
            session
                .forward_all(&case.ids, |i, logits| {
                    worst = worst.max(max_difference(logits, &case.logits[i * vocab..][..vocab]));
                    Ok(())
                })
                .unwrap();
            assert!(worst < 1e-4, "{name} in batches of {batch}: {worst}");
            // Back, and on again.
            let half = case.ids.len() / 2;
            session.truncate(half);
            let logits = session.forward(&case.ids[half..]).unwrap();
            let last = &case.logits[case.logits.len() - vocab..];
            let difference = max_difference(logits, last);
            assert!(difference < 1e-4, "{name} in batches of {batch}, continued: {difference}");
        }
    }
}

/// Positions in several shares, whose results are brought together, with the coded
/// form and without.
#[test]
fn long_contexts_are_shared_out() {
    let trained = Trained::tiny();
    let model = Model::new(&trained.config, &&trained.weights).unwrap();
    let encoded = trained.weights.encoded(CodecId::INT4);
    let rounded = Model::new(&trained.config, &&encoded).unwrap();
    let ids: Vec<u32> = (0..1050).map(|i| i * 37 % trained.config.vocab_size).collect();
    // Where two caches of halves round apart, a value differs by a step.
    let cases = [(&model, Math::F32, KvType::F32, BOUND), (&rounded, Math::I24, KvType::F16, 5e-3)];
    for (model, math, kv, bound) in cases {
        let Some(on_gpu) = load(model, math) else { return };
        let options = SessionOptions { context: 1200, kv, ..SessionOptions::default() };
        let mut reference = Session::new(model, options).unwrap();
        reference.forward(&ids).unwrap();
        let mut session = GpuSession::new(&on_gpu, options).unwrap();
        let whole = session.dispatches_per_token().unwrap();
        session.forward(&ids[..1020]).unwrap();
        for id in &ids[1020..] {
            session.forward(&[*id]).unwrap();
        }
        let layers = usize::from(trained.config.num_layers);
        assert_eq!(session.dispatches_per_token().unwrap(), whole + layers);
        let difference = max_difference(session.logits_mut(), reference.logits_mut());
        println!("{math} {kv}: largest logit difference {difference:e}");
        assert!(difference < bound, "{math} {kv}: {difference}");
    }
}

#[test]
fn a_rounded_cache_stays_close() {
    let trained = Trained::tiny();
    let model = Model::new(&trained.config, &&trained.weights).unwrap();
    let Some(on_gpu) = load(&model, Math::F32) else { return };
    let ids = trained.reference().ids("greedy.2");
    let [exact, rounded] = [KvType::F32, KvType::F16].map(|kv| {
        let options = SessionOptions { kv, ..SessionOptions::default() };
        GpuSession::new(&on_gpu, options).unwrap().forward(&ids).unwrap().to_vec()
    });
    let difference = max_difference(&exact, &rounded);
    assert!(difference > 0.0 && difference < 0.05, "{difference}");
}

#[test]
fn misuse_is_an_error() {
    let trained = Trained::tiny();
    let model = Model::new(&trained.config, &&trained.weights).unwrap();
    let Some(on_gpu) = load(&model, Math::F32) else { return };
    assert!(matches!(on_gpu.residency(), Residency::Uploaded(_)));
    let options = SessionOptions { context: 4, ..SessionOptions::default() };
    let mut session = GpuSession::new(&on_gpu, options).unwrap();
    assert!(session.forward(&[]).is_err());
    assert!(session.forward(&[1 << 30]).is_err());
    assert!(session.forward(&[1; 5]).unwrap_err().to_string().contains("--ctx-size"));
    assert!(session.tokens().is_empty());
    assert!(GpuSession::new(&on_gpu, SessionOptions { context: 0, ..options }).is_err());
}
