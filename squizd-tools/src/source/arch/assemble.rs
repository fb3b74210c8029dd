//! From one source tensor to the rows of the stored tensors that it feeds.

use super::{Fused, Naming, Target, shape, shape::Key};
use crate::source::{config::SourceConfig, pieces::Walk};
use squizd_spec::{Part, Role};

/// Rows of one stored tensor taken from one source tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub dst: u64,
    pub len: u64,
    pub src: u64,
    pub walk: Walk,
}

/// What a source tensor must look like, and what becomes of it.
pub(super) struct Plan {
    /// Dimensions that the configuration implies, outermost first.
    pub dims: Vec<u64>,
    /// Stored tensors with the rows taken for them.
    pub parts: Vec<(Key, Vec<Run>)>,
}

const IN_ORDER: Walk = Walk::Rows { stride: 1 };

/// `count` blocks of `len` rows, `src_period` apart in the source and
/// `dst_period` apart in the stored tensor.
fn blocks(count: u64, len: u64, src: (u64, u64), dst: (u64, u64)) -> Vec<Run> {
    (0..count).map(|b| Run { dst: dst.0 + b * dst.1, len, src: src.0 + b * src.1, walk: IN_ORDER }).collect()
}

fn all(rows: u64) -> Vec<Run> {
    vec![Run { dst: 0, len: rows, src: 0, walk: IN_ORDER }]
}

/// GGUF's LLAMA converters write row `(head, pair i, half p)` where Hugging
/// Face has `(head, half p, pair i)`; this takes every second row back.
fn half_split(heads: u64, head_dim: u64) -> Vec<Run> {
    let half = head_dim / 2;
    (0..heads * 2)
        .map(|i| {
            let (head, p) = (i / 2, i % 2);
            let walk = Walk::Rows { stride: 2 };
            Run { dst: head * head_dim + p * half, len: half, src: head * head_dim + p, walk }
        })
        .collect()
}

/// Rows of a stored tensor: elements for a vector.
pub(super) fn units(dims: &[u64]) -> u64 {
    match dims {
        [n] => *n,
        _ => dims.iter().rev().skip(1).product(),
    }
}

/// The plan for a tensor named by `target` in `layer`; `None` if the
/// configuration has no place for it.
pub(super) fn plan(
    cfg: &SourceConfig,
    naming: Naming,
    target: Target,
    layer: u16,
    expert: u32,
    vocab: u64,
) -> Option<Plan> {
    let m = &cfg.model;
    let weight = |role| Key::new(role, layer, Part::WEIGHT);
    let dims_of = |key: &Key| shape::dims(cfg, *key, vocab);
    match target {
        Target::Buffer(_) => None,
        Target::Whole(role, part) => {
            let key = Key::new(role, layer, part);
            let dims = dims_of(&key)?;
            let heads = match role {
                Role::ATTN_Q => m.num_heads,
                Role::ATTN_K => m.num_kv_heads,
                _ => 0,
            };
            let permuted = heads > 0 && naming == Naming::Gguf && cfg.family.gguf_permuted;
            let runs = if permuted {
                half_split(u64::from(heads), u64::from(m.head_dim))
            } else {
                all(units(&dims))
            };
            Some(Plan { dims, parts: vec![(key, runs)] })
        }
        Target::Expert(role) => {
            let key = weight(role);
            let [experts, rows, cols] = *dims_of(&key)?.as_slice() else { return None };
            let e = u64::from(expert);
            (e < experts).then(|| Plan {
                dims: vec![rows, cols],
                parts: vec![(key, blocks(1, rows, (0, 0), (e * rows, 0)))],
            })
        }
        Target::Fused(how) => fused(cfg, how, layer, &dims_of),
    }
}

