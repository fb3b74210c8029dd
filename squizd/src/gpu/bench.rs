//! How fast kernels are, against what the device's memory gives.
//!
//! Working sets are larger than any cache and rotate; clocks are warmed before
//! anything counts; times are the device's own timestamps where it has them;
//! medians of several rounds.

mod gemm;
mod large;

pub use gemm::{BATCHES, GemmResult, gemms};

use super::codec::GpuCodec;
use super::device::Gpu;
use super::input::Input;
use super::math::Math;
use super::matrix::{GpuMatrix, Output};
use super::pipeline::{Span, read, write};
use super::record::Step;
use super::sample::{Sample, gaussian};
use super::shares;
use super::sparse::{Axis, Clusters};
use super::tuning::{Tuning, climb};
use crate::Result;
use large::{Wanted, large_sample, wanted};
use serde::Serialize;
use squizd_shaders::Options;
use std::time::{Duration, Instant};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rows and columns of the matrices.
    pub shapes: Vec<(u64, u64)>,
    /// Names of the codecs, with or without a layout (`int4:fine`); empty for all.
    pub codecs: Vec<String>,
    /// Forms of the input, empty for all.
    pub inputs: Vec<Math>,
    /// Bytes of a working set, at least.
    pub working_set: u64,
    /// Time spent warming the clocks before each kernel.
    pub warm: Duration,
    /// Rounds, of which the median counts.
    pub rounds: u32,
    /// Shapes of workgroups to measure one by one, instead of the rule's.
    pub workgroups: Vec<Tuning>,
    /// Search for the best shape of workgroups, and report it.
    pub tune: bool,
    /// Measure products that skip half of the clusters, too.
    pub sparse: bool,
    /// Let no product wait for the one before it.
    pub apart: bool,
}

impl Plan {
    /// For a data-centre GPU.
    pub fn full() -> Self {
        Self {
            shapes: vec![
                (4096, 4096),
                (14_336, 4096),
                (4096, 14_336),
                (8192, 28_672),
                (1536, 576),
                (576, 1536),
                (1536, 1536),
            ],
            codecs: Vec::new(),
            inputs: Vec::new(),
            workgroups: Vec::new(),
            working_set: 512 << 20,
            warm: Duration::from_millis(60),
            rounds: 11,
            tune: false,
            sparse: false,
            apart: false,
        }
    }

    /// For a look at whether everything runs.
    pub fn small() -> Self {
        Self {
            shapes: vec![(256, 1024)],
            codecs: Vec::new(),
            inputs: Vec::new(),
            workgroups: Vec::new(),
            working_set: 1 << 20,
            warm: Duration::ZERO,
            rounds: 1,
            tune: false,
            sparse: false,
            apart: false,
        }
    }
}

/// What memory and driver give at most.
#[derive(Clone, Debug, Serialize)]
pub struct Ceilings {
    /// Adapter, with backend and driver.
    pub adapter: String,
    /// GB/s that a kernel reads.
    pub read_gbs: f64,
    /// GB/s that a kernel copies, reads and writes counted.
    pub copy_gbs: f64,
    /// Microseconds of a dependent dispatch that does next to nothing.
    pub dispatch_us: f64,
    /// Microseconds of submitting one dispatch and waiting for it.
    pub submit_us: f64,
}

/// One kernel on one shape.
#[derive(Clone, Debug, Serialize)]
pub struct KernelResult {
    /// Kernel.
    pub kernel: &'static str,
    /// Codec and layout.
    pub codec: String,
    /// Form of the input.
    pub math: String,
    /// Rows of the matrix.
    pub rows: u64,
    /// Columns.
    pub cols: u64,
    /// Payload bytes that it needs.
    pub bytes: u64,
    /// Share of the payload that it skips.
    pub skipped: f64,
    /// Microseconds of one product.
    pub us: f64,
    /// GB/s of payload.
    pub gbs: f64,
    /// Share of the read ceiling.
    pub share: f64,
    /// Weights per second, in thousand millions.
    pub gweights: f64,
    /// Shape of the workgroups.
    pub tuning: Tuning,
}

