//! What a conversion's bytes depend on.

use crate::{Result, plan::Plan, plan::Recipe, source::TensorSource, writer::Fingerprint};
use sha2::{Digest, Sha256};
use squizd_spec::layout::VERSION;

/// SHA-256 over parts, each behind its length.
struct Sum(Sha256);

impl Sum {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn add(mut self, part: impl AsRef<[u8]>) -> Self {
        self.0.update((part.as_ref().len() as u64).to_le_bytes());
        self.0.update(part);
        self
    }

    fn done(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// The fingerprint of a conversion; `stamp` is the source's.
pub(super) fn of(
    source: &dyn TensorSource,
    stamp: &[u8],
    plan: &Plan,
    recipe: &Recipe,
    calibration: Option<&[u8; 32]>,
) -> Result<Fingerprint> {
    let json = |e| crate::Error::invalid(format!("writing the model's parameters as JSON: {e}"));
    let mut sum = Sum::new()
        .add(stamp)
        .add(serde_json::to_vec(source.model()).map_err(json)?)
        .add(serde_json::to_vec(source.provenance()).map_err(json)?)
        .add(source.chat_template().unwrap_or_default())
        .add(format!("{:?}", source.tensors()));
    for (name, content) in source.tokenizer_files() {
        sum = sum.add(name).add(content);
    }
    for (name, content) in source.source_files() {
        sum = sum.add(name).add(content);
    }
    Ok(Fingerprint {
        tool: Sum::new().add(env!("CARGO_PKG_VERSION")).add(VERSION.to_le_bytes()).done(),
        source: sum.done(),
        recipe: Sum::new().add(recipe.to_json().to_string()).add(format!("{:?}", plan.tensors)).done(),
        calibration: calibration.copied().unwrap_or_default(),
    })
}
