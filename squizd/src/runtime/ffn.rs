//! Feed-forward blocks: `down(activation(gate(x)) * up(x))`, dense or routed
//! to the best few of many experts.

use super::linear::{Linear, Product, Space, batches, multiply};
use super::math::{add_scaled, gated, softmax};
use super::model::{Experts, Ffn};
use super::observe::Observer;
use crate::Result;
use crate::codec::Precision;
use crate::model::Activation as Gate;
use rayon::prelude::*;
use squizd_spec::Role;
use std::ops::Range;

/// Values of one gating task.
const GATE_TASK: usize = 1 << 14;

/// Buffers of the feed-forward blocks; they only grow.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    gate: Vec<f32>,
    up: Vec<f32>,
    /// Memory of products.
    pub(super) space: Space,
    scores: Vec<f32>,
    /// `(expert, token, weight)`, by expert.
    routes: Vec<(usize, usize, f32)>,
    inputs: Vec<f32>,
    outputs: Vec<f32>,
}

/// How products are computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    pub(super) gate: Gate,
    pub(super) precision: Precision,
}

impl Ffn<'_> {
    /// `out[i] = ffn(x[i])` for the rows of `x`.
    pub(super) fn forward(
        &self,
        mode: Mode,
        x: &[f32],
        scratch: &mut Scratch,
        out: &mut [f32],
        observer: &mut dyn Observer,
    ) -> Result<()> {
        match self {
            Ffn::Dense { gate, up, down } => {
                let block = Block {
                    gate: (gate, 0..gate.rows()),
                    up: (up, 0..up.rows()),
                    down: (down, 0..down.rows()),
                    expert: None,
                };
                block.forward(mode, x, scratch, out, observer)
            }
            Ffn::Experts(experts) => experts.forward(mode, x, scratch, out, observer),
        }
    }
}

/// One gated block: rows of three matrices.
struct Block<'a, 'w> {
    gate: (&'a Linear<'w>, Range<usize>),
    up: (&'a Linear<'w>, Range<usize>),
    down: (&'a Linear<'w>, Range<usize>),
    /// Which expert it is.
    expert: Option<u16>,
}

impl Block<'_, '_> {
    fn forward(
        &self,
        mode: Mode,
        x: &[f32],
        scratch: &mut Scratch,
        out: &mut [f32],
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let (wide, narrow) = (self.gate.0.cols(), self.down.0.cols());
        let n = x.len() / wide;
        let roles = match self.expert {
            None => (Role::FFN_GATE, Role::FFN_DOWN),
            Some(_) => (Role::MOE_GATE, Role::MOE_DOWN),
        };
        let expert = self.expert.unwrap_or(0);
        observer.input(roles.0, expert, x, wide);
        let values = self.gate.1.len() * n;
        let Scratch { gate, up, space, .. } = scratch;
        resize(gate, values);
        resize(up, values);
        if n == 1 {
            let products = [(&self.gate, &mut *gate), (&self.up, &mut *up)];
            let mut products =
                products.map(|((linear, rows), y)| Product { linear, first_row: rows.start, y: &mut y[..] });
            space.prepared(x, mode.precision, |x| multiply(&mut products, x));
        } else {
            let products = [(&self.gate, &mut *gate), (&self.up, &mut *up)];
            let products = products.map(|((linear, rows), y)| (*linear, rows.clone(), &mut y[..]));
            batches(products, x, n, mode.precision, space)?;
        }
        if values <= GATE_TASK {
            gated(mode.gate, gate, up);
        } else {
            let tasks = gate.par_chunks_mut(GATE_TASK).zip(up.par_chunks(GATE_TASK));
            tasks.for_each(|(gate, up)| gated(mode.gate, gate, up));
        }
        observer.input(roles.1, expert, gate, narrow);
        self.down.0.batch(self.down.1.clone(), gate, n, mode.precision, space, out)
    }
}

impl Experts<'_> {
    fn forward(
        &self,
        mode: Mode,
        x: &[f32],
        scratch: &mut Scratch,
        out: &mut [f32],
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let hidden = self.router.cols();
        self.route(x, x.len() / hidden, scratch)?;
        out.fill(0.0);
        let routes = std::mem::take(&mut scratch.routes);
        let mut inputs = std::mem::take(&mut scratch.inputs);
        let mut outputs = std::mem::take(&mut scratch.outputs);
        for group in routes.chunk_by(|a, b| a.0 == b.0) {
            let Some(&(expert, ..)) = group.first() else { continue };
            inputs.clear();
            for &(_, token, _) in group {
                inputs.extend_from_slice(&x[token * hidden..][..hidden]);
            }
            resize(&mut outputs, group.len() * hidden);
            let wide = expert * self.width..(expert + 1) * self.width;
            let block = Block {
                gate: (&self.gate, wide.clone()),
                up: (&self.up, wide),
                down: (&self.down, expert * hidden..(expert + 1) * hidden),
                expert: Some(expert as u16),
            };
            block.forward(mode, &inputs, scratch, &mut outputs, observer)?;
            for (&(_, token, weight), y) in group.iter().zip(outputs.chunks_exact(hidden)) {
                add_scaled(&mut out[token * hidden..][..hidden], weight, y);
            }
        }
        (scratch.routes, scratch.inputs, scratch.outputs) = (routes, inputs, outputs);
        Ok(())
    }

    /// Softmax over the router's scores, then the best `active` experts of
    /// each token with their probabilities (divided by their sum if
    /// `normalize`). Scores stay in `f32`: a near tie decides which expert runs.
    fn route(&self, x: &[f32], n: usize, scratch: &mut Scratch) -> Result<()> {
        let experts = self.router.rows();
        let Scratch { scores, routes, space, .. } = scratch;
        resize(scores, n * experts);
        self.router.batch(0..experts, x, n, Precision::F32, space, scores)?;
        routes.clear();
        for (token, scores) in scores.chunks_exact_mut(experts).enumerate() {
            softmax(scores);
            let start = routes.len();
            for _ in 0..self.active {
                let best = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
                let Some((expert, &weight)) = best else { break };
                routes.push((expert, token, weight));
                scores[expert] = f32::NEG_INFINITY;
            }
            let chosen = &mut routes[start..];
            let sum: f32 = chosen.iter().map(|r| r.2).sum();
            let factor = if self.normalize { self.scale / sum } else { self.scale };
            for route in chosen {
                route.2 *= factor;
            }
        }
        routes.sort_unstable_by_key(|r| (r.0, r.1));
        Ok(())
    }
}

/// Sets the length of a scratch buffer without shrinking its memory.
pub(super) fn resize(buffer: &mut Vec<f32>, length: usize) {
    buffer.resize(length, 0.0);
}
