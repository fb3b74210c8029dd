//! The forward pass as dispatches.

use super::device::Gpu;
use super::input::Input;
use super::matrix::{Output, Stack};
use super::model::{GpuLayer, GpuLinear, GpuModel, Router};
use super::pipeline::{Port, Span, read, write};
use super::record::Step;
use crate::model::Activation;
use crate::runtime::Frequencies;
use crate::{Error, Result};
use squizd_shaders::Options;
use zerocopy::{Immutable, IntoBytes};

/// Invocations of element-wise and per-row kernels.
const WORKGROUP: u32 = 256;
/// Invocations of attention and rotation, for heads up to four times as wide.
const HEAD_WORKGROUP: u32 = 64;
/// Positions whose logits are computed together, at most.
const LOGIT_ROWS: usize = 16;

/// What a mixture of experts needs besides.
#[derive(Debug)]
struct ExpertBuffers {
    /// The router's, of each token.
    scores: wgpu::Buffer,
    /// Experts of each token, and their weights.
    chosen: wgpu::Buffer,
    weights: wgpu::Buffer,
    /// What each of them comes to, `[tokens, active, hidden]`.
    results: wgpu::Buffer,
}

/// The buffers of a session.
#[derive(Debug)]
pub(super) struct Buffers {
    /// Ids of the tokens under way.
    ids: wgpu::Buffer,
    /// Positions before them, and where the next id goes in `list`.
    state: wgpu::Buffer,
    /// Ids picked on the device.
    list: wgpu::Buffer,
    pub(super) list_length: usize,
    /// Cosines and sines of global and local layers.
    angles: [wgpu::Buffer; 2],
    /// Residual stream.
    x: wgpu::Buffer,
    /// A block's result, before its norm.
    block: wgpu::Buffer,
    normed: Input,
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    attended: Input,
    gate: wgpu::Buffer,
    up: wgpu::Buffer,
    gated: Input,
    experts: Option<ExpertBuffers>,
    last: Input,
    logits: wgpu::Buffer,
    pub(super) logit_rows: usize,
    /// Keys and values of each layer, `[kv_heads, context, dim]`.
    cache: Vec<[wgpu::Buffer; 2]>,
    halves: bool,
    capacity: u32,
}

/// A number that kernels count in `u32`.
fn narrow(n: usize) -> Result<u32> {
    u32::try_from(n)
        .ok()
        .filter(|n| *n < 1 << 30)
        .ok_or_else(|| Error::unsupported(format!("a width or length of {n} is too large for GPU kernels")))
}

impl Buffers {
    /// Room for `context` positions, `batch` of them at a time.
    pub(super) fn new(model: &GpuModel<'_, '_>, context: usize, batch: usize, halves: bool) -> Result<Self> {
        let gpu = &model.gpu;
        let count = narrow(batch)?;
        let input = |width: usize, count: u32| Input::new(gpu, model.math, narrow(width)?, count);
        let floats = |stride: u32| gpu.storage(4 * u64::from(stride) * u64::from(count));
        let (hidden, vocab) = (model.model.hidden(), model.model.vocab_size());
        let normed = input(hidden, count)?;
        let attended = input(model.model.query_width(), count)?;
        // Experts have outputs of their own: as many as a token goes to.
        let config = &model.model.config;
        let (mut widest, mut routes) = (0, 1);
        for layer in &model.layers {
            match (&layer.router, &config.moe) {
                (Some(router), Some(moe)) => {
                    widest = widest.max(moe.expert_ffn_size);
                    routes = routes.max(router.active);
                }
                _ => widest = widest.max(layer.gate.matrix.rows()),
            }
        }
        let all = narrow(batch * routes as usize)?;
        let gated = input(widest as usize, all)?;
        let experts = config.moe.as_ref().map(|moe| {
            let words = |n: u32| gpu.storage(4 * u64::from(n) * u64::from(count));
            Ok::<_, Error>(ExpertBuffers {
                scores: words(moe.num_experts.into())?,
                chosen: words(routes)?,
                weights: words(routes)?,
                results: words(routes * normed.stride)?,
            })
        });
        let kv_width = narrow(model.model.key_width())?;
        let capacity = narrow(context)?;
        let heads = &model.model.heads;
        let values = heads.keys as u64 * heads.dim.next_multiple_of(4) as u64 * u64::from(capacity);
        let bytes = values * if halves { 2 } else { 4 };
        if bytes > gpu.abilities().max_binding || values > u64::from(u32::MAX) {
            return Err(Error::unsupported(format!(
                "a cache of {context} positions is {bytes} bytes a layer, beyond the adapter's bindings of {}; use a smaller --ctx-size",
                gpu.abilities().max_binding
            )));
        }
        let cache = model
            .layers
            .iter()
            .map(|_| Ok([gpu.storage(bytes)?, gpu.storage(bytes)?]))
            .collect::<Result<Vec<_>>>()?;
        let angles = |i: usize| {
            let pairs = model.model.ropes[i].frequencies(1).inverse.len();
            gpu.storage(8 * pairs as u64 * batch as u64)
        };
        let logit_rows = batch.min(LOGIT_ROWS);
        Ok(Self {
            ids: gpu.storage(4 * u64::from(count))?,
            state: gpu.storage(8)?,
            list: gpu.storage(4 * u64::from(capacity))?,
            list_length: context,
            angles: [angles(0)?, angles(1)?],
            x: floats(normed.stride)?,
            block: floats(normed.stride)?,
            q: floats(attended.stride)?,
            k: floats(kv_width)?,
            v: floats(kv_width)?,
            gate: floats(gated.stride * routes)?,
            up: floats(gated.stride * routes)?,
            experts: experts.transpose()?,
            last: input(hidden, narrow(logit_rows)?)?,
            logits: gpu.storage(4 * vocab as u64 * logit_rows as u64)?,
            logit_rows,
            normed,
            attended,
            gated,
            cache,
            halves,
            capacity,
        })
    }
}

