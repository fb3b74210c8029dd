//! Several sequences on one model: the part of the server that knows nothing
//! of HTTP.
//!
//! ```text
//! Job ─► queue ─► slot (one sequence and its cache) ─► Event ─► Event ─► …
//!                 every round moves every slot by one step
//! ```
//!
//! One thread owns all slots. A step is a piece of a prompt or one generated
//! token, so a long answer, or a long prompt, holds up no one else. The engine
//! never waits for a client: a sequence whose client is slow is passed over,
//! and given up if that lasts.

mod generation;
mod logprobs;
mod output;
mod scheduler;
mod slot;
#[cfg(test)]
mod tests;

pub(crate) use logprobs::{Choice, TokenLogprob};
pub(crate) use scheduler::{Engine, Settings};

use squizd::runtime::{Likely, likeliest_of};
use squizd::text::{Penalties, Sampler, StopMatcher};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// What a slot computes with: a session on some backend, or a script in tests.
pub(crate) trait Sequence {
    /// Tokens whose keys and values are cached.
    fn tokens(&self) -> &[u32];
    /// Positions left.
    fn remaining(&self) -> usize;
    /// Forgets every token from `length` on.
    fn truncate(&mut self, length: usize);
    /// Processes `tokens`; the logits after the last.
    fn forward(&mut self, tokens: &[u32]) -> squizd::Result<&mut [f32]>;
    /// Processes `tokens`; the likeliest next one.
    fn likeliest(&mut self, tokens: &[u32]) -> squizd::Result<u32> {
        Ok(squizd::runtime::likeliest(self.forward(tokens)?))
    }
    /// Processes `tokens`; the `k` likeliest next ones, sorted.
    fn top(&mut self, tokens: &[u32], k: usize, top: &mut Vec<Likely>) -> squizd::Result<()> {
        likeliest_of(self.forward(tokens)?, k, top);
        Ok(())
    }
}

impl Sequence for Box<dyn squizd::runtime::Sequence + Send + '_> {
    fn tokens(&self) -> &[u32] {
        (**self).tokens()
    }

    fn remaining(&self) -> usize {
        (**self).remaining()
    }

    fn truncate(&mut self, length: usize) {
        (**self).truncate(length);
    }

    fn forward(&mut self, tokens: &[u32]) -> squizd::Result<&mut [f32]> {
        (**self).forward(tokens)
    }

    fn likeliest(&mut self, tokens: &[u32]) -> squizd::Result<u32> {
        (**self).likeliest(tokens)
    }

    fn top(&mut self, tokens: &[u32], k: usize, top: &mut Vec<Likely>) -> squizd::Result<()> {
        (**self).top(tokens, k, top)
    }
}

/// How one request is to be continued.
pub(crate) struct Params {
    pub(crate) sampler: Sampler,
    pub(crate) penalties: Penalties,
    pub(crate) stops: StopMatcher,
    /// Most tokens to generate; at least 1.
    pub(crate) max_tokens: usize,
    /// Log-probabilities wanted, with this many alternatives.
    pub(crate) logprobs: Option<usize>,
    /// Go on past end-of-sequence tokens.
    pub(crate) ignore_eos: bool,
    /// Start from the cache of an earlier request that began alike.
    pub(crate) reuse: bool,
    /// The answer begins a text, rather than continuing the prompt's.
    pub(crate) at_start: bool,
}

/// A request, ready to be computed.
pub(crate) struct Job {
    /// Not empty, and shorter than the context.
    pub(crate) prompt: Vec<u32>,
    pub(crate) params: Params,
    /// Dropping the other end cancels the request.
    pub(crate) events: mpsc::Sender<Event>,
    /// When the request came in.
    pub(crate) received: Instant,
    /// Its place in slots and queue; given back before the client is told of
    /// the end, so that it can come again at once.
    pub(crate) place: Option<OwnedSemaphorePermit>,
}

/// What the engine is told.
pub(crate) enum Command {
    Generate(Box<Job>),
    /// End every answer where it is, refuse what waits, and return.
    Stop,
}

/// Capacity of a request's channel: how far its client may fall behind.
pub(crate) const EVENTS: usize = 32;

/// What happens to a request, in this order: `Started`, any number of `Text`,
/// then `Finished`; or `Failed` at any time. A channel that closes without one
/// of these two means that the engine dropped the request.
#[derive(Debug)]
pub(crate) enum Event {
    /// A slot takes it up.
    Started,
    /// More text, and the log-probabilities of the tokens it completes.
    Text { text: String, logprobs: Vec<TokenLogprob> },
    /// The answer is complete.
    Finished { reason: FinishReason, usage: Usage },
    /// It cannot be answered.
    Failed(Fault),
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FinishReason {
    /// An end-of-sequence token, or a stop string.
    Stop,
    /// `max_tokens`, the end of the context, or the server's shutdown.
    Length,
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) prompt: usize,
    /// Of these, found in a cache.
    pub(crate) cached: usize,
    pub(crate) completion: usize,
}

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The forward pass reported an error.
    Model(squizd::Error),
    /// The forward pass panicked.
    Panic,
    /// The server stops before the request's turn.
    ShuttingDown,
}
