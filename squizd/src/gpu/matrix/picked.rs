//! Products with a part of what is stored: experts of a stack, rows or units of a list.

use super::super::device::Gpu;
use super::super::input::Input;
use super::super::pipeline::{Span, read};
use super::super::record::Step;
use super::{GpuMatrix, Output, Params};
use crate::Result;

/// Which of stacked matrices are multiplied.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Stack<'a> {
    /// Rows of one matrix.
    pub(in super::super) expert_rows: u32,
    /// The matrix of each output.
    pub(in super::super) experts: &'a wgpu::Buffer,
    /// Outputs.
    pub(in super::super) count: u32,
    /// Outputs that share an input.
    pub(in super::super) share: u32,
}

impl GpuMatrix {
    /// Products of experts' matrices, `expert_rows` rows each and stacked in this
    /// one, with vectors of `x`: output `i` is that of expert `experts[i]` and
    /// input `i / share`, for `count` of them.
    ///
    /// # Errors
    /// As for other products; an unsupported one if the stack needs more than
    /// one binding.
    pub(in super::super) fn expert_gemv(
        &self,
        gpu: &Gpu,
        x: &Input,
        out: Output<'_>,
        stack: Stack<'_>,
    ) -> Result<Vec<Step>> {
        if self.pieces.len() > 1 {
            return Err(gpu.error("a stack of experts is larger than a binding"));
        }
        let rows = stack.expert_rows;
        let tuning = self.tuning_of(x.math, rows);
        let (options, mut tail) = self.gemv_parts(gpu, x, out, tuning)?;
        tail.push((read(7), Span::from(stack.experts)));
        self.steps(gpu, self.codec.gemv, &options.flag("EXPERTS"), &tail, |params| {
            let params = Params {
                share: stack.share,
                expert_rows: rows,
                x_stride: x.stride,
                y_stride: out.stride,
                units: self.turns(),
                ..params
            };
            // An expert's rows may begin within a strip.
            let height = u64::from(self.recipe.height().unwrap_or(1));
            let before = if u64::from(rows).is_multiple_of(height) { 0 } else { height - 1 };
            let groups = (u64::from(rows) + before).div_ceil(tuning.rows_per_workgroup());
            (params, [groups, 0, u64::from(stack.count)])
        })
    }

    /// The product over the rows or units that `listed` holds, as `flag` says
    /// (`sparse_gemv`).
    pub(in super::super) fn listed_gemv(
        &self,
        gpu: &Gpu,
        x: &Input,
        out: Output<'_>,
        flag: &'static str,
        listed: &wgpu::Buffer,
    ) -> Result<Vec<Step>> {
        if self.pieces.len() > 1 {
            return Err(gpu.error("a sparse matrix is larger than a binding"));
        }
        if !self.skips() {
            return Err(gpu.error(format!("{} skips nothing", self.codec.gemv)));
        }
        let tuning = self.tuning(x.math).apart();
        let (options, mut tail) = self.gemv_parts(gpu, x, out, tuning)?;
        tail.push((read(7), Span::from(listed)));
        self.steps(gpu, self.codec.gemv, &options.flag(flag), &tail, |params| {
            let params = Params { share: 1, ..params };
            (params, [u64::from(params.rows).div_ceil(tuning.rows_per_workgroup()), 0, 1])
        })
    }
}
