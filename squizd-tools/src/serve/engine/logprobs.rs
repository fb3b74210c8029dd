//! Log-probabilities of a token and its alternatives.

/// A token of the answer, as the model saw it before penalties, biases and
/// filters, at temperature 1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TokenLogprob {
    pub(crate) token: Choice,
    /// The most likely tokens, the likeliest first.
    pub(crate) top: Vec<Choice>,
    /// Characters of the answer before it.
    pub(crate) offset: usize,
}

/// A token's bytes and its natural log-probability.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Choice {
    pub(crate) bytes: Vec<u8>,
    pub(crate) logprob: f64,
}

/// Logits as they were before anything changed them.
pub(super) struct Distribution {
    logits: Vec<f32>,
    max: f64,
    /// `ln(sum(exp(logit - max)))`.
    log_sum: f64,
}

impl Distribution {
    pub(super) fn new(logits: &[f32]) -> Self {
        let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let sum: f64 = logits.iter().filter(|l| !l.is_nan()).map(|&l| (f64::from(l) - max).exp()).sum();
        Self { logits: logits.to_vec(), max, log_sum: sum.ln() }
    }

    /// Log-probability of `id`; what has none counts as impossible.
    pub(super) fn logprob(&self, id: u32) -> f64 {
        let p = self.logits.get(id as usize).map_or(f64::NAN, |&l| f64::from(l) - self.max - self.log_sum);
        if p.is_nan() { f64::NEG_INFINITY } else { p }
    }

    /// The `count` most likely tokens; of equals, those of lower id.
    pub(super) fn top(&self, count: usize) -> Vec<u32> {
        let mut best: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
        for (&logit, id) in self.logits.iter().zip(0..) {
            if logit.is_nan() || (best.len() == count && best.last().is_none_or(|b| b.1 >= logit)) {
                continue;
            }
            let place = best.partition_point(|b| b.1 >= logit);
            best.insert(place, (id, logit));
            best.truncate(count);
        }
        best.into_iter().map(|b| b.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_and_the_best_come_first() {
        let d = Distribution::new(&[1.0, 3.0, f32::NAN, 3.0, -2.0]);
        let sum: f64 = (0..5).map(|i| d.logprob(i).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-12, "{sum}");
        assert_eq!(d.top(3), [1, 3, 0]);
        assert_eq!(d.top(9), [1, 3, 0, 4]);
        assert!(d.top(0).is_empty());
        assert!((d.logprob(1) - d.logprob(0) - 2.0).abs() < 1e-12);
        assert_eq!((d.logprob(2), d.logprob(5)), (f64::NEG_INFINITY, f64::NEG_INFINITY));
    }

    #[test]
    fn senseless_logits_have_no_probability() {
        for logits in [vec![], vec![f32::NAN; 3], vec![f32::NEG_INFINITY; 3]] {
            assert!(Distribution::new(&logits).logprob(0) == f64::NEG_INFINITY);
        }
        assert!((Distribution::new(&[1e30, 1e30]).logprob(0) + 2f64.ln()).abs() < 1e-12);
    }
}
