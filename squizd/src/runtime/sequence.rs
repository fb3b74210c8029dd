//! What a sequence of tokens is to those who use one, whatever computes it.

use super::model::Model;
use super::session::{Session, SessionOptions};
use crate::Result;

/// Receives the logits of one position at a time.
pub type EachLogits<'a> = &'a mut dyn FnMut(usize, &[f32]) -> Result<()>;

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
