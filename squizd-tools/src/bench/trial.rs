//! One file loaded, one prompt answered.

use crate::Failure;
use squizd::{
    metadata::Metadata,
    runtime::{GenerateOptions, MemoryNeed, Model, Run, Sequence, generate_greedy},
};
use squizd_spec::{FileBytes, Limits, Role, SectionKind, SquizdRef, section_bytes};
use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

/// A model ready to run, and what its file says of itself.
#[derive(Debug)]
pub struct Loaded<'a> {
    /// The model.
    pub model: Model<'a>,
    /// Its metadata.
    pub metadata: Metadata,
    /// Weights of all tensors.
    pub weights: u64,
    /// Stored bits of all tensors over their weights, scales and tables included.
    pub bits_per_weight: f64,
    /// Payload bytes that one step of one token reads.
    pub bytes_per_token: u64,
    pub(super) file: SquizdRef<'a>,
}

impl<'a> Loaded<'a> {
    /// Parses a mapped file and resolves its weights.
    ///
    /// # Errors
    /// If the file is invalid or the runtime does not run its model.
    pub fn new(bytes: &'a FileBytes) -> Result<Self, Failure> {
        let of = |failure: Failure| failure.of(bytes.path().display());
        let file = SquizdRef::parse(bytes, &Limits::DEFAULT).map_err(|e| of(e.into()))?;
        let metadata =
            section_bytes(&file, SectionKind::METADATA, &Limits::DEFAULT).map_err(|e| of(e.into()))?;
        let metadata = Metadata::from_bytes(&metadata.unwrap_or_default()).map_err(|e| of(e.into()))?;
        let model = Model::of_file(&file, &metadata.model).map_err(|e| of(e.into()))?;
        let (weights, stored) =
            file.descs().fold((0, 0), |(w, s): (u64, u64), t| (w + t.elements(), s + t.length));
        Ok(Self {
            model,
            bytes_per_token: bytes_per_token(&file, &metadata),
            metadata,
            weights,
            bits_per_weight: stored as f64 * 8.0 / weights.max(1) as f64,
            file,
        })
    }

    /// Memory that a run needs.
    pub fn memory(&self, run: &Run) -> MemoryNeed {
        MemoryNeed::of_file(&self.file, &self.metadata.model, run)
    }
}

/// All payloads but those a step does not touch: of the embedding one row is
/// read, unless it is the head too; of stacked experts the active ones.
fn bytes_per_token(file: &SquizdRef<'_>, metadata: &Metadata) -> u64 {
    let config = &metadata.model;
    let tensors = file.descs().filter(|t| t.role != Role::OTHER);
    tensors
        .map(|t| match (t.role, &config.moe) {
            (Role::TOKEN_EMBD, _) if !config.tie_embeddings => t.length / t.matrix().rows.max(1),
            (Role::MOE_GATE | Role::MOE_UP | Role::MOE_DOWN, Some(moe)) => {
                t.length * u64::from(moe.experts_per_token) / u64::from(moe.num_experts.max(1))
            }
            _ => t.length,
        })
        .sum()
}

pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// `count` ids of a vocabulary, spread evenly and the same every time.
pub fn prompt(vocab: usize, count: usize) -> Vec<u32> {
    let step = |i: usize| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    (1..=count).map(|i| ((step(i) * vocab as u64) >> 32) as u32).collect()
}

/// What one answer took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// From the request, prompt not yet processed, to the first token in hand.
    pub first_token: Duration,
    /// The forward pass of the prompt.
    pub prefill: Duration,
    /// All decoding steps: forward pass, picking the token.
    pub decode: Duration,
}

impl Trial {
    /// Answers `prompt` from an empty cache with `steps` decoding steps after the
    /// first token, each taking the likeliest token.
    ///
    /// # Errors
    /// If prompt and steps do not fit the session, or a payload cannot be decoded.
    pub fn run(session: &mut dyn Sequence, prompt: &[u32], steps: usize) -> Result<Self, Failure> {
        session.truncate(0);
        let options = GenerateOptions { max_tokens: steps + 1, stop: &[] };
        let started = Instant::now();
        let mut first_token = None;
        let done = generate_greedy(session, prompt, &options, |_| {
            first_token.get_or_insert_with(|| started.elapsed());
            ControlFlow::Continue(())
        })?;
        if done.decode_steps != steps {
            return Err(Failure::usage(format!(
                "generation ended after {} of {steps} steps ({:?}); use a larger --ctx-size",
                done.decode_steps, done.reason
            )));
        }
        Ok(Self { first_token: first_token.unwrap_or_default(), prefill: done.prefill, decode: done.decode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_stay_in_the_vocabulary_and_repeat() {
        let ids = prompt(1000, 512);
        assert_eq!(ids, prompt(1000, 512));
        assert_eq!(ids[..100], prompt(1000, 100));
        assert!(ids.iter().all(|id| *id < 1000));
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert!(distinct.len() > 300, "{}", distinct.len());
        assert_eq!(prompt(1, 3), [0, 0, 0]);
    }
}
