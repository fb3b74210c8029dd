//! One sequence on the device.

use super::forward::{Buffers, Forward, shares_of};
use super::model::GpuModel;
use super::pick::Pick;
use super::record::Step;
use super::top_k::{TOP_MOST, TopK};
use crate::runtime::{
    EachId, EachLogits, Frequencies, KvType, Likely, Sequence, Sequences, SessionOptions, likeliest_of,
};
use crate::{Error, Result};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::ControlFlow;

/// Tokens of a prompt that are processed together, at most.
pub(super) const BATCH: usize = 512;

/// A sequence of tokens with its cache on the device: the interface of
/// [`crate::runtime::Session`].
#[derive(Debug)]
pub struct GpuSession<'g, 'm, 'w> {
    model: &'g GpuModel<'m, 'w>,
    context: usize,
    batch: usize,
    tokens: Vec<u32>,
    frequencies: [Frequencies; 2],
    forward: Forward,
    /// Dispatches for a number of tokens, with those of the last one's logits; of one
    /// token, for shares of the positions.
    steps: HashMap<(usize, bool, u32), Vec<Step>>,
    /// What picks the likeliest token.
    picking: Vec<Step>,
    /// What finds the likeliest tokens.
    topping: Option<TopK>,
    /// Buffers that picked ids come back in.
    staging: Vec<wgpu::Buffer>,
    logits: Vec<f32>,
}

impl<'g, 'm, 'w> GpuSession<'g, 'm, 'w> {
    /// An empty sequence. The precision of `options` is the model's; a cache of
    /// bytes is one of halves here.
    ///
    /// # Errors
    /// If context or batch are zero, or the device has no memory for them.
    pub fn new(model: &'g GpuModel<'m, 'w>, options: SessionOptions) -> Result<Self> {
        let SessionOptions { context, batch, kv, .. } = options;
        if context == 0 || batch == 0 {
            return Err(Error::invalid(format!(
                "context of {context} positions in batches of {batch}: both must be positive"
            )));
        }
        let batch = batch.min(BATCH).min(context);
        let buffers = Buffers::new(model, context, batch, kv != KvType::F32)?;
        let frequencies = [0, 1].map(|i| model.model.ropes[i].frequencies(1));
        Ok(Self {
            model,
            context,
            batch,
            tokens: Vec::new(),
            frequencies,
            forward: Forward::new(buffers),
            steps: HashMap::new(),
            picking: Vec::new(),
            topping: None,
            staging: Vec::new(),
            logits: Vec::new(),
        })
    }

