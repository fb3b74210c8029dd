//! What the inputs of the linear layers look like on a text, so that encoders
//! can weigh their errors by what they do to the outputs.
//!
//! Tensors that read the same input share its moments: the input has one name,
//! that of the first tensor reading it (`blk.0.attn_q.input` for query, key and
//! value).

mod collect;
mod shared;

pub use collect::{Collected, CollectedSink, Detail, collect, memory, session_options};
pub use shared::{Moments, Shared};

use crate::{Result, codec::InputMoments, source::TensorInfo};
use squizd_spec::{Part, Role};

/// Input moments from a calibration, found by what a tensor does.
pub trait Calibration: Sync {
    /// The moments of the inputs of `tensor`: one set, or one for each expert of
    /// a stack; `None` where the calibration knows nothing of it.
    ///
    /// Reads them anew each time; [`Shared`] keeps them for all tensors with one
    /// input.
    ///
    /// # Errors
    /// If they do not fit the tensor's shape, or cannot be read.
    fn moments(&self, tensor: &TensorInfo) -> Result<Option<Vec<InputMoments>>>;

    /// SHA-256 of the calibration data. Reads all of it, so it is asked for
    /// once, beside the encoding; `stop` says whether to give up.
    ///
    /// # Errors
    /// If reading fails, or `stop` said so.
    fn sha256(&self, stop: &dyn Fn() -> bool) -> Result<[u8; 32]>;
}

/// The role that stands for all tensors with the same input as `role`; `None`
/// for what is no linear layer.
pub fn input_role(role: Role) -> Option<Role> {
    Some(match role {
        Role::ATTN_Q | Role::ATTN_K | Role::ATTN_V => Role::ATTN_Q,
        Role::FFN_GATE | Role::FFN_UP => Role::FFN_GATE,
        Role::MOE_GATE | Role::MOE_UP => Role::MOE_GATE,
        Role::ATTN_OUTPUT | Role::FFN_DOWN | Role::MOE_DOWN | Role::OUTPUT => role,
        // A tied embedding is also the output head.
        Role::TOKEN_EMBD => Role::OUTPUT,
        _ => return None,
    })
}

/// The name of the input that a tensor of this role and layer reads.
pub fn input_name(role: Role, layer: Option<u16>) -> Option<String> {
    let role = input_role(role)?;
    Some(match layer {
        Some(layer) => format!("blk.{layer}.{role}.input"),
        None => format!("{role}.input"),
    })
}

/// The name of the input that `tensor` reads, if it is a linear layer's weight.
pub fn input_of(tensor: &TensorInfo) -> Option<String> {
    (tensor.part == Part::WEIGHT).then(|| input_name(tensor.role, tensor.layer)).flatten()
}

/// The side `n` of a triangle of `n (n + 1) / 2` values.
pub fn triangle_side(values: usize) -> Option<usize> {
    let twice = values.checked_mul(2)?;
    let n = (twice as f64).sqrt() as usize;
    (n.saturating_sub(1)..=n + 1).find(|n| n.checked_mul(n + 1) == Some(twice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_named_after_the_first_reader() {
        assert_eq!(input_name(Role::ATTN_V, Some(3)).unwrap(), "blk.3.attn_q.input");
        assert_eq!(input_name(Role::FFN_UP, Some(0)).unwrap(), "blk.0.ffn_gate.input");
        assert_eq!(input_name(Role::TOKEN_EMBD, None).unwrap(), "output.input");
        assert_eq!(input_name(Role::ATTN_NORM, Some(0)), None);
    }

    #[test]
    fn triangles_have_sides() {
        for n in [0usize, 1, 2, 3, 576, 12_288] {
            assert_eq!(triangle_side(n * (n + 1) / 2), Some(n));
        }
        for none in [2, 4, 5, 166_177, usize::MAX] {
            assert_eq!(triangle_side(none), None);
        }
    }
}
