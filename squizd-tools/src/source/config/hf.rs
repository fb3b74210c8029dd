//! [`SourceConfig`] from `config.json` of transformers 4 and 5.

use super::{
    LinearAttention, SourceConfig, check,
    defaults::Defaults,
    json::{self, Fields},
    rope, unknown,
};
use crate::source::arch::{FAMILIES, Family, Window};
use serde_json::{Map, Value};
use squizd::{
    Error, Result,
    model::{Activation, Mla, ModelConfig, Moe, SpecialTokens},
};

/// Text model types of composite models whose `text_config` names none.
const NESTED_TYPES: &[(&str, &str)] = &[
    ("gemma3", "gemma3_text"),
    ("mistral3", "mistral"),
    ("qwen3_5", "qwen3_5_text"),
    ("qwen3_5_moe", "qwen3_5_moe_text"),
    ("llava", "llama"),
];

/// Parses `config.json`. Token ids are those of the configuration alone; see
/// [`super::tokens`].
///
/// # Errors
/// Unknown architectures, already quantized checkpoints and values out of
/// range, by name. With `carry_unknown` an unknown architecture is described
/// as far as its keys allow instead.
pub fn parse(text: &[u8], carry_unknown: bool) -> Result<SourceConfig> {
    let file = json::parse("config.json", text)?;
    let outer = Fields::new("config.json", &file);
    let nested = outer.object("text_config")?;
    let f = nested.map_or(outer, |map| Fields::new("config.json text_config", map));
    refuse_quantized(&outer)?;
    refuse_quantized(&f)?;

    let model_type = model_type(&outer, &f, nested)?;
    let family = match Family::of_hf(model_type) {
        Some(family) => family,
        None if carry_unknown => return unknown::hf(&f, model_type),
        None => return Err(unsupported(&outer, model_type)?),
    };
    let d = Defaults::of(model_type).ok_or_else(|| {
        Error::refused_unsupported(
            "config-arch",
            format!("config.json: no defaults for model_type {model_type}"),
        )
    })?;
    let mut warnings = Vec::new();
    for fields in [outer, f] {
        if fields.get("auto_map").is_some() {
            warnings.push(
                "config.json names remote code (auto_map); it is ignored, the built-in architecture is used"
                    .to_owned(),
            );
            break;
        }
    }

    let num_layers = f.u16("num_hidden_layers")?.unwrap_or(d.layers);
    let num_heads = f.u16("num_attention_heads")?.unwrap_or(d.heads);
    let hidden_size = f.u32("hidden_size")?.unwrap_or(d.hidden);
    let max_positions = f.u32("max_position_embeddings")?.unwrap_or(d.positions);
    let num_kv_heads = match f.u16("num_key_value_heads")? {
        Some(n) => n,
        None if f.states("num_key_value_heads") => num_heads,
        None => d.kv_heads.unwrap_or(num_heads),
    };
    let mla = mla(&f, model_type)?;
    let (head_dim, rotary_base) = head_widths(&f, d, mla.as_ref(), hidden_size, num_heads)?;
    let moe = moe(&f, model_type, num_layers)?;
    let tied = match outer.bool("tie_word_embeddings")? {
        Some(tied) => tied,
        None => f.bool("tie_word_embeddings")?.unwrap_or(d.tied),
    };
    let is_gemma = family.name.starts_with("gemma");
    let gemma_cap = |key: &str, default: f64| -> Result<Option<f64>> {
        let missing = (family.name == "gemma2" && !f.states(key)).then_some(default);
        Ok(f.f64(key)?.or(missing))
    };
    let mut model = ModelConfig {
        family: family.name.to_owned(),
        name: None,
        hidden_size,
        num_layers,
        num_heads,
        num_kv_heads: if mla.is_some() { num_heads } else { num_kv_heads },
        head_dim,
        ffn_size: match (f.u32("intermediate_size")?, &moe) {
            (Some(n), _) => n,
            // Qwen3.5-MoE has no dense width; its experts' stands in.
            (None, Some(m)) if family.name == "qwen35moe" => m.expert_ffn_size,
            _ => d.ffn,
        },
        vocab_size: f.u32("vocab_size")?.unwrap_or(d.vocab),
        max_positions,
        norm_eps: f.f64("rms_norm_eps")?.unwrap_or(d.eps),
        activation: activation(&f, is_gemma, d)?,
        tie_embeddings: tied,
        rope: rope::parse(&f, d, rotary_base, max_positions)?,
        sliding_window: None,
        local_layers: Vec::new(),
        nope_layers: nope_layers(&f, family, num_layers)?,
        attn_scale: if is_gemma { attn_scale(&f, head_dim)? } else { None },
        attn_softcap: if is_gemma { gemma_cap("attn_logit_softcapping", 50.0)? } else { None },
        logit_softcap: if is_gemma { gemma_cap("final_logit_softcapping", 30.0)? } else { None },
        embedding_scale: is_gemma.then(|| f64::from(hidden_size).sqrt()),
        moe,
        mla,
        tokens: tokens(&outer, &f, d)?,
    };
    window(&f, family, d, &mut model)?;
    if is_gemma && f.bool("use_bidirectional_attention")? == Some(true) {
        return Err(Error::refused_unsupported(
            "config-arch",
            "config.json: use_bidirectional_attention makes this an embedding model; only decoders are supported",
        ));
    }
    check::check("config.json", &model)?;
    Ok(SourceConfig {
        family,
        attention_bias: f.bool("attention_bias")?.unwrap_or(false),
        tied: Some(tied),
        states_eos: f.states("eos_token_id") || outer.states("eos_token_id"),
        linear: linear(&f, family, num_layers)?,
        mtp_layers: f.u16("num_nextn_predict_layers")?.unwrap_or(u16::from(model_type == "deepseek_v3")),
        model,
        warnings,
    })
}

