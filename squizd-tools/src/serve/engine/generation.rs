//! One request in a slot, moved on step by step.

use super::output::{Output, Piece};
use super::slot::FRESH;
use super::{Event, Fault, FinishReason, Job, Sequence, Usage};
use crate::serve::metrics::{Ending, Metrics};
use squizd::runtime::Likely;
use squizd::text::Tokenizer;
use std::time::{Duration, Instant};

/// Events that a request's channel must be able to take before a step: a step
/// sends at most two (text and end), and after one that does not end the
/// answer there must still be room for two.
const ROOM: usize = 4;

/// A request that holds a slot.
pub(super) struct Generation<'t> {
    job: Job,
    output: Output<'t>,
    /// Prompt tokens in the cache.
    processed: usize,
    /// Prompt tokens found there.
    cached: usize,
    /// The token sampled last.
    last: Option<u32>,
    /// What tokens were sampled from last.
    top: Vec<Likely>,
    generated: usize,
    /// Forward passes of the prompt until now.
    forward: Duration,
    /// When the last token was sampled.
    sampled: Instant,
    /// Since when the client has taken nothing.
    stalled: Option<Instant>,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Something was computed.
    Moved,
    /// The client has not taken what it was sent.
    Waits,
    /// The request is over.
    Ended,
}

/// What is the same for all steps.
pub(super) struct Environment<'a> {
    pub(super) metrics: &'a Metrics,
    /// End-of-sequence tokens.
    pub(super) eos: &'a [u32],
    /// How long a client may take nothing.
    pub(super) patience: Duration,
    /// Most prompt tokens in one step; at least `2 * FRESH`.
    pub(super) piece: usize,
}

impl<'t> Generation<'t> {
    /// Begins, with `cached` tokens of the prompt in the cache.
    pub(super) fn new(mut job: Job, cached: usize, tokenizer: &'t Tokenizer, metrics: &Metrics) -> Self {
        let stops = std::mem::take(&mut job.params.stops);
        let output = Output::new(tokenizer, stops, job.params.logprobs, job.params.at_start);
        metrics.prompt_tokens.add(job.prompt.len() as u64);
        metrics.cached_tokens.add(cached as u64);
        let generation = Self {
            output,
            processed: cached,
            cached,
            last: None,
            top: Vec::new(),
            generated: 0,
            forward: Duration::ZERO,
            sampled: job.received,
            stalled: None,
            job,
        };
        generation.send(Event::Started);
        generation
    }

    /// Computes one piece of the prompt, or one token.
    pub(super) fn step(&mut self, sequence: &mut impl Sequence, around: &Environment<'_>) -> Step {
        if self.job.events.is_closed() {
            self.close(Ending::Cancelled, None, around.metrics);
            return Step::Ended;
        }
        if self.job.events.capacity() < ROOM {
            let since = *self.stalled.get_or_insert_with(Instant::now);
            if since.elapsed() <= around.patience {
                return Step::Waits;
            }
            self.close(Ending::SlowClient, None, around.metrics);
            return Step::Ended;
        }
        self.stalled = None;
        match self.advance(sequence, around) {
            Ok(None) => Step::Moved,
            Ok(Some(reason)) => {
                self.finish(reason, around.metrics);
                Step::Ended
            }
            Err(error) => {
                self.fail(Fault::Model(error), around.metrics);
                Step::Ended
            }
        }
    }

    /// Ends the answer where it is.
    pub(super) fn finish(&mut self, reason: FinishReason, metrics: &Metrics) {
        let piece = self.output.finish();
        let reason = if piece.stopped { FinishReason::Stop } else { reason };
        self.hand_out(piece);
        let usage = Usage { prompt: self.job.prompt.len(), cached: self.cached, completion: self.generated };
        self.close(Ending::Finished, Some(Event::Finished { reason, usage }), metrics);
    }

