//! What one client may ask of the server, and for how long.

use std::time::Duration;

/// Caps on requests and connections.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests answered at the same time.
    pub slots: usize,
    /// Requests that may wait for a slot; more are refused with 429.
    pub queue: usize,
    /// Most tokens a request may ask for; `None`: what the context holds.
    pub max_tokens: Option<usize>,
    /// Largest request body, in bytes.
    pub max_body: usize,
    /// Open connections; more are turned away with 503.
    pub connections: usize,
    /// Time for a request's header, and again for its body.
    pub read_timeout: Duration,
    /// How long a client may take nothing of an answer.
    pub write_timeout: Duration,
    /// Time that answers get to end by themselves at shutdown.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            slots: 4,
            queue: 64,
            max_tokens: None,
            max_body: 4 << 20,
            connections: 256,
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(10),
        }
    }
}
