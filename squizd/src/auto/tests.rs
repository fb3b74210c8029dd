//! Budgets on a small model.

use super::*;
use crate::codec::InputMoments;
use crate::source::testing::MemorySource;
use serde_json::json;
use squizd_spec::{CodecId, Role};

/// Projections of which the last has outliers, a norm, and an embedding.
fn source() -> MemorySource {
    let mut source = MemorySource::new(json!({ "tie_embeddings": false }));
    source.add_gaussian(Role::TOKEN_EMBD, None, &[64, 256]);
    source.add_gaussian(Role::ATTN_NORM, Some(0), &[256]);
    for role in [Role::ATTN_Q, Role::ATTN_OUTPUT, Role::FFN_GATE] {
        source.add_gaussian(role, Some(0), &[128, 256]);
    }
    source.add_gaussian(Role::FFN_UP, Some(0), &[128, 256]);
    // One weight of eight deviations in 64 widens the steps of all of them.
    for v in source.values.last_mut().unwrap().iter_mut().step_by(64) {
        *v = 1.0;
    }
    source
}

fn candidates(names: &[&str]) -> Vec<CodecChoice> {
    names.iter().map(|n| n.parse().unwrap()).collect()
}

fn plan(source: &MemorySource, recipe: &Recipe, budget: Budget) -> Result<(Plan, Chosen)> {
    let chosen = choose(
        source,
        recipe,
        &candidates(&["int4:g64", "int4:g16", "q8", "f16"]),
        budget,
        None,
        |_| Ok(()),
    )?;
    let recipe = Recipe { chosen: chosen.codecs.clone(), ..recipe.clone() };
    Ok((Plan::choose(source, &recipe)?, chosen))
}

#[test]
fn budgets_are_met_from_below_and_errors_fall_with_them() {
    let source = source();
    let recipe = Recipe::new("int4".parse().unwrap());
    let weights: u64 = source.infos.iter().map(TensorInfo::elements).sum();
    let mut last = f64::INFINITY;
    for bits in [4.9, 5.5, 6.5, 8.0, 9.5, 12.0, 16.1] {
        let (plan, chosen) = plan(&source, &recipe, Budget::BitsPerWeight(bits)).unwrap();
        let bytes: u64 = plan.tensors.iter().map(|t| t.length.max()).sum();
        let used = bytes as f64 * 8.0 / weights as f64;
        assert!(used <= bits, "{used} of {bits}");
        assert!(chosen.error <= last, "{bits}: {} after {last}", chosen.error);
        last = chosen.error;
        let norm = &plan.tensors[1];
        assert_eq!((norm.codec, norm.reason), (CodecId::RAW_F32, Reason::KeptRaw));
    }
    assert!(last < 1e-6, "16 bits hold everything: {last}");
    let bytes = Budget::Bytes(200_000);
    let (plan_bytes, _) = plan(&source, &recipe, bytes).unwrap();
    assert!(plan_bytes.payload_bytes() <= 200_000);
    let message = plan(&source, &recipe, Budget::BitsPerWeight(3.0)).unwrap_err().to_string();
    assert!(message.contains("cheapest candidates need"), "{message}");
}

#[test]
fn the_hard_tensor_gets_the_bits() {
    let source = source();
    let recipe = Recipe::new("int4".parse().unwrap());
    // Room for one matrix at 8 bits, the others at 4.5.
    let (plan, _) = plan(&source, &recipe, Budget::BitsPerWeight(5.6)).unwrap();
    let bytes = |name: &str| {
        let index = source.infos.iter().position(|t| t.name == name).unwrap();
        plan.tensors[index].length.max()
    };
    // Gate and up reach equally far.
    assert!(bytes("blk.0.ffn_up.weight") > bytes("blk.0.ffn_gate.weight"));
}

/// Loud where the outliers are not.
struct Elsewhere;
impl Calibration for Elsewhere {
    fn moments(&self, tensor: &TensorInfo) -> Result<Option<Vec<InputMoments>>> {
        let importance = (0..tensor.cols()).map(|i| if i % 7 == 0 { 1e-6 } else { 1.0 }).collect();
        Ok(Some(vec![InputMoments { importance, hessian: Vec::new() }]))
    }
    fn sha256(&self, _: &dyn Fn() -> bool) -> Result<[u8; 32]> {
        Ok([0; 32])
    }
}

