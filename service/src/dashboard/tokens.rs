//! The account's tokens: made, with the secret shown once, and revoked.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum_extra::extract::cookie::CookieJar;
use maud::{Markup, html};
use serde::Deserialize;

use super::page::{Sorry, csrf, frame, sure};
use super::sign_in::{Nothing, forget};
use super::sign_in_page::signed_out;
use super::visitor::{Posted, Visitor};
use super::{place, show};
use crate::app::Gateway;
use crate::clock::now_ms;
use crate::keys::new_secret;
use crate::store::{TokenInfo, Visit};

/// Tokens of an account that are good at a time, as far as pages make them.
const GOOD: usize = 100;
/// Tokens on the page.
const SHOWN: usize = 200;
/// Bytes of a label.
const LABEL: usize = 100;
/// Days for which a token may be made; 0: for good.
const DAYS: [(u32, &str); 5] =
    [(0, "for good"), (7, "7 days"), (30, "30 days"), (90, "90 days"), (365, "a year")];

#[derive(Debug, Deserialize)]
pub(super) struct NewToken {
    label: String,
    days: u32,
}

pub(super) async fn list(
    State(gateway): State<Arc<Gateway>>,
    Visitor(visit): Visitor,
) -> Result<Response, Sorry> {
    page(&gateway, &visit, None).await
}

/// Makes a token, and shows its secret: here, for it is nowhere else.
pub(super) async fn create(
    State(gateway): State<Arc<Gateway>>,
    posted: Posted<NewToken>,
) -> Result<Response, Sorry> {
    let Posted { visit, fields: NewToken { label, days } } = posted;
    let label = label.trim();
    if label.len() > LABEL || label.chars().any(char::is_control) {
        let words = format!("A label has at most {LABEL} bytes, and is one line.");
        return Err(Sorry::new(StatusCode::UNPROCESSABLE_ENTITY, words));
    }
    if !DAYS.iter().any(|(known, _)| *known == days) {
        return Err(Sorry::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "A token can't be valid for that many days.",
        ));
    }
    let now = now_ms();
    let expires = (days > 0).then(|| now + i64::from(days) * 24 * 3600 * 1000);
    let secret = new_secret().map_err(|error| Sorry::internal(&error))?;
    let (store, key) = (&gateway.store, &gateway.service_key);
    let Some(id) = store.add_own_token(visit.account, &secret, key, label, expires, GOOD).await? else {
        let words = format!("The account has {GOOD} tokens that are good; revoke one first.");
        return Err(Sorry::new(StatusCode::CONFLICT, words));
    };
    tracing::info!(account = visit.name, token = id, "a token was made by the dashboard");
    page(&gateway, &visit, Some((id, secret.reveal()))).await
}

pub(super) async fn revoke(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    jar: CookieJar,
    Path(id): Path<i64>,
    posted: Posted<Nothing>,
) -> Result<Response, Sorry> {
    let visit = posted.visit;
    if !gateway.store.revoke_own_token(visit.account, id).await? {
        return Err(Sorry::not_found());
    }
    tracing::info!(account = visit.name, token = id, "a token was revoked by the dashboard");
    if id == visit.token {
        return Ok((forget(jar, &gateway, &headers), signed_out()).into_response());
    }
    Ok(place::to("tokens").into_response())
}

fn is_good(token: &TokenInfo, now: i64) -> bool {
    token.revoked_ms.is_none() && token.expires_ms.is_none_or(|expires| expires > now)
}

async fn page(gateway: &Gateway, visit: &Visit, made: Option<(i64, &str)>) -> Result<Response, Sorry> {
    let mut tokens = gateway.store.tokens(Some(visit.account)).await?;
    let now = now_ms();
    // Good ones first, and the newest of them.
    tokens.sort_by_key(|token| (!is_good(token, now), -token.id));
    let content = html! {
        h1 { "Tokens" }
        @if let Some((id, secret)) = made {
            section.secret role="alert" {
                h2 { "Token " (id) " is made" }
                p { "Its secret is shown this once. Half of it signs requests and is kept by the service encrypted alone." }
                pre.command tabindex="0" { "export FASTMAP_SECRET=" span #secret { (secret) } }
            }
        }
        (form(visit))
        table.cards role="table" {
            thead role="rowgroup" {
                tr role="row" {
                    @for (name, number) in [("Number", true), ("Label", false), ("State", false), ("Made", false), ("Good until", false), ("", false)] {
                        @if name.is_empty() { td role="columnheader" { span.unseen { "Revoke" } } }
                        @else { th scope="col" role="columnheader" class=[number.then_some("number")] { (name) } }
                    }
                }
            }
            tbody role="rowgroup" { @for token in tokens.iter().take(SHOWN) { (row(visit, token, now)) } }
        }
        @if tokens.len() > SHOWN { p.quiet { (tokens.len() - SHOWN) " older ones are not shown." } }
    };
    Ok(frame(Some(visit), "Tokens", "Tokens", &content).into_response())
}

fn form(visit: &Visit) -> Markup {
    html! {
        form.new method="post" action="tokens" {
            (csrf(visit))
            label { "Label " input type="text" name="label" maxlength=(LABEL) placeholder="what it is for" autocomplete="off"; }
            label { "Good "
                select name="days" { @for (days, words) in DAYS { option value=(days) { (words) } } }
            }
            button.main type="submit" { "Make a token" }
        }
    }
}

fn row(visit: &Visit, token: &TokenInfo, now: i64) -> Markup {
    let state = match token {
        _ if token.revoked_ms.is_some() => "revoked",
        _ if is_good(token, now) => "good",
        _ => "expired",
    };
    html! {
        tr role="row" {
            td.number role="cell" data-label="Number" { (token.id) }
            td.name role="cell" data-label="Label" {
                bdi { @if token.label.is_empty() { span.quiet { "none" } } @else { (show::text(&token.label, LABEL)) } }
                @if token.id == visit.token { " " span.quiet { "(you are signed in by it)" } }
            }
            td role="cell" data-label="State" { span class=(format!("badge {state}")) { (state) } }
            td role="cell" data-label="Made" { (show::moment(token.created_ms)) }
            td role="cell" data-label="Good until" {
                @if let Some(expires) = token.expires_ms { (show::moment(expires)) } @else { span.quiet { "for good" } }
            }
            td role="cell" {
                @if state == "good" {
                    (sure(visit, &format!("tokens/{}/revoke", token.id), "Revoke …",
                        if token.id == visit.token { "What signs with it is refused within a second, and this session ends." }
                        else { "What signs with it is refused within a second, and sessions that it opened end." },
                        &format!("Revoke token {}", token.id)))
                }
            }
        }
    }
}
