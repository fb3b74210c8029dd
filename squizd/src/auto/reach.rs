//! How far a matrix' errors reach.
//!
//! The divergence of a model's output grows linearly with the relative squared
//! errors of its matrices (arXiv 2411.17525); the factor of each is its reach,
//! here relative to a middle block's average matrix. Measured by
//! `scripts/sensitivity.py` on a trained Qwen3 of 8 layers and on SmolLM2 of 30
//! (docs/results/sensitivity.md; geometric means of both, rounded):
//!
//! - queries and keys only move attention weights, values and down projections
//!   write into the residual stream what no later product of the block undoes;
//! - the first block's feed-forward writes the stream that everything else
//!   reads, the last one's is read by the head alone, undiluted by later blocks;
//! - an error in one block is one of `layers` contributions to the stream, an
//!   error in the head or the table acts on every token by itself: their reach
//!   against a block's matrix grows with the number of layers. Separated in the
//!   Qwen3 model, the head has three quarters of a tied matrix' reach.

use crate::source::TensorInfo;
use squizd_spec::Role;

/// Reach of the head, and of the embedding where it is only a table, for each
/// layer of the model.
const HEAD: f64 = 2.0;
const TABLE: f64 = 0.75;
/// What the feed-forward matrices of the first and of the last block have over
/// those between.
const FIRST: f64 = 2.0;
const LAST: f64 = 2.5;

/// The reach of `tensor` in a model of `layers` layers whose embedding is its
/// head if `tied`.
pub(super) fn reach(tensor: &TensorInfo, layers: u16, tied: bool) -> f64 {
    let per_layer = match tensor.role {
        Role::OUTPUT => HEAD,
        Role::TOKEN_EMBD if tied => HEAD + TABLE,
        Role::TOKEN_EMBD => TABLE,
        _ => return in_block(tensor.role) * place(tensor, layers),
    };
    per_layer * f64::from(layers.max(1))
}

/// Reach of a middle block's matrix.
fn in_block(role: Role) -> f64 {
    match role {
        Role::ATTN_Q | Role::ATTN_K | Role::ATTN_Q_A | Role::ATTN_Q_B => 0.35,
        Role::ATTN_V => 1.5,
        Role::ATTN_OUTPUT => 0.6,
        Role::FFN_DOWN | Role::MOE_DOWN | Role::SHARED_DOWN => 1.8,
        // Gate and up; and what was not measured.
        _ => 1.0,
    }
}

/// What the place among the layers makes of it.
fn place(tensor: &TensorInfo, layers: u16) -> f64 {
    let feeds_forward = matches!(
        tensor.role,
        Role::FFN_GATE
            | Role::FFN_UP
            | Role::FFN_DOWN
            | Role::MOE_GATE
            | Role::MOE_UP
            | Role::MOE_DOWN
            | Role::SHARED_GATE
            | Role::SHARED_UP
            | Role::SHARED_DOWN
    );
    match tensor.layer.filter(|_| feeds_forward) {
        Some(layer) if layer.saturating_add(1) >= layers => LAST,
        Some(0) => FIRST,
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{TensorSource, testing::MemorySource};

    #[test]
    fn heads_reach_farthest_and_queries_least() {
        let mut source = MemorySource::new(serde_json::json!({}));
        for (role, layer) in [
            (Role::TOKEN_EMBD, None),
            (Role::ATTN_Q, Some(1)),
            (Role::ATTN_V, Some(1)),
            (Role::FFN_UP, Some(0)),
            (Role::FFN_UP, Some(1)),
            (Role::FFN_UP, Some(3)),
            (Role::OUTPUT, None),
        ] {
            source.add_gaussian(role, layer, &[4, 2]);
        }
        let reaches = |tied| -> Vec<f64> { source.tensors().iter().map(|t| reach(t, 4, tied)).collect() };
        assert_eq!(reaches(false), [3.0, 0.35, 1.5, 2.0, 1.0, 2.5, 8.0]);
        assert_eq!(reaches(true)[0], 11.0);
        // A model of one layer: it is the last.
        assert_eq!(reach(&source.tensors()[3], 1, false), 2.5);
    }
}