/// Width of a head and of the part of it that rotary shares refer to.
fn head_widths(
    f: &Fields<'_>,
    d: &Defaults,
    mla: Option<&Mla>,
    hidden: u32,
    heads: u16,
) -> Result<(u32, u32)> {
    if let Some(m) = mla {
        return Ok((m.qk_nope_head_dim.saturating_add(m.qk_rope_head_dim), m.qk_rope_head_dim));
    }
    let even_share = hidden.checked_div(u32::from(heads)).unwrap_or(0);
    let width = match f.u32("head_dim")? {
        Some(n) => n,
        None if f.states("head_dim") => even_share,
        None => d.head_dim.unwrap_or(even_share),
    };
    Ok((width, width))
}

fn refuse_quantized(f: &Fields<'_>) -> Result<()> {
    for key in ["quantization_config", "compression_config"] {
        let Some(config) = f.object(key)? else { continue };
        let q = Fields::new(key, config);
        let method = q.str("quant_method")?.or(q.str("quantization_status")?).unwrap_or("an unnamed method");
        return Err(Error::refused_unsupported(
            "config-quantized",
            format!(
                "config.json: {key} says that this checkpoint is already quantized with {method}; convert from the original BF16 checkpoint"
            ),
        ));
    }
    Ok(())
}

/// `model_type` of the text model.
fn model_type<'a>(
    outer: &Fields<'a>,
    f: &Fields<'a>,
    nested: Option<&Map<String, Value>>,
) -> Result<&'a str> {
    match (nested, f.str("model_type")?, outer.str("model_type")?) {
        (_, Some(stated), _) => Ok(stated),
        (Some(_), None, Some(outer)) => {
            Ok(NESTED_TYPES.iter().find(|(o, _)| *o == outer).map_or(outer, |(_, inner)| *inner))
        }
        _ => Err(f.wrong("model_type", "the name of an architecture")),
    }
}

