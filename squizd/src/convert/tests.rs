//! What a conversion makes of calibration data.

use super::*;
use crate::{plan::CodecChoice, source::testing::MemorySource};
use serde_json::json;
use squizd_spec::{Limits, Role, SquizdRef, section_bytes};
use std::sync::Mutex;

/// Moments of 64 channels; notes which tensors asked.
struct Known(Mutex<Vec<String>>);

impl Calibration for Known {
    fn moments(&self, tensor: &TensorInfo) -> Result<Option<Vec<InputMoments>>> {
        self.0.lock().unwrap().push(tensor.name.clone());
        Ok(Some(vec![InputMoments { importance: vec![1.0; 64], hessian: Vec::new() }]))
    }

    fn sha256(&self, _: &dyn Fn() -> bool) -> Result<[u8; 32]> {
        Ok(std::array::from_fn(|i| i as u8))
    }
}

fn run(source: &MemorySource) -> (Result<Outcome>, Vec<String>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("m.squizd");
    let recipe = Recipe::new("int4".parse::<CodecChoice>().unwrap());
    let plan = Plan::choose(source, &recipe).unwrap();
    let known = Known(Mutex::default());
    let outcome = convert(source, &plan, &recipe, Some(&known), &target, Interrupted::Refuse, &Silent);
    (outcome, known.0.into_inner().unwrap(), std::fs::read(&target).unwrap_or_default())
}

#[test]
fn moments_go_to_encoders_that_take_them_and_the_digest_into_the_file() {
    let mut source = MemorySource::new(json!({}));
    source.add_gaussian(Role::ATTN_NORM, Some(0), &[64]);
    source.add_gaussian(Role::ATTN_Q, Some(0), &[32, 64]);
    let (outcome, asked, bytes) = run(&source);
    outcome.unwrap();
    assert_eq!(asked, ["blk.0.attn_q.weight"]);
    let file = SquizdRef::parse(&bytes, &Limits::DEFAULT).unwrap();
    assert_eq!(file.header().calibration_hash.get(), 0x0706_0504_0302_0100);
    let metadata = section_bytes(&file, SectionKind::METADATA, &Limits::DEFAULT).unwrap().unwrap();
    let calibration = Metadata::from_bytes(&metadata).unwrap().provenance.calibration.unwrap();
    assert!(calibration.starts_with("0001020304050607") && calibration.len() == 64, "{calibration}");
}

#[test]
fn moments_of_another_model_are_refused() {
    let mut source = MemorySource::new(json!({}));
    source.add_gaussian(Role::ATTN_Q, Some(0), &[32, 96]);
    let (outcome, _, bytes) = run(&source);
    let message = outcome.unwrap_err().to_string();
    assert!(message.contains("blk.0.attn_q.weight") && message.contains("64 channels"), "{message}");
    assert!(bytes.is_empty());
}
