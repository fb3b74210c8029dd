//! The generation loop.

use super::sequence::{Likely, Sequence};
use crate::Result;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// When generation ends.
#[derive(Clone, Copy, Debug)]
pub struct GenerateOptions<'a> {
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Ids that end generation; they are not handed out.
    pub stop: &'a [u32],
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// This id was sampled.
    Stop(u32),
    /// `max_tokens` were generated.
    MaxTokens,
    /// The session's context is full.
    ContextFull,
    /// The callback broke off.
    Cancelled,
}

/// What was generated, and how fast.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Tokens handed out.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub reason: StopReason,
    /// Prompt tokens processed.
    pub prompt_tokens: usize,
    /// Time from the start until the first sample.
    pub prefill: Duration,
    /// Time spent on the decoding steps (forward passes of generated tokens,
    /// sampling and callback).
    pub decode: Duration,
    /// Forward passes within `decode`.
    pub decode_steps: usize,
}

impl Generated {
    /// Prompt tokens per second.
    pub fn prefill_rate(&self) -> f64 {
        rate(self.prompt_tokens, self.prefill)
    }

    /// Generated tokens per second, the first one (which the prompt's forward
    /// pass yields) not counted.
    pub fn decode_rate(&self) -> f64 {
        rate(self.decode_steps, self.decode)
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

/// How the next token is found.
trait Draw<S: ?Sized> {
    /// Processes `tokens`.
    fn advance(&mut self, session: &mut S, tokens: &[u32]) -> Result<()>;
    /// A token to follow them.
    fn draw(&mut self, session: &mut S) -> u32;
}

/// From all logits.
struct FromLogits<F>(F);

impl<S: Sequence + ?Sized, F: FnMut(&mut [f32]) -> u32> Draw<S> for FromLogits<F> {
    fn advance(&mut self, session: &mut S, tokens: &[u32]) -> Result<()> {
        session.forward(tokens).map(|_| ())
    }

    fn draw(&mut self, session: &mut S) -> u32 {
        (self.0)(session.logits_mut())
    }
}

/// From the `k` likeliest.
struct FromTop<F> {
    k: usize,
    top: Vec<Likely>,
    sample: F,
}

impl<S: Sequence + ?Sized, F: FnMut(&[Likely]) -> u32> Draw<S> for FromTop<F> {
    fn advance(&mut self, session: &mut S, tokens: &[u32]) -> Result<()> {
        session.top(tokens, self.k, &mut self.top)
    }

    fn draw(&mut self, _: &mut S) -> u32 {
        (self.sample)(&self.top)
    }
}

/// Processes `prompt` after what the session holds, then samples token after
/// token: `sample` picks an id from the logits (and may change them), and
/// `on_token` receives it.
///
/// The last token handed out has not been processed when this returns.
///
/// # Errors
/// If the prompt is empty, does not fit the context or holds an id outside the
/// vocabulary, or a payload cannot be decoded.
pub fn generate(
    session: &mut (impl Sequence + ?Sized),
    prompt: &[u32],
    options: &GenerateOptions<'_>,
    sample: impl FnMut(&mut [f32]) -> u32,
    on_token: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Generated> {
    generate_by(session, prompt, options, FromLogits(sample), on_token)
}

/// As [`generate`], `sample` picking from the `k` likeliest tokens, which is all
/// that a backend need bring to the CPU.
///
/// # Errors
/// As [`generate`].
pub fn generate_from(
    session: &mut (impl Sequence + ?Sized),
    prompt: &[u32],
    options: &GenerateOptions<'_>,
    k: usize,
    sample: impl FnMut(&[Likely]) -> u32,
    on_token: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Generated> {
    generate_by(session, prompt, options, FromTop { k, top: Vec::new(), sample }, on_token)
}

fn generate_by<S: Sequence + ?Sized>(
    session: &mut S,
    prompt: &[u32],
    options: &GenerateOptions<'_>,
    mut by: impl Draw<S>,
    mut on_token: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Generated> {
    let start = Instant::now();
    by.advance(session, prompt)?;
    let prefill = start.elapsed();
    let start = Instant::now();
    let mut tokens = Vec::new();
    let mut decode_steps = 0;
    let reason = loop {
        if tokens.len() >= options.max_tokens {
            break StopReason::MaxTokens;
        }
        let id = by.draw(session);
        if options.stop.contains(&id) {
            break StopReason::Stop(id);
        }
        tokens.push(id);
        if on_token(id).is_break() {
            break StopReason::Cancelled;
        }
        if tokens.len() >= options.max_tokens {
            break StopReason::MaxTokens;
        }
        if session.remaining() == 0 {
            break StopReason::ContextFull;
        }
        by.advance(session, &[id])?;
        decode_steps += 1;
    };
    Ok(Generated {
        tokens,
        reason,
        prompt_tokens: prompt.len(),
        prefill,
        decode: start.elapsed(),
        decode_steps,
    })
}

/// As [`generate`], each token the [`super::likeliest`]: the backend picks them, and
/// may compute the next one while a token is handed out.
///
/// # Errors
/// As [`generate`].
pub fn generate_greedy(
    session: &mut (impl Sequence + ?Sized),
    prompt: &[u32],
    options: &GenerateOptions<'_>,
    mut on_token: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Generated> {
    let start = Instant::now();
    let first = session.likeliest(prompt)?;
    let prefill = start.elapsed();
    let start = Instant::now();
    let mut tokens = Vec::new();
    let mut take = |id: u32, tokens: &mut Vec<u32>| {
        if tokens.len() >= options.max_tokens {
            return Some(StopReason::MaxTokens);
        }
        if options.stop.contains(&id) {
            return Some(StopReason::Stop(id));
        }
        tokens.push(id);
        if on_token(id).is_break() {
            return Some(StopReason::Cancelled);
        }
        (tokens.len() >= options.max_tokens).then_some(StopReason::MaxTokens)
    };
    let mut decode_steps = 0;
    let mut reason = take(first, &mut tokens);
    if reason.is_none() {
        let most = options.max_tokens - tokens.len();
        session.greedy(first, most, &mut |id| {
            decode_steps += 1;
            reason = take(id, &mut tokens);
            if reason.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
    }
    Ok(Generated {
        tokens,
        reason: reason.unwrap_or(StopReason::ContextFull),
        prompt_tokens: prompt.len(),
        prefill,
        decode: start.elapsed(),
        decode_steps,
    })
}
