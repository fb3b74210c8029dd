//! `squizd::model::ModelConfig` from a source's own configuration.

#![allow(clippy::float_cmp, reason = "configured constants are compared as written, not as computed")]

mod check;
mod defaults;
pub mod gguf;
pub mod hf;
pub mod json;
mod rope;
#[cfg(test)]
mod tests;
pub mod tokens;
mod unknown;

use super::arch::Family;
use squizd::model::ModelConfig;

/// What a configuration says beyond the runtime's schema: enough to know which
/// tensors must be there and how large they are.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Which name tables and rules apply.
    pub family: &'static Family,
    /// The normalised hyper-parameters; `vocab_size`, `tie_embeddings` and rope
    /// factors are settled once the tensors are known.
    pub model: ModelConfig,
    /// Query, key and value projections have biases.
    pub attention_bias: bool,
    /// Whether the source said that the head is tied; `None` where it leaves
    /// that to the presence of the head (GGUF).
    pub tied: Option<bool>,
    /// The configuration itself names end-of-sequence ids (no class default).
    pub states_eos: bool,
    /// Layers of linear attention (Qwen3.5), if any.
    pub linear: Option<LinearAttention>,
    /// Multi-token prediction layers stored behind the last layer.
    pub mtp_layers: u16,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Gated delta rule attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearAttention {
    /// Per layer: linear instead of softmax attention.
    pub layers: Vec<bool>,
    /// Width of the causal convolution.
    pub conv_width: u32,
    /// Query/key heads.
    pub key_heads: u32,
    /// Value heads.
    pub value_heads: u32,
    /// Width of a query/key head.
    pub key_dim: u32,
    /// Width of a value head.
    pub value_dim: u32,
}

impl SourceConfig {
    /// Whether layer `i` uses linear attention.
    pub fn is_linear(&self, layer: u16) -> bool {
        self.linear.as_ref().is_some_and(|l| l.layers.get(usize::from(layer)).copied().unwrap_or(false))
    }

    /// Whether layer `i` has routed experts.
    pub fn is_moe(&self, layer: u16) -> bool {
        self.model.moe.as_ref().is_some_and(|m| layer >= m.leading_dense_layers)
    }
}
