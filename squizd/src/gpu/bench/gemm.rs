//! Products with many vectors: how fast they are, and how far the rounding ones
//! are from those in f32.

use super::super::codec::GpuCodec;
use super::super::cooperative::Tiling;
use super::super::device::Gpu;
use super::super::input::Input;
use super::super::math::Math;
use super::super::matrix::{GpuMatrix, Output};
use super::super::pipeline::Span;
use super::super::record::Step;
use super::super::sample::{Sample, gaussian};
use super::large::{Wanted, large_sample, wanted};
use super::{Plan, copied};
use crate::Result;
use serde::Serialize;

/// Vectors multiplied at a time.
pub const BATCHES: [u32; 2] = [64, 512];
/// Copies of a matrix that rotate, at most.
const COPIES: u64 = 8;

/// One product of a batch.
#[derive(Clone, Debug, Serialize)]
pub struct GemmResult {
    /// Kernel.
    pub kernel: &'static str,
    /// Codec and layout.
    pub codec: String,
    /// What is multiplied: `f32`, or `f16` by cooperative matrices.
    pub math: String,
    /// Rows of the matrix.
    pub rows: u64,
    /// Columns.
    pub cols: u64,
    /// Vectors.
    pub batch: u32,
    /// Microseconds of one product.
    pub us: f64,
    /// Millions of millions of multiplications and additions a second.
    pub tflops: f64,
    /// Root mean square of the difference from the f32 kernel's results on the
    /// same data, over theirs.
    pub error: Option<f64>,
    /// Shape of the workgroups, of cooperative matrices.
    pub tiling: Option<Tiling>,
}

/// Measures the products of batches of every codec and shape that `plan` names;
/// `each` hears of every result.
///
/// # Errors
/// What went wrong on the device, or a codec's name that there is not.
pub fn gemms(gpu: &Gpu, plan: &Plan, each: &mut dyn FnMut(&GemmResult)) -> Result<Vec<GemmResult>> {
    let mut results = Vec::new();
    for Wanted { codec, label, options } in wanted(&plan.codecs)? {
        for (rows, cols) in &plan.shapes {
            let sample = large_sample(codec.id, *rows, *cols, options)?;
            for batch in BATCHES {
                results.extend(measure(gpu, plan, codec, &label, &sample, batch, each)?);
            }
        }
    }
    Ok(results)
}

fn measure(
    gpu: &Gpu,
    plan: &Plan,
    gpu_codec: &'static GpuCodec,
    label: &str,
    sample: &Sample,
    batch: u32,
    each: &mut dyn FnMut(&GemmResult),
) -> Result<Vec<GemmResult>> {
    let squizd_spec::Matrix { rows, cols } = sample.matrix;
    let copies = plan.working_set.div_ceil(sample.data.len() as u64).clamp(1, COPIES);
    let first = gpu.upload(&sample.data, &mut |_| {})?;
    let mut matrices = (0..copies)
        .map(|i| {
            let buffer = if i == 0 { first.clone() } else { copied(gpu, &first)? };
            GpuMatrix::new(gpu, sample.id, &sample.view(), &Span::from(&buffer))
        })
        .collect::<Result<Vec<_>>>()?;
    let x = Input::new(gpu, Math::F16, cols as u32, batch)?;
    let values = gaussian(cols as usize * batch as usize, 3);
    let mut padded = vec![0.0f32; x.stride as usize * batch as usize];
    for (to, from) in padded.chunks_mut(x.stride as usize).zip(values.chunks(cols as usize)) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }
    gpu.write(&x.values, zerocopy::IntoBytes::as_bytes(&padded[..]));
    gpu.submit(&x.rotate(gpu, matrices.first(), batch)?);
    let count = rows as usize * batch as usize;
    let y = gpu.storage(4 * count as u64)?;
    let out = Output::to(&y, rows as u32);
    let operations = 2.0 * rows as f64 * cols as f64 * f64::from(batch);
    let run = |steps: Vec<Vec<Step>>| -> Result<(f64, Vec<f32>)> {
        // A millisecond at a rate that the fastest exceed.
        let repeats = (1e-3 * 1e14 / operations / copies as f64).ceil().clamp(1.0, 64.0) as u32;
        let repeats = if plan.rounds > 1 { repeats } else { 1 };
        let seconds = gpu.time(&steps.concat(), repeats, plan.warm, plan.rounds.min(5))?;
        Ok((seconds / copies as f64, gpu.read_f32(&y, count)?))
    };
    let result = |math: Math, seconds: f64, error: Option<f64>, tiling: Option<Tiling>| GemmResult {
        kernel: gpu_codec.gemm,
        codec: label.to_owned(),
        math: math.to_string(),
        rows,
        cols,
        batch,
        us: seconds * 1e6,
        tflops: operations / seconds / 1e12,
        error,
        tiling,
    };
    let plain = matrices.iter().map(|m| m.gemm(gpu, &x, batch, out)).collect::<Result<Vec<_>>>()?;
    let (seconds, exact) = run(plain)?;
    let in_full = result(Math::F32, seconds, None, None);
    each(&in_full);
    let mut results = vec![in_full];
    if let Some(side) = gpu.abilities().cooperative {
        GpuMatrix::measure(gpu, &mut matrices)?;
        gpu.submit(&x.halve(gpu, matrices.first(), batch)?);
        let chosen = matrices.iter().take(1).map(|m| m.tiling(side, batch));
        let tilings = if plan.tune { Tiling::candidates() } else { chosen.collect() };
        let room = gpu.workgroup_memory();
        for tiling in tilings.into_iter().filter(|t| t.memory(side) <= room) {
            // Of a run that writes nothing, no result counts.
            gpu.write(&y, &vec![0xff; 4 * count]);
            let steps = matrices.iter().map(|m| m.tiled_gemm(gpu, &x, batch, out, tiling));
            let (seconds, rounded) = run(steps.collect::<Result<Vec<_>>>()?)?;
            let one = result(Math::F16, seconds, Some(distance(&rounded, &exact)), Some(tiling));
            each(&one);
            results.push(one);
        }
    }
    Ok(results)
}

/// `|a - b| / |b|`.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let difference: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let size: f64 = b.iter().map(|b| f64::from(*b).powi(2)).sum();
    (difference / size).sqrt()
}
