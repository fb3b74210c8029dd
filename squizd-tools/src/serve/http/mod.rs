//! HTTP around the engine: routes, checks, streams, connections.

mod app;
mod body;
mod connections;
mod guard;
mod handlers;
mod sse;
mod write_timeout;

pub(super) use app::{App, now};
pub(super) use connections::{Signals, Stopped, listen, serve};
pub(super) use guard::{Browsers, Key};

use super::error::ApiError;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use std::sync::Arc;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

/// All routes, and what every request passes through: counting, then panics
/// caught, then browsers' origins, then (but for `/health`) the key.
pub(super) fn router(app: Arc<App>) -> Router {
    let keyed = Router::new()
        .route("/v1/chat/completions", post(handlers::chat))
        .route("/v1/completions", post(handlers::completion))
        .route("/v1/models", get(handlers::models))
        .route("/v1/models/{id}", get(handlers::model))
        .route("/metrics", get(handlers::metrics))
        .route_layer(middleware::from_fn_with_state(app.clone(), guard::key));
    let mut router = keyed
        .route("/health", get(handlers::health))
        .method_not_allowed_fallback(async || {
            ApiError::client(StatusCode::METHOD_NOT_ALLOWED, "This path does not take this method.")
        })
        .fallback(async || {
            ApiError::client(StatusCode::NOT_FOUND, "There is nothing at this path.").code("unknown_url")
        });
    if !app.browsers.origins.is_empty() {
        router = router.layer(cors(&app.browsers));
    }
    router
        .layer(middleware::from_fn_with_state(app.clone(), guard::browsers))
        .layer(CatchPanicLayer::custom(|_| -> Response { ApiError::internal().into_response() }))
        .layer(middleware::from_fn_with_state(app.clone(), guard::count))
        .with_state(app)
}

fn cors(browsers: &Browsers) -> CorsLayer {
    let allowed = if browsers.any_origin() {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(browsers.origins.iter().cloned())
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
}
