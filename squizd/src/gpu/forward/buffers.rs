//! The buffers of a session.

use super::super::input::Input;
use super::super::matrix::PART_ALIGN;
use super::super::model::GpuModel;
use super::super::pipeline::Span;
use crate::{Error, Result};

/// Positions whose logits are computed together, at most.
pub(in super::super) const LOGIT_ROWS: usize = 16;

/// Shares of the vocabulary that the likeliest token is looked for in.
pub(super) const SHARES: u32 = 64;

/// Where angles begin behind the state, and of what each table's place is a multiple.
const ANGLES: u64 = 256;

/// What a mixture of experts needs besides.
#[derive(Debug)]
pub(super) struct ExpertBuffers {
    /// The router's, of each token.
    pub(super) scores: wgpu::Buffer,
    /// Experts of each token, and their weights.
    pub(super) chosen: wgpu::Buffer,
    pub(super) weights: wgpu::Buffer,
    /// What each of them comes to, `[tokens, active, hidden]`.
    pub(super) results: wgpu::Buffer,
}

/// The buffers of a session.
#[derive(Debug)]
pub(in super::super) struct Buffers {
    /// Ids of the tokens under way.
    pub(super) ids: wgpu::Buffer,
    /// Positions before them, where the next id goes in `list`, and from
    /// [`ANGLES`] on cosines and sines of global, then of local layers.
    pub(super) told: wgpu::Buffer,
    /// Ids picked on the device, of two tokens in turns.
    pub(in super::super) list: wgpu::Buffer,
    /// The likeliest tokens of shares of the vocabulary.
    pub(super) candidates: wgpu::Buffer,
    /// Bytes that a token's angles take, of global layers and of local ones, if there
    /// are any.
    angle_bytes: Vec<u64>,
    /// Residual stream.
    pub(super) x: wgpu::Buffer,
    /// A block's result, before its norm.
    pub(super) block: wgpu::Buffer,
    pub(super) normed: Input,
    /// Queries of all tokens, keys of all, values of all.
    pub(super) qkv: wgpu::Buffer,
    pub(super) attended: Input,
    /// What the shares of a token's positions come to.
    pub(super) shares: Option<wgpu::Buffer>,
    /// Gates of all outputs, then what they are to gate.
    pub(super) gate_up: wgpu::Buffer,
    pub(super) gated: Input,
    pub(super) experts: Option<ExpertBuffers>,
    pub(super) last: Input,
    pub(super) logits: wgpu::Buffer,
    pub(in super::super) logit_rows: usize,
    /// Keys and values of each layer, `[kv_heads, context, dim]`.
    pub(super) cache: Vec<[wgpu::Buffer; 2]>,
    pub(super) halves: bool,
    pub(super) capacity: u32,
}

/// A number that kernels count in `u32`.
pub(super) fn narrow(n: usize) -> Result<u32> {
    u32::try_from(n)
        .ok()
        .filter(|n| *n < 1 << 30)
        .ok_or_else(|| Error::unsupported(format!("a width or length of {n} is too large for GPU kernels")))
}

/// Numbers that a part of `width` outputs takes, the room behind it included.
pub(super) fn part(width: u32) -> u32 {
    width.next_multiple_of(PART_ALIGN)
}

/// Positions up to which none is shared out, and those of a share beyond, about.
const WHOLE: usize = 512;
const SHARE: usize = 256;
/// Shares of all heads, at most.
const MOST_SHARES: usize = 1024;

/// In how many shares one token looks at `length` positions with `queries` heads: a
/// power of two.
pub(in super::super) fn shares_of(length: usize, queries: usize) -> u32 {
    if length <= WHOLE {
        return 1;
    }
    let most = (MOST_SHARES / queries.max(1)).max(1);
    1 << (length / SHARE).clamp(1, most).ilog2()
}

/// Bytes of what `shares` shares of every head come to.
pub(in super::super) fn shared_bytes(shares: u32, queries: usize, dim: usize) -> u64 {
    16 * u64::from(shares) * queries as u64 * (dim as u64).div_ceil(4).saturating_add(1)
}

impl Buffers {
    /// Positions before the tokens under way, and where the next id goes.
    pub(super) fn state(&self) -> Span {
        Span { size: ANGLES, ..Span::from(&self.told) }
    }

    /// Tables of angles.
    pub(super) fn tables(&self) -> usize {
        self.angle_bytes.len()
    }

    /// Where in what is told the angles of `n` tokens in global (0) or local (1)
    /// layers begin.
    pub(super) fn angles(&self, rope: usize, n: usize) -> u64 {
        let before = self.angle_bytes.iter().take(rope);
        ANGLES + before.map(|bytes| (bytes * n as u64).next_multiple_of(ANGLES)).sum::<u64>()
    }

    /// Room for `context` positions, `batch` of them at a time.
    pub(in super::super) fn new(
        model: &GpuModel<'_, '_>,
        context: usize,
        batch: usize,
        halves: bool,
    ) -> Result<Self> {
        let gpu = &model.gpu;
        let count = narrow(batch)?;
        let input = |width: usize, count: u32| Input::new(gpu, model.math, narrow(width)?, count);
        let floats = |stride: u32| gpu.storage(4 * u64::from(stride) * u64::from(count));
        let (hidden, vocab) = (model.model.hidden(), model.model.vocab_size());
        let normed = input(hidden, count)?;
        let attended = input(model.model.query_width(), count)?;
        // Experts have outputs of their own: as many as a token goes to.
        let config = &model.model.config;
        let routes =
            model.layers.iter().filter_map(|l| l.router.as_ref()).map(|r| r.active).fold(1, u32::max);
        let all = narrow(batch * routes as usize)?;
        let gated = input(model.ffn_width() as usize, all)?;
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
        let queries = heads.queries;
        let shares = shares_of(context, queries);
        let cache = model
            .layers
            .iter()
            .map(|_| Ok([gpu.storage(bytes)?, gpu.storage(bytes)?]))
            .collect::<Result<Vec<_>>>()?;
        let local = model.layers.iter().any(|l| l.rope == Some(1));
        let angle_bytes: Vec<u64> =
            (0..=usize::from(local)).map(|rope| 8 * model.pairs(rope) as u64).collect();
        let told = angle_bytes.iter().map(|b| (b * batch as u64).next_multiple_of(ANGLES)).sum::<u64>();
        let logit_rows = batch.min(LOGIT_ROWS);
        Ok(Self {
            ids: gpu.storage(4 * u64::from(count))?,
            told: gpu.storage(ANGLES + told)?,
            list: gpu.storage(8)?,
            candidates: gpu.storage(8 * u64::from(SHARES))?,
            angle_bytes,
            x: floats(normed.stride)?,
            block: floats(normed.stride)?,
            qkv: floats(part(attended.stride) + 2 * part(kv_width))?,
            gate_up: floats(2 * part(gated.stride) * routes)?,
            shares: (shares > 1)
                .then(|| gpu.storage(shared_bytes(shares, queries, heads.dim)))
                .transpose()?,
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
