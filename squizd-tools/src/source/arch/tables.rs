//! What source tensor names mean: data, one slice per group of names.
//!
//! Hugging Face names are relative to one of [`HF_PREFIXES`]. `{l}` stands for
//! the layer and `{e}` for the expert.

use super::{Buffer, Entry, Fused, Target};
use squizd_spec::{Part, Role};

/// Where a text model's modules may hang, tried in this order.
pub(super) const HF_PREFIXES: &[&str] =
    &["language_model.model.", "model.language_model.", "language_model.", "model.", ""];

/// Name prefixes of parts that are not the text model's forward pass.
pub(super) const HF_AUXILIARY: &[(&str, &str)] = &[
    ("model.vision_tower.", "vision tower"),
    ("vision_tower.", "vision tower"),
    ("model.vision_model.", "vision tower"),
    ("vision_model.", "vision tower"),
    ("model.visual.", "vision tower"),
    ("visual.", "vision tower"),
    ("model.multi_modal_projector.", "vision projector"),
    ("multi_modal_projector.", "vision projector"),
    ("model.audio_tower.", "audio tower"),
    ("audio_tower.", "audio tower"),
    ("mtp.", "multi-token prediction head"),
    ("model.mtp.", "multi-token prediction head"),
];

/// The same for GGUF.
pub(super) const GGUF_AUXILIARY: &[(&str, &str)] = &[("v.", "vision tower"), ("mm.", "vision projector")];

const fn weight(name: &'static str, role: Role) -> Entry {
    Entry { name, target: Target::Whole(role, Part::WEIGHT) }
}

const fn bias(name: &'static str, role: Role) -> Entry {
    Entry { name, target: Target::Whole(role, Part::BIAS) }
}

const fn expert(name: &'static str, role: Role) -> Entry {
    Entry { name, target: Target::Expert(role) }
}

const fn fused(name: &'static str, how: Fused) -> Entry {
    Entry { name, target: Target::Fused(how) }
}

const fn buffer(name: &'static str, what: Buffer) -> Entry {
    Entry { name, target: Target::Buffer(what) }
}

/// Embedding, head, attention and gated feed-forward of every dense family.
pub(super) const HF_COMMON: &[Entry] = &[
    weight("embed_tokens.weight", Role::TOKEN_EMBD),
    weight("norm.weight", Role::OUTPUT_NORM),
    weight("lm_head.weight", Role::OUTPUT),
    weight("layers.{l}.input_layernorm.weight", Role::ATTN_NORM),
    weight("layers.{l}.self_attn.q_proj.weight", Role::ATTN_Q),
    bias("layers.{l}.self_attn.q_proj.bias", Role::ATTN_Q),
    weight("layers.{l}.self_attn.k_proj.weight", Role::ATTN_K),
    bias("layers.{l}.self_attn.k_proj.bias", Role::ATTN_K),
    weight("layers.{l}.self_attn.v_proj.weight", Role::ATTN_V),
    bias("layers.{l}.self_attn.v_proj.bias", Role::ATTN_V),
    weight("layers.{l}.self_attn.o_proj.weight", Role::ATTN_OUTPUT),
    bias("layers.{l}.self_attn.o_proj.bias", Role::ATTN_OUTPUT),
    weight("layers.{l}.mlp.gate_proj.weight", Role::FFN_GATE),
    bias("layers.{l}.mlp.gate_proj.bias", Role::FFN_GATE),
    weight("layers.{l}.mlp.up_proj.weight", Role::FFN_UP),
    bias("layers.{l}.mlp.up_proj.bias", Role::FFN_UP),
    weight("layers.{l}.mlp.down_proj.weight", Role::FFN_DOWN),
    bias("layers.{l}.mlp.down_proj.bias", Role::FFN_DOWN),
    buffer("rotary_emb.inv_freq", Buffer::Derived),
    buffer("layers.{l}.self_attn.rotary_emb.inv_freq", Buffer::Derived),
    buffer("layers.{l}.self_attn.rotary_emb.cos_cached", Buffer::Derived),
    buffer("layers.{l}.self_attn.rotary_emb.sin_cached", Buffer::Derived),
];

/// Pre-norm blocks: the second norm stands before the feed-forward block.
pub(super) const HF_PRE_NORM: &[Entry] =
    &[weight("layers.{l}.post_attention_layernorm.weight", Role::FFN_NORM)];

/// Gemma's sandwich norms: the same name is the norm after attention.
pub(super) const HF_SANDWICH_NORM: &[Entry] = &[
    weight("layers.{l}.post_attention_layernorm.weight", Role::ATTN_POST_NORM),
    weight("layers.{l}.pre_feedforward_layernorm.weight", Role::FFN_NORM),
    weight("layers.{l}.post_feedforward_layernorm.weight", Role::FFN_POST_NORM),
];

