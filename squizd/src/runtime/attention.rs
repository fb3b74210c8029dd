//! Grouped-query attention with a causal mask and an optional sliding window.
//!
//! Scores are taken over blocks of [`BLOCK`] positions with the running-maximum
//! softmax of FlashAttention (arXiv 2205.14135): with block maximum m', running
//! maximum m and m* = max(m, m'), the sums so far are scaled by e^(m - m*) and
//! the block adds e^(s - m*) v. Memory does not grow with the context, and each
//! key and value is read once for all queries that share its head.

use super::cache::{BLOCK, Cached, FloatRows, KvLayer, Q8Rows};
use super::lanes::{LANES, V8, exp, multiversion, tanh};
use half::f16;
use rayon::prelude::*;
use std::ops::Range;

/// Query rows handled together.
pub(super) const ROWS: usize = 16;
/// Multiply-adds below which threads cost more than they bring.
const SERIAL_WORK: usize = 1 << 16;

/// What is the same for every layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    /// Query heads.
    pub(crate) queries: usize,
    /// Key/value heads; divides `queries`.
    pub(crate) keys: usize,
    /// Width of a head.
    pub(crate) dim: usize,
    /// Factor on the scores.
    pub(crate) scale: f32,
    /// `cap * tanh(score / cap)`.
    pub(crate) softcap: Option<f32>,
}

impl Heads {
    fn group(&self) -> usize {
        self.queries / self.keys
    }
}

/// Buffers of one task.
#[derive(Clone, Debug)]
pub(super) struct Work {
    scores: [[f32; BLOCK]; ROWS],
    max: [f32; ROWS],
    sum: [f32; ROWS],
    acc: Vec<f32>,
    /// Widened keys, `[dim, BLOCK]`, then widened values, `[BLOCK, dim]`.
    floats: Vec<f32>,
}

impl Work {
    pub(super) fn new(head_dim: usize) -> Self {
        Self {
            scores: [[0.0; BLOCK]; ROWS],
            max: [0.0; ROWS],
            sum: [0.0; ROWS],
            acc: vec![0.0; ROWS * head_dim],
            floats: vec![0.0; BLOCK * head_dim],
        }
    }
}

/// Queries of consecutive positions and what they may see.
#[derive(Clone, Copy)]
struct Query<'a> {
    heads: &'a Heads,
    /// `q[token * stride + head * dim ..]`, starting at the group's first head.
    q: &'a [f32],
    stride: usize,
    tokens: usize,
    /// Position of the first token.
    first: usize,
    window: Option<usize>,
    /// Key/value head.
    head: usize,
}

impl Query<'_> {
    /// Positions that `token` sees.
    fn visible(&self, token: usize) -> Range<usize> {
        let end = self.first + token + 1;
        self.window.map_or(0, |w| end.saturating_sub(w))..end
    }
}

/// Attention of queries at positions `first..` over the cache, which already
/// holds them. `q` and `out` are `[n, heads, dim]`; `work` has one entry per
/// key/value head.
pub(super) fn attend(
    heads: &Heads,
    q: &[f32],
    first: usize,
    window: Option<usize>,
    cached: &KvLayer,
    work: &mut [Work],
    out: &mut [f32],
) {
    let stride = heads.queries * heads.dim;
    let n = q.len() / stride;
    let width = heads.group() * heads.dim;
    let run = |query: &Query<'_>, work: &mut Work, out: &mut [f32]| match cached {
        KvLayer::F32(rows) => attend_f32(query, rows, work, out),
        KvLayer::F16(rows) => attend_f16(query, rows, work, out),
        KvLayer::Q8(rows) => attend_q8(query, rows, work, out),
    };
    if n == 1 {
        let one = |head: usize, q: &[f32], work: &mut Work, out: &mut [f32]| {
            run(&Query { heads, q, stride, tokens: 1, first, window, head }, work, out);
        };
        let seen = window.map_or(first + 1, |w| w.min(first + 1));
        if 2 * seen * stride < SERIAL_WORK {
            let tasks = q.chunks(width).zip(out.chunks_mut(width)).zip(work).enumerate();
            tasks.for_each(|(head, ((q, out), work))| one(head, q, work, out));
        } else {
            let tasks = q.par_chunks(width).zip(out.par_chunks_mut(width)).zip(work).enumerate();
            tasks.for_each(|(head, ((q, out), work))| one(head, q, work, out));
        }
        return;
    }
    let tile = (ROWS / heads.group()).max(1);
    q.par_chunks(tile * stride).zip(out.par_chunks_mut(tile * stride)).enumerate().for_each_init(
        || Work::new(heads.dim),
        |work, (i, (q, out))| {
            let tokens = q.len() / stride;
            for head in 0..heads.keys {
                let (q, out) = (&q[head * width..], &mut out[head * width..]);
                run(&Query { heads, q, stride, tokens, first: first + i * tile, window, head }, work, out);
            }
        },
    );
}

