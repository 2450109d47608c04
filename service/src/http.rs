//! HTTP: the routes of the protocol, of operators and of the dashboard, and what is around all of them.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::routing::{get, head, post, put};
use axum::{Router, middleware};
use fastmap_backends::cloud::ProblemCode;
use tower_http::catch_panic::CatchPanicLayer;

use crate::api::{auth, batches, dashboard_links, events, ops, runs, uploads};
use crate::app::Gateway;
use crate::problem::{Refusal, refuse};
use crate::text::bounded;
use crate::{dashboard, openapi};

/// All routes of a gateway.
pub fn router(gateway: &Arc<Gateway>) -> Router {
    let protocol = Router::new()
        .route("/auth", post(runs::auth))
        .route(
            "/executables/{hash}",
            head(uploads::head_executable).get(uploads::get_executable).put(uploads::put_executable),
        )
        .route(
            "/contexts/{hash}",
            head(uploads::head_context).get(uploads::get_context).put(uploads::put_context),
        )
        .route("/dashboard", post(dashboard_links::mint))
        .route("/runs", get(runs::list).post(runs::open))
        .route("/runs/{run}", get(runs::show))
        .route("/runs/{run}/batches/{seq}", put(batches::put).get(batches::get).delete(batches::cancel))
        .route("/runs/{run}/heartbeat", post(runs::heartbeat))
        .route("/runs/{run}/ack", post(runs::acknowledge))
        .route("/runs/{run}/cancel", post(runs::cancel))
        .route("/runs/{run}/done", post(runs::done))
        .route("/runs/{run}/logs", get(events::logs))
        .route("/runs/{run}/events", get(events::events))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        // The body is bounded, call by call, where its signature is checked.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(Arc::clone(gateway), auth::authenticate));
    Router::new()
        .nest("/api/v1", protocol)
        .route("/api/v1/openapi.json", get(openapi::openapi))
        .route("/healthz", get(ops::health))
        .route("/readyz", get(ops::ready))
        .route("/metrics", get(ops::metrics))
        .merge(dashboard::router(gateway))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(gateway), ops::measure))
        .layer(CatchPanicLayer::custom(ops::panicked))
        .with_state(Arc::clone(gateway))
}

async fn not_found(uri: Uri) -> Refusal {
    refuse(ProblemCode::NotFound, format!("there is nothing at {}", bounded(uri.path().to_owned(), 200)))
}

async fn not_allowed(method: Method) -> Refusal {
    refuse(ProblemCode::MethodNotAllowed, format!("{method} does nothing here"))
}
