//! One-token products of every codec beside the machine's read bandwidth:
//! `cargo bench -p squizd --bench matvec [-- NAME...]`, names as in the first
//! column.
//!
//! Every tensor lies in memory many times, beyond the second-level caches, as
//! the layers of a model do. Measurements of all codecs and of plain reading
//! alternate; each figure is the median of its rounds. Throughput counts the
//! payload's bytes; `read` is that over the bandwidth of reading as many bytes
//! with as many threads in the same round.

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use squizd::codec::{
    Activation, CODECS, Codec, EncodeOptions, Encoded, PayloadSink, Precision, Request, Rows,
};
use squizd_spec::{DType, Matrix, Params};
use std::{
    borrow::Cow,
    error::Error,
    hint::black_box,
    ops::Range,
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// A wide matrix and SmolLM2-135M's down projection.
const SHAPES: [Matrix; 2] = [Matrix { rows: 4096, cols: 1024 }, Matrix { rows: 576, cols: 1536 }];
/// Bytes of one codec's copies, and of the block that is read.
const WORKING_SET: usize = 48 << 20;
/// Weights of one measurement.
const WEIGHTS: u64 = 16 << 20;
const ROUNDS: usize = 7;
/// Rows of a task: whole strips of 16 and of 6.
const TASK_ROWS: usize = 48;

struct Gaussian {
    matrix: Matrix,
    dtype: DType,
    values: Vec<f32>,
}

impl Gaussian {
    /// Sums of four uniforms as BF16, which every codec takes, or as F32.
    fn new(matrix: Matrix, dtype: DType) -> Self {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        let value = |_| f32::from_bits((uniform() + uniform() + uniform() + uniform()).to_bits() >> 16 << 16);
        Self { matrix, dtype, values: (0..matrix.elements()).map(value).collect() }
    }
}

impl Rows for Gaussian {
    fn name(&self) -> &'static str {
        "bench"
    }

    fn matrix(&self) -> Matrix {
        self.matrix
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> squizd::Result<()> {
        let cols = self.matrix.cols as usize;
        out.copy_from_slice(&self.values[rows.start as usize * cols..rows.end as usize * cols]);
        Ok(())
    }

    fn read_native(&self, _: Range<u64>) -> squizd::Result<Option<Cow<'_, [u8]>>> {
        Ok(None)
    }

    fn release(&self, _: Range<u64>) {}
}

/// A payload in memory.
struct Payload(Mutex<Vec<u8>>);

