//! Architectures: which source tensor is what, for every known family.
//!
//! Everything that differs between families is data: name tables
//! ([`tables`]), required roles and shapes ([`shape`]), and a few switches in
//! [`Family`]. [`map`](self::map) turns a source's tensors into stored form.

mod assemble;
mod map;
mod name;
mod shape;
mod tables;
mod verify;

#[cfg(test)]
mod checkpoint_tests;
#[cfg(test)]
mod content_tests;
#[cfg(test)]
mod virtual_store;

#[cfg(test)]
pub(super) use checkpoint_tests::source_of;
pub use map::{Mapping, MappingOptions, map};

use squizd_spec::{Part, Role};
use tables as t;

/// Whose names and row order a source uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// Hugging Face checkpoints.
    Hf,
    /// GGUF files.
    Gguf,
}

/// One line of a name table.
#[derive(Clone, Copy, Debug)]
struct Entry {
    name: &'static str,
    target: Target,
}

/// What a source tensor becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// One stored tensor.
    Whole(Role, Part),
    /// One expert of a stacked tensor.
    Expert(Role),
    /// Several stored tensors, or a part of one in another order.
    Fused(Fused),
    /// No parameter.
    Buffer(Buffer),
}

/// Projections that sources keep in one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fused {
    /// Query, key, value rows.
    Qkv(Part),
    /// Gate rows, then up rows.
    GateUp,
    /// Per expert: gate rows, then up rows.
    ExpertGateUp,
    /// Per head: query rows, then gate rows.
    GatedQuery,
    /// Per head: the transposed key rows of `kv_b`.
    LatentKey,
    /// Per head: the value rows of `kv_b`.
    LatentValue,
}

/// Tensors that are no parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Buffer {
    /// Recomputed from the configuration.
    Derived,
    /// Divisors of the rotary frequencies: `metadata.model.rope`.
    RopeFactors,
    /// `LongRoPE`'s factors beyond the trained context.
    LongFactors,
    /// `LongRoPE`'s factors within it.
    ShortFactors,
}

/// Sliding-window habits of a family's `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Window {
    /// `sliding_window` holds for all layers.
    All,
    /// Only with `use_sliding_window`; layers from `max_window_layers` on.
    Upper,
    /// Only with `use_sliding_window`; all layers.
    Switched,
    /// Only with `use_sliding_window`; the layers without rotary embedding.
    NopeLayers,
    /// Every n-th layer is global, the others local.
    EveryNth(u32),
    /// The family has none.
    Never,
}

/// An architecture family.
#[derive(Debug)]
pub struct Family {
    /// `ModelConfig::family`.
    pub name: &'static str,
    /// `model_type` values of `config.json` (of the text model, where nested).
    pub hf_types: &'static [&'static str],
    /// `general.architecture` values of GGUF.
    pub gguf_archs: &'static [&'static str],
    /// Hugging Face names; earlier slices win.
    hf: &'static [&'static [Entry]],
    /// GGUF names; earlier slices win.
    gguf: &'static [&'static [Entry]],
    /// Roles that every layer has besides attention and feed-forward.
    norms: &'static [Role],
    /// Query, key and value always have biases.
    qkv_bias: bool,
    /// GGUF stores Q/K rows in interleaved rotary order.
    gguf_permuted: bool,
    /// Hugging Face stores norm gains as `w`, applied as `1 + w`.
    hf_norm_offset: bool,
    /// Attention has an output gate.
    gated_attention: bool,
    pub(super) window: Window,
}

/// A dense family with the common names; the others override what differs.
const DENSE: Family = Family {
    name: "llama",
    hf_types: &[],
    gguf_archs: &[],
    hf: &[t::HF_COMMON, t::HF_PRE_NORM],
    gguf: &[t::GGUF_COMMON],
    norms: &[Role::ATTN_NORM, Role::FFN_NORM],
    qkv_bias: false,
    gguf_permuted: false,
    hf_norm_offset: false,
    gated_attention: false,
    window: Window::Never,
};

