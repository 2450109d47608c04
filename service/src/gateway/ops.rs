//! For who runs the service: whether it lives, whether it is ready, what it has done; and the OpenAPI document. None of
//! it needs a token, none of it names a tenant.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use fastmap_backends::cloud::{HEADER_NONCE, Problem, ProblemCode};
use tracing::Instrument;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, Modify, OpenApi};

use super::connections::Connection;
use super::problem::refuse;
use super::{Gateway, SERVING, batches, blobs, runs, watch};
use crate::dashboard::sign_in;
use crate::store::StoreError;

/// Every answer that is a problem document: one for each status that there is a code for.
pub(crate) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let mut titles: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for code in ProblemCode::ALL {
            titles.entry(code.status().to_string()).or_default().push(code.code());
        }
        let response = |codes: Vec<&str>| {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
            let described = ResponseBuilder::new().description(codes.join(", "));
            RefOr::T(described.content("application/problem+json", content).build())
        };
        titles.into_iter().map(|(status, codes)| (status, response(codes))).collect()
    }
}

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let mut scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        scheme.description = Some(
            "The first half of the secret. Each request is signed as well; see docs/protocol.md.".to_owned(),
        );
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("token", SecurityScheme::Http(scheme));
    }
}

#[derive(OpenApi)]
#[openapi(
    info(title = "fastmap", description = "Runs batches of a program elsewhere. docs/protocol.md says how requests are signed and what batches are made of."),
    servers((url = "/api/v1")),
    modifiers(&Bearer),
    security(("token" = [])),
    paths(
        runs::auth, blobs::head_executable, blobs::get_executable, blobs::put_executable, blobs::head_context,
        blobs::get_context, blobs::put_context, runs::open, runs::list, runs::show, runs::heartbeat,
        runs::acknowledge, runs::cancel, runs::done, batches::put, batches::get, batches::cancel, watch::logs, watch::events,
        sign_in::mint
    ),
    components(schemas(Problem))
)]
struct Document;

pub(crate) async fn openapi() -> Response {
    // Made once: it takes a millisecond, and needs no token.
    static DOCUMENT: LazyLock<Bytes> =
        LazyLock::new(|| serde_json::to_vec(&Document::openapi()).unwrap_or_default().into());
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], DOCUMENT.clone()).into_response()
}

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
    // Nobody has signed it yet: what is no nonce is not written down.
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
