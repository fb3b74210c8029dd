//! Models of random weights, for what depends on shapes and codecs only.

use squizd::Result;
use squizd::codec::{Codec, PayloadSink, Request, Rows};
use squizd::model::ModelConfig;
use squizd::runtime::{Stored, Weights};
use squizd_spec::{CodecId, DType, Matrix, Params, Part, Role};
use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
    ops::Range,
    sync::{Mutex, PoisonError},
};

/// Shape of a Llama with a tied head.
pub(crate) struct Shape {
    pub(crate) hidden: u64,
    pub(crate) ffn: u64,
    pub(crate) heads: u64,
    pub(crate) kv_heads: u64,
    pub(crate) head_dim: u64,
    pub(crate) vocab: u64,
    pub(crate) layers: u16,
}

impl Shape {
    pub(crate) fn config(&self) -> serde_json::Result<ModelConfig> {
        serde_json::from_value(serde_json::json!({
            "family": "llama", "hidden_size": self.hidden, "num_layers": self.layers, "num_heads": self.heads,
            "num_kv_heads": self.kv_heads, "head_dim": self.head_dim, "ffn_size": self.ffn,
            "vocab_size": self.vocab, "max_positions": 8192, "norm_eps": 1e-5, "activation": "silu",
            "tie_embeddings": true, "rope": { "theta": 1e4, "dim": self.head_dim }, "tokens": {},
        }))
    }

    /// Weights, matrices by `codec`.
    pub(crate) fn weights(&self, codec: &'static dyn Codec) -> Result<Synthetic> {
        let mut model = Builder { codec, encoded: HashMap::new(), weights: Synthetic::default() };
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        model.add(Role::TOKEN_EMBD, None, &[self.vocab, self.hidden])?;
        model.add(Role::OUTPUT_NORM, None, &[self.hidden])?;
        for layer in (0..self.layers).map(Some) {
            model.add(Role::ATTN_NORM, layer, &[self.hidden])?;
            model.add(Role::FFN_NORM, layer, &[self.hidden])?;
            model.add(Role::ATTN_Q, layer, &[q, self.hidden])?;
            model.add(Role::ATTN_K, layer, &[kv, self.hidden])?;
            model.add(Role::ATTN_V, layer, &[kv, self.hidden])?;
            model.add(Role::ATTN_OUTPUT, layer, &[self.hidden, q])?;
            model.add(Role::FFN_GATE, layer, &[self.ffn, self.hidden])?;
            model.add(Role::FFN_UP, layer, &[self.ffn, self.hidden])?;
            model.add(Role::FFN_DOWN, layer, &[self.hidden, self.ffn])?;
        }
        Ok(model.weights)
    }
}

/// A stored tensor.
pub(crate) struct Tensor {
    pub(crate) dims: Vec<u64>,
    pub(crate) codec: CodecId,
    pub(crate) params: Params,
    pub(crate) data: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct Synthetic(pub(crate) HashMap<(Role, Option<u16>), Tensor>);

impl<'w> Weights<'w> for &'w Synthetic {
    fn get(&self, role: Role, layer: Option<u16>, part: Part) -> Option<Stored<'w>> {
        let tensor = self.0.get(&(role, layer)).filter(|_| part == Part::WEIGHT)?;
        Some(Stored {
            name: "random",
            dims: tensor.dims.clone(),
            codec: tensor.codec,
            params: &tensor.params,
            data: &tensor.data,
        })
    }
}

struct Builder {
    codec: &'static dyn Codec,
    /// One payload of each shape; each tensor has a copy, as in a file.
    encoded: HashMap<(CodecId, u64, u64), (Params, Vec<u8>)>,
    weights: Synthetic,
}

impl Builder {
    fn add(&mut self, role: Role, layer: Option<u16>, dims: &[u64]) -> Result<()> {
        let norm = squizd::codec::codec(CodecId::RAW_F32).filter(|_| dims.len() == 1);
        let codec = norm.unwrap_or(self.codec);
        let (rows, cols) = dims.split_last().map_or((0, 0), |(cols, rows)| (rows.iter().product(), *cols));
        let (params, data) = match self.encoded.entry((codec.id(), rows, cols)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(encode(codec, Matrix { rows, cols })?),
        };
        let (params, data) = (*params, data.clone());
        let tensor = Tensor { dims: dims.to_vec(), codec: codec.id(), params, data };
        self.weights.0.insert((role, layer), tensor);
        Ok(())
    }
}

fn encode(codec: &dyn Codec, matrix: Matrix) -> Result<(Params, Vec<u8>)> {
    // TCA-TBE takes BF16 only, all others any numbers.
    let dtype = if codec.accepts_dtype(DType::F32).is_ok() { DType::F32 } else { DType::BF16 };
    let rows = Random { matrix, dtype };
    let params = codec.plan(&rows, &Request::default())?;
    let payload = Payload::default();
    let (length, _) = codec.encode(&rows, &params, &Request::default(), &payload)?;
    let mut data = payload.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    data.resize(length as usize, 0);
    Ok((params, data))
}

struct Random {
    matrix: Matrix,
    dtype: DType,
}

impl Rows for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn matrix(&self) -> Matrix {
        self.matrix
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> Result<()> {
        for (row, out) in rows.zip(out.chunks_mut(self.matrix.cols.max(1) as usize)) {
            let mut state = row.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
            for v in out {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let value = ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.2;
                *v = f32::from_bits(value.to_bits() & 0xffff_0000);
            }
        }
        Ok(())
    }

    fn read_native(&self, _: Range<u64>) -> Result<Option<Cow<'_, [u8]>>> {
        Ok(None)
    }

    fn release(&self, _: Range<u64>) {}
}

#[derive(Default)]
struct Payload(Mutex<Vec<u8>>);

impl PayloadSink for Payload {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut data = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let end = offset as usize + bytes.len();
        if data.len() < end {
            data.resize(end, 0);
        }
        if let Some(to) = data.get_mut(offset as usize..end) {
            to.copy_from_slice(bytes);
        }
        Ok(())
    }
}