/// Per-head query and key norms.
pub(super) const HF_QK_NORM: &[Entry] = &[
    weight("layers.{l}.self_attn.q_norm.weight", Role::ATTN_Q_NORM),
    weight("layers.{l}.self_attn.k_norm.weight", Role::ATTN_K_NORM),
];

/// Phi's fused projections.
pub(super) const HF_PHI: &[Entry] = &[
    fused("layers.{l}.self_attn.qkv_proj.weight", Fused::Qkv(Part::WEIGHT)),
    fused("layers.{l}.self_attn.qkv_proj.bias", Fused::Qkv(Part::BIAS)),
    fused("layers.{l}.mlp.gate_up_proj.weight", Fused::GateUp),
];

/// Routed experts, one tensor each (hub files) or stacked (transformers 5).
pub(super) const HF_EXPERTS: &[Entry] = &[
    weight("layers.{l}.mlp.gate.weight", Role::MOE_ROUTER),
    expert("layers.{l}.mlp.experts.{e}.gate_proj.weight", Role::MOE_GATE),
    expert("layers.{l}.mlp.experts.{e}.up_proj.weight", Role::MOE_UP),
    expert("layers.{l}.mlp.experts.{e}.down_proj.weight", Role::MOE_DOWN),
    fused("layers.{l}.mlp.experts.gate_up_proj", Fused::ExpertGateUp),
    weight("layers.{l}.mlp.experts.down_proj", Role::MOE_DOWN),
];

/// Qwen's always-active expert and its gate.
pub(super) const HF_QWEN_SHARED: &[Entry] = &[
    weight("layers.{l}.mlp.shared_expert.gate_proj.weight", Role::SHARED_GATE),
    weight("layers.{l}.mlp.shared_expert.up_proj.weight", Role::SHARED_UP),
    weight("layers.{l}.mlp.shared_expert.down_proj.weight", Role::SHARED_DOWN),
    weight("layers.{l}.mlp.shared_expert_gate.weight", Role::SHARED_ROUTER),
];

/// Qwen3.5's gated attention: each head's query rows are followed by its gate
/// rows. Stands before [`HF_COMMON`], whose plain query it replaces.
pub(super) const HF_GATED_Q: &[Entry] = &[fused("layers.{l}.self_attn.q_proj.weight", Fused::GatedQuery)];

/// Qwen3.5's gated delta rule.
pub(super) const HF_LINEAR_ATTN: &[Entry] = &[
    weight("layers.{l}.linear_attn.in_proj_qkv.weight", Role::LINEAR_ATTN_QKV),
    weight("layers.{l}.linear_attn.in_proj_z.weight", Role::LINEAR_ATTN_GATE),
    weight("layers.{l}.linear_attn.in_proj_b.weight", Role::LINEAR_ATTN_BETA),
    weight("layers.{l}.linear_attn.in_proj_a.weight", Role::LINEAR_ATTN_ALPHA),
    weight("layers.{l}.linear_attn.conv1d.weight", Role::LINEAR_ATTN_CONV),
    bias("layers.{l}.linear_attn.dt_bias", Role::LINEAR_ATTN_DT),
    weight("layers.{l}.linear_attn.A_log", Role::LINEAR_ATTN_A),
    weight("layers.{l}.linear_attn.norm.weight", Role::LINEAR_ATTN_NORM),
    weight("layers.{l}.linear_attn.out_proj.weight", Role::LINEAR_ATTN_OUTPUT),
];

/// DeepSeek's latent attention and shared experts.
pub(super) const HF_DEEPSEEK: &[Entry] = &[
    weight("layers.{l}.self_attn.q_a_proj.weight", Role::ATTN_Q_A),
    bias("layers.{l}.self_attn.q_a_proj.bias", Role::ATTN_Q_A),
    weight("layers.{l}.self_attn.q_a_layernorm.weight", Role::ATTN_Q_A_NORM),
    weight("layers.{l}.self_attn.q_b_proj.weight", Role::ATTN_Q_B),
    weight("layers.{l}.self_attn.kv_a_proj_with_mqa.weight", Role::ATTN_KV_A),
    bias("layers.{l}.self_attn.kv_a_proj_with_mqa.bias", Role::ATTN_KV_A),
    weight("layers.{l}.self_attn.kv_a_layernorm.weight", Role::ATTN_KV_A_NORM),
    weight("layers.{l}.self_attn.kv_b_proj.weight", Role::ATTN_KV_B),
    weight("layers.{l}.mlp.shared_experts.gate_proj.weight", Role::SHARED_GATE),
    weight("layers.{l}.mlp.shared_experts.up_proj.weight", Role::SHARED_UP),
    weight("layers.{l}.mlp.shared_experts.down_proj.weight", Role::SHARED_DOWN),
    bias("layers.{l}.mlp.gate.e_score_correction_bias", Role::MOE_ROUTER_CORRECTION),
];

