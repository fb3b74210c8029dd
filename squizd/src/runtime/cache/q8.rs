//! Keys and values as 8-bit integers, `x ~ d q` with one f16 `d` per [`GROUP`]
//! channels of a head at a position.
//!
//! `d` is the smallest half not below `max |x| / 127`, so that no code is cut
//! off; `|x - d q| <= d / 2`, about 0.4% of the group's largest value. Groups run
//! along channels because keys have channels that are always large: they cost
//! their 31 neighbours, not the whole head.

use super::{BLOCK, Cached, Lines};
use half::f16;

/// Channels under one scale.
const GROUP: usize = 32;

/// Bytes of one head's keys or values at one position.
pub(super) const fn row_bytes(dim: usize) -> usize {
    dim + 2 * dim.div_ceil(GROUP)
}

/// Keys and values of one layer.
#[derive(Debug)]
pub(in crate::runtime) struct Q8Rows {
    /// `[block, head, dim, BLOCK]`.
    keys: Vec<i8>,
    /// `[block, head, dim / GROUP, BLOCK]`.
    key_scales: Vec<f16>,
    /// `[position, head, dim]`.
    values: Vec<i8>,
    /// `[position, head, dim / GROUP]`.
    value_scales: Vec<f16>,
    heads: usize,
    dim: usize,
}

/// Scale and reciprocal of a group; zeros for a group too small to be told from
/// zero.
#[inline(always)]
fn scale(x: &[f32]) -> (f16, f32) {
    let peak = x.iter().fold(0.0f32, |m, v| m.max(v.abs())).min(127.0 * 65_504.0);
    let wanted = peak / 127.0;
    let mut d = f16::from_f32(wanted);
    if d.to_f32() < wanted {
        // Positive halves are ordered as their bits; the largest is not exceeded.
        d = f16::from_bits(d.to_bits() + 1);
    }
    (d, if d.to_bits() == 0 { 0.0 } else { 1.0 / d.to_f32() })
}

