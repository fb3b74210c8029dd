//! Opening and hashing: a file of 1000 tensors, 64 MB. Opening a model of 1.1 GB
//! (Q8, all zeros, a file with holes) up to the point where its first token
//! could be computed: map, parse, resolve every tensor, choose kernels, predict
//! memory, reserve the cache.
//!
//! `cargo bench -p squizd --bench container`

use criterion::{Criterion, Throughput};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use squizd::{
    codec::{EncodeStats, Precision},
    dispatch::Cpu,
    model::ModelConfig,
    runtime::{KvType, MemoryNeed, Model, Run, Session, SessionOptions},
    source::TensorInfo,
    validate::validate,
    writer::{HeaderInfo, Section, Writer},
};
use squizd_spec::{
    ArchId, CodecId, DType, FileBytes, Level, Limits, Matrix, Part, Role, SectionKind, SquizdRef, Tables,
    canonical_name, layout::PARAMS_SIZE, structure,
};
use std::hint::black_box;

const LAYERS: u16 = 200;
const ROLES: [Role; 5] = [Role::ATTN_Q, Role::ATTN_K, Role::ATTN_V, Role::FFN_GATE, Role::FFN_UP];

/// Writes 1000 tensors of 64 KiB.
fn build(path: &std::path::Path) -> squizd::Result<()> {
    let tensors: Vec<_> = (0..LAYERS)
        .flat_map(|layer| ROLES.map(|role| (layer, role)))
        .map(|(layer, role)| TensorInfo {
            name: canonical_name(role, Some(layer), Part::WEIGHT),
            source_name: String::new(),
            role,
            layer: Some(layer),
            part: Part::WEIGHT,
            experts: 0,
            dtype: DType::F32,
            dims: vec![128, 128],
        })
        .collect();
    let header = HeaderInfo {
        arch: ArchId::LLAMA,
        num_layers: LAYERS,
        hidden_dim: 128,
        num_heads: 1,
        vocab_size: 1,
        sparsity_ratio: 0.0,
        calibration_hash: 0,
    };
    let mut writer = Writer::create(path, header, &tensors, &[SectionKind::METADATA])?;
    let payload = vec![0x3c; 65536];
    for _ in &tensors {
        writer.tensor(CodecId::RAW_F32, &[0; PARAMS_SIZE], |sink| {
            sink.write_at(0, &payload)?;
            Ok((payload.len() as u64, EncodeStats::default()))
        })?;
    }
    writer.finish(&[Section::plain(SectionKind::METADATA, b"{}".to_vec())])?;
    Ok(())
}

const HIDDEN: u64 = 2048;
const FFN: u64 = 8192;
const KV: u64 = 512;
const VOCAB: u64 = 32_768;
const BLOCKS: u16 = 16;

/// Writes a Llama of 16 layers of which no byte of a payload is set.
fn build_model(path: &std::path::Path) -> squizd::Result<()> {
    let tensor = |role: Role, layer, dims: &[u64]| TensorInfo {
        name: canonical_name(role, layer, Part::WEIGHT),
        source_name: String::new(),
        role,
        layer,
        part: Part::WEIGHT,
        experts: 0,
        dtype: DType::F32,
        dims: dims.to_vec(),
    };
    let mut tensors = vec![tensor(Role::TOKEN_EMBD, None, &[VOCAB, HIDDEN])];
    for layer in (0..BLOCKS).map(Some) {
        tensors.push(tensor(Role::ATTN_NORM, layer, &[HIDDEN]));
        tensors.push(tensor(Role::ATTN_Q, layer, &[HIDDEN, HIDDEN]));
        tensors.push(tensor(Role::ATTN_K, layer, &[KV, HIDDEN]));
        tensors.push(tensor(Role::ATTN_V, layer, &[KV, HIDDEN]));
        tensors.push(tensor(Role::ATTN_OUTPUT, layer, &[HIDDEN, HIDDEN]));
        tensors.push(tensor(Role::FFN_NORM, layer, &[HIDDEN]));
        tensors.push(tensor(Role::FFN_GATE, layer, &[FFN, HIDDEN]));
        tensors.push(tensor(Role::FFN_UP, layer, &[FFN, HIDDEN]));
        tensors.push(tensor(Role::FFN_DOWN, layer, &[HIDDEN, FFN]));
    }
    tensors.push(tensor(Role::OUTPUT_NORM, None, &[HIDDEN]));
    let header = HeaderInfo {
        arch: ArchId::LLAMA,
        num_layers: BLOCKS,
        hidden_dim: HIDDEN as u32,
        num_heads: 32,
        vocab_size: VOCAB as u32,
        sparsity_ratio: 0.0,
        calibration_hash: 0,
    };
    let mut writer = Writer::create(path, header, &tensors, &[SectionKind::METADATA])?;
    for tensor in &tensors {
        let mut params = [0; PARAMS_SIZE];
        let id = if tensor.dims.len() == 1 { CodecId::RAW_F32 } else { CodecId::Q8 };
        if id == CodecId::Q8 {
            params[0] = 32;
        }
        let geometry = Matrix::of(&tensor.dims).and_then(|matrix| id.geometry(matrix, &params).ok());
        let length = geometry.map_or(0, |g| g.length.max());
        writer.tensor(id, &params, |_| Ok((length, EncodeStats::default())))?;
    }
    writer.finish(&[Section::plain(SectionKind::METADATA, b"{}".to_vec())])?;
    Ok(())
}