fn unsupported(outer: &Fields<'_>, model_type: &str) -> Result<Error> {
    let known: Vec<&str> = FAMILIES.iter().flat_map(|f| f.hf_types.iter().copied()).collect();
    let class = outer.strs("architectures")?.and_then(|a| a.first().copied()).unwrap_or("no class named");
    Ok(Error::refused_unsupported(
        "config-arch",
        format!(
            "config.json: architecture {model_type} ({class}) is not supported; known are {}; pass --allow-unmapped to carry its tensors raw",
            known.join(", ")
        ),
    ))
}

fn activation(f: &Fields<'_>, is_gemma: bool, d: &Defaults) -> Result<Activation> {
    // Gemma's classes ignore `hidden_act`, which early files filled wrongly.
    let key = if is_gemma { "hidden_activation" } else { "hidden_act" };
    Ok(match f.str(key)? {
        None => d.activation,
        Some("silu" | "swish") => Activation::Silu,
        Some("gelu_pytorch_tanh" | "gelu_new" | "gelu_fast") => Activation::GeluTanh,
        Some("gelu") => Activation::Gelu,
        Some(_) => return Err(f.wrong(key, "silu, gelu or gelu_pytorch_tanh")),
    })
}

fn attn_scale(f: &Fields<'_>, head_dim: u32) -> Result<Option<f64>> {
    let scalar = f.f64("query_pre_attn_scalar")?.unwrap_or(256.0);
    if scalar <= 0.0 {
        return Err(f.wrong("query_pre_attn_scalar", "a positive number"));
    }
    Ok((scalar != f64::from(head_dim)).then(|| scalar.powf(-0.5)))
}

fn nope_layers(f: &Fields<'_>, family: &Family, layers: u16) -> Result<Vec<bool>> {
    if family.name != "smollm3" {
        return Ok(Vec::new());
    }
    let uses_rope = match f.u32s("no_rope_layers")? {
        Some(list) if list.len() >= usize::from(layers) => list,
        Some(_) => return Err(f.wrong("no_rope_layers", "a list with an entry per layer")),
        None => {
            let every = f.u32("no_rope_layer_interval")?.unwrap_or(4).max(1);
            (1..=u32::from(layers)).map(|i| u32::from(!i.is_multiple_of(every))).collect()
        }
    };
    let nope: Vec<bool> = uses_rope.iter().take(layers.into()).map(|&r| r == 0).collect();
    Ok(if nope.contains(&true) { nope } else { Vec::new() })
}

/// Sliding window, and which layers it holds for.
fn window(f: &Fields<'_>, family: &Family, d: &Defaults, model: &mut ModelConfig) -> Result<()> {
    let layers = u32::from(model.num_layers);
    let size = f.u32("sliding_window")?.or(if f.states("sliding_window") { None } else { d.window });
    let switched = f.bool("use_sliding_window")?.unwrap_or(false);
    let types = f.strs("layer_types")?;
    let by_type = || -> Result<Option<Vec<bool>>> {
        let Some(types) = &types else { return Ok(None) };
        let known = |t: &&str| matches!(*t, "full_attention" | "sliding_attention");
        if types.len() != layers as usize || !types.iter().all(known) {
            return Err(f.wrong("layer_types", "full_attention or sliding_attention for every layer"));
        }
        Ok(Some(types.iter().map(|t| *t == "sliding_attention").collect()))
    };
    let local = match family.window {
        Window::Never => return Ok(()),
        Window::All => vec![true; layers as usize],
        Window::Switched => vec![switched; layers as usize],
        Window::Upper => {
            let from = f.u32("max_window_layers")?.unwrap_or(28);
            by_type()?.unwrap_or_else(|| (0..layers).map(|i| i >= from).collect())
        }
        Window::NopeLayers => by_type()?.unwrap_or_else(|| model.nope_layers.clone()),
        Window::EveryNth(n) => {
            let stated = f.u32("sliding_window_pattern")?.or(f.u32("_sliding_window_pattern")?);
            let every = if family.name == "gemma3" { stated.unwrap_or(n) } else { n };
            by_type()?.unwrap_or_else(|| (1..=layers).map(|i| !i.is_multiple_of(every.max(1))).collect())
        }
    };
    let off = matches!(family.window, Window::Upper | Window::Switched | Window::NopeLayers) && !switched;
    set_window(model, if off { None } else { size }, local);
    Ok(())
}