const QK_NORM: &[Role] = &[Role::ATTN_NORM, Role::FFN_NORM, Role::ATTN_Q_NORM, Role::ATTN_K_NORM];

/// Every family, one entry each.
pub static FAMILIES: &[Family] = &[
    Family { name: "llama", hf_types: &["llama"], gguf_archs: &["llama"], gguf_permuted: true, ..DENSE },
    Family {
        name: "smollm3",
        hf_types: &["smollm3"],
        gguf_archs: &["smollm3"],
        gguf_permuted: true,
        window: Window::NopeLayers,
        ..DENSE
    },
    Family {
        name: "mistral",
        hf_types: &["mistral"],
        gguf_archs: &["mistral3"],
        gguf_permuted: true,
        window: Window::All,
        ..DENSE
    },
    Family {
        name: "qwen2",
        hf_types: &["qwen2"],
        gguf_archs: &["qwen2"],
        qkv_bias: true,
        window: Window::Upper,
        ..DENSE
    },
    Family {
        name: "qwen3",
        hf_types: &["qwen3"],
        gguf_archs: &["qwen3"],
        hf: &[t::HF_COMMON, t::HF_PRE_NORM, t::HF_QK_NORM],
        gguf: &[t::GGUF_COMMON, t::GGUF_QK_NORM],
        norms: QK_NORM,
        window: Window::Upper,
        ..DENSE
    },
    Family {
        name: "qwen3moe",
        hf_types: &["qwen3_moe"],
        gguf_archs: &["qwen3moe"],
        hf: &[t::HF_COMMON, t::HF_PRE_NORM, t::HF_QK_NORM, t::HF_EXPERTS],
        gguf: &[t::GGUF_COMMON, t::GGUF_QK_NORM, t::GGUF_EXPERTS],
        norms: QK_NORM,
        window: Window::Switched,
        ..DENSE
    },
    Family {
        name: "qwen35",
        hf_types: &["qwen3_5_text"],
        hf: &[t::HF_GATED_Q, t::HF_COMMON, t::HF_PRE_NORM, t::HF_QK_NORM, t::HF_LINEAR_ATTN],
        gguf_archs: &["qwen35"],
        gguf: &[],
        hf_norm_offset: true,
        gated_attention: true,
        norms: QK_NORM,
        ..DENSE
    },
    Family {
        name: "qwen35moe",
        hf_types: &["qwen3_5_moe_text"],
        hf: &[
            t::HF_GATED_Q,
            t::HF_COMMON,
            t::HF_PRE_NORM,
            t::HF_QK_NORM,
            t::HF_LINEAR_ATTN,
            t::HF_EXPERTS,
            t::HF_QWEN_SHARED,
        ],
        gguf_archs: &["qwen35moe"],
        gguf: &[],
        hf_norm_offset: true,
        gated_attention: true,
        norms: QK_NORM,
        ..DENSE
    },
    Family {
        name: "gemma2",
        hf_types: &["gemma2"],
        gguf_archs: &["gemma2"],
        hf: &[t::HF_COMMON, t::HF_SANDWICH_NORM],
        gguf: &[t::GGUF_COMMON, t::GGUF_SANDWICH_NORM],
        norms: &[Role::ATTN_NORM, Role::ATTN_POST_NORM, Role::FFN_NORM, Role::FFN_POST_NORM],
        hf_norm_offset: true,
        window: Window::EveryNth(2),
        ..DENSE
    },
    Family {
        name: "gemma3",
        hf_types: &["gemma3_text"],
        gguf_archs: &["gemma3"],
        hf: &[t::HF_COMMON, t::HF_SANDWICH_NORM, t::HF_QK_NORM],
        gguf: &[t::GGUF_COMMON, t::GGUF_SANDWICH_NORM, t::GGUF_QK_NORM],
        norms: &[
            Role::ATTN_NORM,
            Role::ATTN_Q_NORM,
            Role::ATTN_K_NORM,
            Role::ATTN_POST_NORM,
            Role::FFN_NORM,
            Role::FFN_POST_NORM,
        ],
        hf_norm_offset: true,
        window: Window::EveryNth(6),
        ..DENSE
    },
    Family {
        name: "phi3",
        hf_types: &["phi3"],
        gguf_archs: &["phi3"],
        hf: &[t::HF_PHI, t::HF_COMMON, t::HF_PRE_NORM],
        gguf: &[t::GGUF_PHI, t::GGUF_COMMON],
        window: Window::All,
        ..DENSE
    },
    Family {
        name: "deepseek2",
        hf_types: &["deepseek_v2", "deepseek_v3"],
        gguf_archs: &["deepseek2"],
        hf: &[t::HF_COMMON, t::HF_PRE_NORM, t::HF_EXPERTS, t::HF_DEEPSEEK],
        gguf: &[t::GGUF_COMMON, t::GGUF_EXPERTS, t::GGUF_DEEPSEEK],
        ..DENSE
    },
];