impl PayloadSink for Payload {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> squizd::Result<()> {
        let mut data = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        data[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// A tensor in many copies, and the times of its rounds.
struct Stored {
    name: String,
    codec: &'static dyn Codec,
    matrix: Matrix,
    params: Params,
    copies: Vec<Vec<u8>>,
    next: usize,
    /// Gigabytes per second, and share of the read bandwidth, by pool.
    rates: [Vec<(f64, f64)>; 2],
}

impl Stored {
    fn new(
        name: String,
        codec: &'static dyn Codec,
        options: &EncodeOptions,
        matrix: Matrix,
    ) -> squizd::Result<Self> {
        let dtype = if codec.accepts_dtype(DType::F32).is_ok() { DType::F32 } else { DType::BF16 };
        let (rows, request) = (Gaussian::new(matrix, dtype), Request::from(*options));
        let params = codec.plan(&rows, &request)?;
        let length = codec.id().geometry(matrix, &params).map_or(0, |g| g.length.max());
        let payload = Payload(vec![0; length as usize].into());
        let (length, _) = codec.encode(&rows, &params, &request, &payload)?;
        let mut data = payload.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        data.truncate(length as usize);
        let copies = vec![data; (WORKING_SET as u64 / length.max(1)).max(2) as usize];
        Ok(Self { name, codec, matrix, params, copies, next: 0, rates: Default::default() })
    }

    /// Bytes per second of products with `x` and the bytes read.
    fn measure(&mut self, pool: &ThreadPool, x: &[f32], y: &mut [f32]) -> (f64, usize) {
        let passes = (WEIGHTS / self.matrix.elements()).max(1) as usize;
        let start = Instant::now();
        pool.install(|| {
            for _ in 0..passes {
                self.next = (self.next + 1) % self.copies.len();
                let data = &self.copies[self.next];
                let tensor = Encoded { name: "bench", matrix: self.matrix, params: &self.params, data };
                let x = Activation::new(x, Precision::Q8);
                y.par_chunks_mut(TASK_ROWS).enumerate().for_each(|(i, y)| {
                    let first = (i * TASK_ROWS) as u64;
                    self.codec.matvec(&tensor, &x, first..first + y.len() as u64, y);
                });
            }
        });
        let bytes = passes * self.copies[0].len();
        (bytes as f64 / start.elapsed().as_secs_f64(), bytes)
    }
}

/// Bytes per second of reading `bytes` of `block`.
fn read(pool: &ThreadPool, block: &[u64], bytes: usize) -> f64 {
    let words = &block[..(bytes / 8).clamp(1 << 20, block.len())];
    let start = Instant::now();
    let sum = |part: &[u64]| part.iter().fold(0u64, |sum, w| sum ^ w);
    black_box(pool.install(|| words.par_chunks(1 << 16).map(sum).reduce(|| 0, |a, b| a ^ b)));
    (8 * words.len()) as f64 / start.elapsed().as_secs_f64()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Codecs with their options, by name.
fn variants() -> Vec<(String, &'static dyn Codec, EncodeOptions)> {
    let mut variants = Vec::new();
    for codec in CODECS {
        variants.push((codec.id().to_string(), *codec, EncodeOptions::default()));
        for option in ["g32", "compact", "fast", "max", "3.0"] {
            let mut options = EncodeOptions::default();
            if options.set(option, codec.options()).is_ok() {
                variants.push((format!("{}-{option}", codec.id()), *codec, options));
            }
        }
    }
    variants
}

fn run(matrix: Matrix, wanted: &[String]) -> Result<(), Box<dyn Error>> {
    let pools = [1, 2].map(|threads| ThreadPoolBuilder::new().num_threads(threads).build());
    let block = vec![1u64; WORKING_SET / 8];
    let x: Vec<f32> = (0..matrix.cols).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut y = vec![0.0; matrix.rows as usize];
    let mut stored = Vec::new();
    for (name, codec, options) in variants() {
        if wanted.is_empty() || wanted.iter().any(|w| name.eq_ignore_ascii_case(w)) {
            stored.push(Stored::new(name, codec, &options, matrix)?);
        }
    }
    let mut bandwidth = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        for tensor in &mut stored {
            for (p, pool) in pools.iter().enumerate() {
                let Ok(pool) = pool else { continue };
                let (rate, bytes) = tensor.measure(pool, &x, &mut y);
                let reading = read(pool, &block, bytes);
                bandwidth[p].push(reading);
                tensor.rates[p].push((rate / 1e9, rate / reading));
            }
        }
    }
    let reading = bandwidth.map(|b| median(b.into_iter()) / 1e9);
    println!(
        "\n{} x {}; reading: {:.1} GB/s, two threads {:.1} GB/s",
        matrix.rows, matrix.cols, reading[0], reading[1]
    );
    println!("| codec | bits | GB/s | Gweights/s | read | 2 threads GB/s | Gweights/s | read |");
    println!("|---|---|---|---|---|---|---|---|");
    for tensor in &stored {
        let bits = tensor.copies[0].len() as f64 * 8.0 / matrix.elements() as f64;
        print!("| {} | {bits:.2} |", tensor.name);
        for rates in &tensor.rates {
            let (rate, share) = (median(rates.iter().map(|r| r.0)), median(rates.iter().map(|r| r.1)));
            print!(" {rate:.2} | {:.2} | {:.0}% |", rate * 8.0 / bits, 100.0 * share);
        }
        println!();
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    SHAPES.into_iter().try_for_each(|matrix| run(matrix, &wanted))
}
