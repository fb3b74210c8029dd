//! Reading a request's JSON within its limits.

use crate::serve::error::ApiError;
use crate::serve::limits::Limits;
use crate::serve::openai::Fields;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use hyper::body::Body as _;
use std::future::poll_fn;
use std::pin::Pin;

/// A body that is too large is read on, and dropped, up to this multiple of
/// what is allowed: a client that is still sending sees no answer.
const DRAIN: usize = 8;

/// The request's JSON object.
///
/// # Errors
/// 415, 413, 408 or 400.
pub(super) async fn read_json(request: Request, limits: &Limits) -> Result<Fields, ApiError> {
    let (parts, body) = request.into_parts();
    check_type(&parts.headers)?;
    let bytes = tokio::time::timeout(limits.read_timeout, collect(body, limits.max_body)).await;
    let bytes = bytes.map_err(|_| {
        let message = format!("The body did not arrive within {:?}.", limits.read_timeout);
        ApiError::client(StatusCode::REQUEST_TIMEOUT, message)
    })??;
    Fields::parse(&bytes)
}

fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = text(header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim();
    let encoding = text(header::CONTENT_ENCODING);
    if !essence.eq_ignore_ascii_case("application/json") {
        let message = "The body must be JSON: send 'Content-Type: application/json'.";
        return Err(ApiError::client(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity") {
        let message = "Compressed bodies are not supported.";
        return Err(ApiError::client(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    Ok(())
}

async fn collect(mut body: Body, most: usize) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    let mut total = 0;
    while let Some(part) = next(&mut body).await? {
        total += part.len();
        if total <= most {
            bytes.extend_from_slice(&part);
        } else if total > most.saturating_mul(DRAIN) {
            break;
        }
    }
    if total > most {
        let message = format!("The body is larger than {most} bytes.");
        return Err(ApiError::client(StatusCode::PAYLOAD_TOO_LARGE, message).code("body_too_large"));
    }
    Ok(bytes)
}

/// The next piece of data.
async fn next(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    loop {
        match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
            Some(Err(_)) => return Err(ApiError::invalid("The body could not be read to its end.")),
        }
    }
}
