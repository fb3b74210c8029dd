//! Ranges that every configuration must keep, whatever its source.

use squizd::{Error, Result, model::ModelConfig, model::RopeScaling};
use squizd_spec::Limits;

/// Largest head count, width or position count that is believed.
const MAX_WIDTH: u32 = 1 << 24;

/// Checks `model`; `origin` names the file in messages.
pub(super) fn check(origin: &str, model: &ModelConfig) -> Result<()> {
    let widths = [
        ("hidden size", model.hidden_size),
        ("head width", model.head_dim),
        ("feed-forward width", model.ffn_size),
        ("number of heads", u32::from(model.num_heads)),
        ("number of key/value heads", u32::from(model.num_kv_heads)),
        ("number of layers", u32::from(model.num_layers)),
        ("rotary width", model.rope.dim),
    ];
    for (what, value) in widths {
        let most = if what == "number of layers" { u32::from(Limits::DEFAULT.layers) } else { MAX_WIDTH };
        if value == 0 || value > most {
            return Err(wrong(origin, what, &value, &format!("1 to {most}")));
        }
    }
    if model.max_positions == 0 {
        return Err(wrong(origin, "longest context", &0, "at least 1"));
    }
    if !model.num_heads.is_multiple_of(model.num_kv_heads) {
        let allowed = format!("a divisor of the {} query heads", model.num_heads);
        return Err(wrong(origin, "number of key/value heads", &model.num_kv_heads, &allowed));
    }
    if !model.rope.dim.is_multiple_of(2) || model.rope.dim > model.head_dim {
        let allowed = format!("even and at most the head width {}", model.head_dim);
        return Err(wrong(origin, "rotary width", &model.rope.dim, &allowed));
    }
    let positive = [
        ("norm epsilon", Some(model.norm_eps)),
        ("rope theta", Some(model.rope.theta)),
        ("local rope theta", model.rope.local_theta),
        ("attention scale", model.attn_scale),
        ("attention soft cap", model.attn_softcap),
        ("logit soft cap", model.logit_softcap),
    ];
    for (what, value) in positive {
        if let Some(v) = value.filter(|v| !(v.is_finite() && *v > 0.0)) {
            return Err(wrong(origin, what, &v, "a positive number"));
        }
    }
    if model.sliding_window == Some(0) {
        return Err(wrong(origin, "sliding window", &0, "at least 1"));
    }
    if let Some(moe) = &model.moe {
        let used = moe.experts_per_token;
        if moe.num_experts == 0 || used == 0 || used > moe.num_experts {
            let allowed = format!("1 to the number of experts, {}", moe.num_experts);
            return Err(wrong(origin, "experts per token", &used, &allowed));
        }
        if moe.expert_ffn_size == 0 || moe.expert_ffn_size > MAX_WIDTH || moe.shared_ffn_size == Some(0) {
            return Err(wrong(origin, "expert width", &moe.expert_ffn_size, &format!("1 to {MAX_WIDTH}")));
        }
    }
    if let Some(mla) = &model.mla {
        let widths = [mla.kv_lora_rank, mla.qk_rope_head_dim, mla.v_head_dim, mla.q_lora_rank.unwrap_or(1)];
        if widths.iter().any(|&w| w == 0 || w > MAX_WIDTH) || mla.qk_nope_head_dim > MAX_WIDTH {
            return Err(wrong(
                origin,
                "latent attention width",
                &format!("{mla:?}"),
                &format!("1 to {MAX_WIDTH}"),
            ));
        }
    }
    scaling(origin, model)
}

fn scaling(origin: &str, model: &ModelConfig) -> Result<()> {
    let half = (model.rope.dim / 2) as usize;
    let lists: &[&Vec<f64>] = match &model.rope.scaling {
        Some(RopeScaling::Longrope { short_factor, long_factor, .. }) => &[short_factor, long_factor],
        Some(RopeScaling::Factors { factors }) => &[factors],
        Some(
            RopeScaling::Linear { factor }
            | RopeScaling::Dynamic { factor, .. }
            | RopeScaling::Llama3 { factor, .. }
            | RopeScaling::Yarn { factor, .. },
        ) => {
            if !(factor.is_finite() && *factor > 0.0) {
                return Err(wrong(origin, "rope scaling factor", factor, "a positive number"));
            }
            &[]
        }
        None => &[],
    };
    for list in lists {
        if list.len() != half {
            let allowed = format!("half the rotary width, {half}");
            return Err(wrong(origin, "number of rope factors", &list.len(), &allowed));
        }
        if let Some(bad) = list.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
            return Err(wrong(origin, "rope factor", bad, "a positive number"));
        }
    }
    Ok(())
}

fn wrong(origin: &str, what: &str, found: &dyn std::fmt::Display, allowed: &str) -> Error {
    Error::refused("config-range", format!("{origin}: {what} is {found}; it must be {allowed}"))
}
