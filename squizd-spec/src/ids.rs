//! Wire identifiers: newtypes whose unknown values survive a round trip and
//! print as `Unknown codec 0x0123`.

/// Declares a wire id: a newtype with named constants, `name()` and `Display`.
macro_rules! wire_id {
    (
        $(#[$meta:meta])* $ty:ident($int:ty), $what:literal, $width:literal;
        $( $(#[$vmeta:meta])* $konst:ident = $value:literal, $name:literal; )*
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $ty(pub $int);

        impl $ty {
            $( $(#[$vmeta])* pub const $konst: Self = Self($value); )*

            /// Every value this version names, in wire order.
            pub const ALL: &'static [Self] = &[$(Self::$konst),*];

            /// The value's name, or `None` for a value this version does not know.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $( $value => Some($name), )*
                    _ => None,
                }
            }

            /// The value with this exact name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.name() == Some(name))
            }
        }

        impl core::fmt::Display for $ty {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => f.pad(&alloc::format!(concat!("Unknown ", $what, " 0x{:0", $width, "x}"), self.0)),
                }
            }
        }

        impl core::fmt::Debug for $ty {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Display::fmt(self, f)
            }
        }
    };
}

wire_id! {
    /// Model architecture family in the header. The enum's order is the
    /// format's; the fine-grained family (for instance `qwen3moe`) is
    /// `metadata.model.family`.
    ArchId(u8), "architecture", 2;
    /// Llama 2/3, SmolLM 2/3.
    LLAMA = 0, "LLAMA";
    /// Mistral and Mistral-Nemo.
    MISTRAL = 1, "MISTRAL";
    /// Qwen 2, 2.5, 3, 3-MoE, 3.5.
    QWEN = 2, "QWEN";
    /// Gemma 2 and 3.
    GEMMA = 3, "GEMMA";
    /// DeepSeek V2/V3.
    DEEPSEEK = 4, "DEEPSEEK";
    /// Phi 3, 4, 4-mini.
    PHI = 5, "PHI";
    /// Anything carried with `--allow-unmapped`; runtimes refuse it.
    OTHER = 255, "OTHER";
}

wire_id! {
    /// Section kind. Kinds ascend in file order; the gaps leave room for
    /// kinds of later minor versions.
    SectionKind(u32), "section", 8;
    /// UTF-8 names of tensors, concatenated.
    STRINGS = 0x10, "strings";
    /// Fixed-size tensor records.
    TENSORS = 0x20, "tensors";
    /// Tensor payloads.
    PAYLOAD = 0x30, "payload";
    /// Which shard holds which tensor; only in the first shard of a split file.
    SHARD_MAP = 0x40, "shard_map";
    /// FFN sparsity appendix.
    SPARSITY = 0x50, "sparsity";
    /// EAGLE draft head appendix.
    DRAFT_HEAD = 0x60, "draft_head";
    /// Core ML package appendix.
    COREML = 0x70, "coreml";
    /// Tokenizer files.
    TOKENIZER = 0x80, "tokenizer";
    /// Model hyper-parameters, source files and provenance as JSON.
    METADATA = 0x90, "metadata";
    /// Reserved: v1.0 signatures are detached files.
    SIGNATURE = 0xa0, "signature";
}

