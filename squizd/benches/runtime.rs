//! Prefill and decode of a synthetic model of SmolLM2-135M's shape (30 layers,
//! 576 wide, 9/3 heads of 64, vocabulary 49,152): one throughput figure per
//! codec and phase, in tokens per second.
//!
//! The weights are random: speed depends on shapes and codecs only.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use squizd::codec::{PayloadSink, Precision, Request, Rows, codec};
use squizd::model::ModelConfig;
use squizd::runtime::{KvType, Model, Session, SessionOptions, Stored, Weights};
use squizd_spec::{CodecId, DType, Matrix, Params, Part, Role};
use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
    hint::black_box,
    ops::Range,
    sync::Mutex,
};

const HIDDEN: u64 = 576;
const FFN: u64 = 1536;
const KV: u64 = 192;
const VOCAB: u64 = 49_152;
const LAYERS: u16 = 30;
const PROMPT: usize = 128;

/// Random weights of one matrix.
struct Random(Matrix);

impl Rows for Random {
    fn name(&self) -> &'static str {
        "random"
    }
    fn matrix(&self) -> Matrix {
        self.0
    }
    fn dtype(&self) -> DType {
        DType::F32
    }
    fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> squizd::Result<()> {
        let mut state = rows.start.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
        for v in out {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *v = ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 0.1;
        }
        Ok(())
    }
    fn read_native(&self, _: Range<u64>) -> squizd::Result<Option<Cow<'_, [u8]>>> {
        Ok(None)
    }
    fn release(&self, _: Range<u64>) {}
}

struct Payload(Mutex<Vec<u8>>);

impl PayloadSink for Payload {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> squizd::Result<()> {
        let mut data = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let end = offset as usize + bytes.len();
        if data.len() < end {
            data.resize(end, 0);
        }
        data[offset as usize..end].copy_from_slice(bytes);
        Ok(())
    }
}

struct Tensor {
    dims: Vec<u64>,
    codec: CodecId,
    params: Params,
    data: Vec<u8>,
}

#[derive(Default)]
struct Synthetic(HashMap<(Role, Option<u16>), Tensor>);

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

fn synthetic(id: CodecId) -> squizd::Result<Synthetic> {
    let mut encoded = HashMap::new();
    let mut model = Synthetic::default();
    let mut add = |role, layer, dims: &[u64]| -> squizd::Result<()> {
        let id = if dims.len() == 1 { CodecId::RAW_F32 } else { id };
        let matrix = Matrix { rows: dims[..dims.len() - 1].iter().product(), cols: dims[dims.len() - 1] };
        let key = (matrix.rows, matrix.cols);
        let first = match encoded.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(encode(id, matrix)?),
        };
        // Each tensor has bytes of its own, as in a file.
        let (params, data) = first.clone();
        model.0.insert((role, layer), Tensor { dims: dims.to_vec(), codec: id, params, data });
        Ok(())
    };
    add(Role::TOKEN_EMBD, None, &[VOCAB, HIDDEN])?;
    add(Role::OUTPUT_NORM, None, &[HIDDEN])?;
    for layer in (0..LAYERS).map(Some) {
        add(Role::ATTN_NORM, layer, &[HIDDEN])?;
        add(Role::FFN_NORM, layer, &[HIDDEN])?;
        add(Role::ATTN_Q, layer, &[HIDDEN, HIDDEN])?;
        add(Role::ATTN_K, layer, &[KV, HIDDEN])?;
        add(Role::ATTN_V, layer, &[KV, HIDDEN])?;
        add(Role::ATTN_OUTPUT, layer, &[HIDDEN, HIDDEN])?;
        add(Role::FFN_GATE, layer, &[FFN, HIDDEN])?;
        add(Role::FFN_UP, layer, &[FFN, HIDDEN])?;
        add(Role::FFN_DOWN, layer, &[HIDDEN, FFN])?;
    }
    Ok(model)
}

fn encode(id: CodecId, matrix: Matrix) -> squizd::Result<(Params, Vec<u8>)> {
    let codec = codec(id).ok_or_else(|| squizd::Error::unsupported("codec"))?;
    let rows = Random(matrix);
    let params = codec.plan(&rows, &Request::default())?;
    let payload = Payload(Mutex::default());
    codec.encode(&rows, &params, &Request::default(), &payload)?;
    Ok((params, payload.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)))
}

fn config() -> serde_json::Result<ModelConfig> {
    serde_json::from_value(serde_json::json!({
        "family": "llama", "hidden_size": HIDDEN, "num_layers": LAYERS, "num_heads": 9, "num_kv_heads": 3,
        "head_dim": 64, "ffn_size": FFN, "vocab_size": VOCAB, "max_positions": 8192, "norm_eps": 1e-5,
        "activation": "silu", "tie_embeddings": true, "rope": { "theta": 100_000.0, "dim": 64 },
    }))
}

fn bench(c: &mut Criterion) -> Result<(), Box<dyn std::error::Error>> {
    let config = config()?;
    let prompt: Vec<u32> = (0..PROMPT as u32).map(|i| i * 97 % VOCAB as u32).collect();
    for id in [CodecId::INT4, CodecId::Q8, CodecId::RAW_BF16] {
        let weights = synthetic(id)?;
        let model = Model::new(&config, &&weights)?;
        let options = SessionOptions { precision: Precision::Q8, kv: KvType::F16, ..Default::default() };
        let mut group = c.benchmark_group(format!("runtime/{id}"));
        group.sample_size(10);
        let mut session = Session::new(&model, options)?;
        session.forward(&prompt)?;
        group.throughput(Throughput::Elements(1));
        group.bench_function("decode", |b| {
            b.iter(|| {
                session.truncate(PROMPT);
                black_box(session.forward(&[1]).is_ok())
            });
        });
        group.throughput(Throughput::Elements(PROMPT as u64));
        group.bench_function(format!("prefill-{PROMPT}"), |b| {
            b.iter_batched_ref(
                || (),
                |()| {
                    session.truncate(0);
                    black_box(session.forward(&prompt).is_ok())
                },
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }
    Ok(())
}

fn run(c: &mut Criterion) {
    if let Err(error) = bench(c) {
        eprintln!("runtime bench: {error}");
        std::process::exit(1);
    }
}

criterion_group!(benches, run);
criterion_main!(benches);
