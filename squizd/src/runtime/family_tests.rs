//! Every family against transformers' logits of tiny random models
//! (`fixtures/families/make_reference.py`; `tests/runtime` goes the whole way
//! from their checkpoints), and rotary frequencies against transformers' own
//! functions (`make_rope_reference.py`).

use super::rope::Rope;
use super::testing::{MemoryTensor, MemoryWeights, max_difference};
use super::*;
use crate::Error;
use crate::eval;
use crate::model::{ModelConfig, Moe};
use serde_json::Value;
use squizd_spec::{CodecId, Part, Role};
use std::collections::BTreeMap;
use std::path::Path;

/// Largest logit difference between two ways to compute in `f32`.
const BOUND: f32 = 5e-5;

/// The cases, which are families and what models of one family do differently.
pub(crate) const FAMILIES: [&str; 12] = [
    "llama",
    "deepseek-llama",
    "mistral",
    "qwen2",
    "deepseek-qwen2",
    "qwen3",
    "qwen3moe",
    "smollm3",
    "phi3",
    "phi4",
    "gemma2",
    "gemma3",
];

#[derive(serde::Deserialize)]
pub(crate) struct Case {
    pub(crate) model: ModelConfig,
    pub(crate) tensors: BTreeMap<String, Vec<u64>>,
    pub(crate) ids: Vec<u32>,
    short_length: usize,
    pub(crate) logits: Vec<f32>,
    short: Vec<f32>,
}

impl Case {
    pub(crate) fn open(name: &str) -> (Self, MemoryWeights) {
        let case: Self = serde_json::from_str(&fixture(name)).unwrap();
        let mut weights = MemoryWeights::default();
        for (name, dims) in &case.tensors {
            let count = dims.iter().product::<u64>();
            let bytes = values(name, count).flat_map(f32::to_le_bytes).collect();
            let tensor = MemoryTensor::raw(name, dims.clone(), CodecId::RAW_F32, bytes);
            weights.tensors.insert(key(name), tensor);
        }
        (case, weights)
    }
}

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../fixtures/families/{name}.json"));
    std::fs::read_to_string(path).unwrap()
}

/// The weights of a stored name, as `values` in make_reference.py.
pub(crate) fn values(name: &str, count: u64) -> impl Iterator<Item = f32> {
    let fnv = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    let norm = name.contains("norm.weight");
    (1..=count).map(move |i| {
        let z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let u = ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0;
        if norm { 1.0 + u / 4.0 } else { u / 2.0 }
    })
}

pub(crate) fn key(name: &str) -> (Role, Option<u16>, Part) {
    let (module, part) = name.rsplit_once('.').unwrap();
    let part = Part::from_name(part).unwrap();
    match module.strip_prefix("blk.").and_then(|m| m.split_once('.')) {
        Some((layer, role)) => (Role::from_name(role).unwrap(), Some(layer.parse().unwrap()), part),
        None => (Role::from_name(module).unwrap(), None, part),
    }
}

#[test]
fn logits_are_those_of_the_reference() {
    for name in FAMILIES {
        let (case, weights) = Case::open(name);
        let model = Model::new(&case.model, &&weights).unwrap();
        let logits = eval::logits(&model, &case.ids).unwrap();
        let worst = max_difference(&logits, &case.logits);
        println!("{name}: largest logit difference {worst:e}");
        assert!(worst < BOUND, "{name}: {worst}");
    }
}

#[test]
fn decoding_agrees_with_the_reference() {
    for name in FAMILIES {
        let (case, weights) = Case::open(name);
        let model = Model::new(&case.model, &&weights).unwrap();
        let mut session = Session::new(&model, SessionOptions::default()).unwrap();
        let (start, rest) = case.ids.split_at(case.short_length);
        let worst = max_difference(session.forward(start).unwrap(), &case.short);
        assert!(worst < BOUND, "{name} after {} ids: {worst}", start.len());
        for id in rest {
            session.forward(&[*id]).unwrap();
        }
        let last = &case.logits[case.logits.len() - model.vocab_size()..];
        let worst = max_difference(session.logits_mut(), last);
        assert!(worst < BOUND, "{name} after all ids: {worst}");
    }
}

