//! Which roles a layer must have, how large each tensor is, and their order.

use crate::source::config::SourceConfig;
use squizd_spec::{Part, Role};

/// Execution order within a layer.
const LAYER_ORDER: &[Role] = &[
    Role::ATTN_NORM,
    Role::ATTN_Q_A,
    Role::ATTN_Q_A_NORM,
    Role::ATTN_Q_B,
    Role::ATTN_Q,
    Role::ATTN_GATE,
    Role::ATTN_K,
    Role::ATTN_V,
    Role::ATTN_KV_A,
    Role::ATTN_KV_A_NORM,
    Role::ATTN_KV_B,
    Role::ATTN_Q_NORM,
    Role::ATTN_K_NORM,
    Role::LINEAR_ATTN_QKV,
    Role::LINEAR_ATTN_GATE,
    Role::LINEAR_ATTN_BETA,
    Role::LINEAR_ATTN_ALPHA,
    Role::LINEAR_ATTN_CONV,
    Role::LINEAR_ATTN_DT,
    Role::LINEAR_ATTN_A,
    Role::LINEAR_ATTN_NORM,
    Role::LINEAR_ATTN_OUTPUT,
    Role::ATTN_OUTPUT,
    Role::ATTN_POST_NORM,
    Role::FFN_NORM,
    Role::FFN_GATE,
    Role::FFN_UP,
    Role::FFN_DOWN,
    Role::MOE_ROUTER,
    Role::MOE_ROUTER_CORRECTION,
    Role::MOE_GATE,
    Role::MOE_UP,
    Role::MOE_DOWN,
    Role::SHARED_ROUTER,
    Role::SHARED_GATE,
    Role::SHARED_UP,
    Role::SHARED_DOWN,
    Role::FFN_POST_NORM,
];

/// Identity of a stored tensor. Its order is the file's: embedding, layers in
/// execution order, final norm, head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    section: u8,
    layer: u16,
    position: u8,
    /// Weight before bias.
    pub part: Part,
    /// What the tensor does.
    pub role: Role,
}

impl Key {
    /// `layer` is ignored for roles outside the layer stack.
    pub(super) fn new(role: Role, layer: u16, part: Part) -> Self {
        let section = match role {
            Role::TOKEN_EMBD => 0,
            Role::OUTPUT_NORM => 2,
            Role::OUTPUT => 3,
            _ => 1,
        };
        let position = LAYER_ORDER.iter().position(|&r| r == role).unwrap_or(LAYER_ORDER.len()) as u8;
        Self { section, layer: if section == 1 { layer } else { 0 }, position, part, role }
    }

    /// The layer, for roles that belong to one.
    pub(super) fn layer(self) -> Option<u16> {
        (self.section == 1).then_some(self.layer)
    }

    /// The stored name.
    pub(super) fn name(self) -> String {
        squizd_spec::canonical_name(self.role, self.layer(), self.part)
    }
}

/// Every tensor that the configuration calls for, in file order. The head is
/// among them unless `tied`.
pub(super) fn required(cfg: &SourceConfig, tied: bool) -> Vec<Key> {
    if cfg.family.is_unknown() {
        return Vec::new();
    }
    let mut keys =
        vec![Key::new(Role::TOKEN_EMBD, 0, Part::WEIGHT), Key::new(Role::OUTPUT_NORM, 0, Part::WEIGHT)];
    if !tied {
        keys.push(Key::new(Role::OUTPUT, 0, Part::WEIGHT));
    }
    for layer in 0..cfg.model.num_layers {
        let weights = |roles: &[Role], keys: &mut Vec<Key>| {
            keys.extend(roles.iter().map(|&r| Key::new(r, layer, Part::WEIGHT)));
        };
        attention(cfg, layer, &mut keys, weights);
        if cfg.is_moe(layer) {
            weights(&[Role::MOE_ROUTER, Role::MOE_GATE, Role::MOE_UP, Role::MOE_DOWN], &mut keys);
            if cfg.model.moe.as_ref().is_some_and(|m| m.sigmoid_scores) {
                keys.push(Key::new(Role::MOE_ROUTER_CORRECTION, layer, Part::BIAS));
            }
            if cfg.model.moe.as_ref().is_some_and(|m| m.shared_ffn_size.is_some()) {
                weights(&[Role::SHARED_GATE, Role::SHARED_UP, Role::SHARED_DOWN], &mut keys);
                if cfg.family.gated_attention {
                    weights(&[Role::SHARED_ROUTER], &mut keys);
                }
            }
        } else {
            weights(&[Role::FFN_GATE, Role::FFN_UP, Role::FFN_DOWN], &mut keys);
        }
    }
    keys.sort_unstable();
    keys
}