impl Gpu {
    /// Median seconds of running all `steps` once, over `rounds` passes that run
    /// them `repeats` times each.
    pub(super) fn time(&self, steps: &[Step], repeats: u32, warm: Duration, rounds: u32) -> Result<f64> {
        let start = Instant::now();
        loop {
            self.submit(steps);
            self.wait()?;
            if start.elapsed() >= warm {
                break;
            }
        }
        let mut seconds = if self.abilities().timestamps {
            self.time_on_device(steps, repeats, rounds)?
        } else {
            let round = || -> Result<f64> {
                let start = Instant::now();
                for _ in 0..repeats {
                    self.submit(steps);
                }
                self.wait()?;
                Ok(start.elapsed().as_secs_f64())
            };
            (0..rounds).map(|_| round()).collect::<Result<_>>()?
        };
        seconds.sort_by(f64::total_cmp);
        let median = seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN);
        Ok(median / f64::from(repeats))
    }

    fn time_on_device(&self, steps: &[Step], repeats: u32, rounds: u32) -> Result<Vec<f64>> {
        let count = 2 * rounds;
        let queries = self.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let resolved = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: 8 * u64::from(count),
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for round in 0..rounds {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(2 * round),
                    end_of_pass_write_index: Some(2 * round + 1),
                }),
            });
            for _ in 0..repeats {
                for step in steps {
                    step.record(&mut pass);
                }
            }
        }
        encoder.resolve_query_set(&queries, 0..count, &resolved, 0);
        self.queue.submit([encoder.finish()]);
        self.wait()?;
        let bytes = self.read(&resolved, 0..8 * u64::from(count))?;
        let ticks = bytes.as_chunks::<16>().0.iter().map(|pair| {
            let (begin, end) = pair.split_at(8);
            let tick = |b: &[u8]| b.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
            tick(end).saturating_sub(tick(begin))
        });
        let period = f64::from(self.timestamp_period()) * 1e-9;
        Ok(ticks.map(|t| t as f64 * period).collect())
    }
}

/// Invocations of the ceilings' workgroups, and vectors that each takes.
const WORKGROUP: u64 = 256;
const VECTORS: u64 = 4;

/// Measures the ceilings.
///
/// # Errors
/// What went wrong on the device.
pub fn ceilings(gpu: &Gpu, plan: &Plan) -> Result<Ceilings> {
    // Several buffers, since a binding reaches so far only.
    let piece = plan.working_set.min(gpu.abilities().max_binding) / 4096 * 4096;
    let pieces = plan.working_set.div_ceil(piece).max(2);
    let pattern = random_bytes(piece.min(1 << 24) as usize);
    let buffers = (0..pieces).map(|_| tiled(gpu, &pattern, piece)).collect::<Result<Vec<_>>>()?;
    let sink = gpu.storage(256)?;
    let target = gpu.storage(piece)?;
    let options = Options::default().with("WG", WORKGROUP as u32);
    let length = (piece / 16) as u32;
    let workgroups = (piece / 16).div_ceil(WORKGROUP * VECTORS);
    let time = |name: &'static str, sink: &wgpu::Buffer| -> Result<f64> {
        let pipeline = gpu.pipeline(name, &options, &[read(0), write(1)])?;
        let steps = buffers
            .iter()
            .map(|b| Step::new(gpu, &pipeline, &[Span::from(b), Span::from(sink)], &length, workgroups))
            .collect::<Result<Vec<_>>>()?;
        gpu.time(&steps, 1, plan.warm * 5, plan.rounds)
    };
    let bytes = (piece * pieces) as f64;
    let read_gbs = bytes / time("read_ceiling", &sink)? / 1e9;
    let copy_gbs = 2.0 * bytes / time("copy_ceiling", &target)? / 1e9;

    let pipeline = gpu.pipeline("read_ceiling", &options, &[read(0), write(1)])?;
    let small = gpu.storage(4096)?;
    let spans = [Span::from(&small), Span::from(&sink)];
    let tiny = Step::new(gpu, &pipeline, &spans, &256u32, 1)?;
    let many = vec![tiny.clone(); 100];
    let dispatch_us = gpu.time(&many, 1, plan.warm, plan.rounds)? * 1e6 / 100.0;
    let mut waits = Vec::new();
    for _ in 0..20 {
        let start = Instant::now();
        gpu.submit([&tiny]);
        gpu.wait()?;
        waits.push(start.elapsed().as_secs_f64() * 1e6);
    }
    waits.sort_by(f64::total_cmp);
    Ok(Ceilings {
        adapter: gpu.adapter().to_string(),
        read_gbs,
        copy_gbs,
        dispatch_us,
        submit_us: waits.get(10).copied().unwrap_or(f64::NAN),
    })
}