/// An option that changed nothing would not be tested by the fixtures.
#[test]
fn every_option_matters() {
    type Change = fn(&mut ModelConfig);
    let changes: &[(&str, &str, Change)] = &[
        ("llama", "rope scaling", |c| c.rope.scaling = None),
        ("llama", "epsilon", |c| c.norm_eps = 1e-2),
        ("mistral", "sliding window", |c| c.sliding_window = Some(4)),
        ("qwen2", "local layers", |c| c.local_layers = vec![false, true, true, true]),
        ("qwen3", "rope theta", |c| c.rope.theta = 5e5),
        ("qwen3moe", "normalised weights", |c| c.moe.as_mut().unwrap().normalize_weights = false),
        ("qwen3moe", "active experts", |c| c.moe.as_mut().unwrap().experts_per_token = 2),
        ("qwen3moe", "routed scale", |c| c.moe.as_mut().unwrap().routed_scale = Some(1.5)),
        ("smollm3", "layers without rope", |c| c.nope_layers = vec![false; 4]),
        ("phi3", "partial rotation", |c| (c.rope.scaling, c.rope.dim) = (None, 8)),
        ("phi3", "context ratio", |c| c.max_positions = 128),
        ("gemma2", "attention softcap", |c| c.attn_softcap = None),
        ("gemma2", "output softcap", |c| c.logit_softcap = None),
        ("gemma2", "attention scale", |c| c.attn_scale = None),
        ("gemma2", "embedding scale", |c| c.embedding_scale = Some(4.5)),
        ("gemma2", "activation", |c| c.activation = crate::model::Activation::Silu),
        ("gemma3", "local theta", |c| c.rope.local_theta = None),
        ("gemma3", "global scaling", |c| c.rope.scaling = None),
    ];
    for (name, what, change) in changes {
        let (mut case, weights) = Case::open(name);
        change(&mut case.model);
        let model = Model::new(&case.model, &&weights).unwrap();
        let difference = max_difference(&eval::logits(&model, &case.ids).unwrap(), &case.logits);
        assert!(difference > 1e-3, "{name}: another {what} changes the logits by {difference} only");
    }
}

