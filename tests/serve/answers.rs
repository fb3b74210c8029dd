//! What the server says, and how it refuses.

use crate::http::send;
use crate::server::{Server, reason, reference, text, tiny};
use serde_json::{Value, json};
use std::fs;
use tempfile::TempDir;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn conversation(content: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": content }] })
}

#[test]
fn texts_are_those_of_transformers() {
    let server = Server::start(&[]);
    for (prompt, expected) in reference() {
        let reply = server.complete(&prompt, json!({ "max_tokens": 32, "model": "tiny" }));
        let choice = &reply["choices"][0];
        assert_eq!((choice["text"].as_str(), &choice["finish_reason"]), (Some(&*expected), &json!("length")));
        assert_eq!((&reply["object"], &reply["model"]), (&json!("text_completion"), &json!("tiny")));
        let usage = &reply["usage"];
        assert_eq!(usage["completion_tokens"], 32);
        let prompt_tokens = usage["prompt_tokens"].as_u64().unwrap();
        assert_eq!(usage["total_tokens"], prompt_tokens + 32);
        // Token ids instead of text: the same answer.
        let chunks = server.stream(COMPLETIONS, json!({ "prompt": [prompt] }), json!({ "max_tokens": 32 }));
        assert_eq!((text(&chunks), reason(&chunks)), (expected, "length"));
    }
    let ids = server.complete("", json!({ "prompt": [0, 5, 6, 7], "max_tokens": 2 }));
    assert_eq!(ids["usage"]["prompt_tokens"], 4);
}

#[test]
fn chats_go_through_the_template() {
    let server = Server::start(&[]);
    let rendered = "<|im_start|>user\nBlessed are the<|im_end|>\n<|im_start|>assistant\n";
    let expected = server.complete(rendered, json!({ "max_tokens": 12 }));
    let expected = expected["choices"][0]["text"].as_str().unwrap();
    for content in [json!("Blessed are the"), json!([{ "type": "text", "text": "Blessed are the" }])] {
        let body = json!({
            "messages": [{ "role": "user", "content": content }], "temperature": 0, "max_completion_tokens": 12
        });
        let reply = server.post(CHAT, &body).json();
        assert_eq!(reply["object"], "chat.completion");
        let message = &reply["choices"][0]["message"];
        assert_eq!((&message["role"], message["content"].as_str()), (&json!("assistant"), Some(expected)));
    }
}

#[test]
fn logprobs_are_those_of_the_text() {
    let server = Server::start(&[]);
    let (prompt, expected) = reference().swap_remove(0);
    let reply = server.complete(&prompt, json!({ "max_tokens": 32, "logprobs": 3 }));
    let logprobs = &reply["choices"][0]["logprobs"];
    let tokens: Vec<String> = serde_json::from_value(logprobs["tokens"].clone()).unwrap();
    assert_eq!(tokens.concat(), expected);
    for (i, token) in tokens.iter().enumerate() {
        let (own, top) = (&logprobs["token_logprobs"][i], logprobs["top_logprobs"][i].as_object().unwrap());
        assert_eq!((top.len(), &top[token]), (3, own));
        // Greedy: no other is likelier.
        assert!(top.values().all(|l| l.as_f64().unwrap() <= own.as_f64().unwrap()));
        assert_eq!(logprobs["text_offset"][i], tokens[..i].concat().chars().count());
    }
    let extra = json!({ "max_tokens": 8, "logprobs": true, "top_logprobs": 2 });
    let chunks = server.stream(CHAT, conversation(&prompt), extra);
    let entries: Vec<&Value> =
        chunks.iter().filter_map(|c| c["choices"][0]["logprobs"]["content"].as_array()).flatten().collect();
    assert_eq!(entries.len(), 8);
    let bytes: Vec<u8> =
        entries.iter().flat_map(|e| serde_json::from_value::<Vec<u8>>(e["bytes"].clone()).unwrap()).collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), text(&chunks));
    for entry in entries {
        assert_eq!(entry["top_logprobs"].as_array().unwrap().len(), 2);
        assert_eq!(entry["top_logprobs"][0]["logprob"], entry["logprob"]);
    }
}

