//! Frame of each page, and the page of a refusal.

use std::fmt::Display;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use super::assets::address;
use super::{place, show};
use crate::store::{StoreError, Visit};

/// htmx without what our policy forbids (styles of its own, evaluation), and without copies of pages in the browser.
const HTMX: &str = r#"{"includeIndicatorStyles":false,"allowEval":false,"allowScriptTags":false,"selfRequestsOnly":true,"historyCacheSize":0,"refreshOnHistoryMiss":true}"#;

/// A whole page. `section`: which part of the dashboard it is in.
pub(super) fn frame(visit: Option<&Visit>, title: &str, section: &str, content: &Markup) -> Markup {
    let mut sections = vec![("Runs", "runs"), ("Credits", "credits"), ("Tokens", "tokens")];
    if visit.is_some_and(|visit| visit.operator) {
        sections.push(("Agents", "agents"));
    }
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                base href=(place::root());
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="htmx-config" content=(HTMX);
                title { (title) " · fastmap" }
                link rel="icon" type="image/svg+xml" href=(address("icon.svg"));
                link rel="stylesheet" href=(address("dashboard.css"));
                script src=(address("htmx.js")) defer {}
                script src=(address("htmx-sse.js")) defer {}
            }
            body {
                a.skip href=(format!("{}#content", place::this_page())) { "Skip to the content" }
                header.top {
                    a.brand href="runs" { "fastmap" }
                    @if let Some(visit) = visit {
                        nav aria-label="Dashboard" {
                            @for (name, href) in sections {
                                a href=(href) aria-current=[(name == section).then_some("page")] { (name) }
                            }
                        }
                        div.who {
                            span title="credits that the account has" { (show::credits(visit.balance)) " credits" }
                            b { (visit.name) }
                            form method="post" action="sign-out" {
                                (csrf(visit))
                                button type="submit" { "Sign out" }
                            }
                        }
                    }
                }
                main #content tabindex="-1" { (content) }
                footer { "fastmap " (env!("CARGO_PKG_VERSION")) " · times are UTC" }
            }
        }
    }
}

/// The field that each form of a session has.
pub(super) fn csrf(visit: &Visit) -> Markup {
    html! { input type="hidden" name="csrf" value=(visit.csrf); }
}

/// A button that asks once more before it does something, with or without scripts.
pub(super) fn sure(visit: &Visit, action: &str, label: &str, question: &str, yes: &str) -> Markup {
    html! {
        details.sure {
            summary { (label) }
            form method="post" action=(action) {
                (csrf(visit))
                p { (question) }
                button.danger type="submit" { (yes) }
            }
        }
    }
}

/// Why there is no such page.
#[derive(Debug)]
pub(super) struct Sorry(StatusCode, String);

impl Sorry {
    pub(super) fn new(status: StatusCode, words: impl Into<String>) -> Self {
        Sorry(status, words.into())
    }

    pub(super) fn not_found() -> Self {
        Sorry::new(StatusCode::NOT_FOUND, "There is nothing here, or not for this account.")
    }

    pub(super) fn forged() -> Self {
        Sorry::new(
            StatusCode::FORBIDDEN,
            "This form was not sent from a page of this session. Nothing was done; go back, reload the page, and try again.",
        )
    }

    pub(super) fn internal(error: &dyn Display) -> Self {
        tracing::error!(%error, "a page could not be made");
        Sorry::new(StatusCode::INTERNAL_SERVER_ERROR, "The service has made a mistake; its log says more.")
    }
}

impl From<StoreError> for Sorry {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(why) => Sorry::new(StatusCode::UNPROCESSABLE_ENTITY, why),
            other => {
                tracing::error!(error = %other, "the database fails");
                Sorry::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "The database does not answer; try again in a moment.",
                )
            }
        }
    }
}

impl IntoResponse for Sorry {
    fn into_response(self) -> Response {
        let title = self.0.canonical_reason().unwrap_or("Sorry");
        let content = html! {
            h1 { (title) }
            p role="alert" { (self.1) }
            p { a href="runs" { "To the runs" } }
        };
        (self.0, frame(None, title, "", &content)).into_response()
    }
}
