//! Every family against `fixtures/arch/checkpoints.json`, made by transformers
//! and gguf's own name map (`make_checkpoints.py`).

use super::{
    virtual_store::{Content, Virtual},
    *,
};
use crate::source::{
    config::{self, SourceConfig},
    gguf::{GgufMetadata, Value as Meta},
    model_source::{Companions, ModelSource},
    pieces::MappedTensor,
};
use serde_json::Value;
use squizd::model::{ModelConfig, RopeScaling, SpecialTokens};

pub(super) fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/arch/checkpoints.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Embeddings and heads, which dominate reading, cut to five rows.
pub(super) fn shrunk(checkpoint: &Value) -> Value {
    let mut c = checkpoint.clone();
    let cut = |list: &mut Value| {
        for entry in list.as_array_mut().into_iter().flatten() {
            let name = entry[0].as_str().unwrap_or_default();
            if name.contains("embed_tokens")
                || name.starts_with("lm_head")
                || name.starts_with("output.")
                || name.starts_with("token_embd")
            {
                entry[1][0] = 5.into();
            }
        }
    };
    cut(&mut c["hf"]);
    cut(&mut c["gguf"]["tensors"]);
    c
}

fn zeros(_: &str) -> Content {
    Box::new(|_, _| 0.0)
}

/// Zeros, but for a head, which must not be taken for the embedding.
fn distinct_head(name: &str) -> Content {
    let head = name.starts_with("lm_head") || name == "output.weight";
    Box::new(move |_, _| f32::from(u8::from(head)))
}

pub(super) fn hf_config(checkpoint: &Value) -> SourceConfig {
    let text = serde_json::to_vec(&checkpoint["config"]).unwrap();
    config::hf::parse(&text, false).unwrap_or_else(|e| panic!("{}: {e}", checkpoint["model"]))
}

pub(super) fn metadata(checkpoint: &Value) -> GgufMetadata {
    let pairs = checkpoint["gguf"]["metadata"].as_object().unwrap().iter();
    let pairs = pairs.map(|(key, value)| {
        let value = match value {
            Value::String(s) => Meta::Str(s.clone()),
            Value::Bool(b) => Meta::Bool(*b),
            Value::Number(n) if n.is_f64() => Meta::F32(n.as_f64().unwrap() as f32),
            other => Meta::U32(other.as_u64().unwrap().try_into().unwrap()),
        };
        (key.clone(), value, 0)
    });
    GgufMetadata::new("test.gguf".to_owned(), pairs.collect()).unwrap()
}

