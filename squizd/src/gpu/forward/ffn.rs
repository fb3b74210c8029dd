//! The feed-forward block as dispatches, dense or a mixture of experts.

use super::super::matrix::{Fetch, GpuMatrix, Made, Output, Stack, Staged};
use super::super::model::{GpuLayer, GpuModel, Router};
use super::super::pipeline::{Span, read, write};
use super::super::record::Step;
use super::super::rotation::Source;
use super::buffers::{ExpertBuffers, part};
use super::product::{Regions, together};
use super::{Forward, HEAD_WORKGROUP, NormTo, WORKGROUP, emit_to, step};
use crate::Result;
use crate::model::Activation;
use squizd_shaders::Options;
use zerocopy::{Immutable, IntoBytes};

#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct RouteParams {
    stride: u32,
    active: u32,
    scale: f32,
}

impl Forward {
    pub(super) fn ffn_block(
        &self,
        model: &GpuModel<'_, '_>,
        layer: &GpuLayer,
        n: u32,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let (gpu, b) = (&model.gpu, &self.buffers);
        let routed = match (&layer.router, &b.experts) {
            (Some(router), Some(experts)) => Some((router, experts)),
            _ => None,
        };
        let shared = [&layer.gate.matrix, &layer.up.matrix];
        let dense = if routed.is_none() { n } else { 0 };
        let normed = self.staged_norm(model, &layer.ffn_norm, &shared, dense);
        let emit = (n == 1 || routed.is_some()) && model.blocks;
        if routed.is_some() {
            let to = NormTo::Input(&b.normed, emit);
            steps.push(self.norm(model, &b.x, &layer.ffn_norm, to, 0, n)?);
        } else if normed.is_none() {
            steps.extend(self.norm_for(model, &layer.ffn_norm, &b.normed, &shared, [0, n])?);
        }
        let from = normed.as_ref().map_or(Fetch::Ready(&b.normed), Fetch::Staged);
        let mut outputs = n;
        if let Some((router, experts)) = routed {
            outputs = n * router.active;
            self.route(model, router, experts, n, steps)?;
            steps.extend(b.normed.rotate(gpu, shared, n)?);
        }
        let up_first = outputs * part(b.gated.stride);
        let to = Regions { y: &b.gate_up, firsts: [0, up_first], strides: [b.gated.stride; 2] };
        match routed {
            None => steps.extend(together(gpu, [&layer.gate, &layer.up], from, n, to)?),
            Some((router, experts)) => {
                for (linear, out) in [&layer.gate, &layer.up].into_iter().zip(to.outputs()) {
                    let stack = Stack {
                        expert_rows: linear.matrix.rows() / router.matrix.rows(),
                        experts: &experts.chosen,
                        count: outputs,
                        share: router.active,
                    };
                    steps.extend(linear.matrix.expert_gemv(gpu, &b.normed, out, stack)?);
                }
            }
        }
        let Some((router, experts)) = routed else {
            let gated = self.staged_gate(model, up_first, &layer.down.matrix, n);
            if gated.is_none() {
                let down = &layer.down.matrix;
                steps.extend(self.gate_for(model, down, outputs, up_first, emit)?);
                steps.extend(b.gated.halve(gpu, [down], n)?);
            }
            let from = gated.as_ref().map_or(Fetch::Ready(&b.gated), Fetch::Staged);
            return self.residual(model, &layer.down, from, layer.ffn_post_norm.as_ref(), n, steps);
        };
        steps.extend(self.gate_for(model, &layer.down.matrix, outputs, up_first, emit)?);
        let stack = Stack {
            expert_rows: layer.down.matrix.rows() / router.matrix.rows(),
            experts: &experts.chosen,
            count: outputs,
            share: 1,
        };
        let out = Output::to(&experts.results, b.normed.stride);
        steps.extend(layer.down.matrix.expert_gemv(gpu, &b.gated, out, stack)?);
        let ports = [
            (read(0), Span::from(&experts.results)),
            (read(1), Span::from(&experts.weights)),
            (write(2), Span::from(&b.x)),
        ];
        let options = Options::default().with("WG", WORKGROUP);
        let quads = b.normed.stride / 4;
        let grid = [u64::from((quads * n).div_ceil(WORKGROUP)), 1, 1];
        steps.push(step(gpu, "combine", &options, &ports, &[quads, router.active, n], grid)?);
        Ok(())
    }

