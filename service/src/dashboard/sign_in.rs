//! From a terminal to a browser: a signed call mints a link, the link's page asks whether to sign in, and its button uses
//! the link up and opens a session. The page is not left out, although a link could sign in by itself: what looks at links
//! before people do (mail, chat) would use it up, a strict cookie is not sent behind a link on another site's page, and
//! whoever is sent somebody else's link sees whose account it is.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use axum_extra::extract::cookie::{Cookie, CookieJar};
use fastmap_backends::cloud::{DashboardLink, Problem, ProblemCode, digest, hexadecimal};
use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use maud::html;
use serde::Deserialize;

use super::page::{Sorry, frame};
use super::place;
use super::visitor::{
    Csrf, IDLE, LASTS, MOST, Posted, SESSION, by_script, by_tls, cookie, cookie_name, fields, from_elsewhere,
    same,
};
use crate::gateway::Gateway;
use crate::gateway::auth::Caller;
use crate::gateway::connections::network;
use crate::gateway::nonces::REMEMBER;
use crate::gateway::problem::{Refusal, refuse};
use crate::keys::random;
use crate::store::{Session, Store, StoreError, now_ms};

/// A link is good for so long.
pub(crate) const LINK: Duration = Duration::from_mins(10);
/// Codes and forms that are no good that one address may send in a minute.
const ATTEMPTS: NonZeroU32 = NonZeroU32::new(60).expect("not 0");
/// Links that an account may mint in a minute: each is remembered by its nonce for as long as that could come
/// again.
const MINTS: NonZeroU32 = NonZeroU32::new(60).expect("not 0");
/// Addresses that are remembered before those that have asked for nothing of late are forgotten.
const ADDRESSES: usize = 10_000;
/// Ties the button to the browser that was shown it.
const FORM: &str = "fastmap-form";

/// How often addresses have tried in vain to sign in. A good code is never counted nor refused: strangers may
/// share the address of the person that it was made for.
#[derive(Debug)]
pub(super) struct Attempts(RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>);

impl Default for Attempts {
    fn default() -> Self {
        Attempts(RateLimiter::hashmap(Quota::per_minute(ATTEMPTS)))
    }
}

/// How often accounts have minted links to the dashboard.
#[derive(Debug)]
pub(super) struct Mints(RateLimiter<i64, HashMapStateStore<i64>, DefaultClock>);

impl Default for Mints {
    fn default() -> Self {
        Mints(RateLimiter::hashmap(Quota::per_minute(MINTS)))
    }
}

impl Mints {
    fn admit(&self, account: i64) -> Result<(), Refusal> {
        if self.0.len() > ADDRESSES {
            self.0.retain_recent();
        }
        self.0.check_key(&account).map_err(|_| {
            let detail = format!("more than {MINTS} links to the dashboard in a minute");
            Problem::new(ProblemCode::TooManyRequests, detail).retry_after(5).into()
        })
    }
}

impl Attempts {
    /// Counts an attempt in vain; gives what it is answered.
    fn failed(&self, address: IpAddr, why: Sorry) -> Sorry {
        if self.0.len() > ADDRESSES {
            self.0.retain_recent();
        }
        match self.0.check_key(&network(address)) {
            Ok(()) => why,
            Err(_) => Sorry::new(
                StatusCode::TOO_MANY_REQUESTS,
                "Too many attempts to sign in from your address; try again in a minute.",
            ),
        }
    }
}

/// Mints a link for a token; gives its path.
///
/// # Errors
/// If the database fails.
pub(crate) async fn link(store: &Store, token: i64) -> Result<String, StoreError> {
    let code = random::<24>().map_err(|error| StoreError::Refused(format!("no random bytes: {error}")))?;
    let code = hexadecimal(&code);
    store.add_link(&digest(code.as_bytes()), token, now_ms() + LINK.as_millis() as i64).await?;
    Ok(format!("/dashboard/sign-in/{code}"))
}

/// A link that signs a browser in to this account, once.
#[utoipa::path(post, path = "/dashboard", tag = "account",
    responses((status = 200, body = DashboardLink), crate::gateway::ops::Problems))]
pub(crate) async fn mint(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<DashboardLink>, Refusal> {
    gateway.dashboard.mints.admit(caller.account)?;
    // Each time it comes it does something: it comes once, at whichever gateway.
    let forgotten = now_ms() - REMEMBER.as_millis() as i64;
    if !gateway.store.is_new(caller.token, &caller.nonce, forgotten).await? {
        return Err(refuse(
            ProblemCode::NonceRepeated,
            "this nonce was used before; each request needs its own",
        ));
    }
    let path = link(&gateway.store, caller.token).await.map_err(|error| match error {
        StoreError::Refused(why) => refuse(ProblemCode::Internal, why),
        other => other.into(),
    })?;
    tracing::info!(account = caller.name, "a link to the dashboard was made");
    Ok(Json(DashboardLink { path, seconds: LINK.as_secs() }))
}

/// Who is not signed in is told how to.
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

fn used_up() -> Sorry {
    Sorry::new(
        StatusCode::GONE,
        "This link was used before, or its time is over. Get another: fastmap dashboard",
    )
}

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
        return Err(gateway.dashboard.attempts.failed(peer.ip(), used_up()));
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
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    jar: CookieJar,
    body: Bytes,
) -> Result<Response, Sorry> {
    let failed = |why| gateway.dashboard.attempts.failed(peer.ip(), why);
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

/// What who has signed out sees.
pub(super) fn signed_out() -> maud::Markup {
    let words = html! {
        h1 { "Signed out" }
        p { "To come back, say " code { "fastmap dashboard" } " and open the link that it prints." }
    };
    frame(None, "Signed out", "", &words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_counted_by_network_and_run_out() {
        let attempts = Attempts::default();
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let refused = |text: &str| {
            let answer = attempts.failed(address(text), used_up()).into_response();
            answer.status() == StatusCode::TOO_MANY_REQUESTS
        };
        assert_eq!((0..100).filter(|_| !refused("2001:db8::1")).count(), 60);
        assert!(refused("2001:db8::2"), "the same network");
        assert!(!refused("2001:db8:0:1::2"));
        assert!(!refused("192.0.2.1"));
        assert_eq!(network(address("::ffff:192.0.2.1")), address("192.0.2.1"));
    }
}