/// Names shared by all GGUF text models.
pub(super) const GGUF_COMMON: &[Entry] = &[
    weight("token_embd.weight", Role::TOKEN_EMBD),
    weight("output_norm.weight", Role::OUTPUT_NORM),
    weight("output.weight", Role::OUTPUT),
    weight("blk.{l}.attn_norm.weight", Role::ATTN_NORM),
    weight("blk.{l}.attn_q.weight", Role::ATTN_Q),
    bias("blk.{l}.attn_q.bias", Role::ATTN_Q),
    weight("blk.{l}.attn_k.weight", Role::ATTN_K),
    bias("blk.{l}.attn_k.bias", Role::ATTN_K),
    weight("blk.{l}.attn_v.weight", Role::ATTN_V),
    bias("blk.{l}.attn_v.bias", Role::ATTN_V),
    weight("blk.{l}.attn_output.weight", Role::ATTN_OUTPUT),
    bias("blk.{l}.attn_output.bias", Role::ATTN_OUTPUT),
    weight("blk.{l}.ffn_norm.weight", Role::FFN_NORM),
    weight("blk.{l}.ffn_gate.weight", Role::FFN_GATE),
    bias("blk.{l}.ffn_gate.bias", Role::FFN_GATE),
    weight("blk.{l}.ffn_up.weight", Role::FFN_UP),
    bias("blk.{l}.ffn_up.bias", Role::FFN_UP),
    weight("blk.{l}.ffn_down.weight", Role::FFN_DOWN),
    bias("blk.{l}.ffn_down.bias", Role::FFN_DOWN),
    buffer("rope_freqs.weight", Buffer::RopeFactors),
    buffer("blk.{l}.attn_rot_embd.weight", Buffer::Derived),
    buffer("blk.{l}.attn_rot_embd", Buffer::Derived),
];

/// Gemma's norms after attention and after the feed-forward block.
pub(super) const GGUF_SANDWICH_NORM: &[Entry] = &[
    weight("blk.{l}.post_attention_norm.weight", Role::ATTN_POST_NORM),
    weight("blk.{l}.post_ffw_norm.weight", Role::FFN_POST_NORM),
];

/// Per-head query and key norms.
pub(super) const GGUF_QK_NORM: &[Entry] = &[
    weight("blk.{l}.attn_q_norm.weight", Role::ATTN_Q_NORM),
    weight("blk.{l}.attn_k_norm.weight", Role::ATTN_K_NORM),
];

/// Phi's fused projections; `ffn_up` holds gate rows, then up rows. Stands
/// before [`GGUF_COMMON`], whose plain `ffn_up` it replaces.
pub(super) const GGUF_PHI: &[Entry] = &[
    fused("blk.{l}.attn_qkv.weight", Fused::Qkv(Part::WEIGHT)),
    fused("blk.{l}.attn_qkv.bias", Fused::Qkv(Part::BIAS)),
    fused("blk.{l}.ffn_up.weight", Fused::GateUp),
    buffer("rope_factors_long.weight", Buffer::LongFactors),
    buffer("rope_factors_short.weight", Buffer::ShortFactors),
];

/// Stacked routed experts.
pub(super) const GGUF_EXPERTS: &[Entry] = &[
    weight("blk.{l}.ffn_gate_inp.weight", Role::MOE_ROUTER),
    weight("blk.{l}.ffn_gate_exps.weight", Role::MOE_GATE),
    weight("blk.{l}.ffn_up_exps.weight", Role::MOE_UP),
    weight("blk.{l}.ffn_down_exps.weight", Role::MOE_DOWN),
    fused("blk.{l}.ffn_gate_up_exps.weight", Fused::ExpertGateUp),
];

/// DeepSeek's latent attention and shared experts. Files made before 2025-04
/// hold `attn_kv_b`; newer ones split it, keys transposed.
pub(super) const GGUF_DEEPSEEK: &[Entry] = &[
    weight("blk.{l}.attn_q_a.weight", Role::ATTN_Q_A),
    weight("blk.{l}.attn_q_a_norm.weight", Role::ATTN_Q_A_NORM),
    weight("blk.{l}.attn_q_b.weight", Role::ATTN_Q_B),
    weight("blk.{l}.attn_kv_a_mqa.weight", Role::ATTN_KV_A),
    weight("blk.{l}.attn_kv_a_norm.weight", Role::ATTN_KV_A_NORM),
    weight("blk.{l}.attn_kv_b.weight", Role::ATTN_KV_B),
    fused("blk.{l}.attn_k_b.weight", Fused::LatentKey),
    fused("blk.{l}.attn_v_b.weight", Fused::LatentValue),
    weight("blk.{l}.ffn_gate_shexp.weight", Role::SHARED_GATE),
    weight("blk.{l}.ffn_up_shexp.weight", Role::SHARED_UP),
    weight("blk.{l}.ffn_down_shexp.weight", Role::SHARED_DOWN),
    bias("blk.{l}.exp_probs_b.bias", Role::MOE_ROUTER_CORRECTION),
    bias("blk.{l}.exp_probs_b", Role::MOE_ROUTER_CORRECTION),
];
