//! Changes to logits before sampling: repetition penalties and biases.

use crate::{Error, Result};
use std::collections::BTreeMap;

/// Presence and frequency penalties on the tokens generated so far, and fixed
/// biases, with OpenAI's meaning:
/// `logit[t] += bias[t] - count[t] * frequency - (count[t] > 0) * presence`.
///
/// ```
/// use squizd::text::Penalties;
/// let mut penalties = Penalties::new(0.5, 1.0, [(2, -100.0)])?;
/// penalties.observe(0);
/// penalties.observe(0);
/// let mut logits = [3.0, 3.0, 3.0];
/// penalties.apply(&mut logits);
/// assert_eq!(logits, [0.5, 3.0, -97.0]);
/// # Ok::<(), squizd::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Penalties {
    presence: f32,
    frequency: f32,
    bias: BTreeMap<u32, f32>,
    /// Times each token was generated; empty while both penalties are zero.
    counts: BTreeMap<u32, u32>,
}

impl Penalties {
    /// Checks the numbers; `bias` is by token id.
    ///
    /// # Errors
    /// When a penalty is outside -2 to 2, or a bias outside -100 to 100.
    pub fn new(presence: f32, frequency: f32, bias: impl IntoIterator<Item = (u32, f32)>) -> Result<Self> {
        for (name, value) in [("presence_penalty", presence), ("frequency_penalty", frequency)] {
            if !(-2.0..=2.0).contains(&value) {
                return Err(Error::invalid(format!("{name} is {value}, allowed: -2 to 2")));
            }
        }
        let bias: BTreeMap<u32, f32> = bias.into_iter().collect();
        if let Some((id, value)) = bias.iter().find(|(_, b)| !(-100.0..=100.0).contains(*b)) {
            return Err(Error::invalid(format!("logit_bias of token {id} is {value}, allowed: -100 to 100")));
        }
        Ok(Self { presence, frequency, bias, counts: BTreeMap::new() })
    }

    /// Whether they change nothing.
    pub fn is_neutral(&self) -> bool {
        self.presence == 0.0 && self.frequency == 0.0 && self.bias.is_empty()
    }

    /// Counts a generated token.
    pub fn observe(&mut self, id: u32) {
        if self.presence != 0.0 || self.frequency != 0.0 {
            *self.counts.entry(id).or_default() += 1;
        }
    }

    /// Changes `logits`; ids past their end have no effect.
    pub fn apply(&self, logits: &mut [f32]) {
        for (&id, &bias) in &self.bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        for (&id, &count) in &self.counts {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit -= count as f32 * self.frequency + self.presence;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "exact by construction")]
mod tests {
    use super::*;

    #[test]
    fn nothing_asked_nothing_changed() {
        let mut penalties = Penalties::default();
        penalties.observe(1);
        let mut logits = [1.0, -2.0];
        penalties.apply(&mut logits);
        assert_eq!(logits, [1.0, -2.0]);
    }

    #[test]
    fn ids_outside_the_vocabulary_do_nothing() {
        let mut penalties = Penalties::new(2.0, -2.0, [(9, 50.0)]).unwrap();
        penalties.observe(7);
        penalties.observe(1);
        let mut logits = [1.0, 1.0];
        penalties.apply(&mut logits);
        assert_eq!(logits, [1.0, 1.0]);
        penalties.observe(1);
        penalties.apply(&mut logits);
        assert_eq!(logits, [1.0, 3.0]);
    }

    #[test]
    fn refuses_numbers_outside_their_range() {
        for bad in [2.5, -2.5, f32::NAN, f32::INFINITY] {
            assert!(Penalties::new(bad, 0.0, []).unwrap_err().to_string().contains("presence_penalty"));
            assert!(Penalties::new(0.0, bad, []).unwrap_err().to_string().contains("frequency_penalty"));
        }
        for bad in [100.5, f32::NAN] {
            assert!(Penalties::new(0.0, 0.0, [(3, bad)]).unwrap_err().to_string().contains("token 3"));
        }
    }
}
