//! The endpoints.

use super::App;
use super::app::Running;
use super::body::read_json;
use super::sse::EventStream;
use crate::serve::engine::Event;
use crate::serve::error::ApiError;
use crate::serve::metrics;
use crate::serve::openai::{ChatRequest, CompletionRequest, Kind};
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

type Shared = State<Arc<App>>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// `POST /v1/chat/completions`.
pub(super) async fn chat(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let received = Instant::now();
    let request = ChatRequest::parse(read_json(request, &app.limits).await?, &app.limits)?;
    app.check_model(request.common.model.as_deref())?;
    let place = app.admit()?;
    let renderer = Arc::clone(&app);
    let (prompt, common) = apart(move || Ok((renderer.chat_prompt(&request)?, request.common))).await?;
    let stream = common.stream;
    let running = app.start(prompt, common, Kind::Chat, received, place).await?;
    answer(running, stream).await
}

/// `POST /v1/completions`.
pub(super) async fn completion(State(app): Shared, request: Request) -> Result<Response, ApiError> {
    let received = Instant::now();
    let request = CompletionRequest::parse(read_json(request, &app.limits).await?, &app.limits)?;
    let CompletionRequest { prompt, common } = request;
    app.check_model(common.model.as_deref())?;
    let place = app.admit()?;
    let encoder = Arc::clone(&app);
    let prompt = apart(move || encoder.completion_prompt(prompt)).await?;
    let stream = common.stream;
    let running = app.start(prompt, common, Kind::Completion, received, place).await?;
    answer(running, stream).await
}

/// Runs `work`, which takes a while, where it holds up no connection.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(ApiError::internal()))
}

async fn answer(running: Running, stream: bool) -> Result<Response, ApiError> {
    let id = HeaderValue::from_str(&running.reply.id).map_err(|_| ApiError::internal())?;
    let mut response = if stream { streamed(running) } else { json_response(&whole(running).await?) };
    response.headers_mut().insert(HeaderName::from_static("x-request-id"), id);
    Ok(response)
}

fn streamed(running: Running) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // Asks nginx not to collect the stream before passing it on.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::new(EventStream::new(running))).into_response()
}

/// The complete answer.
async fn whole(mut running: Running) -> Result<Value, ApiError> {
    let (mut answer, mut all) = (String::new(), Vec::new());
    while let Some(event) = running.events.recv().await {
        match event {
            Event::Started => {}
            Event::Text { text, logprobs } => {
                answer.push_str(&text);
                all.extend(logprobs);
            }
            Event::Finished { reason, usage } => {
                return Ok(running.reply.whole(&answer, &all, reason, usage));
            }
            Event::Failed(fault) => return Err(fault.into()),
        }
    }
    Err(ApiError::internal())
}

/// `GET /v1/models`.
pub(super) async fn models(State(app): Shared) -> Response {
    json_response(&json!({ "object": "list", "data": [description(&app)] }))
}

/// `GET /v1/models/{id}`.
pub(super) async fn model(State(app): Shared, Path(id): Path<String>) -> Result<Response, ApiError> {
    app.check_model(Some(&id))?;
    Ok(json_response(&description(&app)))
}

fn description(app: &App) -> Value {
    json!({
        "id": &*app.model,
        "object": "model",
        "created": app.started,
        "owned_by": "squizd",
        "max_model_len": app.context,
    })
}

/// `GET /health`.
pub(super) async fn health(State(app): Shared) -> Response {
    let (status, text) = if app.stopping.load(Ordering::Relaxed) {
        (StatusCode::SERVICE_UNAVAILABLE, "shutting down")
    } else {
        (StatusCode::OK, "ok")
    };
    (status, json_response(&json!({ "status": text }))).into_response()
}

/// `GET /metrics`.
pub(super) async fn metrics(State(app): Shared) -> Response {
    let page = app.metrics.render(app.limits.slots, app.admitted());
    ([(header::CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE))], page).into_response()
}

fn json_response(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, JSON)], value.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_while_preparing_is_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let result = runtime.block_on(apart::<()>(|| panic!("a defect")));
        assert_eq!(result.unwrap_err().into_response().status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
