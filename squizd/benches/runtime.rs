//! Prefill and decode of a synthetic model of SmolLM2-135M's shape (30 layers,
//! 576 wide, 9/3 heads of 64, vocabulary 49,152): one throughput figure per
//! codec and phase, in tokens per second.
//!
//! The weights are random: speed depends on shapes and codecs only.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use squizd::codec::{Precision, codec};
use squizd::runtime::{KvType, Model, Session, SessionOptions};
use squizd_spec::CodecId;
use std::hint::black_box;
use synthetic::Shape;

#[path = "../tests/synthetic/mod.rs"]
mod synthetic;

const SHAPE: Shape =
    Shape { hidden: 576, ffn: 1536, heads: 9, kv_heads: 3, head_dim: 64, vocab: 49_152, layers: 30 };
const PROMPT: usize = 128;

fn bench(c: &mut Criterion) -> Result<(), Box<dyn std::error::Error>> {
    let config = SHAPE.config()?;
    let prompt: Vec<u32> = (0..PROMPT as u32).map(|i| i * 97 % SHAPE.vocab as u32).collect();
    for id in [CodecId::INT4, CodecId::MXFP4, CodecId::Q8, CodecId::RAW_BF16] {
        let weights = SHAPE.weights(codec(id).ok_or("no such codec")?)?;
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