#[test]
fn stop_strings_end_the_text_before_them() {
    let server = Server::start(&[]);
    let (prompt, expected) = reference().swap_remove(0);
    let ask = |stop: Value| {
        let chunks = server.stream(
            COMPLETIONS,
            json!({ "prompt": prompt }),
            json!({ "max_tokens": 32, "stop": stop, "stream_options": { "include_usage": true } }),
        );
        let whole = server.complete(&prompt, json!({ "max_tokens": 32, "stop": stop }));
        assert_eq!(whole["choices"][0]["text"].as_str(), Some(&*text(&chunks)));
        assert_eq!(whole["choices"][0]["finish_reason"], reason(&chunks));
        chunks
    };
    // Every stop string of the text that begins and ends inside words.
    for start in 1..expected.len() - 9 {
        let stop = &expected[start..start + 9];
        let chunks = ask(json!(["never said", stop]));
        assert_eq!(
            (text(&chunks), reason(&chunks)),
            (expected[..expected.find(stop).unwrap()].into(), "stop")
        );
        assert!(chunks.iter().all(|c| !text(std::slice::from_ref(c)).contains(stop)));
    }
    // One that is begun and not ended is text.
    let begun = format!("{}?", &expected[expected.len() - 4..]);
    assert_eq!((text(&ask(json!(begun))), reason(&ask(json!(begun)))), (expected, "length"));
}

