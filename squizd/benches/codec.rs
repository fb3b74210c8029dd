//! Codec throughput: encode and matvec in weights, decode in bytes of `f32`
//! beside a copy of as many, one thread each. `cargo bench --bench codec`.

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use squizd::codec::{
    Activation, CODECS, Codec, EncodeOptions, Encoded, PayloadSink, Precision, Request, Rows,
};
use squizd_spec::{DType, Matrix, Params};
use std::{borrow::Cow, hint::black_box, ops::Range, time::Duration};

/// 4 Mi weights: payloads beyond the L2 cache, runs of milliseconds.
const MATRIX: Matrix = Matrix { rows: 4096, cols: 1024 };

struct Weights(Vec<f32>);

impl Rows for Weights {
    fn name(&self) -> &'static str {
        "bench"
    }

    fn matrix(&self) -> Matrix {
        MATRIX
    }

    fn dtype(&self) -> DType {
        DType::F32
    }

    fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> squizd::Result<()> {
        let cols = MATRIX.cols as usize;
        out.copy_from_slice(&self.0[rows.start as usize * cols..rows.end as usize * cols]);
        Ok(())
    }

    fn read_native(&self, _: Range<u64>) -> squizd::Result<Option<Cow<'_, [u8]>>> {
        Ok(None)
    }

    fn release(&self, _: Range<u64>) {}
}

/// A payload in memory.
struct Payload(std::sync::Mutex<Vec<u8>>);

impl PayloadSink for Payload {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> squizd::Result<()> {
        let mut data = self.0.lock().map_err(|e| squizd::Error::invalid(e.to_string()))?;
        data[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// Sums of four uniforms, roughly normal, from a fixed generator.
fn weights() -> Weights {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    Weights((0..MATRIX.elements()).map(|_| uniform() + uniform() + uniform() + uniform()).collect())
}

/// Codecs and options measured, with names.
fn variants() -> Vec<(String, &'static dyn Codec, EncodeOptions)> {
    let mut variants = Vec::new();
    for codec in CODECS {
        variants.push((codec.id().to_string(), *codec, EncodeOptions::default()));
        for option in ["fine", "g32"] {
            let mut options = EncodeOptions::default();
            if options.set(option, codec.options()).is_ok() {
                variants.push((format!("{}-{option}", codec.id()), *codec, options));
            }
        }
    }
    variants
}

fn encoded(
    codec: &dyn Codec,
    weights: &Weights,
    options: &EncodeOptions,
) -> squizd::Result<(Params, Vec<u8>)> {
    let request = Request::from(*options);
    let params = codec.plan(weights, &request)?;
    let length = codec.id().geometry(MATRIX, &params).map_or(0, |g| g.length.max());
    let payload = Payload(vec![0; length as usize].into());
    codec.encode(weights, &params, &request, &payload)?;
    Ok((params, payload.0.into_inner().unwrap_or_default()))
}

fn group<'a>(c: &'a mut Criterion, name: &str, throughput: Throughput) -> BenchmarkGroup<'a, WallTime> {
    let mut group = c.benchmark_group(name);
    group.throughput(throughput).sample_size(10);
    group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(700));
    group
}

fn benches(c: &mut Criterion) {
    // One thread, so that numbers are per core; the first pool built stays.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(1).build_global();
    let weights = weights();
    let cols = MATRIX.cols as usize;
    let x: Vec<f32> = (0..cols).map(|i| (i as f32 * 0.37).sin()).collect();
    let stored: Vec<_> = variants()
        .into_iter()
        .filter_map(|(name, codec, options)| {
            encoded(codec, &weights, &options).ok().map(|(params, data)| (name, codec, options, params, data))
        })
        .collect();
    let view = |params, data| Encoded { name: "bench", matrix: MATRIX, params, data };

    let mut g = group(c, "encode", Throughput::Elements(MATRIX.elements()));
    for (name, codec, options, ..) in &stored {
        g.bench_function(name, |b| b.iter(|| encoded(*codec, &weights, options)));
    }
    g.finish();

    let mut out = vec![0.0; MATRIX.elements() as usize];
    let mut g = group(c, "decode", Throughput::Bytes(4 * MATRIX.elements()));
    g.bench_function("memcpy", |b| b.iter(|| out.copy_from_slice(black_box(&weights.0))));
    for (name, codec, _, params, data) in &stored {
        g.bench_function(name, |b| b.iter(|| codec.decode(&view(params, data), 0..MATRIX.rows, &mut out)));
    }
    g.finish();

    let mut y = vec![0.0; MATRIX.rows as usize];
    for precision in [Precision::Q8, Precision::F32] {
        let x = Activation::new(&x, precision);
        for (name, codec, _, params, data) in &stored {
            let mut g = group(c, &format!("matvec-{precision:?}"), Throughput::Bytes(data.len() as u64));
            g.bench_function(name, |b| {
                b.iter(|| codec.matvec(&view(params, data), &x, 0..MATRIX.rows, &mut y));
            });
            g.finish();
        }
    }
}

criterion_group!(codec, benches);
criterion_main!(codec);
