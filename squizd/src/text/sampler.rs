//! Choosing the next token from logits.
//!
//! Filters run in the order of llama.cpp's default chain, each on what the one
//! before left, all on probabilities at temperature 1:
//! `top_k` -> `top_p` -> `min_p` -> temperature -> draw.

use crate::runtime::{Likely, keep_likeliest, likeliest};
use crate::{Error, Result};

/// Parameters of a [`Sampler`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Logits are divided by this before the draw; 0 takes the most likely
    /// token always.
    pub temperature: f32,
    /// Keep the smallest set of most likely tokens whose probabilities sum to
    /// at least this; 1 keeps all.
    pub top_p: f32,
    /// Keep this many most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep tokens at least this times as likely as the most likely one; 0
    /// keeps all.
    pub min_p: f32,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Default for SamplerOptions {
    /// Greedy.
    fn default() -> Self {
        Self { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, seed: 0 }
    }
}

/// Draws tokens; the same options and logits give the same tokens everywhere.
///
/// ```
/// use squizd::text::{Sampler, SamplerOptions};
/// let mut greedy = Sampler::new(SamplerOptions::default())?;
/// assert_eq!(greedy.sample(&[0.5, 2.0, f32::NAN, 2.0]), 1);
/// # Ok::<(), squizd::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    state: u64,
    /// Reused from token to token.
    candidates: Vec<Likely>,
}

/// Candidates that `top_p` sorts at a time.
const SORT_STEP: usize = 256;

impl Sampler {
    /// Checks the options.
    ///
    /// # Errors
    /// When a parameter is NaN, infinite or outside its range.
    pub fn new(options: SamplerOptions) -> Result<Self> {
        let SamplerOptions { temperature, top_p, min_p, .. } = options;
        for (name, value, ok, range) in [
            ("temperature", temperature, (0.0..=100.0).contains(&temperature), "0 to 100"),
            ("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0, to 1"),
            ("min_p", min_p, (0.0..=1.0).contains(&min_p), "0 to 1"),
        ] {
            if !ok {
                return Err(Error::invalid(format!("{name} is {value}, allowed: {range}")));
            }
        }
        Ok(Self { options, state: options.seed, candidates: Vec::new() })
    }

    /// Whether the most likely token is taken always.
    pub fn is_greedy(&self) -> bool {
        self.options.temperature == 0.0 || self.options.top_k == 1
    }

