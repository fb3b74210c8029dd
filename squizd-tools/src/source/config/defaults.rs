//! What transformers' configuration classes assume where `config.json` is
//! silent (transformers 5.23; transformers 5 leaves defaults out on saving).

use squizd::model::Activation;

/// Defaults of one configuration class.
#[derive(Debug)]
pub(super) struct Defaults {
    pub model_type: &'static str,
    pub vocab: u32,
    pub hidden: u32,
    pub ffn: u32,
    pub layers: u16,
    pub heads: u16,
    /// `None`: as many as query heads.
    pub kv_heads: Option<u16>,
    /// `None`: `hidden / heads`.
    pub head_dim: Option<u32>,
    pub activation: Activation,
    pub positions: u32,
    pub eps: f64,
    pub theta: f64,
    /// Base of the local layers' rotary embedding, where it differs.
    pub local_theta: Option<f64>,
    pub rotary_share: f64,
    pub tied: bool,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
    pub window: Option<u32>,
}

const LLAMA: Defaults = Defaults {
    model_type: "llama",
    vocab: 32000,
    hidden: 4096,
    ffn: 11008,
    layers: 32,
    heads: 32,
    kv_heads: None,
    head_dim: None,
    activation: Activation::Silu,
    positions: 2048,
    eps: 1e-6,
    theta: 10000.0,
    local_theta: None,
    rotary_share: 1.0,
    tied: false,
    bos: Some(1),
    eos: Some(2),
    pad: None,
    window: None,
};

const QWEN2: Defaults = Defaults {
    model_type: "qwen2",
    vocab: 151_936,
    ffn: 22016,
    kv_heads: Some(32),
    positions: 32768,
    bos: None,
    eos: None,
    window: Some(4096),
    ..LLAMA
};

const QWEN35: Defaults = Defaults {
    model_type: "qwen3_5_text",
    vocab: 248_320,
    ffn: 12288,
    heads: 16,
    kv_heads: Some(4),
    head_dim: Some(256),
    rotary_share: 0.25,
    window: None,
    ..QWEN2
};

const GEMMA2: Defaults = Defaults {
    model_type: "gemma2",
    vocab: 256_000,
    hidden: 2304,
    ffn: 9216,
    layers: 26,
    heads: 8,
    kv_heads: Some(4),
    head_dim: Some(256),
    activation: Activation::GeluTanh,
    positions: 8192,
    tied: true,
    bos: Some(2),
    eos: Some(1),
    pad: Some(0),
    window: Some(4096),
    ..LLAMA
};

const DEFAULTS: &[Defaults] = &[
    LLAMA,
    Defaults {
        model_type: "smollm3",
        vocab: 128_256,
        hidden: 2048,
        layers: 36,
        heads: 16,
        kv_heads: Some(4),
        positions: 32768,
        theta: 2_000_000.0,
        tied: true,
        bos: Some(128_000),
        eos: Some(128_001),
        pad: Some(128_004),
        ..LLAMA
    },
    Defaults {
        model_type: "mistral",
        ffn: 14336,
        kv_heads: Some(8),
        positions: 131_072,
        window: Some(4096),
        ..LLAMA
    },
    QWEN2,
    Defaults { model_type: "qwen3", head_dim: Some(128), ..QWEN2 },
    Defaults { model_type: "qwen3_moe", hidden: 2048, ffn: 6144, layers: 24, kv_heads: Some(4), ..QWEN2 },
    QWEN35,
    Defaults {
        model_type: "qwen3_5_moe_text",
        hidden: 2048,
        // No dense feed-forward; the class has no such field.
        ffn: 512,
        layers: 40,
        kv_heads: Some(2),
        ..QWEN35
    },
    GEMMA2,
    Defaults {
        model_type: "gemma3_text",
        vocab: 262_208,
        positions: 131_072,
        theta: 1_000_000.0,
        local_theta: Some(10000.0),
        ..GEMMA2
    },
    Defaults {
        model_type: "phi3",
        vocab: 32064,
        hidden: 3072,
        ffn: 8192,
        positions: 4096,
        eps: 1e-5,
        bos: Some(1),
        eos: Some(32000),
        pad: Some(32000),
        ..LLAMA
    },
    Defaults { model_type: "deepseek_v2", vocab: 102_400, ..LLAMA },
    Defaults {
        model_type: "deepseek_v3",
        vocab: 129_280,
        hidden: 7168,
        ffn: 18432,
        layers: 61,
        heads: 128,
        kv_heads: Some(128),
        positions: 4096,
        bos: Some(0),
        eos: Some(1),
        ..LLAMA
    },
];

impl Defaults {
    pub(super) fn of(model_type: &str) -> Option<&'static Self> {
        DEFAULTS.iter().find(|d| d.model_type == model_type)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::arch::FAMILIES;

    #[test]
    fn every_model_type_has_defaults() {
        for ty in FAMILIES.iter().flat_map(|f| f.hf_types) {
            assert!(Defaults::of(ty).is_some(), "{ty}");
        }
        assert_eq!(FAMILIES.iter().map(|f| f.hf_types.len()).sum::<usize>(), DEFAULTS.len());
    }
}
