//! `squizd inspect FILE --tensor NAME`: statistics and a histogram.

use crate::{Exit, Failure, output};
use serde_json::json;
use squizd::codec::{Encoded, codec};
use squizd_spec::{SquizdRef, TensorView};
use std::ops::Range;

/// Decoded values held at a time.
const CHUNK: u64 = 1 << 20;
const BINS: usize = 32;

/// Moments and extremes of the finite values.
#[derive(Default)]
struct Stats {
    count: u64,
    not_finite: u64,
    zeros: u64,
    min: f32,
    max: f32,
    sum: f64,
    squares: f64,
}

impl Stats {
    fn add(&mut self, v: f32) {
        if !v.is_finite() {
            self.not_finite += 1;
            return;
        }
        (self.min, self.max) = if self.count == 0 { (v, v) } else { (self.min.min(v), self.max.max(v)) };
        self.count += 1;
        self.zeros += u64::from(v == 0.0);
        self.sum += f64::from(v);
        self.squares += f64::from(v) * f64::from(v);
    }

    fn mean(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }

    fn std(&self) -> f64 {
        (self.squares / self.count.max(1) as f64 - self.mean().powi(2)).max(0.0).sqrt()
    }
}

pub(super) fn run(file: &SquizdRef<'_>, name: &str, as_json: bool) -> Result<Exit, Failure> {
    let tensor = file.tensor_named(name).ok_or_else(|| {
        let near: Vec<_> = file.descs().filter(|t| t.name.contains(name)).take(5).map(|t| t.name).collect();
        let hint =
            if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(", ")) };
        Failure::usage(format!("no tensor is named {name:?}{hint}"))
    })?;
    let mut stats = Stats::default();
    for_values(&tensor, |values| values.iter().for_each(|&v| stats.add(v)))?;
    let mut bins = [0u64; BINS];
    let (low, span) = (f64::from(stats.min), f64::from(stats.max) - f64::from(stats.min));
    for_values(&tensor, |values| {
        for v in values.iter().filter(|v| v.is_finite()) {
            let at = if span > 0.0 { ((f64::from(*v) - low) / span * BINS as f64) as usize } else { 0 };
            if let Some(bin) = bins.get_mut(at.min(BINS - 1)) {
                *bin += 1;
            }
        }
    })?;
    if as_json {
        output::json(&json!({
            "tensor": super::tensor_json(&tensor),
            "stats": {
                "min": stats.min, "max": stats.max, "mean": stats.mean(), "std": stats.std(),
                "zeros": stats.zeros, "not_finite": stats.not_finite, "count": stats.count,
            },
            "histogram": { "low": low, "high": low + span, "counts": bins },
        }))?;
        return Ok(Exit::Done);
    }
    print(&tensor, &stats, &bins, low, span)?;
    Ok(Exit::Done)
}

fn print(tensor: &TensorView<'_>, stats: &Stats, bins: &[u64], low: f64, span: f64) -> Result<(), Failure> {
    output::line(format!(
        "{}  {}  {}  {} bytes at {}  {:.3} bits per weight",
        tensor.name,
        tensor.codec,
        output::dims(&tensor.dims),
        output::count(tensor.length),
        tensor.offset,
        tensor.bits_per_weight()
    ))?;
    output::line(format!(
        "min {:.6e}  max {:.6e}  mean {:.6e}  std {:.6e}  zeros {}  not finite {}",
        stats.min,
        stats.max,
        stats.mean(),
        stats.std(),
        output::count(stats.zeros),
        output::count(stats.not_finite)
    ))?;
    output::line("")?;
    let peak = bins.iter().copied().max().unwrap_or(0).max(1);
    for (i, &n) in bins.iter().enumerate() {
        let edge = low + span * i as f64 / bins.len() as f64;
        let width = (n as f64 / peak as f64 * 60.0).ceil() as usize;
        output::line(format!("{edge:>12.4e} {} {}", "█".repeat(width), output::count(n)))?;
    }
    Ok(())
}

/// Decodes a tensor a few rows at a time.
fn for_values(tensor: &TensorView<'_>, mut each: impl FnMut(&[f32])) -> Result<(), Failure> {
    let mut values = Vec::new();
    for rows in row_chunks(tensor) {
        decode(tensor, rows, &mut values)?;
        each(&values);
    }
    Ok(())
}

/// Decodes two tensors of equal shape side by side.
pub(in crate::cmd) fn for_value_pairs(
    a: &TensorView<'_>,
    b: &TensorView<'_>,
    mut each: impl FnMut(&[f32], &[f32]),
) -> Result<(), Failure> {
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for rows in row_chunks(a) {
        decode(a, rows.clone(), &mut x)?;
        decode(b, rows, &mut y)?;
        each(&x, &y);
    }
    Ok(())
}

/// Row ranges of about [`CHUNK`] values each.
fn row_chunks(tensor: &TensorView<'_>) -> impl Iterator<Item = Range<u64>> + use<> {
    let matrix = tensor.matrix();
    let step = (CHUNK / matrix.cols.max(1)).max(1);
    (0..matrix.rows.div_ceil(step)).map(move |i| i * step..matrix.rows.min((i + 1) * step))
}

fn decode(tensor: &TensorView<'_>, rows: Range<u64>, out: &mut Vec<f32>) -> Result<(), Failure> {
    let codec = codec(tensor.codec).ok_or_else(|| Failure {
        exit: Exit::Unsupported,
        message: format!("tensor {}: {} cannot be decoded by this build", tensor.name, tensor.codec),
    })?;
    out.resize(((rows.end - rows.start) * tensor.matrix().cols) as usize, 0.0);
    Ok(codec.decode(&Encoded::of(tensor), rows, out)?)
}
