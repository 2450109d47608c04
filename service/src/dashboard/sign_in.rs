//! Sign-in, from a terminal to a browser: a signed call mints a link, the link's page asks whether to sign in, and its
//! button uses the link up and opens a session. The page is not left out, although a link could sign in by itself: what
//! looks at links before people do (mail, chat) would use it up, a strict cookie is not sent behind a link on another
//! site's page, and a user who is sent another's link sees whose account it is.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum_extra::extract::cookie::{Cookie, CookieJar};
use fastmap_backends::cloud::{digest, hexadecimal};
use maud::html;
use serde::Deserialize;

use super::attempts::Attempts;
use super::cookies::{SESSION, by_tls, cookie, cookie_name};
use super::page::{Sorry, frame};
use super::place;
use super::sign_in_page::{signed_out, used_up};
use super::visitor::{Csrf, IDLE, LASTS, MOST, Posted, fields, from_elsewhere, same};
use crate::app::Gateway;
use crate::keys::random;
use crate::store::Session;

/// Ties the button to the browser that was shown it.
const FORM: &str = "fastmap-form";

/// Who signs in by plain HTTP does so on his own machine.
fn readable_by_others(gateway: &Gateway, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let host = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map_or(host, |(host, _)| host);
    let host = host.trim_matches(['[', ']']);
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    !by_tls(gateway, headers) && !loopback
}

/// A link's page: it asks, and changes nothing.
pub(super) async fn offer(
    State(gateway): State<Arc<Gateway>>,
    State(attempts): State<Arc<Attempts>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Path(code): Path<String>,
) -> Result<Response, Sorry> {
    if readable_by_others(&gateway, &headers) {
        return Err(Sorry::new(
            StatusCode::FORBIDDEN,
            "This page came by plain HTTP from another machine: what you see and say could be read on its way. Use https://.",
        ));
    }
    let Some(name) = gateway.store.link_account(&digest(code.as_bytes())).await? else {
        return Err(attempts.failed(peer.ip(), used_up()));
    };
    let form = hexadecimal(&random::<16>().map_err(|error| Sorry::internal(&error))?);
    let content = html! {
        h1 { "Sign in" }
        p { "This link signs this browser in to the account " b { (name) } "." }
        form method="post" action="sign-in" {
            input type="hidden" name="csrf" value=(digest(form.as_bytes()));
            input type="hidden" name="code" value=(code);
            button.main type="submit" autofocus { "Sign in to " (name) }
        }
        p.quiet { "The session ends when you sign out, after " (IDLE.as_secs() / 3600) " hour without a visit, after "
            (MOST.as_secs() / 3600) " hours in any case, and when the token that made the link is revoked." }
    };
    let jar = CookieJar::new().add(cookie(FORM, form, by_tls(&gateway, &headers)));
    Ok((jar, frame(None, "Sign in", "", &content)).into_response())
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

/// The button: the link is used up, and a session begins.
pub(super) async fn sign_in(
    State(gateway): State<Arc<Gateway>>,
    State(attempts): State<Arc<Attempts>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    jar: CookieJar,
    body: Bytes,
) -> Result<Response, Sorry> {
    let failed = |why| attempts.failed(peer.ip(), why);
    let tls = by_tls(&gateway, &headers);
    let shown = jar.get(&cookie_name(FORM, tls)).map(|cookie| digest(cookie.value().as_bytes()));
    let said = fields::<Csrf>(&body)?.csrf;
    if from_elsewhere(&headers) || !shown.is_some_and(|shown| same(&shown, &said)) {
        return Err(failed(Sorry::forged()));
    }
    let Code { code } = fields(&body)?;
    let link = digest(code.as_bytes());
    // Read first: a code that is no good does not come to the database's only writer.
    if gateway.store.link_account(&link).await?.is_none() {
        return Err(failed(used_up()));
    }
    let id = hexadecimal(&random::<32>().map_err(|error| Sorry::internal(&error))?);
    let csrf = hexadecimal(&random::<32>().map_err(|error| Sorry::internal(&error))?);
    let session = Session { hash: digest(id.as_bytes()), csrf };
    if !gateway.store.sign_in(&link, &session, LASTS).await? {
        return Err(failed(used_up()));
    }
    tracing::info!(peer = %peer.ip(), "signed in to the dashboard");
    let jar = jar.remove(Cookie::build(cookie_name(FORM, tls)).path("/"));
    Ok((jar.add(cookie(SESSION, id, tls)), place::to("runs")).into_response())
}

/// The fields of a form that is a button alone.
#[derive(Debug, Deserialize)]
pub(super) struct Nothing {}

/// Ends the session.
pub(super) async fn sign_out(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    jar: CookieJar,
    posted: Posted<Nothing>,
) -> Result<Response, Sorry> {
    gateway.store.sign_out(&posted.visit.session).await?;
    Ok((forget(jar, &gateway, &headers), signed_out()).into_response())
}

/// The browser forgets its session.
pub(super) fn forget(jar: CookieJar, gateway: &Gateway, headers: &HeaderMap) -> CookieJar {
    jar.remove(Cookie::build(cookie_name(SESSION, by_tls(gateway, headers))).path("/"))
}
