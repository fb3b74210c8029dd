//! Test models: Hugging Face checkpoints held in memory as raw tensors.

use super::weights::{Stored, Weights};
use crate::model::ModelConfig;
use safetensors::{Dtype, SafeTensors};
use squizd_spec::{CodecId, Params, Part, Role};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub(crate) const NO_PARAMS: Params = [0; 32];

type Key = (Role, Option<u16>, Part);

/// Tensors in memory.
#[derive(Default)]
pub(crate) struct MemoryWeights {
    pub(crate) tensors: HashMap<Key, (String, Vec<u64>, CodecId, Vec<u8>)>,
}

impl<'w> Weights<'w> for &'w MemoryWeights {
    fn get(&self, role: Role, layer: Option<u16>, part: Part) -> Option<Stored<'w>> {
        self.tensors.get(&(role, layer, part)).map(|(name, dims, codec, data)| Stored {
            name,
            dims: dims.clone(),
            codec: *codec,
            params: &NO_PARAMS,
            data,
        })
    }
}

impl MemoryWeights {
    /// All tensors of a safetensors file, by their Hugging Face names.
    pub(crate) fn add_safetensors(&mut self, bytes: &[u8]) {
        for (name, view) in SafeTensors::deserialize(bytes).unwrap().iter() {
            let codec = match view.dtype() {
                Dtype::BF16 => CodecId::RAW_BF16,
                Dtype::F32 => CodecId::RAW_F32,
                other => panic!("{name}: {other:?}"),
            };
            let dims = view.shape().iter().map(|d| *d as u64).collect();
            self.tensors.insert(key(name), (name.to_owned(), dims, codec, view.data().to_vec()));
        }
    }
}

/// What a Hugging Face tensor of these families does.
fn key(name: &str) -> Key {
    let (module, part) = match name.rsplit_once('.').unwrap() {
        (module, "weight") => (module, Part::WEIGHT),
        (module, "bias") => (module, Part::BIAS),
        _ => panic!("{name}"),
    };
    let Some(rest) = module.strip_prefix("model.layers.") else {
        let role = match module {
            "model.embed_tokens" => Role::TOKEN_EMBD,
            "model.norm" => Role::OUTPUT_NORM,
            "lm_head" => Role::OUTPUT,
            _ => panic!("{name}"),
        };
        return (role, None, part);
    };
    let (layer, module) = rest.split_once('.').unwrap();
    let role = match module {
        "input_layernorm" => Role::ATTN_NORM,
        "self_attn.q_proj" => Role::ATTN_Q,
        "self_attn.k_proj" => Role::ATTN_K,
        "self_attn.v_proj" => Role::ATTN_V,
        "self_attn.o_proj" => Role::ATTN_OUTPUT,
        "self_attn.q_norm" => Role::ATTN_Q_NORM,
        "self_attn.k_norm" => Role::ATTN_K_NORM,
        "post_attention_layernorm" => Role::FFN_NORM,
        "mlp.gate_proj" => Role::FFN_GATE,
        "mlp.up_proj" => Role::FFN_UP,
        "mlp.down_proj" => Role::FFN_DOWN,
        _ => panic!("{name}"),
    };
    (role, Some(layer.parse().unwrap()), part)
}

/// A trained model with its reference data.
pub(crate) struct Trained {
    pub(crate) dir: PathBuf,
    pub(crate) config: ModelConfig,
    pub(crate) weights: MemoryWeights,
}

impl Trained {
    /// The model the project ships.
    pub(crate) fn tiny() -> Self {
        Self::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny-qwen3-1m"))
    }

    /// The shared one, where it is present; required if `SQUIZD_REQUIRE` says so.
    pub(crate) fn natural() -> Option<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let required =
            std::env::var("SQUIZD_REQUIRE").is_ok_and(|v| v.split(',').any(|r| r.trim() == "shared"));
        let found = manifest
            .ancestors()
            .map(|dir| dir.join("shared/models/natural-qwen3-28m"))
            .find(|dir| dir.is_dir());
        match found {
            Some(dir) => Some(Self::open(dir)),
            None if required => panic!("SQUIZD_REQUIRE names shared, but natural-qwen3-28m is not there"),
            None => {
                eprintln!("skipped: shared/models/natural-qwen3-28m is not there");
                None
            }
        }
    }

    fn open(dir: PathBuf) -> Self {
        let text = std::fs::read(dir.join("config.json")).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let number = |key: &str| json[key].clone();
        let config = serde_json::from_value(serde_json::json!({
            "family": "qwen3",
            "hidden_size": number("hidden_size"),
            "num_layers": number("num_hidden_layers"),
            "num_heads": number("num_attention_heads"),
            "num_kv_heads": number("num_key_value_heads"),
            "head_dim": number("head_dim"),
            "ffn_size": number("intermediate_size"),
            "vocab_size": number("vocab_size"),
            "max_positions": number("max_position_embeddings"),
            "norm_eps": number("rms_norm_eps"),
            "activation": "silu",
            "tie_embeddings": number("tie_word_embeddings"),
            "rope": { "theta": number("rope_theta"), "dim": number("head_dim") },
        }))
        .unwrap();
        let mut weights = MemoryWeights::default();
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with("model") && name.ends_with(".safetensors") {
                weights.add_safetensors(&std::fs::read(&path).unwrap());
            }
        }
        Self { dir, config, weights }
    }

    /// A tensor of `reference_logits.safetensors`.
    pub(crate) fn reference(&self) -> Reference {
        Reference(std::fs::read(self.dir.join("reference_logits.safetensors")).unwrap())
    }

    /// Ids of the first `bytes` bytes of the held-out text.
    #[cfg(feature = "text")]
    pub(crate) fn heldout(&self, bytes: usize) -> Vec<u32> {
        let tokenizer = tokenizers::Tokenizer::from_file(self.dir.join("tokenizer.json")).unwrap();
        let text = std::fs::read_to_string(self.dir.join("heldout.txt")).unwrap();
        let text = &text[..text.floor_char_boundary(bytes.min(text.len()))];
        tokenizer.encode(text, false).unwrap().get_ids().to_vec()
    }
}

/// A safetensors file of ids and logits.
pub(crate) struct Reference(pub(crate) Vec<u8>);

impl Reference {
    pub(crate) fn floats(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let bytes = file.tensor(name).unwrap().data().to_vec();
        bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    pub(crate) fn ids(&self, name: &str) -> Vec<u32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let bytes = file.tensor(name).unwrap().data().to_vec();
        bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect()
    }
}

/// Largest absolute difference.
pub(crate) fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if d.is_nan() { d } else { m.max(d) })
}

/// Index of the largest logit.
pub(crate) fn argmax(logits: &mut [f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
    best.0 as u32
}
