//! Rotary position embedding (arXiv 2104.09864), half-split order, with every
//! context extension of transformers' `modeling_rope_utils`.
//!
//! Dimension pair `(i, i + dim/2)` of a head at position `p` is rotated by the
//! angle `p * f_i`, `f_i = theta^(-2i/dim)`; the extensions change the `f_i`
//! and may scale the rotated vectors. Frequencies are computed in f64, then
//! rounded to f32, and the angle is an f32 product as in the reference, so that
//! both agree at long contexts.

use crate::model::{ModelConfig, RopeScaling};
use crate::{Error, Result};
use std::f64::consts::PI;

/// Frequencies of one kind of layer.
#[derive(Clone, Debug)]
pub(crate) struct Rope {
    theta: f64,
    dim: usize,
    max_positions: f64,
    scaling: Option<RopeScaling>,
}

/// Frequencies and the factor on the rotated vectors for one context length.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Frequencies {
    /// [`Rope::epoch`] of the sequence they are for.
    pub(crate) epoch: usize,
    /// `dim / 2` angles per position.
    pub(crate) inverse: Vec<f32>,
    /// Factor on cosine and sine.
    pub(crate) attention_factor: f32,
}

impl Rope {
    /// The rotation of global layers, or with `local` of layers limited to the
    /// sliding window: those use `local_theta` unscaled where it is given.
    pub(super) fn new(config: &ModelConfig, local: bool) -> Result<Self> {
        let rope = &config.rope;
        let (theta, scaling) = match rope.local_theta {
            Some(theta) if local => (theta, None),
            _ => (rope.theta, rope.scaling.clone()),
        };
        let invalid = |field: &str, value: String, allowed: &str| {
            Err(Error::refused(
                "model-config",
                format!("model config: rope.{field} is {value}, must be {allowed}"),
            ))
        };
        if !(theta.is_finite() && theta > 1.0) {
            return invalid("theta", theta.to_string(), "finite and above 1");
        }
        if rope.dim == 0 || !rope.dim.is_multiple_of(2) || rope.dim > config.head_dim {
            return invalid("dim", rope.dim.to_string(), "even, positive and at most head_dim");
        }
        let half = rope.dim as usize / 2;
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let factors_fit = |f: &[f64]| f.len() == half && f.iter().all(|x| positive(*x));
        match &scaling {
            Some(RopeScaling::Linear { factor }) if !positive(*factor) => {
                return invalid("scaling.factor", factor.to_string(), "finite and positive");
            }
            Some(RopeScaling::Dynamic { factor, original_max_positions })
                if !(positive(*factor) && *original_max_positions > 0 && rope.dim > 2) =>
            {
                return invalid(
                    "scaling",
                    format!("{scaling:?}"),
                    "of positive values, with rope.dim above 2",
                );
            }
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_positions,
            }) if !(positive(*factor) && positive(*low) && high > low && *original_max_positions > 0) => {
                return invalid(
                    "scaling",
                    format!("{scaling:?}"),
                    "positive with high_freq_factor above low",
                );
            }
            Some(RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_positions, .. })
                if !(positive(*factor)
                    && positive(*beta_fast)
                    && positive(*beta_slow)
                    && *original_max_positions > 0) =>
            {
                return invalid("scaling", format!("{scaling:?}"), "of positive values");
            }
            Some(RopeScaling::Longrope { short_factor, long_factor, original_max_positions, .. })
                if !(factors_fit(short_factor)
                    && factors_fit(long_factor)
                    && *original_max_positions > 1) =>
            {
                return invalid(
                    "scaling",
                    format!(
                        "longrope with {} short and {} long factors",
                        short_factor.len(),
                        long_factor.len()
                    ),
                    "dim/2 positive factors of each kind and a trained context above 1",
                );
            }
            Some(RopeScaling::Factors { factors }) if !factors_fit(factors) => {
                return invalid(
                    "scaling.factors",
                    format!("{} values", factors.len()),
                    "dim/2 positive values",
                );
            }
            _ => {}
        }
        Ok(Self { theta, dim: rope.dim as usize, max_positions: f64::from(config.max_positions), scaling })
    }

    /// Frequencies of two lengths are the same if their epochs are.
    pub(crate) fn epoch(&self, length: usize) -> usize {
        match &self.scaling {
            Some(RopeScaling::Longrope { original_max_positions, .. }) => {
                usize::from(length > *original_max_positions as usize)
            }
            Some(RopeScaling::Dynamic { original_max_positions, .. }) => {
                length.max(*original_max_positions as usize)
            }
            _ => 0,
        }
    }

    /// Whether a new epoch also applies to the keys of past positions, as with
    /// Phi's factors (transformers drops the cache there). With NTK growth past
    /// keys keep the rotation they were given.
    pub(crate) fn rotates_past_keys(&self) -> bool {
        matches!(self.scaling, Some(RopeScaling::Longrope { .. }))
    }

    /// Frequencies for a sequence of `length` tokens.
    pub(crate) fn frequencies(&self, length: usize) -> Frequencies {
        let half = self.dim / 2;
        let powers = |theta: f64| (0..half).map(move |i| theta.powf(2.0 * i as f64 / self.dim as f64));
        let (inverse, factor): (Vec<f64>, f64) = match &self.scaling {
            None => (powers(self.theta).map(|p| 1.0 / p).collect(), 1.0),
            Some(RopeScaling::Linear { factor }) => {
                (powers(self.theta).map(|p| 1.0 / (p * factor)).collect(), 1.0)
            }
            Some(RopeScaling::Dynamic { factor, original_max_positions }) => {
                // theta grows with the part of the sequence beyond the trained length L:
                // theta (s n/L - (s - 1))^(dim / (dim - 2)).
                let trained = f64::from(*original_max_positions);
                let n = trained.max(length as f64);
                let dim = self.dim as f64;
                let theta = self.theta * (factor * n / trained - (factor - 1.0)).powf(dim / (dim - 2.0));
                (powers(theta).map(|p| 1.0 / p).collect(), 1.0)
            }
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_positions,
            }) => {
                let trained = f64::from(*original_max_positions);
                let scale = |p: f64| {
                    let f = 1.0 / p;
                    let rotations = trained * f / (2.0 * PI);
                    // 0 where the wavelength exceeds L/low, 1 below L/high.
                    let smooth = ((rotations - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - smooth) * f / factor + smooth * f
                };
                (powers(self.theta).map(scale).collect(), 1.0)
            }
            Some(RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_max_positions,
                attention_factor,
                mscale,
                mscale_all_dim,
                truncate,
            }) => {
                let (low, high) =
                    self.yarn_range(f64::from(*original_max_positions), (*beta_fast, *beta_slow), *truncate);
                let inverse = powers(self.theta).enumerate().map(|(i, p)| {
                    let interpolated = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                    (interpolated / factor + (1.0 - interpolated)) / p
                });
                let default = match (mscale, mscale_all_dim) {
                    (Some(m), Some(all)) if *m != 0.0 && *all != 0.0 => {
                        yarn_mscale(*factor, *m) / yarn_mscale(*factor, *all)
                    }
                    _ => yarn_mscale(*factor, 1.0),
                };
                (inverse.collect(), attention_factor.unwrap_or(default))
            }
            Some(RopeScaling::Longrope {
                short_factor,
                long_factor,
                original_max_positions,
                attention_factor,
            }) => {
                let factors = if self.epoch(length) == 1 { long_factor } else { short_factor };
                let inverse = powers(self.theta).zip(factors).map(|(p, f)| 1.0 / (f * p)).collect();
                // sqrt(1 + ln(s) / ln(L)) for an extension by s = n_max / L.
                let trained = f64::from(*original_max_positions);
                let extension = self.max_positions / trained;
                let default =
                    if extension <= 1.0 { 1.0 } else { (1.0 + extension.ln() / trained.ln()).sqrt() };
                (inverse, attention_factor.unwrap_or(default))
            }
            Some(RopeScaling::Factors { factors }) => {
                (powers(self.theta).zip(factors).map(|(p, f)| 1.0 / (p * f)).collect(), 1.0)
            }
        };
        Frequencies {
            epoch: self.epoch(length),
            inverse: inverse.into_iter().map(|f| f as f32).collect(),
            attention_factor: factor as f32,
        }
    }

    /// Dimensions between which YaRN blends: the one that turns `beta_fast`
    /// times over the trained context L and the one that turns `beta_slow`
    /// times, `dim ln(L / (2 pi beta)) / (2 ln theta)`.
    fn yarn_range(&self, trained: f64, (beta_fast, beta_slow): (f64, f64), truncate: bool) -> (f64, f64) {
        let dim = self.dim as f64;
        let turns = |beta: f64| dim * (trained / (beta * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
        let (mut low, mut high) = (turns(beta_fast), turns(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, high) = (low.max(0.0), high.min(dim - 1.0));
        // Equal bounds: a step, written as a very steep ramp.
        (low, if (high - low).abs() > 0.0 { high } else { high + 0.001 })
    }
}

/// `0.1 m ln(s) + 1`, 1 for s <= 1.
fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// Cosines and sines of consecutive positions, `dim / 2` each per position.
#[derive(Debug, Default)]
pub(super) struct Angles {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    /// Fills the table for positions `first..first + n`; keeps its memory.
    pub(super) fn fill(&mut self, frequencies: &Frequencies, first: usize, n: usize) {
        self.half = frequencies.inverse.len();
        self.cos.clear();
        self.sin.clear();
        let factor = f64::from(frequencies.attention_factor);
        for position in first..first + n {
            for f in &frequencies.inverse {
                let (sin, cos) = f64::from(position as f32 * f).sin_cos();
                self.cos.push((cos * factor) as f32);
                self.sin.push((sin * factor) as f32);
            }
        }
    }

    /// Rotates the leading dimensions of every head of row `i`; each head has
    /// `head_dim` values.
    pub(super) fn rotate(&self, i: usize, heads: &mut [f32], head_dim: usize) {
        let row = i * self.half..(i + 1) * self.half;
        let (Some(cos), Some(sin)) = (self.cos.get(row.clone()), self.sin.get(row)) else { return };
        for head in heads.chunks_exact_mut(head_dim) {
            let (first, rest) = head.split_at_mut(self.half);
            for (((a, b), c), s) in first.iter_mut().zip(rest).zip(cos).zip(sin) {
                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
            }
        }
    }
}