multiversion! {
    fn attend_f32(query: &Query<'_>, rows: &FloatRows<f32>, work: &mut Work, out: &mut [f32]) = attend_head_f32;
}
multiversion! {
    fn attend_f16(query: &Query<'_>, rows: &FloatRows<f16>, work: &mut Work, out: &mut [f32]) = attend_head_f16;
}
multiversion! {
    fn attend_q8(query: &Query<'_>, rows: &Q8Rows, work: &mut Work, out: &mut [f32]) = attend_head_q8;
}

#[inline(always)]
fn attend_head_f32<const FMA: bool>(q: &Query<'_>, rows: &FloatRows<f32>, work: &mut Work, out: &mut [f32]) {
    attend_head::<FMA>(q, rows, work, out);
}

#[inline(always)]
fn attend_head_f16<const FMA: bool>(q: &Query<'_>, rows: &FloatRows<f16>, work: &mut Work, out: &mut [f32]) {
    attend_head::<FMA>(q, rows, work, out);
}

#[inline(always)]
fn attend_head_q8<const FMA: bool>(q: &Query<'_>, rows: &Q8Rows, work: &mut Work, out: &mut [f32]) {
    attend_head::<FMA>(q, rows, work, out);
}

/// All queries that share one key/value head; `out` is laid out as `query.q`.
#[inline(always)]
fn attend_head<const FMA: bool>(query: &Query<'_>, cached: &impl Cached, work: &mut Work, out: &mut [f32]) {
    let (group, dim) = (query.heads.group(), query.heads.dim);
    let total = query.tokens * group;
    // Row r of the group: token r / group, head r % group.
    let at = |r: usize| (r / group) * query.stride + (r % group) * dim;
    for start in (0..total).step_by(ROWS) {
        let rows = ROWS.min(total - start);
        work.max = [f32::NEG_INFINITY; ROWS];
        work.sum = [0.0; ROWS];
        work.acc.fill(0.0);
        let begin = query.visible(start / group).start / BLOCK;
        let end = query.visible((start + rows - 1) / group).end;
        for block in begin..end.div_ceil(BLOCK) {
            let first = block * BLOCK;
            let n = BLOCK.min(end - first);
            let keys = cached.keys(query.head, block, &mut work.floats);
            work.scores = [[0.0; BLOCK]; ROWS];
            for (i, m) in groups(rows) {
                let row = |r: usize| &query.q[at(start + i + r)..][..dim];
                let line = |d: usize| &keys[d * BLOCK..][..BLOCK];
                combine::<FMA>(m, row, line, (dim, BLOCK), &mut work.scores.as_flattened_mut()[i * BLOCK..]);
            }
            for i in 0..rows {
                let visible = query.visible((start + i) / group);
                let seen = visible.start.max(first) - first..visible.end.clamp(first, first + n) - first;
                update_row::<FMA>(query.heads, i, seen, work);
            }
            let values = cached.values(query.head, first, n, &mut work.floats);
            for (i, m) in groups(rows) {
                let row = |r: usize| &work.scores[i + r][..n];
                combine::<FMA>(m, row, |j| values.line(j), (n, dim), &mut work.acc[i * dim..]);
            }
        }
        for i in 0..rows {
            let inverse = 1.0 / work.sum[i];
            let target = &mut out[at(start + i)..][..dim];
            for (y, x) in target.iter_mut().zip(&work.acc[i * dim..]) {
                *y = x * inverse;
            }
        }
    }
}

/// The first row and the count of groups of one to three of `rows` rows.
///
/// An iterator, since the body of a loop is compiled for the instruction set
/// of the function around it, and a closure that is called twice is not.
#[inline(always)]
fn groups(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let (i, left) = (next, rows - next);
        let m = if left == 4 { 2 } else { left.min(3) };
        next += m;
        (m > 0).then_some((i, m))
    })
}

/// `out[r][..width] += sum_j row(r)[j] * line(j)[..width]` for `m <= 3` rows and
/// `n` lines: scores from queries and transposed keys, results from weights and
/// values.
#[inline(always)]
fn combine<'a, const FMA: bool>(
    m: usize,
    row: impl Fn(usize) -> &'a [f32],
    line: impl Fn(usize) -> &'a [f32],
    (n, width): (usize, usize),
    out: &mut [f32],
) {
    match m {
        1 => combine_rows::<FMA, 1>([row(0)], line, (n, width), out),
        2 => combine_rows::<FMA, 2>([row(0), row(1)], line, (n, width), out),
        _ => combine_rows::<FMA, 3>([row(0), row(1), row(2)], line, (n, width), out),
    }
}

