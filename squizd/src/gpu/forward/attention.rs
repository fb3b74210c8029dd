//! The attention block as dispatches.

use super::super::matrix::Fetch;
use super::super::model::{GpuLayer, GpuModel};
use super::super::pipeline::{Span, read, write};
use super::super::record::Step;
use super::buffers::{narrow, part};
use super::heads::Shape;
use super::product::{Regions, together};
use super::{Forward, HEAD_WORKGROUP, WORKGROUP, emit_to, step};
use crate::{Error, Result};
use squizd_shaders::Options;
use zerocopy::{Immutable, IntoBytes};

#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct RopeParams {
    heads: u32,
    kv_heads: u32,
    dim: u32,
    pairs: u32,
    q_stride: u32,
    kv_stride: u32,
    k_first: u32,
    v_first: u32,
    capacity: u32,
    eps: f32,
}

#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
struct AttentionParams {
    share: u32,
    dim: u32,
    capacity: u32,
    stride: u32,
    window: u32,
    scale: f32,
    cap: f32,
    /// The rest is read of a position's own (`OWN`).
    k_first: u32,
    v_first: u32,
    angles: u32,
    pairs: u32,
    eps: f32,
}

/// What a layer's attention is computed of.
#[derive(Clone, Copy)]
struct Heads<'a> {
    layer: &'a GpuLayer,
    cache: &'a [wgpu::Buffer; 2],
    /// Tokens, and shares of the positions before a single one.
    n: u32,
    shares: u32,
    /// Where queries, keys and values begin.
    firsts: [u32; 3],
    /// Whether the coded form is wanted, too.
    emit: bool,
}

impl Forward {
    pub(super) fn attention_block(
        &self,
        model: &GpuModel<'_, '_>,
        layer: &GpuLayer,
        index: usize,
        [n, shares]: [u32; 2],
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let (gpu, b) = (&model.gpu, &self.buffers);
        let linears = [&layer.q, &layer.k, &layer.v];
        let matrices = linears.map(|l| &l.matrix);
        let emit = n == 1 && model.blocks;
        let staged = self.staged_norm(model, &layer.attn_norm, &matrices, n);
        if staged.is_none() {
            steps.extend(self.norm_for(model, &layer.attn_norm, &b.normed, &matrices, [0, n])?);
        }
        let from = staged.as_ref().map_or(Fetch::Ready(&b.normed), Fetch::Staged);
        let kv_stride = narrow(model.model.key_width())?;
        let q_stride = b.attended.stride;
        let k_first = n * part(q_stride);
        let firsts = [0, k_first, k_first + n * part(kv_stride)];
        let to = Regions { y: &b.qkv, firsts, strides: [q_stride, kv_stride, kv_stride] };
        steps.extend(together(gpu, linears, from, n, to)?);
        let cache = b.cache.get(index).ok_or_else(|| Error::invalid("a layer without cache"))?;
        self.attend(model, Heads { layer, cache, n, shares, firsts, emit }, steps)?;
        steps.extend(b.attended.ready(gpu, [&layer.attn_output.matrix], n)?);
        let from = Fetch::Ready(&b.attended);
        self.residual(model, &layer.attn_output, from, layer.attn_post_norm.as_ref(), n, steps)
    }

    /// Rotates queries and keys of `n` tokens, and keeps keys and values.
    fn rope(&self, model: &GpuModel<'_, '_>, of: Heads<'_>) -> Result<Step> {
        let (gpu, b, heads) = (&model.gpu, &self.buffers, &model.model.heads);
        let (dim, queries, keys) = (narrow(heads.dim)?, narrow(heads.queries)?, narrow(heads.keys)?);
        let Heads { layer, cache, n, firsts, .. } = of;
        let mut options = Options::default().with("WG", workgroup(dim)).with("DIM", dim.next_multiple_of(4));
        let mut ports = vec![
            (write(0), Span::from(&b.qkv)),
            (read(3), b.state()),
            (write(4), Span::from(&cache[0])),
            (write(5), Span::from(&cache[1])),
        ];
        let mut pairs = 0;
        if let Some(rope) = layer.rope {
            pairs = model.pairs(rope);
            options = options.flag("ROPE");
            ports.push((read(6), Span { offset: b.angles(rope, n as usize), ..Span::from(&b.told) }));
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
            kv_stride: narrow(model.model.key_width())?,
            k_first: firsts[1],
            v_first: firsts[2],
            capacity: b.capacity,
            eps: model.model.norm_eps,
        };
        let grid = [u64::from(queries + 2 * keys), u64::from(n), 1];
        step(gpu, "rope", &options, &ports, &params, grid)
    }