#[test]
fn rotary_frequencies_are_those_of_transformers() {
    let (case, _) = Case::open("llama");
    let cases: Vec<Value> = serde_json::from_str(&fixture("rope")).unwrap();
    assert!(cases.len() >= 10);
    for expected in &cases {
        let config = ModelConfig {
            rope: serde_json::from_value(expected["rope"].clone()).unwrap(),
            head_dim: expected["head_dim"].as_u64().unwrap() as u32,
            max_positions: expected["max_positions"].as_u64().unwrap() as u32,
            ..case.model.clone()
        };
        let rope = Rope::new(&config, false).unwrap();
        let got = rope.frequencies(expected["length"].as_u64().unwrap() as usize);
        let factor = expected["attention_factor"].as_f64().unwrap();
        assert!((f64::from(got.attention_factor) - factor).abs() < 1e-6, "{expected}");
        let inverse: Vec<f64> =
            expected["inverse"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(got.inverse.len(), inverse.len());
        for (a, b) in got.inverse.iter().zip(&inverse) {
            assert!((f64::from(*a) - b).abs() < 1e-6 * b.abs(), "{a} is not {b}: {}", expected["rope"]);
        }
    }
}

#[test]
fn explicit_factors_divide_the_frequencies() {
    let (mut case, _) = Case::open("qwen3");
    let plain = Rope::new(&case.model, false).unwrap().frequencies(1);
    let factors = vec![1.0, 2.0, 4.0, 8.0, 16.0];
    case.model.rope.scaling = Some(crate::model::RopeScaling::Factors { factors: factors.clone() });
    let scaled = Rope::new(&case.model, false).unwrap().frequencies(1);
    for ((a, b), f) in scaled.inverse.iter().zip(&plain.inverse).zip(factors) {
        assert!((f64::from(*a) * f - f64::from(*b)).abs() < 1e-7 * f64::from(*b));
    }
}

/// The message of the error of loading a changed model.
fn refusal(name: &str, change: impl FnOnce(&mut ModelConfig, &mut MemoryWeights)) -> Error {
    let (mut case, mut weights) = Case::open(name);
    change(&mut case.model, &mut weights);
    Model::new(&case.model, &&weights).unwrap_err()
}

#[test]
fn what_cannot_be_run_right_is_refused_by_name() {
    let is = |error: Error, unsupported: bool, parts: &[&str]| {
        let text = error.to_string();
        assert_eq!(error.is_unsupported(), unsupported, "{text}");
        for part in parts {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
    };
    is(refusal("llama", |c, _| c.family = "deepseek2".into()), true, &["\"deepseek2\"", "qwen3moe"]);
    is(
        refusal("qwen3", |c, _| {
            c.mla = Some(crate::model::Mla {
                q_lora_rank: None,
                kv_lora_rank: 8,
                qk_nope_head_dim: 8,
                qk_rope_head_dim: 8,
                v_head_dim: 8,
            });
        }),
        true,
        &["multi-head latent attention"],
    );
    let moe = |change: fn(&mut Moe)| {
        move |c: &mut ModelConfig, _: &mut MemoryWeights| change(c.moe.as_mut().unwrap())
    };
    is(refusal("qwen3moe", moe(|m| m.sigmoid_scores = true)), true, &["moe.sigmoid_scores"]);
    is(refusal("qwen3moe", moe(|m| m.shared_ffn_size = Some(8))), true, &["shared expert"]);
    is(refusal("qwen3moe", moe(|m| m.groups = Some((4, 2)))), true, &["moe.groups"]);
    is(refusal("qwen3moe", moe(|m| m.experts_per_token = 9)), false, &["experts_per_token is 9", "8"]);
    is(refusal("qwen3moe", |c, _| c.moe = None), false, &["moe is absent"]);
    is(refusal("gemma3", |c, _| c.embedding_scale = None), false, &["embedding_scale is absent", "gemma3"]);
    is(refusal("llama", |c, _| c.num_kv_heads = 3), false, &["num_heads is 4", "num_kv_heads 3"]);
    is(refusal("llama", |c, _| c.hidden_size = 0), false, &["hidden_size is 0"]);
    is(refusal("llama", |c, _| c.norm_eps = f64::NAN), false, &["norm_eps is NaN"]);
    is(refusal("llama", |c, _| c.rope.dim = 7), false, &["rope.dim is 7"]);
    is(refusal("phi3", |c, _| c.rope.dim = 4), false, &["longrope with 3 short and 3 long factors"]);
    is(refusal("llama", |c, _| c.attn_softcap = Some(0.0)), false, &["attn_softcap is 0"]);
    is(refusal("qwen2", |c, _| c.local_layers.truncate(3)), false, &["local_layers is 3 long"]);
    is(refusal("llama", |c, _| c.vocab_size = 33), false, &["token_embd.weight", "[32, 24]", "[33, 24]"]);
    is(
        refusal("qwen2", |_, w| drop(w.tensors.remove(&key("blk.2.attn_k.bias")))),
        false,
        &["blk.2.attn_k.bias is missing", "qwen2"],
    );
    is(
        refusal("llama", |c, _| c.tie_embeddings = true),
        true,
        &["output.weight", "the head is the embedding"],
    );
    // A q/k norm that llama would ignore, and a layer past the last.
    is(refusal("qwen3", |c, _| c.family = "llama".into()), true, &["blk.0.attn_q_norm.weight", "no use"]);
    is(refusal("qwen3", |c, _| c.num_layers = 3), true, &["blk.3.attn_norm.weight"]);
    is(
        refusal("llama", |_, w| {
            w.tensors.get_mut(&key("blk.1.ffn_up.weight")).unwrap().data.pop();
        }),
        false,
        &["blk.1.ffn_up.weight", "1919 payload bytes", "f32"],
    );
    is(
        refusal("llama", |_, w| {
            w.tensors.get_mut(&key("blk.1.ffn_up.weight")).unwrap().codec = CodecId(0x4321);
        }),
        true,
        &["blk.1.ffn_up.weight", "Unknown codec 0x4321"],
    );
}

#[test]
fn bad_requests_leave_the_sequence_unchanged() {
    let (case, weights) = Case::open("qwen3");
    let model = Model::new(&case.model, &&weights).unwrap();
    let mut session = Session::new(&model, SessionOptions { context: 5, ..Default::default() }).unwrap();
    session.forward(&[1, 2, 3]).unwrap();
    for (ids, part) in [
        (&[][..], "no tokens"),
        (&[4, 32], "token id 32 at index 1 is outside the vocabulary of 32"),
        (&[1, 1, 1], "3 tokens after 3 do not fit the context of 5"),
    ] {
        let text = session.forward(ids).unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
        assert_eq!((session.tokens(), session.remaining()), (&[1, 2, 3][..], 2));
    }
    for options in [
        SessionOptions { context: 0, ..Default::default() },
        SessionOptions { batch: 0, ..Default::default() },
        SessionOptions { context: usize::MAX, ..Default::default() },
    ] {
        assert!(Session::new(&model, options).is_err(), "{options:?}");
    }
}
