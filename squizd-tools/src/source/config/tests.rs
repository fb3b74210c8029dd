//! Refusals and rules that the checkpoints of `fixtures/arch` do not reach.

use super::*;
use crate::source::gguf::{Array, GgufMetadata, Value};
use squizd::model::RopeScaling;

fn refused(config: &str) -> String {
    hf::parse(config.as_bytes(), false).expect_err(config).to_string()
}

fn accepted(config: &str) -> SourceConfig {
    hf::parse(config.as_bytes(), false).unwrap_or_else(|e| panic!("{config}: {e}"))
}

#[test]
fn hugging_face_refusals_name_key_and_value() {
    for (config, says) in [
        (
            r#"{"model_type": "mamba", "architectures": ["MambaForCausalLM"]}"#,
            "architecture mamba (MambaForCausalLM)",
        ),
        (r#"{"hidden_size": 64}"#, "model_type is missing"),
        (r#"{"model_type": "qwen3", "quantization_config": {"quant_method": "fp8"}}"#, "quantized with fp8"),
        (
            r#"{"model_type": "llama", "quantization_config": {"quant_method": "gptq"}}"#,
            "quantized with gptq",
        ),
        (
            r#"{"model_type": "gemma3", "text_config": {"quantization_config": {"quant_method": "awq"}}}"#,
            "awq",
        ),
        (r#"{"model_type": "llama", "hidden_size": -1}"#, "config.json: hidden_size is -1"),
        (r#"{"model_type": "llama", "hidden_size": 0}"#, "hidden size is 0"),
        (r#"{"model_type": "llama", "num_hidden_layers": 70000}"#, "num_hidden_layers is 70000"),
        (
            r#"{"model_type": "llama", "num_hidden_layers": 5000}"#,
            "number of layers is 5000; it must be 1 to 4096",
        ),
        (r#"{"model_type": "llama", "num_attention_heads": 0}"#, "it must be 1 to"),
        (
            r#"{"model_type": "llama", "num_key_value_heads": 5}"#,
            "key/value heads is 5; it must be a divisor",
        ),
        (r#"{"model_type": "llama", "head_dim": 63}"#, "rotary width is 63; it must be even"),
        (r#"{"model_type": "llama", "rms_norm_eps": 0}"#, "norm epsilon is 0"),
        (r#"{"model_type": "llama", "hidden_act": "relu"}"#, "hidden_act is \"relu\""),
        (r#"{"model_type": "llama", "rope_scaling": {"type": "new"}}"#, "rope scaling `new`"),
        (r#"{"model_type": "llama", "rope_scaling": {"type": "linear"}}"#, "factor is missing"),
        (r#"{"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 0}}"#, "factor is 0"),
        (
            r#"{"model_type": "phi3", "rope_scaling": {"type": "su", "short_factor": [1], "long_factor": [1]}}"#,
            "rope factors is 1",
        ),
        (
            r#"{"model_type": "qwen3", "use_sliding_window": true, "layer_types": ["chunked"]}"#,
            "layer_types is",
        ),
        (r#"{"model_type": "qwen3_moe", "decoder_sparse_step": 2}"#, "decoder_sparse_step is 2"),
        (r#"{"model_type": "qwen3_moe", "mlp_only_layers": [3]}"#, "mlp_only_layers is [3]"),
        (r#"{"model_type": "qwen3_moe", "num_experts_per_tok": 200}"#, "experts per token is 200"),
        (r#"{"model_type": "deepseek_v2"}"#, "num_experts_per_tok is missing"),
        (
            r#"{"model_type": "gemma3_text", "use_bidirectional_attention": true}"#,
            "use_bidirectional_attention",
        ),
        (r#"{"model_type": "smollm3", "no_rope_layers": [1]}"#, "no_rope_layers is [1]"),
    ] {
        let message = refused(config);
        assert!(message.contains(says), "{config}: {message}");
    }
}

#[test]
fn hugging_face_rules() {
    let remote = accepted(r#"{"model_type": "phi3", "auto_map": {"AutoModel": "x.Y"}}"#);
    assert!(remote.warnings[0].contains("auto_map"));
    let windowed =
        accepted(r#"{"model_type": "qwen3", "use_sliding_window": true, "max_window_layers": 30}"#).model;
    assert_eq!(windowed.sliding_window, Some(4096));
    assert_eq!(windowed.local_layers.iter().filter(|l| **l).count(), 2);
    let old = r#"{"model_type": "llama", "rope_theta": 500000.0, "rope_scaling": {"rope_type": "dynamic", "factor": 2}}"#;
    let new = r#"{"model_type": "llama", "rope_parameters": {"rope_theta": 500000.0, "rope_type": "dynamic", "factor": 2}}"#;
    assert_eq!(accepted(old).model, accepted(new).model);
    assert!(matches!(
        accepted(new).model.rope.scaling,
        Some(RopeScaling::Dynamic { original_max_positions: 2048, .. })
    ));
    let big = r#"{"model_type": "gemma2", "num_hidden_layers": 46, "hidden_size": 4608, "num_attention_heads": 32, "head_dim": 128, "query_pre_attn_scalar": 144, "num_key_value_heads": 16}"#;
    assert_eq!(accepted(big).model.attn_scale, Some(144f64.powf(-0.5)));
    let nested =
        r#"{"model_type": "gemma3", "text_config": {"hidden_size": 2560}, "tie_word_embeddings": true}"#;
    assert_eq!(accepted(nested).family.name, "gemma3");
    let none = accepted(r#"{"model_type": "llama", "eos_token_id": -1, "bos_token_id": null}"#);
    assert!(none.model.tokens.eos.is_empty() && none.model.tokens.bos.is_none() && none.states_eos);
    assert_eq!(accepted(r#"{"model_type": "llama"}"#).model.tokens.eos, [2]);
}

fn base(arch: &str) -> Vec<(String, Value)> {
    let mut pairs = vec![("general.architecture".to_owned(), Value::Str(arch.to_owned()))];
    for (key, value) in [
        ("block_count", 2),
        ("context_length", 4096),
        ("embedding_length", 64),
        ("feed_forward_length", 128),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
    ] {
        pairs.push((format!("{arch}.{key}"), Value::U32(value)));
    }
    pairs.push((format!("{arch}.attention.layer_norm_rms_epsilon"), Value::F32(1e-5)));
    pairs
}

fn metadata(mut pairs: Vec<(String, Value)>, changes: &[(&str, Value)]) -> GgufMetadata {
    for (key, value) in changes {
        pairs.retain(|(k, _)| k != key);
        pairs.push(((*key).to_owned(), value.clone()));
    }
    let placed = pairs.into_iter().map(|(k, v)| (k, v, 0)).collect();
    GgufMetadata::new("m.gguf".to_owned(), placed).unwrap()
}

#[test]
fn gguf_refusals_name_key_and_value() {
    let text = |s: &str| Value::Str(s.to_owned());
    for (arch, key, value, says) in [
        ("mamba", "general.name", text("m"), "architecture mamba"),
        ("llama", "general.type", text("adapter"), "holds a adapter"),
        ("llama", "llama.expert_count", Value::U32(8), "Mixtral"),
        ("llama", "llama.block_count", text("2"), "`llama.block_count` is string"),
        ("llama", "llama.embedding_length", Value::U32(0), "hidden size is 0"),
        (
            "llama",
            "llama.attention.head_count_kv",
            Value::Array(Array::U32(vec![2, 4])),
            "differs between layers",
        ),
        ("llama", "llama.attention.head_count_kv", Value::Array(Array::U32(vec![])), "non-empty"),
        ("llama", "llama.attention.value_length", Value::U32(32), "the key width, 16"),
        ("llama", "llama.rope.scaling.type", text("ntk"), "rope scaling `ntk`"),
        ("llama", "llama.rope.scaling.type", text("yarn"), "`llama.rope.scaling.factor` is missing"),
        ("llama", "llama.rope.freq_base", Value::F32(f32::NAN), "a finite number"),
        ("qwen3moe", "general.name", text("m"), "expert_count"),
        ("deepseek2", "general.name", text("m"), "rope.dimension_count"),
        ("gemma3", "gemma3.attention.sliding_window_pattern", Value::U32(0), "at least 1"),
    ] {
        let message = gguf::parse(&metadata(base(arch), &[(key, value)]), false).expect_err(says).to_string();
        assert!(message.contains(says), "{message}");
    }
    let mut short = base("llama");
    short.retain(|(k, _)| k != "llama.context_length");
    let message = gguf::parse(&metadata(short, &[]), false).unwrap_err().to_string();
    assert!(message.contains("`llama.context_length` is missing"), "{message}");
}

#[test]
fn unknown_architectures_are_outlined_on_request() {
    let config = r#"{"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257, "n_ctx": 1024, "eos_token_id": 50256}"#;
    assert!(refused(config).contains("--allow-unmapped"));
    let carried = hf::parse(config.as_bytes(), true).unwrap();
    assert!(carried.family.is_unknown() && carried.warnings[0].contains("gpt2"));
    assert_eq!((carried.model.arch(), carried.model.num_layers), (squizd_spec::ArchId::OTHER, 12));
    let bare = hf::parse(br#"{"model_type": "mamba"}"#, true).unwrap_err().to_string();
    assert!(bare.contains("names none of hidden_size, n_embd"), "{bare}");
    let quantized = br#"{"model_type": "gpt2", "quantization_config": {"quant_method": "gptq"}}"#;
    assert!(hf::parse(quantized, true).unwrap_err().to_string().contains("gptq"));

    for arch in ["starcoder", "qwen35moe"] {
        let meta = metadata(
            base(arch),
            &[("starcoder.vocab_size", Value::U32(9)), ("qwen35moe.vocab_size", Value::U32(9))],
        );
        let message = gguf::parse(&meta, false).unwrap_err().to_string();
        assert!(message.contains(arch), "{message}");
        assert_eq!(gguf::parse(&meta, true).unwrap().model.vocab_size, 9);
    }
}

#[test]
fn gguf_rules() {
    let parse = |arch: &str, changes: &[(&str, Value)]| {
        gguf::parse(&metadata(base(arch), changes), false).unwrap().model
    };
    let text = |s: &str| Value::Str(s.to_owned());
    let plain = parse("llama", &[]);
    assert_eq!(
        (plain.family.as_str(), plain.head_dim, plain.norm_eps.to_bits()),
        ("llama", 16, 1e-5f64.to_bits())
    );
    assert_eq!(parse("llama", &[("general.basename", text("Mistral-Nemo"))]).family, "mistral");
    assert_eq!(parse("llama", &[("general.name", text("My Mistral"))]).family, "llama");
    let uniform = [("llama.attention.head_count_kv", Value::Array(Array::I32(vec![2, 2])))];
    assert_eq!(parse("llama", &uniform).num_kv_heads, 2);

    // BOS: the key, else by tokenizer kind.
    let spm = ("tokenizer.ggml.model", text("llama"));
    assert!(parse("llama", std::slice::from_ref(&spm)).tokens.add_bos);
    assert!(!parse("llama", &[spm, ("tokenizer.ggml.add_bos_token", Value::Bool(false))]).tokens.add_bos);
    let bpe = |pre: &str| {
        let bos = ("tokenizer.ggml.bos_token_id", Value::U32(1));
        parse("llama", &[("tokenizer.ggml.model", text("gpt2")), ("tokenizer.ggml.pre", text(pre)), bos])
            .tokens
    };
    assert!(bpe("llama-bpe").add_bos && !bpe("qwen2").add_bos);
    let ids = [
        ("tokenizer.ggml.eos_token_id", 7),
        ("tokenizer.ggml.eot_token_id", 9),
        ("tokenizer.ggml.eom_token_id", 7),
    ];
    let ids: Vec<_> = ids.into_iter().map(|(k, v)| (k, Value::U32(v))).collect();
    assert_eq!(parse("llama", &ids).tokens.eos, [7, 9]);

    let gemma = parse(
        "gemma3",
        &[("gemma3.attention.sliding_window", Value::U32(512)), ("gemma3.block_count", Value::U32(62))],
    );
    assert_eq!((gemma.rope.local_theta, gemma.sliding_window), (None, Some(512)));
    assert_eq!(gemma.local_layers.iter().filter(|l| !**l).count(), 10);
    let wide = [
        ("gemma3.block_count", Value::U32(62)),
        ("gemma3.attention.key_length", Value::U32(32)),
        ("gemma3.attention.value_length", Value::U32(32)),
    ];
    assert_eq!(parse("gemma3", &wide).attn_scale, Some(0.25), "27B scales by hidden / heads");
    let yarn = [
        ("qwen3.rope.scaling.type", text("yarn")),
        ("qwen3.rope.scaling.factor", Value::F32(4.0)),
        ("qwen3.rope.scaling.attn_factor", Value::F32(2.0)),
    ];
    let Some(RopeScaling::Yarn { attention_factor, .. }) = parse("qwen3", &yarn).rope.scaling else {
        panic!()
    };
    assert!((attention_factor.unwrap() - 2.0 * (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);
}
