//! Opening and hashing: a file of 1000 tensors, 64 MB.
//!
//! `cargo bench -p squizd --bench container`

use criterion::{Criterion, Throughput};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use squizd::{
    codec::EncodeStats,
    source::TensorInfo,
    validate::validate,
    writer::{HeaderInfo, Section, Writer},
};
use squizd_spec::{
    ArchId, CodecId, DType, FileBytes, Level, Limits, Part, Role, SectionKind, SquizdRef, Tables,
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