    /// Ends the answer without a result.
    pub(super) fn fail(&mut self, fault: Fault, metrics: &Metrics) {
        self.close(Ending::Failed, Some(Event::Failed(fault)), metrics);
    }

    /// Everything is counted and given back when the client hears of the end.
    fn close(&mut self, ending: Ending, event: Option<Event>, metrics: &Metrics) {
        self.job.place = None;
        metrics.ended(ending);
        if let Some(event) = event {
            self.send(event);
        }
    }

    fn advance(
        &mut self,
        sequence: &mut impl Sequence,
        around: &Environment<'_>,
    ) -> squizd::Result<Option<FinishReason>> {
        let last = self.last;
        let input = if let Some(id) = &last {
            std::slice::from_ref(id)
        } else {
            let rest = self.job.prompt.get(self.processed..).unwrap_or_default();
            rest.get(..piece_length(rest.len(), around.piece)).unwrap_or(rest)
        };
        let started = Instant::now();
        if last.is_none() {
            self.processed += input.len();
            if self.processed < self.job.prompt.len() {
                sequence.forward(input)?;
                self.forward += started.elapsed();
                return Ok(None);
            }
        }
        let params = &mut self.job.params;
        let plain = params.penalties.is_neutral() && params.logprobs.is_none();
        let (id, distribution, forward) = if plain && params.sampler.is_greedy() {
            (sequence.likeliest(input)?, None, started.elapsed())
        } else if let Some(k) = params.sampler.reach().filter(|_| plain) {
            sequence.top(input, k, &mut self.top)?;
            let forward = started.elapsed();
            (params.sampler.sample_of(&self.top), None, forward)
        } else {
            let logits = sequence.forward(input)?;
            let forward = started.elapsed();
            let distribution = self.output.distribution(logits);
            params.penalties.apply(logits);
            (params.sampler.sample(logits), distribution, forward)
        };
        if last.is_none() {
            self.forward += forward;
            around.metrics.prompt_forward.observe(self.forward);
        }
        let ends = around.eos.contains(&id) && !params.ignore_eos;
        params.penalties.observe(id);
        self.time(around.metrics);
        if ends {
            return Ok(Some(FinishReason::Stop));
        }
        self.last = Some(id);
        self.generated += 1;
        around.metrics.generated_tokens.add(1);
        let piece = self.output.push(id, distribution);
        let stopped = piece.stopped;
        let full = self.generated >= self.job.params.max_tokens || sequence.remaining() == 0;
        self.hand_out(piece);
        Ok(match (stopped, full) {
            (true, _) => Some(FinishReason::Stop),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        })
    }

    fn time(&mut self, metrics: &Metrics) {
        let now = Instant::now();
        let histogram = if self.last.is_none() { &metrics.first_token } else { &metrics.next_token };
        histogram.observe(now - self.sampled);
        self.sampled = now;
    }

    fn hand_out(&self, piece: Piece) {
        if !piece.text.is_empty() || !piece.logprobs.is_empty() {
            self.send(Event::Text { text: piece.text, logprobs: piece.logprobs });
        }
    }

    /// There is room ([`ROOM`]); a client that is gone is noticed in the next step.
    fn send(&self, event: Event) {
        let _ = self.job.events.try_send(event);
    }
}

/// Tokens of a prompt to process next, so that neither this piece nor the rest
/// is smaller than [`FRESH`] tokens.
fn piece_length(rest: usize, most: usize) -> usize {
    if rest <= most { rest } else { most.min(rest - FRESH) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_piece_of_a_prompt_is_tiny() {
        for most in [8, 64, 256] {
            for length in 1..=2 * most + 9 {
                let (mut rest, mut pieces) = (length, Vec::new());
                while rest > 0 {
                    pieces.push(piece_length(rest, most));
                    rest -= pieces.last().unwrap();
                }
                assert!(
                    pieces.iter().all(|p| (FRESH.min(length)..=most).contains(p)),
                    "{length}: {pieces:?}"
                );
            }
        }
    }
}