fn fused(
    cfg: &SourceConfig,
    how: Fused,
    layer: u16,
    dims_of: &dyn Fn(&Key) -> Option<Vec<u64>>,
) -> Option<Plan> {
    let m = &cfg.model;
    let key = |role, part| Key::new(role, layer, part);
    let weight = |role| key(role, Part::WEIGHT);
    match how {
        Fused::Qkv(part) => {
            let keys = [Role::ATTN_Q, Role::ATTN_K, Role::ATTN_V].map(|r| key(r, part));
            let mut dims = dims_of(keys.first()?)?;
            let mut start = 0;
            let mut parts = Vec::with_capacity(3);
            for key in keys {
                let rows = units(&dims_of(&key)?);
                parts.push((key, blocks(1, rows, (start, 0), (0, 0))));
                start += rows;
            }
            *dims.first_mut()? = start;
            Some(Plan { dims, parts })
        }
        Fused::GateUp => {
            let [rows, cols] = *dims_of(&weight(Role::FFN_GATE))?.as_slice() else { return None };
            let part = |role, start| (weight(role), blocks(1, rows, (start, 0), (0, 0)));
            Some(Plan {
                dims: vec![2 * rows, cols],
                parts: vec![part(Role::FFN_GATE, 0), part(Role::FFN_UP, rows)],
            })
        }
        Fused::ExpertGateUp => {
            let [experts, rows, cols] = *dims_of(&weight(Role::MOE_GATE))?.as_slice() else { return None };
            let part = |role, start| (weight(role), blocks(experts, rows, (start, 2 * rows), (0, rows)));
            let parts = vec![part(Role::MOE_GATE, 0), part(Role::MOE_UP, rows)];
            Some(Plan { dims: vec![experts, 2 * rows, cols], parts })
        }
        Fused::GatedQuery => {
            let [rows, cols] = *dims_of(&weight(Role::ATTN_Q))?.as_slice() else { return None };
            let (heads, head) = (u64::from(m.num_heads), u64::from(m.head_dim));
            let part = |role, start| (weight(role), blocks(heads, head, (start, 2 * head), (0, head)));
            let parts = vec![part(Role::ATTN_Q, 0), part(Role::ATTN_GATE, head)];
            Some(Plan { dims: vec![2 * rows, cols], parts })
        }
        Fused::LatentKey | Fused::LatentValue => {
            let mla = m.mla.as_ref()?;
            let [latent, nope, value] =
                [mla.kv_lora_rank, mla.qk_nope_head_dim, mla.v_head_dim].map(u64::from);
            let heads = u64::from(m.num_heads);
            let (dims, runs) = if how == Fused::LatentKey {
                let mut runs = blocks(heads, nope, (0, latent), (0, nope + value));
                for run in &mut runs {
                    run.walk = Walk::Columns { height: latent };
                }
                (vec![heads, latent, nope], runs)
            } else {
                (vec![heads, value, latent], blocks(heads, value, (0, value), (nope, nope + value)))
            };
            Some(Plan { dims, parts: vec![(weight(Role::ATTN_KV_B), runs)] })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The converter's formula, `reshape(heads, 2, dim/2).swapaxes(1, 2)`,
    /// followed by ours, gives every row back.
    #[test]
    fn half_split_undoes_the_converters_permutation() {
        for (heads, dim) in [(1, 2), (3, 8), (9, 64), (5, 6)] {
            let rows = heads * dim;
            let permuted: Vec<u64> = (0..heads)
                .flat_map(|h| {
                    (0..dim / 2).flat_map(move |i| (0..2).map(move |p| h * dim + p * (dim / 2) + i))
                })
                .collect();
            let mut restored = vec![u64::MAX; rows as usize];
            for run in half_split(heads, dim) {
                let Walk::Rows { stride } = run.walk else { panic!("rows are moved whole") };
                for i in 0..run.len {
                    restored[(run.dst + i) as usize] = permuted[(run.src + i * stride) as usize];
                }
            }
            assert_eq!(restored, (0..rows).collect::<Vec<_>>(), "{heads} heads of {dim}");
        }
    }
}