/// Measures the products with one vector of every codec, shape and form of
/// input that `plan` names; `each` hears of every result.
///
/// # Errors
/// What went wrong on the device, or a codec's name that there is not.
pub fn kernels(
    gpu: &Gpu,
    plan: &Plan,
    ceilings: &Ceilings,
    each: &mut dyn FnMut(&KernelResult),
) -> Result<Vec<KernelResult>> {
    let mut results = Vec::new();
    for Wanted { codec, label, options } in wanted(&plan.codecs)? {
        for (rows, cols) in &plan.shapes {
            let sample = large_sample(codec.id, *rows, *cols, options)?;
            let label = label.clone();
            let mut one = One { gpu, plan, ceilings, gpu_codec: codec, label, sample: &sample };
            results.extend(one.measure(each)?);
        }
    }
    Ok(results)
}

/// One codec, layout and shape.
struct One<'a> {
    gpu: &'a Gpu,
    plan: &'a Plan,
    ceilings: &'a Ceilings,
    gpu_codec: &'static GpuCodec,
    label: String,
    sample: &'a Sample,
}

impl One<'_> {
    fn measure(&mut self, each: &mut dyn FnMut(&KernelResult)) -> Result<Vec<KernelResult>> {
        let Self { gpu, plan, sample, gpu_codec, .. } = *self;
        let bytes = sample.data.len() as u64;
        let copies = plan.working_set.div_ceil(bytes).clamp(1, 4096);
        let first = gpu.upload(&sample.data, &mut |_| {})?;
        let matrices = (0..copies)
            .map(|i| {
                let buffer = if i == 0 { first.clone() } else { copied(gpu, &first)? };
                GpuMatrix::new(gpu, sample.id, &sample.view(), &Span::from(&buffer))
            })
            .collect::<Result<Vec<_>>>()?;
        let mut results = Vec::new();
        let mut cold = true;
        for math in std::iter::once(Math::F32).chain(gpu_codec.forms.iter().copied()) {
            let wanted = plan.inputs.is_empty() || plan.inputs.contains(&math);
            if !wanted || math == Math::F16 && !gpu.abilities().f16 {
                continue;
            }
            let x = Input::new(gpu, math, sample.matrix.cols as u32, 1)?;
            let values = gaussian(sample.matrix.cols as usize, 3);
            gpu.write(&x.values, zerocopy::IntoBytes::as_bytes(&values[..]));
            gpu.submit(&[x.prepare(gpu)?]);
            gpu.submit(&x.rotate(gpu, matrices.first(), 1)?);
            let outputs = if plan.apart { copies } else { 1 };
            let outputs = (0..outputs).map(|_| gpu.storage(4 * sample.matrix.rows));
            let outputs = outputs.collect::<Result<Vec<_>>>()?;
            let Some(first) = matrices.first() else { continue };
            let repeats = (1e-3 / (bytes as f64 * copies as f64 / self.ceilings.read_gbs / 1e9)).ceil();
            let repeats = (repeats as u32).clamp(1, 64);
            let time = |tuning: Tuning, warm: Duration, rounds: u32| -> Result<f64> {
                let steps = matrices
                    .iter()
                    .zip(outputs.iter().cycle())
                    .map(|(m, y)| m.gemv_tuned(gpu, &x, Output::to(y, 0), tuning))
                    .collect::<Result<Vec<_>>>()?
                    .concat();
                Ok(gpu.time(&steps, repeats, warm, rounds)? / copies as f64)
            };
            if cold {
                // Encoding left the device idle, and clocks take their time.
                time(first.tuning(math), plan.warm * 8, 1)?;
                cold = false;
            }
            if !plan.workgroups.is_empty() {
                for tuning in &plan.workgroups {
                    let given = self.result(math, *tuning, time(*tuning, plan.warm, plan.rounds)?, 0.0);
                    each(&given);
                    results.push(given);
                }
                continue;
            }
            let mut tuning = first.tuning(math);
            if plan.tune {
                // Each is warmed in full: compiling it left the device idle.
                let trial = |t| time(t, plan.warm, plan.rounds.min(5));
                let untuned = tuning;
                let shares = shares::candidates(first.recipe());
                if shares.is_empty() {
                    (tuning, _) = climb(tuning, trial)?;
                } else {
                    // Few: all of them.
                    let mut best = trial(tuning)?;
                    for other in shares {
                        let seconds = trial(other)?;
                        if seconds < best {
                            (best, tuning) = (seconds, other);
                        }
                    }
                }
                // Once more side by side: a search of noise finds noise.
                if tuning != untuned && trial(untuned)? <= trial(tuning)? {
                    tuning = untuned;
                }
            }
            let seconds = time(tuning, plan.warm, plan.rounds)?;
            let dense = self.result(math, tuning, seconds, 0.0);
            each(&dense);
            results.push(dense);
            for axis in [Axis::Rows, Axis::Columns].into_iter().filter(|_| plan.sparse && first.skips()) {
                let (clusters, skipped) = half_of_the_clusters(gpu, first, axis)?;
                let (listed, list) = clusters.list(gpu, first, axis)?;
                gpu.submit(&[list]);
                let steps = matrices
                    .iter()
                    .zip(outputs.iter().cycle())
                    .map(|(m, y)| m.sparse_gemv(gpu, &x, Output::to(y, 0), &listed))
                    .collect::<Result<Vec<_>>>()?
                    .concat();
                let seconds = gpu.time(&steps, repeats, plan.warm, plan.rounds)? / copies as f64;
                let sparse = self.result(math, first.tuning(math).apart(), seconds, skipped);
                let side = if axis == Axis::Rows { "rows" } else { "columns" };
                let sparse = KernelResult { codec: format!("{}, half the {side}", self.label), ..sparse };
                each(&sparse);
                results.push(sparse);
            }
        }
        Ok(results)
    }

    fn result(&self, math: Math, tuning: Tuning, seconds: f64, skipped: f64) -> KernelResult {
        let squizd_spec::Matrix { rows, cols } = self.sample.matrix;
        let bytes = (self.sample.data.len() as f64 * (1.0 - skipped)) as u64;
        let gbs = bytes as f64 / seconds / 1e9;
        KernelResult {
            kernel: self.gpu_codec.gemv,
            codec: self.label.clone(),
            math: math.to_string(),
            rows,
            cols,
            bytes,
            skipped,
            us: seconds * 1e6,
            gbs,
            share: gbs / self.ceilings.read_gbs,
            gweights: (rows * cols) as f64 / seconds / 1e9,
            tuning,
        }
    }
}

