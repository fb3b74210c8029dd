//! Judging a model: perplexity, divergence and logits, in `f32` with sums in
//! `f64`.

mod divergence;

pub use divergence::{Divergence, Reference, Spread, divergence};

use crate::runtime::{Sequence, Sequences, SessionOptions};
use crate::{Error, Result};

/// Perplexity of a text.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Perplexity {
    /// Mean negative log-likelihood per scored token, in nats.
    pub mean_nll: f64,
    /// `exp(mean_nll)`.
    pub ppl: f64,
    /// Tokens scored.
    pub tokens: u64,
}

/// Perplexity of `ids` in windows of `ctx`.
///
/// The project's protocol: `bos`, if any, is put before the whole sequence
/// once; windows do not overlap, and the last, shorter one counts; the first id
/// of a window is context only, so a window of n ids scores n - 1.
///
/// `progress` is called with the ids done and the running result after each
/// window.
///
/// # Errors
/// If `ctx` is below 2, nothing would be scored, or an id is outside the
/// vocabulary.
pub fn perplexity(
    model: &dyn Sequences,
    ids: &[u32],
    ctx: usize,
    bos: Option<u32>,
    mut progress: impl FnMut(usize, Perplexity),
) -> Result<Perplexity> {
    let ids: Vec<u32> = bos.into_iter().chain(ids.iter().copied()).collect();
    let windows = windows(&ids, ctx)?;
    let mut session = session(model, ctx.min(ids.len()))?;
    let mut total = 0.0;
    let mut tokens = 0u64;
    let mut done = 0;
    for (inputs, targets) in windows {
        session.truncate(0);
        session.forward_all(inputs, &mut |i, logits| {
            total += nll(logits, targets[i])?;
            Ok(())
        })?;
        tokens += targets.len() as u64;
        done += targets.len() + 1;
        progress(done, summary(total, tokens));
    }
    Ok(summary(total, tokens))
}

/// `ids` in windows of `ctx`: what each puts in, and what it is to predict.
fn windows(ids: &[u32], ctx: usize) -> Result<Vec<(&[u32], &[u32])>> {
    if ctx < 2 {
        return Err(Error::invalid(format!("scoring needs a context of at least 2 ids, not {ctx}")));
    }
    let windows: Vec<_> = ids
        .chunks(ctx)
        .filter(|w| w.len() > 1)
        .filter_map(|w| Some((w.split_last()?.1, w.split_first()?.1)))
        .collect();
    if windows.is_empty() {
        return Err(Error::invalid(format!("scoring needs at least 2 ids, the text has {}", ids.len())));
    }
    Ok(windows)
}

fn summary(total: f64, tokens: u64) -> Perplexity {
    let mean_nll = total / tokens.max(1) as f64;
    Perplexity { mean_nll, ppl: mean_nll.exp(), tokens }
}

/// Logits after every id, `[ids, vocab]`.
///
/// # Errors
/// If `ids` is empty or holds an id outside the vocabulary.
pub fn logits(model: &dyn Sequences, ids: &[u32]) -> Result<Vec<f32>> {
    let mut out = Vec::new();
    session(model, ids.len())?.forward_all(ids, &mut |_, row| {
        out.extend_from_slice(row);
        Ok(())
    })?;
    Ok(out)
}

/// The logits of every position that [`perplexity`] scores, in order, one row
/// of the vocabulary at a time: what [`Reference::Logits`] takes.
///
/// # Errors
/// As [`perplexity`], and whatever `sink` answers.
pub fn scored_logits(
    model: &dyn Sequences,
    ids: &[u32],
    ctx: usize,
    bos: Option<u32>,
    mut sink: impl FnMut(&[f32]) -> Result<()>,
) -> Result<()> {
    let ids: Vec<u32> = bos.into_iter().chain(ids.iter().copied()).collect();
    let mut session = session(model, ctx.min(ids.len()))?;
    for (inputs, _) in windows(&ids, ctx)? {
        session.truncate(0);
        // In the pieces that a model is compared in, so that the bits are the same.
        for piece in inputs.chunks(divergence::BATCH) {
            session.forward_all(piece, &mut |_, row| sink(row))?;
        }
    }
    Ok(())
}

/// How many positions [`perplexity`] scores of a sequence of `ids` ids, bos
/// included, in windows of `ctx`.
pub fn scored_positions(ids: usize, ctx: usize) -> usize {
    let ctx = ctx.max(2);
    ids / ctx * (ctx - 1) + (ids % ctx).saturating_sub(1)
}

fn session(model: &dyn Sequences, context: usize) -> Result<Box<dyn Sequence + Send + '_>> {
    model.begin(SessionOptions { context: context.max(1), ..SessionOptions::default() })
}

/// `log sum_j e^(l_j) - l_target`, in f64.
fn nll(logits: &[f32], target: u32) -> Result<f64> {
    let Some(&chosen) = logits.get(target as usize) else {
        return Err(Error::invalid(format!(
            "token id {target} is outside the vocabulary of {}",
            logits.len()
        )));
    };
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|l| (f64::from(*l) - max).exp()).sum();
    Ok(max + sum.ln() - f64::from(chosen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nll_of_known_distributions() {
        assert!((nll(&[0.0; 4], 2).unwrap() - 4f64.ln()).abs() < 1e-12);
        let p = nll(&[1000.0, 1001.0], 1).unwrap();
        assert!((p - (1.0 + (-1f64).exp()).ln()).abs() < 1e-12);
        assert!(nll(&[0.0], 1).is_err());
    }

    #[test]
    fn scored_positions_are_those_of_the_windows() {
        for ctx in 2..7 {
            for n in 2..30u32 {
                let ids: Vec<u32> = (0..n).collect();
                let scored: usize =
                    windows(&ids, ctx).unwrap().iter().map(|(_, targets)| targets.len()).sum();
                assert_eq!(scored_positions(ids.len(), ctx), scored, "{n} in windows of {ctx}");
            }
        }
    }
}
