//! Sums of outer products `sum x x^T` over many input vectors.
//!
//! The upper triangle is kept as 16 x 16 blocks in `f64`. Inputs are packed
//! into panels of 16 channels, so that a block of the product streams two
//! panels from cache; sums over up to [`CHUNK`] inputs are taken in `f32` and
//! then added, which keeps their relative error near `f32`'s own. Every block is
//! one task's, so results do not depend on the number of threads.

use super::lanes::{V8, multiversion};
use rayon::prelude::*;

/// Channels of a panel, and side of a block.
const PANEL: usize = 16;
/// Inputs summed in `f32`: two panels of them fill a first-level cache.
pub(crate) const CHUNK: usize = 256;
/// Values of a block.
const BLOCK: usize = PANEL * PANEL;

/// The running sum for inputs of one width.
#[derive(Debug)]
pub(crate) struct Gram {
    width: usize,
    count: u64,
    /// Blocks `(i, j)` with `i <= j`, row by row.
    blocks: Vec<f64>,
    panels: Vec<f32>,
}

impl Gram {
    /// No inputs yet.
    pub(crate) fn new(width: usize) -> Self {
        let panels = width.div_ceil(PANEL);
        Self { width, count: 0, blocks: vec![0.0; panels * (panels + 1) / 2 * BLOCK], panels: Vec::new() }
    }

    /// Inputs added.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Adds the rows of `x`.
    pub(crate) fn add(&mut self, x: &[f32]) {
        for chunk in x.chunks(CHUNK * self.width) {
            self.add_chunk(chunk);
        }
    }

    fn add_chunk(&mut self, x: &[f32]) {
        let width = self.width;
        let n = x.len() / width;
        let count = width.div_ceil(PANEL);
        self.panels.clear();
        self.panels.resize(count * n * PANEL, 0.0);
        self.panels.par_chunks_mut(n * PANEL).enumerate().for_each(|(p, panel)| {
            let columns = p * PANEL..width.min((p + 1) * PANEL);
            for (row, x) in panel.chunks_exact_mut(PANEL).zip(x.chunks_exact(width)) {
                row[..columns.len()].copy_from_slice(&x[columns.clone()]);
            }
        });
        let panels = &self.panels;
        let panel = |p: usize| &panels[p * n * PANEL..][..n * PANEL];
        let mut rows = Vec::with_capacity(count);
        let mut rest = &mut self.blocks[..];
        for i in 0..count {
            let (row, later) = rest.split_at_mut((count - i) * BLOCK);
            rows.push(row);
            rest = later;
        }
        rows.into_par_iter().enumerate().for_each(|(i, row)| {
            for (j, block) in (i..count).zip(row.chunks_exact_mut(BLOCK)) {
                add_products(panel(i), panel(j), block);
            }
        });
        self.count += n as u64;
    }

    /// The mean of `x x^T` as the rows of its upper triangle, one behind the
    /// other: `width * (width + 1) / 2` values; zero without inputs.
    pub(crate) fn mean(&self) -> Vec<f32> {
        let (width, count) = (self.width, self.width.div_ceil(PANEL));
        let factor = 1.0 / self.count.max(1) as f64;
        let mut out = Vec::with_capacity(width * (width + 1) / 2);
        let mut row = &self.blocks[..];
        for i in 0..count {
            let (blocks, later) = row.split_at((count - i) * BLOCK);
            for r in i * PANEL..width.min((i + 1) * PANEL) {
                out.extend((r..width).map(|c| {
                    let block = &blocks[(c / PANEL - i) * BLOCK..];
                    (block[(r % PANEL) * PANEL + c % PANEL] * factor) as f32
                }));
            }
            row = later;
        }
        out
    }
}

/// `block[r][c] += sum_t a[t][r] * b[t][c]`.
#[inline(always)]
fn add_products_body<const FMA: bool>(a: &[f32], b: &[f32], block: &mut [f64]) {
    const ROWS: usize = 4;
    for (strip, sums) in block.chunks_exact_mut(ROWS * PANEL).enumerate() {
        let mut acc = [[V8::ZERO; 2]; ROWS];
        for (a, b) in a.as_chunks::<PANEL>().0.iter().zip(b.as_chunks::<PANEL>().0) {
            let columns = [V8::load(&b[..8]), V8::load(&b[8..])];
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = V8::splat(a[strip * ROWS + r]);
                for (acc, y) in acc.iter_mut().zip(columns) {
                    *acc = acc.add_product::<FMA>(x, y);
                }
            }
        }
        for (sum, value) in sums.iter_mut().zip(acc.iter().flatten().flat_map(|v| v.0)) {
            *sum += f64::from(value);
        }
    }
}

multiversion! {
    fn add_products(a: &[f32], b: &[f32], block: &mut [f64]) = add_products_body;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::testing::gaussian;

    #[test]
    fn sums_match_the_definition_for_any_width_and_thread_count() {
        for (width, n) in [(1, 1), (7, 3), (16, 256), (33, 700)] {
            let x = gaussian(width * n, 9);
            let mean = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut gram = Gram::new(width);
                pool.install(|| x.chunks(300 * width).for_each(|part| gram.add(part)));
                assert_eq!(gram.count(), n as u64);
                gram.mean()
            };
            let got = mean(1);
            assert_eq!(got, mean(3));
            let mut at = got.iter();
            for i in 0..width {
                for j in i..width {
                    let exact: f64 =
                        x.chunks(width).map(|x| f64::from(x[i]) * f64::from(x[j])).sum::<f64>() / n as f64;
                    let value = f64::from(*at.next().unwrap());
                    assert!((value - exact).abs() < 1e-5 * (1.0 + exact.abs()), "{i},{j}: {value} {exact}");
                }
            }
            assert!(at.next().is_none());
        }
        assert_eq!(Gram::new(2).mean(), [0.0; 3]);
    }
}
