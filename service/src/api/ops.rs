//! Handlers for operators: liveness, readiness and metrics. None of it needs a token, none of it names a tenant.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use fastmap_backends::cloud::{HEADER_NONCE, ProblemCode};
use tracing::Instrument;

use crate::app::connections::Connection;
use crate::app::{Gateway, SERVING};
use crate::problem::refuse;
use crate::store::StoreError;

pub(crate) async fn health() -> &'static str {
    "alive\n"
}

pub(crate) async fn ready(State(gateway): State<Arc<Gateway>>) -> Response {
    if gateway.phase.load(Ordering::Relaxed) != SERVING {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down\n").into_response();
    }
    let not_ready = |why: &str| (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response();
    if let Err(error) = gateway.store.ready().await {
        tracing::error!(%error, "not ready");
        return not_ready(match error {
            StoreError::Unfit(_) => "the database takes no writes",
            _ => "the database does not answer",
        });
    }
    match gateway.dispatch.refuses() {
        Some(why) => not_ready(&format!("the queue takes no work: {why}")),
        None => "ready\n".into_response(),
    }
}

pub(crate) async fn metrics(State(gateway): State<Arc<Gateway>>) -> String {
    metrics::gauge!("fastmap_batches_under_way").set(gateway.under_way() as f64);
    metrics::gauge!("fastmap_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    gateway.metrics.run_upkeep();
    gateway.metrics.render()
}

/// Counts and times each request by its route, and logs it; whatever is logged because of it bears its id, which is the
/// nonce that its client has made.
pub(crate) async fn measure(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let _busy = request.extensions().get::<Arc<Connection>>().map(Connection::busy);
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let id = request.headers().get(HEADER_NONCE).and_then(|nonce| nonce.to_str().ok()).unwrap_or_default();
    // It is not authenticated yet: what is no nonce is not written down.
    let id = if id.len() <= 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) { id } else { "" };
    let span = tracing::info_span!("request", id);
    let mut response = next.run(request).instrument(span.clone()).await;
    let _in_it = span.entered();
    if gateway.store.is_shared() && gateway.phase.load(Ordering::Relaxed) != SERVING {
        // The next connection leads to a gateway that stays.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let status = response.status().as_u16();
    let took = began.elapsed();
    tracing::debug!(%method, route, status, ms = took.as_secs_f64() * 1000.0, "request");
    metrics::counter!("fastmap_requests_total", "route" => route.clone(), "status" => status.to_string())
        .increment(1);
    metrics::histogram!("fastmap_request_seconds", "route" => route).record(took);
    response
}

#[allow(clippy::needless_pass_by_value, reason = "the layer hands it over so")]
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let words = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("of no words");
    tracing::error!(panic = words, "a request panicked");
    refuse(ProblemCode::Internal, "the service made a mistake; its log says more").into_response()
}