/// Clusters of a layer in the bench.
const CLUSTERS: u32 = 64;

/// Every second of 64 clusters, which begin at multiples of 256 neurons (less
/// where there are fewer), and the share of neurons in the others.
fn half_of_the_clusters(gpu: &Gpu, matrix: &GpuMatrix, axis: Axis) -> Result<(Clusters, f64)> {
    let neurons = if axis == Axis::Rows { matrix.rows() } else { matrix.cols() };
    let size = (neurons / CLUSTERS).max(1).next_multiple_of(256);
    let mut boundaries: Vec<u32> = (0..neurons).step_by(size as usize).collect();
    boundaries.push(neurons);
    let mask: Vec<u32> = (1..boundaries.len() as u32).map(|c| c % 2).collect();
    let idle = boundaries.windows(2).zip(&mask).filter(|(_, m)| **m == 0);
    let idle: u32 = idle.filter_map(|(b, _)| b.last()?.checked_sub(*b.first()?)).sum();
    let clusters = Clusters::new(gpu, &boundaries)?;
    clusters.set(gpu, &mask);
    Ok((clusters, f64::from(idle) / f64::from(neurons.max(1))))
}

fn random_bytes(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(count + 8);
    while bytes.len() < count {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(count);
    bytes
}

/// A buffer of `size` bytes, a multiple of four, in which `pattern` repeats.
fn tiled(gpu: &Gpu, pattern: &[u8], size: u64) -> Result<wgpu::Buffer> {
    let source = gpu.upload(pattern, &mut |_| {})?;
    let buffer = gpu.storage(size)?;
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    for at in (0..size).step_by(pattern.len()) {
        encoder.copy_buffer_to_buffer(&source, 0, &buffer, at, (pattern.len() as u64).min(size - at));
    }
    gpu.queue.submit([encoder.finish()]);
    Ok(buffer)
}

fn copied(gpu: &Gpu, from: &wgpu::Buffer) -> Result<wgpu::Buffer> {
    let buffer = gpu.storage(from.size())?;
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    encoder.copy_buffer_to_buffer(from, 0, &buffer, 0, from.size());
    gpu.queue.submit([encoder.finish()]);
    Ok(buffer)
}
