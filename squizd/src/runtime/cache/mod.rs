//! Keys and values of past positions.
//!
//! Keys lie in blocks of [`BLOCK`] positions with the position innermost,
//! `[block, head, dim, BLOCK]`, so that one query is multiplied with a whole
//! block without summing across lanes; values lie `[position, head, dim]`.

mod floats;
mod q8;

pub(super) use floats::FloatRows;
pub(super) use q8::Q8Rows;

use crate::{Error, Result};
use half::f16;

/// Positions per key block.
pub(super) const BLOCK: usize = 32;

/// Element type of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvType {
    /// 32-bit floats: exact.
    #[default]
    F32,
    /// 16-bit floats: half the memory and traffic, 11 bits of precision,
    /// values beyond the largest finite one (65,504) held there.
    F16,
    /// 8-bit integers under one f16 scale per 32 channels of a head: 8.5 bits a
    /// value (where heads have a multiple of 32 channels), each within 0.4% of
    /// the largest of its 32.
    Q8,
}

impl KvType {
    /// Memory of one layer's cache of `capacity` positions, `None` beyond 2^64
    /// bytes: what [`KvCache::new`] reserves.
    pub(super) fn layer_bytes(self, heads: usize, dim: usize, capacity: usize) -> Option<u64> {
        let positions = capacity.checked_next_multiple_of(BLOCK)?.checked_add(capacity)? as u64;
        let row = match self {
            Self::F32 => 4 * dim,
            Self::F16 => 2 * dim,
            Self::Q8 => q8::row_bytes(dim),
        };
        positions.checked_mul(heads as u64)?.checked_mul(row as u64)
    }
}

/// Rows of floats, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a> {
    values: &'a [f32],
    stride: usize,
    width: usize,
}

impl<'a> Lines<'a> {
    /// Row `i`.
    #[inline(always)]
    pub(super) fn line(&self, i: usize) -> &'a [f32] {
        &self.values[i * self.stride..][..self.width]
    }
}

/// Keys and values of one layer as attention reads them.
pub(super) trait Cached: Sync {
    /// Keys of a head in a block, `[dim, BLOCK]`, in the cache itself or in
    /// `buffer`; those past the end of the sequence are arbitrary finite numbers.
    fn keys<'a>(&'a self, head: usize, block: usize, buffer: &'a mut [f32]) -> &'a [f32];

    /// Values of a head at the `n` positions from `first`, in the cache itself
    /// or in `buffer`.
    fn values<'a>(&'a self, head: usize, first: usize, n: usize, buffer: &'a mut [f32]) -> Lines<'a>;
}

/// One layer of the cache.
#[derive(Debug)]
pub(super) enum KvLayer {
    F32(FloatRows<f32>),
    F16(FloatRows<f16>),
    Q8(Q8Rows),
}

/// The cache of one sequence.
#[derive(Debug)]
pub(super) struct KvCache {
    layers: Vec<KvLayer>,
}

impl KvCache {
    /// Reserves address space for `capacity` positions of `layers` layers with
    /// `heads` key/value heads of `dim`; the memory becomes resident as it is
    /// filled.
    pub(super) fn new(
        kind: KvType,
        layers: usize,
        heads: usize,
        dim: usize,
        capacity: usize,
    ) -> Result<Self> {
        let layer = |_| match kind {
            KvType::F32 => FloatRows::reserve(heads, dim, capacity).map(KvLayer::F32),
            KvType::F16 => FloatRows::reserve(heads, dim, capacity).map(KvLayer::F16),
            KvType::Q8 => Q8Rows::reserve(heads, dim, capacity).map(KvLayer::Q8),
        };
        let layers: Option<Vec<_>> = (0..layers).map(layer).collect();
        match layers {
            Some(layers) => Ok(Self { layers }),
            None => Err(Error::invalid(format!(
                "no memory for a key/value cache of {capacity} positions; use a smaller --ctx-size"
            ))),
        }
    }

    /// Appends the keys and values of new positions, `[n, heads, dim]` each.
    pub(super) fn append(&mut self, layer: usize, k: &[f32], v: &[f32]) {
        match self.layers.get_mut(layer) {
            Some(KvLayer::F32(rows)) => rows.append(k, v),
            Some(KvLayer::F16(rows)) => rows.append(k, v),
            Some(KvLayer::Q8(rows)) => rows.append(k, v),
            None => {}
        }
    }

    /// Forgets every position from `length` on.
    pub(super) fn truncate(&mut self, length: usize) {
        for layer in &mut self.layers {
            match layer {
                KvLayer::F32(rows) => rows.truncate(length),
                KvLayer::F16(rows) => rows.truncate(length),
                KvLayer::Q8(rows) => rows.truncate(length),
            }
        }
    }

    /// Keys and values of a layer.
    pub(super) fn layer(&self, layer: usize) -> Option<&KvLayer> {
        self.layers.get(layer)
    }
}