/// Builds dispatches over a session's buffers.
#[derive(Debug)]
pub(super) struct Forward {
    pub(super) buffers: Buffers,
}

#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct NormParams {
    width: u32,
    quads: u32,
    first: u32,
    eps: f32,
}

#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct RopeParams {
    heads: u32,
    kv_heads: u32,
    dim: u32,
    pairs: u32,
    q_stride: u32,
    kv_stride: u32,
    capacity: u32,
    eps: f32,
}

#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct AttentionParams {
    share: u32,
    dim: u32,
    quads: u32,
    capacity: u32,
    stride: u32,
    window: u32,
    scale: f32,
    cap: f32,
}

#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct RouteParams {
    stride: u32,
    active: u32,
    scale: f32,
}

#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct SoftcapParams {
    count: u32,
    cap: f32,
}

impl Forward {
    pub(super) fn new(buffers: Buffers) -> Self {
        Self { buffers }
    }

    /// Tells the kernels of `n` tokens at `past`: their ids (unless the device
    /// has picked them), rotations, and where a picked id goes in the list.
    pub(super) fn tell(
        &self,
        model: &GpuModel<'_, '_>,
        frequencies: &[Frequencies; 2],
        ids: Option<&[u32]>,
        past: usize,
        slot: usize,
        n: usize,
    ) -> Result<()> {
        let gpu = &model.gpu;
        if let Some(ids) = ids {
            gpu.write(&self.buffers.ids, ids.as_bytes());
        }
        gpu.write(&self.buffers.state, [narrow(past)?, narrow(slot)?].as_bytes());
        for (angles, frequencies) in self.buffers.angles.iter().zip(frequencies) {
            let factor = frequencies.attention_factor;
            let mut table = Vec::with_capacity(2 * n * frequencies.inverse.len());
            for position in past..past + n {
                for frequency in &frequencies.inverse {
                    let (sine, cosine) = libm::sincosf(position as f32 * frequency);
                    table.extend([cosine * factor, sine * factor]);
                }
            }
            gpu.write(angles, table.as_bytes());
        }
        Ok(())
    }

    /// Every layer over `n` tokens.
    pub(super) fn layers(&self, model: &GpuModel<'_, '_>, n: usize) -> Result<Vec<Step>> {
        let (gpu, b) = (&model.gpu, &self.buffers);
        let factor = model.model.config.embedding_scale.map_or(1.0, |f| f as f32);
        let count = narrow(n)?;
        let mut steps = model.embedding.lookup(gpu, &b.ids, count, factor, &b.x, b.normed.stride)?;
        for (i, layer) in model.layers.iter().enumerate() {
            self.attention_block(model, layer, i, count, &mut steps)?;
            self.ffn_block(model, layer, count, &mut steps)?;
        }
        Ok(steps)
    }

