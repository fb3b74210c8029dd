//! Which requests are understood, and how the others are refused.

use super::*;
use crate::serve::error::ApiError;
use crate::serve::limits::Limits;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use squizd::text::Message;

fn fields(body: &Value) -> Fields {
    Fields::parse(body.to_string().as_bytes()).unwrap()
}

fn limits() -> Limits {
    Limits { max_tokens: Some(100), ..Limits::default() }
}

/// A chat request with these further fields.
fn chat(extra: Value) -> Result<ChatRequest, ApiError> {
    let mut body = json!({ "model": "m", "messages": [{ "role": "user", "content": "Hi" }] });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    ChatRequest::parse(fields(&body), &limits())
}

fn completion(extra: Value) -> Result<CompletionRequest, ApiError> {
    let mut body = json!({ "prompt": "Hi" });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    CompletionRequest::parse(fields(&body), &limits())
}

fn messages(messages: Value) -> Result<Vec<Message>, ApiError> {
    chat(json!({ "messages": messages })).map(|c| c.messages)
}

/// Asserts a 400 that names `param` and says `what`.
fn refused<T: std::fmt::Debug>(result: Result<T, ApiError>, param: Option<&str>, what: &str) {
    let error = result.unwrap_err();
    let body = error.body();
    assert_eq!(body["error"]["param"].as_str(), param, "{body}");
    assert!(body["error"]["message"].as_str().unwrap().contains(what), "{body}");
    assert_eq!(body["error"]["type"], "invalid_request_error");
    assert_eq!(error.into_response().status(), 400);
}

#[test]
fn everything_the_api_lists_is_understood() {
    let request = chat(json!({
        "stream": true, "stream_options": { "include_usage": true, "include_obfuscation": false },
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": -1,
        "max_completion_tokens": 7, "max_tokens": 9, "n": 1, "stop": ["a", "b"],
        "presence_penalty": 1, "frequency_penalty": -1.5, "logit_bias": { "5": -100, "7": 2.5 },
        "logprobs": true, "top_logprobs": 3, "ignore_eos": true, "cache_prompt": false,
        "response_format": { "type": "text" }, "tools": [], "tool_choice": null, "modalities": ["text"],
        "user": "me", "store": false, "metadata": {}, "chat_template_kwargs": { "enable_thinking": false },
        "audio": null,
    }))
    .unwrap();
    assert_eq!(request.variables["enable_thinking"], false);
    let c = request.common;
    assert!(c.stream && c.include_usage && c.ignore_eos && !c.cache_prompt);
    assert_eq!((c.max_tokens, c.logprobs, c.model.as_deref()), (Some(7), Some(3), Some("m")));
    let plain = chat(json!({})).unwrap().common;
    assert!(!plain.stream && !plain.include_usage && !plain.ignore_eos && plain.cache_prompt);
    assert_eq!((plain.max_tokens, plain.logprobs), (None, None));
    chat(json!({ "tools": [{ "type": "function" }], "tool_choice": "none" })).unwrap();
}

