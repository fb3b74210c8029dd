//! TCA-TBE: sizes against the entropy bound, and speeds against the fastest
//! copy, in one thread.
//!
//! `cargo bench -p squizd --bench tca_tbe`; `SQUIZD_BENCH_MODEL` names a folder
//! of safetensors files to measure instead of the fixture. The first table is
//! measured in interleaved rounds, best of each, so that ratios hold on a busy
//! machine; Criterion's lines follow.
#![allow(clippy::unwrap_used, missing_docs)]

mod copy;

use criterion::{Criterion, Throughput};
use squizd::codec::{
    Activation, EncodeOptions, Encoded, PayloadSink, Precision, Request, Rows, codec,
    tca_tbe::{Profile, decode_bf16},
};
use squizd_spec::{CodecId, DType, Matrix, Params};
use std::{borrow::Cow, hint::black_box, ops::Range, path::PathBuf, sync::Mutex, time::Instant};
use zerocopy::IntoBytes;

/// A BF16 matrix in memory.
struct Memory {
    matrix: Matrix,
    words: Vec<u16>,
}

impl Memory {
    fn of(rows: usize, cols: usize, words: Vec<u16>) -> Self {
        Self { matrix: Matrix { rows: rows as u64, cols: cols as u64 }, words }
    }

    fn bytes(&self) -> &[u8] {
        self.words.as_bytes()
    }
}

impl Rows for Memory {
    fn name(&self) -> &'static str {
        "bench"
    }
    fn matrix(&self) -> Matrix {
        self.matrix
    }
    fn dtype(&self) -> DType {
        DType::BF16
    }
    fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> squizd::Result<()> {
        let start = (rows.start * self.matrix.cols) as usize;
        for (o, w) in out.iter_mut().zip(&self.words[start..]) {
            *o = f32::from_bits(u32::from(*w) << 16);
        }
        Ok(())
    }
    fn read_native(&self, rows: Range<u64>) -> squizd::Result<Option<Cow<'_, [u8]>>> {
        let stride = 2 * self.matrix.cols;
        Ok(Some(self.bytes()[(rows.start * stride) as usize..(rows.end * stride) as usize].into()))
    }
    fn release(&self, _: Range<u64>) {}
}

struct Sink(Mutex<Vec<u8>>);

impl PayloadSink for Sink {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> squizd::Result<()> {
        self.0.lock().unwrap()[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

struct Stored {
    matrix: Matrix,
    params: Params,
    data: Vec<u8>,
}

impl Stored {
    fn of(rows: &Memory, profile: Profile) -> Self {
        let codec = codec(CodecId::TCA_TBE).unwrap();
        let options = EncodeOptions { profile: Some(profile), ..EncodeOptions::default() };
        let request = Request::from(options);
        let params = codec.plan(rows, &request).unwrap();
        let most = CodecId::TCA_TBE.geometry(rows.matrix, &params).unwrap().length.max();
        let sink = Sink(Mutex::new(vec![0; most as usize]));
        let (length, _) = codec.encode(rows, &params, &request, &sink).unwrap();
        let mut data = sink.0.into_inner().unwrap();
        data.truncate(length as usize);
        Self { matrix: rows.matrix, params, data }
    }

    fn view(&self) -> Encoded<'_> {
        Encoded { name: "bench", matrix: self.matrix, params: &self.params, data: &self.data }
    }

    fn decode(&self, out: &mut [u16]) {
        decode_bf16(&self.view(), 0..self.matrix.rows, out).unwrap();
    }
}

/// Normal weights of deviation 0.02 (sum of uniforms), as BF16.
fn gaussian(count: usize) -> Vec<u16> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 + 1e-9
    };
    let mut normal =
        || (-2.0 * uniform().min(1.0).ln()).max(0.0).sqrt() * (std::f32::consts::TAU * uniform()).cos();
    (0..count).map(|_| ((normal() * 0.02).to_bits() >> 16) as u16).collect()
}

/// `H(exponent) + 8`: what no coding of single exponents can beat.
fn bound(words: &[u16]) -> f64 {
    let mut counts = [0u64; 256];
    for w in words {
        counts[usize::from(w >> 7 & 255)] += 1;
    }
    let n = words.len() as f64;
    8.0 - counts.iter().filter(|c| **c > 0).map(|c| *c as f64 / n * (*c as f64 / n).log2()).sum::<f64>()
}

