//! Routes of the pages, and what all their answers carry.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::{DefaultBodyLimit, OriginalUri, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use tower_http::timeout::TimeoutLayer;

use super::page::Sorry;
use super::state::Pages;
use super::{agents, assets, credits, live, place, run, runs, sign_in, sign_in_page, tokens};
use crate::app::Gateway;
use crate::app::connections::Connection;

/// Bytes of a form.
const FORM: usize = 16 * 1024;
/// A form must have come, and a page be made, within this. What goes on behind the head of an answer is not meant.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pages, below `/dashboard`.
pub(crate) fn router<S: Clone + Send + Sync + 'static>(gateway: &Arc<Gateway>) -> Router<S> {
    let pages = Router::new()
        .route("/", get(|| async { place::to("runs") }))
        .route("/sign-in", get(sign_in_page::how).post(sign_in::sign_in))
        .route("/sign-in/{code}", get(sign_in::offer))
        .route("/sign-out", post(sign_in::sign_out))
        .route("/runs", get(runs::list))
        .route("/runs/{run}", get(run::show))
        .route("/runs/{run}/failures", get(run::all_failures))
        .route("/runs/{run}/events", get(live::events))
        .route("/runs/{run}/cancel", post(run::cancel))
        .route("/tokens", get(tokens::list).post(tokens::create))
        .route("/tokens/{id}/revoke", post(tokens::revoke))
        .route("/credits", get(credits::show))
        .route("/agents", get(agents::list))
        .route("/assets/{name}", get(assets::get))
        .fallback(|| async { Sorry::not_found() })
        .layer(DefaultBodyLimit::max(FORM))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, PATIENCE))
        .layer(middleware::from_fn_with_state(Arc::clone(gateway), guard))
        .with_state(Pages::new(gateway));
    Router::new().nest(place::ROOT, pages).route("/", get(|| async { Redirect::to("dashboard/runs") }))
}

async fn count(gateway: &Gateway, account: i64, response: Response) -> Response {
    // One that goes on is made piece by piece.
    if response.body().size_hint().exact().is_none() {
        return response;
    }
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap_or_default();
    match gateway.memory.counted(account, bytes) {
        Some(bytes) => Response::from_parts(parts, Body::from(bytes)),
        None => {
            let words = "Too many bytes of this account are on their way at once; try again in a moment.";
            Sorry::new(StatusCode::TOO_MANY_REQUESTS, words).into_response()
        }
    }
}

/// What each answer allows browsers: nothing but our own scripts, styles and forms, and no page around ours.
const HEADERS: [(header::HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         form-action 'self'; frame-ancestors 'none'; base-uri 'self'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // Addresses have codes and names of runs in them.
    (header::REFERRER_POLICY, "same-origin"),
    (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (header::HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

async fn guard(
    State(gateway): State<Arc<Gateway>>,
    OriginalUri(uri): OriginalUri,
    request: Request,
    next: Next,
) -> Response {
    let place = uri.path_and_query().map_or("", |place| place.as_str());
    place::at(place, answer(&gateway, request, next)).await
}

async fn answer(gateway: &Gateway, request: Request, next: Next) -> Response {
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let mut response = next.run(request).await;
    // Pages of an account count for it until they are sent; what strangers see is small, or in the program.
    if let Some(account) = connection.and_then(|connection| connection.account()) {
        response = count(gateway, account, response).await;
    }
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // What was seen by one who is signed in is not in the cache of who comes next.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
