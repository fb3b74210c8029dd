//! Grouped-query attention with a causal mask and an optional sliding window.
//!
//! Scores are taken over blocks of [`KEYS`] positions with the running-maximum
//! softmax of FlashAttention (arXiv 2205.14135): with block maximum m', running
//! maximum m and m* = max(m, m'), the sums so far are scaled by e^(m - m*) and
//! the block adds e^(s - m*) v. Memory does not grow with the context, and each
//! key and value is read once for all queries that share its head.

use super::cache::KvRows;
use super::lanes::{LANES, V8, exp, mul_add, multiversion, tanh};
use super::math::dot_rows;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

/// Positions per block.
const KEYS: usize = 32;
/// Query rows handled together.
const ROWS: usize = 16;
/// Multiply-adds below which threads cost more than they bring.
const SERIAL_WORK: usize = 1 << 16;

/// What is the same for every layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    /// Query heads.
    pub(super) queries: usize,
    /// Key/value heads; divides `queries`.
    pub(super) keys: usize,
    /// Width of a head.
    pub(super) dim: usize,
    /// Factor on the scores.
    pub(super) scale: f32,
    /// `cap * tanh(score / cap)`.
    pub(super) softcap: Option<f32>,
}

impl Heads {
    fn group(&self) -> usize {
        self.queries / self.keys
    }
}