#[test]
fn overrides_and_importance_count() {
    let source = source();
    let mut recipe = Recipe::new("int4".parse().unwrap());
    recipe.overrides.push((regex::Regex::new("attn_q").unwrap(), "f32".parse().unwrap()));
    let (plan, chosen) = plan(&source, &recipe, Budget::BitsPerWeight(14.0)).unwrap();
    assert!(!chosen.codecs.contains_key("blk.0.attn_q.weight"));
    assert_eq!((plan.tensors[2].codec, plan.tensors[2].reason), (CodecId::RAW_F32, Reason::Override));

    let with = |calibration| {
        let list = candidates(&["int4:g64", "q8"]);
        let recipe = Recipe::new("int4".parse().unwrap());
        choose(&source, &recipe, &list, Budget::BitsPerWeight(6.5), calibration, |_| Ok(())).unwrap().error
    };
    assert_ne!(with(None).to_bits(), with(Some(&Elsewhere)).to_bits());
    let cancelled = choose(&source, &recipe, &candidates(&["q8"]), Budget::Bytes(1 << 20), None, |_| {
        Err(Error::Cancelled)
    });
    assert!(matches!(cancelled, Err(Error::Cancelled)));
}

#[test]
fn errors_that_reach_far_cost_more() {
    // Alike matrices of different roles: room for one of them at 8 bits.
    let mut source = MemorySource::new(json!({ "tie_embeddings": false, "num_layers": 3 }));
    for role in [Role::ATTN_Q, Role::ATTN_V, Role::ATTN_OUTPUT, Role::FFN_UP] {
        source.add_gaussian(role, Some(1), &[128, 256]);
    }
    let recipe = Recipe::new("int4".parse().unwrap());
    let (_, chosen) = plan(&source, &recipe, Budget::BitsPerWeight(5.6)).unwrap();
    let at_eight: Vec<_> = chosen
        .codecs
        .iter()
        .filter(|(_, c)| c.codec == Some(CodecId::Q8))
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(at_eight, ["blk.1.attn_v.weight"]);
}

/// Inputs that all run in one direction, so that one column takes back the
/// errors of all others, for one role.
struct OneDirection(Role);
impl Calibration for OneDirection {
    fn moments(&self, tensor: &TensorInfo) -> Result<Option<Vec<InputMoments>>> {
        let cols = tensor.cols() as usize;
        let between = if tensor.role == self.0 { 1.0 } else { 0.0 };
        let mut hessian = vec![between; cols * cols];
        hessian.iter_mut().step_by(cols + 1).for_each(|h| *h = 1.0);
        Ok(Some(vec![InputMoments { importance: vec![1.0; cols], hessian }]))
    }
    fn sha256(&self, _: &dyn Fn() -> bool) -> Result<[u8; 32]> {
        Ok([0; 32])
    }
}

#[test]
fn what_compensation_takes_back_costs_less() {
    let mut source = MemorySource::new(json!({ "tie_embeddings": false, "num_layers": 3 }));
    for role in [Role::FFN_GATE, Role::ATTN_Q] {
        source.add_gaussian(role, Some(1), &[128, 256]);
    }
    let recipe = Recipe::new("int4".parse().unwrap());
    let at_eight = |calibration: Option<&dyn Calibration>| {
        let list = candidates(&["int4:g64", "q8"]);
        let chosen =
            choose(&source, &recipe, &list, Budget::BitsPerWeight(6.6), calibration, |_| Ok(())).unwrap();
        chosen.codecs.into_iter().find(|(_, c)| c.codec == Some(CodecId::Q8)).map(|(name, _)| name).unwrap()
    };
    assert_eq!(at_eight(None), "blk.1.ffn_gate.weight");
    assert_eq!(at_eight(Some(&OneDirection(Role::FFN_GATE))), "blk.1.attn_q.weight");
}
