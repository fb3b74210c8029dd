//! Test models: checkpoints held in memory.

use super::weights::{Stored, Weights};
use crate::codec::{self, Encoded, PayloadSink, Request, Rows};
use crate::model::ModelConfig;
use safetensors::{Dtype, SafeTensors};
use squizd_spec::{CodecId, DType, Matrix, Params, Part, Role};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

type Key = (Role, Option<u16>, Part);

/// A stored tensor that owns its bytes.
#[derive(Clone)]
pub(crate) struct MemoryTensor {
    name: String,
    dims: Vec<u64>,
    pub(crate) codec: CodecId,
    params: Params,
    pub(crate) data: Vec<u8>,
}

impl MemoryTensor {
    pub(crate) fn raw(name: &str, dims: Vec<u64>, codec: CodecId, data: Vec<u8>) -> Self {
        Self { name: name.to_owned(), dims, codec, params: [0; 32], data }
    }

    fn values(&self) -> Vec<f32> {
        let matrix = Matrix::of(&self.dims).unwrap();
        let tensor = Encoded { name: &self.name, matrix, params: &self.params, data: &self.data };
        let mut values = vec![0.0; matrix.elements() as usize];
        codec::codec(self.codec).unwrap().decode(&tensor, 0..matrix.rows, &mut values).unwrap();
        values
    }

    /// The same tensor in another codec; vectors stay as they are.
    fn encoded(&self, id: CodecId) -> Self {
        if self.dims.len() == 1 {
            return self.clone();
        }
        let codec = codec::codec(id).unwrap();
        let (mut values, mut dtype) = (self.values(), DType::F32);
        if codec.accepts_dtype(dtype).is_err() {
            dtype = DType::BF16;
            for v in &mut values {
                *v = f32::from_bits(v.to_bits() & 0xffff_0000);
            }
        }
        let rows = Values(Matrix::of(&self.dims).unwrap(), dtype, values);
        let params = codec.plan(&rows, &Request::default()).unwrap();
        let payload = Payload::default();
        let (length, _) = codec.encode(&rows, &params, &Request::default(), &payload).unwrap();
        let mut data = payload.0.into_inner().unwrap();
        data.resize(length as usize, 0);
        Self { codec: id, params, data, ..self.clone() }
    }
}

struct Values(Matrix, DType, Vec<f32>);

impl Rows for Values {
    fn name(&self) -> &'static str {
        "test"
    }
    fn matrix(&self) -> Matrix {
        self.0
    }
    fn dtype(&self) -> DType {
        self.1
    }
    fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> crate::Result<()> {
        out.copy_from_slice(&self.2[(rows.start * self.0.cols) as usize..(rows.end * self.0.cols) as usize]);
        Ok(())
    }
    fn read_native(&self, _: Range<u64>) -> crate::Result<Option<Cow<'_, [u8]>>> {
        Ok(None)
    }
    fn release(&self, _: Range<u64>) {}
}

#[derive(Default)]
struct Payload(Mutex<Vec<u8>>);

impl PayloadSink for Payload {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> crate::Result<()> {
        let mut data = self.0.lock().unwrap();
        let end = offset as usize + bytes.len();
        let length = data.len().max(end);
        data.resize(length, 0);
        data[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }
}

/// Tensors in memory.
#[derive(Default)]
pub(crate) struct MemoryWeights {
    pub(crate) tensors: HashMap<Key, MemoryTensor>,
}

impl<'w> Weights<'w> for &'w MemoryWeights {
    fn get(&self, role: Role, layer: Option<u16>, part: Part) -> Option<Stored<'w>> {
        self.tensors.get(&(role, layer, part)).map(|tensor| Stored {
            name: &tensor.name,
            dims: tensor.dims.clone(),
            codec: tensor.codec,
            params: &tensor.params,
            data: &tensor.data,
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
            let tensor = MemoryTensor::raw(name, dims, codec, view.data().to_vec());
            self.tensors.insert(key(name), tensor);
        }
    }

    /// What the tensors mean for memory.
    #[cfg(feature = "gpu")]
    pub(crate) fn sizes(&self) -> impl Iterator<Item = super::StoredSize<'_>> {
        self.tensors.values().map(|t| super::StoredSize {
            subject: crate::dispatch::Subject {
                codec: t.codec,
                params: &t.params,
                matrix: Matrix::of(&t.dims).unwrap(),
            },
            vector: t.dims.len() == 1,
            bytes: t.data.len() as u64,
        })
    }

    /// The same tensors with every matrix in another codec.
    pub(crate) fn encoded(&self, id: CodecId) -> Self {
        Self { tensors: self.tensors.iter().map(|(key, tensor)| (*key, tensor.encoded(id))).collect() }
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
            "tokens": {},
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
