//! Products of matrices that share an input.

use super::super::device::Gpu;
use super::super::matrix::{Fetch, Joined, Output};
use super::super::model::GpuLinear;
use super::super::record::Step;
use crate::Result;

/// A product with `n` vectors, one if the product makes it, and the matrix's bias.
pub(super) fn product(
    gpu: &Gpu,
    linear: &GpuLinear,
    from: Fetch<'_>,
    n: u32,
    out: Output<'_>,
) -> Result<Vec<Step>> {
    let out = Output { bias: linear.bias.as_ref(), ..out };
    match from {
        Fetch::Staged(staged) => linear.matrix.staged_gemv(gpu, staged, out),
        Fetch::Ready(x) if n == 1 => linear.matrix.gemv(gpu, x, out),
        Fetch::Ready(x) => linear.matrix.batch(gpu, x, n, out),
    }
}

/// Parts of one buffer for the outputs of several matrices.
#[derive(Clone, Copy)]
pub(super) struct Regions<'a, const N: usize> {
    pub(super) y: &'a wgpu::Buffer,
    /// Where each begins, in numbers: multiples of 64.
    pub(super) firsts: [u32; N],
    /// Numbers from one output vector to the next.
    pub(super) strides: [u32; N],
}

impl<'a, const N: usize> Regions<'a, N> {
    /// Each part as an output.
    pub(super) fn outputs(self) -> [Output<'a>; N] {
        std::array::from_fn(|i| Output {
            offset: 4 * u64::from(self.firsts[i]),
            ..Output::to(self.y, self.strides[i])
        })
    }
}

/// The products of several matrices with the `n` vectors of one input: for one
/// vector a single dispatch, if the matrices go together.
pub(super) fn together<const N: usize>(
    gpu: &Gpu,
    linears: [&GpuLinear; N],
    from: Fetch<'_>,
    n: u32,
    to: Regions<'_, N>,
) -> Result<Vec<Step>> {
    let placed: [_; N] = std::array::from_fn(|i| (&linears[i].matrix, to.firsts[i]));
    if n == 1
        && let Some(joined) = Joined::new(gpu, from, &placed)
    {
        let bias = joined_bias(gpu, linears, to.firsts)?;
        return Ok(vec![joined.gemv(gpu, from, to.y, bias.as_ref())?]);
    }
    let mut steps = Vec::new();
    for (linear, out) in linears.into_iter().zip(to.outputs()) {
        steps.extend(product(gpu, linear, from, n, out)?);
    }
    Ok(steps)
}

/// The biases where the outputs lie, zero for those that have none.
fn joined_bias<const N: usize>(
    gpu: &Gpu,
    linears: [&GpuLinear; N],
    firsts: [u32; N],
) -> Result<Option<wgpu::Buffer>> {
    let ends = linears.iter().zip(firsts).map(|(l, first)| 4 * u64::from(first + l.matrix.rows()));
    let biases = linears.iter().zip(firsts).filter_map(|(l, first)| Some((l.bias.as_ref()?, first)));
    let mut parts = biases.peekable();
    if parts.peek().is_none() {
        return Ok(None);
    }
    let all = gpu.storage(ends.max().unwrap_or(0).next_multiple_of(256))?;
    for (bias, first) in parts {
        let room = all.size() - 4 * u64::from(first);
        gpu.copy(bias, &all, 4 * u64::from(first), bias.size().min(room));
    }
    Ok(Some(all))
}
