//! Requests that no client would send, by the hundred: bodies of fields with
//! unlikely values, and bytes of requests damaged at random. Always the same
//! ones; `SQUIZD_FUZZ_SEED` draws others.

use crate::http::{connect, send};
use crate::server::Server;
use serde_json::json;
use squizd_hostile::mutate::{Random, mutate};
use std::io::{Read, Write};
use std::net::Shutdown;

const PATHS: [&str; 2] = ["/v1/completions", "/v1/chat/completions"];
const FIELDS: [&str; 33] = [
    "add_generation_prompt",
    "best_of",
    "chat_template",
    "chat_template_kwargs",
    "echo",
    "frequency_penalty",
    "functions",
    "ignore_eos",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "min_p",
    "model",
    "n",
    "presence_penalty",
    "prompt",
    "repeat_penalty",
    "response_format",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "suffix",
    "temperature",
    "tool_choice",
    "tools",
    "top_k",
    "top_logprobs",
    "top_p",
    "user",
    "__proto__",
];

/// Values as they stand in JSON, or do not.
fn values() -> Vec<String> {
    let plain = [
        "null",
        "true",
        "false",
        "0",
        "-1",
        "1",
        "2",
        "0.5",
        "-0.0",
        "1e999",
        "-1e308",
        "NaN",
        "18446744073709551616",
        "9223372036854775807",
        "\"\"",
        "\"x\"",
        "\"tiny\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"../../../../etc/passwd\"",
        "[]",
        "{}",
        "[null]",
        "[-1]",
        "[1e3]",
        "[4294967296]",
        "{\"include_usage\":true}",
        "{\"0\":100,\"-1\":1,\"999999\":1}",
        "{\"type\":\"json_schema\"}",
        "[{\"role\":\"user\",\"content\":\"Hi\"}]",
        "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"file:///etc/passwd\"}}]}]",
        "[{\"role\":\"\",\"content\":null,\"tool_calls\":[1]}]",
    ];
    let mut all: Vec<String> = plain.iter().map(|&v| v.to_owned()).collect();
    all.push("[".repeat(200) + &"]".repeat(200));
    all.push(format!("\"{}\"", "x".repeat(10_000)));
    all.push(format!("[{}0]", "0,".repeat(3000)));
    all
}

fn body(random: &mut Random, values: &[String]) -> String {
    let mut fields = vec![
        "\"prompt\":\"And\"".to_owned(),
        "\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]".to_owned(),
        "\"max_tokens\":2".to_owned(),
    ];
    // A second value of a field that is there already, or a new field.
    for _ in 0..=random.below(4) {
        let (field, value) = (FIELDS[random.below(FIELDS.len())], &values[random.below(values.len())]);
        let added = format!("\"{field}\":{value}");
        if random.below(3) == 0 {
            fields.push(added);
        } else {
            let place = random.below(fields.len());
            fields[place] = added;
        }
    }
    format!("{{{}}}", fields.join(","))
}

#[test]
fn senseless_requests_are_answered_and_forgotten() {
    let seed = std::env::var("SQUIZD_FUZZ_SEED").map_or(20_261_129, |s| s.parse().unwrap());
    let (mut random, values) = (Random::new(seed), values());
    let server = Server::start(&["--max-tokens", "2", "--parallel", "2", "--max-body", "50000"]);
    let folder = server.folder().display().to_string();
    let good = json!({ "max_tokens": 2, "seed": 1 });
    let before = server.complete("And so", good.clone())["choices"].clone();
    let memory = server.peak_memory();
    for i in 0..300 {
        let (path, body) = (PATHS[random.below(2)], body(&mut random, &values));
        let response =
            send(server.address, "POST", path, &["Content-Type: application/json"], &body).whole().0;
        let what = || format!("seed {seed}, request {i}, {path} {body}: {}", response.body);
        assert!(matches!(response.status, 200 | 400 | 404 | 413), "{} to {}", response.status, what());
        if response.status != 200 {
            assert!(response.json()["error"]["message"].is_string(), "{}", what());
        }
        assert!(!response.body.contains(&folder) && !response.body.contains("root:"), "{}", what());
    }
    let request = |path: &str, body: &str| {
        let head = "Host: localhost\r\nContent-Type: application/json\r\nConnection: close";
        format!("POST {path} HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    for i in 0..300 {
        let one = request(PATHS[random.below(2)], &body(&mut random, &values));
        let other = request(PATHS[random.below(2)], "{\"prompt\":\"And\",\"max_tokens\":1}");
        let bytes = mutate(&one, &other, &mut random);
        let mut stream = connect(server.address);
        // Refused halfway, the rest cannot be sent.
        let _ = stream.write_all(&bytes).and_then(|()| stream.shutdown(Shutdown::Write));
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let what = || format!("seed {seed}, damaged request {i}, {}: {answer}", bytes.escape_ascii());
        let fine = answer.is_empty() || answer.starts_with("HTTP/1.1 ") || answer.starts_with("HTTP/1.0 ");
        assert!(fine && !answer.contains("HTTP/1.1 5"), "{}", what());
        assert!(!answer.contains(&folder) && !answer.contains("root:"), "{}", what());
    }
    assert_eq!(server.complete("And so", good)["choices"], before, "the server answers otherwise");
    let grown = server.peak_memory().saturating_sub(memory);
    assert!(grown < 64 << 10, "{grown} KiB more than before");
    server.await_metric("squizd_slots_active", 0);
}