fn attention(cfg: &SourceConfig, layer: u16, keys: &mut Vec<Key>, weights: impl Fn(&[Role], &mut Vec<Key>)) {
    let linear = cfg.is_linear(layer);
    let of_softmax = |r: &Role| !matches!(*r, Role::ATTN_Q_NORM | Role::ATTN_K_NORM);
    let norms: Vec<Role> = cfg.family.norms.iter().copied().filter(|r| !linear || of_softmax(r)).collect();
    weights(&norms, keys);
    if linear {
        let roles =
            LAYER_ORDER.iter().copied().filter(|r| (80..=88).contains(&r.0) && *r != Role::LINEAR_ATTN_DT);
        weights(&roles.collect::<Vec<_>>(), keys);
        keys.push(Key::new(Role::LINEAR_ATTN_DT, layer, Part::BIAS));
        return;
    }
    weights(&[Role::ATTN_OUTPUT], keys);
    if let Some(mla) = &cfg.model.mla {
        weights(&[Role::ATTN_KV_A, Role::ATTN_KV_A_NORM, Role::ATTN_KV_B], keys);
        match mla.q_lora_rank {
            Some(_) => weights(&[Role::ATTN_Q_A, Role::ATTN_Q_A_NORM, Role::ATTN_Q_B], keys),
            None => weights(&[Role::ATTN_Q], keys),
        }
        return;
    }
    weights(&[Role::ATTN_Q, Role::ATTN_K, Role::ATTN_V], keys);
    if cfg.family.gated_attention {
        weights(&[Role::ATTN_GATE], keys);
    }
    if cfg.attention_bias || cfg.family.qkv_bias {
        keys.extend([Role::ATTN_Q, Role::ATTN_K, Role::ATTN_V].map(|r| Key::new(r, layer, Part::BIAS)));
    }
}