/// Seconds of the fastest of `rounds` interleaved runs of each.
fn race<const N: usize>(rounds: usize, mut runners: [&mut dyn FnMut(); N]) -> [f64; N] {
    let mut best = [f64::INFINITY; N];
    for _ in 0..rounds {
        for (run, best) in runners.iter_mut().zip(&mut best) {
            let start = Instant::now();
            run();
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    best
}

fn speeds(rows: &Memory) {
    let words = &rows.words;
    let bytes = 2.0 * words.len() as f64;
    let (tbe3, tbe2) = (Stored::of(rows, Profile::Tbe3), Stored::of(rows, Profile::Tbe2));
    // zstd's best case: high and low bytes apart.
    let split: Vec<u8> = words
        .iter()
        .map(|w| (w >> 7) as u8)
        .chain(words.iter().map(|w| (*w as u8 & 0x7f) | (w >> 8) as u8 & 0x80))
        .collect();
    let packed = zstd::bulk::compress(&split, 3).unwrap();
    let mut unpacked = vec![0; split.len()];
    let mut outs: [Vec<u16>; 4] = std::array::from_fn(|_| vec![1; words.len()]);
    let [a, b, c, d] = &mut outs;
    let x: Vec<f32> = (0..rows.matrix.cols).map(|i| i as f32 * 1e-3).collect();
    let activation = Activation::new(&x, Precision::F32);
    let raw = Stored { matrix: rows.matrix, params: Params::default(), data: rows.bytes().to_vec() };
    let multiply = |id, stored: &Stored, y: &mut [f32]| {
        codec(id).unwrap().matvec(&stored.view(), &activation, 0..stored.matrix.rows, black_box(y));
    };
    let mut ys: [Vec<f32>; 3] = std::array::from_fn(|_| vec![0.0; rows.matrix.rows as usize]);
    let [y0, y1, y2] = &mut ys;
    let [memcpy, stream, t3, t2, mv, mv3, mv2] = race(
        9,
        [
            &mut || a.copy_from_slice(black_box(words)),
            &mut || copy::streaming(black_box(words).as_bytes(), b.as_mut_bytes()),
            &mut || tbe3.decode(black_box(c)),
            &mut || tbe2.decode(black_box(d)),
            &mut || multiply(CodecId::RAW_BF16, &raw, y0),
            &mut || multiply(CodecId::TCA_TBE, &tbe3, y1),
            &mut || multiply(CodecId::TCA_TBE, &tbe2, y2),
        ],
    );
    assert!(*c == *words && *d == *words);
    let [zstd] = race(
        3,
        [&mut || {
            zstd::bulk::decompress_to_buffer(&packed, &mut unpacked).unwrap();
        }],
    );
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let [e3, e2] = pool.install(|| {
        race(
            3,
            [&mut || drop(Stored::of(rows, Profile::Tbe3)), &mut || drop(Stored::of(rows, Profile::Tbe2))],
        )
    });
    let copy = memcpy.min(stream);
    println!("{:.1} MB of BF16, GB/s of BF16, one thread, {}:", bytes / 1e6, squizd::simd::level());
    for (name, seconds) in [
        ("memcpy", memcpy),
        ("streaming copy", stream),
        ("tbe3 decode", t3),
        ("tbe2 decode", t2),
        ("zstd -3, split", zstd),
        ("bf16 matvec", mv),
        ("tbe3 matvec", mv3),
        ("tbe2 matvec", mv2),
    ] {
        println!(
            "  {name:<16} {:7.2}  {:6.1}% of the fastest copy",
            bytes / seconds / 1e9,
            100.0 * copy / seconds
        );
    }
    for (name, seconds) in [("tbe3", e3), ("tbe2", e2)] {
        println!("  {name} encode      {:7.0} Mweights/s", words.len() as f64 / seconds / 1e6);
    }
}

fn sizes(name: &str, tensors: &[Memory]) {
    let mut total = [0.0; 4];
    println!("{name}: bits per weight of all matrices (bound weighted by size)");
    for rows in tensors {
        let n = rows.words.len() as f64;
        total[0] += n;
        total[1] += n * bound(&rows.words);
        for (slot, profile) in [(2, Profile::Tbe3), (3, Profile::Tbe2)] {
            total[slot] += 8.0 * Stored::of(rows, profile).data.len() as f64;
        }
    }
    let [n, bound, tbe3, tbe2] = total;
    let (bound, tbe3, tbe2) = (bound / n, tbe3 / n, tbe2 / n);
    println!(
        "  {n:.0} weights: bound {bound:.3}, tbe3 {tbe3:.3} (+{:.3}), tbe2 {tbe2:.3} (+{:.3})",
        tbe3 - bound,
        tbe2 - bound
    );
}

/// The BF16 matrices of the safetensors files of a folder.
fn model() -> (PathBuf, Vec<Memory>) {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/tiny-qwen3-1m");
    let folder = PathBuf::from(std::env::var_os("SQUIZD_BENCH_MODEL").unwrap_or_else(|| default.into()));
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| {
            p.extension().is_some_and(|e| e == "safetensors") && !p.to_string_lossy().contains("logits")
        })
        .collect();
    files.sort();
    let mut tensors = Vec::new();
    for file in files {
        let bytes = std::fs::read(file).unwrap();
        let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (_, view) in parsed.tensors() {
            if let ([rows, cols], safetensors::Dtype::BF16) = (view.shape(), view.dtype()) {
                let words = view.data().as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
                tensors.push(Memory::of(*rows, *cols, words));
            }
        }
    }
    (folder, tensors)
}

fn main() {
    let (folder, tensors) = model();
    sizes(&folder.display().to_string(), &tensors);
    let large = Memory::of(32_768, 4096, gaussian(32_768 * 4096));
    let small = Memory::of(128, 1024, large.words[..128 * 1024].to_vec());
    for cols in [576, 896, 4096] {
        let rows = 4_194_304 / cols;
        sizes(
            &format!("Gaussian, {cols} columns"),
            &[Memory::of(rows, cols, large.words[..rows * cols].to_vec())],
        );
    }
    speeds(&large);
    speeds(&small);

    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("tca-tbe");
    let mut out = vec![0; small.words.len()];
    group.throughput(Throughput::Bytes(2 * small.words.len() as u64));
    for profile in [Profile::Tbe3, Profile::Tbe2] {
        let stored = Stored::of(&small, profile);
        group.bench_function(format!("{profile}/encode"), |b| {
            b.iter(|| Stored::of(black_box(&small), profile));
        });
        group.bench_function(format!("{profile}/decode"), |b| b.iter(|| stored.decode(black_box(&mut out))));
    }
    group.finish();
    criterion.final_summary();
}
