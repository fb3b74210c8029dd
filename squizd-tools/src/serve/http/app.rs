//! What all requests share, and a request's way from text to the engine.

use super::guard::{Browsers, Key};
use crate::serve::engine::{Command, EVENTS, Event, Fault, Job, Params};
use crate::serve::error::ApiError;
use crate::serve::limits::Limits;
use crate::serve::metrics::Metrics;
use crate::serve::openai::{ChatRequest, Common, Kind, Prompt, Reply};
use axum::http::StatusCode;
use squizd::text::{ChatTemplate, Date, RenderOptions, Tokenizer};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc::Sender};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The server's state.
pub(crate) struct App {
    pub(crate) model: Arc<str>,
    /// Names the weights.
    pub(crate) fingerprint: Arc<str>,
    /// When the server started, in seconds since 1970.
    pub(crate) started: u64,
    pub(crate) tokenizer: Arc<Tokenizer>,
    pub(crate) template: Option<ChatTemplate>,
    /// Tokens that a slot can hold.
    pub(crate) context: usize,
    pub(crate) vocab_size: usize,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) engine: Sender<Command>,
    /// One permit per slot and per place in the queue.
    pub(crate) places: Arc<Semaphore>,
    pub(crate) stopping: AtomicBool,
    pub(crate) browsers: Browsers,
    pub(crate) key: Option<Key>,
}

/// A request that the engine has taken up.
pub(super) struct Running {
    pub(super) reply: Reply,
    pub(super) events: mpsc::Receiver<Event>,
}

impl App {
    /// A place in slots or queue.
    pub(super) fn admit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        if self.stopping.load(Ordering::Relaxed) {
            return Err(ApiError::stopping());
        }
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| ApiError::busy())
    }

    /// Requests that hold or wait for a slot.
    pub(super) fn admitted(&self) -> usize {
        self.limits.slots + self.limits.queue - self.places.available_permits()
    }

    /// Refuses a request for another model.
    pub(super) fn check_model(&self, asked: Option<&str>) -> Result<(), ApiError> {
        match asked {
            Some(name) if name != &*self.model => {
                let shown: String = name.chars().take(128).collect();
                let message =
                    format!("The model '{shown}' does not exist; this server has '{}'.", self.model);
                Err(ApiError::client(StatusCode::NOT_FOUND, message).at("model").code("model_not_found"))
            }
            _ => Ok(()),
        }
    }

    /// The prompt's ids for a conversation.
    pub(super) fn chat_prompt(&self, request: &ChatRequest) -> Result<Vec<u32>, ApiError> {
        let template = self.template.as_ref().ok_or_else(|| {
            ApiError::invalid("The model has no chat template; use /v1/completions.").code("no_chat_template")
        })?;
        let options = RenderOptions {
            add_generation_prompt: true,
            variables: request.variables.clone(),
            date: today(),
            ..RenderOptions::default()
        };
        let invalid = |e: squizd::Error| ApiError::param("messages", e.to_string());
        let text = template.render_with(&request.messages, &options).map_err(invalid)?;
        self.tokenizer.encode_chat(&text).map_err(invalid)
    }

    /// The prompt's ids for a text to continue.
    pub(super) fn completion_prompt(&self, prompt: Prompt) -> Result<Vec<u32>, ApiError> {
        let ids = match prompt {
            Prompt::Text(text) => {
                self.tokenizer.encode(&text, true).map_err(|e| ApiError::param("prompt", e.to_string()))?
            }
            Prompt::Tokens(ids) => ids,
        };
        match ids.iter().find(|id| **id as usize >= self.vocab_size) {
            Some(id) => {
                let message = format!("Token id {id} is outside the vocabulary of {}.", self.vocab_size);
                Err(ApiError::param("prompt", message))
            }
            None => Ok(ids),
        }
    }

    /// Hands a request to the engine, and waits for its turn.
    pub(super) async fn start(
        &self,
        prompt: Vec<u32>,
        common: Common,
        kind: Kind,
        received: Instant,
        place: OwnedSemaphorePermit,
    ) -> Result<Running, ApiError> {
        self.check_length(prompt.len(), kind)?;
        let reply = self.reply(kind, &common);
        let params = Params {
            sampler: common.sampler,
            penalties: common.penalties,
            stops: common.stops,
            max_tokens: common.max_tokens.or(self.limits.max_tokens).unwrap_or(usize::MAX),
            logprobs: common.logprobs,
            ignore_eos: common.ignore_eos,
            reuse: common.cache_prompt,
            at_start: kind == Kind::Chat,
        };
        let (sender, mut events) = mpsc::channel(EVENTS);
        let job = Job { prompt, params, events: sender, received, place: Some(place) };
        self.engine.send(Command::Generate(Box::new(job))).map_err(|_| ApiError::stopping())?;
        match events.recv().await {
            Some(Event::Failed(fault)) => Err(fault.into()),
            Some(_) => Ok(Running { reply, events }),
            // Sent when the engine had just stopped listening.
            None if self.stopping.load(Ordering::Relaxed) => Err(ApiError::stopping()),
            None => Err(ApiError::internal()),
        }
    }

    fn check_length(&self, tokens: usize, kind: Kind) -> Result<(), ApiError> {
        let param = match kind {
            Kind::Chat => "messages",
            Kind::Completion => "prompt",
        };
        if tokens == 0 {
            return Err(ApiError::param(param, "The prompt is empty."));
        }
        if tokens >= self.context {
            let message = format!(
                "This model's maximum context length is {} tokens, and an answer needs at least one of them. \
                 However, your prompt has {tokens} tokens.",
                self.context
            );
            return Err(ApiError::param(param, message).code("context_length_exceeded"));
        }
        Ok(())
    }

    fn reply(&self, kind: Kind, common: &Common) -> Reply {
        let prefix = match kind {
            Kind::Chat => "chatcmpl",
            Kind::Completion => "cmpl",
        };
        Reply {
            kind,
            id: format!("{prefix}-{:016x}", RandomState::new().hash_one(0)),
            created: now(),
            model: Arc::clone(&self.model),
            fingerprint: Arc::clone(&self.fingerprint),
            logprobs: common.logprobs.is_some(),
            include_usage: common.include_usage,
        }
    }
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Model(error) => {
                eprintln!("error: a request failed: {error}");
                Self::internal()
            }
            Fault::Panic => Self::internal(),
            Fault::ShuttingDown => Self::stopping(),
        }
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The day, in UTC.
fn today() -> Date {
    let (year, month, day) = civil(now() / 86_400);
    Date::new(year, month, day).unwrap_or_default()
}

/// The Gregorian date of a day counted from 1970-01-01 (Hinnant,
/// "chrono-compatible low-level date algorithms", `civil_from_days`).
fn civil(days: u64) -> (u16, u8, u8) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year as u16, month as u8, day as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (19_782, (2024, 2, 29)),
            (19_783, (2024, 3, 1)),
            (20_453, (2025, 12, 31)),
        ] {
            assert_eq!(civil(days), date);
        }
    }
}
