//! How far a model's predictions lie from a reference model's.

use super::{Perplexity, session, summary, windows};
use crate::runtime::{Sequence, Sequences};
use crate::{Error, Result};
use rayon::prelude::*;

/// Positions compared together: bounds the logits held of both models.
pub(super) const BATCH: usize = 64;

/// Divergence of a model's next-token distributions `Q` from a reference's `P`,
/// position by position.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Divergence {
    /// `KL(P || Q)` in nats.
    pub kld: Spread,
    /// Share of positions where both find the same token the most likely.
    pub top1_agreement: f64,
    /// Perplexity of the model.
    pub ppl: f64,
    /// Perplexity of the reference.
    pub reference_ppl: f64,
    /// `ppl / reference_ppl`.
    pub ppl_ratio: f64,
    /// Positions compared.
    pub tokens: u64,
}

/// How values are spread.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Spread {
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard error of the mean, positions taken as independent.
    pub standard_error: f64,
    /// Half are below.
    pub median: f64,
    /// 90 % are at or below (nearest rank).
    pub p90: f64,
    /// 99 % are at or below.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        values.sort_by(f64::total_cmp);
        let rank = |q: f64| values.get(((q * n).ceil() as usize).saturating_sub(1)).copied();
        Some(Self {
            mean,
            standard_error: (variance / n).sqrt(),
            median: rank(0.5)?,
            p90: rank(0.9)?,
            p99: rank(0.99)?,
            max: *values.last()?,
        })
    }
}