    /// The model.
    pub fn model(&self) -> &'g GpuModel<'m, 'w> {
        self.model
    }

    /// Tokens processed so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Positions left.
    pub fn remaining(&self) -> usize {
        self.context.saturating_sub(self.tokens.len())
    }

    /// Forgets every token from position `length` on.
    pub fn truncate(&mut self, length: usize) {
        self.tokens.truncate(length);
    }

    /// Processes `tokens` and returns the logits after the last of them: one
    /// submission for each batch, one round trip in all.
    ///
    /// # Errors
    /// If `tokens` is empty, holds an id outside the vocabulary, or does not fit
    /// the context; what went wrong on the device.
    pub fn forward(&mut self, tokens: &[u32]) -> Result<&mut [f32]> {
        self.process(tokens)?;
        self.logits = self.forward.read_logits(self.model, 1)?;
        Ok(&mut self.logits)
    }

    /// The logits that the last [`GpuSession::forward`] returned.
    pub fn logits_mut(&mut self) -> &mut [f32] {
        &mut self.logits
    }

    /// Processes `tokens`; the logits after the last of them stay on the device.
    fn process(&mut self, tokens: &[u32]) -> Result<()> {
        let (input, _) = self.begin(tokens)?;
        let last = input.len();
        let mut done = 0;
        for batch in input.chunks(self.batch) {
            done += batch.len();
            self.run(batch, done == last)?;
        }
        Ok(())
    }

    /// Processes `tokens` and hands `each` the logits after every one of them,
    /// by its index in `tokens`.
    ///
    /// # Errors
    /// As [`GpuSession::forward`], and what `each` returns.
    pub fn forward_all(
        &mut self,
        tokens: &[u32],
        mut each: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let (input, skip) = self.begin(tokens)?;
        let vocab = self.model.model.vocab_size();
        let mut done = 0;
        for batch in input.chunks(self.batch) {
            self.run(batch, false)?;
            let rows = self.forward.buffers.logit_rows;
            for first in (0..batch.len()).step_by(rows) {
                let count = rows.min(batch.len() - first);
                let steps = self.forward.logits(self.model, first, count)?;
                self.model.gpu.submit(&steps);
                let logits = self.forward.read_logits(self.model, count)?;
                for (i, row) in logits.chunks_exact(vocab).enumerate() {
                    if let Some(index) = (done + first + i).checked_sub(skip) {
                        each(index, row)?;
                    }
                }
            }
            done += batch.len();
        }
        Ok(())
    }

    /// Processes `tokens` and picks the likeliest next one on the device: its id
    /// is all that comes back.
    ///
    /// # Errors
    /// As [`GpuSession::forward`].
    pub fn likeliest(&mut self, tokens: &[u32]) -> Result<u32> {
        let pick = self.begin_pick(tokens, 0)?;
        self.picked(pick)
    }

    /// Processes `tokens` and finds the `k` likeliest next ones on the device,
    /// which are all that comes back: as [`Sequence::top`].
    ///
    /// # Errors
    /// As [`GpuSession::forward`].
    pub fn top(&mut self, tokens: &[u32], k: usize, top: &mut Vec<Likely>) -> Result<()> {
        if k > TOP_MOST {
            likeliest_of(self.forward(tokens)?, k, top);
            return Ok(());
        }
        self.process(tokens)?;
        if self.topping.as_ref().is_none_or(|t| t.kept != k) {
            self.topping = Some(self.forward.top(self.model, k)?);
        }
        let Some(topping) = &self.topping else { return Ok(()) };
        self.model.gpu.submit(&topping.steps);
        topping.read(&self.model.gpu, top)
    }

    /// Continues after `first`, each token the likeliest, and hands every id to
    /// `each` until it breaks, `count` were handed out or the context is full.
    /// While an id comes back, the device computes the next one.
    ///
    /// # Errors
    /// As [`GpuSession::forward`].
    pub fn greedy(
        &mut self,
        first: u32,
        count: usize,
        each: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<()> {
        let count = count.min(self.remaining());
        let mut id = first;
        let mut ahead: Option<Pick> = None;
        for i in 0..count {
            let pick = if let Some(pick) = ahead.take() {
                self.tokens.push(id);
                pick
            } else {
                self.begin_pick(&[id], i % 2)?
            };
            let past = self.tokens.len();
            if i + 1 < count && self.steady(past + 1) {
                ahead = Some(self.pick(None, 1, past, (i + 1) % 2)?);
            }
            id = self.picked(pick)?;
            if each(id).is_break() {
                // What is under way writes a position that no token counts.
                break;
            }
        }
        Ok(())
    }

    /// Whether the frequencies hold for `length` positions.
    fn steady(&self, length: usize) -> bool {
        self.model.model.ropes.iter().zip(&self.frequencies).all(|(r, f)| r.epoch(length) == f.epoch)
    }

    /// Processes `tokens`, the likeliest next one being picked in turn `slot`.
    fn begin_pick(&mut self, tokens: &[u32], slot: usize) -> Result<Pick> {
        let (input, _) = self.begin(tokens)?;
        let last = (input.len() - 1) / self.batch * self.batch;
        let (before, last) = input.split_at(last);
        for batch in before.chunks(self.batch) {
            self.run(batch, false)?;
        }
        let pick = self.pick(Some(last), last.len(), self.tokens.len(), slot)?;
        self.tokens.extend_from_slice(last);
        Ok(pick)
    }

    /// Submits `n` tokens after `past`, by their ids or the one the device has
    /// picked, and what picks the next one.
    fn pick(&mut self, ids: Option<&[u32]>, n: usize, past: usize, slot: usize) -> Result<Pick> {
        self.forward.tell(self.model, &self.frequencies, ids, past, slot, n)?;
        if self.picking.is_empty() {
            self.picking = self.forward.argmax(self.model)?;
        }
        self.forget_odd(n);
        let staging = self.staging.pop();
        let shares = self.shares(n, past);
        self.steps_for(n, true, shares)?;
        let gpu = &self.model.gpu;
        let steps = self.steps.get(&(n, true, shares)).into_iter().flatten().chain(&self.picking);
        gpu.submit_for_word(steps, &self.forward.buffers.list, 4 * slot as u64, staging)
    }

    /// The id that comes back.
    fn picked(&mut self, pick: Pick) -> Result<u32> {
        let (id, staging) = self.model.gpu.word(pick)?;
        self.staging.push(staging);
        Ok(id)
    }

    /// Dispatches of one token with its logits.
    ///
    /// # Errors
    /// What went wrong on the device.
    pub fn dispatches_per_token(&mut self) -> Result<usize> {
        let shares = self.shares(1, self.tokens.len());
        Ok(self.steps_for(1, true, shares)?.len())
    }

    /// Dispatches of one token up to the next one's id.
    pub(super) fn token_steps(&mut self) -> Result<Vec<Step>> {
        let shares = self.shares(1, self.tokens.len());
        let mut steps = self.steps_for(1, true, shares)?.clone();
        steps.extend(self.forward.argmax(self.model)?);
        Ok(steps)
    }

    /// In how many shares `n` tokens look at the positions.
    fn shares(&self, n: usize, past: usize) -> u32 {
        if n == 1 { shares_of(past + 1, self.model.model.heads.queries) } else { 1 }
    }

    fn steps_for(&mut self, n: usize, logits: bool, shares: u32) -> Result<&mut Vec<Step>> {
        use std::collections::hash_map::Entry;
        match self.steps.entry((n, logits, shares)) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let mut steps = self.forward.layers(self.model, n, shares)?;
                if logits {
                    steps.extend(self.forward.logits(self.model, n - 1, 1)?);
                }
                Ok(entry.insert(steps))
            }
        }
    }

    /// Other lengths than one token and whole batches come once.
    fn forget_odd(&mut self, n: usize) {
        if n != 1 && n != self.batch {
            self.steps.retain(|(n, ..), _| *n == 1 || *n == self.batch);
        }
    }

    fn run(&mut self, batch: &[u32], logits: bool) -> Result<()> {
        let past = self.tokens.len();
        self.forward.tell(self.model, &self.frequencies, Some(batch), past, 0, batch.len())?;
        self.forget_odd(batch.len());
        let gpu = &self.model.gpu;
        gpu.submit(&*self.steps_for(batch.len(), logits, self.shares(batch.len(), past))?);
        gpu.check()?;
        self.tokens.extend_from_slice(batch);
        Ok(())
    }

    /// What is to be processed for `tokens`, and how many of it are old.
    fn begin<'t>(&mut self, tokens: &'t [u32]) -> Result<(Cow<'t, [u32]>, usize)> {
        self.check(tokens)?;
        let past = self.tokens.len();
        let mut again = false;
        for (rope, frequencies) in self.model.model.ropes.iter().zip(&mut self.frequencies) {
            if frequencies.epoch != rope.epoch(past + tokens.len()) {
                *frequencies = rope.frequencies(past + tokens.len());
                again |= rope.rotates_past_keys();
            }
        }
        if again && past > 0 {
            let all = [&self.tokens, tokens].concat();
            self.truncate(0);
            return Ok((Cow::Owned(all), past));
        }
        Ok((Cow::Borrowed(tokens), 0))
    }

    fn check(&self, tokens: &[u32]) -> Result<()> {
        let vocab = self.model.model.vocab_size();
        if tokens.is_empty() {
            return Err(Error::invalid("no tokens to process"));
        }
        if tokens.len() > self.remaining() {
            return Err(Error::invalid(format!(
                "{} tokens after {} do not fit the context of {}; use a larger --ctx-size",
                tokens.len(),
                self.tokens.len(),
                self.context
            )));
        }
        match tokens.iter().find(|t| **t as usize >= vocab) {
            Some(id) => Err(Error::invalid(format!("token id {id} is outside the vocabulary of {vocab}"))),
            None => Ok(()),
        }
    }
}

