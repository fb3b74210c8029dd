//! Every codec's two numbers, true bits per weight and error, and its speeds in
//! one thread, as a Markdown table:
//!
//! `cargo bench -p squizd-tools --bench codecs -- [--only NAME,NAME] [MODEL...]`
//!
//! Gaussian weights (4096 x 1024) for all columns; of each MODEL (anything that
//! `squizd convert` takes) the first 256 rows of every matrix, for bits and
//! error. Decoding is compared with the fastest copy of as many bytes.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../squizd/benches/copy/mod.rs"]
mod copy;

use squizd::{
    codec::{Encoded, PayloadSink, Request, Rows, codec},
    plan::CodecChoice,
    source::TensorSource,
};
use squizd_spec::{CodecId, DType, Matrix};
use std::{borrow::Cow, error::Error, hint::black_box, ops::Range, path::Path, sync::Mutex, time::Instant};

const GAUSSIAN: Matrix = Matrix { rows: 4096, cols: 1024 };
/// Rows of a real matrix that are measured.
const ROWS: u64 = 256;
/// Encodings and decodings of the Gaussian matrix; the fastest counts.
const ROUNDS: usize = 3;

const VARIANTS: &[&str] = &[
    "q8",
    "int4:fine",
    "int4:compact",
    "int4:g32",
    "int4:g64",
    "int4:g128",
    "int3:fine",
    "int3:compact",
    "int3:g32",
    "int2:fine",
    "int2:compact",
    "int2:g32",
    "mxfp4",
    "hybrid:5",
    "hybrid:4.5",
    "hybrid:4",
    "hybrid:3",
    "sqint2:4:fast",
    "sqint2:4",
    "sqint2:4:max",
    "sqint2:3.5",
    "sqint2:3:fast",
    "sqint2:3",
    "sqint2:3:max",
    "sqint2:2.5",
    "sqint2:2.125:fast",
    "sqint2:2.125",
    "sqint2:2.125:max",
    "sqint2:nf2",
    "astc:fast",
    "astc",
    "astc:max",
    "tca-tbe:tbe3",
    "tca-tbe:tbe2",
    "zplanes",
];

/// A matrix in memory; `words` are its BF16 bits for the codecs that take no others.
struct Memory {
    matrix: Matrix,
    values: Vec<f32>,
    words: Vec<u8>,
}

impl Memory {
    fn new(matrix: Matrix, mut values: Vec<f32>, bf16: bool) -> Self {
        let mut words = Vec::new();
        if bf16 {
            for v in &mut values {
                let bits = half::bf16::from_f32(*v);
                *v = bits.to_f32();
                words.extend(bits.to_bits().to_le_bytes());
            }
        }
        Self { matrix, values, words }
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
        if self.words.is_empty() { DType::F32 } else { DType::BF16 }
    }
    fn read_f32(&self, rows: Range<u64>, out: &mut [f32]) -> squizd::Result<()> {
        let cols = self.matrix.cols as usize;
        out.copy_from_slice(&self.values[rows.start as usize * cols..rows.end as usize * cols]);
        Ok(())
    }
    fn read_native(&self, rows: Range<u64>) -> squizd::Result<Option<Cow<'_, [u8]>>> {
        if self.words.is_empty() {
            return Ok(None);
        }
        let stride = self.matrix.cols as usize * 2;
        Ok(Some(self.words[rows.start as usize * stride..rows.end as usize * stride].into()))
    }
    fn release(&self, _: Range<u64>) {}
}

/// A payload in memory.
struct Payload(Mutex<Vec<u8>>);