    /// Attention of tokens over what the cache holds then, and over their own keys and
    /// values, which go there.
    fn attend(&self, model: &GpuModel<'_, '_>, of: Heads<'_>, steps: &mut Vec<Step>) -> Result<()> {
        let (gpu, b, heads) = (&model.gpu, &self.buffers, &model.model.heads);
        let Heads { layer, cache, n, shares, firsts, emit } = of;
        let shape = Shape::of(model, n, shares)?;
        let dim = narrow(heads.dim)?;
        let mut options = shape.options(gpu.abilities());
        let own = n == 1 && shape.holds_own();
        let [keys, values] = cache.each_ref().map(Span::from);
        let mut ports = vec![(read(0), Span::from(&b.qkv)), (read(3), Span::from(&b.told))];
        if own {
            ports.extend([(write(1), keys), (write(2), values)]);
            options = options.flag("OWN");
            if layer.rope.is_some() {
                options = options.flag("ROPE");
            }
            if let Some(gains) = &layer.qk_norm {
                options = options.flag("QK_NORM");
                ports.push((read(7), Span::from(gains)));
            }
        } else {
            steps.push(self.rope(model, of)?);
            ports.extend([(read(1), keys), (read(2), values)]);
        }
        for (flag, set) in [
            ("KV_HALVES", b.halves),
            ("CAP", heads.softcap.is_some()),
            ("WHOLE", heads.dim.is_multiple_of(4)),
        ] {
            if set {
                options = options.flag(flag);
            }
        }
        // Blocks of 32 that reach across heads take a dispatch of their own.
        let coded = emit && heads.dim.is_multiple_of(32);
        let parts = b.shares.as_ref().filter(|_| shares > 1);
        match parts {
            Some(parts) => {
                options = options.flag("SPLIT");
                ports.push((write(6), Span::from(parts)));
            }
            None => ports.push((write(6), Span::from(&b.attended.values))),
        }
        if coded && parts.is_none() {
            options = emit_to(&b.attended, options, &mut ports);
        }
        let rope = layer.rope.unwrap_or(0);
        let params = AttentionParams {
            share: narrow(heads.queries / heads.keys)?,
            dim,
            capacity: b.capacity,
            stride: b.attended.stride,
            window: layer.window.unwrap_or(0),
            scale: heads.scale,
            cap: heads.softcap.unwrap_or(1.0),
            k_first: firsts[1],
            v_first: firsts[2],
            angles: (b.angles(rope, n as usize) / 4) as u32,
            pairs: narrow(model.pairs(rope))?,
            eps: model.model.norm_eps,
        };
        let groups = heads.queries as u64 / u64::from(shape.heads);
        let layers = if parts.is_some() { u64::from(shares) } else { 1 };
        steps.push(step(gpu, "attention", &options, &ports, &params, [groups, u64::from(n), layers])?);
        if let Some(parts) = parts {
            let mut options = Options::default().with("WG", WORKGROUP).with("QUADS", shape.quads);
            let mut ports = vec![(read(0), Span::from(parts)), (write(6), Span::from(&b.attended.values))];
            if coded {
                options = emit_to(&b.attended, options, &mut ports);
            }
            let grid = [heads.queries as u64, 1, 1];
            steps.push(step(gpu, "attention_join", &options, &ports, &[shares, dim], grid)?);
        }
        if emit && !coded {
            steps.push(b.attended.prepare(gpu)?);
        }
        Ok(())
    }
}

/// Invocations for heads of `dim` numbers.
fn workgroup(dim: u32) -> u32 {
    if dim <= 4 * HEAD_WORKGROUP { HEAD_WORKGROUP } else { WORKGROUP }
}
