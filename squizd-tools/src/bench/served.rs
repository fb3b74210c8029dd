//! The same prompt through `squizd serve`, as a client meets it: a process that
//! serves the file on this machine, asked over HTTP for one token.

use super::Setup;
use crate::Failure;
use squizd::codec::Precision;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Longest wait for a reply.
const PATIENCE: Duration = Duration::from_mins(10);
/// Seconds that the server has spent in the forward passes of prompts.
const FORWARD: &str = "squizd_prompt_forward_seconds_sum";

/// What one request took.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServedTrial {
    /// From before connecting to the first event with a token.
    pub(super) first_token: Duration,
    /// The forward passes of its prompt, as the server measures them.
    pub(super) forward: Duration,
}

/// A server of one file.
pub(super) struct Server {
    child: Child,
    address: SocketAddr,
    body: String,
    /// Forward passes until now.
    forward: f64,
    log: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts `program` and waits until it serves `file`, one request at a time.
    pub(super) fn start(
        program: &Path,
        file: &Path,
        setup: &Setup<'_>,
        prompt: &[u32],
    ) -> Result<Self, Failure> {
        let Setup { session, workload, .. } = setup;
        let precision = match session.precision {
            Precision::F32 => "f32",
            Precision::Q8 => "q8",
        };
        let context = (prompt.len() + 1).max(workload.context).to_string();
        let mut child = Command::new(program)
            .arg("serve")
            .arg(file)
            .args(["--port", "0", "--parallel", "1", "--force"])
            .args(["--backend", setup.placement.flag()])
            .args(["--ctx-size", &context, "--threads", &workload.threads.to_string()])
            .args(["--precision", precision, "--kv", &session.kv.to_string()])
            .env_remove("SQUIZD_API_KEY")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Failure::usage(format!("starting {} serve: {e}", program.display())))?;
        let Some(stderr) = child.stderr.take() else {
            return Err(Failure::usage("no pipe to the server"));
        };
        let mut server = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            body: serde_json::json!({
                "prompt": prompt, "max_tokens": 1, "temperature": 0, "stream": true, "ignore_eos": true,
                "cache_prompt": false,
            })
            .to_string(),
            forward: 0.0,
            log: None,
        };
        let mut stderr = BufReader::new(stderr);
        server.address = announced(&mut stderr).map_err(|e| e.of(file.display()))?;
        // What it says later must not fill the pipe.
        server.log = Some(std::thread::spawn(move || {
            let _ = std::io::copy(&mut stderr, &mut std::io::sink());
        }));
        server.ask()?;
        Ok(server)
    }

    /// Asks for the first token after the prompt.
    pub(super) fn ask(&mut self) -> Result<ServedTrial, Failure> {
        let started = Instant::now();
        let mut reply = self.send("POST", "/v1/completions", &self.body).map_err(broken)?;
        let first_token = first_event(&mut reply, started)?;
        reply.read_to_end(&mut Vec::new()).map_err(broken)?;
        let all = self.prompt_seconds()?;
        let forward = Duration::try_from_secs_f64(all - self.forward).unwrap_or_default();
        self.forward = all;
        Ok(ServedTrial { first_token, forward })
    }

    fn prompt_seconds(&self) -> Result<f64, Failure> {
        let mut page = String::new();
        let mut reply = self.send("GET", "/metrics", "").map_err(broken)?;
        reply.read_to_string(&mut page).map_err(broken)?;
        let value = page.lines().find_map(|l| l.strip_prefix(FORWARD)?.trim().parse().ok());
        value.ok_or_else(|| Failure::usage(format!("the server's metrics have no {FORWARD}")))
    }

    fn send(&self, method: &str, path: &str, body: &str) -> std::io::Result<BufReader<TcpStream>> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all((head + body).as_bytes())?;
        Ok(BufReader::new(stream))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(log) = self.log.take() {
            let _ = log.join();
        }
    }
}

fn broken(error: std::io::Error) -> Failure {
    Failure::usage(format!("asking the server: {error}"))
}

/// The address that a server announces in its log.
fn announced(log: &mut impl BufRead) -> Result<SocketAddr, Failure> {
    let mut said = String::new();
    loop {
        let start = said.len();
        if log.read_line(&mut said).map_err(broken)? == 0 {
            return Err(Failure::usage(format!("the server did not start: {}", said.trim_end())));
        }
        let address = said.get(start..).and_then(|line| line.split_once("http://"));
        if let Some(address) = address.and_then(|(_, rest)| rest.split('/').next()?.parse().ok()) {
            return Ok(address);
        }
    }
}

/// When the first event of a streamed reply is there.
fn first_event(reply: &mut impl BufRead, started: Instant) -> Result<Duration, Failure> {
    let mut head = String::new();
    loop {
        let start = head.len();
        if reply.read_line(&mut head).map_err(broken)? == 0 {
            return Err(Failure::usage(format!("the server answered without an event: {}", head.trim_end())));
        }
        let elapsed = started.elapsed();
        if let Some(event) = head.get(start..).and_then(|line| line.strip_prefix("data: ")) {
            if event.starts_with("{\"error\"") {
                return Err(Failure::usage(format!("the server failed: {}", event.trim_end())));
            }
            return Ok(elapsed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_the_log() {
        let log = "warning: something\nserving tiny at http://127.0.0.1:4711/v1: 1 slots of 9 tokens\n";
        assert_eq!(announced(&mut log.as_bytes()).unwrap(), SocketAddr::from(([127, 0, 0, 1], 4711)));
        let message = announced(&mut "error: no such file\n".as_bytes()).unwrap_err().message;
        assert!(message.contains("no such file"), "{message}");
    }

    #[test]
    fn only_an_answer_counts_as_the_first_event() {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let first = |body: &str| first_event(&mut [head, body].concat().as_bytes(), Instant::now());
        assert!(first("1c\r\n: keep-alive\n\ndata: {\"choices\":[]}\n\n").is_ok());
        let failed = first("20\r\ndata: {\"error\":{\"message\":\"out of order\"}}\n\n").unwrap_err();
        assert!(failed.message.contains("out of order"));
        let refused = first("{\"error\":{\"message\":\"too long\"}}").unwrap_err();
        assert!(refused.message.contains("too long"));
    }
}
