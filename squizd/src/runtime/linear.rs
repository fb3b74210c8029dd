//! Matrix products straight from stored blocks.
//!
//! One input vector: the codec's own kernel, rows split over the threads.
//! A batch: strips of rows are unpacked once into a cache-sized buffer and
//! multiplied with every input, so that decoding is paid per batch: as small
//! integers where inputs may be rounded to 8 bits and the codec has integers, else
//! in `f32`.

use super::gemm::{TILE_ROWS, gemm, pack, packed_len};
use super::math::add;
use crate::codec::panel::{Inputs, ROWS, multiply as multiply_panel};
use crate::codec::{Activation, ActivationBuffers, Codec, Encoded, Panel, Precision};
use crate::dispatch::Subject;
use crate::simd::level;
use crate::{Error, Result};
use rayon::prelude::*;
use squizd_spec::{CodecId, Matrix, Params};
use std::{borrow::Cow, ops::Range};

/// Multiply-adds of one matvec task.
const TASK_WORK: usize = 1 << 16;
/// Rows that tasks hold a multiple of where they can: whole tiles of every
/// codec (of 16 rows, of 6) and of the product (of 12).
const GRAIN: usize = 48;
/// Floats of a decoded strip: 512 KiB, which stay in a typical L2 cache.
const STRIP: usize = 1 << 17;
/// Smallest batch for which decoding strips beats one kernel call per input.
const BATCH: usize = 4;

/// A stored matrix and its optional bias: `y = W x + b`.
pub(crate) struct Linear<'w> {
    pub(crate) codec: &'static dyn Codec,
    pub(crate) name: &'w str,
    pub(crate) matrix: Matrix,
    pub(crate) params: &'w Params,
    /// The stored payload, or what a codec for keeping unpacked to.
    pub(crate) payload: Cow<'w, [u8]>,
    pub(crate) bias: Option<Vec<f32>>,
    /// Codec, parameters and bytes in the file.
    pub(super) stored: (CodecId, &'w Params, u64),
}

/// Memory that products use again and again.
#[derive(Debug, Default)]
pub(super) struct Space {
    /// Outputs of a batch: token innermost, or panels of rows.
    transposed: Vec<f32>,
    /// Inputs of a batch, packed.
    packed: Vec<f32>,
    /// Inputs of a batch, rounded.
    rounded: Inputs,
    activation: ActivationBuffers,
}

impl Space {
    /// Calls `f` with `x`, prepared.
    pub(super) fn prepared(&mut self, x: &[f32], precision: Precision, f: impl FnOnce(&Activation<'_>)) {
        let x = Activation::with_buffers(x, precision, std::mem::take(&mut self.activation));
        f(&x);
        self.activation = x.into_buffers();
    }
}

/// One product `y = W[first_row ..][.. y.len()] x` among several that share `x`.
pub(super) struct Product<'a, 'w> {
    pub(super) linear: &'a Linear<'w>,
    pub(super) first_row: usize,
    pub(super) y: &'a mut [f32],
}

impl<'w> Linear<'w> {
    /// Output width.
    pub(crate) fn rows(&self) -> usize {
        self.matrix.rows as usize
    }

    /// Input width.
    pub(crate) fn cols(&self) -> usize {
        self.matrix.cols as usize
    }

    /// The stored matrix, for the table of kernels, and its bytes.
    pub(super) fn subject(&self) -> (Subject<'w>, u64) {
        let (codec, params, bytes) = self.stored;
        (Subject { codec, params, matrix: self.matrix }, bytes)
    }

    pub(crate) fn tensor(&self) -> Encoded<'_> {
        Encoded { name: self.name, matrix: self.matrix, params: self.params, data: &self.payload }
    }

