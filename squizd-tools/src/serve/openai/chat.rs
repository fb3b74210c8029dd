//! `POST /v1/chat/completions`.

use super::params::MAX_TOP_LOGPROBS;
use super::{Common, Fields};
use crate::serve::error::ApiError;
use crate::serve::limits::Limits;
use serde_json::{Map, Value};
use squizd::text::Message;

/// A conversation to be continued.
#[derive(Debug)]
pub(crate) struct ChatRequest {
    pub(crate) messages: Vec<Message>,
    /// Variables for the template (`enable_thinking`).
    pub(crate) variables: Map<String, Value>,
    pub(crate) common: Common,
}

impl ChatRequest {
    /// Checks a request.
    pub(crate) fn parse(mut fields: Fields, limits: &Limits) -> Result<Self, ApiError> {
        let messages: Vec<Map<String, Value>> = fields.need("messages")?;
        if messages.is_empty() {
            return Err(ApiError::param("messages", "'messages' is empty, there must be at least one."));
        }
        let messages = messages
            .into_iter()
            .enumerate()
            .map(|(i, m)| message(m).map_err(|e| e.within(&format!("messages[{i}]"))))
            .collect::<Result<_, _>>()?;
        refuse_unsupported(&mut fields)?;
        let older: Option<u64> = fields.take("max_tokens")?;
        let max_tokens = fields.take("max_completion_tokens")?.or(older);
        let top: Option<u64> = fields.take("top_logprobs")?;
        let logprobs = match (fields.take("logprobs")?.unwrap_or(false), top) {
            (_, Some(n)) if n > MAX_TOP_LOGPROBS => {
                let message = format!("'top_logprobs' is {n}, allowed: 0 to {MAX_TOP_LOGPROBS}.");
                return Err(ApiError::param("top_logprobs", message));
            }
            (false, Some(n)) if n > 0 => {
                return Err(ApiError::param("top_logprobs", "'top_logprobs' needs 'logprobs' to be true."));
            }
            (false, _) => None,
            (true, n) => Some(n.unwrap_or(0)),
        };
        let variables = fields.take("chat_template_kwargs")?.unwrap_or_default();
        let common = Common::take(&mut fields, limits, max_tokens, logprobs)?;
        fields.end()?;
        Ok(Self { messages, variables, common })
    }
}

fn refuse_unsupported(fields: &mut Fields) -> Result<(), ApiError> {
    let empty = |v: &Value| v.as_array().is_some_and(Vec::is_empty);
    let no_tools = |v: &Value| v == "none";
    if !fields.take::<Value>("tool_choice")?.is_some_and(|v| no_tools(&v)) {
        fields.refuse("tools", empty, "this server does not parse tool calls; leave 'tools' out.")?;
    }
    fields.take::<Value>("tools")?;
    fields.refuse("functions", empty, "this server does not parse function calls.")?;
    fields.refuse("function_call", no_tools, "this server does not parse function calls.")?;
    fields.refuse(
        "response_format",
        |v| v.get("type").is_some_and(|t| t == "text"),
        "only {\"type\": \"text\"} is supported.",
    )?;
    fields.refuse("modalities", |v| v == &serde_json::json!(["text"]), "only text is supported.")
}

/// A message as templates expect it: a known role, content as one string, tool
/// calls with their arguments as objects.
fn message(mut fields: Map<String, Value>) -> Result<Message, ApiError> {
    let role = match fields.get("role").and_then(Value::as_str) {
        Some("developer") => "system",
        Some(role @ ("system" | "user" | "assistant" | "tool")) => role,
        Some(role) => {
            let shown: String = role.chars().take(32).collect();
            return Err(ApiError::param(
                "role",
                format!("role is '{shown}', allowed: system, developer, user, assistant, tool"),
            ));
        }
        None => return Err(ApiError::param("role", "role must be a string")),
    }
    .to_owned();
    let content = match fields.remove("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => text_of(&parts)?,
        Some(Value::Null) | None if role == "assistant" => String::new(),
        _ => return Err(ApiError::param("content", "content must be a string or an array of text parts")),
    };
    if let Some(calls) = fields.get_mut("tool_calls").and_then(Value::as_array_mut) {
        calls.iter_mut().for_each(open_arguments);
    }
    fields.insert("role".into(), role.into());
    fields.insert("content".into(), content.into());
    serde_json::from_value(Value::Object(fields)).map_err(|e| ApiError::invalid(e.to_string()))
}

/// The text of content parts, one line each.
fn text_of(parts: &[Value]) -> Result<String, ApiError> {
    let texts = parts.iter().enumerate().map(|(i, part)| {
        let text = part.get("text").and_then(Value::as_str);
        match (part.get("type").and_then(Value::as_str), text) {
            (Some("text"), Some(text)) => Ok(text),
            _ => Err(ApiError::param(
                "content",
                format!("content part {i} is not text; only text is supported"),
            )),
        }
    });
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
}

/// OpenAI sends a call's arguments as a string of JSON, templates expect the
/// object itself.
fn open_arguments(call: &mut Value) {
    if let Some(arguments) = call.pointer_mut("/function/arguments")
        && let Some(Ok(object)) = arguments.as_str().map(serde_json::from_str::<Map<String, Value>>)
    {
        *arguments = Value::Object(object);
    }
}