/// Buffers of one task.
#[derive(Clone, Debug)]
pub(super) struct Work {
    scores: [[f32; KEYS]; ROWS],
    max: [f32; ROWS],
    sum: [f32; ROWS],
    acc: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Work {
    pub(super) fn new(head_dim: usize) -> Self {
        Self {
            scores: [[0.0; KEYS]; ROWS],
            max: [0.0; ROWS],
            sum: [0.0; ROWS],
            acc: vec![0.0; ROWS * head_dim],
            keys: vec![0.0; KEYS * head_dim],
            values: vec![0.0; KEYS * head_dim],
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
    fn visible(&self, token: usize) -> std::ops::Range<usize> {
        let end = self.first + token + 1;
        self.window.map_or(0, |w| end.saturating_sub(w))..end
    }
}

/// Attention of `n` queries at positions `first..first + n` over the cache,
/// which already holds them. `q` and `out` are `[n, heads, dim]`; `work` has one
/// entry per key/value head.
pub(super) fn attend(
    heads: &Heads,
    q: &[f32],
    first: usize,
    window: Option<usize>,
    (k, v): (&KvRows, &KvRows),
    work: &mut [Work],
    out: &mut [f32],
) {
    let stride = heads.queries * heads.dim;
    let n = q.len() / stride;
    let width = heads.group() * heads.dim;
    if n == 1 {
        let one = |(head, ((q, out), work)): (usize, ((&[f32], &mut [f32]), &mut Work))| {
            attend_head(&Query { heads, q, stride, tokens: 1, first, window, head }, k, v, work, out);
        };
        let seen = window.map_or(first + 1, |w| w.min(first + 1));
        if 2 * seen * stride < SERIAL_WORK {
            q.chunks(width).zip(out.chunks_mut(width)).zip(work).enumerate().for_each(one);
        } else {
            q.par_chunks(width).zip(out.par_chunks_mut(width)).zip(work).enumerate().for_each(one);
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
                let first = first + i * tile;
                attend_head(&Query { heads, q, stride, tokens, first, window, head }, k, v, work, out);
            }
        },
    );
}

multiversion! {
    /// All queries that share one key/value head; `out` is laid out as `query.q`.
    fn attend_head(query: &Query<'_>, k: &KvRows, v: &KvRows, work: &mut Work, out: &mut [f32]) =
        attend_head_body;
}

#[inline(always)]
fn attend_head_body<const FMA: bool>(
    query: &Query<'_>,
    k: &KvRows,
    v: &KvRows,
    work: &mut Work,
    out: &mut [f32],
) {
    let (group, dim) = (query.heads.group(), query.heads.dim);
    let total = query.tokens * group;
    // Row r of the group: token r / group, head r % group.
    let at = |r: usize| (r / group) * query.stride + (r % group) * dim;
    for start in (0..total).step_by(ROWS) {
        let rows = ROWS.min(total - start);
        work.max = [f32::NEG_INFINITY; ROWS];
        work.sum = [0.0; ROWS];
        work.acc.fill(0.0);
        let begin = query.visible(start / group).start;
        let end = query.visible((start + rows - 1) / group).end;
        for block in (begin..end).step_by(KEYS) {
            let n = KEYS.min(end - block);
            let (keys, stride) = block_rows(k, query, block, n, &mut work.keys);
            let row = |i: usize| &query.q[at(start + i)..][..dim];
            let key = |j: usize| &keys[j * stride..][..dim];
            dot_rows::<FMA>(rows, row, n, key, work.scores.as_flattened_mut(), KEYS);
            for i in 0..rows {
                let visible = query.visible((start + i) / group);
                let seen = visible.start.max(block) - block..visible.end.min(block + n).max(block) - block;
                update_row::<FMA>(query.heads, i, seen, work);
            }
            let (values, stride) = block_rows(v, query, block, n, &mut work.values);
            accumulate::<FMA>(&work.scores[..rows], values, stride, (n, dim), &mut work.acc);
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

/// Rows `block..block + n` of one head as floats, with their stride.
#[inline(always)]
fn block_rows<'a>(
    rows: &'a KvRows,
    query: &Query<'_>,
    block: usize,
    n: usize,
    buffer: &'a mut [f32],
) -> (&'a [f32], usize) {
    let dim = query.heads.dim;
    let stride = query.heads.keys * dim;
    let start = block * stride + query.head * dim;
    match rows {
        KvRows::F32(rows) => (&rows[start..], stride),
        KvRows::F16(rows) => {
            for (i, target) in buffer.chunks_exact_mut(dim).take(n).enumerate() {
                rows[start + i * stride..][..dim].convert_to_f32_slice(target);
            }
            (buffer, dim)
        }
    }
}

/// Turns the scores of row `i` into weights relative to the new running
/// maximum, and rescales what the row has accumulated.
#[inline(always)]
fn update_row<const FMA: bool>(heads: &Heads, i: usize, seen: std::ops::Range<usize>, work: &mut Work) {
    let scores = &mut work.scores[i];
    for (j, s) in scores.iter_mut().enumerate() {
        let scaled = *s * heads.scale;
        let capped = heads.softcap.map_or(scaled, |cap| cap * tanh::<FMA>(scaled / cap));
        *s = if seen.contains(&j) { capped } else { f32::NEG_INFINITY };
    }
    let block_max = scores
        .as_chunks::<LANES>()
        .0
        .iter()
        .fold(V8::splat(f32::NEG_INFINITY), |m, s| m.zip(V8(*s), f32::max))
        .max();
    if block_max == f32::NEG_INFINITY {
        scores.fill(0.0);
        return;
    }
    let max = work.max[i].max(block_max);
    let mut sum = V8::ZERO;
    for s in scores.as_chunks_mut::<LANES>().0 {
        let weights = V8(*s).map(|x| exp::<FMA>(x - max));
        sum = sum.zip(weights, |a, b| a + b);
        *s = weights.0;
    }
    if max > work.max[i] {
        let factor = exp::<FMA>(work.max[i] - max);
        work.sum[i] *= factor;
        let dim = heads.dim;
        for a in &mut work.acc[i * dim..(i + 1) * dim] {
            *a *= factor;
        }
        work.max[i] = max;
    }
    work.sum[i] += sum.sum();
}

/// `acc[i] += sum_j weights[i][j] * values[j]` for `n` values of `dim` numbers.
#[inline(always)]
fn accumulate<const FMA: bool>(
    weights: &[[f32; KEYS]],
    values: &[f32],
    stride: usize,
    (n, dim): (usize, usize),
    acc: &mut [f32],
) {
    let mut groups = weights.chunks_exact(4);
    let mut rows = acc.chunks_mut(dim);
    for group in &mut groups {
        let group: [_; 4] = std::array::from_fn(|i| &group[i]);
        let targets: [_; 4] = std::array::from_fn(|_| rows.next().unwrap_or_default());
        accumulate_rows::<FMA, 4>(group, values, stride, n, targets);
    }
    for row in groups.remainder() {
        accumulate_rows::<FMA, 1>([row], values, stride, n, [rows.next().unwrap_or_default()]);
    }
}

#[inline(always)]
fn accumulate_rows<const FMA: bool, const M: usize>(
    weights: [&[f32; KEYS]; M],
    values: &[f32],
    stride: usize,
    n: usize,
    mut acc: [&mut [f32]; M],
) {
    const COLUMNS: usize = 2;
    let dim = acc[0].len();
    let whole = dim - dim % (COLUMNS * LANES);
    for at in (0..whole).step_by(COLUMNS * LANES) {
        let mut sums: [[V8; COLUMNS]; M] =
            std::array::from_fn(|i| std::array::from_fn(|c| V8::load(&acc[i][at + c * LANES..])));
        for j in 0..n {
            let row = &values[j * stride + at..][..COLUMNS * LANES];
            let v: [V8; COLUMNS] = std::array::from_fn(|c| V8::load(&row[c * LANES..]));
            for (sums, weights) in sums.iter_mut().zip(weights) {
                let w = V8::splat(weights[j]);
                for (sum, v) in sums.iter_mut().zip(v) {
                    *sum = sum.add_product::<FMA>(w, v);
                }
            }
        }
        for (target, sums) in acc.iter_mut().zip(sums) {
            for (target, sum) in target[at..].chunks_exact_mut(LANES).zip(sums) {
                target.copy_from_slice(&sum.0);
            }
        }
    }
    for (target, weights) in acc.iter_mut().zip(weights) {
        for (c, target) in target.iter_mut().enumerate().skip(whole) {
            for (j, w) in weights.iter().enumerate().take(n) {
                *target = mul_add::<FMA>(*w, values[j * stride + c], *target);
            }
        }
    }
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
                    for (kind, bound) in [(KvType::F32, 2e-6), (KvType::F16, 5e-3)] {
                        let mut cache = KvCache::new(kind, 1, kv, past + n).unwrap();
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
