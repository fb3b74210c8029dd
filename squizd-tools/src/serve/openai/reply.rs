//! Replies, whole and in pieces.

use crate::serve::engine::{Choice, FinishReason, TokenLogprob, Usage};
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::sync::Arc;

/// The last event of every stream.
pub(crate) const DONE: &str = "data: [DONE]\n\n";

/// A server-sent event.
pub(crate) fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// Which endpoint replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Chat,
    Completion,
}

/// What all pieces of one reply have in common.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) model: Arc<str>,
    /// Names the weights.
    pub(crate) fingerprint: Arc<str>,
    pub(crate) logprobs: bool,
    pub(crate) include_usage: bool,
}

impl Reply {
    /// The first piece of a stream, if it has one.
    pub(crate) fn opening(&self) -> Option<Value> {
        (self.kind == Kind::Chat)
            .then(|| self.chunk(json!({ "role": "assistant", "content": "" }), Value::Null, Value::Null))
    }

    /// More text.
    pub(crate) fn text(&self, text: &str, logprobs: &[TokenLogprob]) -> Value {
        let delta = match self.kind {
            Kind::Chat => json!({ "content": text }),
            Kind::Completion => text.into(),
        };
        self.chunk(delta, self.logprobs(logprobs), Value::Null)
    }

    /// The end of the text.
    pub(crate) fn end(&self, reason: FinishReason) -> Value {
        let delta = match self.kind {
            Kind::Chat => json!({}),
            Kind::Completion => "".into(),
        };
        self.chunk(delta, Value::Null, name(reason).into())
    }

    /// The numbers of tokens, after the end.
    pub(crate) fn usage(&self, usage: Usage) -> Option<Value> {
        self.include_usage.then(|| {
            let mut chunk = self.envelope(true);
            chunk.insert("choices".into(), json!([]));
            chunk.insert("usage".into(), tokens(usage));
            Value::Object(chunk)
        })
    }

    /// Everything at once.
    pub(crate) fn whole(
        &self,
        text: &str,
        logprobs: &[TokenLogprob],
        reason: FinishReason,
        usage: Usage,
    ) -> Value {
        let logprobs = self.logprobs(logprobs);
        let reason = name(reason);
        let choice = match self.kind {
            Kind::Chat => json!({
                "index": 0,
                "message": { "role": "assistant", "content": text, "refusal": null },
                "logprobs": logprobs,
                "finish_reason": reason,
            }),
            Kind::Completion => {
                json!({ "index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason })
            }
        };
        let mut reply = self.envelope(false);
        reply.insert("choices".into(), json!([choice]));
        reply.insert("usage".into(), tokens(usage));
        Value::Object(reply)
    }

    fn chunk(&self, delta: Value, logprobs: Value, reason: Value) -> Value {
        let part = match self.kind {
            Kind::Chat => "delta",
            Kind::Completion => "text",
        };
        let mut chunk = self.envelope(true);
        let choice = json!({ "index": 0, part: delta, "logprobs": logprobs, "finish_reason": reason });
        chunk.insert("choices".into(), json!([choice]));
        if self.include_usage {
            chunk.insert("usage".into(), Value::Null);
        }
        Value::Object(chunk)
    }

    fn envelope(&self, chunk: bool) -> Map<String, Value> {
        let object = match (self.kind, chunk) {
            (Kind::Chat, true) => "chat.completion.chunk",
            (Kind::Chat, false) => "chat.completion",
            (Kind::Completion, _) => "text_completion",
        };
        let fields = [
            ("id", self.id.as_str().into()),
            ("object", object.into()),
            ("created", self.created.into()),
            ("model", self.model.as_ref().into()),
            ("system_fingerprint", self.fingerprint.as_ref().into()),
        ];
        fields.into_iter().map(|(k, v): (&str, Value)| (k.to_owned(), v)).collect()
    }

    fn logprobs(&self, tokens: &[TokenLogprob]) -> Value {
        match self.kind {
            _ if !self.logprobs => Value::Null,
            Kind::Chat => {
                let content: Vec<Value> = tokens
                    .iter()
                    .map(|t| {
                        let mut entry = chat_choice(&t.token);
                        entry["top_logprobs"] = t.top.iter().map(chat_choice).collect();
                        entry
                    })
                    .collect();
                json!({ "content": content, "refusal": null })
            }
            Kind::Completion => {
                let top = |t: &TokenLogprob| -> Value {
                    let all = t.top.iter().chain([&t.token]);
                    all.map(|c| (spelled(&c.bytes), logprob(c))).collect::<Map<_, _>>().into()
                };
                json!({
                    "tokens": tokens.iter().map(|t| spelled(&t.token.bytes)).collect::<Vec<_>>(),
                    "token_logprobs": tokens.iter().map(|t| logprob(&t.token)).collect::<Vec<_>>(),
                    "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
                    "text_offset": tokens.iter().map(|t| t.offset).collect::<Vec<_>>(),
                })
            }
        }
    }
}

fn name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

fn tokens(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": { "cached_tokens": usage.cached },
    })
}

fn chat_choice(choice: &Choice) -> Value {
    json!({
        "token": String::from_utf8_lossy(&choice.bytes),
        "logprob": logprob(choice),
        "bytes": choice.bytes,
    })
}

/// OpenAI writes -9999 for what JSON cannot.
fn logprob(choice: &Choice) -> Value {
    choice.logprob.max(-9999.0).into()
}

/// A token as a key; bytes that are no text as OpenAI spells them.
fn spelled(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |mut out, b| {
            let _ = write!(out, "\\x{b:02x}");
            out
        }),
    }
}
