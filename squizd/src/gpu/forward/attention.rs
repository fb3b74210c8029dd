//! The attention block as dispatches.

use super::super::model::{GpuLayer, GpuModel};
use super::super::pipeline::{Span, read, write};
use super::super::record::Step;
use super::buffers::{narrow, part};
use super::product::{Regions, together};
use super::{Forward, HEAD_WORKGROUP, NormTo, WORKGROUP, emit_to, step};
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
    quads: u32,
    capacity: u32,
    stride: u32,
    window: u32,
    scale: f32,
    cap: f32,
}

impl Forward {
    pub(super) fn attention_block(
        &self,
        model: &GpuModel<'_, '_>,
        layer: &GpuLayer,
        index: usize,
        n: u32,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let (gpu, b) = (&model.gpu, &self.buffers);
        let emit = n == 1 && model.blocks;
        steps.push(self.norm(model, &b.x, &layer.attn_norm, NormTo::Input(&b.normed, emit), 0, n)?);
        let kv_stride = narrow(model.model.key_width())?;
        let q_stride = b.attended.stride;
        let k_first = n * part(q_stride);
        let firsts = [0, k_first, k_first + n * part(kv_stride)];
        let to = Regions { y: &b.qkv, firsts, strides: [q_stride, kv_stride, kv_stride] };
        steps.extend(b.normed.ready(gpu, [&layer.q, &layer.k, &layer.v].map(|l| &l.matrix), n)?);
        steps.extend(together(gpu, [&layer.q, &layer.k, &layer.v], &b.normed, n, to)?);
        steps.push(self.rope(model, layer, index, n, firsts)?);
        self.attend(model, layer, index, n, emit, steps)?;
        self.residual(model, &layer.attn_output, &b.attended, layer.attn_post_norm.as_ref(), n, steps)
    }

    /// Rotates queries and keys of `n` tokens, and keeps keys and values.
    fn rope(
        &self,
        model: &GpuModel<'_, '_>,
        layer: &GpuLayer,
        index: usize,
        n: u32,
        firsts: [u32; 3],
    ) -> Result<Step> {
        let (gpu, b, heads) = (&model.gpu, &self.buffers, &model.model.heads);
        let (dim, queries, keys) = (narrow(heads.dim)?, narrow(heads.queries)?, narrow(heads.keys)?);
        let cache = b.cache.get(index).ok_or_else(|| Error::invalid("a layer without cache"))?;
        let mut options = Options::default().with("WG", workgroup(dim)).with("DIM", dim.next_multiple_of(4));
        let mut ports = vec![
            (write(0), Span::from(&b.qkv)),
            (read(3), b.state()),
            (write(4), Span::from(&cache[0])),
            (write(5), Span::from(&cache[1])),
        ];
        let mut pairs = 0;
        if let Some(angles) = layer.rope.and_then(|r| b.angles(r)) {
            pairs = model.model.ropes[layer.rope.unwrap_or(0)].frequencies(1).inverse.len();
            options = options.flag("ROPE");
            ports.push((read(6), angles));
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

    /// Attention of `n` tokens over what the cache holds then, and with `emit`
    /// the result's coded form.
    fn attend(
        &self,
        model: &GpuModel<'_, '_>,
        layer: &GpuLayer,
        index: usize,
        n: u32,
        emit: bool,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let (gpu, b, heads) = (&model.gpu, &self.buffers, &model.model.heads);
        let (dim, queries, keys) = (narrow(heads.dim)?, narrow(heads.queries)?, narrow(heads.keys)?);
        let cache = b.cache.get(index).ok_or_else(|| Error::invalid("a layer without cache"))?;
        let quads = dim.div_ceil(4);
        let mut options = Options::default().with("WG", workgroup(dim)).with("QUADS", quads);
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
            (read(0), Span::from(&b.qkv)),
            (read(1), Span::from(&cache[0])),
            (read(2), Span::from(&cache[1])),
            (read(3), b.state()),
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
        Ok(())
    }
}

/// Invocations for heads of `dim` numbers.
fn workgroup(dim: u32) -> u32 {
    if dim <= 4 * HEAD_WORKGROUP { HEAD_WORKGROUP } else { WORKGROUP }
}
