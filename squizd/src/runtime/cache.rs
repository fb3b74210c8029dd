//! Keys and values of past positions.
//!
//! Keys lie in blocks of [`BLOCK`] positions with the position innermost,
//! `[block, head, dim, BLOCK]`, so that one query is multiplied with a whole
//! block without summing across lanes; values lie `[position, head, dim]`.

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
}

/// An element of the cache.
pub(super) trait Element: Copy + Default + Send + Sync {
    /// Nearest stored value.
    fn store(x: f32) -> Self;

    /// Writes the values to `buffer` as floats, unless they are floats.
    fn widen(values: &[Self], buffer: &mut [f32]);

    /// The values as floats: `values` themselves, or `buffer` that holds them.
    fn view<'a>(values: &'a [Self], buffer: &'a [f32]) -> &'a [f32];
}

impl Element for f32 {
    #[inline(always)]
    fn store(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn widen(_: &[Self], _: &mut [f32]) {}

    #[inline(always)]
    fn view<'a>(values: &'a [Self], _: &'a [f32]) -> &'a [f32] {
        values
    }
}

impl Element for f16 {
    #[inline(always)]
    fn store(x: f32) -> Self {
        Self::from_f32(x.clamp(-65_504.0, 65_504.0))
    }

    /// Exponent and mantissa moved into place are the value times 2^-112, for
    /// subnormal numbers too: one multiplication undoes it. (Infinities and
    /// NaN would read as large numbers; the cache holds no infinities, and a
    /// NaN shows in the logits of its own position.)
    #[inline(always)]
    fn widen(values: &[Self], buffer: &mut [f32]) {
        let factor = f32::from_bits(0x7780_0000);
        for (y, x) in buffer.iter_mut().zip(values) {
            let bits = u32::from(x.to_bits());
            let magnitude = f32::from_bits((bits & 0x7fff) << 13) * factor;
            *y = f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16);
        }
    }

    #[inline(always)]
    fn view<'a>(_: &'a [Self], buffer: &'a [f32]) -> &'a [f32] {
        buffer
    }
}

/// Keys and values of one layer.
#[derive(Debug)]
pub(super) struct LayerRows<E> {
    keys: Vec<E>,
    values: Vec<E>,
    heads: usize,
    dim: usize,
}

impl<E: Element> LayerRows<E> {
    fn reserve(heads: usize, dim: usize, capacity: usize) -> Option<Self> {
        let values = capacity.checked_mul(heads)?.checked_mul(dim)?;
        let blocks = capacity.checked_next_multiple_of(BLOCK)?.checked_mul(heads)?.checked_mul(dim)?;
        let mut rows = Self { keys: Vec::new(), values: Vec::new(), heads, dim };
        rows.keys.try_reserve_exact(blocks).ok()?;
        rows.values.try_reserve_exact(values).ok()?;
        Some(rows)
    }

    fn append(&mut self, k: &[f32], v: &[f32]) {
        let width = self.heads * self.dim;
        let first = self.values.len() / width;
        self.values.extend(v.iter().map(|v| E::store(*v)));
        let blocks = (first + k.len() / width).div_ceil(BLOCK);
        self.keys.resize(blocks * BLOCK * width, E::default());
        for (i, row) in k.chunks_exact(width).enumerate() {
            let (block, lane) = ((first + i) / BLOCK, (first + i) % BLOCK);
            let block = &mut self.keys[block * BLOCK * width..][..BLOCK * width];
            for (slot, k) in block.iter_mut().skip(lane).step_by(BLOCK).zip(row) {
                *slot = E::store(*k);
            }
        }
    }

    fn truncate(&mut self, length: usize) {
        let width = self.heads * self.dim;
        self.values.truncate(length.saturating_mul(width));
        self.keys.truncate(length.div_ceil(BLOCK).saturating_mul(BLOCK * width));
    }

    /// Keys of a head in a block, `[dim, BLOCK]`; those past the end of the
    /// sequence are arbitrary finite numbers.
    #[inline(always)]
    pub(super) fn keys(&self, head: usize, block: usize) -> &[E] {
        let size = BLOCK * self.dim;
        &self.keys[(block * self.heads + head) * size..][..size]
    }

    /// Values of a head at a position.
    #[inline(always)]
    pub(super) fn value(&self, head: usize, position: usize) -> &[E] {
        &self.values[(position * self.heads + head) * self.dim..][..self.dim]
    }
}

/// One layer of the cache.
#[derive(Debug)]
pub(super) enum KvLayer {
    F32(LayerRows<f32>),
    F16(LayerRows<f16>),
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
            KvType::F32 => LayerRows::reserve(heads, dim, capacity).map(KvLayer::F32),
            KvType::F16 => LayerRows::reserve(heads, dim, capacity).map(KvLayer::F16),
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
            None => {}
        }
    }

    /// Forgets every position from `length` on.
    pub(super) fn truncate(&mut self, length: usize) {
        for layer in &mut self.layers {
            match layer {
                KvLayer::F32(rows) => rows.truncate(length),
                KvLayer::F16(rows) => rows.truncate(length),
            }
        }
    }

    /// Keys and values of a layer.
    pub(super) fn layer(&self, layer: usize) -> Option<&KvLayer> {
        self.layers.get(layer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_half_widens_exactly() {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|h| h.is_finite()).collect();
        let mut buffer = vec![0.0; all.len()];
        f16::widen(&all, &mut buffer);
        for (h, x) in all.iter().zip(&buffer) {
            assert_eq!(x.to_bits(), h.to_f32().to_bits(), "{h}");
        }
        assert_eq!(f16::store(1e9).to_bits(), f16::MAX.to_bits());
        assert_eq!(f16::store(-1e9).to_bits(), f16::MIN.to_bits());
    }
}
