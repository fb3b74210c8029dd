//! Streams: in order, in time, side by side, cancelled, and at the end.

use crate::http::{Reader, connect, write};
use crate::server::{Server, checked, endless, reason, reference, text};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// Room for an endless answer to be still going on when it is looked at.
const LONG: [&str; 2] = ["--ctx-size", "30000"];

#[test]
fn chunks_come_in_order_with_usage_when_asked() {
    let server = Server::start(&[]);
    let body = json!({ "messages": [{ "role": "user", "content": "Blessed are" }] });
    let plain = server.stream(CHAT, body.clone(), json!({ "max_tokens": 10 }));
    assert_eq!(plain[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    assert!(plain.iter().all(|c| c["object"] == "chat.completion.chunk" && c.get("usage").is_none()));
    assert_eq!(plain.last().unwrap()["choices"][0]["delta"], json!({}));
    let pieces = plain.iter().filter(|c| !text(std::slice::from_ref(c)).is_empty()).count();
    assert_eq!(pieces, 10, "one chunk per token");

    let usage = json!({ "max_tokens": 10, "stream_options": { "include_usage": true } });
    let counted = server.stream(CHAT, body, usage);
    assert_eq!(text(&counted), text(&plain));
    let (last, before) = counted.split_last().unwrap();
    assert!(before.iter().all(|c| c["usage"].is_null() && c.get("usage").is_some()));
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(10)));
}

#[test]
fn tokens_are_not_collected() {
    let server = Server::start(&["--ctx-size", "1000"]);
    let mut body = endless();
    body["max_tokens"] = 900.into();
    let events = server.open(COMPLETIONS, &body).events();
    let (first, last) = (events[0].0, events.last().unwrap().0);
    // 900 tokens one after the other, not in a few bursts.
    let times: std::collections::BTreeSet<_> = events.iter().map(|(t, _)| (*t - first).as_millis()).collect();
    assert!(times.len() > 20, "{} moments in {:?}", times.len(), last - first);
    let waited: f64 = server.metric_text("squizd_time_to_first_token_seconds_sum").unwrap().parse().unwrap();
    assert!(waited < (last - first).as_secs_f64() / 2.0);
    assert_eq!(server.metric("squizd_inter_token_seconds_count"), 899);
    assert_eq!(reason(&checked(events)), "length");
}

#[test]
fn together_each_gets_what_it_would_get_alone() {
    let server = Server::start(&["--parallel", "3"]);
    let prompts: Vec<String> = reference()
        .into_iter()
        .map(|r| r.0)
        .chain(["And the king", "In those days", "Let there be", "Now these are"].map(String::from))
        .collect();
    let fields = |i: usize, reuse: bool| {
        let temperature = if i.is_multiple_of(2) { 0.0 } else { 1.0 };
        json!({ "max_tokens": 60, "temperature": temperature, "seed": i, "cache_prompt": reuse })
    };
    let alone: Vec<Value> = prompts
        .iter()
        .enumerate()
        .map(|(i, p)| server.complete(p, fields(i, false))["choices"].clone())
        .collect();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            for (i, prompt) in prompts.iter().enumerate() {
                let (server, alone) = (&server, &alone);
                scope.spawn(move || {
                    let chunks =
                        server.stream(COMPLETIONS, json!({ "prompt": prompt }), fields(i, i % 3 > 0));
                    assert_eq!(Some(&*text(&chunks)), alone[i][0]["text"].as_str(), "prompt {i}");
                    assert_eq!(Some(reason(&chunks)), alone[i][0]["finish_reason"].as_str());
                });
            }
        });
    }
    assert_eq!(server.metric("squizd_queue_depth"), 0);
    assert_eq!(server.metric("squizd_generations_total{end=\"finished\"}"), 32);
}

#[test]
fn a_client_that_leaves_frees_its_slot() {
    let server = Server::start(&[&LONG[..], &["--parallel", "1"]].concat());
    let cancelled = "squizd_generations_total{end=\"cancelled\"}";
    // In the middle of a stream.
    let mut stream = server.open(COMPLETIONS, &endless());
    let mut rest = String::new();
    for _ in 0..3 {
        stream.event(&mut rest).unwrap();
    }
    assert_eq!(server.metric("squizd_slots_active"), 1);
    drop(stream);
    server.await_metric(cancelled, 1);
    // While waiting for a whole answer.
    let mut body = endless();
    body["stream"] = false.into();
    let mut waiting = connect(server.address);
    let json = ["Content-Type: application/json"];
    write(&mut waiting, server.address, "POST", COMPLETIONS, &json, &body.to_string());
    server.await_metric("squizd_slots_active", 1);
    // While waiting for a slot.
    let mut queued = connect(server.address);
    write(&mut queued, server.address, "POST", COMPLETIONS, &json, &endless().to_string());
    server.await_metric("squizd_queue_depth", 1);
    drop(queued);
    server.await_metric("squizd_queue_depth", 0);
    drop(waiting);
    server.await_metric("squizd_slots_active", 0);
    server.await_metric("squizd_requests_total{route=\"/v1/completions\",status=\"499\"}", 2);
    // The one that waited may not have come as far as the engine.
    assert!((2..=3).contains(&server.metric(cancelled)));
    assert_eq!(server.complete("And", json!({ "max_tokens": 2 }))["usage"]["completion_tokens"], 2);
}