    /// How the product of `down` with one token's gated outputs makes them, if that is
    /// better than a dispatch.
    fn staged_gate(
        &self,
        model: &GpuModel<'_, '_>,
        up_first: u32,
        down: &GpuMatrix,
        n: u32,
    ) -> Option<Staged> {
        (n == 1 && GpuMatrix::stage(model.math, &[down]))
            .then(|| Staged { made: self.gated(model, up_first), math: model.math })
    }

    /// Gated outputs, to be made where they are read.
    fn gated(&self, model: &GpuModel<'_, '_>, up_first: u32) -> Made {
        let gate_up = &self.buffers.gate_up;
        let up = Span { offset: 4 * u64::from(up_first), ..Span::from(gate_up) };
        Made {
            flags: std::iter::once("GATED").chain(activation(model)).collect(),
            spans: [Span::from(gate_up), up],
            eps: 0.0,
        }
    }

    /// Gates `outputs` outputs, as `down` reads them: on the way, if it rotates them,
    /// else with their coded form if `emit` says so.
    fn gate_for(
        &self,
        model: &GpuModel<'_, '_>,
        down: &GpuMatrix,
        outputs: u32,
        up_first: u32,
        emit: bool,
    ) -> Result<Vec<Step>> {
        if down.rotation().is_none() {
            return Ok(vec![self.gate(model, outputs, up_first, emit)?]);
        }
        let made = self.gated(model, up_first);
        self.buffers.gated.rotate_from(&model.gpu, Source::Made(&made, 0), [down], outputs)
    }

    /// Gates `outputs` outputs, and with `emit` writes the result's coded form.
    fn gate(&self, model: &GpuModel<'_, '_>, outputs: u32, up_first: u32, emit: bool) -> Result<Step> {
        let b = &self.buffers;
        let mut options = Options::default().with("WG", WORKGROUP);
        options = activation(model).iter().fold(options, |o, flag| o.flag(flag));
        let up = Span { offset: 4 * u64::from(up_first), ..Span::from(&b.gate_up) };
        let mut ports =
            vec![(read(0), Span::from(&b.gate_up)), (read(1), up), (write(2), Span::from(&b.gated.values))];
        if emit {
            options = emit_to(&b.gated, options, &mut ports);
        }
        let quads = b.gated.stride / 4 * outputs;
        let grid = [u64::from(quads.div_ceil(WORKGROUP)), 1, 1];
        step(&model.gpu, "gated", &options, &ports, &quads, grid)
    }

    /// Scores the experts, and picks each token's.
    fn route(
        &self,
        model: &GpuModel<'_, '_>,
        router: &Router,
        experts: &ExpertBuffers,
        n: u32,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let gpu = &model.gpu;
        let count = router.matrix.rows();
        steps.extend(self.buffers.normed.rotate(gpu, [&router.matrix], n)?);
        let out = Output::to(&experts.scores, count);
        steps.extend(match n {
            1 => router.matrix.gemv(gpu, &self.buffers.normed, out)?,
            _ => router.matrix.gemm(gpu, &self.buffers.normed, n, out)?,
        });
        let mut options = Options::default().with("WG", HEAD_WORKGROUP).with("EXPERTS", count);
        if router.normalize {
            options = options.flag("NORMALIZE");
        }
        let ports = [
            (read(0), Span::from(&experts.scores)),
            (write(1), Span::from(&experts.chosen)),
            (write(2), Span::from(&experts.weights)),
        ];
        let params = RouteParams { stride: count, active: router.active, scale: router.scale };
        steps.push(step(gpu, "route", &options, &ports, &params, [u64::from(n), 1, 1])?);
        Ok(())
    }
}

/// The flag of the activation (`activation.wgsl`).
fn activation(model: &GpuModel<'_, '_>) -> Option<&'static str> {
    match model.model.config.activation {
        Activation::Silu => Some("SILU"),
        Activation::GeluTanh => Some("GELU_TANH"),
        Activation::Gelu => None,
    }
}