    /// The product of all rows with one input.
    pub(super) fn product<'a>(&'a self, y: &'a mut [f32]) -> Product<'a, 'w> {
        Product { linear: self, first_row: 0, y }
    }

    /// Decodes rows into `out`.
    pub(super) fn decode(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        self.codec.decode(&self.tensor(), rows.start as u64..rows.end as u64, out)
    }

    /// `y[i] = W[rows] x[i] + b[rows]` for the `n` rows of `x`; `y` is
    /// `[n, rows]`.
    pub(super) fn batch(
        &self,
        rows: Range<usize>,
        x: &[f32],
        n: usize,
        precision: Precision,
        space: &mut Space,
        y: &mut [f32],
    ) -> Result<()> {
        batches([(self, rows, y)], x, n, precision, space)
    }

    /// Whether batches are multiplied by 8-bit forms of their inputs.
    fn rounds(&self, n: usize, precision: Precision) -> bool {
        n >= BATCH && precision == Precision::Q8 && self.codec.has_panels(self.params, level())
    }

    /// [`Linear::batch`] in floats, or by products of one input.
    fn batch_exact(
        &self,
        rows: Range<usize>,
        x: &[f32],
        n: usize,
        precision: Precision,
        space: &mut Space,
        y: &mut [f32],
    ) -> Result<()> {
        let count = rows.len();
        if n < BATCH {
            for (x, y) in x.chunks_exact(self.cols()).zip(y.chunks_exact_mut(count)) {
                let mut product = [Product { linear: self, first_row: rows.start, y }];
                space.prepared(x, precision, |x| multiply(&mut product, x));
            }
            return Ok(());
        }
        let Space { transposed, packed, .. } = space;
        transposed.resize(count * n, 0.0);
        packed.resize(packed_len(n, self.cols()), 0.0);
        pack(x, self.cols(), packed);
        self.batch_transposed(rows.clone(), packed, n, transposed)?;
        let source = &transposed[..];
        let bias = self.bias.as_ref().map(|b| &b[rows]);
        y.par_chunks_mut(8 * count).enumerate().for_each(|(i, block)| {
            let tokens = block.len() / count;
            for (r, column) in source.chunks_exact(n).enumerate() {
                for (t, value) in column[8 * i..][..tokens].iter().enumerate() {
                    block[t * count + r] = *value;
                }
            }
            if let Some(bias) = bias {
                block.chunks_exact_mut(count).for_each(|y| add(y, bias));
            }
        });
        Ok(())
    }

    /// [`Linear::batch`] by the 8-bit forms of the inputs, which `space` has.
    fn batch_rounded(&self, rows: Range<usize>, n: usize, space: &mut Space, y: &mut [f32]) -> Result<()> {
        let Space { transposed, rounded, .. } = space;
        let (cols, count) = (self.cols(), rows.len());
        transposed.resize(count.next_multiple_of(ROWS) * n, 0.0);
        let panels = transposed.as_chunks_mut::<ROWS>().0;
        panels.par_chunks_mut(n).enumerate().try_for_each_init(
            || Panel::new(cols, level()),
            |panel, (i, out)| {
                let start = rows.start + i * ROWS;
                let end = rows.end.min(start + ROWS);
                if end - start < ROWS {
                    panel.clear();
                }
                self.codec.panel(&self.tensor(), start as u64..end as u64, panel)?;
                multiply_panel(panel, rounded, out);
                Ok::<_, Error>(())
            },
        )?;
        let panels = &*panels;
        let bias = self.bias.as_ref().map(|b| &b[rows]);
        y.par_chunks_mut(8 * count).enumerate().for_each(|(i, block)| {
            for (t, y) in block.chunks_exact_mut(count).enumerate() {
                for (y, panel) in y.chunks_mut(ROWS).zip(panels.chunks_exact(n)) {
                    y.copy_from_slice(&panel[8 * i + t][..y.len()]);
                }
                if let Some(bias) = bias {
                    add(y, bias);
                }
            }
        });
        Ok(())
    }

    /// `out[r][i] = W[rows.start + r] . x[i]` for `n` packed inputs.
    fn batch_transposed(&self, rows: Range<usize>, packed: &[f32], n: usize, out: &mut [f32]) -> Result<()> {
        let cols = self.cols();
        let strip = strip_rows(rows.len(), cols, rayon::current_num_threads());
        out.par_chunks_mut(strip * n).enumerate().try_for_each_init(
            || vec![0.0; strip * cols],
            |decoded, (i, out)| {
                let start = rows.start + i * strip;
                let count = out.len() / n;
                let decoded = &mut decoded[..count * cols];
                self.decode(start..start + count, decoded)?;
                gemm(decoded, packed, cols, out, n);
                Ok::<_, Error>(())
            },
        )
    }
}