#[test]
fn later_turns_reuse_earlier_ones() {
    let server = Server::start(&["--parallel", "2"]);
    let mut messages = vec![json!({ "role": "user", "content": "And it came to pass, that the king said" })];
    let mut cached = Vec::new();
    for turn in ["Then what", "And then", "At last"] {
        let ask = |reuse: bool| {
            let body = json!({
                "messages": messages, "temperature": 0, "max_tokens": 16, "cache_prompt": reuse
            });
            let reply = server.post(CHAT, &body).json();
            let cached = reply["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
            (reply["choices"][0]["message"]["content"].as_str().unwrap().to_owned(), cached)
        };
        let (reply, reused) = ask(true);
        assert_eq!((reply.clone(), 0), ask(false), "before {turn:?}");
        cached.push(reused);
        messages.push(json!({ "role": "assistant", "content": reply }));
        messages.push(json!({ "role": "user", "content": turn }));
    }
    assert_eq!(cached[0], 0);
    assert!(cached[1] >= 20 && cached[2] > cached[1], "{cached:?}");
    assert_eq!(server.metric("squizd_cached_tokens_total"), cached.iter().sum::<u64>());
}

#[test]
fn one_connection_serves_many_requests() {
    let server = Server::start(&[]);
    let mut stream = connect(server.address);
    for i in 1..5 {
        let body = json!({ "prompt": "And", "max_tokens": i, "stream": i % 2 == 0 }).to_string();
        write(&mut stream, server.address, "POST", COMPLETIONS, &["Content-Type: application/json"], &body);
        let (response, connection) = Reader::new(stream).whole();
        assert_eq!(response.status, 200);
        assert_eq!(response.body.ends_with("data: [DONE]\n\n"), i % 2 == 0);
        stream = connection;
    }
}

#[test]
fn told_to_stop_the_server_ends_streams_and_exits() {
    let server = Server::start(&[&LONG[..], &["--grace", "0.2", "--parallel", "1"]].concat());
    let mut stream = server.open(COMPLETIONS, &endless());
    let mut rest = String::new();
    let first = stream.event(&mut rest).unwrap();
    let queued = server.address;
    let waiting = std::thread::spawn(move || {
        let json = ["Content-Type: application/json"];
        crate::http::send(queued, "POST", COMPLETIONS, &json, &endless().to_string()).whole().0
    });
    server.await_metric("squizd_queue_depth", 1);
    server.signal("TERM");
    let mut events = vec![first];
    while let Some(event) = stream.event(&mut rest) {
        events.push(event);
    }
    assert_eq!(events.pop().unwrap(), "[DONE]");
    let end: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(end["choices"][0]["finish_reason"], "length");
    let refused = waiting.join().unwrap();
    refused.error(503, None, Some("shutting_down"));
    assert!(refused.header("retry-after").is_some());
    let (code, log) = server.wait();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn answers_get_their_time_at_shutdown_unless_told_again() {
    let mut body = endless();
    body["max_tokens"] = 300.into();
    let server = Server::start(&["--ctx-size", "1000", "--grace", "60"]);
    let mut stream = server.open(COMPLETIONS, &body);
    let mut rest = String::new();
    stream.event(&mut rest).unwrap();
    server.signal("INT");
    let mut events = Vec::new();
    while let Some(event) = stream.event(&mut rest) {
        events.push((std::time::Instant::now(), event));
    }
    assert!(!text(&checked(events)).is_empty());
    assert_eq!(server.wait().0, Some(0));

    let server = Server::start(&[&LONG[..], &["--grace", "600"]].concat());
    let mut stream = server.open(COMPLETIONS, &endless());
    stream.event(&mut String::new()).unwrap();
    server.signal("INT");
    // Two signals at once would be one to the system.
    server.await_stopping();
    server.signal("INT");
    assert_eq!(server.wait().0, Some(130));
    drop(stream);
}
