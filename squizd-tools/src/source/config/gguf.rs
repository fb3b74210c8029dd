//! [`SourceConfig`] from GGUF metadata, with llama.cpp's defaults.

use super::{SourceConfig, check, hf::set_window, unknown};
use crate::source::{
    arch::{FAMILIES, Family, Window},
    gguf::{GgufMetadata, Strings},
    tokenizer::{GgufVocab, gguf::adds_bos},
};
use squizd::{
    Error, Result,
    model::{Activation, Mla, ModelConfig, Moe, Rope, RopeScaling, SpecialTokens},
};

/// `general.architecture` keys with the family's prefix.
struct Keys<'a> {
    meta: &'a GgufMetadata,
    arch: &'a str,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.arch)
    }

    fn wrong(&self, name: &str, wanted: &str) -> Error {
        self.meta.mismatch(&self.key(name), wanted)
    }

    fn u32(&self, name: &str) -> Result<Option<u32>> {
        let Some(value) = self.meta.u64(&self.key(name))? else { return Ok(None) };
        u32::try_from(value).map(Some).map_err(|_| self.wrong(name, "below 2^32"))
    }

    fn u16(&self, name: &str) -> Result<Option<u16>> {
        let Some(value) = self.u32(name)? else { return Ok(None) };
        u16::try_from(value).map(Some).map_err(|_| self.wrong(name, "below 65536"))
    }

    /// A float as its shortest decimal: GGUF's f32 0.00001 reads as 1e-5, as
    /// `config.json` has it.
    fn f64(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.meta.f64(&self.key(name))? else { return Ok(None) };
        if !value.is_finite() {
            return Err(self.wrong(name, "a finite number"));
        }
        Ok(Some(shortest(value)))
    }

    fn need<T>(&self, name: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.wrong(name, "a number"))
    }

    /// A value that llama.cpp allows to differ by layer, and we do not.
    fn uniform(&self, name: &str) -> Result<Option<u32>> {
        let key = self.key(name);
        let Some(values) = self.meta.ints(&key)? else { return Ok(None) };
        let Some(&first) = values.first() else { return Err(self.meta.mismatch(&key, "a non-empty list")) };
        if values.iter().any(|&v| v != first) {
            return Err(Error::refused_unsupported(
                "config-arch",
                format!(
                    "metadata key `{key}` differs between layers; models with uneven layers are not supported"
                ),
            ));
        }
        u32::try_from(first).map(Some).map_err(|_| self.meta.mismatch(&key, "a whole number below 2^32"))
    }
}

fn shortest(value: f64) -> f64 {
    let single = value as f32;
    if f64::from(single) == value { decimal(single) } else { value }
}

