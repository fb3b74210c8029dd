//! A small HTTP/1.1 client that shows everything as it came.

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_mins(1);

/// A response's head, and its body still to be read.
pub(crate) struct Reader {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    stream: BufReader<TcpStream>,
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends a request with these further header lines, and reads the head.
pub(crate) fn send(address: SocketAddr, method: &str, path: &str, headers: &[&str], body: &str) -> Reader {
    let mut stream = connect(address);
    write(&mut stream, address, method, path, headers, body);
    Reader::new(stream)
}

pub(crate) fn write(
    stream: &mut TcpStream,
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) {
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    let mut lines: Vec<String> = headers.iter().map(|&h| h.to_owned()).collect();
    if !headers.iter().any(|h| h.to_lowercase().starts_with("host:")) {
        lines.push(format!("Host: {address}"));
    }
    if !body.is_empty() {
        lines.push(format!("Content-Length: {}", body.len()));
    }
    for line in lines {
        head.push_str(&line);
        head.push_str("\r\n");
    }
    // The server may refuse, and close, before everything is sent.
    let _ = stream.write_all(format!("{head}\r\n{body}").as_bytes());
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
}

impl Reader {
    pub(crate) fn new(stream: TcpStream) -> Self {
        let mut stream = BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert!(stream.read_line(&mut line).unwrap() > 0, "the head ends after {lines:?}");
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
        let headers =
            lines[1..].iter().map(|l| l.split_once(':').unwrap()).map(|(n, v)| (n.into(), v.trim().into()));
        Self { status, headers: headers.collect(), stream }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    /// The next chunk of a chunked body; `None` at its proper end.
    fn chunk(&mut self) -> Option<String> {
        let mut size = String::new();
        assert!(self.stream.read_line(&mut size).unwrap() > 0, "the body breaks off");
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut data = vec![0; size + 2];
        self.stream.read_exact(&mut data).unwrap();
        assert_eq!(data.split_off(size), b"\r\n");
        (size > 0).then(|| String::from_utf8(data).unwrap())
    }

    /// Reads a body with a length, and gives the connection back.
    pub(crate) fn whole(mut self) -> (Response, TcpStream) {
        let mut body = String::new();
        if self.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                body += &chunk;
            }
        } else {
            let length = self.header("content-length").map_or(0, |l| l.parse().unwrap());
            let mut bytes = vec![0; length];
            self.stream.read_exact(&mut bytes).unwrap();
            body = String::from_utf8(bytes).unwrap();
        }
        (Response { status: self.status, headers: self.headers, body }, self.stream.into_inner())
    }

    /// The next server-sent event's data; `None` at the end of the stream.
    pub(crate) fn event(&mut self, rest: &mut String) -> Option<String> {
        loop {
            if let Some((event, after)) = rest.split_once("\n\n") {
                let event = event.to_owned();
                *rest = after.to_owned();
                if let Some(data) = event.strip_prefix("data: ") {
                    return Some(data.to_owned());
                }
                assert!(event.starts_with(':'), "{event}");
                continue;
            }
            let Some(chunk) = self.chunk() else {
                assert_eq!(rest, "", "text after the last event");
                return None;
            };
            rest.push_str(&chunk);
        }
    }

    /// All events, with the time each came.
    pub(crate) fn events(mut self) -> Vec<(Instant, String)> {
        assert_eq!((self.status, self.header("content-type")), (200, Some("text/event-stream")));
        let mut rest = String::new();
        std::iter::from_fn(|| self.event(&mut rest).map(|e| (Instant::now(), e))).collect()
    }
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// Asserts an error in OpenAI's shape; its message.
    pub(crate) fn error(&self, status: u16, param: Option<&str>, code: Option<&str>) -> String {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/json"));
        let json = self.json();
        let error = json["error"].as_object().unwrap();
        assert_eq!(error.keys().collect::<Vec<_>>(), ["message", "type", "param", "code"], "{json}");
        assert_eq!((error["param"].as_str(), error["code"].as_str()), (param, code), "{json}");
        assert!(error["type"].as_str().unwrap().ends_with("_error"), "{json}");
        error["message"].as_str().unwrap().to_owned()
    }
}
