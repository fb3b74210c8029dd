//! Parameters that both endpoints have.

use super::Fields;
use crate::serve::error::ApiError;
use crate::serve::limits::Limits;
use serde::Deserialize;
use serde_json::{Map, Number, Value};
use squizd::text::{Penalties, Sampler, SamplerOptions, StopMatcher};
use std::hash::{BuildHasher, RandomState};

/// Most alternatives per token.
pub(super) const MAX_TOP_LOGPROBS: u64 = 20;
/// Most tokens with a bias: each costs a little at every token.
const MAX_BIASES: usize = 1024;

/// How to generate, and how to answer.
#[derive(Debug)]
pub(crate) struct Common {
    /// The model asked for.
    pub(crate) model: Option<String>,
    /// Answer token by token.
    pub(crate) stream: bool,
    /// End the stream with the numbers of tokens.
    pub(crate) include_usage: bool,
    pub(crate) sampler: Sampler,
    pub(crate) penalties: Penalties,
    pub(crate) stops: StopMatcher,
    pub(crate) max_tokens: Option<usize>,
    /// Alternatives per token, where log-probabilities are wanted.
    pub(crate) logprobs: Option<usize>,
    pub(crate) ignore_eos: bool,
    pub(crate) cache_prompt: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: Option<bool>,
}

impl Common {
    /// Takes them from `fields`; `max_tokens` and `logprobs` differ between
    /// the endpoints.
    pub(super) fn take(
        fields: &mut Fields,
        limits: &Limits,
        max_tokens: Option<u64>,
        logprobs: Option<u64>,
    ) -> Result<Self, ApiError> {
        fields.refuse("n", |v| v == 1, "only one choice per request is supported.")?;
        let stream = fields.take("stream")?.unwrap_or(false);
        let options: Option<StreamOptions> = fields.take("stream_options")?;
        if options.is_some() && !stream {
            let message = "'stream_options' is only allowed when 'stream' is enabled.";
            return Err(ApiError::param("stream_options", message));
        }
        Ok(Self {
            model: fields.take("model")?,
            stream,
            include_usage: options.and_then(|o| o.include_usage).unwrap_or(false),
            sampler: sampler(fields)?,
            penalties: penalties(fields)?,
            stops: stops(fields)?,
            max_tokens: max_tokens.map(|n| checked_max(n, limits)).transpose()?,
            logprobs: logprobs.map(|n| n as usize),
            ignore_eos: fields.take("ignore_eos")?.unwrap_or(false),
            cache_prompt: fields.take("cache_prompt")?.unwrap_or(true),
        })
    }
}

fn checked_max(asked: u64, limits: &Limits) -> Result<usize, ApiError> {
    if asked == 0 {
        return Err(ApiError::param("max_tokens", "'max_tokens' is 0, must be at least 1."));
    }
    match limits.max_tokens {
        Some(most) if asked > most as u64 => Err(ApiError::param(
            "max_tokens",
            format!("'max_tokens' is {asked}, this server generates at most {most} tokens."),
        )),
        _ => Ok(usize::try_from(asked).unwrap_or(usize::MAX)),
    }
}

fn sampler(fields: &mut Fields) -> Result<Sampler, ApiError> {
    let seed = match fields.take::<Number>("seed")? {
        None => RandomState::new().hash_one(0),
        Some(n) => n
            .as_u64()
            .or(n.as_i64().map(|n| n as u64))
            .ok_or_else(|| ApiError::param("seed", "'seed' must be an integer."))?,
    };
    let options = SamplerOptions {
        temperature: fields.take("temperature")?.unwrap_or(1.0),
        top_p: fields.take("top_p")?.unwrap_or(1.0),
        top_k: fields.take("top_k")?.unwrap_or(0),
        min_p: fields.take("min_p")?.unwrap_or(0.0),
        seed,
    };
    Sampler::new(options).map_err(|e| ApiError::invalid(e.to_string()))
}

fn penalties(fields: &mut Fields) -> Result<Penalties, ApiError> {
    let given: Map<String, Value> = fields.take("logit_bias")?.unwrap_or_default();
    if given.len() > MAX_BIASES {
        let message = format!("'logit_bias' has {} entries, at most {MAX_BIASES} are allowed.", given.len());
        return Err(ApiError::param("logit_bias", message));
    }
    let mut bias = Vec::new();
    for (id, value) in given {
        let pair = id.parse::<u32>().ok().zip(value.as_f64());
        let wrong = || ApiError::param("logit_bias", "'logit_bias' must map token ids to numbers.");
        let (id, value) = pair.ok_or_else(wrong)?;
        bias.push((id, value as f32));
    }
    let presence = fields.take("presence_penalty")?.unwrap_or(0.0);
    let frequency = fields.take("frequency_penalty")?.unwrap_or(0.0);
    Penalties::new(presence, frequency, bias).map_err(|e| ApiError::invalid(e.to_string()))
}

fn stops(fields: &mut Fields) -> Result<StopMatcher, ApiError> {
    let stops = match fields.take("stop")? {
        None => Vec::new(),
        Some(OneOrMore::One(stop)) => vec![stop],
        Some(OneOrMore::More(stops)) => stops,
    };
    StopMatcher::new(stops).map_err(|e| ApiError::param("stop", e.to_string()))
}