/// Stored dimensions of a tensor, outermost first; `vocab` is the embedding's
/// row count. `None` for a role that the configuration does not have.
pub(super) fn dims(cfg: &SourceConfig, key: Key, vocab: u64) -> Option<Vec<u64>> {
    let m = &cfg.model;
    let hidden = u64::from(m.hidden_size);
    let (heads, kv_heads) = (u64::from(m.num_heads), u64::from(m.num_kv_heads));
    let (head, ffn) = (u64::from(m.head_dim), u64::from(m.ffn_size));
    let mla = || {
        m.mla.as_ref().map(|a| {
            let [kv, nope, rope, value] =
                [a.kv_lora_rank, a.qk_nope_head_dim, a.qk_rope_head_dim, a.v_head_dim].map(u64::from);
            (a.q_lora_rank.map(u64::from), kv, nope, rope, value)
        })
    };
    let query = || match mla() {
        Some((_, _, nope, rope, _)) => heads * (nope + rope),
        None => heads * head,
    };
    let moe = || m.moe.as_ref().map(|e| (u64::from(e.num_experts), u64::from(e.expert_ffn_size)));
    let shared = || m.moe.as_ref().and_then(|e| e.shared_ffn_size).map(u64::from);
    let linear = || {
        cfg.linear.as_ref().map(|l| {
            let [kh, vh, kd, vd, width] =
                [l.key_heads, l.value_heads, l.key_dim, l.value_dim, l.conv_width].map(u64::from);
            (2 * kh * kd + vh * vd, vh * vd, vh, vd, width)
        })
    };
    let full = match key.role {
        Role::TOKEN_EMBD | Role::OUTPUT => vec![vocab, hidden],
        Role::OUTPUT_NORM | Role::ATTN_NORM | Role::ATTN_POST_NORM | Role::FFN_NORM | Role::FFN_POST_NORM => {
            vec![hidden]
        }
        Role::ATTN_Q => vec![query(), hidden],
        Role::ATTN_GATE => vec![heads * head, hidden],
        Role::ATTN_K | Role::ATTN_V => vec![kv_heads * head, hidden],
        Role::ATTN_OUTPUT => vec![hidden, mla().map_or(heads * head, |(.., value)| heads * value)],
        Role::ATTN_Q_NORM | Role::ATTN_K_NORM => vec![head],
        Role::ATTN_Q_A => vec![mla()?.0?, hidden],
        Role::ATTN_Q_A_NORM => vec![mla()?.0?],
        Role::ATTN_Q_B => vec![query(), mla()?.0?],
        Role::ATTN_KV_A => mla().map(|(_, kv, _, rope, _)| vec![kv + rope, hidden])?,
        Role::ATTN_KV_A_NORM => vec![mla()?.1],
        Role::ATTN_KV_B => mla().map(|(_, kv, nope, _, value)| vec![heads * (nope + value), kv])?,
        Role::FFN_GATE | Role::FFN_UP => vec![ffn, hidden],
        Role::FFN_DOWN => vec![hidden, ffn],
        Role::MOE_ROUTER => vec![moe()?.0, hidden],
        Role::MOE_ROUTER_CORRECTION => vec![moe()?.0],
        Role::MOE_GATE | Role::MOE_UP => moe().map(|(n, f)| vec![n, f, hidden])?,
        Role::MOE_DOWN => moe().map(|(n, f)| vec![n, hidden, f])?,
        Role::SHARED_GATE | Role::SHARED_UP => vec![shared()?, hidden],
        Role::SHARED_DOWN => vec![hidden, shared()?],
        Role::SHARED_ROUTER => vec![1, hidden],
        Role::LINEAR_ATTN_QKV => vec![linear()?.0, hidden],
        Role::LINEAR_ATTN_GATE => vec![linear()?.1, hidden],
        Role::LINEAR_ATTN_BETA | Role::LINEAR_ATTN_ALPHA => vec![linear()?.2, hidden],
        Role::LINEAR_ATTN_CONV => linear().map(|(channels, .., width)| vec![channels, 1, width])?,
        Role::LINEAR_ATTN_DT | Role::LINEAR_ATTN_A => vec![linear()?.2],
        Role::LINEAR_ATTN_NORM => vec![linear()?.3],
        Role::LINEAR_ATTN_OUTPUT => vec![hidden, linear()?.1],
        _ => return None,
    };
    let is_bias = key.part == Part::BIAS && full.len() > 1;
    Some(if is_bias { full.into_iter().take(1).collect() } else { full })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_order() {
        let key = |r, l| Key::new(r, l, Part::WEIGHT);
        let mut keys = [
            key(Role::OUTPUT, 0),
            key(Role::OUTPUT_NORM, 0),
            key(Role::FFN_DOWN, 0),
            key(Role::ATTN_NORM, 1),
            Key::new(Role::ATTN_Q, 0, Part::BIAS),
            key(Role::ATTN_K, 0),
            key(Role::ATTN_Q, 0),
            key(Role::TOKEN_EMBD, 0),
        ];
        keys.sort_unstable();
        let names: Vec<String> = keys.iter().map(|k| k.name()).collect();
        assert_eq!(
            names,
            [
                "token_embd.weight",
                "blk.0.attn_q.weight",
                "blk.0.attn_q.bias",
                "blk.0.attn_k.weight",
                "blk.0.ffn_down.weight",
                "blk.1.attn_norm.weight",
                "output_norm.weight",
                "output.weight"
            ]
        );
    }

    #[test]
    fn every_per_layer_role_has_a_place() {
        for &role in Role::ALL.iter().filter(|r| r.is_per_layer()) {
            assert_eq!(LAYER_ORDER.iter().filter(|&&r| r == role).count(), 1, "{role}");
        }
    }
}
