//! What every request passes before its handler.

use super::App;
use crate::serve::error::ApiError;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Counted for a client that was gone before its answer.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Counts the response, also the one that nobody waited for.
pub(super) async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    struct Counted {
        app: Arc<App>,
        route: String,
        status: u16,
    }
    impl Drop for Counted {
        fn drop(&mut self) {
            self.app.metrics.request(&self.route, self.status);
        }
    }
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let mut counted = Counted { app, route, status: CLIENT_CLOSED_REQUEST };
    let response = next.run(request).await;
    counted.status = response.status().as_u16();
    response
}

/// The key that requests must carry, as its digest.
pub(crate) struct Key([u8; 32]);

impl Key {
    pub(crate) fn new(key: &str) -> Self {
        Self(Sha256::digest(key).into())
    }

    /// Compares digests, so that the time tells nothing of the key.
    fn is(&self, key: &str) -> bool {
        let other: [u8; 32] = Sha256::digest(key).into();
        let difference = self.0.iter().zip(other).fold(0, |d, (a, b)| d | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

/// Asks for the key, where there is one.
pub(super) async fn key(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let Some(key) = &app.key else { return next.run(request).await };
    let given = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    let bearer =
        given.and_then(|v| v.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let message = match bearer {
        Some((_, given)) if key.is(given.trim()) => return next.run(request).await,
        Some(_) => "Incorrect API key provided.",
        None => "You didn't provide an API key: send 'Authorization: Bearer KEY'.",
    };
    ApiError::client(StatusCode::UNAUTHORIZED, message).code("invalid_api_key").into_response()
}

/// Which requests of web browsers are let through.
#[derive(Debug, Default)]
pub(crate) struct Browsers {
    /// Pages of these origins may ask; `*` for all.
    pub(crate) origins: Vec<HeaderValue>,
    /// Without a key on a loopback address, only these names (and addresses)
    /// may be asked for: a page can give its own name this machine's address
    /// ("DNS rebinding"), but cannot choose the name it is asked under.
    pub(crate) host: Option<String>,
}

impl Browsers {
    pub(super) fn any_origin(&self) -> bool {
        self.origins.iter().any(|o| o == "*")
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let text = |name| headers.get(name).map(|v: &HeaderValue| v.to_str().unwrap_or("?"));
        let host = text(header::HOST);
        if let (Some(own), Some(host)) = (&self.host, host) {
            let name = host_name(host);
            let local = name.eq_ignore_ascii_case(own)
                || name.eq_ignore_ascii_case("localhost")
                || name.parse::<IpAddr>().is_ok();
            if !local {
                return Err(refused(
                    "This server answers to 'localhost' and to addresses only; start it with --api-key to use other names.",
                ));
            }
        }
        if let Some(origin) = headers.get(header::ORIGIN)
            && !self.any_origin()
            && !self.origins.contains(origin)
        {
            let own = text(header::ORIGIN).and_then(|o| o.split_once("://")).map(|(_, rest)| rest);
            if own.is_none() || own != host {
                return Err(refused("Pages of this origin may not use this server (see --cors-origin)."));
            }
        }
        Ok(())
    }
}

fn refused(message: &str) -> ApiError {
    ApiError::client(StatusCode::FORBIDDEN, message).code("origin_not_allowed")
}

/// `Host` without its port.
fn host_name(host: &str) -> &str {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        return address;
    }
    match host.rsplit_once(':') {
        Some((name, _)) if host.parse::<Ipv6Addr>().is_err() => name,
        _ => host,
    }
}

/// Turns away browsers that pages of strangers sent.
pub(super) async fn browsers(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match app.browsers.check(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(browsers: &Browsers, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        browsers.check(&headers).is_ok()
    }

    #[test]
    fn only_own_names_on_loopback() {
        let local = Browsers { origins: Vec::new(), host: Some("my-machine".into()) };
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:80", "[::1]:8080", "my-machine:1", "::1"] {
            assert!(passes(&local, host, None), "{host}");
        }
        for host in
            ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", ""]
        {
            assert!(!passes(&local, host, None), "{host}");
        }
        assert!(passes(&Browsers::default(), "any.example", None));
    }

    #[test]
    fn only_known_origins() {
        let none = Browsers::default();
        assert!(passes(&none, "localhost:8080", Some("http://localhost:8080")));
        for origin in ["http://evil.example", "null", "http://localhost:9090", "https://"] {
            assert!(!passes(&none, "localhost:8080", Some(origin)), "{origin}");
        }
        let one = Browsers { origins: vec!["https://app.example".parse().unwrap()], host: None };
        assert!(passes(&one, "x", Some("https://app.example")));
        assert!(!passes(&one, "x", Some("https://other.example")));
        let any = Browsers { origins: vec!["*".parse().unwrap()], host: None };
        assert!(passes(&any, "x", Some("https://other.example")));
    }

    #[test]
    fn keys_are_compared_whole() {
        let key = Key::new("secret");
        assert!(key.is("secret"));
        for wrong in ["", "secre", "secret ", "Secret"] {
            assert!(!key.is(wrong), "{wrong}");
        }
    }
}
