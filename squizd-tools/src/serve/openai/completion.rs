//! `POST /v1/completions`.

use super::params::MAX_TOP_LOGPROBS;
use super::{Common, Fields};
use crate::serve::error::ApiError;
use crate::serve::limits::Limits;
use serde::Deserialize;
use serde_json::Value;

/// Tokens generated where the request does not say: OpenAI's number.
const DEFAULT_MAX_TOKENS: u64 = 16;

/// A text to be continued.
#[derive(Debug)]
pub(crate) struct CompletionRequest {
    pub(crate) prompt: Prompt,
    pub(crate) common: Common,
}

/// What to continue.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompts {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

impl CompletionRequest {
    /// Checks a request.
    pub(crate) fn parse(mut fields: Fields, limits: &Limits) -> Result<Self, ApiError> {
        let wrong = || {
            let message = "'prompt' must be a string, an array of token ids, or an array with one of these.";
            ApiError::param("prompt", message)
        };
        let prompts = serde_json::from_value(fields.need("prompt")?).map_err(|_| wrong())?;
        let prompt = match prompts {
            Prompts::Text(text) => Prompt::Text(text),
            Prompts::Tokens(ids) => Prompt::Tokens(ids),
            Prompts::Texts(texts) => Prompt::Text(single(texts)?),
            Prompts::TokenLists(lists) => Prompt::Tokens(single(lists)?),
        };
        fields.refuse("best_of", |v| v == 1, "only one choice per request is supported.")?;
        fields.refuse("echo", |v| v == false, "the prompt cannot be echoed.")?;
        fields.refuse("suffix", |v| v == "", "insertion is not supported.")?;
        let max_tokens = fields.take("max_tokens")?.unwrap_or_else(|| {
            limits.max_tokens.map_or(DEFAULT_MAX_TOKENS, |most| DEFAULT_MAX_TOKENS.min(most as u64))
        });
        let logprobs: Option<u64> = match fields.take("logprobs")? {
            Some(Value::Bool(false)) | None => None,
            Some(n) => match n.as_u64() {
                Some(n) if n <= MAX_TOP_LOGPROBS => Some(n),
                _ => {
                    let message = format!("'logprobs' must be an integer from 0 to {MAX_TOP_LOGPROBS}.");
                    return Err(ApiError::param("logprobs", message));
                }
            },
        };
        let common = Common::take(&mut fields, limits, Some(max_tokens), logprobs)?;
        fields.end()?;
        Ok(Self { prompt, common })
    }
}

/// The only one.
fn single<T>(mut prompts: Vec<T>) -> Result<T, ApiError> {
    match (prompts.pop(), prompts.len()) {
        (Some(one), 0) => Ok(one),
        _ => Err(ApiError::param("prompt", "'prompt' must hold exactly one prompt.")),
    }
}