#[inline(always)]
fn combine_rows<'a, const FMA: bool, const M: usize>(
    rows: [&[f32]; M],
    line: impl Fn(usize) -> &'a [f32],
    (n, width): (usize, usize),
    out: &mut [f32],
) {
    const WIDE: usize = 4;
    let mut at = 0;
    while at + WIDE * LANES <= width {
        combine_columns::<FMA, M, WIDE>(rows, &line, n, at..at + WIDE * LANES, out, width);
        at += WIDE * LANES;
    }
    while at < width {
        let end = width.min(at + LANES);
        combine_columns::<FMA, M, 1>(rows, &line, n, at..end, out, width);
        at = end;
    }
}

#[inline(always)]
fn combine_columns<'a, const FMA: bool, const M: usize, const C: usize>(
    rows: [&[f32]; M],
    line: &impl Fn(usize) -> &'a [f32],
    n: usize,
    columns: Range<usize>,
    out: &mut [f32],
    stride: usize,
) {
    let rows = rows.map(|row| &row[..n]);
    let mut sums = [[V8::ZERO; C]; M];
    for j in 0..n {
        let line = &line(j)[columns.clone()];
        for c in 0..C {
            let values = V8::load(&line[c * LANES..]);
            for (sums, row) in sums.iter_mut().zip(rows) {
                sums[c] = sums[c].add_product::<FMA>(V8::splat(row[j]), values);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let target = &mut out[r * stride..][columns.clone()];
        for (target, sum) in target.iter_mut().zip(sums.iter().flat_map(|v| v.0)) {
            *target += sum;
        }
    }
}

/// Turns the scores of row `i` into weights relative to the new running
/// maximum, and rescales what the row has accumulated.
#[inline(always)]
fn update_row<const FMA: bool>(heads: &Heads, i: usize, seen: Range<usize>, work: &mut Work) {
    let scores = &mut work.scores[i];
    if let Some(cap) = heads.softcap {
        for s in scores.iter_mut() {
            *s = cap * tanh::<FMA>(*s * heads.scale / cap);
        }
    } else {
        for s in scores.iter_mut() {
            *s *= heads.scale;
        }
    }
    let (start, end) = (seen.start as u32, seen.end as u32);
    for (s, j) in scores.iter_mut().zip(0u32..) {
        *s = if j >= start && j < end { *s } else { f32::NEG_INFINITY };
    }
    let lanes = scores.as_chunks::<LANES>().0.iter();
    let block_max = lanes.fold(V8::splat(f32::NEG_INFINITY), |m, s| m.zip(V8(*s), f32::max)).max();
    if block_max == f32::NEG_INFINITY {
        scores.fill(0.0);
        return;
    }
    let max = work.max[i].max(block_max);
    for s in scores.iter_mut() {
        *s = exp::<FMA>(*s - max);
    }
    let sum = scores.as_chunks::<LANES>().0.iter().fold(V8::ZERO, |a, s| a.zip(V8(*s), |a, b| a + b)).sum();
    if max > work.max[i] {
        let factor = exp::<FMA>(work.max[i] - max);
        work.sum[i] *= factor;
        let dim = heads.dim;
        for a in &mut work.acc[i * dim..(i + 1) * dim] {
            *a *= factor;
        }
        work.max[i] = max;
    }
    work.sum[i] += sum;
}

#[cfg(test)]
mod tests {
    use super::super::cache::{KvCache, KvType};
    use super::*;

    fn wave(n: usize, f: f64) -> Vec<f32> {
        (0..n).map(|i| ((i as f64 * f).sin() * 1.5) as f32).collect()
    }

    /// Straight from the definition, in f64.
    fn reference(
        heads: &Heads,
        q: &[f32],
        first: usize,
        window: Option<usize>,
        k: &[f32],
        v: &[f32],
    ) -> Vec<f64> {
        let (dim, kv) = (heads.dim, heads.keys * heads.dim);
        let mut out = Vec::new();
        for (t, q) in q.chunks(heads.queries * dim).enumerate() {
            for (h, q) in q.chunks(dim).enumerate() {
                let head = h / (heads.queries / heads.keys);
                let end = first + t + 1;
                let seen: Vec<_> = (window.map_or(0, |w| end.saturating_sub(w))..end).collect();
                let at = |rows: &[f32], j: usize, c: usize| f64::from(rows[j * kv + head * dim + c]);
                let score = |j: &usize| {
                    let s = (0..dim).map(|c| f64::from(q[c]) * at(k, *j, c)).sum::<f64>()
                        * f64::from(heads.scale);
                    heads.softcap.map_or(s, |cap| f64::from(cap) * (s / f64::from(cap)).tanh()).exp()
                };
                let weights: Vec<f64> = seen.iter().map(score).collect();
                let total: f64 = weights.iter().sum();
                out.extend(
                    (0..dim).map(|c| {
                        seen.iter().zip(&weights).map(|(j, w)| w / total * at(v, *j, c)).sum::<f64>()
                    }),
                );
            }
        }
        out
    }

    #[test]
    fn matches_the_definition() {
        for (queries, keys, dim) in [(4, 2, 32), (3, 1, 20), (40, 2, 16)] {
            for (past, n) in [(0, 1), (0, 7), (61, 1), (30, 70)] {
                for (window, softcap) in [(None, None), (Some(5), None), (Some(40), Some(2.0))] {
                    let heads = Heads { queries, keys, dim, scale: 0.3, softcap };
                    let kv = keys * dim;
                    let (k, v) = (wave((past + n) * kv, 0.37), wave((past + n) * kv, 0.91));
                    let q = wave(n * queries * dim, 0.53);
                    let want = reference(&heads, &q, past, window, &k, &v);
                    for (kind, bound) in [(KvType::F32, 2e-6), (KvType::F16, 5e-3), (KvType::Q8, 2e-2)] {
                        let mut cache = KvCache::new(kind, 1, keys, dim, past + n).unwrap();
                        cache.append(0, &k, &v);
                        let mut work = vec![Work::new(dim); keys];
                        let mut out = vec![f32::NAN; q.len()];
                        attend(&heads, &q, past, window, cache.layer(0).unwrap(), &mut work, &mut out);
                        for (a, b) in out.iter().zip(&want) {
                            assert!(
                                (f64::from(*a) - b).abs() < bound,
                                "{heads:?} {past}+{n} {kind:?}: {a} {b}"
                            );
                        }
                    }
                }
            }
        }
    }
}
