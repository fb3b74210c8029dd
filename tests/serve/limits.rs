//! What the server does not put up with.

use crate::http::{Reader, connect, send, write};
use crate::server::{Server, endless};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use serde_json::json;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

const COMPLETIONS: &str = "/v1/completions";
const JSON: &str = "Content-Type: application/json";

#[test]
fn large_bodies_are_refused() {
    let server = Server::start(&["--max-body", "1000"]);
    let body = |length: usize| json!({ "prompt": "x".repeat(length), "max_tokens": 1 });
    for length in [1000, 5000, 500_000] {
        let message = server.post(COMPLETIONS, &body(length)).error(413, None, Some("body_too_large"));
        assert!(message.contains("1000 bytes"), "{message}");
    }
    // Its length not told beforehand.
    let mut stream = connect(server.address);
    write(&mut stream, server.address, "POST", COMPLETIONS, &[JSON, "Transfer-Encoding: chunked"], "");
    for _ in 0..3 {
        stream.write_all(format!("1f4\r\n{}\r\n", "x".repeat(500)).as_bytes()).unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    Reader::new(stream).whole().0.error(413, None, Some("body_too_large"));
    assert_eq!(server.post(COMPLETIONS, &json!({ "prompt": "And", "max_tokens": 1 })).status, 200);
}

#[test]
fn prompts_must_fit_the_context() {
    let server = Server::start(&["--ctx-size", "40", "--max-tokens", "30"]);
    let ask = |length: usize| {
        server.post(COMPLETIONS, &json!({ "prompt": vec![70; length], "ignore_eos": true, "max_tokens": 30 }))
    };
    for length in [40, 41, 5000] {
        let message = ask(length).error(400, Some("prompt"), Some("context_length_exceeded"));
        assert!(
            message.contains("40 tokens") && message.contains(&format!("has {length} tokens")),
            "{message}"
        );
    }
    for (length, tokens) in [(39, 2), (20, 21), (5, 30)] {
        let reply = ask(length).json();
        assert_eq!(
            (&reply["usage"]["completion_tokens"], &reply["choices"][0]["finish_reason"]),
            (&json!(tokens), &json!("length"))
        );
    }
    let chat = json!({ "messages": [{ "role": "user", "content": "And so on. ".repeat(30) }] });
    server.post("/v1/chat/completions", &chat).error(400, Some("messages"), Some("context_length_exceeded"));
    let more = json!({ "prompt": "x", "max_tokens": 31 });
    assert!(server.post(COMPLETIONS, &more).error(400, Some("max_tokens"), None).contains("at most 30"));
}

#[test]
fn a_full_queue_is_said_at_once() {
    let server = Server::start(&["--parallel", "1", "--queue", "1", "--ctx-size", "30000"]);
    let mut first = server.open(COMPLETIONS, &endless());
    first.event(&mut String::new()).unwrap();
    let mut second = connect(server.address);
    write(&mut second, server.address, "POST", COMPLETIONS, &[JSON], &endless().to_string());
    server.await_metric("squizd_queue_depth", 1);
    let third = server.post(COMPLETIONS, &endless());
    assert!(third.error(429, None, Some("queue_full")).contains("busy"));
    assert_eq!(third.header("retry-after"), Some("1"));
    drop(first);
    // The second gets the slot, and there is room to wait again.
    let mut second = Reader::new(second);
    assert_eq!(second.status, 200);
    second.event(&mut String::new()).unwrap();
    drop(second);
    server.await_metric("squizd_slots_active", 0);
    assert_eq!(server.post(COMPLETIONS, &json!({ "prompt": "And", "max_tokens": 1 })).status, 200);
    assert_eq!(server.metric("squizd_requests_total{route=\"/v1/completions\",status=\"429\"}"), 1);
}

#[test]
fn slow_senders_are_cut_off() {
    let server = Server::start(&["--timeout", "0.5"]);
    // Nothing, half a header, nothing after an answer: closed.
    for start in ["", "POST /v1/completions HTT", "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"] {
        let mut stream = connect(server.address);
        stream.write_all(start.as_bytes()).unwrap();
        let (started, mut answer) = (Instant::now(), Vec::new());
        let _ = stream.read_to_end(&mut answer);
        assert!(
            (Duration::from_millis(300)..Duration::from_secs(20)).contains(&started.elapsed()),
            "{start:?}"
        );
    }
    // Half a body: told so.
    let mut stream = connect(server.address);
    let head =
        format!("POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\n{JSON}\r\nContent-Length: 100\r\n\r\n{{");
    stream.write_all(head.as_bytes()).unwrap();
    Reader::new(stream).whole().0.error(408, None, None);
}

#[test]
fn clients_that_do_not_read_are_given_up() {
    let server = Server::start(&["--timeout", "0.5", "--parallel", "1", "--ctx-size", "30000"]);
    let mut stream = connect(server.address);
    set_socket_recv_buffer_size(&stream, 4096).unwrap();
    let mut body = endless();
    body["logprobs"] = 20.into();
    write(&mut stream, server.address, "POST", COMPLETIONS, &[JSON], &body.to_string());
    server.await_metric("squizd_slots_active", 1);
    server.await_metric("squizd_slots_active", 0);
    // Either the engine noticed first, or the connection did.
    let ended = |how: &str| server.metric(&format!("squizd_generations_total{{end=\"{how}\"}}"));
    assert_eq!(ended("slow_client") + ended("cancelled"), 1);
    assert_eq!(server.post(COMPLETIONS, &json!({ "prompt": "And", "max_tokens": 1 })).status, 200);
    drop(stream);
}

#[test]
fn what_is_no_http_is_refused() {
    let server = Server::start(&[]);
    for (garbage, status) in [
        ("\u{0}\u{1}\u{2}\r\n\r\n", "400"),
        ("GET\r\n\r\n", "400"),
        ("GET / HTTP/9.9\r\n\r\n", "400"),
        ("GET /health HTTP/1.1\r\nbad header\r\n\r\n", "400"),
        ("POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400"),
        ("POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "400"),
    ] {
        let mut stream = connect(server.address);
        stream.write_all(garbage.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(answer.split(' ').nth(1), Some(status), "{garbage:?}: {answer}");
    }
    let long = format!("X-Long: {}", "x".repeat(200_000));
    assert_eq!(send(server.address, "GET", "/health", &[&long], "").status, 431);
    // Bad chunks, and a body that breaks off.
    let mut stream = connect(server.address);
    write(&mut stream, server.address, "POST", COMPLETIONS, &[JSON, "Transfer-Encoding: chunked"], "");
    stream.write_all(b"zz\r\n").unwrap();
    Reader::new(stream).whole().0.error(400, None, None);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn connections_are_counted() {
    let server = Server::start(&[]);
    let held: Vec<_> = (0..256).map(|_| connect(server.address)).collect();
    let mut turned_away = connect(server.address);
    let mut answer = String::new();
    let _ = turned_away.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\"code\":\"queue_full\""), "{answer}");
    drop(held);
    let started = Instant::now();
    loop {
        let mut stream = connect(server.address);
        write(&mut stream, server.address, "GET", "/health", &[], "");
        if Reader::new(stream).status == 200 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}

#[test]
fn wrong_options_are_named() {
    for (args, says) in [
        (&["--parallel", "0"][..], "--parallel"),
        (&["--ctx-size", "0"], "--ctx-size is 0"),
        (&["--api-key", ""], "--api-key is empty"),
        (&["--cors-origin", "app.example"], "--cors-origin"),
        (&["--timeout=-1"], "0 to 86400 seconds"),
        (&["--host", "no.such.host.invalid"], "no.such.host.invalid"),
        (&["--ctx-size", "1000000000000"], "use a smaller --ctx-size"),
    ] {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/tiny-qwen3-1m");
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("t.squizd");
        let squizd = || std::process::Command::new(env!("CARGO_BIN_EXE_squizd"));
        assert!(squizd().args(["convert", "-q", golden, "-o"]).arg(&file).output().unwrap().status.success());
        let output = squizd().arg("serve").arg(&file).args(["--port", "0"]).args(args).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && log.contains(says), "{args:?}: {log}");
    }
}
