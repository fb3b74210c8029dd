//! Combinations of model and codec that were measured to be broken. `convert`
//! refuses them unless it is forced, `inspect` warns of files that are one.
//!
//! A rule is about whole models: it applies where more than half of the weights
//! in the layer stack's matrices have the codec. The figures are the source
//! documents' and this project's own; `docs/rules.md` shows the table.

use crate::model::ModelConfig;
use squizd_spec::{CodecId, Part, Role};
use std::ops::RangeInclusive;

/// A combination that does not work.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Stable name.
    pub id: &'static str,
    /// Name of the codec.
    pub codec: &'static str,
    /// Family; `None` for all.
    pub family: Option<&'static str>,
    /// Weights of the model.
    pub weights: RangeInclusive<u64>,
    /// Whether rounding that is compensated by calibration lifts it.
    pub lifted_by_calibration: bool,
    /// What was measured, and where that is written.
    pub measured: &'static str,
    /// What to do instead.
    pub instead: &'static str,
}

/// Every rule.
pub const RULES: &[Rule] = &[
    Rule {
        id: "int3-small-gemma3",
        codec: "int3",
        family: Some("gemma3"),
        weights: 0..=4_600_000_000,
        lifted_by_calibration: false,
        measured: "INT3 costs gemma-3 models up to 4B about 15 points of arc_easy (strategic-plan-sqint2: BLOCKED)",
        instead: "use int4, or auto with a target of 4 bits",
    },
    Rule {
        id: "int3-qwen3-4b",
        codec: "int3",
        family: Some("qwen3"),
        weights: 3_500_000_000..=4_600_000_000,
        lifted_by_calibration: false,
        measured: "INT3 costs Qwen3-4B 14.8 points of arc_easy (strategic-plan-sqint2: BLOCKED)",
        instead: "use int4, or auto with a target of 4 bits",
    },
    Rule {
        id: "int2-naive",
        codec: "int2",
        family: None,
        weights: 0..=u64::MAX,
        lifted_by_calibration: true,
        measured: "INT2 without rotation and compensation answers about at random: 29 % on arc_easy \
                   (strategic-plan-sqint2: NEVER SHIP), a perplexity of 73,600 for 17.7 on SmolLM2-135M (codecs.md)",
        instead: "use sqint2, or give --calibration",
    },
];

/// One stored or planned tensor, as far as rules look at it.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    /// Codec.
    pub codec: CodecId,
    /// What it does.
    pub role: Role,
    /// Its layer.
    pub layer: Option<u16>,
    /// Weight or bias.
    pub part: Part,
    /// Weights.
    pub elements: u64,
}

/// The rules that a model stored in this way breaks. `calibrated` says whether
/// its errors were compensated by calibration.
pub fn broken(
    model: &ModelConfig,
    tensors: impl IntoIterator<Item = Judged>,
    calibrated: bool,
) -> Vec<&'static Rule> {
    let tensors: Vec<Judged> = tensors.into_iter().collect();
    let weights = tensors.iter().map(|t| t.elements).fold(0, u64::saturating_add);
    let is_norm = |role: Role| role.name().is_some_and(|n| n.ends_with("_norm"));
    let stack: Vec<_> =
        tensors.iter().filter(|t| t.layer.is_some() && t.part == Part::WEIGHT && !is_norm(t.role)).collect();
    let sum = |codec: Option<&str>| -> u128 {
        let with = stack.iter().filter(|t| codec.is_none() || t.codec.name() == codec);
        with.map(|t| u128::from(t.elements)).sum()
    };
    let all = sum(None);
    let applies = |rule: &&Rule| {
        rule.family.is_none_or(|f| f == model.family)
            && rule.weights.contains(&weights)
            && !(rule.lifted_by_calibration && calibrated)
            && 2 * sum(Some(rule.codec)) > all
    };
    RULES.iter().filter(applies).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::MemorySource;
    use serde_json::json;

    /// The ids of rules that a model of `billions` breaks with `share` of its
    /// stack in a codec of this name, whether or not this build has it.
    fn ids(family: &str, billions: f64, codec: &str, share: f64, calibrated: bool) -> Vec<&'static str> {
        let model = MemorySource::new(json!({ "family": family })).model;
        let total = (billions * 1e9) as u64;
        let part = (total as f64 * share) as u64;
        let tensor = |codec, elements, layer: Option<u16>| Judged {
            codec,
            role: if layer.is_none() { Role::TOKEN_EMBD } else { Role::FFN_UP },
            layer,
            part: Part::WEIGHT,
            elements,
        };
        let codec = CodecId::from_name(codec).unwrap();
        let tensors = [
            tensor(codec, part, Some(1)),
            tensor(CodecId::INT4, total - part - total / 10, Some(2)),
            tensor(codec, total / 10, None),
        ];
        broken(&model, tensors, calibrated).iter().map(|r| r.id).collect()
    }

    #[test]
    fn the_measured_combinations_are_found_and_no_others() {
        assert_eq!(ids("gemma3", 4.3, "int3", 0.8, true), ["int3-small-gemma3"]);
        assert_eq!(ids("gemma3", 1.0, "int3", 0.8, false), ["int3-small-gemma3"]);
        assert_eq!(ids("qwen3", 4.0, "int3", 0.8, false), ["int3-qwen3-4b"]);
        for (family, billions, share) in [
            ("gemma3", 12.0, 0.8),
            ("qwen3", 1.7, 0.8),
            ("qwen3", 8.2, 0.8),
            ("qwen2", 4.0, 0.8),
            ("gemma3", 4.3, 0.4),
        ] {
            assert!(ids(family, billions, "int3", share, false).is_empty(), "{family} {billions} {share}");
        }
        assert_eq!(ids("llama", 8.0, "int2", 0.8, false), ["int2-naive"]);
        assert!(ids("llama", 8.0, "int2", 0.8, true).is_empty());
        assert!(ids("llama", 8.0, "int2", 0.3, false).is_empty());
        assert!(ids("gemma3", 4.3, "int4", 0.8, false).is_empty());
        assert!(ids("llama", 8.0, "sqint2", 0.8, false).is_empty());
    }

    #[test]
    fn ids_are_distinct_and_documented() {
        let text = include_str!("../../docs/rules.md");
        for (i, rule) in RULES.iter().enumerate() {
            assert!(RULES[..i].iter().all(|r| r.id != rule.id));
            assert!(text.contains(&format!("`{}`", rule.id)), "docs/rules.md lacks {}", rule.id);
        }
    }
}