fn model_config() -> serde_json::Result<ModelConfig> {
    serde_json::from_value(serde_json::json!({
        "family": "llama", "hidden_size": HIDDEN, "num_layers": BLOCKS, "num_heads": 32, "num_kv_heads": 8,
        "head_dim": 64, "ffn_size": FFN, "vocab_size": VOCAB, "max_positions": 8192, "norm_eps": 1e-5,
        "activation": "silu", "tie_embeddings": true, "rope": { "theta": 1e4, "dim": 64 }, "tokens": {},
    }))
}

/// Opens the model and plans a run of 4096 positions; bytes of the file.
fn open_and_plan(path: &std::path::Path, config: &ModelConfig) -> squizd::Result<u64> {
    let bytes = FileBytes::map(path)?;
    let file = SquizdRef::parse(&bytes, &Limits::DEFAULT)?;
    let options = SessionOptions { kv: KvType::F16, precision: Precision::Q8, ..SessionOptions::default() };
    let need = MemoryNeed::of_file(&file, config, &Run::generating(options));
    let model = Model::of_file(&file, config)?;
    let kernels = model.kernels(&[&Cpu::current(options.precision)])?;
    let session = Session::new(&model, options)?;
    black_box((kernels.len(), session.remaining(), need.total()));
    Ok(bytes.len() as u64)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("thousand.squizd");
    build(&path)?;
    let bytes = FileBytes::map(&path)?;
    let limits = Limits::DEFAULT;
    let mut c = Criterion::default().sample_size(20).configure_from_args();

    c.bench_function("open: map and parse 1000 tensors", |b| {
        b.iter(|| {
            let bytes = FileBytes::map(&path)?;
            SquizdRef::parse(&bytes, &limits).map(|f| black_box(f.tensor_count()))
        });
    });
    c.bench_function("parse 1000 tensors", |b| {
        b.iter(|| SquizdRef::parse(&bytes, &limits).map(|f| f.tensor_count()));
    });
    c.bench_function("parse the prefix of 1000 tensors", |b| {
        b.iter(|| Tables::parse_prefix(&bytes[..256 << 10], &limits).map(|t| t.tensor_count()));
    });
    c.bench_function("validate the structure of 1000 tensors", |b| {
        b.iter(|| structure(&bytes, &limits).0.len());
    });

    let path = folder.path().join("model.squizd");
    build_model(&path)?;
    let config = model_config()?;
    let size = open_and_plan(&path, &config)?;
    c.bench_function(&format!("open and plan a model of {} MB", size / 1_000_000), |b| {
        b.iter(|| open_and_plan(&path, &config).is_ok());
    });

    let mut group = c.benchmark_group("hash 64 MB");
    group.throughput(Throughput::Bytes(bytes.len() as u64)).sample_size(10);
    group
        .bench_function("validate --level hash", |b| b.iter(|| validate(&bytes, &limits, Level::Hash).len()));
    group.bench_function("plain parallel SHA-256", |b| {
        let hash = |chunk: &[u8]| Sha256::digest(chunk)[0];
        b.iter(|| bytes.par_chunks(65536).map(hash).fold(|| 0, |a, b| a ^ b).reduce(|| 0, |a, b| a ^ b));
    });
    group.finish();
    c.final_summary();
    Ok(())
}