/// Any other architecture: nothing is known, everything is carried raw.
pub static UNKNOWN: Family = Family { name: "other", hf: &[], gguf: &[], norms: &[], ..DENSE };

impl Family {
    /// The family of a `model_type`.
    pub fn of_hf(model_type: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|f| f.hf_types.contains(&model_type))
    }

    /// The family of a `general.architecture`.
    pub fn of_gguf(arch: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|f| f.gguf_archs.contains(&arch))
    }

    /// The family called `name` in [`squizd::model::ModelConfig::family`].
    pub fn of_name(name: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|f| f.name == name)
    }

    /// Whether this is [`UNKNOWN`].
    pub fn is_unknown(&self) -> bool {
        self.name == UNKNOWN.name
    }

    /// Whether GGUF files of this family can be brought into stored form.
    pub fn reads_gguf(&self) -> bool {
        !self.gguf.is_empty()
    }

    fn tables(&self, naming: Naming) -> &'static [&'static [Entry]] {
        match naming {
            Naming::Hf => self.hf,
            Naming::Gguf => self.gguf,
        }
    }

    /// The meaning of a template, if the family has it.
    fn target(&self, naming: Naming, template: &str) -> Option<Target> {
        self.tables(naming).iter().flat_map(|t| t.iter()).find(|e| e.name == template).map(|e| e.target)
    }
}

/// `names` joined for a message, at most eight of them, then a count.
pub(super) fn some_of<S: AsRef<str>>(names: &[S]) -> String {
    let shown: Vec<&str> = names.iter().take(8).map(AsRef::as_ref).collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_within_and_across_families() {
        for f in FAMILIES {
            for tables in [f.hf, f.gguf] {
                for table in tables {
                    for (i, entry) in table.iter().enumerate() {
                        let again = table.iter().skip(i + 1).any(|e| e.name == entry.name);
                        assert!(!again, "{}: {} twice in one table", f.name, entry.name);
                    }
                }
            }
            assert_eq!(FAMILIES.iter().filter(|g| g.name == f.name).count(), 1);
            for ty in f.hf_types {
                assert_eq!(FAMILIES.iter().filter(|g| g.hf_types.contains(ty)).count(), 1, "{ty}");
            }
            for arch in f.gguf_archs {
                assert_eq!(FAMILIES.iter().filter(|g| g.gguf_archs.contains(arch)).count(), 1, "{arch}");
            }
        }
    }

    #[test]
    fn earlier_tables_win() {
        let phi = Family::of_name("phi3").unwrap();
        assert_eq!(phi.target(Naming::Gguf, "blk.{l}.ffn_up.weight"), Some(Target::Fused(Fused::GateUp)));
        let llama = Family::of_name("llama").unwrap();
        let up = Target::Whole(Role::FFN_UP, Part::WEIGHT);
        assert_eq!(llama.target(Naming::Gguf, "blk.{l}.ffn_up.weight"), Some(up));
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..10).map(|i| format!("t{i}")).collect();
        assert_eq!(some_of(&names), "t0, t1, t2, t3, t4, t5, t6, t7 and 2 more");
        assert_eq!(some_of(&["a"]), "a");
    }
}