impl Sequence for GpuSession<'_, '_, '_> {
    fn tokens(&self) -> &[u32] {
        GpuSession::tokens(self)
    }

    fn remaining(&self) -> usize {
        GpuSession::remaining(self)
    }

    fn truncate(&mut self, length: usize) {
        GpuSession::truncate(self, length);
    }

    fn forward(&mut self, tokens: &[u32]) -> Result<&mut [f32]> {
        GpuSession::forward(self, tokens)
    }

    fn logits_mut(&mut self) -> &mut [f32] {
        GpuSession::logits_mut(self)
    }

    fn forward_all(&mut self, tokens: &[u32], each: EachLogits<'_>) -> Result<()> {
        GpuSession::forward_all(self, tokens, each)
    }

    fn likeliest(&mut self, tokens: &[u32]) -> Result<u32> {
        GpuSession::likeliest(self, tokens)
    }

    fn top(&mut self, tokens: &[u32], k: usize, top: &mut Vec<Likely>) -> Result<()> {
        GpuSession::top(self, tokens, k, top)
    }

    fn greedy(&mut self, first: u32, count: usize, each: EachId<'_>) -> Result<()> {
        GpuSession::greedy(self, first, count, each)
    }
}

impl Sequences for GpuModel<'_, '_> {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn begin(&self, options: SessionOptions) -> Result<Box<dyn Sequence + Send + '_>> {
        Ok(Box::new(GpuSession::new(self, options)?))
    }
}
