//! The normalised hyper-parameters of a model: `metadata.model`.
//!
//! One schema for every family and every source. Converters fill it from
//! `config.json` (transformers 4 and 5) or GGUF metadata; the runtime reads
//! nothing else. Absent options mean "the family does not use this".

use serde::{Deserialize, Serialize};
use squizd_spec::ArchId;

/// Hyper-parameters of a decoder-only transformer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Fine-grained family, which fixes the forward pass: `llama`, `mistral`,
    /// `qwen2`, `qwen3`, `qwen3moe`, `gemma2`, `gemma3`, `phi3`, `smollm3`,
    /// `deepseek2`, ...
    pub family: String,
    /// Human-readable model name, if the source states one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Residual width.
    pub hidden_size: u32,
    /// Transformer blocks.
    pub num_layers: u16,
    /// Query heads.
    pub num_heads: u16,
    /// Key/value heads (grouped-query attention).
    pub num_kv_heads: u16,
    /// Width of one head; not necessarily `hidden_size / num_heads`.
    pub head_dim: u32,
    /// Width of the dense feed-forward block.
    pub ffn_size: u32,
    /// Rows of the embedding.
    pub vocab_size: u32,
    /// Longest trained context.
    pub max_positions: u32,
    /// Epsilon of the RMS norms.
    pub norm_eps: f64,
    /// Gate activation of the feed-forward block.
    pub activation: Activation,
    /// The output head is the embedding matrix.
    pub tie_embeddings: bool,
    /// Rotary embedding.
    pub rope: Rope,
    /// Sliding-window attention: window in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<u32>,
    /// Per layer: `true` where attention is limited to the sliding window.
    /// Empty means every layer is global when `sliding_window` is absent, and
    /// every layer is local when it is present.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local_layers: Vec<bool>,
    /// Per layer: `true` where no rotary embedding is applied. Empty: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nope_layers: Vec<bool>,
    /// Attention logits are multiplied by this instead of `head_dim^-0.5`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attn_scale: Option<f64>,
    /// `s * tanh(logits / s)` on attention logits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attn_softcap: Option<f64>,
    /// `s * tanh(logits / s)` on output logits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_softcap: Option<f64>,
    /// Embeddings are multiplied by this (Gemma: `sqrt(hidden_size)`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_scale: Option<f64>,
    /// Mixture of experts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moe: Option<Moe>,
    /// Multi-head latent attention (DeepSeek V2/V3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mla: Option<Mla>,
    /// Token ids with a meaning.
    pub tokens: SpecialTokens,
}

/// Gate activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU with the tanh approximation (Gemma).
    GeluTanh,
    /// GELU by the error function.
    Gelu,
}

/// Rotary position embedding (half-split order).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    /// Base frequency.
    pub theta: f64,
    /// Rotated dimensions of a head; `head_dim` unless partial.
    pub dim: u32,
    /// Base frequency of local (sliding-window) layers, where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_theta: Option<f64>,
    /// Context extension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<RopeScaling>,
}

