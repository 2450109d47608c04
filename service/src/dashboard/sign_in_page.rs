//! Pages for visitors who are not signed in.

use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use maud::html;

use super::cookies::by_script;
use super::page::{Sorry, frame};
use crate::api::dashboard_links::LINK;

/// Says to a visitor how to sign in.
pub(super) fn first(headers: &HeaderMap) -> Response {
    let words = html! {
        h1 { "Sign in" }
        p { "In a terminal where " code { "FASTMAP_CLOUD_URL" } " and " code { "FASTMAP_SECRET" } " are set, say" }
        pre.command { "fastmap dashboard" }
        p { "and open the link that it prints. It is good once, and for " (LINK.as_secs() / 60) " minutes; your secret "
            "stays on your machine." }
        p.quiet { "Signed in already, and came here by a link of another site? "
            a href="runs" { "Go on" } "." }
    };
    let mut response = (StatusCode::UNAUTHORIZED, frame(None, "Sign in", "", &words)).into_response();
    if by_script(headers) {
        response.headers_mut().insert("hx-refresh", HeaderValue::from_static("true"));
    }
    response
}

/// The page about signing in.
pub(super) async fn how(headers: HeaderMap) -> Response {
    first(&headers)
}

pub(super) fn used_up() -> Sorry {
    Sorry::new(
        StatusCode::GONE,
        "This link was used before, or its time is over. Get another: fastmap dashboard",
    )
}

/// What who has signed out sees.
pub(super) fn signed_out() -> maud::Markup {
    let words = html! {
        h1 { "Signed out" }
        p { "To come back, say " code { "fastmap dashboard" } " and open the link that it prints." }
    };
    frame(None, "Signed out", "", &words)
}