    fn attention_block(
        &self,
        model: &GpuModel<'_, '_>,
        layer: &GpuLayer,
        index: usize,
        n: u32,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let (gpu, b, heads) = (&model.gpu, &self.buffers, &model.model.heads);
        let emit = n == 1 && model.blocks;
        steps.push(self.norm(model, &b.x, &layer.attn_norm, NormTo::Input(&b.normed, emit), 0, n)?);
        let kv_stride = narrow(model.model.key_width())?;
        steps.extend(b.normed.rotate(gpu, [&layer.q, &layer.k, &layer.v].map(|l| &l.matrix), n)?);
        for (linear, y, stride) in
            [(&layer.q, &b.q, b.attended.stride), (&layer.k, &b.k, kv_stride), (&layer.v, &b.v, kv_stride)]
        {
            steps.extend(product(gpu, linear, &b.normed, n, y, stride, false)?);
        }

        let (dim, queries, keys) = (narrow(heads.dim)?, narrow(heads.queries)?, narrow(heads.keys)?);
        let quads = dim.div_ceil(4);
        let workgroup = if dim <= 4 * HEAD_WORKGROUP { HEAD_WORKGROUP } else { WORKGROUP };
        let cache = b.cache.get(index).ok_or_else(|| Error::invalid("a layer without cache"))?;
        let mut options = Options::default().with("WG", workgroup).with("DIM", 4 * quads);
        let mut ports = vec![
            (write(0), Span::from(&b.q)),
            (read(1), Span::from(&b.k)),
            (read(2), Span::from(&b.v)),
            (read(3), Span::from(&b.state)),
            (write(4), Span::from(&cache[0])),
            (write(5), Span::from(&cache[1])),
        ];
        let mut pairs = 0;
        if let Some(angles) = layer.rope.and_then(|r| b.angles.get(r)) {
            pairs = model.model.ropes[layer.rope.unwrap_or(0)].frequencies(1).inverse.len();
            options = options.flag("ROPE");
            ports.push((read(6), Span::from(angles)));
        }
        if let Some(gains) = &layer.qk_norm {
            options = options.flag("QK_NORM");
            ports.push((read(7), Span::from(gains)));
        }
        if b.halves {
            options = options.flag("KV_HALVES");
        }
        let params = RopeParams {
            heads: queries,
            kv_heads: keys,
            dim,
            pairs: narrow(pairs)?,
            q_stride: b.attended.stride,
            kv_stride,
            capacity: b.capacity,
            eps: model.model.norm_eps,
        };
        let grid = [u64::from(queries + 2 * keys), u64::from(n), 1];
        steps.push(step(gpu, "rope", &options, &ports, &params, grid)?);

        let mut options = Options::default().with("WG", workgroup).with("QUADS", quads);
        if b.halves {
            options = options.flag("KV_HALVES");
        }
        if heads.softcap.is_some() {
            options = options.flag("CAP");
        }
        let params = AttentionParams {
            share: queries / keys,
            dim,
            quads,
            capacity: b.capacity,
            stride: b.attended.stride,
            window: layer.window.unwrap_or(0),
            scale: heads.scale,
            cap: heads.softcap.unwrap_or(1.0),
        };
        let mut ports = vec![
            (read(0), Span::from(&b.q)),
            (read(1), Span::from(&cache[0])),
            (read(2), Span::from(&cache[1])),
            (read(3), Span::from(&b.state)),
            (write(6), Span::from(&b.attended.values)),
        ];
        // Blocks of 32 that reach across heads take a dispatch of their own.
        let whole = heads.dim.is_multiple_of(32);
        if emit && whole {
            options = emit_to(&b.attended, options, &mut ports);
        }
        steps.push(step(gpu, "attention", &options, &ports, &params, [u64::from(queries), u64::from(n), 1])?);
        if emit && !whole {
            steps.push(b.attended.prepare(gpu)?);
        }
        self.residual(model, &layer.attn_output, &b.attended, layer.attn_post_norm.as_ref(), n, steps)
    }

