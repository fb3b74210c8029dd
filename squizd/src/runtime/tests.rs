//! The runtime against transformers, on trained models.

use super::testing::{Reference, Trained, argmax, max_difference};
use super::*;
use crate::codec::Precision;
use crate::eval;
use squizd_spec::CodecId;
use std::ops::ControlFlow;

/// Bound on the largest absolute difference of a logit.
const BOUND: f32 = 1e-3;

fn greedy(model: &Model<'_>, options: SessionOptions, prompt: &[u32], count: usize) -> Generated {
    let mut session = Session::new(model, options).unwrap();
    let options = GenerateOptions { max_tokens: count, stop: &[] };
    generate(&mut session, prompt, &options, argmax, |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn tiny_logits_and_greedy_text_are_those_of_transformers() {
    let trained = Trained::tiny();
    let model = Model::new(&trained.config, &&trained.weights).unwrap();
    let reference = trained.reference();
    let mut worst = 0f32;
    for i in 0..4 {
        let ids = reference.ids(&format!("ids.{i}"));
        let logits = eval::logits(&model, &ids).unwrap();
        worst = worst.max(max_difference(&logits, &reference.floats(&format!("logits.{i}"))));
        let want = reference.ids(&format!("greedy.{i}"));
        let got = greedy(&model, SessionOptions::default(), &ids, 32);
        assert_eq!(got.tokens, want[ids.len()..], "prompt {i}");
        assert_eq!((got.reason, got.decode_steps), (StopReason::MaxTokens, 31));
    }
    println!("tiny-qwen3-1m: largest logit difference {worst:e}");
    assert!(worst < BOUND, "{worst}");
}

#[cfg(feature = "text")]
#[test]
fn tiny_perplexity_is_that_of_transformers() {
    let trained = Trained::tiny();
    let model = Model::new(&trained.config, &&trained.weights).unwrap();
    let ids = trained.heldout(usize::MAX);
    let result = eval::perplexity(&model, &ids, 256, Some(0), |_, _| {}).unwrap();
    println!("tiny-qwen3-1m: {result:?}");
    assert_eq!(result.tokens, 19_363);
    assert!((result.mean_nll - 2.869_713_024_629_369_4).abs() < 2e-6, "{result:?}");
}

#[test]
fn natural_logits_and_greedy_text_are_those_of_transformers() {
    let Some(trained) = Trained::natural() else { return };
    let model = Model::new(&trained.config, &&trained.weights).unwrap();
    let reference: Reference = trained.reference();
    let mut worst = 0f32;
    for i in 0..4 {
        let ids = reference.ids(&format!("prompt{i}.input_ids"));
        let logits = eval::logits(&model, &ids).unwrap();
        let last = &logits[logits.len() - model.vocab_size()..];
        worst = worst.max(max_difference(last, &reference.floats(&format!("prompt{i}.logits"))));
        if i == 0 {
            worst = worst.max(max_difference(&logits, &reference.floats("prompt0.logits_all")));
        }
        let got = greedy(&model, SessionOptions::default(), &ids, 40);
        assert_eq!(got.tokens, reference.ids(&format!("prompt{i}.greedy_ids")), "prompt {i}");
    }
    println!("natural-qwen3-28m: largest logit difference {worst:e}");
    assert!(worst < BOUND, "{worst}");
}

/// The first two windows of the reference protocol (expected value: an
/// independent float64 forward pass of this model); with `SQUIZD_FULL` set all of
/// it, against transformers.
#[cfg(feature = "text")]
#[test]
fn natural_perplexity_is_that_of_transformers() {
    let Some(trained) = Trained::natural() else { return };
    let model = Model::new(&trained.config, &&trained.weights).unwrap();
    let ids = trained.heldout(65_536);
    assert_eq!(ids.len(), 19_238);
    if std::env::var("SQUIZD_FULL").is_ok() {
        let result = eval::perplexity(&model, &ids, 512, None, |_, _| {}).unwrap();
        println!("natural-qwen3-28m: {result:?}");
        assert_eq!(result.tokens, 19_200);
        assert!((result.mean_nll - 2.356_176_234_5).abs() < 2e-6, "{result:?}");
    } else {
        let result = eval::perplexity(&model, &ids[..1024], 512, None, |_, _| {}).unwrap();
        println!("natural-qwen3-28m, two windows: {result:?}");
        assert_eq!(result.tokens, 1022);
        assert!((result.mean_nll - 3.307_086_908_773_552).abs() < 1e-6, "{result:?}");
    }
}

#[test]
fn every_way_to_compute_agrees() {
    let trained = Trained::tiny();
    let model = Model::new(&trained.config, &&trained.weights).unwrap();
    let ids: Vec<u32> = (0..100u32).map(|i| (i * 37 + 11) % 1024).collect();
    let whole = eval::logits(&model, &ids).unwrap();
    let vocab = model.vocab_size();
    let row = |i: usize| &whole[i * vocab..][..vocab];
    let exact = SessionOptions::default();
    // Batches of every size class, and one token at a time.
    for batch in [1, 3, 7, 64] {
        let mut session = Session::new(&model, SessionOptions { batch, ..exact }).unwrap();
        session
            .forward_all(&ids, |i, logits| {
                assert!(max_difference(logits, row(i)) < 1e-4, "batches of {batch}, position {i}");
                Ok(())
            })
            .unwrap();
        assert_eq!(session.tokens(), ids);
    }
    // Going back and on.
    let mut session = Session::new(&model, exact).unwrap();
    session.forward(&ids).unwrap();
    session.truncate(40);
    assert!(max_difference(session.forward(&ids[40..70]).unwrap(), row(69)) < 1e-4);
    // A rounded cache stays close.
    let mut session = Session::new(&model, SessionOptions { kv: KvType::F16, ..exact }).unwrap();
    let difference = max_difference(session.forward(&ids).unwrap(), row(99));
    assert!(difference > 0.0 && difference < 0.05, "{difference}");
    // One thread or two.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(pool.install(|| eval::logits(&model, &ids).unwrap()), whole);
}

/// Mean NLL of the sequences, one token at a time.
fn nll_by_steps(model: &Model<'_>, precision: Precision, sequences: &[Vec<u32>]) -> f64 {
    let (mut total, mut count) = (0.0, 0.0);
    for ids in sequences {
        let mut session = Session::new(model, SessionOptions { precision, ..Default::default() }).unwrap();
        for pair in ids.windows(2) {
            let logits = session.forward(&pair[..1]).unwrap();
            let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
            total += sum.ln() - f64::from(logits[pair[1] as usize]);
            count += 1.0;
        }
    }
    total / count
}

#[test]
fn quantized_weights_and_inputs_cost_what_they_should() {
    let trained = Trained::tiny();
    let sequences = [0, 1, 2, 3].map(|i| trained.reference().ids(&format!("greedy.{i}")));
    let exact = Model::new(&trained.config, &&trained.weights).unwrap();
    let reference = nll_by_steps(&exact, Precision::F32, &sequences);
    for (codec, bound) in [(CodecId::Q8, 0.01), (CodecId::INT4, 0.15)] {
        let weights = trained.weights.encoded(codec);
        let model = Model::new(&trained.config, &&weights).unwrap();
        let [floats, rounded] = [Precision::F32, Precision::Q8].map(|p| nll_by_steps(&model, p, &sequences));
        println!("{codec}: NLL {reference:.4} raw, {floats:.4}, {rounded:.4} with 8-bit inputs");
        assert!((floats - reference).abs() < bound, "{codec}: {floats} for {reference}");
        assert!(
            floats.to_bits() != rounded.to_bits() && (rounded - floats).abs() < 0.01,
            "{codec}: {rounded}"
        );
        // So do prompts whose inputs are rounded, wherever their last batch ends.
        let prompt = |precision, batch| {
            let options = SessionOptions { precision, batch, ..Default::default() };
            Session::new(&model, options).unwrap().forward(&sequences[2]).unwrap().to_vec()
        };
        assert_eq!(sequences[2].len() % 38, 1, "the last batch is a single token");
        for batch in [38, 256] {
            let [exact, rounded] = [Precision::F32, Precision::Q8].map(|p| prompt(p, batch));
            let range = exact.iter().fold(0f32, |m, l| m.max(l.abs()));
            let difference = max_difference(&exact, &rounded);
            println!("{codec}: logits up to {range}, {difference:e} off with 8-bit inputs");
            assert!(difference > 0.0 && difference < 0.03 * range, "{codec}: {difference}");
        }
    }
}

/// Rounding a prompt's inputs to 8 bits must not be seen beside what 4 bits of the
/// weights cost (0.033, docs/results/quality.md).
#[test]
fn prompts_of_rounded_inputs_diverge_little() {
    let Some(trained) = Trained::natural() else { return };
    let weights = trained.weights.encoded(CodecId::INT4);
    let model = Model::new(&trained.config, &&weights).unwrap();
    let (mut total, mut count) = (0.0, 0.0);
    for i in 0..4 {
        let ids = trained.reference().ids(&format!("prompt{i}.input_ids"));
        let [exact, rounded] = [Precision::F32, Precision::Q8].map(|precision| {
            let mut session =
                Session::new(&model, SessionOptions { precision, ..Default::default() }).unwrap();
            let mut all = Vec::new();
            let each = |_, logits: &[f32]| {
                let sum = logits.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln();
                all.push(logits.iter().map(|l| f64::from(*l) - sum).collect::<Vec<_>>());
                Ok(())
            };
            session.forward_all(&ids, each).unwrap();
            all
        });
        for (p, q) in exact.iter().zip(&rounded) {
            total += p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            count += 1.0;
        }
    }
    let divergence = total / count;
    println!("natural-qwen3-28m: divergence {divergence:e} with 8-bit inputs, over {count} positions");
    assert!(count > 16.0 && divergence > 0.0 && divergence < 1e-3, "{divergence}");
}

/// What a server needs to cut prompts and to keep their beginnings.
#[test]
fn prompts_in_pieces_of_four_or_more_are_the_same_to_the_bit() {
    let trained = Trained::tiny();
    let weights = trained.weights.encoded(CodecId::INT4);
    let model = Model::new(&trained.config, &&weights).unwrap();
    let ids: Vec<u32> = (0..100u32).map(|i| (i * 37 + 11) % 1024).collect();
    let options = SessionOptions { precision: Precision::Q8, kv: KvType::F16, ..Default::default() };
    let whole = Session::new(&model, options).unwrap().forward(&ids).unwrap().to_vec();
    for piece in [4, 7, 16, 33, 96] {
        let mut session = Session::new(&model, options).unwrap();
        for ids in ids.chunks(piece).filter(|c| c.len() >= 4) {
            session.forward(ids).unwrap();
        }
        session.truncate(80);
        assert!(session.forward(&ids[80..]).unwrap() == whole, "pieces of {piece}");
    }
}

#[test]
fn the_first_token_is_handed_out_before_the_second_is_computed() {
    let trained = Trained::tiny();
    let model = Model::new(&trained.config, &&trained.weights).unwrap();
    let mut session = Session::new(&model, SessionOptions::default()).unwrap();
    let options = GenerateOptions { max_tokens: 3, stop: &[] };
    // Every forward pass but the last yields one sample.
    let events = std::cell::RefCell::new(String::new());
    let sample = |logits: &mut [f32]| {
        events.borrow_mut().push('s');
        argmax(logits)
    };
    let token = |_| {
        events.borrow_mut().push('t');
        ControlFlow::Continue(())
    };
    generate(&mut session, &[1, 2, 3], &options, sample, token).unwrap();
    assert_eq!(events.into_inner(), "ststst");
}

#[test]
fn warming_up_leaves_no_trace() {
    let trained = Trained::tiny();
    let model = Model::new(&trained.config, &&trained.weights).unwrap();
    let mut cold = Session::new(&model, SessionOptions::default()).unwrap();
    for context in [1, 3, 64] {
        let options = SessionOptions { context, ..SessionOptions::default() };
        let mut warm = Session::new(&model, options).unwrap();
        warm.warm_up().unwrap();
        assert_eq!((warm.tokens().len(), warm.remaining()), (0, context));
        cold.truncate(0);
        assert_eq!(warm.forward(&[7]).unwrap(), cold.forward(&[7]).unwrap());
    }
}

#[test]
fn a_cache_of_8_bits_changes_logits_little() {
    let trained = Trained::tiny();
    let model = Model::new(&trained.config, &&trained.weights).unwrap();
    let ids: Vec<u32> = trained.reference().ids("ids.0");
    let last = |kv| {
        let mut session = Session::new(&model, SessionOptions { kv, ..SessionOptions::default() }).unwrap();
        session.forward(&ids).unwrap().to_vec()
    };
    let exact = last(KvType::F32);
    let range = exact.iter().fold(0f32, |m, l| m.max(l.abs()));
    let [f16, q8] = [KvType::F16, KvType::Q8].map(|kv| max_difference(&exact, &last(kv)));
    println!("tiny-qwen3-1m: logits up to {range}, largest difference with f16 {f16:e}, q8 {q8:e}");
    assert!(f16 < 2e-3 * range && q8 < 3e-2 * range && q8 > 0.0, "{range} {f16} {q8}");
}
