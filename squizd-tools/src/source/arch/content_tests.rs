//! That rows end up where they belong: both sources of a model are made from
//! one stored form by the formulas of transformers' modules and llama.cpp's
//! converters, and must read back as that form.

use super::{
    checkpoint_tests::{checkpoint, fixture, hf_config, metadata, shrunk},
    virtual_store::{Content, Virtual},
    *,
};
use crate::source::config::{self, SourceConfig};
use squizd_spec::Limits;

/// Stored value of `name` at `row` (of the matrix view; 0 for vectors), `col`.
fn stored(name: &str, row: u64, col: u64) -> f32 {
    let seed = name.bytes().fold(7u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (seed ^ (row << 24) ^ col).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // Integers below 2^20: adding or subtracting 1 is exact.
    (mixed >> 44) as f32
}

fn whole(name: &str) -> Content {
    let name = name.to_owned();
    Box::new(move |r, c| stored(&name, r, c))
}

/// Sizes that the formulas need.
#[derive(Clone, Copy)]
struct Sizes {
    heads: u64,
    kv_heads: u64,
    head: u64,
    ffn: u64,
    expert: u64,
    hidden: u64,
    nope: u64,
    value: u64,
    latent: u64,
}

impl Sizes {
    fn of(cfg: &SourceConfig) -> Self {
        let m = &cfg.model;
        let mla = m.mla.as_ref();
        Self {
            heads: m.num_heads.into(),
            kv_heads: m.num_kv_heads.into(),
            head: m.head_dim.into(),
            ffn: m.ffn_size.into(),
            expert: m.moe.as_ref().map_or(0, |e| e.expert_ffn_size.into()),
            hidden: m.hidden_size.into(),
            nope: mla.map_or(0, |a| a.qk_nope_head_dim.into()),
            value: mla.map_or(0, |a| a.v_head_dim.into()),
            latent: mla.map_or(0, |a| a.kv_lora_rank.into()),
        }
    }
}

/// Stored names by the module path of a Hugging Face layer.
const MODULES: &[(&str, &str)] = &[
    ("input_layernorm.weight", "attn_norm.weight"),
    ("self_attn.q_proj.", "attn_q."),
    ("self_attn.k_proj.", "attn_k."),
    ("self_attn.v_proj.", "attn_v."),
    ("self_attn.o_proj.", "attn_output."),
    ("self_attn.q_norm.", "attn_q_norm."),
    ("self_attn.k_norm.", "attn_k_norm."),
    ("self_attn.q_a_proj.", "attn_q_a."),
    ("self_attn.q_a_layernorm.", "attn_q_a_norm."),
    ("self_attn.q_b_proj.", "attn_q_b."),
    ("self_attn.kv_a_proj_with_mqa.", "attn_kv_a."),
    ("self_attn.kv_a_layernorm.", "attn_kv_a_norm."),
    ("self_attn.kv_b_proj.", "attn_kv_b."),
    ("pre_feedforward_layernorm.", "ffn_norm."),
    ("post_feedforward_layernorm.", "ffn_post_norm."),
    ("mlp.gate_proj.", "ffn_gate."),
    ("mlp.up_proj.", "ffn_up."),
    ("mlp.down_proj.", "ffn_down."),
    ("mlp.gate.weight", "moe_router.weight"),
    ("mlp.gate.e_score_correction_bias", "moe_router_correction.bias"),
    ("mlp.experts.down_proj", "moe_down.weight"),
    ("mlp.shared_expert_gate.", "shared_router."),
    ("mlp.shared_experts.gate_proj.", "shared_gate."),
    ("mlp.shared_experts.up_proj.", "shared_up."),
    ("mlp.shared_experts.down_proj.", "shared_down."),
    ("mlp.shared_expert.gate_proj.", "shared_gate."),
    ("mlp.shared_expert.up_proj.", "shared_up."),
    ("mlp.shared_expert.down_proj.", "shared_down."),
    ("linear_attn.in_proj_qkv.", "linear_attn_qkv."),
    ("linear_attn.in_proj_z.", "linear_attn_gate."),
    ("linear_attn.in_proj_b.", "linear_attn_beta."),
    ("linear_attn.in_proj_a.", "linear_attn_alpha."),
    ("linear_attn.conv1d.", "linear_attn_conv."),
    ("linear_attn.dt_bias", "linear_attn_dt.bias"),
    ("linear_attn.A_log", "linear_attn_a.weight"),
    ("linear_attn.norm.", "linear_attn_norm."),
    ("linear_attn.out_proj.", "linear_attn_output."),
];

/// What a Hugging Face tensor holds.
fn hf_content(name: &str, cfg: &SourceConfig) -> Content {
    let s = Sizes::of(cfg);
    let is_gemma_like = cfg.family.name.starts_with("gemma") || cfg.family.name.starts_with("qwen35");
    let minus_one = |stored: &str| -> Content {
        let plain = whole(stored);
        if is_gemma_like { Box::new(move |r, c| plain(r, c) - 1.0) } else { plain }
    };
    let relative = name.replace("language_model.", "");
    let relative = relative.strip_prefix("model.").unwrap_or(&relative);
    match relative {
        "embed_tokens.weight" => return whole("token_embd.weight"),
        "norm.weight" => return minus_one("output_norm.weight"),
        "lm_head.weight" => return whole("output.weight"),
        _ => {}
    }
    let Some((layer, module)) = relative.strip_prefix("layers.").and_then(|r| r.split_once('.')) else {
        return whole(name);
    };
    if layer.parse::<u16>().unwrap() >= cfg.model.num_layers {
        return whole(name);
    }
    let of = |tensor: &str| format!("blk.{layer}.{tensor}");
    if module == "post_attention_layernorm.weight" {
        let gemma = cfg.family.name.starts_with("gemma");
        return minus_one(&of(if gemma { "attn_post_norm.weight" } else { "ffn_norm.weight" }));
    }
    if module.starts_with("mlp.experts.") && module.ends_with("_proj.weight") {
        let parts: Vec<&str> = module.split('.').collect();
        let expert: u64 = parts[2].parse().unwrap();
        let stacked = of(&format!("moe_{}.weight", parts[3].strip_suffix("_proj").unwrap()));
        let rows = if parts[3] == "down_proj" { s.hidden } else { s.expert };
        return Box::new(move |r, c| stored(&stacked, expert * rows + r, c));
    }
    let (q, k, v) = (of("attn_q.weight"), of("attn_k.weight"), of("attn_v.weight"));
    match module {
        "self_attn.qkv_proj.weight" => {
            let (nq, nk) = (s.heads * s.head, s.kv_heads * s.head);
            return Box::new(move |r, c| match r {
                r if r < nq => stored(&q, r, c),
                r if r < nq + nk => stored(&k, r - nq, c),
                r => stored(&v, r - nq - nk, c),
            });
        }
        "mlp.gate_up_proj.weight" => {
            let (gate, up) = (of("ffn_gate.weight"), of("ffn_up.weight"));
            return Box::new(
                move |r, c| {
                    if r < s.ffn { stored(&gate, r, c) } else { stored(&up, r - s.ffn, c) }
                },
            );
        }
        "mlp.experts.gate_up_proj" => {
            let (gate, up) = (of("moe_gate.weight"), of("moe_up.weight"));
            return Box::new(move |r, c| {
                let (e, r) = (r / (2 * s.expert), r % (2 * s.expert));
                let name = if r < s.expert { &gate } else { &up };
                stored(name, e * s.expert + r % s.expert, c)
            });
        }
        "self_attn.q_proj.weight" if cfg.family.name.starts_with("qwen35") => {
            // view(heads, 2 * head).chunk(2): query, then gate.
            let gate = of("attn_gate.weight");
            return Box::new(move |r, c| {
                let (h, r) = (r / (2 * s.head), r % (2 * s.head));
                let name = if r < s.head { &q } else { &gate };
                stored(name, h * s.head + r % s.head, c)
            });
        }
        _ => {}
    }
    let (from, to) = MODULES.iter().find(|(from, _)| module.starts_with(from)).expect(module);
    let name = of(&module.replace(from, to));
    let is_gain = name.ends_with("norm.weight") && !name.contains("linear_attn");
    if is_gain && module != "self_attn.q_a_layernorm.weight" { minus_one(&name) } else { whole(&name) }
}

/// What a GGUF tensor holds.
fn gguf_content(name: &str, cfg: &SourceConfig) -> Content {
    let s = Sizes::of(cfg);
    let canonical = name
        .replace("attn_kv_a_mqa", "attn_kv_a")
        .replace("post_attention_norm", "attn_post_norm")
        .replace("post_ffw_norm", "ffn_post_norm")
        .replace("ffn_gate_inp", "moe_router")
        .replace("exp_probs_b", "moe_router_correction");
    let canonical = match canonical.split_once("_exps") {
        Some((stem, rest)) => format!("{}{rest}", stem.replace("ffn_", "moe_")),
        None => match canonical.split_once("_shexp") {
            Some((stem, rest)) => format!("{}{rest}", stem.replace("ffn_", "shared_")),
            None => canonical,
        },
    };
    let stem = canonical.rsplit_once('.').map_or("", |(stem, _)| stem).to_owned();
    let of = |tensor: &str| {
        let layer = stem.split('.').nth(1).unwrap_or_default();
        format!("blk.{layer}.{tensor}.weight")
    };
    let permuted = ["llama", "mistral", "smollm3"].contains(&cfg.family.name);
    if permuted && (stem.ends_with(".attn_q") || stem.ends_with(".attn_k")) {
        // LlamaModel.permute: reshape(heads, 2, head/2).swapaxes(1, 2).
        let from = move |r: u64| {
            let (h, i, p) = (r / s.head, r % s.head / 2, r % 2);
            h * s.head + p * (s.head / 2) + i
        };
        let is_vector = canonical.split('.').next_back() == Some("bias");
        return if is_vector {
            Box::new(move |_, c| stored(&canonical, 0, from(c)))
        } else {
            Box::new(move |r, c| stored(&canonical, from(r), c))
        };
    }
    if stem.ends_with("attn_qkv") {
        let (q, k, v) = (of("attn_q"), of("attn_k"), of("attn_v"));
        let (nq, nk) = (s.heads * s.head, s.kv_heads * s.head);
        return Box::new(move |r, c| match r {
            r if r < nq => stored(&q, r, c),
            r if r < nq + nk => stored(&k, r - nq, c),
            r => stored(&v, r - nq - nk, c),
        });
    }
    if stem.ends_with("ffn_up") && cfg.family.name == "phi3" {
        let (gate, up) = (of("ffn_gate"), of("ffn_up"));
        return Box::new(move |r, c| if r < s.ffn { stored(&gate, r, c) } else { stored(&up, r - s.ffn, c) });
    }
    if stem.ends_with("attn_k_b") {
        // kv_b.view(heads, nope + value, latent)[:, :nope].transpose(1, 2)
        let joint = of("attn_kv_b");
        return Box::new(move |r, c| stored(&joint, (r / s.latent) * (s.nope + s.value) + c, r % s.latent));
    }
    if stem.ends_with("attn_v_b") {
        let joint = of("attn_kv_b");
        return Box::new(move |r, c| {
            stored(&joint, (r / s.value) * (s.nope + s.value) + s.nope + r % s.value, c)
        });
    }
    whole(&canonical)
}

/// Reads rows at both ends and around the middle of every stored tensor.
fn check(what: &str, store: &Virtual, naming: Naming, cfg: &SourceConfig) {
    let mapping =
        map(store, naming, cfg, MappingOptions::default()).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(u64::from(Limits::DEFAULT.tensors) > mapping.tensors.len() as u64);
    for t in &mapping.tensors {
        let (rows, cols) = (t.info.rows(), t.info.cols());
        let middle = rows / 2;
        for range in
            [0..rows.min(3), middle.saturating_sub(1)..rows.min(middle + 2), rows.saturating_sub(2)..rows]
        {
            let expected: Vec<f32> =
                range.clone().flat_map(|r| (0..cols).map(move |c| stored(&t.info.name, r, c))).collect();
            let reader = t.reader(store);
            let mut values = vec![0.0; expected.len()];
            reader.read_f32(range.clone(), &mut values).unwrap();
            assert!(values == expected, "{what}: {} rows {range:?}", t.info.name);
            if let Some(bytes) = reader.read_native(range.clone()).unwrap() {
                let raw: Vec<u8> = expected.iter().flat_map(|v| v.to_le_bytes()).collect();
                assert!(*bytes == *raw, "{what}: {} rows {range:?}, native", t.info.name);
            } else {
                let name = &t.info.name;
                assert!(
                    name.contains("norm") || name.ends_with("attn_kv_b.weight"),
                    "{what}: {name} has no bytes"
                );
            }
            reader.release(&range);
        }
        let reader = t.reader(store);
        assert!(reader.read_f32(rows..rows + 1, &mut vec![0.0; cols as usize]).is_err());
        assert!(reader.read_f32(0..1, &mut vec![0.0; cols as usize + 1]).is_err());
    }
}

#[test]
fn every_row_is_where_it_belongs() {
    for c in fixture()["checkpoints"].as_array().unwrap().iter().map(shrunk) {
        let what = c["model"].as_str().unwrap();
        let cfg = hf_config(&c);
        check(what, &Virtual::new(&c["hf"], |n| hf_content(n, &cfg)), Naming::Hf, &cfg);
        if c["gguf"]["metadata"].is_null() {
            continue;
        }
        let cfg = config::gguf::parse(&metadata(&c), false).unwrap();
        check(what, &Virtual::new(&c["gguf"]["tensors"], |n| gguf_content(n, &cfg)), Naming::Gguf, &cfg);
    }
}

#[test]
fn joint_latent_projection_wins_over_its_split() {
    let c = shrunk(&checkpoint("DeepSeek-V2-Lite"));
    let cfg = config::gguf::parse(&metadata(&c), false).unwrap();
    let mut store = Virtual::new(&c["gguf"]["tensors"], |n| gguf_content(n, &cfg));
    for layer in 0..3 {
        let name = format!("blk.{layer}.attn_kv_b.weight");
        store.push(&name, &[16 * 256, 512], whole(&name));
    }
    check("both forms", &store, Naming::Gguf, &cfg);
    let mapping = map(&store, Naming::Gguf, &cfg, MappingOptions::default()).unwrap();
    assert_eq!(mapping.dropped.len(), 6);
    assert!(mapping.tensors.iter().filter(|t| t.info.role == Role::ATTN_KV_B).all(|t| t.recipe.native));
}
