//! Architectures without a name table, carried raw on request: just enough of
//! a configuration to describe the file. Runtimes refuse the family `other`.

use super::{SourceConfig, check, json::Fields};
use crate::source::{arch::UNKNOWN, gguf::GgufMetadata};
use squizd::{
    Error, Result,
    model::{Activation, ModelConfig, Rope, SpecialTokens},
};

/// Hyper-parameters every transformer has, from whatever names the source uses.
struct Outline {
    hidden: u32,
    layers: u16,
    heads: u16,
    vocab: u32,
    positions: u32,
}

/// From `config.json`, under the usual names of each key.
pub(super) fn hf(f: &Fields<'_>, model_type: &str) -> Result<SourceConfig> {
    let any = |keys: &[&str]| -> Result<u32> {
        for key in keys {
            if let Some(n) = f.u32(key)? {
                return Ok(n);
            }
        }
        Err(Error::refused_unsupported(
            "config-arch",
            format!(
                "config.json: architecture {model_type} is unknown and names none of {}; it cannot be carried",
                keys.join(", ")
            ),
        ))
    };
    let small = |keys: &[&str]| -> Result<u16> {
        let n = any(keys)?;
        u16::try_from(n).map_err(|_| f.wrong(keys.first().copied().unwrap_or_default(), "below 65536"))
    };
    let outline = Outline {
        hidden: any(&["hidden_size", "n_embd", "d_model", "dim"])?,
        layers: small(&["num_hidden_layers", "n_layer", "n_layers", "num_layers"])?,
        heads: small(&["num_attention_heads", "n_head", "n_heads", "num_heads"])?,
        vocab: any(&["vocab_size", "n_vocab"])?,
        positions: any(&["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"])
            .unwrap_or(1),
    };
    let tokens = SpecialTokens {
        bos: f.ids("bos_token_id")?.first().copied(),
        eos: f.ids("eos_token_id")?,
        pad: f.ids("pad_token_id")?.first().copied(),
        add_bos: false,
    };
    outline.config("config.json", model_type, tokens)
}

/// From GGUF metadata, whose keys are the same for all architectures.
pub(super) fn gguf(meta: &GgufMetadata, arch: &str, tokens: SpecialTokens) -> Result<SourceConfig> {
    let need = |name: &str| -> Result<u32> {
        let key = format!("{arch}.{name}");
        let first = meta.ints(&key)?.and_then(|v| v.first().copied());
        first
            .and_then(|v| u32::try_from(v).ok())
            .ok_or_else(|| meta.mismatch(&key, "a whole number below 2^32"))
    };
    let small = |name: &str| -> Result<u16> {
        u16::try_from(need(name)?).map_err(|_| meta.mismatch(&format!("{arch}.{name}"), "below 65536"))
    };
    let vocab = match meta.strs("tokenizer.ggml.tokens")? {
        Some(tokens) => tokens.len() as u32,
        None => need("vocab_size")?,
    };
    let outline = Outline {
        hidden: need("embedding_length")?,
        layers: small("block_count")?,
        heads: small("attention.head_count")?,
        vocab,
        positions: need("context_length")?,
    };
    outline.config("GGUF metadata", arch, tokens)
}

impl Outline {
    fn config(self, origin: &str, arch: &str, tokens: SpecialTokens) -> Result<SourceConfig> {
        let even_share = self.hidden.checked_div(u32::from(self.heads)).unwrap_or(0);
        let head_dim = even_share.next_multiple_of(2);
        let model = ModelConfig {
            family: UNKNOWN.name.to_owned(),
            name: Some(arch.to_owned()),
            hidden_size: self.hidden,
            num_layers: self.layers,
            num_heads: self.heads,
            num_kv_heads: self.heads,
            head_dim,
            ffn_size: self.hidden,
            vocab_size: self.vocab,
            max_positions: self.positions,
            norm_eps: 1e-5,
            activation: Activation::Silu,
            tie_embeddings: false,
            rope: Rope { theta: 10000.0, dim: head_dim, local_theta: None, scaling: None },
            sliding_window: None,
            local_layers: Vec::new(),
            nope_layers: Vec::new(),
            attn_scale: None,
            attn_softcap: None,
            logit_softcap: None,
            embedding_scale: None,
            moe: None,
            mla: None,
            tokens,
        };
        check::check(origin, &model)?;
        Ok(SourceConfig {
            family: &UNKNOWN,
            model,
            attention_bias: false,
            tied: Some(false),
            states_eos: true,
            linear: None,
            mtp_layers: 0,
            warnings: vec![format!(
                "architecture {arch} is unknown: its tensors are carried raw and no runtime will run the result"
            )],
        })
    }
}
