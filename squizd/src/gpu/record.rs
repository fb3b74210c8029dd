//! Dispatches, prepared once and recorded as often as wanted.

use super::device::Gpu;
use super::pipeline::{Pipeline, Span};
use crate::Result;
use std::sync::Arc;
use zerocopy::{Immutable, IntoBytes};

/// Workgroups per dimension that every adapter takes.
const DIMENSION: u64 = 65_535;

/// At least `workgroups` over two dimensions.
pub(super) fn over_two(workgroups: u64) -> [u64; 2] {
    let y = workgroups.div_ceil(DIMENSION).max(1);
    [workgroups.div_ceil(y).max(1), y]
}

/// One dispatch with all it needs.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pipeline: Arc<Pipeline>,
    bindings: wgpu::BindGroup,
    params: Vec<u8>,
    grid: [u32; 3],
}

impl Step {
    /// `workgroups` of `pipeline` over `spans`, told `params`. Beyond 65535
    /// workgroups there may be more than asked for: kernels number them
    /// `x + y * count_x` and leave at the end of their work.
    pub(super) fn new(
        gpu: &Gpu,
        pipeline: &Arc<Pipeline>,
        spans: &[Span],
        params: &(impl IntoBytes + Immutable),
        workgroups: u64,
    ) -> Result<Self> {
        let [x, y] = over_two(workgroups);
        Self::in_grid(gpu, pipeline, spans, params, [x, y, 1])
    }

    /// The same with a grid of workgroups.
    pub(super) fn in_grid(
        gpu: &Gpu,
        pipeline: &Arc<Pipeline>,
        spans: &[Span],
        params: &(impl IntoBytes + Immutable),
        grid: [u64; 3],
    ) -> Result<Self> {
        Self::sampling(gpu, pipeline, None, spans, params, grid)
    }

    /// The same with the layers of a texture, if the kernel reads one.
    pub(super) fn sampling(
        gpu: &Gpu,
        pipeline: &Arc<Pipeline>,
        layers: Option<&wgpu::TextureView>,
        spans: &[Span],
        params: &(impl IntoBytes + Immutable),
        grid: [u64; 3],
    ) -> Result<Self> {
        if grid.iter().any(|n| *n > DIMENSION) {
            return Err(gpu.error(format!("{grid:?} workgroups are more than {DIMENSION} in a dimension")));
        }
        Ok(Self {
            bindings: gpu.bind(pipeline, layers, spans)?,
            pipeline: Arc::clone(pipeline),
            params: params.as_bytes().to_vec(),
            grid: grid.map(|n| n as u32),
        })
    }

    /// Name of its kernel.
    pub(super) fn kernel(&self) -> &'static str {
        self.pipeline.name
    }

    /// Records the dispatch.
    pub(super) fn record(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline.compute);
        pass.set_bind_group(0, &self.bindings, &[]);
        pass.set_immediates(0, &self.params);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], self.grid[2]);
    }
}

impl Gpu {
    /// Submits `steps`, one after the other: each sees what those before wrote.
    pub(super) fn submit<'s>(&self, steps: impl IntoIterator<Item = &'s Step>) {
        self.queue.submit([self.record(steps).finish()]);
    }

    /// Commands that run `steps`.
    pub(super) fn record<'s>(&self, steps: impl IntoIterator<Item = &'s Step>) -> wgpu::CommandEncoder {
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for step in steps {
                step.record(&mut pass);
            }
        }
        encoder
    }
}
