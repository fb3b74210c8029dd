//! The forward pass of one batch of tokens.

use super::attention::attend;
use super::ffn::{Mode, resize};
use super::linear::{batches, multiply};
use super::math::{add, rms_norm, rms_norm_in_place, scale, softcap};
use super::model::Layer;
use super::observe::{Nobody, Observer};
use super::session::{Buffers, Session};
use crate::Result;
use rayon::prelude::*;
use squizd_spec::Role;
use std::ops::Range;

/// Rows from which element-wise steps are spread over the threads.
const PARALLEL_ROWS: usize = 8;
/// Positions whose logits are computed together.
pub(super) const LOGITS_BATCH: usize = 32;

/// Runs `f` on a thread of the current pool, so that everything it forks is
/// taken up without waking that pool again.
pub(super) fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    match rayon::current_thread_index() {
        Some(_) => f(),
        None => rayon::scope(|_| f()),
    }
}

impl Session<'_, '_> {
    /// Runs all layers for `ids` after the positions in the cache; leaves the
    /// residual stream in the buffers.
    pub(super) fn batch(&mut self, ids: &[u32]) -> Result<()> {
        in_pool(|| {
            self.embed(ids)?;
            let first = self.tokens.len();
            for (angles, frequencies) in self.buffers.angles.iter_mut().zip(&self.frequencies) {
                angles.fill(frequencies, first, ids.len());
            }
            let model = self.model;
            model
                .layers
                .iter()
                .enumerate()
                .try_for_each(|(i, layer)| self.layer(i, layer, ids.len(), &mut Nobody))
        })
    }

    /// Looks up the embeddings, scaled where the family does so.
    pub(super) fn embed(&mut self, ids: &[u32]) -> Result<()> {
        let hidden = self.model.hidden();
        let x = &mut self.buffers.x;
        resize(x, ids.len() * hidden);
        for (id, x) in ids.iter().zip(x.chunks_exact_mut(hidden)) {
            let row = *id as usize;
            self.model.embedding.decode(row..row + 1, x)?;
        }
        if let Some(factor) = self.model.config.embedding_scale {
            scale(x, factor as f32);
        }
        Ok(())
    }

    /// Runs one layer over the `n` tokens whose residual stream and rotations lie
    /// in the buffers.
    pub(super) fn layer(
        &mut self,
        index: usize,
        layer: &Layer<'_>,
        n: usize,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let model = self.model;
        let eps = model.norm_eps;
        let precision = self.options.precision;
        let Buffers { x, normed, q, k, v, attended, block, angles, ffn, work, .. } = &mut self.buffers;
        let hidden = model.hidden();
        let (query, key) = (model.query_width(), model.key_width());
        resize(normed, n * hidden);
        resize(block, n * hidden);
        resize(attended, n * query);
        for (buffer, width) in [(&mut *q, query), (&mut *k, key), (&mut *v, key)] {
            resize(buffer, n * width);
        }

        norm_rows(x, &layer.attn_norm, eps, normed);
        observer.input(Role::ATTN_Q, 0, normed, hidden);
        if n == 1 {
            let mut products = [layer.q.product(q), layer.k.product(k), layer.v.product(v)];
            ffn.space.prepared(normed, precision, |x| multiply(&mut products, x));
        } else {
            let products = [(&layer.q, &mut *q), (&layer.k, &mut *k), (&layer.v, &mut *v)];
            let products = products.map(|(linear, y)| (linear, 0..linear.rows(), &mut y[..]));
            batches(products, normed, n, precision, &mut ffn.space)?;
        }
        let dim = model.heads.dim;
        let prepare = |width: usize, gain: Option<&Vec<f32>>, rows: &mut [f32]| {
            for_rows(rows, width, |i, row| {
                if let Some(gain) = gain {
                    row.chunks_exact_mut(dim).for_each(|head| rms_norm_in_place(head, gain, eps));
                }
                if let Some(angles) = layer.rope.and_then(|r| angles.get(r)) {
                    angles.rotate(i, row, dim);
                }
            });
        };
        let (q_gain, k_gain) = layer.qk_norm.as_ref().map(|(q, k)| (q, k)).unzip();
        prepare(query, q_gain, q);
        prepare(key, k_gain, k);
        self.cache.append(index, k, v);
        if let Some(cached) = self.cache.layer(index) {
            attend(&model.heads, q, self.tokens.len(), layer.window, cached, work, attended);
        }
        observer.input(Role::ATTN_OUTPUT, 0, attended, query);
        let output = &layer.attn_output;
        output.batch(0..output.rows(), attended, n, precision, &mut ffn.space, block)?;
        add_block(block, layer.attn_post_norm.as_deref(), eps, x);

        norm_rows(x, &layer.ffn_norm, eps, normed);
        let mode = Mode { gate: model.config.activation, precision };
        layer.ffn.forward(mode, normed, ffn, block, observer)?;
        add_block(block, layer.ffn_post_norm.as_deref(), eps, x);
        Ok(())
    }

    /// Logits of the given rows of the batch just run.
    pub(super) fn compute_logits(&mut self, rows: Range<usize>) -> Result<()> {
        let model = self.model;
        let Buffers { x, normed, logits, ffn, .. } = &mut self.buffers;
        let (hidden, vocab) = (model.hidden(), model.vocab_size());
        let n = rows.len();
        let precision = self.options.precision;
        resize(normed, n * hidden);
        resize(logits, n * vocab);
        in_pool(|| {
            norm_rows(&x[rows.start * hidden..rows.end * hidden], &model.output_norm, model.norm_eps, normed);
            model.head().batch(0..vocab, normed, n, precision, &mut ffn.space, logits)?;
            if let Some(cap) = model.config.logit_softcap {
                logits.par_chunks_mut(vocab).for_each(|row| softcap(row, cap as f32));
            }
            Ok(())
        })
    }

    /// Hands `each` the logits of the given rows of the batch just run.
    pub(super) fn logits_each(
        &mut self,
        rows: Range<usize>,
        mut each: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let vocab = self.model.vocab_size();
        for start in rows.clone().step_by(LOGITS_BATCH) {
            let part = start..rows.end.min(start + LOGITS_BATCH);
            self.compute_logits(part.clone())?;
            for (row, logits) in part.zip(self.buffers.logits.chunks_exact(vocab)) {
                each(row, logits)?;
            }
        }
        Ok(())
    }
}

/// Calls `f` with the index of every row of `width` values.
fn for_rows(rows: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if rows.len() < PARALLEL_ROWS * width {
        rows.chunks_exact_mut(width).enumerate().for_each(|(i, row)| f(i, row));
    } else {
        rows.par_chunks_exact_mut(width).enumerate().for_each(|(i, row)| f(i, row));
    }
}

/// RMS norm of every row.
pub(super) fn norm_rows(x: &[f32], gain: &[f32], eps: f32, out: &mut [f32]) {
    let width = gain.len();
    for_rows(out, width, |i, out| rms_norm(&x[i * width..][..width], gain, eps, out));
}

/// Adds a block's result to the residual stream, normalised first where the
/// family has sandwich norms.
fn add_block(block: &mut [f32], post_norm: Option<&[f32]>, eps: f32, x: &mut [f32]) {
    if let Some(gain) = post_norm {
        for_rows(block, gain.len(), |_, row| rms_norm_in_place(row, gain, eps));
    }
    add(x, block);
}