/// [`Linear::batch`] of several matrices with the same inputs: rows of each, and
/// their outputs.
pub(super) fn batches<const N: usize>(
    products: [(&Linear<'_>, Range<usize>, &mut [f32]); N],
    x: &[f32],
    n: usize,
    precision: Precision,
    space: &mut Space,
) -> Result<()> {
    if let Some((linear, ..)) = products.iter().find(|p| p.0.rounds(n, precision)) {
        space.rounded.fill(x, linear.cols());
    }
    for (linear, rows, y) in products {
        if linear.rounds(n, precision) {
            linear.batch_rounded(rows, n, space, y)?;
        } else {
            linear.batch_exact(rows, x, n, precision, space, y)?;
        }
    }
    Ok(())
}

/// Rows of the strips in which `rows` of `cols` are decoded for a batch.
pub(super) fn strip_rows(rows: usize, cols: usize, threads: usize) -> usize {
    let share = rows.div_ceil(4 * threads.max(1));
    let most = (STRIP / cols.max(1)).min(share).clamp(TILE_ROWS, 2 * GRAIN);
    if most < GRAIN { most / TILE_ROWS * TILE_ROWS } else { most / GRAIN * GRAIN }
}

/// Runs products that share the input `x`, splitting their rows over the
/// threads where that pays.
pub(super) fn multiply(products: &mut [Product<'_, '_>], x: &Activation<'_>) {
    match products {
        [] => {}
        [one] => multiply_rows(one.linear, one.first_row, one.y, x),
        _ => {
            let (a, b) = products.split_at_mut(products.len() / 2);
            rayon::join(|| multiply(a, x), || multiply(b, x));
        }
    }
}

fn multiply_rows(linear: &Linear<'_>, first_row: usize, y: &mut [f32], x: &Activation<'_>) {
    let rows = y.len();
    if rows >= 2 * GRAIN && rows * linear.cols() > TASK_WORK {
        let half = rows / 2 / GRAIN * GRAIN;
        let (a, b) = y.split_at_mut(half);
        rayon::join(
            || multiply_rows(linear, first_row, a, x),
            || multiply_rows(linear, first_row + half, b, x),
        );
        return;
    }
    let range = first_row as u64..(first_row + rows) as u64;
    linear.codec.matvec(&linear.tensor(), x, range, y);
    if let Some(bias) = &linear.bias {
        add(y, &bias[first_row..first_row + rows]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::CODECS;
    use crate::codec::testing::{MemoryRows, encode, gaussian};

    #[test]
    fn batches_agree_with_decoded_weights_for_any_number_of_inputs() {
        for codec in CODECS {
            for (rows, cols, n) in [(1, 1, 1), (70, 300, 3), (70, 300, 7), (131, 64, 33)] {
                let w = gaussian((rows * cols) as usize, 9);
                let stored = encode(*codec, &MemoryRows::for_codec(*codec, rows, cols, w), None).unwrap();
                let decoded = stored.decode(*codec);
                let (rows, cols) = (rows as usize, cols as usize);
                let bias: Vec<f32> = (0..rows).map(|i| i as f32 / 64.0).collect();
                let linear = Linear {
                    codec: *codec,
                    name: "test",
                    matrix: stored.matrix,
                    params: &stored.params,
                    payload: Cow::Borrowed(&stored.data),
                    bias: Some(bias.clone()),
                    stored: (codec.id(), &stored.params, stored.data.len() as u64),
                };
                let x = gaussian(n * cols, 10);
                let range = rows / 3..rows;
                let mut y = vec![f32::NAN; n * range.len()];
                let mut space = Space::default();
                linear.batch(range.clone(), &x, n, Precision::F32, &mut space, &mut y).unwrap();
                for (y, x) in y.chunks(range.len()).zip(x.chunks(cols)) {
                    for (y, row) in y.iter().zip(range.clone()) {
                        let w = &decoded[row * cols..][..cols];
                        let exact: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                        let exact = exact + f64::from(bias[row]);
                        assert!((f64::from(*y) - exact).abs() < 1e-3, "{} of {n}: {y} {exact}", codec.id());
                    }
                }
            }
        }
    }
}
