//! Which of llama.cpp's names hold the input of a tensor.

use squizd::source::TensorInfo;
use squizd_spec::{Part, Role};

/// llama.cpp's names of the weights that read the same input as a role, the
/// role's own first.
fn weights(role: Role) -> &'static [&'static str] {
    match role {
        Role::ATTN_Q => &["attn_q", "attn_qkv", "attn_k", "attn_v"],
        Role::ATTN_K => &["attn_k", "attn_qkv", "attn_q", "attn_v"],
        Role::ATTN_V => &["attn_v", "attn_qkv", "attn_q", "attn_k"],
        Role::ATTN_OUTPUT => &["attn_output"],
        Role::ATTN_Q_A => &["attn_q_a", "attn_kv_a_mqa"],
        Role::ATTN_KV_A => &["attn_kv_a_mqa", "attn_q_a"],
        Role::ATTN_Q_B => &["attn_q_b"],
        Role::ATTN_KV_B => &["attn_kv_b"],
        Role::FFN_GATE => &["ffn_gate", "ffn_up"],
        Role::FFN_UP => &["ffn_up", "ffn_gate"],
        Role::FFN_DOWN => &["ffn_down"],
        Role::MOE_GATE => &["ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps"],
        Role::MOE_UP => &["ffn_up_exps", "ffn_gate_exps", "ffn_gate_up_exps"],
        Role::MOE_DOWN => &["ffn_down_exps"],
        Role::SHARED_GATE => &["ffn_gate_shexp", "ffn_up_shexp"],
        Role::SHARED_UP => &["ffn_up_shexp", "ffn_gate_shexp"],
        Role::SHARED_DOWN => &["ffn_down_shexp"],
        // A tied embedding is also the output head.
        Role::OUTPUT | Role::TOKEN_EMBD => &["output"],
        _ => &[],
    }
}

/// Names to look for, in this order; none for what is no linear layer.
pub(super) fn candidates(tensor: &TensorInfo) -> Vec<String> {
    if tensor.part != Part::WEIGHT {
        return Vec::new();
    }
    let names = weights(tensor.role).iter();
    match tensor.layer {
        Some(layer) => names.map(|name| format!("blk.{layer}.{name}.weight")).collect(),
        None => names.map(|name| format!("{name}.weight")).collect(),
    }
}