/// What a model is compared with.
pub enum Reference<'r> {
    /// A model, run side by side.
    Model(&'r dyn Sequences),
    /// Little-endian `f32` logits as [`super::scored_logits`] gives them, of
    /// the same ids, context and vocabulary.
    Logits(&'r [u8]),
}

impl Reference<'_> {
    /// Refuses what belongs to another vocabulary or text.
    fn check(&self, vocab: usize, positions: usize) -> Result<()> {
        match self {
            Self::Model(model) if model.vocab_size() != vocab => Err(Error::invalid(format!(
                "the model has a vocabulary of {vocab}, the reference of {}: they cannot be compared",
                model.vocab_size()
            ))),
            Self::Logits(bytes) if positions.checked_mul(4 * vocab) != Some(bytes.len()) => {
                Err(Error::invalid(format!(
                    "the reference has {} bytes of logits, {positions} positions of {vocab} tokens need {} x 4: they \
                     cannot be compared",
                    bytes.len(),
                    positions.saturating_mul(vocab)
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Compares `model` with `reference` on `ids`, by the protocol of
/// [`super::perplexity`]; both must have one vocabulary.
///
/// `progress` is called with the ids done, and the mean divergence so far,
/// after each window.
///
/// # Errors
/// As [`super::perplexity`], and if the vocabularies differ in size or logits
/// are not finite.
pub fn divergence(
    model: &dyn Sequences,
    reference: &Reference<'_>,
    ids: &[u32],
    ctx: usize,
    bos: Option<u32>,
    mut progress: impl FnMut(usize, f64),
) -> Result<Divergence> {
    let vocab = model.vocab_size();
    let ids: Vec<u32> = bos.into_iter().chain(ids.iter().copied()).collect();
    let windows = windows(&ids, ctx)?;
    reference.check(vocab, windows.iter().map(|(_, targets)| targets.len()).sum())?;
    let mut ours = session(model, ctx.min(ids.len()))?;
    let mut theirs = match reference {
        Reference::Model(other) => Theirs::Run(session(*other, ctx.min(ids.len()))?),
        Reference::Logits(bytes) => Theirs::Read(bytes),
    };
    let mut positions = Vec::new();
    let mut sum = 0.0;
    let mut done = 0;
    for (inputs, targets) in windows {
        ours.truncate(0);
        theirs.begin();
        for (inputs, targets) in inputs.chunks(BATCH).zip(targets.chunks(BATCH)) {
            let (q, p) = (batch_logits(&mut *ours, inputs, vocab)?, theirs.next(inputs, vocab)?);
            let compared: Vec<Position> = q
                .par_chunks_exact(vocab)
                .zip(p.par_chunks_exact(vocab))
                .zip(targets)
                .map(|((q, p), target)| Position::compare(p, q, *target))
                .collect::<Result<_>>()?;
            sum += compared.iter().map(|c| c.kld).sum::<f64>();
            positions.extend(compared);
        }
        done += inputs.len() + 1;
        progress(done, sum / positions.len() as f64);
    }
    let tokens = positions.len() as u64;
    let mean = |of: fn(&Position) -> f64| positions.iter().map(of).sum::<f64>();
    let ppl = |nll: f64| -> Perplexity { summary(nll, tokens) };
    let (ppl, reference_ppl) = (ppl(mean(|p| p.nll)).ppl, ppl(mean(|p| p.reference_nll)).ppl);
    let agreed = positions.iter().filter(|p| p.agree).count();
    let kld = Spread::of(positions.iter().map(|p| p.kld).collect())
        .ok_or_else(|| Error::invalid("the text gives no positions to compare"))?;
    Ok(Divergence {
        kld,
        top1_agreement: agreed as f64 / tokens as f64,
        ppl,
        reference_ppl,
        ppl_ratio: ppl / reference_ppl,
        tokens,
    })
}

/// The reference under way.
enum Theirs<'r> {
    Run(Box<dyn Sequence + Send + 'r>),
    /// What has not been read yet.
    Read(&'r [u8]),
}

impl Theirs<'_> {
    /// A window begins.
    fn begin(&mut self) {
        if let Self::Run(session) = self {
            session.truncate(0);
        }
    }

    /// The logits after each of the next `inputs`.
    fn next(&mut self, inputs: &[u32], vocab: usize) -> Result<Vec<f32>> {
        match self {
            Self::Run(session) => batch_logits(&mut **session, inputs, vocab),
            Self::Read(rest) => {
                let (bytes, after) = rest.split_at_checked(4 * vocab * inputs.len()).ok_or_else(|| {
                    Error::invalid("the reference has fewer logits than the text positions")
                })?;
                *rest = after;
                Ok(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
            }
        }
    }
}

fn batch_logits(session: &mut dyn Sequence, inputs: &[u32], vocab: usize) -> Result<Vec<f32>> {
    let mut out = Vec::with_capacity(inputs.len() * vocab);
    session.forward_all(inputs, &mut |_, logits| {
        out.extend_from_slice(logits);
        Ok(())
    })?;
    Ok(out)
}

/// One position compared.
struct Position {
    kld: f64,
    agree: bool,
    nll: f64,
    reference_nll: f64,
}

impl Position {
    /// From the logits of the reference `p` and the model `q`.
    ///
    /// With `l = logits - log sum exp logits`, `KL = sum e^(l_p) (l_p - l_q)`,
    /// in f64; rounding may leave it a little below its bound of zero.
    fn compare(p: &[f32], q: &[f32], target: u32) -> Result<Self> {
        let (norm_p, best_p) = normaliser(p)?;
        let (norm_q, best_q) = normaliser(q)?;
        let terms = p.iter().zip(q).map(|(p, q)| {
            let (p, q) = (f64::from(*p) - norm_p, f64::from(*q) - norm_q);
            p.exp() * (p - q)
        });
        let kld = terms.sum::<f64>().max(0.0);
        let chosen = |logits: &[f32]| logits.get(target as usize).copied().map(f64::from);
        let (Some(chosen_p), Some(chosen_q)) = (chosen(p), chosen(q)) else {
            return Err(Error::invalid(format!(
                "token id {target} is outside the vocabulary of {}",
                p.len()
            )));
        };
        Ok(Self { kld, agree: best_p == best_q, nll: norm_q - chosen_q, reference_nll: norm_p - chosen_p })
    }
}

/// `log sum exp`, and the index of the first largest logit.
fn normaliser(logits: &[f32]) -> Result<(f64, usize)> {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, &l) in logits.iter().enumerate() {
        if !l.is_finite() {
            return Err(Error::invalid(format!("logit {i} is {l}: the model cannot be judged")));
        }
        if l > best.1 {
            best = (i, l);
        }
    }
    let max = f64::from(best.1);
    let sum: f64 = logits.iter().map(|l| (f64::from(*l) - max).exp()).sum();
    Ok((max + sum.ln(), best.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{perplexity, scored_logits};
    use crate::runtime::Model;
    use crate::runtime::testing::Trained;
    use squizd_spec::CodecId;

    #[test]
    fn divergence_of_known_distributions() {
        let ln = |values: [f32; 3]| values.map(f32::ln);
        let c = Position::compare(&ln([0.5, 0.25, 0.25]), &ln([0.25, 0.25, 0.5]), 0).unwrap();
        let want = 0.5 * 2f64.ln() - 0.25 * 2f64.ln();
        assert!((c.kld - want).abs() < 1e-6 && !c.agree, "{} {want}", c.kld);
        assert!((c.nll - 4f64.ln()).abs() < 1e-6 && (c.reference_nll - 2f64.ln()).abs() < 1e-6);
        // Logits are known up to a constant.
        let same = Position::compare(&[1.0, 2.0, 3.0], &[1001.0, 1002.0, 1003.0], 1).unwrap();
        assert!(same.kld < 1e-9 && same.agree);
        assert!(Position::compare(&[0.0, f32::NAN], &[0.0; 2], 0).is_err());
        assert!(Position::compare(&[0.0], &[0.0], 1).is_err());
    }

    #[test]
    fn percentiles_are_ranks() {
        let s = Spread::of((1..=100).rev().map(f64::from).collect()).unwrap();
        assert_eq!(
            [s.mean, s.median, s.p90, s.p99, s.max].map(|v| (v * 10.0) as u32),
            [505, 500, 900, 990, 1000]
        );
        assert!(Spread::of(Vec::new()).is_none());
    }

    #[test]
    fn a_model_agrees_with_itself_and_less_with_its_quantizations() {
        let trained = Trained::tiny();
        let exact = Model::new(&trained.config, &&trained.weights).unwrap();
        let ids: Vec<u32> = (0..300u32).map(|i| (i * 37 + 11) % 1024).collect();
        let of = |model: &Model<'_>| {
            divergence(model, &Reference::Model(&exact), &ids, 130, Some(0), |_, _| {}).unwrap()
        };
        let same = of(&exact);
        assert_eq!(same.tokens, 301 - 3);
        assert!(same.kld.max < 1e-9 && (same.top1_agreement - 1.0).abs() < 1e-12);
        let direct = perplexity(&exact, &ids, 130, Some(0), |_, _| {}).unwrap();
        assert_eq!(direct.tokens, same.tokens);
        assert!((direct.ppl / same.ppl - 1.0).abs() < 1e-6 && (same.ppl_ratio - 1.0).abs() < 1e-6);
        // Kept logits compare as the model that they are of.
        let mut kept = Vec::new();
        let keep = |row: &[f32]| {
            kept.extend(row.iter().flat_map(|v| v.to_le_bytes()));
            Ok(())
        };
        scored_logits(&exact, &ids, 130, Some(0), keep).unwrap();
        let with =
            |bytes: &[u8]| divergence(&exact, &Reference::Logits(bytes), &ids, 130, Some(0), |_, _| {});
        assert_eq!(with(&kept).unwrap(), same);
        for wrong in [&kept[4..], &kept[..0]] {
            let error = with(wrong).unwrap_err().to_string();
            assert!(error.contains("bytes of logits"), "{error}");
        }
        let [q8, int4] = [CodecId::Q8, CodecId::INT4].map(|id| {
            let weights = trained.weights.encoded(id);
            of(&Model::new(&trained.config, &&weights).unwrap())
        });
        println!("{q8:?}\n{int4:?}");
        assert!(q8.kld.mean > 1e-9 && int4.kld.mean > 3.0 * q8.kld.mean);
        assert!(int4.kld.median <= int4.kld.p90 && int4.kld.p99 <= int4.kld.max);
        assert!(int4.top1_agreement < 1.0);
    }
}
