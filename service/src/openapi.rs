//! OpenAPI document of the protocol.

use std::sync::LazyLock;

use axum::body::Bytes;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use fastmap_backends::cloud::Problem;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::api::{batches, dashboard_links, events, runs, uploads};

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
        runs::auth, uploads::head_executable, uploads::get_executable, uploads::put_executable, uploads::head_context,
        uploads::get_context, uploads::put_context, runs::open, runs::list, runs::show, runs::heartbeat,
        runs::acknowledge, runs::cancel, runs::done, batches::put, batches::get, batches::cancel, events::logs, events::events,
        dashboard_links::mint
    ),
    components(schemas(Problem))
)]
pub(crate) struct Document;

pub(crate) async fn openapi() -> Response {
    // Made once: it takes a millisecond, and needs no token.
    static DOCUMENT: LazyLock<Bytes> =
        LazyLock::new(|| serde_json::to_vec(&Document::openapi()).unwrap_or_default().into());
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], DOCUMENT.clone()).into_response()
}
