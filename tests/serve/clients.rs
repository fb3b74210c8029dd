//! Clients of others: the `openai` package, and curl.

use crate::server::{Server, reference, tiny};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

/// The interpreter with Python packages; `None`, with a message, where it is
/// absent and `SQUIZD_REQUIRE` does not name `pypi`.
fn python() -> Option<String> {
    let required = std::env::var("SQUIZD_REQUIRE").is_ok_and(|v| v.split(',').any(|r| r.trim() == "pypi"));
    let found = std::env::var("SQUIZD_PYTHON").ok();
    assert!(found.is_some() || !required, "SQUIZD_REQUIRE names pypi, but SQUIZD_PYTHON is not set");
    if found.is_none() {
        eprintln!("skipped: SQUIZD_PYTHON does not name an interpreter with the openai package");
    }
    found
}

#[test]
fn the_openai_package_is_content() {
    let Some(python) = python() else { return };
    let server = Server::of(&tiny(), &["--parallel", "3", "--queue", "6"], &[("SQUIZD_API_KEY", "secret")]);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/serve/openai_client.py");
    let output = Command::new(python).arg(script).arg(server.url()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.ends_with("all checks passed\n"), "{out}");
}

#[test]
fn curl_shows_tokens_as_they_come() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("skipped: curl is not there");
        return;
    }
    let server = Server::start(&["--ctx-size", "1000"]);
    let (prompt, expected) = reference().swap_remove(0);
    let body = serde_json::json!({
        "prompt": prompt, "stream": true, "max_tokens": 900, "temperature": 0, "ignore_eos": true
    });
    let started = Instant::now();
    let mut curl = Command::new("curl")
        .args(["-sSN", "-H", "Content-Type: application/json", "-d", &body.to_string()])
        .arg(format!("{}/v1/completions", server.url()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: Vec<_> = BufReader::new(curl.stdout.take().unwrap())
        .lines()
        .map(|line| (started.elapsed(), line.unwrap()))
        .filter(|(_, line)| !line.is_empty())
        .collect();
    assert!(curl.wait().unwrap().success());
    assert!(lines[0].0 < lines.last().unwrap().0 / 2, "{:?} of {:?}", lines[0].0, lines.last().unwrap().0);
    assert_eq!(lines.last().unwrap().1, "data: [DONE]");
    let text: String = lines[..lines.len() - 1]
        .iter()
        .map(|(_, line)| {
            serde_json::from_str::<serde_json::Value>(line.strip_prefix("data: ").unwrap()).unwrap()
        })
        .map(|chunk| chunk["choices"][0]["text"].as_str().unwrap().to_owned())
        .collect();
    assert!(text.starts_with(&expected), "{text}");
}