wire_id! {
    /// Element type of the *source* tensor, before encoding.
    DType(u8), "dtype", 2;
    /// IEEE binary32.
    F32 = 0, "F32";
    /// IEEE binary16.
    F16 = 1, "F16";
    /// bfloat16.
    BF16 = 2, "BF16";
    /// Signed byte.
    I8 = 3, "I8";
    /// ggml Q4_0.
    Q4_0 = 16, "Q4_0";
    /// ggml Q4_1.
    Q4_1 = 17, "Q4_1";
    /// ggml Q5_0.
    Q5_0 = 18, "Q5_0";
    /// ggml Q5_1.
    Q5_1 = 19, "Q5_1";
    /// ggml Q8_0.
    Q8_0 = 20, "Q8_0";
    /// ggml Q2_K.
    Q2_K = 21, "Q2_K";
    /// ggml Q3_K.
    Q3_K = 22, "Q3_K";
    /// ggml Q4_K.
    Q4_K = 23, "Q4_K";
    /// ggml Q5_K.
    Q5_K = 24, "Q5_K";
    /// ggml Q6_K.
    Q6_K = 25, "Q6_K";
    /// ggml MXFP4.
    MXFP4 = 26, "MXFP4";
    /// Any other type.
    GGML_OTHER = 27, "GGML_OTHER";
    /// ggml IQ4_NL.
    IQ4_NL = 28, "IQ4_NL";
    /// ggml IQ4_XS.
    IQ4_XS = 29, "IQ4_XS";
    /// ggml IQ3_S.
    IQ3_S = 30, "IQ3_S";
    /// ggml IQ3_XXS.
    IQ3_XXS = 31, "IQ3_XXS";
    /// ggml IQ2_S.
    IQ2_S = 32, "IQ2_S";
    /// ggml IQ2_XS.
    IQ2_XS = 33, "IQ2_XS";
    /// ggml IQ2_XXS.
    IQ2_XXS = 34, "IQ2_XXS";
    /// ggml IQ1_M.
    IQ1_M = 35, "IQ1_M";
    /// ggml IQ1_S.
    IQ1_S = 36, "IQ1_S";
    /// ggml TQ1_0.
    TQ1_0 = 37, "TQ1_0";
    /// ggml TQ2_0.
    TQ2_0 = 38, "TQ2_0";
    /// ggml NVFP4.
    NVFP4 = 39, "NVFP4";
}

impl DType {
    /// Whether the source held quantized blocks rather than plain numbers.
    pub const fn is_quantized(self) -> bool {
        self.0 >= 16
    }
}

wire_id! {
    /// What a tensor does in the model. `(layer, role, part)` is unique among
    /// mapped tensors; the stored name is derived from it, see
    /// [`canonical_name`].
    Role(u16), "role", 4;
    /// Carried raw without a known meaning, under its source name.
    OTHER = 0, "other";
    /// Token embedding, `[vocab, hidden]`.
    TOKEN_EMBD = 1, "token_embd";
    /// Final norm, `[hidden]`.
    OUTPUT_NORM = 2, "output_norm";
    /// Language-model head, `[vocab, hidden]`; absent when tied to the embedding.
    OUTPUT = 3, "output";
    /// Draft heads only: fuses the hidden states of the two source layers,
    /// `[d_model, 2 * d_hidden]`.
    DRAFT_FC = 4, "draft_fc";
    /// Norm before attention.
    ATTN_NORM = 16, "attn_norm";
    /// Query projection, `[heads * head_dim, hidden]`.
    ATTN_Q = 17, "attn_q";
    /// Key projection, `[kv_heads * head_dim, hidden]`.
    ATTN_K = 18, "attn_k";
    /// Value projection.
    ATTN_V = 19, "attn_v";
    /// Attention output projection, `[hidden, heads * head_dim]`.
    ATTN_OUTPUT = 20, "attn_output";
    /// Per-head query norm, `[head_dim]`.
    ATTN_Q_NORM = 21, "attn_q_norm";
    /// Per-head key norm, `[head_dim]`.
    ATTN_K_NORM = 22, "attn_k_norm";
    /// Norm after attention (sandwich norms).
    ATTN_POST_NORM = 23, "attn_post_norm";
    /// MLA: down-projection of the query.
    ATTN_Q_A = 24, "attn_q_a";
    /// MLA: norm of the query latent.
    ATTN_Q_A_NORM = 25, "attn_q_a_norm";
    /// MLA: up-projection of the query.
    ATTN_Q_B = 26, "attn_q_b";
    /// MLA: joint key/value down-projection with the rotary key.
    ATTN_KV_A = 27, "attn_kv_a";
    /// MLA: norm of the key/value latent.
    ATTN_KV_A_NORM = 28, "attn_kv_a_norm";
    /// MLA: key/value up-projection.
    ATTN_KV_B = 29, "attn_kv_b";
    /// Output gate of gated attention.
    ATTN_GATE = 30, "attn_gate";
    /// Norm before the feed-forward block.
    FFN_NORM = 48, "ffn_norm";
    /// Gate projection, `[ffn, hidden]`.
    FFN_GATE = 49, "ffn_gate";
    /// Up projection, `[ffn, hidden]`.
    FFN_UP = 50, "ffn_up";
    /// Down projection, `[hidden, ffn]`.
    FFN_DOWN = 51, "ffn_down";
    /// Norm after the feed-forward block (sandwich norms).
    FFN_POST_NORM = 52, "ffn_post_norm";
    /// MoE router, `[experts, hidden]`.
    MOE_ROUTER = 64, "moe_router";
    /// Stacked expert gates, `[experts, ffn, hidden]`.
    MOE_GATE = 65, "moe_gate";
    /// Stacked expert up-projections.
    MOE_UP = 66, "moe_up";
    /// Stacked expert down-projections, `[experts, hidden, ffn]`.
    MOE_DOWN = 67, "moe_down";
    /// Shared expert gate.
    SHARED_GATE = 68, "shared_gate";
    /// Shared expert up-projection.
    SHARED_UP = 69, "shared_up";
    /// Shared expert down-projection.
    SHARED_DOWN = 70, "shared_down";
    /// Gate of the shared expert, `[1, hidden]`.
    SHARED_ROUTER = 71, "shared_router";
    /// Router score correction bias, `[experts]`.
    MOE_ROUTER_CORRECTION = 72, "moe_router_correction";
    /// Gated delta rule: joint query/key/value projection.
    LINEAR_ATTN_QKV = 80, "linear_attn_qkv";
    /// Gated delta rule: output gate projection.
    LINEAR_ATTN_GATE = 81, "linear_attn_gate";
    /// Gated delta rule: write strength, `[value_heads, hidden]`.
    LINEAR_ATTN_BETA = 82, "linear_attn_beta";
    /// Gated delta rule: decay, `[value_heads, hidden]`.
    LINEAR_ATTN_ALPHA = 83, "linear_attn_alpha";
    /// Gated delta rule: causal depthwise convolution, `[channels, 1, width]`.
    LINEAR_ATTN_CONV = 84, "linear_attn_conv";
    /// Gated delta rule: time step bias, `[value_heads]`.
    LINEAR_ATTN_DT = 85, "linear_attn_dt";
    /// Gated delta rule: logarithm of the decay rate, `[value_heads]`.
    LINEAR_ATTN_A = 86, "linear_attn_a";
    /// Gated delta rule: norm of the output heads, `[value_head_dim]`.
    LINEAR_ATTN_NORM = 87, "linear_attn_norm";
    /// Gated delta rule: output projection.
    LINEAR_ATTN_OUTPUT = 88, "linear_attn_output";
}