/// Context-extension methods, with the parameters of transformers'
/// `modeling_rope_utils`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// Positions divided by `factor`.
    Linear {
        /// Divisor of the position.
        factor: f64,
    },
    /// NTK-aware base growth beyond the trained length.
    Dynamic {
        /// Growth factor.
        factor: f64,
        /// Trained context.
        original_max_positions: u32,
    },
    /// Llama 3.1's wavelength-dependent interpolation.
    Llama3 {
        /// Interpolation of long wavelengths.
        factor: f64,
        /// Long-wavelength boundary divisor.
        low_freq_factor: f64,
        /// Short-wavelength boundary divisor.
        high_freq_factor: f64,
        /// Trained context.
        original_max_positions: u32,
    },
    /// `YaRN` (arXiv 2309.00071).
    Yarn {
        /// Interpolation factor.
        factor: f64,
        /// Rotations at which extrapolation ends.
        beta_fast: f64,
        /// Rotations at which interpolation is complete.
        beta_slow: f64,
        /// Trained context.
        original_max_positions: u32,
        /// Factor on the rotated vectors; absent: `0.1 ln(factor) + 1`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attention_factor: Option<f64>,
        /// DeepSeek's `mscale`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mscale: Option<f64>,
        /// DeepSeek's `mscale_all_dim`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mscale_all_dim: Option<f64>,
        /// Whether the correction range is rounded to whole dimensions (true
        /// in transformers' default).
        #[serde(default = "yes")]
        truncate: bool,
    },
    /// Phi's per-dimension factors.
    Longrope {
        /// Factors up to the original context, `dim / 2` values.
        short_factor: Vec<f64>,
        /// Factors beyond it.
        long_factor: Vec<f64>,
        /// Trained context.
        original_max_positions: u32,
        /// Factor on the rotated vectors; absent: from the context ratio.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attention_factor: Option<f64>,
    },
    /// Explicit divisors of the inverse frequencies (GGUF's
    /// `rope_freqs.weight`), `dim / 2` values.
    Factors {
        /// Inverse frequency i is divided by `factors[i]`.
        factors: Vec<f64>,
    },
}

fn yes() -> bool {
    true
}

/// Mixture-of-experts parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moe {
    /// Routed experts.
    pub num_experts: u16,
    /// Experts per token.
    pub experts_per_token: u16,
    /// Feed-forward width of one expert.
    pub expert_ffn_size: u32,
    /// Selected weights are renormalised to sum to one.
    pub normalize_weights: bool,
    /// Scores by sigmoid instead of softmax (DeepSeek V3).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sigmoid_scores: bool,
    /// Factor on the routed sum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routed_scale: Option<f64>,
    /// Always-active experts' total width.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_ffn_size: Option<u32>,
    /// Layers without experts, from the first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub leading_dense_layers: u16,
    /// Expert groups and groups kept per token (DeepSeek).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<(u16, u16)>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(v: &u16) -> bool {
    *v == 0
}

/// Multi-head latent attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mla {
    /// Width of the query latent; absent when the query is projected directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub q_lora_rank: Option<u32>,
    /// Width of the key/value latent.
    pub kv_lora_rank: u32,
    /// Head width without rotary embedding.
    pub qk_nope_head_dim: u32,
    /// Head width with rotary embedding.
    pub qk_rope_head_dim: u32,
    /// Value head width.
    pub v_head_dim: u32,
}

/// Token ids with a meaning to generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecialTokens {
    /// Beginning of sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos: Option<u32>,
    /// Every id that ends generation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eos: Vec<u32>,
    /// Padding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad: Option<u32>,
    /// Prepend `bos` to plain prompts (`add_bos_token`, else the tokenizer's
    /// post-processor, else GGUF's key).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub add_bos: bool,
}

impl ModelConfig {
    /// The header's architecture id of the family.
    pub fn arch(&self) -> ArchId {
        match self.family.as_str() {
            "llama" | "smollm3" => ArchId::LLAMA,
            "mistral" => ArchId::MISTRAL,
            f if f.starts_with("qwen") => ArchId::QWEN,
            f if f.starts_with("gemma") => ArchId::GEMMA,
            f if f.starts_with("deepseek") => ArchId::DEEPSEEK,
            f if f.starts_with("phi") => ArchId::PHI,
            _ => ArchId::OTHER,
        }
    }

    /// Whether layer `i` attends only within the sliding window.
    pub fn is_local(&self, layer: usize) -> bool {
        self.sliding_window.is_some() && self.local_layers.get(layer).copied().unwrap_or(true)
    }

    /// Whether layer `i` applies the rotary embedding.
    pub fn uses_rope(&self, layer: usize) -> bool {
        !self.nope_layers.get(layer).copied().unwrap_or(false)
    }
}