#[inline(always)]
fn code(x: f32, inverse: f32) -> i8 {
    (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8
}

impl Q8Rows {
    pub(super) fn reserve(heads: usize, dim: usize, capacity: usize) -> Option<Self> {
        let groups = dim.div_ceil(GROUP);
        let rows = capacity.checked_mul(heads)?;
        let block_rows = capacity.checked_next_multiple_of(BLOCK)?.checked_mul(heads)?;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let (mut key_scales, mut value_scales) = (Vec::new(), Vec::new());
        keys.try_reserve_exact(block_rows.checked_mul(dim)?).ok()?;
        key_scales.try_reserve_exact(block_rows.checked_mul(groups)?).ok()?;
        values.try_reserve_exact(rows.checked_mul(dim)?).ok()?;
        value_scales.try_reserve_exact(rows.checked_mul(groups)?).ok()?;
        Some(Self { keys, key_scales, values, value_scales, heads, dim })
    }

    pub(super) fn append(&mut self, k: &[f32], v: &[f32]) {
        let (dim, width) = (self.dim, self.heads * self.dim);
        let groups = dim.div_ceil(GROUP);
        let first = self.values.len() / width;
        for x in v.chunks_exact(dim).flat_map(|head| head.chunks(GROUP)) {
            let (d, inverse) = scale(x);
            self.value_scales.push(d);
            self.values.extend(x.iter().map(|x| code(*x, inverse)));
        }
        let blocks = (first + k.len() / width).div_ceil(BLOCK);
        self.keys.resize(blocks * BLOCK * width, 0);
        self.key_scales.resize(blocks * BLOCK * self.heads * groups, f16::ZERO);
        for (i, row) in k.chunks_exact(width).enumerate() {
            let (block, lane) = ((first + i) / BLOCK, (first + i) % BLOCK);
            for (head, row) in row.chunks_exact(dim).enumerate() {
                let at = block * self.heads + head;
                let keys = &mut self.keys[at * dim * BLOCK..][..dim * BLOCK];
                let scales = &mut self.key_scales[at * groups * BLOCK..][..groups * BLOCK];
                let slots = keys.chunks_mut(GROUP * BLOCK).zip(scales.chunks_exact_mut(BLOCK));
                for (x, (keys, scales)) in row.chunks(GROUP).zip(slots) {
                    let (d, inverse) = scale(x);
                    scales[lane] = d;
                    for (slot, x) in keys.iter_mut().skip(lane).step_by(BLOCK).zip(x) {
                        *slot = code(*x, inverse);
                    }
                }
            }
        }
    }

    pub(super) fn truncate(&mut self, length: usize) {
        let (width, scales) = (self.heads * self.dim, self.heads * self.dim.div_ceil(GROUP));
        let blocks = length.div_ceil(BLOCK).saturating_mul(BLOCK);
        self.values.truncate(length.saturating_mul(width));
        self.value_scales.truncate(length.saturating_mul(scales));
        self.keys.truncate(blocks.saturating_mul(width));
        self.key_scales.truncate(blocks.saturating_mul(scales));
    }
}

impl Cached for Q8Rows {
    #[inline(always)]
    fn keys<'a>(&'a self, head: usize, block: usize, buffer: &'a mut [f32]) -> &'a [f32] {
        let (dim, groups, at) = (self.dim, self.dim.div_ceil(GROUP), block * self.heads + head);
        let keys = &self.keys[at * dim * BLOCK..][..dim * BLOCK];
        let scales = &self.key_scales[at * groups * BLOCK..][..groups * BLOCK];
        let parts = keys.chunks(GROUP * BLOCK).zip(buffer.chunks_mut(GROUP * BLOCK));
        for ((keys, buffer), scales) in parts.zip(scales.as_chunks::<BLOCK>().0) {
            let scales = scales.map(f16::to_f32);
            let lines = keys.as_chunks::<BLOCK>().0.iter().zip(buffer.as_chunks_mut::<BLOCK>().0);
            for (keys, line) in lines {
                for j in 0..BLOCK {
                    line[j] = scales[j] * f32::from(keys[j]);
                }
            }
        }
        buffer
    }

    #[inline(always)]
    fn values<'a>(&'a self, head: usize, first: usize, n: usize, buffer: &'a mut [f32]) -> Lines<'a> {
        let (dim, groups) = (self.dim, self.dim.div_ceil(GROUP));
        for (j, line) in buffer.chunks_exact_mut(dim).enumerate().take(n) {
            let at = (first + j) * self.heads + head;
            let codes = self.values[at * dim..][..dim].chunks(GROUP);
            let scales = &self.value_scales[at * groups..][..groups];
            for ((line, codes), d) in line.chunks_mut(GROUP).zip(codes).zip(scales) {
                let d = d.to_f32();
                for (y, q) in line.iter_mut().zip(codes) {
                    *y = d * f32::from(*q);
                }
            }
        }
        Lines { values: buffer, stride: dim, width: dim }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_within_half_a_step() {
        let (heads, dim, n) = (2, 40, 70);
        let wave = |i: usize, f: f32| (i as f32 * f).sin() * 2f32.powi((i % 23) as i32 - 11);
        let k: Vec<f32> = (0..n * heads * dim).map(|i| wave(i, 0.37)).collect();
        let v: Vec<f32> = (0..n * heads * dim).map(|i| wave(i, 0.73)).collect();
        let mut rows = Q8Rows::reserve(heads, dim, n).unwrap();
        let (now, later) = (33 * heads * dim, n * heads * dim);
        rows.append(&k[..now], &v[..now]);
        rows.append(&k[now..later], &v[now..later]);
        let bound = |x: &[f32], i: usize| {
            let group = &x[i / GROUP * GROUP..(i / GROUP * GROUP + GROUP).min(dim)];
            // Half a step of d, which exceeds max / 127 by at most 2^-10 of itself.
            group.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 254.0 * 1.002 + 1e-7
        };
        let mut buffer = vec![0.0; BLOCK * dim];
        for position in 0..n {
            for head in 0..heads {
                let at = (position * heads + head) * dim;
                let keys = rows.keys(head, position / BLOCK, &mut buffer).to_vec();
                let values = rows.values(head, position, 1, &mut buffer).line(0).to_vec();
                for i in 0..dim {
                    let (x, y) = (k[at + i], keys[i * BLOCK + position % BLOCK]);
                    assert!(
                        (x - y).abs() <= bound(&k[at..at + dim], i),
                        "key {position} {head} {i}: {x} {y}"
                    );
                    let (x, y) = (v[at + i], values[i]);
                    assert!(
                        (x - y).abs() <= bound(&v[at..at + dim], i),
                        "value {position} {head} {i}: {x} {y}"
                    );
                }
            }
        }
        rows.truncate(31);
        assert_eq!(rows.values.len(), 31 * heads * dim);
        assert_eq!(rows.keys.len(), 32 * heads * dim);
    }

    #[test]
    fn extremes_stay_finite() {
        for x in [0.0, -0.0, 1e-30, 6e-8, 1e30, f32::MAX] {
            let (d, inverse) = scale(&[x, -x]);
            let y = d.to_f32() * f32::from(code(x, inverse));
            assert!(y.is_finite() && y <= x.max(1e-5), "{x}: {y}");
        }
    }
}