#[test]
fn seeds_repeat_and_sampling_varies() {
    let server = Server::start(&[]);
    let ask = |seed: Option<u64>| {
        let reply = server.complete(
            "And the",
            json!({ "max_tokens": 24, "temperature": 1.0, "seed": seed, "top_k": 50, "min_p": 0.01 }),
        );
        reply["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(ask(Some(7)), ask(Some(7)));
    assert_ne!(ask(Some(7)), ask(Some(8)));
    assert_ne!(ask(None), ask(None));
}

#[test]
fn penalties_change_the_text() {
    let server = Server::start(&[]);
    let ask = |extra: Value| {
        let mut fields = json!({ "max_tokens": 60 });
        fields.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        server.complete("And the king said unto", fields)["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let distinct = |text: &str| {
        let words: std::collections::BTreeSet<&str> = text.split_whitespace().collect();
        words.len() as f64 / text.split_whitespace().count() as f64
    };
    let plain = ask(json!({}));
    let penalized = ask(json!({ "frequency_penalty": 2, "presence_penalty": 2 }));
    assert!(distinct(&penalized) > distinct(&plain), "{plain}\n{penalized}");
}

#[test]
fn models_and_health() {
    let server = Server::start(&["--alias", "tiny", "--ctx-size", "100"]);
    let models = server.get("/v1/models").json();
    assert_eq!((&models["object"], models["data"].as_array().unwrap().len()), (&json!("list"), 1));
    let model = &models["data"][0];
    assert_eq!(
        (&model["id"], &model["object"], &model["max_model_len"]),
        (&json!("tiny"), &json!("model"), &json!(100))
    );
    assert_eq!(server.get("/v1/models/tiny").json(), *model);
    assert_eq!(server.get("/health").json(), json!({ "status": "ok" }));
    let unknown = server.get("/v1/models/gpt-4o").error(404, Some("model"), Some("model_not_found"));
    assert!(unknown.contains("gpt-4o") && unknown.contains("tiny"), "{unknown}");
    let mut body = conversation("Hi");
    body["model"] = "gpt-4o".into();
    server.post(CHAT, &body).error(404, Some("model"), Some("model_not_found"));
}

#[test]
fn wrong_requests_get_the_right_status() {
    let server = Server::start(&[]);
    for path in ["/", "/v1", "/v1/embeddings", "/../../etc/passwd", "/v1/models/../../../etc/passwd", "/%00"]
    {
        server.get(path).error(404, None, Some("unknown_url"));
    }
    let response = server.get(CHAT);
    response.error(405, None, None);
    assert_eq!(response.header("allow"), Some("POST"));
    send(server.address, "POST", "/v1/models", &[], "").whole().0.error(405, None, None);
    let post = |headers: &[&str], body: &str| send(server.address, "POST", CHAT, headers, body).whole().0;
    post(&[], "{}").error(415, None, None);
    post(&["Content-Type: application/x-www-form-urlencoded"], "{}").error(415, None, None);
    post(&["Content-Type: application/json", "Content-Encoding: gzip"], "{}").error(415, None, None);
    let json = ["Content-Type: Application/JSON; charset=utf-8"];
    for body in ["", "{", "[]", "{\"messages\": [}", "\u{0}"] {
        assert!(post(&json, body).error(400, None, None).contains("JSON"));
    }
    post(&json, "{}").error(400, Some("messages"), None);
    let bad = |extra: Value| {
        let mut body = conversation("Hi");
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        server.post(CHAT, &body)
    };
    bad(json!({ "n": 3 })).error(400, Some("n"), Some("unsupported_parameter"));
    bad(json!({ "max_tokens": -1 })).error(400, Some("max_tokens"), None);
    bad(json!({ "temperature": 1e300 })).error(400, None, None);
    bad(json!({ "messages": [{ "role": "user" }] })).error(400, Some("messages[0].content"), None);
    let response = server.post(COMPLETIONS, &json!({ "prompt": [1024] }));
    assert!(response.error(400, Some("prompt"), None).contains("vocabulary of 1024"));
    server.post(COMPLETIONS, &json!({ "prompt": [] })).error(400, Some("prompt"), None);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn without_a_template_there_is_no_chat() {
    let folder = TempDir::new().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(tiny().join(name), folder.path().join(name)).unwrap();
    }
    let server = Server::of(folder.path(), &[], &[]);
    let message = server.post(CHAT, &conversation("Hi")).error(400, None, Some("no_chat_template"));
    assert!(message.contains("/v1/completions"), "{message}");
    assert_eq!(server.post(COMPLETIONS, &json!({ "prompt": "And", "max_tokens": 1 })).status, 200);
}

#[test]
fn keys_are_asked_for() {
    let server = Server::of(&tiny(), &[], &[("SQUIZD_API_KEY", "secret")]);
    let get = |path: &str, headers: &[&str]| send(server.address, "GET", path, headers, "").whole().0;
    for path in ["/v1/models", "/metrics"] {
        for headers in [
            &[][..],
            &["Authorization: Bearer wrong"],
            &["Authorization: Bearer "],
            &["Authorization: Basic secret"],
            &["Authorization: secret"],
        ] {
            let response = get(path, headers);
            response.error(401, None, Some("invalid_api_key"));
            assert_eq!(response.header("www-authenticate"), Some("Bearer"));
        }
        assert_eq!(get(path, &["Authorization: bearer secret"]).status, 200);
    }
    assert_eq!(get("/health", &[]).status, 200);
    send(server.address, "POST", CHAT, &["Content-Type: application/json"], "{}").whole().0.error(
        401,
        None,
        Some("invalid_api_key"),
    );
}

#[test]
fn without_a_key_only_this_machine_is_safe() {
    let warned = |args: &[&str], env: &[(&str, &str)]| {
        let server = Server::of(&tiny(), args, env);
        server.signal("TERM");
        let (code, log) = server.wait();
        assert_eq!(code, Some(0), "{log}");
        log.contains("warning: ") && log.contains("--api-key")
    };
    assert!(!warned(&[], &[]));
    assert!(warned(&["--host", "0.0.0.0"], &[]));
    assert!(!warned(&["--host", "0.0.0.0"], &[("SQUIZD_API_KEY", "secret")]));
}

#[test]
fn pages_of_strangers_are_turned_away() {
    let server = Server::start(&["--cors-origin", "https://app.example"]);
    let ask =
        |method: &str, headers: &[&str]| send(server.address, method, "/v1/models", headers, "").whole().0;
    ask("GET", &["Host: rebound.example:8080"]).error(403, None, Some("origin_not_allowed"));
    ask("GET", &["Origin: https://evil.example"]).error(403, None, Some("origin_not_allowed"));
    let allowed = ask("GET", &["Origin: https://app.example"]);
    assert_eq!(
        (allowed.status, allowed.header("access-control-allow-origin")),
        (200, Some("https://app.example"))
    );
    let preflight = ask(
        "OPTIONS",
        &[
            "Origin: https://app.example",
            "Access-Control-Request-Method: POST",
            "Access-Control-Request-Headers: authorization,x-stainless-os",
        ],
    );
    assert_eq!(preflight.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(preflight.header("access-control-allow-headers"), Some("authorization,x-stainless-os"));
    let closed = Server::start(&[]);
    let plain = send(closed.address, "GET", "/v1/models", &[], "").whole().0;
    assert_eq!((plain.status, plain.header("access-control-allow-origin")), (200, None));
}