fn mapped(store: &Virtual, naming: Naming, cfg: &SourceConfig) -> Mapping {
    map(store, naming, cfg, MappingOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", cfg.family.name))
}

fn refusal(store: &Virtual, naming: Naming, cfg: &SourceConfig) -> String {
    map(store, naming, cfg, MappingOptions::default()).expect_err("must be refused").to_string()
}

/// Compares with what transformers' own configuration class says.
#[allow(clippy::float_cmp, reason = "both sides are read from JSON")]
fn check_expected(what: &str, m: &ModelConfig, expected: &Value) {
    let number = |key: &str| expected[key].as_f64();
    let same = |key: &str, ours: f64| assert_eq!(Some(ours), number(key), "{what}: {key}");
    same("hidden_size", m.hidden_size.into());
    same("num_layers", m.num_layers.into());
    same("num_heads", m.num_heads.into());
    same("num_kv_heads", m.num_kv_heads.into());
    same("head_dim", m.head_dim.into());
    same("ffn_size", m.ffn_size.into());
    same("vocab_size", m.vocab_size.into());
    same("max_positions", m.max_positions.into());
    same("norm_eps", m.norm_eps);
    same("theta", m.rope.theta);
    let rotary = m.mla.as_ref().map_or(m.head_dim, |a| a.qk_rope_head_dim);
    assert_eq!(
        f64::from(m.rope.dim),
        f64::from(rotary) * number("rotary_share").unwrap(),
        "{what}: rotary width"
    );
    if let Some(local) = number("local_theta") {
        assert_eq!(m.rope.local_theta.unwrap_or(m.rope.theta), local, "{what}: local theta");
    }
    let kind = match &m.rope.scaling {
        None => "default",
        Some(RopeScaling::Linear { .. }) => "linear",
        Some(RopeScaling::Dynamic { .. }) => "dynamic",
        Some(RopeScaling::Llama3 { .. }) => "llama3",
        Some(RopeScaling::Yarn { .. }) => "yarn",
        Some(RopeScaling::Longrope { .. }) => "longrope",
        Some(RopeScaling::Factors { .. }) => "factors",
    };
    assert_eq!(Some(kind), expected["rope_type"].as_str(), "{what}");
    let local: Vec<bool> = (0..usize::from(m.num_layers)).map(|i| m.is_local(i)).collect();
    let types = expected["local"].as_array().unwrap();
    let window = number("window").filter(|w| *w > 0.0);
    for (i, local) in local.iter().enumerate() {
        // Classes without layer types apply their window everywhere.
        let theirs = types.get(i).map_or(window.is_some(), |t| t.as_bool().unwrap());
        assert_eq!(*local, theirs, "{what}: layer {i} local");
    }
    if local.contains(&true) {
        assert_eq!(m.sliding_window.map(f64::from), window, "{what}: window");
    }
    let activation = serde_json::to_value(m.activation).unwrap();
    let theirs = expected["activation"].as_str().unwrap().replace("gelu_pytorch_tanh", "gelu_tanh");
    assert_eq!(activation.as_str(), Some(theirs.as_str()), "{what}");
}

/// The GGUF form of a checkpoint as a model, its tensors' values by name and
/// column; embedding and head are cut to five rows.
pub(in crate::source) fn source_of(checkpoint: &Value, value: fn(&str, u64) -> f32) -> ModelSource {
    let c = shrunk(checkpoint);
    let meta = metadata(&c);
    let cfg = config::gguf::parse(&meta, false).unwrap();
    let content = |name: &str| -> Content {
        let name = name.to_owned();
        Box::new(move |_, col| value(&name, col))
    };
    let store = Box::new(Virtual::new(&c["gguf"]["tensors"], content));
    ModelSource::new(store, cfg, Some(&meta), Companions::default(), MappingOptions::default()).unwrap()
}

#[test]
fn hugging_face_checkpoints_map_completely() {
    let fixture = fixture();
    let checkpoints = fixture["checkpoints"].as_array().unwrap();
    assert!(checkpoints.len() >= 21, "the 21 models and more");
    for c in checkpoints {
        let what = c["model"].as_str().unwrap();
        let cfg = hf_config(c);
        check_expected(what, &cfg.model, &c["expected"]);
        let store = Virtual::new(&c["hf"], distinct_head);
        let full = mapped(&store, Naming::Hf, &cfg);
        let has_head = store.tensors.iter().any(|t| t.name == "lm_head.weight");
        assert_eq!(full.tied, !has_head, "{what}");
        assert!(full.dropped.is_empty(), "{what}: {:?}", full.dropped);
        let rows: u64 = store.tensors.iter().map(|t| t.dims.iter().product::<u64>()).sum();
        let stored: u64 = full.tensors.iter().map(|t| t.info.elements()).sum();
        assert_eq!(rows, stored, "{what}: every weight is stored once");

        let text =
            map(&store, Naming::Hf, &cfg, MappingOptions { text_only: true, ..Default::default() }).unwrap();
        assert!(text.tensors.iter().all(|t| t.info.role != Role::OTHER), "{what}");
        let carried = full.tensors.iter().filter(|t| t.info.role == Role::OTHER).count();
        assert_eq!(text.dropped.len(), carried, "{what}");
        let expects_parts = ["gemma-3-4b", "Qwen3.5-35B-A3B", "DeepSeek-V3"].contains(&what);
        assert_eq!(carried > 0, expects_parts, "{what}");
        assert_eq!(text.warnings.is_empty(), !expects_parts, "{what}: {:?}", text.warnings);
    }
}

#[test]
fn silent_configurations_get_transformers_defaults() {
    for d in fixture()["defaults"].as_array().unwrap() {
        let what = d["config"]["model_type"].as_str().unwrap();
        check_expected(what, &hf_config(d).model, &d["expected"]);
    }
}

/// The parts of a configuration that GGUF can carry.
fn comparable(mut m: ModelConfig) -> ModelConfig {
    m.name = None;
    m.tokens = SpecialTokens::default();
    m.tie_embeddings = false;
    // GGUF holds these as tensors.
    if matches!(m.rope.scaling, Some(RopeScaling::Llama3 { .. } | RopeScaling::Longrope { .. })) {
        m.rope.scaling = None;
    }
    m
}

#[test]
fn gguf_and_hugging_face_give_the_same_model() {
    let mut compared = 0;
    for c in fixture()["checkpoints"].as_array().unwrap() {
        let what = c["model"].as_str().unwrap();
        if c["gguf"].is_null() {
            assert_eq!(what, "Qwen3.5-35B-A3B");
            continue;
        }
        let hf_cfg = hf_config(c);
        let hf = map(
            &Virtual::new(&c["hf"], distinct_head),
            Naming::Hf,
            &hf_cfg,
            MappingOptions { text_only: true, ..Default::default() },
        )
        .unwrap();
        let gguf_cfg = config::gguf::parse(&metadata(c), false).unwrap_or_else(|e| panic!("{what}: {e}"));
        let gguf = mapped(&Virtual::new(&c["gguf"]["tensors"], distinct_head), Naming::Gguf, &gguf_cfg);
        let identity = |t: &MappedTensor| {
            let i = &t.info;
            (i.name.clone(), i.role, i.layer, i.part, i.experts, i.dims.clone())
        };
        let ours: Vec<_> = hf.tensors.iter().map(identity).collect();
        assert_eq!(ours, gguf.tensors.iter().map(identity).collect::<Vec<_>>(), "{what}");
        assert_eq!((hf.tied, hf.vocab_size), (gguf.tied, gguf.vocab_size), "{what}");
        let (a, b) = (comparable(hf_cfg.model), comparable(gguf_cfg.model));
        assert_eq!(a, b, "{what}");
        let kinds = (gguf.rope_factors.is_some(), gguf.longrope_factors.0.is_some());
        let scaling = hf_config(c).model.rope.scaling;
        let theirs = (
            matches!(scaling, Some(RopeScaling::Llama3 { .. })),
            matches!(scaling, Some(RopeScaling::Longrope { .. })),
        );
        assert_eq!(kinds, theirs, "{what}: rope factors");
        compared += 1;
    }
    assert!(compared >= 25);
}

#[test]
fn each_missing_tensor_is_named() {
    for c in fixture()["checkpoints"].as_array().unwrap() {
        let what = c["model"].as_str().unwrap();
        let (hf_cfg, mut cases) = (hf_config(c), Vec::new());
        cases.push((Naming::Hf, hf_cfg, &c["hf"]));
        if !c["gguf"].is_null() {
            let cfg = config::gguf::parse(&metadata(c), false).unwrap();
            cases.push((Naming::Gguf, cfg, &c["gguf"]["tensors"]));
        }
        for (naming, cfg, list) in cases {
            for index in 0..list.as_array().unwrap().len() {
                let mut store = Virtual::new(list, distinct_head);
                let name = store.remove(index);
                let required = match classify_for_test(&cfg, naming, &name) {
                    Some(Target::Whole(Role::OUTPUT, _)) => naming == Naming::Hf,
                    Some(Target::Whole(role, Part::BIAS)) => {
                        let qkv = [Role::ATTN_Q, Role::ATTN_K, Role::ATTN_V].contains(&role);
                        // GGUF has no key for biases in general.
                        (qkv && (naming == Naming::Hf || cfg.family.qkv_bias))
                            || matches!(role, Role::LINEAR_ATTN_DT | Role::MOE_ROUTER_CORRECTION)
                    }
                    Some(Target::Buffer(_)) | None => false,
                    Some(_) => true,
                };
                match map(&store, naming, &cfg, MappingOptions::default()) {
                    Ok(_) => assert!(!required, "{what}: {name} was not missed"),
                    Err(e) => {
                        assert!(required, "{what}: without {name}: {e}");
                        let e = e.to_string();
                        let is_embedding = name.contains("embed_tokens") || name == "token_embd.weight";
                        let by_role = cfg.family.target_name(naming, &name).is_some_and(|n| e.contains(&n));
                        let relative = name.replace("language_model.", "").replace("model.", "");
                        let named =
                            e.contains(&relative) || by_role || (is_embedding && e.contains("embedding"));
                        assert!(named, "{what}: {name}: {e}");
                    }
                }
            }
        }
    }
}

fn classify_for_test(cfg: &SourceConfig, naming: Naming, name: &str) -> Option<Target> {
    let layers = cfg.model.num_layers;
    if name.starts_with(&format!("model.layers.{layers}.")) {
        return None;
    }
    let prefixes: &[&str] = if naming == Naming::Hf { tables::HF_PREFIXES } else { &[""] };
    let template = |p: &&str| name.strip_prefix(*p).map(|n| name::TensorName::parse(n).template);
    let targets = prefixes.iter().filter_map(template).filter_map(|t| cfg.family.target(naming, &t));
    targets.into_iter().next().filter(|_| !name.starts_with("vision") && !name.starts_with("mtp."))
}

impl Family {
    /// Start of the stored names that a source tensor feeds, for messages.
    fn target_name(&self, naming: Naming, name: &str) -> Option<String> {
        let prefixes: &[&str] = if naming == Naming::Hf { tables::HF_PREFIXES } else { &[""] };
        prefixes.iter().filter_map(|p| name.strip_prefix(p)).find_map(|n| {
            let parsed = name::TensorName::parse(n);
            let role = match self.target(naming, &parsed.template)? {
                Target::Whole(role, _) | Target::Expert(role) => role,
                Target::Fused(Fused::Qkv(_) | Fused::GatedQuery) => Role::ATTN_Q,
                Target::Fused(Fused::GateUp) => Role::FFN_GATE,
                Target::Fused(Fused::ExpertGateUp) => Role::MOE_GATE,
                Target::Fused(Fused::LatentKey | Fused::LatentValue) => Role::ATTN_KV_B,
                Target::Buffer(_) => return None,
            };
            Some(format!("blk.{}.{role}", parsed.layer.unwrap_or(0)))
        })
    }
}

pub(super) fn checkpoint(model: &str) -> Value {
    let fixture = fixture();
    let found = fixture["checkpoints"].as_array().unwrap().iter().find(|c| c["model"] == model);
    found.unwrap().clone()
}

#[test]
fn unknown_tensors_are_named_or_carried() {
    let c = checkpoint("Qwen3-0.6B");
    let cfg = hf_config(&c);
    let mut store = Virtual::new(&c["hf"], zeros);
    store.push("model.layers.0.self_attn.sinks", &[16], zeros(""));
    store.push("model.layers.7.input_layernorm.weight", &[1024], zeros(""));
    let message = refusal(&store, Naming::Hf, &cfg);
    assert_eq!(
        message,
        "2 of 26 tensors are not known for architecture qwen3: model.layers.0.self_attn.sinks, \
         model.layers.7.input_layernorm.weight; pass --allow-unmapped to carry them raw [source-unknown]"
    );
    let options = MappingOptions { allow_unmapped: true, text_only: false };
    let carried = map(&store, Naming::Hf, &cfg, options).unwrap();
    let others: Vec<_> = carried.tensors.iter().filter(|t| t.info.role == Role::OTHER).collect();
    assert_eq!(others.len(), 2);
    assert_eq!(others[0].info.name, "model.layers.0.self_attn.sinks");
    assert!(carried.warnings[0].contains("2 unmapped tensors"), "{:?}", carried.warnings);

    store.push("a\u{7}b", &[1], zeros(""));
    assert!(map(&store, Naming::Hf, &cfg, options).unwrap_err().to_string().contains("control characters"));
    store.remove(store.tensors.len() - 1);
    store.push("blk.0.attn_q.weight", &[1], zeros(""));
    let clash = map(&store, Naming::Hf, &cfg, options).unwrap_err().to_string();
    assert!(clash.contains("stored name of a mapped one"), "{clash}");
}

#[test]
fn unknown_architectures_are_carried_whole() {
    let config = br#"{"model_type": "gpt2", "n_embd": 64, "n_layer": 1, "n_head": 4, "vocab_size": 9}"#;
    let cfg = config::hf::parse(config, true).unwrap();
    let list = serde_json::json!([["wte.weight", [9, 64]], ["h.0.attn.c_attn.bias", [192]]]);
    let store = Virtual::new(&list, zeros);
    let carried =
        map(&store, Naming::Hf, &cfg, MappingOptions { allow_unmapped: true, text_only: false }).unwrap();
    let names: Vec<&str> = carried.tensors.iter().map(|t| t.info.name.as_str()).collect();
    assert_eq!(names, ["h.0.attn.c_attn.bias", "wte.weight"]);
    assert_eq!((carried.vocab_size, carried.tied), (9, false));
    let mut bytes = [0.0; 192];
    carried.tensors[0].reader(&store).read_f32(0..1, &mut bytes).unwrap();
}

#[test]
fn quantized_and_adapter_checkpoints_are_refused_by_name() {
    let c = checkpoint("Qwen3-0.6B");
    let cfg = hf_config(&c);
    for (name, says) in [
        ("model.layers.0.mlp.up_proj.qweight", "GPTQ or AWQ"),
        ("model.layers.0.mlp.up_proj.weight_scale_inv", "FP8"),
        ("model.layers.0.mlp.up_proj.weight.absmax", "bitsandbytes"),
        ("base_model.model.layers.0.mlp.up_proj.lora_A.weight", "LoRA"),
    ] {
        let mut store = Virtual::new(&c["hf"], zeros);
        store.push(name, &[4, 4], zeros(""));
        let message = refusal(&store, Naming::Hf, &cfg);
        assert!(message.contains(says) && message.contains(name), "{message}");
    }
    let mut store = Virtual::new(&c["hf"], zeros);
    store.tensors[3].dtype_name = "F8_E4M3".to_owned();
    assert!(refusal(&store, Naming::Hf, &cfg).contains("F8_E4M3"));
}

#[test]
fn wrong_shapes_and_repetitions_are_named() {
    let c = checkpoint("Qwen3-0.6B");
    let cfg = hf_config(&c);
    let find = |s: &Virtual, n: &str| s.tensors.iter().position(|t| t.name == n).unwrap();
    let mut store = Virtual::new(&c["hf"], zeros);
    let q = find(&store, "model.layers.1.self_attn.q_proj.weight");
    store.tensors[q].dims = vec![1024, 2048];
    assert_eq!(
        refusal(&store, Naming::Hf, &cfg),
        "tensor model.layers.1.self_attn.q_proj.weight has dimensions [1024, 2048], \
         the configuration of this qwen3 model calls for [2048, 1024] [source-shape]"
    );
    let mut store = Virtual::new(&c["hf"], zeros);
    store.push("language_model.model.norm.weight", &[1024], zeros(""));
    let twice = refusal(&store, Naming::Hf, &cfg);
    assert!(
        twice.contains("language_model.model.norm.weight and model.norm.weight are both output_norm"),
        "{twice}"
    );
    for dims in [vec![], vec![0, 4], vec![1 << 40, 1 << 40], vec![1; 7]] {
        let mut store = Virtual::new(&c["hf"], zeros);
        store.tensors[q].dims.clone_from(&dims);
        assert!(refusal(&store, Naming::Hf, &cfg).contains("q_proj.weight has dimensions"), "{dims:?}");
    }
}

#[test]
fn heads_equal_to_the_embedding_are_dropped() {
    let c = shrunk(&checkpoint("Qwen3-0.6B"));
    let cfg = hf_config(&c);
    let mut store = Virtual::new(&c["hf"], |_| Box::new(|r, c| (r * 3 + c) as f32));
    store.push("lm_head.weight", &[5, 1024], Box::new(|r, c| (r * 3 + c) as f32));
    let same = mapped(&store, Naming::Hf, &cfg);
    assert!(same.tied && same.warnings.is_empty());
    assert_eq!(same.dropped, ["lm_head.weight"]);
    store.remove(store.tensors.len() - 1);
    let last = |r: u64, c: u64| if r == 4 && c == 1023 { -1.0 } else { (r * 3 + c) as f32 };
    store.push("lm_head.weight", &[5, 1024], Box::new(last));
    let other = mapped(&store, Naming::Hf, &cfg);
    assert!(!other.tied && other.dropped.is_empty());
    assert!(other.warnings[0].contains("tie_word_embeddings is true"), "{:?}", other.warnings);
}