/// Writes the schema's shortest form: no window if no layer is local, no list
/// if all are.
pub(super) fn set_window(model: &mut ModelConfig, size: Option<u32>, local: Vec<bool>) {
    if size.is_none() || !local.contains(&true) {
        return;
    }
    model.sliding_window = size;
    if local.contains(&false) {
        model.local_layers = local;
    }
}

fn mla(f: &Fields<'_>, model_type: &str) -> Result<Option<Mla>> {
    if !matches!(model_type, "deepseek_v2" | "deepseek_v3") {
        return Ok(None);
    }
    let q_lora_rank = f.u32("q_lora_rank")?.or(if f.states("q_lora_rank") { None } else { Some(1536) });
    Ok(Some(Mla {
        q_lora_rank,
        kv_lora_rank: f.u32("kv_lora_rank")?.unwrap_or(512),
        qk_nope_head_dim: f.u32("qk_nope_head_dim")?.unwrap_or(128),
        qk_rope_head_dim: f.u32("qk_rope_head_dim")?.unwrap_or(64),
        v_head_dim: f.u32("v_head_dim")?.unwrap_or(128),
    }))
}

fn moe(f: &Fields<'_>, model_type: &str, layers: u16) -> Result<Option<Moe>> {
    let is_v3 = model_type == "deepseek_v3";
    match model_type {
        "qwen3_moe" => qwen_moe(f, layers, 128, 768).map(Some),
        "qwen3_5_moe_text" => {
            let mut moe = qwen_moe(f, layers, 256, 512)?;
            moe.normalize_weights = true;
            moe.shared_ffn_size = Some(f.u32("shared_expert_intermediate_size")?.unwrap_or(512));
            Ok(Some(moe))
        }
        "deepseek_v2" | "deepseek_v3" => {
            if f.u32("moe_layer_freq")?.is_some_and(|n| n != 1) {
                return Err(f.wrong("moe_layer_freq", "1 in every supported model"));
            }
            let expert_ffn_size = f.u32("moe_intermediate_size")?.unwrap_or(if is_v3 { 2048 } else { 1407 });
            let shared = f.u32("n_shared_experts")?.unwrap_or(if is_v3 { 1 } else { 2 });
            let group = |key: &str, default: u16| -> Result<Option<u16>> {
                Ok(f.u16(key)?.or((is_v3 && !f.states(key)).then_some(default)))
            };
            let limited = is_v3 || f.str("topk_method")? == Some("group_limited_greedy");
            let groups = group("n_group", 8)?.zip(group("topk_group", 4)?);
            let used = f.u16("num_experts_per_tok")?.or(is_v3.then_some(8));
            let sigmoid_scores = match f.str("scoring_func")? {
                None => is_v3,
                Some("sigmoid") => true,
                Some("softmax") => false,
                Some(_) => return Err(f.wrong("scoring_func", "softmax or sigmoid")),
            };
            Ok(Some(Moe {
                num_experts: f.u16("n_routed_experts")?.or(f.u16("num_local_experts")?).unwrap_or(if is_v3 {
                    256
                } else {
                    64
                }),
                experts_per_token: used.ok_or_else(|| f.wrong("num_experts_per_tok", "a whole number"))?,
                expert_ffn_size,
                normalize_weights: f.bool("norm_topk_prob")?.unwrap_or(is_v3),
                sigmoid_scores,
                routed_scale: f.f64("routed_scaling_factor")?.or(is_v3.then_some(2.5)).filter(|s| *s != 1.0),
                shared_ffn_size: match shared.checked_mul(expert_ffn_size) {
                    Some(0) => None,
                    Some(width) => Some(width),
                    None => return Err(f.wrong("n_shared_experts", "small enough for a 32-bit width")),
                },
                leading_dense_layers: f.u16("first_k_dense_replace")?.unwrap_or(if is_v3 { 3 } else { 0 }),
                groups: groups.filter(|(n, _)| limited && *n > 1),
            }))
        }
        _ => Ok(None),
    }
}