    /// The next token. NaN counts as impossible; if nothing is possible, id 0.
    ///
    /// Allocates on the first call only (for a given number of logits).
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        if self.is_greedy() {
            return likeliest(logits);
        }
        self.candidates.clear();
        self.candidates.extend(Likely::all(logits));
        if let Some(k) = self.reach() {
            keep_likeliest(&mut self.candidates, k);
        }
        self.choose()
    }

    /// How many tokens a draw looks at, the likeliest ones; `None`: at all.
    pub fn reach(&self) -> Option<usize> {
        let k = if self.is_greedy() { 1 } else { self.options.top_k };
        (k > 0).then_some(k as usize)
    }

    /// As [`Sampler::sample`] of all logits, when [`Sampler::reach`] says how many
    /// of them are needed, and these are the likeliest, as
    /// [`keep_likeliest`] leaves them.
    pub fn sample_of(&mut self, likeliest: &[Likely]) -> u32 {
        if self.is_greedy() {
            return likeliest.first().filter(|l| l.logit > f32::NEG_INFINITY).map_or(0, |l| l.id);
        }
        self.candidates.clear();
        self.candidates.extend_from_slice(likeliest);
        self.choose()
    }

    /// One of the candidates.
    fn choose(&mut self) -> u32 {
        let max = self.candidates.iter().fold(f32::NEG_INFINITY, |m, c| m.max(c.logit));
        if max == f32::NEG_INFINITY {
            return 0;
        }
        self.keep_top_p(max);
        self.keep_min_p(max);
        self.draw(max)
    }

    /// Sorts in steps, so that a peaked distribution costs one selection, not
    /// a sort of the vocabulary.
    fn keep_top_p(&mut self, max: f32) {
        if self.options.top_p >= 1.0 {
            return;
        }
        let weight = |c: &Likely| libm::exp(f64::from(c.logit) - f64::from(max));
        let target = f64::from(self.options.top_p) * self.candidates.iter().map(weight).sum::<f64>();
        let (mut sorted, mut mass) = (0, 0.0);
        while let Some(rest) = self.candidates.get_mut(sorted..).filter(|r| !r.is_empty()) {
            let step = SORT_STEP.min(rest.len());
            if step < rest.len() {
                rest.select_nth_unstable_by(step, Likely::order);
            }
            let (head, _) = rest.split_at_mut(step);
            head.sort_unstable_by(Likely::order);
            for (i, c) in head.iter().enumerate() {
                mass += weight(c);
                if mass >= target {
                    self.candidates.truncate(sorted + i + 1);
                    return;
                }
            }
            sorted += step;
        }
    }

    /// `p >= min_p * p_max` is `logit >= max + ln(min_p)`.
    fn keep_min_p(&mut self, max: f32) {
        if self.options.min_p > 0.0 {
            let least = f64::from(max) + libm::log(f64::from(self.options.min_p));
            self.candidates.retain(|c| f64::from(c.logit) >= least);
        }
    }

    fn draw(&mut self, max: f32) -> u32 {
        let inverse = 1.0 / f64::from(self.options.temperature);
        let weight = |c: &Likely| libm::exp((f64::from(c.logit) - f64::from(max)) * inverse);
        let mut left = self.uniform() * self.candidates.iter().map(weight).sum::<f64>();
        let mut last = 0;
        for c in &self.candidates {
            let w = weight(c);
            if w > 0.0 {
                last = c.id;
                if left < w {
                    break;
                }
                left -= w;
            }
        }
        last
    }

    /// Uniform in [0, 1), 53 bits, by `SplitMix64` (Steele, Lea, Flood 2014).
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::likeliest_of;

    const SAMPLED: SamplerOptions =
        SamplerOptions { temperature: 1.0, top_p: 1.0, top_k: 0, min_p: 0.0, seed: 7 };

    fn sampler(options: SamplerOptions) -> Sampler {
        Sampler::new(options).unwrap()
    }

    /// Ids that 4000 draws produce, with their frequencies.
    fn frequencies(options: SamplerOptions, logits: &[f32]) -> Vec<f64> {
        let mut s = sampler(options);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..4000 {
            counts[s.sample(logits) as usize] += 1.0 / 4000.0;
        }
        counts
    }

    fn logits(p: &[f64]) -> Vec<f32> {
        p.iter().map(|p| p.ln() as f32).collect()
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals_and_ignores_nan() {
        let mut s = sampler(SamplerOptions::default());
        assert_eq!(s.sample(&[f32::NAN, 1.0, 3.0, 3.0]), 2);
        assert_eq!(s.sample(&[f32::NAN; 3]), 0);
        assert_eq!(s.sample(&[]), 0);
        assert_eq!(s.sample(&[f32::NEG_INFINITY, f32::INFINITY, f32::INFINITY]), 1);
    }

    #[test]
    fn splitmix64_matches_its_published_sequence() {
        // First outputs for seed 1234567, from the reference C code.
        let mut s = sampler(SamplerOptions { seed: 1_234_567, ..SAMPLED });
        for expected in [6_457_827_717_110_365_317u64, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423] {
            let bits = s.uniform() * (1u64 << 53) as f64;
            assert_eq!(bits as u64, expected >> 11);
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let p = [0.1, 0.2, 0.3, 0.4];
        for (f, p) in frequencies(SAMPLED, &logits(&p)).iter().zip(p) {
            assert!((f - p).abs() < 0.03, "{f} for {p}");
        }
        // Temperature 1/2 squares the probabilities: 1, 4, 9, 16 of 30.
        let f = frequencies(SamplerOptions { temperature: 0.5, ..SAMPLED }, &logits(&p));
        for (f, w) in f.iter().zip([1.0, 4.0, 9.0, 16.0]) {
            assert!((f - w / 30.0).abs() < 0.03, "{f} for {w}/30");
        }
    }

    #[test]
    fn filters_keep_exactly_their_sets() {
        let l = logits(&[0.1, 0.4, 0.2, 0.3]);
        let kept = |o: SamplerOptions| {
            frequencies(o, &l).iter().zip(0..).filter(|(f, _)| **f > 0.0).map(|(_, i)| i).collect::<Vec<_>>()
        };
        assert_eq!(kept(SamplerOptions { top_k: 2, ..SAMPLED }), [1, 3]);
        assert_eq!(kept(SamplerOptions { top_k: 1, ..SAMPLED }), [1]);
        assert_eq!(kept(SamplerOptions { top_k: 9, ..SAMPLED }), [0, 1, 2, 3]);
        assert_eq!(kept(SamplerOptions { top_p: 0.69, ..SAMPLED }), [1, 3]);
        assert_eq!(kept(SamplerOptions { top_p: 0.71, ..SAMPLED }), [1, 2, 3]);
        assert_eq!(kept(SamplerOptions { min_p: 0.49, ..SAMPLED }), [1, 2, 3]);
        assert_eq!(kept(SamplerOptions { min_p: 0.51, ..SAMPLED }), [1, 3]);
        // top_p sees only what top_k left: 0.4 of 0.7 is 0.571.
        assert_eq!(kept(SamplerOptions { top_k: 2, top_p: 0.57, ..SAMPLED }), [1]);
        // Filters come before temperature: heat does not widen them.
        assert_eq!(kept(SamplerOptions { top_p: 0.69, temperature: 50.0, ..SAMPLED }), [1, 3]);
    }

    #[test]
    fn the_likeliest_do_for_all_that_is_within_reach() {
        let logits: Vec<f32> =
            (0..500u32).map(|i| [f32::NAN, (i * 37 % 100) as f32 * 0.1, -0.0, 0.0][i as usize % 4]).collect();
        for top_k in [1, 2, 40, 300, 1000] {
            let options = SamplerOptions { top_k, top_p: 0.9, min_p: 0.01, ..SAMPLED };
            let (mut all, mut few) = (sampler(options), sampler(options));
            let reach = few.reach().unwrap();
            let mut kept = Vec::new();
            likeliest_of(&logits, reach, &mut kept);
            for _ in 0..200 {
                assert_eq!(few.sample_of(&kept), all.sample(&logits), "{top_k}");
            }
        }
        assert_eq!(sampler(SAMPLED).reach(), None);
        assert_eq!(sampler(SamplerOptions { top_k: 5, ..SAMPLED }).sample_of(&[]), 0);
    }

    #[test]
    fn top_p_over_many_sorting_steps() {
        // 2000 equal tokens: half the mass is exactly the 1000 lowest ids.
        let l = vec![0.0; 2000];
        let mut s = sampler(SamplerOptions { top_p: 0.5, ..SAMPLED });
        let ids: Vec<u32> = (0..5000).map(|_| s.sample(&l)).collect();
        assert!(ids.iter().all(|&i| i < 1000));
        assert!(ids.iter().any(|&i| i > 900));
    }

    #[test]
    fn same_seed_same_tokens_and_the_stream_advances() {
        let l = logits(&[0.25; 4]);
        let run = |seed| {
            let mut s = sampler(SamplerOptions { seed, ..SAMPLED });
            (0..32).map(|_| s.sample(&l)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert!(run(1).iter().any(|&t| t != run(1)[0]));
    }

    #[test]
    fn nan_and_infinite_logits_never_panic() {
        let mut s = sampler(SamplerOptions { top_k: 3, top_p: 0.9, min_p: 0.1, ..SAMPLED });
        assert_eq!(s.sample(&[f32::NAN, f32::NAN]), 0);
        assert_eq!(s.sample(&[f32::NAN, 1.0, f32::NEG_INFINITY]), 1);
        assert_eq!(s.sample(&[0.0, f32::INFINITY, 1.0]), 1);
        assert_eq!(s.sample(&[]), 0);
    }

    #[test]
    fn refuses_senseless_options() {
        for bad in [
            SamplerOptions { temperature: -1.0, ..SAMPLED },
            SamplerOptions { temperature: f32::NAN, ..SAMPLED },
            SamplerOptions { temperature: f32::INFINITY, ..SAMPLED },
            SamplerOptions { top_p: 0.0, ..SAMPLED },
            SamplerOptions { top_p: 1.5, ..SAMPLED },
            SamplerOptions { min_p: -0.1, ..SAMPLED },
            SamplerOptions { min_p: f32::NAN, ..SAMPLED },
        ] {
            let message = Sampler::new(bad).unwrap_err().to_string();
            assert!(message.contains("allowed"), "{message}");
        }
    }
}
