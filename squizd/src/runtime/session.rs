//! One sequence being processed: its tokens, its cache, its limits.

use super::attention::Work;
use super::cache::{KvCache, KvType};
use super::ffn::Scratch;
use super::model::Model;
use super::rope::{Angles, Frequencies};
use crate::codec::Precision;
use crate::{Error, Result};
use std::borrow::Cow;

/// How a [`Session`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Most positions the session can hold.
    pub context: usize,
    /// Element type of the key/value cache.
    pub kv: KvType,
    /// How products read their input.
    pub precision: Precision,
    /// Tokens of a prompt processed together.
    pub batch: usize,
}

impl Default for SessionOptions {
    /// 4096 positions, everything in `f32`, prompts in batches of 256.
    fn default() -> Self {
        Self { context: 4096, kv: KvType::F32, precision: Precision::F32, batch: 256 }
    }
}

/// A sequence of tokens, its cached keys and values, and the buffers of the
/// forward pass, which only grow.
#[derive(Debug)]
pub struct Session<'m, 'w> {
    pub(super) model: &'m Model<'w>,
    pub(super) options: SessionOptions,
    pub(super) tokens: Vec<u32>,
    pub(super) cache: KvCache,
    /// Frequencies of global and local layers.
    pub(super) frequencies: [Frequencies; 2],
    pub(super) buffers: Buffers,
}

/// Buffers of the forward pass for `n` tokens; they only grow.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// Residual stream, `[n, hidden]`.
    pub(super) x: Vec<f32>,
    /// Normalised input of a block, `[n, hidden]`.
    pub(super) normed: Vec<f32>,
    /// Queries, `[n, heads, head_dim]`.
    pub(super) q: Vec<f32>,
    /// New keys, `[n, kv_heads, head_dim]`.
    pub(super) k: Vec<f32>,
    /// New values, `[n, kv_heads, head_dim]`.
    pub(super) v: Vec<f32>,
    /// Result of attention, `[n, heads, head_dim]`.
    pub(super) attended: Vec<f32>,
    /// Result of a block, `[n, hidden]`.
    pub(super) block: Vec<f32>,
    /// Logits of the positions last asked for, `[rows, vocab]`.
    pub(super) logits: Vec<f32>,
    /// Rotations of global and local layers.
    pub(super) angles: [Angles; 2],
    /// Feed-forward buffers.
    pub(super) ffn: Scratch,
    /// Attention buffers, one per key/value head.
    pub(super) work: Vec<Work>,
}

impl<'m, 'w> Session<'m, 'w> {
    /// An empty sequence.
    ///
    /// # Errors
    /// If the context or the batch is zero, or the cache cannot be reserved.
    pub fn new(model: &'m Model<'w>, options: SessionOptions) -> Result<Self> {
        if options.context == 0 || options.batch == 0 {
            return Err(Error::invalid(format!(
                "context of {} positions in batches of {}: both must be positive",
                options.context, options.batch
            )));
        }
        let cache =
            KvCache::new(options.kv, model.layers.len(), model.heads.keys, model.heads.dim, options.context)?;
        let mut tokens = Vec::new();
        tokens.try_reserve_exact(options.context).map_err(|_| {
            Error::invalid(format!("no memory for {} positions; use a smaller --ctx-size", options.context))
        })?;
        let frequencies = [0, 1].map(|i| model.ropes[i].frequencies(1));
        let work = vec![Work::new(model.heads.dim); model.heads.keys];
        let buffers = Buffers { work, ..Buffers::default() };
        Ok(Self { model, options, tokens, cache, frequencies, buffers })
    }

    /// The model.
    pub fn model(&self) -> &'m Model<'w> {
        self.model
    }

    /// Tokens processed so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Positions left.
    pub fn remaining(&self) -> usize {
        self.options.context.saturating_sub(self.tokens.len())
    }

    /// Forgets every token from position `length` on.
    pub fn truncate(&mut self, length: usize) {
        self.tokens.truncate(length);
        self.cache.truncate(length);
    }

    /// Processes `tokens` and returns the logits after the last of them.
    ///
    /// # Errors
    /// If `tokens` is empty, holds an id outside the vocabulary, or does not
    /// fit the context: the sequence is then unchanged. If a payload cannot be
    /// decoded: the sequence then ends before the batch that failed.
    pub fn forward(&mut self, tokens: &[u32]) -> Result<&mut [f32]> {
        self.process(tokens, None)?;
        Ok(&mut self.buffers.logits)
    }

    /// The logits that the last [`Session::forward`] returned.
    pub fn logits_mut(&mut self) -> &mut [f32] {
        &mut self.buffers.logits
    }

    /// Processes `tokens` and hands `each` the logits after every one of them,
    /// by its index in `tokens`.
    ///
    /// # Errors
    /// As [`Session::forward`], and what `each` returns.
    pub fn forward_all(
        &mut self,
        tokens: &[u32],
        mut each: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        self.process(tokens, Some(&mut each))
    }

    fn process(&mut self, tokens: &[u32], mut each: Option<EachLogits<'_>>) -> Result<()> {
        self.check(tokens)?;
        let past = self.tokens.len();
        // With LongRoPE, passing the trained length changes the rotation of
        // every key, cached ones included: the sequence is processed again.
        let again = self.rotate_for(past + tokens.len()) && past > 0;
        let (input, skip) = if again {
            let all = [&self.tokens, tokens].concat();
            self.truncate(0);
            (Cow::Owned(all), past)
        } else {
            (Cow::Borrowed(tokens), 0)
        };
        let last = input.len().saturating_sub(1);
        let mut done = 0;
        for batch in input.chunks(self.options.batch) {
            let result = match &mut each {
                Some(each) => self.batch(batch).and_then(|()| {
                    let from = skip.saturating_sub(done).min(batch.len());
                    self.logits_each(from..batch.len(), |i, logits| each(done + i - skip, logits))
                }),
                None if done + batch.len() > last => {
                    self.batch(batch).and_then(|()| self.compute_logits(batch.len() - 1..batch.len()))
                }
                None => self.batch(batch),
            };
            if let Err(error) = result {
                self.truncate(self.tokens.len());
                return Err(error);
            }
            self.tokens.extend_from_slice(batch);
            done += batch.len();
        }
        Ok(())
    }

    pub(super) fn check(&self, tokens: &[u32]) -> Result<()> {
        let vocab = self.model.vocab_size();
        if tokens.is_empty() {
            return Err(Error::invalid("no tokens to process"));
        }
        if tokens.len() > self.remaining() {
            return Err(Error::invalid(format!(
                "{} tokens after {} do not fit the context of {}; use a larger --ctx-size",
                tokens.len(),
                self.tokens.len(),
                self.options.context
            )));
        }
        match tokens.iter().position(|t| *t as usize >= vocab) {
            Some(i) => Err(Error::invalid(format!(
                "token id {} at index {i} is outside the vocabulary of {vocab}",
                tokens[i]
            ))),
            None => Ok(()),
        }
    }

    /// Takes the frequencies of a sequence of `length` tokens; whether cached
    /// keys must be computed again.
    pub(super) fn rotate_for(&mut self, length: usize) -> bool {
        let mut again = false;
        for (rope, frequencies) in self.model.ropes.iter().zip(&mut self.frequencies) {
            if frequencies.epoch != rope.epoch(length) {
                *frequencies = rope.frequencies(length);
                again |= rope.rotates_past_keys();
            }
        }
        again
    }
}

/// Receives the logits of one position at a time.
type EachLogits<'a> = &'a mut dyn FnMut(usize, &[f32]) -> Result<()>;