fn qwen_moe(f: &Fields<'_>, layers: u16, experts: u16, width: u32) -> Result<Moe> {
    let step = f.u32("decoder_sparse_step")?.unwrap_or(1);
    let mut dense = f.u32s("mlp_only_layers")?.unwrap_or_default();
    dense.sort_unstable();
    dense.dedup();
    // The schema knows dense layers only in front.
    if step != 1 || dense.len() > usize::from(layers) || (0..).zip(&dense).any(|(i, &l)| i != l) {
        let key = if step == 1 { "mlp_only_layers" } else { "decoder_sparse_step" };
        return Err(f.wrong(key, "such that only leading layers are dense"));
    }
    Ok(Moe {
        num_experts: f.u16("num_experts")?.or(f.u16("num_local_experts")?).unwrap_or(experts),
        experts_per_token: f.u16("num_experts_per_tok")?.unwrap_or(8),
        expert_ffn_size: f.u32("moe_intermediate_size")?.unwrap_or(width),
        normalize_weights: f.bool("norm_topk_prob")?.unwrap_or(false),
        sigmoid_scores: false,
        routed_scale: None,
        shared_ffn_size: None,
        leading_dense_layers: dense.len() as u16,
        groups: None,
    })
}

fn linear(f: &Fields<'_>, family: &Family, layers: u16) -> Result<Option<LinearAttention>> {
    if !family.name.starts_with("qwen35") {
        return Ok(None);
    }
    let linear: Vec<bool> = if let Some(types) = f.strs("layer_types")? {
        let known = |t: &&str| matches!(*t, "full_attention" | "linear_attention");
        if types.len() != usize::from(layers) || !types.iter().all(known) {
            return Err(f.wrong("layer_types", "full_attention or linear_attention for every layer"));
        }
        types.iter().map(|t| *t == "linear_attention").collect()
    } else {
        let every = f.u32("full_attention_interval")?.unwrap_or(4).max(1);
        (1..=u32::from(layers)).map(|i| !i.is_multiple_of(every)).collect()
    };
    let attention = LinearAttention {
        layers: linear,
        conv_width: f.u32("linear_conv_kernel_dim")?.unwrap_or(4),
        key_heads: f.u32("linear_num_key_heads")?.unwrap_or(16),
        value_heads: f.u32("linear_num_value_heads")?.unwrap_or(32),
        key_dim: f.u32("linear_key_head_dim")?.unwrap_or(128),
        value_dim: f.u32("linear_value_head_dim")?.unwrap_or(128),
    };
    let a = &attention;
    if [a.conv_width, a.key_heads, a.value_heads, a.key_dim, a.value_dim]
        .iter()
        .any(|&n| n == 0 || n > 1 << 16)
    {
        return Err(Error::refused(
            "config-range",
            format!("config.json: linear attention of {a:?}: each must be 1 to 65536"),
        ));
    }
    Ok(Some(attention))
}

/// Token ids of the configuration; class defaults where it is silent.
fn tokens(outer: &Fields<'_>, f: &Fields<'_>, d: &Defaults) -> Result<SpecialTokens> {
    let stated = |key: &str| f.states(key) || outer.states(key);
    let id = |key: &str, default: Option<u32>| -> Result<Option<u32>> {
        let found = f.ids(key)?.into_iter().chain(outer.ids(key)?).next();
        Ok(found.or(if stated(key) { None } else { default }))
    };
    let mut eos = outer.ids("eos_token_id")?;
    eos.extend(f.ids("eos_token_id")?);
    if !stated("eos_token_id") {
        eos.extend(d.eos);
    }
    Ok(SpecialTokens {
        bos: id("bos_token_id", d.bos)?,
        eos,
        pad: id("pad_token_id", d.pad)?,
        add_bos: false,
    })
}