impl PayloadSink for Payload {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> squizd::Result<()> {
        let mut data = self.0.lock().map_err(|e| squizd::Error::invalid(e.to_string()))?;
        data[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

/// What one encoding came to.
struct Measured {
    bits: f64,
    snr: f64,
    encode: f64,
    decode: f64,
}

fn measure(choice: &CodecChoice, weights: &Memory, rounds: usize) -> squizd::Result<Measured> {
    let codec = choice.codec.and_then(codec).ok_or_else(|| squizd::Error::invalid("no such codec"))?;
    codec.accepts(weights.matrix()).map_err(squizd::Error::invalid)?;
    let request = Request::from(choice.options);
    let mut payload = Vec::new();
    let mut params = None;
    let mut encode = f64::INFINITY;
    for _ in 0..rounds {
        let start = Instant::now();
        let planned = codec.plan(weights, &request)?;
        let most = codec.id().geometry(weights.matrix, &planned).map_or(0, |g| g.length.max());
        let sink = Payload(Mutex::new(vec![0; most as usize]));
        let (length, _) = codec.encode(weights, &planned, &request, &sink)?;
        encode = encode.min(start.elapsed().as_secs_f64());
        payload = sink.0.into_inner().unwrap_or_default();
        payload.truncate(length as usize);
        params = Some(planned);
    }
    let params = params.ok_or_else(|| squizd::Error::invalid("no rounds"))?;
    let tensor = Encoded { name: "bench", matrix: weights.matrix, params: &params, data: &payload };
    let mut out = vec![0.0f32; weights.values.len()];
    let mut decode = f64::INFINITY;
    for _ in 0..rounds {
        let start = Instant::now();
        codec.decode(&tensor, 0..weights.matrix.rows, black_box(&mut out))?;
        decode = decode.min(start.elapsed().as_secs_f64());
    }
    let sum =
        |f: &dyn Fn(f32, f32) -> f64| weights.values.iter().zip(&out).map(|(a, b)| f(*a, *b)).sum::<f64>();
    let signal = sum(&|a, _| f64::from(a) * f64::from(a));
    let noise = sum(&|a, b| (f64::from(a) - f64::from(b)).powi(2));
    let elements = weights.matrix.elements() as f64;
    Ok(Measured {
        bits: payload.len() as f64 * 8.0 / elements,
        snr: 10.0 * (signal / noise).log10(),
        encode: elements / encode / 1e6,
        decode: elements * 4.0 / decode / 1e9,
    })
}

/// Standard normal weights (Box and Muller), from a fixed generator.
fn gaussian() -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut uniform = move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        ((state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 + 0.5) / (1 << 24) as f32
    };
    let mut normal = || (-2.0 * uniform().ln()).sqrt() * (std::f32::consts::TAU * uniform()).cos();
    (0..GAUSSIAN.elements()).map(|_| normal() * 0.02).collect()
}

/// GB/s of the fastest copy of as many bytes: `memcpy`, or stores past the cache.
fn fastest_copy(bytes: usize) -> f64 {
    let (from, mut to) = (vec![1u8; bytes], vec![0u8; bytes]);
    let mut best = f64::INFINITY;
    for _ in 0..8 {
        for copy in [<[u8]>::copy_from_slice as fn(&mut [u8], &[u8]), |to, from| copy::streaming(from, to)] {
            let start = Instant::now();
            copy(&mut to, black_box(&from));
            black_box(&to);
            best = best.min(start.elapsed().as_secs_f64());
        }
    }
    bytes as f64 / best / 1e9
}

/// The first rows of every matrix of a model.
fn matrices(path: &str, bf16: bool) -> Result<Vec<Memory>, Box<dyn Error>> {
    let model = squizd_tools::source::open(Path::new(path), squizd_tools::source::MappingOptions::default())?;
    let mut found = Vec::new();
    for (index, info) in model.tensors().iter().enumerate() {
        if info.dims.len() < 2 || info.cols() < 64 {
            continue;
        }
        let matrix = Matrix { rows: info.rows().min(ROWS), cols: info.cols() };
        let mut values = vec![0.0; matrix.elements() as usize];
        model.read_f32(index, 0..matrix.rows, &mut values)?;
        found.push(Memory::new(matrix, values, bf16));
    }
    Ok(found)
}

/// Payload bits, and mean and least signal-to-noise ratio over the matrices.
fn model(choice: &CodecChoice, matrices: &[Memory]) -> squizd::Result<String> {
    let (mut bits, mut weights, mut mean, mut least) = (0.0, 0.0, 0.0, f64::INFINITY);
    for matrix in matrices {
        let measured = measure(choice, matrix, 1)?;
        let elements = matrix.matrix.elements() as f64;
        bits += measured.bits * elements;
        weights += elements;
        mean += measured.snr / matrices.len() as f64;
        least = least.min(measured.snr);
    }
    let decibels = if mean.is_finite() { format!("{mean:.2} ({least:.2})") } else { "exact".into() };
    Ok(format!(" {:.3} | {decibels} |", bits / weights))
}

fn main() -> Result<(), Box<dyn Error>> {
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global()?;
    let mut only: Vec<String> = Vec::new();
    let mut models = Vec::new();
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--only" => only = arguments.next().unwrap_or_default().split(',').map(str::to_owned).collect(),
            _ => models.push(argument),
        }
    }
    let plain = Memory::new(GAUSSIAN, gaussian(), false);
    let bf16 = Memory::new(GAUSSIAN, gaussian(), true);
    let bytes = 4 * plain.values.len();
    println!("Fastest copy of {} MB: {:.2} GB/s\n", bytes / 1_000_000, fastest_copy(bytes));
    let loaded: Vec<[Vec<Memory>; 2]> = models
        .iter()
        .map(|m| Ok([matrices(m, false)?, matrices(m, true)?]))
        .collect::<Result<_, Box<dyn Error>>>()?;
    print!("| codec | bits | dB | encode Mweights/s | decode GB/s | of copy |");
    let names =
        models.iter().map(|m| Path::new(m).file_stem().map_or(m.as_str().into(), |n| n.to_string_lossy()));
    names.for_each(|name| print!(" {name} bits | dB mean (least) |"));
    println!("\n|---|---|---|---|---|---|{}", "---|---|".repeat(models.len()));
    for name in VARIANTS.iter().filter(|v| only.is_empty() || only.iter().any(|o| v.starts_with(o.as_str())))
    {
        let choice: CodecChoice = name.parse()?;
        // TCA-TBE takes BF16 only; as BF16 the archival codec is comparable.
        let words = matches!(choice.codec, Some(CodecId::TCA_TBE | CodecId::ZPLANES));
        let weights = if words { &bf16 } else { &plain };
        let m = measure(&choice, weights, ROUNDS)?;
        let decibels = if m.snr.is_finite() { format!("{:.2}", m.snr) } else { "exact".into() };
        let share = 100.0 * m.decode / fastest_copy(bytes);
        print!("| {name} | {:.3} | {decibels} | {:.2} | {:.2} | {share:.0}% |", m.bits, m.encode, m.decode);
        for matrices in &loaded {
            print!("{}", model(&choice, &matrices[usize::from(words)])?);
        }
        println!();
    }
    Ok(())
}