impl Role {
    /// Whether the role belongs to a layer (and so needs a layer index).
    pub const fn is_per_layer(self) -> bool {
        self.0 >= 16
    }
}

wire_id! {
    /// Which parameter of the module a tensor is.
    Part(u8), "part", 2;
    /// The matrix or norm gain.
    WEIGHT = 0, "weight";
    /// The additive bias.
    BIAS = 1, "bias";
}

/// `TensorRecord::layer` of a tensor outside the layer stack.
pub const NO_LAYER: u16 = 0xffff;

/// The one stored name of a mapped tensor: `token_embd.weight`,
/// `blk.3.attn_q.bias`. Role [`Role::OTHER`] keeps its source name instead.
pub fn canonical_name(role: Role, layer: Option<u16>, part: Part) -> alloc::string::String {
    match layer {
        Some(l) => alloc::format!("blk.{l}.{role}.{part}"),
        None => alloc::format!("{role}.{part}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    #[test]
    fn unknown_values_survive_and_print() {
        assert_eq!(format!("{}", ArchId(77)), "Unknown architecture 0x4d");
        assert_eq!(format!("{}", SectionKind(0x123)), "Unknown section 0x00000123");
        assert_eq!(Role::from_name("attn_q"), Some(Role::ATTN_Q));
    }

    #[test]
    fn plain_types_are_not_quantized() {
        let plain = [DType::F32, DType::F16, DType::BF16, DType::I8];
        assert!(DType::ALL.iter().all(|t| t.is_quantized() != plain.contains(t)));
    }

    #[test]
    fn canonical_names() {
        assert_eq!(canonical_name(Role::ATTN_Q, Some(3), Part::BIAS), "blk.3.attn_q.bias");
        assert_eq!(canonical_name(Role::OUTPUT_NORM, None, Part::WEIGHT), "output_norm.weight");
    }
}