/// The shortest decimal that reads back as `value`, as f64: f32 1.1 becomes
/// 1.1 and not 1.10000002384.
pub fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// Reads the configuration. Rope factors kept in tensors and the vocabulary
/// size are settled once the tensors are mapped.
///
/// # Errors
/// Unknown architectures by name; missing or out-of-range keys with file and
/// byte. With `carry_unknown` an unknown architecture is described as far as
/// its keys allow instead.
pub fn parse(meta: &GgufMetadata, carry_unknown: bool) -> Result<SourceConfig> {
    let arch = meta
        .str("general.architecture")?
        .ok_or_else(|| meta.mismatch("general.architecture", "the name of an architecture"))?;
    if let Some(kind) = meta.str("general.type")?.filter(|k| *k != "model") {
        return Err(Error::refused_unsupported(
            "config-arch",
            format!("this GGUF file holds a {kind} (general.type), not a model"),
        ));
    }
    let k = Keys { meta, arch };
    let Some(family) = family(&k, carry_unknown)? else {
        return unknown::gguf(meta, arch, tokens(meta)?);
    };
    let mtp_layers = k.u16("nextn_predict_layers")?.unwrap_or(0);
    let blocks = k.need("block_count", k.u16("block_count")?)?;
    let num_layers = blocks
        .checked_sub(mtp_layers)
        .ok_or_else(|| k.wrong("nextn_predict_layers", "at most block_count"))?;
    let hidden_size = k.need("embedding_length", k.u32("embedding_length")?)?;
    let count = |name: &str, value: u32| u16::try_from(value).map_err(|_| k.wrong(name, "below 65536"));
    let num_heads =
        count("attention.head_count", k.need("attention.head_count", k.uniform("attention.head_count")?)?)?;
    let mla = mla(&k, family)?;
    let num_kv_heads = match k.uniform("attention.head_count_kv")? {
        Some(n) if mla.is_none() => count("attention.head_count_kv", n)?,
        _ => num_heads,
    };
    let head_dim = head_dim(&k, hidden_size, num_heads, mla.as_ref())?;
    let moe = moe(&k, family)?;
    let ffn =
        k.uniform("feed_forward_length")?.filter(|&n| n > 0).or(moe.as_ref().map(|m| m.expert_ffn_size));
    let max_positions = k.need("context_length", k.u32("context_length")?)?;
    let is_gemma = family.name.starts_with("gemma");
    let cap = |name: &str, default: f64| -> Result<Option<f64>> {
        Ok(k.f64(name)?.or((family.name == "gemma2").then_some(default)).filter(|c| *c != 0.0))
    };
    let tokens_len = meta.strs("tokenizer.ggml.tokens")?.map_or(0, Strings::len);
    let mut model = ModelConfig {
        family: family.name.to_owned(),
        name: meta.str("general.name")?.map(str::to_owned),
        hidden_size,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim,
        ffn_size: k.need("feed_forward_length", ffn)?,
        vocab_size: k.u32("vocab_size")?.unwrap_or(tokens_len as u32),
        max_positions,
        norm_eps: k.need("attention.layer_norm_rms_epsilon", k.f64("attention.layer_norm_rms_epsilon")?)?,
        activation: if is_gemma { Activation::GeluTanh } else { Activation::Silu },
        tie_embeddings: false,
        rope: rope(&k, family, mla.as_ref().map_or(head_dim, |m| m.qk_rope_head_dim), max_positions)?,
        sliding_window: None,
        local_layers: Vec::new(),
        nope_layers: if family.name == "smollm3" {
            (1..=num_layers).map(|i| i.is_multiple_of(4)).collect()
        } else {
            Vec::new()
        },
        attn_scale: attn_scale(&k, family, hidden_size, num_layers, num_heads, head_dim)?,
        attn_softcap: cap("attn_logit_softcapping", 50.0)?,
        logit_softcap: cap("final_logit_softcapping", 30.0)?,
        embedding_scale: is_gemma.then(|| f64::from(hidden_size).sqrt()),
        moe,
        mla,
        tokens: tokens(meta)?,
    };
    window(&k, family, &mut model)?;
    check::check("GGUF metadata", &model)?;
    Ok(SourceConfig {
        family,
        model,
        attention_bias: false,
        tied: None,
        states_eos: true,
        linear: None,
        mtp_layers,
        warnings: Vec::new(),
    })
}

