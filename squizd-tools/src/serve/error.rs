//! Errors in OpenAI's shape.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Seconds after which a refused request may try again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// A refused or failed request:
/// `{"error": {"message", "type", "param", "code"}}` with the right status.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    param: Option<String>,
    message: String,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code: None, param: None, message: message.into() }
    }

    /// The client's mistake, with this status.
    pub(crate) fn client(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(status, "invalid_request_error", message)
    }

    /// 400.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::client(StatusCode::BAD_REQUEST, message)
    }

    /// 400, because of one parameter.
    pub(crate) fn param(name: &str, message: impl Into<String>) -> Self {
        Self::invalid(message).at(name)
    }

    /// 429: slots and queue are full.
    pub(crate) fn busy() -> Self {
        let message = "The server is busy: its queue is full. Try again later.";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message).code("queue_full")
    }

    /// 503: the server is stopping.
    pub(crate) fn stopping() -> Self {
        let message = "The server is shutting down.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message).code("shutting_down")
    }

    /// 500; details belong into the log, not to the client.
    pub(crate) fn internal() -> Self {
        let message = "The server failed to answer this request; its log says why.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message).code("internal_error")
    }

    /// Names the parameter that is wrong.
    pub(crate) fn at(mut self, param: &str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    /// Puts what is wrong into its larger parameter: `content` of `messages[2]`.
    pub(crate) fn within(mut self, outer: &str) -> Self {
        self.param = Some(self.param.map_or(outer.to_owned(), |inner| format!("{outer}.{inner}")));
        self.message = format!("{outer}: {}.", self.message);
        self
    }

    /// Adds a code for programs.
    pub(crate) fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// The body.
    pub(crate) fn body(&self) -> Value {
        json!({
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut response = (self.status, [json], self.body().to_string()).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER);
            }
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            _ => {}
        }
        response
    }
}