    fn ffn_block(
        &self,
        model: &GpuModel<'_, '_>,
        layer: &GpuLayer,
        n: u32,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let (gpu, b) = (&model.gpu, &self.buffers);
        let emit = (n == 1 || layer.router.is_some()) && model.blocks;
        steps.push(self.norm(model, &b.x, &layer.ffn_norm, NormTo::Input(&b.normed, emit), 0, n)?);
        let routed = match (&layer.router, &b.experts) {
            (Some(router), Some(experts)) => Some((router, experts)),
            _ => None,
        };
        let mut outputs = n;
        if let Some((router, experts)) = routed {
            outputs = n * router.active;
            self.route(model, router, experts, n, steps)?;
        }
        steps.extend(b.normed.rotate(gpu, [&layer.gate.matrix, &layer.up.matrix], n)?);
        for (linear, y) in [(&layer.gate, &b.gate), (&layer.up, &b.up)] {
            let Some((router, experts)) = routed else {
                steps.extend(product(gpu, linear, &b.normed, n, y, b.gated.stride, false)?);
                continue;
            };
            let stack = Stack {
                expert_rows: linear.matrix.rows() / router.matrix.rows(),
                experts: &experts.chosen,
                count: outputs,
                share: router.active,
            };
            let out = Output::to(y, b.gated.stride);
            steps.extend(linear.matrix.expert_gemv(gpu, &b.normed, out, stack)?);
        }
        let mut options = Options::default().with("WG", WORKGROUP);
        match model.model.config.activation {
            Activation::Silu => options = options.flag("SILU"),
            Activation::GeluTanh => options = options.flag("GELU_TANH"),
            Activation::Gelu => {}
        }
        let mut ports = vec![
            (read(0), Span::from(&b.gate)),
            (read(1), Span::from(&b.up)),
            (write(2), Span::from(&b.gated.values)),
        ];
        if emit {
            options = emit_to(&b.gated, options, &mut ports);
        }
        let quads = b.gated.stride / 4 * outputs;
        let grid = [u64::from(quads.div_ceil(WORKGROUP)), 1, 1];
        steps.push(step(gpu, "gated", &options, &ports, &quads, grid)?);
        let Some((router, experts)) = routed else {
            return self.residual(model, &layer.down, &b.gated, layer.ffn_post_norm.as_ref(), n, steps);
        };
        let stack = Stack {
            expert_rows: layer.down.matrix.rows() / router.matrix.rows(),
            experts: &experts.chosen,
            count: outputs,
            share: 1,
        };
        let out = Output::to(&experts.results, b.normed.stride);
        steps.extend(b.gated.rotate(gpu, [&layer.down.matrix], outputs)?);
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

    /// Adds the product to the residual stream, normalised first where there is
    /// a gain.
    fn residual(
        &self,
        model: &GpuModel<'_, '_>,
        linear: &GpuLinear,
        x: &Input,
        gain: Option<&wgpu::Buffer>,
        n: u32,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let b = &self.buffers;
        steps.extend(x.rotate(&model.gpu, [&linear.matrix], n)?);
        let Some(gain) = gain else {
            steps.extend(product(&model.gpu, linear, x, n, &b.x, b.normed.stride, true)?);
            return Ok(());
        };
        steps.extend(product(&model.gpu, linear, x, n, &b.block, b.normed.stride, false)?);
        steps.push(self.norm(model, &b.block, gain, NormTo::Onto(&b.x), 0, n)?);
        Ok(())
    }

    /// Logits of `count` of the tokens just processed, from the one numbered
    /// `first` on.
    pub(super) fn logits(&self, model: &GpuModel<'_, '_>, first: usize, count: usize) -> Result<Vec<Step>> {
        let (gpu, b) = (&model.gpu, &self.buffers);
        let (first, count) = (narrow(first)?, narrow(count)?);
        let emit = count == 1 && model.blocks;
        let to = NormTo::Input(&b.last, emit);
        let mut steps = vec![self.norm(model, &b.x, &model.output_norm, to, first, count)?];
        let vocab = narrow(model.model.vocab_size())?;
        let bias = model.output.as_ref().and_then(|o| o.bias.as_ref());
        let out = Output { bias, ..Output::to(&b.logits, vocab) };
        steps.extend(b.last.rotate(gpu, [model.head()], count)?);
        steps.extend(match count {
            1 => model.head().gemv(gpu, &b.last, out)?,
            _ => model.head().gemm(gpu, &b.last, count, out)?,
        });
        if let Some(cap) = model.model.config.logit_softcap {
            let options = Options::default().with("WG", WORKGROUP);
            let params = SoftcapParams { count: vocab * count, cap: cap as f32 };
            let pipeline = gpu.pipeline("softcap", &options, &[write(0)])?;
            let workgroups = u64::from(params.count.div_ceil(WORKGROUP));
            steps.push(Step::new(gpu, &pipeline, &[Span::from(&b.logits)], &params, workgroups)?);
        }
        Ok(steps)
    }

    /// Picks the likeliest token: the next one's id, and appended to the list.
    pub(super) fn argmax(&self, model: &GpuModel<'_, '_>) -> Result<Vec<Step>> {
        let b = &self.buffers;
        let options = Options::default().with("WG", WORKGROUP);
        let ports = [
            (read(0), Span::from(&b.logits)),
            (write(1), Span::from(&b.ids)),
            (read(2), Span::from(&b.state)),
            (write(3), Span::from(&b.list)),
        ];
        let vocab = narrow(model.model.vocab_size())?;
        Ok(vec![step(&model.gpu, "argmax", &options, &ports, &vocab, [1, 1, 1])?])
    }

    /// Logits of `rows` positions.
    pub(super) fn read_logits(&self, model: &GpuModel<'_, '_>, rows: usize) -> Result<Vec<f32>> {
        model.gpu.read_f32(&self.buffers.logits, rows * model.model.vocab_size())
    }

    /// The first `count` ids picked on the device.
    pub(super) fn read_list(&self, model: &GpuModel<'_, '_>, count: usize) -> Result<Vec<u32>> {
        let bytes = model.gpu.read(&self.buffers.list, 0..4 * count as u64)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
    }

    fn norm(
        &self,
        model: &GpuModel<'_, '_>,
        x: &wgpu::Buffer,
        gain: &wgpu::Buffer,
        to: NormTo<'_>,
        first: u32,
        n: u32,
    ) -> Result<Step> {
        let mut options = Options::default().with("WG", WORKGROUP);
        let mut ports = vec![(read(0), Span::from(x)), (read(1), Span::from(gain))];
        match to {
            NormTo::Onto(out) => {
                options = options.flag("ONTO");
                ports.push((write(2), Span::from(out)));
            }
            NormTo::Input(input, emit) => {
                ports.push((write(2), Span::from(&input.values)));
                if emit {
                    options = emit_to(input, options, &mut ports);
                }
            }
        }
        let width = narrow(model.model.hidden())?;
        let params =
            NormParams { width, quads: self.buffers.normed.stride / 4, first, eps: model.model.norm_eps };
        step(&model.gpu, "norm", &options, &ports, &params, [u64::from(n), 1, 1])
    }
}

/// Where a norm's result goes.
#[derive(Clone, Copy)]
enum NormTo<'a> {
    /// Into an input, with its coded form if the flag is set.
    Input(&'a Input, bool),
    /// Onto a buffer.
    Onto(&'a wgpu::Buffer),
}

/// The options and ports with which a kernel writes an input's coded form.
fn emit_to(input: &Input, options: Options, ports: &mut Vec<(Port, Span)>) -> Options {
    ports.extend([(write(4), Span::from(&input.coded)), (write(5), Span::from(&input.sums))]);
    let options = options.flag("EMIT");
    match input.math.emitted() {
        Some(flag) => options.flag(flag),
        None => options,
    }
}

/// A product with `n` vectors.
fn product(
    gpu: &Gpu,
    linear: &GpuLinear,
    x: &Input,
    n: u32,
    y: &wgpu::Buffer,
    stride: u32,
    accumulate: bool,
) -> Result<Vec<Step>> {
    let out = Output { y, stride, bias: linear.bias.as_ref(), accumulate };
    match n {
        1 => linear.matrix.gemv(gpu, x, out),
        _ => linear.matrix.gemm(gpu, x, n, out),
    }
}

fn step(
    gpu: &Gpu,
    name: &'static str,
    options: &Options,
    bound: &[(Port, Span)],
    params: &(impl IntoBytes + Immutable),
    grid: [u64; 3],
) -> Result<Step> {
    let (ports, spans): (Vec<_>, Vec<_>) = bound.iter().cloned().unzip();
    let pipeline = gpu.pipeline(name, options, &ports)?;
    Step::in_grid(gpu, &pipeline, &spans, params, grid)
}
