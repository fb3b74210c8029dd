//! What a sequence of tokens is to those who use one, whatever computes it.

use super::model::Model;
use super::session::{Session, SessionOptions};
use crate::Result;
use std::cmp::Ordering;
use std::ops::ControlFlow;

/// Receives the logits of one position at a time.
pub type EachLogits<'a> = &'a mut dyn FnMut(usize, &[f32]) -> Result<()>;

/// Receives ids until it breaks.
pub type EachId<'a> = &'a mut dyn FnMut(u32) -> ControlFlow<()>;

/// The likeliest token, the lowest id among equals; NaN counts as impossible.
pub fn likeliest(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (&l, id) in logits.iter().zip(0..) {
        if l > best.0 {
            best = (l, id);
        }
    }
    best.1
}

/// A token that may come next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likely {
    /// The token.
    pub id: u32,
    /// Its logit, never NaN and never positive infinity.
    pub logit: f32,
}

impl Likely {
    /// Token `id` of any logit: NaN counts as impossible, infinity as the
    /// largest number.
    pub fn new(id: u32, logit: f32) -> Self {
        Self { id, logit: if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) } }
    }

    /// Every token with its logit.
    pub fn all(logits: &[f32]) -> impl Iterator<Item = Self> {
        logits.iter().zip(0..).map(|(logit, id)| Self::new(id, *logit))
    }

    /// The likeliest first; equal logits by ascending id, so that the order is
    /// total.
    pub fn order(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// Puts the `k` likeliest tokens of `logits` into `top`, as [`keep_likeliest`]
/// leaves them.
pub fn likeliest_of(logits: &[f32], k: usize, top: &mut Vec<Likely>) {
    top.clear();
    top.extend(Likely::all(logits));
    keep_likeliest(top, k);
}

/// Keeps the `k` likeliest, sorted.
pub fn keep_likeliest(candidates: &mut Vec<Likely>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k, Likely::order);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(Likely::order);
}

/// A sequence being processed, on some backend.
pub trait Sequence {
    /// Tokens processed so far.
    fn tokens(&self) -> &[u32];

    /// Positions left.
    fn remaining(&self) -> usize;

    /// Forgets every token from position `length` on.
    fn truncate(&mut self, length: usize);

    /// Processes `tokens` and returns the logits after the last of them.
    ///
    /// # Errors
    /// As [`Session::forward`].
    fn forward(&mut self, tokens: &[u32]) -> Result<&mut [f32]>;

    /// The logits that the last [`Sequence::forward`] returned.
    fn logits_mut(&mut self) -> &mut [f32];

    /// Processes `tokens` and hands `each` the logits after every one of them.
    ///
    /// # Errors
    /// As [`Sequence::forward`], and what `each` returns.
    fn forward_all(&mut self, tokens: &[u32], each: EachLogits<'_>) -> Result<()>;

    /// Processes `tokens` and returns the [`likeliest`] next one. A backend need
    /// not bring the logits to the CPU: [`Sequence::logits_mut`] keeps those of
    /// some earlier call, or these.
    ///
    /// # Errors
    /// As [`Sequence::forward`].
    fn likeliest(&mut self, tokens: &[u32]) -> Result<u32> {
        Ok(likeliest(self.forward(tokens)?))
    }

    /// Processes `tokens` and puts the `k` likeliest next ones into `top`, as
    /// [`keep_likeliest`] leaves them. A backend need not bring all logits to the
    /// CPU, as with [`Sequence::likeliest`].
    ///
    /// # Errors
    /// As [`Sequence::forward`].
    fn top(&mut self, tokens: &[u32], k: usize, top: &mut Vec<Likely>) -> Result<()> {
        likeliest_of(self.forward(tokens)?, k, top);
        Ok(())
    }

    /// Continues after `first`, each token the likeliest, and hands every id to
    /// `each` until it breaks, `count` were handed out or the context is full.
    /// Then `first` and every id handed out but the last have been processed.
    ///
    /// # Errors
    /// As [`Sequence::forward`].
    fn greedy(&mut self, first: u32, count: usize, each: EachId<'_>) -> Result<()> {
        let mut id = first;
        for _ in 0..count.min(self.remaining()) {
            id = self.likeliest(&[id])?;
            if each(id).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Runs a few tokens and forgets them, and the sequence: weights come into
    /// memory (of experts, those that these tokens take), threads start, buffers
    /// get their size.
    ///
    /// # Errors
    /// If a payload cannot be decoded.
    fn warm_up(&mut self) -> Result<()> {
        self.truncate(0);
        let prompt = [0; 4];
        for tokens in [&prompt[..], &prompt[..1]] {
            let room = tokens.len().min(self.remaining());
            if room > 0 {
                self.forward(&tokens[..room])?;
            }
        }
        self.truncate(0);
        Ok(())
    }
}

/// A model that sequences can be begun with, on some backend.
pub trait Sequences: Sync {
    /// Tokens the model knows; the length of a logits row.
    fn vocab_size(&self) -> usize;

    /// An empty sequence.
    ///
    /// # Errors
    /// As [`Session::new`].
    fn begin(&self, options: SessionOptions) -> Result<Box<dyn Sequence + Send + '_>>;
}

impl<S: Sequences> Sequences for &S {
    fn vocab_size(&self) -> usize {
        (**self).vocab_size()
    }

    fn begin(&self, options: SessionOptions) -> Result<Box<dyn Sequence + Send + '_>> {
        (**self).begin(options)
    }
}

impl Sequence for Session<'_, '_> {
    fn tokens(&self) -> &[u32] {
        Session::tokens(self)
    }

    fn remaining(&self) -> usize {
        Session::remaining(self)
    }

    fn truncate(&mut self, length: usize) {
        Session::truncate(self, length);
    }

    fn forward(&mut self, tokens: &[u32]) -> Result<&mut [f32]> {
        Session::forward(self, tokens)
    }

    fn logits_mut(&mut self) -> &mut [f32] {
        Session::logits_mut(self)
    }

    fn forward_all(&mut self, tokens: &[u32], each: EachLogits<'_>) -> Result<()> {
        Session::forward_all(self, tokens, each)
    }
}

impl Sequences for Model<'_> {
    fn vocab_size(&self) -> usize {
        Model::vocab_size(self)
    }

    fn begin(&self, options: SessionOptions) -> Result<Box<dyn Sequence + Send + '_>> {
        Ok(Box::new(Session::new(self, options)?))
    }
}