#[test]
fn parameters_out_of_range_or_unknown_are_named() {
    let biases: serde_json::Map<_, _> = (0..1025).map(|i| (i.to_string(), json!(1))).collect();
    for (extra, param, what) in [
        (json!({ "temperature": -1 }), None, "temperature is -1"),
        (json!({ "temperature": 1e39 }), None, "temperature is inf"),
        (json!({ "temperature": "hot" }), Some("temperature"), "invalid type"),
        (json!({ "top_p": 0 }), None, "top_p"),
        (json!({ "top_k": -1 }), Some("top_k"), "invalid value"),
        (json!({ "min_p": 2 }), None, "min_p"),
        (json!({ "seed": 1.5 }), Some("seed"), "integer"),
        (json!({ "max_tokens": 0 }), Some("max_tokens"), "at least 1"),
        (json!({ "max_tokens": -5 }), Some("max_tokens"), "invalid value"),
        (json!({ "max_tokens": 101 }), Some("max_tokens"), "at most 100"),
        (json!({ "n": 2 }), Some("n"), "one choice"),
        (json!({ "stop": "" }), Some("stop"), "0 bytes"),
        (json!({ "stop": [1] }), Some("stop"), "did not match"),
        (json!({ "stop": vec!["x"; 17] }), Some("stop"), "more than 16"),
        (json!({ "presence_penalty": 3 }), None, "presence_penalty is 3"),
        (json!({ "logit_bias": { "x": 1 } }), Some("logit_bias"), "token ids"),
        (json!({ "logit_bias": biases }), Some("logit_bias"), "1025 entries"),
        (json!({ "logit_bias": { "1": 101 } }), None, "token 1"),
        (json!({ "top_logprobs": 2 }), Some("top_logprobs"), "'logprobs'"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), Some("top_logprobs"), "0 to 20"),
        (json!({ "stream_options": {} }), Some("stream_options"), "'stream'"),
        (json!({ "tools": [{}] }), Some("tools"), "tool calls"),
        (json!({ "tools": [{}], "tool_choice": "auto" }), Some("tools"), "tool calls"),
        (json!({ "functions": [{}] }), Some("functions"), "function calls"),
        (json!({ "response_format": { "type": "json_object" } }), Some("response_format"), "text"),
        (json!({ "modalities": ["text", "audio"] }), Some("modalities"), "text"),
        (json!({ "repetition_penalty": 1.1 }), Some("repetition_penalty"), "Unrecognized"),
        (json!({ "messages": [] }), Some("messages"), "empty"),
        (json!({ "messages": null }), Some("messages"), "Missing"),
        (json!({ "messages": "Hi" }), Some("messages"), "invalid type"),
    ] {
        refused(chat(extra), param, what);
    }
    for (extra, param, what) in [
        (json!({ "best_of": 2 }), Some("best_of"), "one choice"),
        (json!({ "echo": true }), Some("echo"), "echoed"),
        (json!({ "suffix": "x" }), Some("suffix"), "insertion"),
        (json!({ "logprobs": true }), Some("logprobs"), "integer"),
        (json!({ "logprobs": 21 }), Some("logprobs"), "0 to 20"),
        (json!({ "prompt": ["a", "b"] }), Some("prompt"), "exactly one"),
        (json!({ "prompt": 5 }), Some("prompt"), "must be a string"),
        (json!({ "prompt": [-1] }), Some("prompt"), "must be a string"),
        (json!({ "prompt": null }), Some("prompt"), "Missing"),
        (json!({ "messages": [] }), Some("messages"), "Unrecognized"),
    ] {
        refused(completion(extra), param, what);
    }
}

#[test]
fn bodies_that_are_no_objects_are_refused() {
    let deep = "[".repeat(100_000);
    for body in ["", "{", "[]", "7", "{\"a\": 1e999}", "{\"a\": NaN}", "{\"a\": \"\\ud800\"}", &deep] {
        refused(Fields::parse(body.as_bytes()), None, "JSON object");
    }
    refused(Fields::parse(b"{\"a\": \"\xff\"}"), None, "JSON object");
}

#[test]
fn prompts_in_all_their_forms() {
    let prompt = |p: Value| completion(json!({ "prompt": p })).unwrap().prompt;
    assert_eq!(prompt(json!("x")), Prompt::Text("x".into()));
    assert_eq!(prompt(json!(["x"])), Prompt::Text("x".into()));
    assert_eq!(prompt(json!([1, 2])), Prompt::Tokens(vec![1, 2]));
    assert_eq!(prompt(json!([[1, 2]])), Prompt::Tokens(vec![1, 2]));
    assert_eq!(completion(json!({})).unwrap().common.max_tokens, Some(16));
    assert_eq!(completion(json!({ "logprobs": 0 })).unwrap().common.logprobs, Some(0));
}

#[test]
fn messages_become_what_templates_expect() {
    let parts = json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]);
    let call = |arguments: Value| json!([{ "function": { "name": "f", "arguments": arguments } }]);
    let got = messages(json!([
        { "role": "developer", "content": "Be brief." },
        { "role": "user", "content": parts, "name": "me" },
        { "role": "assistant", "content": null, "tool_calls": call(json!("{\"x\": 1}")) },
        { "role": "tool", "content": "2", "tool_call_id": "c" },
        { "role": "assistant", "tool_calls": call(json!("not json")) },
    ]))
    .unwrap();
    let expected = [
        Message::new("system", "Be brief."),
        Message::new("user", "a\nb").with("name", "me"),
        Message::new("assistant", "").with("tool_calls", call(json!({ "x": 1 }))),
        Message::new("tool", "2").with("tool_call_id", "c"),
        Message::new("assistant", "").with("tool_calls", call(json!("not json"))),
    ];
    assert_eq!(got, expected);
}

#[test]
fn bad_messages_are_named_by_their_place() {
    for (message, param, what) in [
        (json!({ "content": "x" }), "messages[1].role", "string"),
        (json!({ "role": "wizard", "content": "x" }), "messages[1].role", "'wizard'"),
        (json!({ "role": "user" }), "messages[1].content", "string"),
        (json!({ "role": "user", "content": 5 }), "messages[1].content", "string"),
        (
            json!({ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] }),
            "messages[1].content",
            "content part 0 is not text",
        ),
    ] {
        refused(messages(json!([{ "role": "user", "content": "Hi" }, message])), Some(param), what);
    }
}
