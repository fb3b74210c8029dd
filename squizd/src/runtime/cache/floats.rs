//! Keys and values as floats of 32 or 16 bits.

use super::{BLOCK, Cached, Lines};
use half::f16;

/// An element of the cache.
pub(in crate::runtime) trait Element: Copy + Default + Send + Sync {
    /// Nearest stored value.
    fn store(x: f32) -> Self;

    /// Writes the values to `buffer` as floats, unless they are floats.
    fn widen(values: &[Self], buffer: &mut [f32]);

    /// The values as floats: `values` themselves, or `buffer` that holds them.
    fn view<'a>(values: &'a [Self], buffer: &'a [f32]) -> &'a [f32];

    /// The same of rows of `width` that lie `stride` apart, and close together
    /// in the buffer.
    fn lines<'a>(values: &'a [Self], stride: usize, width: usize, buffer: &'a [f32]) -> Lines<'a>;
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

    #[inline(always)]
    fn lines<'a>(values: &'a [Self], stride: usize, width: usize, _: &'a [f32]) -> Lines<'a> {
        Lines { values, stride, width }
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

    #[inline(always)]
    fn lines<'a>(_: &'a [Self], _: usize, width: usize, buffer: &'a [f32]) -> Lines<'a> {
        Lines { values: buffer, stride: width, width }
    }
}

/// Keys and values of one layer.
#[derive(Debug)]
pub(in crate::runtime) struct FloatRows<E> {
    keys: Vec<E>,
    values: Vec<E>,
    heads: usize,
    dim: usize,
}

impl<E: Element> FloatRows<E> {
    pub(super) fn reserve(heads: usize, dim: usize, capacity: usize) -> Option<Self> {
        let values = capacity.checked_mul(heads)?.checked_mul(dim)?;
        let blocks = capacity.checked_next_multiple_of(BLOCK)?.checked_mul(heads)?.checked_mul(dim)?;
        let mut rows = Self { keys: Vec::new(), values: Vec::new(), heads, dim };
        rows.keys.try_reserve_exact(blocks).ok()?;
        rows.values.try_reserve_exact(values).ok()?;
        Some(rows)
    }

    pub(super) fn append(&mut self, k: &[f32], v: &[f32]) {
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

    pub(super) fn truncate(&mut self, length: usize) {
        let width = self.heads * self.dim;
        self.values.truncate(length.saturating_mul(width));
        self.keys.truncate(length.div_ceil(BLOCK).saturating_mul(BLOCK * width));
    }
}

impl<E: Element> Cached for FloatRows<E> {
    #[inline(always)]
    fn keys<'a>(&'a self, head: usize, block: usize, buffer: &'a mut [f32]) -> &'a [f32] {
        let size = BLOCK * self.dim;
        let keys = &self.keys[(block * self.heads + head) * size..][..size];
        E::widen(keys, buffer);
        E::view(keys, buffer)
    }

    #[inline(always)]
    fn values<'a>(&'a self, head: usize, first: usize, n: usize, buffer: &'a mut [f32]) -> Lines<'a> {
        let (dim, width) = (self.dim, self.heads * self.dim);
        let rows = &self.values[first * width + head * dim..];
        for (row, buffer) in rows.chunks(width).zip(buffer.chunks_exact_mut(dim)).take(n) {
            E::widen(&row[..dim], buffer);
        }
        E::lines(rows, width, dim, buffer)
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
