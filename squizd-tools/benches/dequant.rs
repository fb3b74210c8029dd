//! Weights per second that each GGUF type decodes at, on one thread:
//! `cargo bench -p squizd-tools --bench dequant`.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use squizd_spec::DType;
use squizd_tools::source::gguf::{TYPES, dequant::decoder};
use std::{hint::black_box, time::Duration};

/// Weights per call: 64 Ki, as the converter reads rows in chunks that stay in cache.
const WEIGHTS: u64 = 1 << 16;

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("dequant");
    group.throughput(Throughput::Elements(WEIGHTS));
    for kind in TYPES.iter().filter(|t| t.dtype != DType::GGML_OTHER) {
        let Some(decode) = decoder(kind.dtype) else { continue };
        let bytes: Vec<u8> = (0..WEIGHTS / kind.block * kind.bytes)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8)
            .collect();
        let mut out = vec![0f32; WEIGHTS as usize];
        group.bench_function(BenchmarkId::from_parameter(kind.name), |b| {
            b.iter(|| decode(black_box(&bytes), black_box(&mut out)));
        });
    }
    group.finish();
}

fn short() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .measurement_time(Duration::from_secs(1))
        .warm_up_time(Duration::from_millis(300))
}

criterion_group!(name = benches; config = short(); targets = decode);
criterion_main!(benches);
