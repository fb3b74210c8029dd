//! The server under test.

use crate::http::{Reader, Response, send};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const JSON: &str = "Content-Type: application/json";
/// Everything in floats, so that texts are those of the reference.
const EXACT: [&str; 4] = ["--precision", "f32", "--kv", "f32"];

pub(crate) fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny-qwen3-1m")
}

/// Prompts and the first 32 greedy tokens after them, from transformers.
pub(crate) fn reference() -> Vec<(String, String)> {
    let json: Value = serde_json::from_slice(&fs::read(tiny().join("reference.json")).unwrap()).unwrap();
    let texts = |key: &str| -> Vec<String> { serde_json::from_value(json[key].clone()).unwrap() };
    let pairs = texts("prompts").into_iter().zip(texts("greedy_32"));
    pairs.map(|(prompt, all)| (prompt.clone(), all.strip_prefix(&prompt).unwrap().to_owned())).collect()
}

/// A stream that goes on until its client leaves.
pub(crate) fn endless() -> Value {
    json!({ "prompt": "And", "stream": true, "max_tokens": 1_000_000, "ignore_eos": true })
}

/// A running `squizd serve` of the tiny model, named `tiny`.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    child: Child,
    log: Option<JoinHandle<String>>,
    folder: PathBuf,
    /// Removed with the server.
    converted: Option<TempDir>,
}

impl Server {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::of(&tiny(), args, &[])
    }

    /// Converts a model and serves it, with further arguments and variables.
    pub(crate) fn of(model: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("tiny.squizd");
        let paths = [&file, model].map(|p| p.to_str().unwrap());
        squizd(&["convert", "--codec", "raw", "-q", "-o", paths[0], paths[1]]);
        let mut server = Self::serve(&file, args, env);
        server.converted = Some(folder);
        server
    }

    /// Serves a file named `tiny.squizd`.
    pub(crate) fn serve(file: &Path, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_squizd"))
            .arg("serve")
            .arg(file)
            .args(["--port", "0"])
            .args(EXACT)
            .args(args)
            .envs(env.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut log = String::new();
        let address = loop {
            let start = log.len();
            assert!(stderr.read_line(&mut log).unwrap() > 0, "the server did not start: {log}");
            if let Some((_, rest)) = log[start..].split_once("http://") {
                break rest.split('/').next().unwrap().parse().unwrap();
            }
        };
        let log = std::thread::spawn(move || {
            stderr.read_to_string(&mut log).unwrap();
            log
        });
        let folder = file.parent().unwrap().to_owned();
        Self { address, child, log: Some(log), folder, converted: None }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        send(self.address, "GET", path, &[], "").whole().0
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Response {
        self.open(path, body).whole().0
    }

    /// Sends a request; its answer still to be read.
    pub(crate) fn open(&self, path: &str, body: &Value) -> Reader {
        send(self.address, "POST", path, &[JSON], &body.to_string())
    }

    /// A greedy completion with these further fields; the reply.
    pub(crate) fn complete(&self, prompt: &str, extra: Value) -> Value {
        let response = self.post("/v1/completions", &greedy(json!({ "prompt": prompt }), extra));
        assert_eq!(response.status, 200, "{}", response.body);
        response.json()
    }

    /// The same as a stream; its chunks, after checks that hold for all.
    pub(crate) fn stream(&self, path: &str, body: Value, extra: Value) -> Vec<Value> {
        let mut body = greedy(body, extra);
        body["stream"] = true.into();
        checked(self.open(path, &body).events())
    }

    /// Where its model lies.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The most memory it ever had resident, in KiB; 0 where the system does not tell.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        line.map_or(0, |l| l.trim().trim_end_matches(" kB").parse().unwrap())
    }

    /// One of the server's counts.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        self.metric_text(name).map_or(0, |v| v.parse().unwrap())
    }

    pub(crate) fn metric_text(&self, name: &str) -> Option<String> {
        let page = self.get("/metrics").body;
        let line = page.lines().find(|l| l.strip_prefix(name).is_some_and(|r| r.starts_with(' ')));
        line.map(|l| l.rsplit(' ').next().unwrap().to_owned())
    }

    /// Waits until a count has this value.
    pub(crate) fn await_metric(&self, name: &str, value: u64) {
        let started = Instant::now();
        while self.metric(name) != value {
            assert!(started.elapsed() < Duration::from_mins(1), "{name} is {}", self.metric(name));
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits until the server has taken a signal: from then on it does not listen.
    pub(crate) fn await_stopping(&self) {
        let started = Instant::now();
        while TcpStream::connect(self.address).is_ok() {
            assert!(started.elapsed() < Duration::from_mins(1), "the server still listens");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for the server to end; its exit code and its log.
    pub(crate) fn wait(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        (code, self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        drop(self.converted.take());
    }
}

/// Runs a command that must succeed; its output.
pub(crate) fn squizd(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_squizd")).args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn greedy(mut body: Value, extra: Value) -> Value {
    let fields = body.as_object_mut().unwrap();
    fields.insert("temperature".into(), 0.into());
    fields.extend(extra.as_object().unwrap().clone());
    body
}

/// What every stream must be: JSON, one `finish_reason`, nothing but the usage
/// after it, `[DONE]` at the end.
pub(crate) fn checked(events: Vec<(Instant, String)>) -> Vec<Value> {
    let (done, chunks) = events.split_last().unwrap();
    assert_eq!(done.1, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|(_, e)| serde_json::from_str(e).unwrap()).collect();
    let reasons: Vec<usize> =
        (0..chunks.len()).filter(|&i| chunks[i]["choices"][0]["finish_reason"].is_string()).collect();
    assert_eq!(reasons.len(), 1, "{chunks:?}");
    assert!(chunks[reasons[0] + 1..].iter().all(|c| c["choices"] == json!([]) && c["usage"].is_object()));
    assert!(chunks.iter().all(|c| c["id"] == chunks[0]["id"] && c["model"] == "tiny"));
    chunks
}

/// The text of a stream's chunks.
pub(crate) fn text(chunks: &[Value]) -> String {
    let parts = chunks.iter().map(|c| &c["choices"][0]);
    parts.filter_map(|c| c["text"].as_str().or(c["delta"]["content"].as_str())).collect()
}

/// Why a stream ended.
pub(crate) fn reason(chunks: &[Value]) -> &str {
    chunks.iter().find_map(|c| c["choices"][0]["finish_reason"].as_str()).unwrap()
}