/// The family of the file's architecture; `None` for one that is carried raw.
fn family(k: &Keys<'_>, carry_unknown: bool) -> Result<Option<&'static Family>> {
    match Family::of_gguf(k.arch) {
        Some(family) if family.name == "llama" => {
            if k.u32("expert_count")?.unwrap_or(0) > 0 {
                return Err(Error::refused_unsupported(
                    "config-arch",
                    "llama with experts (Mixtral) is not supported",
                ));
            }
            let label = if is_mistral(k.meta)? { Family::of_name("mistral") } else { None };
            Ok(Some(label.unwrap_or(family)))
        }
        Some(family) if family.reads_gguf() => Ok(Some(family)),
        _ if carry_unknown => Ok(None),
        Some(family) => Err(Error::refused_unsupported(
            "config-arch",
            format!(
                "GGUF keeps the linear-attention heads of {} in another order than this build undoes; convert from the safetensors checkpoint instead",
                family.name
            ),
        )),
        None => {
            let readable = FAMILIES.iter().filter(|f| f.reads_gguf());
            let known: Vec<&str> = readable.flat_map(|f| f.gguf_archs.iter().copied()).collect();
            Err(Error::refused_unsupported(
                "config-arch",
                format!(
                    "architecture {} (general.architecture) is not supported; known are {}; pass --allow-unmapped to carry its tensors raw",
                    k.arch,
                    known.join(", ")
                ),
            ))
        }
    }
}

/// Mistral's GGUF files say `llama`; the two families compute the same.
fn is_mistral(meta: &GgufMetadata) -> Result<bool> {
    for key in ["general.basename", "general.name"] {
        if let Some(name) = meta.str(key)? {
            return Ok(name.to_ascii_lowercase().starts_with("mistral"));
        }
    }
    Ok(false)
}

fn head_dim(k: &Keys<'_>, hidden: u32, heads: u16, mla: Option<&Mla>) -> Result<u32> {
    if let Some(m) = mla {
        return m
            .qk_nope_head_dim
            .checked_add(m.qk_rope_head_dim)
            .ok_or_else(|| k.wrong("attention.key_length", "a head width"));
    }
    let key = k.u32("attention.key_length")?;
    let even = hidden.checked_div(u32::from(heads)).unwrap_or(0);
    let width = key.unwrap_or(even);
    if k.u32("attention.value_length")?.is_some_and(|value| value != width) {
        return Err(k.wrong("attention.value_length", &format!("the key width, {width}")));
    }
    Ok(width)
}

fn mla(k: &Keys<'_>, family: &Family) -> Result<Option<Mla>> {
    if family.name != "deepseek2" {
        return Ok(None);
    }
    let either = |new: &str, old: &str| -> Result<u32> {
        let value = k.u32(new)?.or(k.u32(old)?);
        k.need(old, value)
    };
    let qk_rope_head_dim = k.need("rope.dimension_count", k.u32("rope.dimension_count")?)?;
    let key = either("attention.key_length_mla", "attention.key_length")?;
    Ok(Some(Mla {
        q_lora_rank: k.u32("attention.q_lora_rank")?.filter(|&r| r > 0),
        kv_lora_rank: k.need("attention.kv_lora_rank", k.u32("attention.kv_lora_rank")?)?,
        qk_nope_head_dim: key
            .checked_sub(qk_rope_head_dim)
            .ok_or_else(|| k.wrong("attention.key_length", "at least rope.dimension_count"))?,
        qk_rope_head_dim,
        v_head_dim: either("attention.value_length_mla", "attention.value_length")?,
    }))
}

fn moe(k: &Keys<'_>, family: &Family) -> Result<Option<Moe>> {
    let is_deepseek = family.name == "deepseek2";
    if !is_deepseek && family.name != "qwen3moe" {
        return Ok(None);
    }
    let Some(num_experts) = k.u16("expert_count")?.filter(|&n| n > 0) else {
        return Err(k.wrong("expert_count", "the number of experts"));
    };
    let expert_ffn_size = k.need("expert_feed_forward_length", k.u32("expert_feed_forward_length")?)?;
    let shared = k.u32("expert_shared_count")?.unwrap_or(0);
    let sigmoid_scores = match k.u32("expert_gating_func")?.unwrap_or(0) {
        0 | 1 => false,
        2 => true,
        _ => return Err(k.wrong("expert_gating_func", "1 (softmax) or 2 (sigmoid)")),
    };
    let groups = k.u16("expert_group_count")?.zip(k.u16("expert_group_used_count")?);
    Ok(Some(Moe {
        num_experts,
        experts_per_token: k.need("expert_used_count", k.u16("expert_used_count")?)?,
        expert_ffn_size,
        normalize_weights: k.meta.bool(&k.key("expert_weights_norm"))?.unwrap_or(!is_deepseek),
        sigmoid_scores,
        routed_scale: k.f64("expert_weights_scale")?.filter(|s| *s != 1.0 && *s != 0.0),
        shared_ffn_size: match shared.checked_mul(expert_ffn_size) {
            Some(0) => None,
            Some(width) => Some(width),
            None => return Err(k.wrong("expert_shared_count", "small enough for a 32-bit width")),
        },
        leading_dense_layers: k.u16("leading_dense_block_count")?.unwrap_or(0),
        groups: groups.filter(|(n, _)| *n > 1),
    }))
}

fn rope(k: &Keys<'_>, family: &Family, width: u32, max_positions: u32) -> Result<Rope> {
    let theta = k.f64("rope.freq_base")?.unwrap_or(10000.0);
    let local = match family.name {
        "gemma3" => Some(k.f64("rope.freq_base_swa")?.unwrap_or(10000.0)),
        _ => None,
    };
    Ok(Rope {
        theta,
        dim: k.u32("rope.dimension_count")?.unwrap_or(width),
        local_theta: local.filter(|l| *l != theta),
        scaling: scaling(k, family, max_positions)?,
    })
}

fn scaling(k: &Keys<'_>, family: &Family, max_positions: u32) -> Result<Option<RopeScaling>> {
    let old_linear = k.f64("rope.scale_linear")?.filter(|f| *f != 1.0);
    let kind = k.meta.str(&k.key("rope.scaling.type"))?.unwrap_or(if old_linear.is_some() {
        "linear"
    } else {
        "none"
    });
    let factor = k.f64("rope.scaling.factor")?.or(old_linear);
    let original = k.u32("rope.scaling.original_context_length")?.unwrap_or(max_positions);
    Ok(match kind {
        // LongRoPE's factors are tensors; see `longrope`.
        "none" | "longrope" => None,
        "linear" => {
            let factor = k.need("rope.scaling.factor", factor)?;
            (factor != 1.0).then_some(RopeScaling::Linear { factor })
        }
        "yarn" => {
            let factor = k.need("rope.scaling.factor", factor)?;
            // llama.cpp multiplies its own 0.1 ln(factor) + 1 by attn_factor.
            let ratio = k.f64("rope.scaling.attn_factor")?.filter(|a| *a != 1.0 && *a != 0.0);
            // DeepSeek's mscale_all_dim, stored times 0.1.
            let mscale = k
                .f64("rope.scaling.yarn_log_multiplier")?
                .filter(|m| *m != 0.0 && family.name == "deepseek2")
                .map(|m| (m * 1e7).round() / 1e6);
            Some(RopeScaling::Yarn {
                factor,
                beta_fast: k.f64("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: k.f64("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                original_max_positions: original,
                attention_factor: ratio.map(|a| a * (0.1 * factor.max(1.0).ln() + 1.0)),
                mscale,
                mscale_all_dim: mscale,
                truncate: true,
            })
        }
        other => {
            return Err(Error::refused_unsupported(
                "config-rope",
                format!(
                    "rope scaling `{other}` (metadata key `{}`); known are none, linear, yarn, longrope",
                    k.key("rope.scaling.type")
                ),
            ));
        }
    })
}

/// Phi's `LongRoPE` from the factors kept in tensors.
pub fn longrope(
    meta: &GgufMetadata,
    model: &ModelConfig,
    short: Vec<f64>,
    long: Vec<f64>,
) -> Result<RopeScaling> {
    let arch = meta.str("general.architecture")?.unwrap_or_default();
    let k = Keys { meta, arch };
    let original = k.u32("rope.scaling.original_context_length")?.unwrap_or(model.max_positions);
    let ratio = f64::from(model.max_positions) / f64::from(original.max(1));
    let usual = if ratio > 1.0 { (1.0 + ratio.ln() / f64::from(original).ln()).sqrt() } else { 1.0 };
    // The converter always writes the factor that the context ratio implies.
    let attention_factor = k.f64("rope.scaling.attn_factor")?.filter(|a| (a - usual).abs() > 1e-5 * usual);
    Ok(RopeScaling::Longrope {
        short_factor: short,
        long_factor: long,
        original_max_positions: original,
        attention_factor,
    })
}

fn attn_scale(
    k: &Keys<'_>,
    family: &Family,
    hidden: u32,
    layers: u16,
    heads: u16,
    head_dim: u32,
) -> Result<Option<f64>> {
    if let Some(scale) = k.f64("attention.scale")?.filter(|s| *s != 0.0) {
        return Ok(Some(scale));
    }
    // The 27B models scale by the even share of the hidden size; GGUF has no
    // key for it, llama.cpp goes by the layer count.
    let is_27b = matches!((family.name, layers), ("gemma2", 46) | ("gemma3", 62));
    let share = f64::from(hidden) / f64::from(heads.max(1));
    Ok((is_27b && share != f64::from(head_dim)).then(|| share.powf(-0.5)))
}

fn window(k: &Keys<'_>, family: &Family, model: &mut ModelConfig) -> Result<()> {
    let layers = u32::from(model.num_layers);
    let size = k.u32("attention.sliding_window")?.filter(|&w| w > 0);
    let every_nth = |n: u32| (1..=layers).map(|i| !i.is_multiple_of(n)).collect::<Vec<_>>();
    let (size, local) = match family.window {
        Window::EveryNth(n) => {
            let name = "attention.sliding_window_pattern";
            let local = match k.meta.ints(&k.key(name))? {
                None => every_nth(n),
                Some(list) if list.len() == 1 => {
                    match list.first().copied().and_then(|n| u32::try_from(n).ok()) {
                        Some(n) if n > 0 => every_nth(n),
                        _ => return Err(k.wrong(name, "at least 1")),
                    }
                }
                Some(list) if list.len() == layers as usize => list.iter().map(|&b| b != 0).collect(),
                Some(_) => return Err(k.wrong(name, "a period or an entry per layer")),
            };
            (size.or((family.name == "gemma2").then_some(4096)), local)
        }
        // llama.cpp applies no window in these families' graphs.
        Window::Never | Window::Upper | Window::Switched | Window::NopeLayers => (None, Vec::new()),
        Window::All => (size, vec![true; layers as usize]),
    };
    set_window(model, size, local);
    Ok(())
}

fn tokens(meta: &GgufMetadata) -> Result<SpecialTokens> {
    let id = |name: &str| -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}");
        // Some converters write -1 or 2^32 - 1 for "none".
        let Some(values) = meta.ints(&key)? else { return Ok(None) };
        Ok(values.first().and_then(|&v| u32::try_from(v).ok()).filter(|&v| v != u32::MAX))
    };
    let kind = meta.str("tokenizer.ggml.model")?;
    let is_spm = kind == Some("llama");
    let mut eos: Vec<u32> = Vec::new();
    for name in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        let default = (is_spm && name == "eos_token_id").then_some(2);
        if let Some(e) = id(name)?.or(default).filter(|e| !eos.contains(e)) {
            eos.push(e);
        }
    }
    let bos = id("bos_token_id")?.or(is_spm.then_some(1));
    let vocab = GgufVocab {
        model: kind.unwrap_or_default(),
        pre: meta.str("tokenizer.ggml.pre")?,
        add_bos: meta.bool("tokenizer.ggml.add_bos_token")?,
        ..GgufVocab::default()
    };
    let add = adds_bos(&vocab);
    Ok(SpecialTokens { bos, eos, pad: id("padding_token_id")?, add_bos: add && bos.is_some() })
}
