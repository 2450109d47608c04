//! Visitor of a page, by a session's cookie, and proof that a form was made for that session. A page that takes a
//! `Visitor` is seen by that session alone; a change takes a `Posted`, which is one that has sent the session's own token.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum_extra::extract::cookie::CookieJar;
use fastmap_backends::cloud::digest;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::cookies::{SESSION, by_script, by_tls, cookie_name};
use super::page::Sorry;
use super::state::Pages;
use crate::app::connections::Connection;
use crate::store::{Lasts, Visit};

/// A session ends when nothing is asked for so long.
pub(super) const IDLE: Duration = Duration::from_hours(1);
/// It ends after this in any case.
pub(super) const MOST: Duration = Duration::from_hours(12);

pub(super) const LASTS: Lasts = Lasts { idle_ms: IDLE.as_millis() as i64, most_ms: MOST.as_millis() as i64 };

/// Somebody who is signed in.
#[derive(Debug)]
pub(super) struct Visitor(pub(super) Visit);

/// The fields of a form that somebody who is signed in has sent from our own page.
#[derive(Debug)]
pub(super) struct Posted<T> {
    pub(super) visit: Visit,
    pub(super) fields: T,
}

/// A field of each form.
#[derive(Deserialize)]
pub(super) struct Csrf {
    pub(super) csrf: String,
}

impl FromRequestParts<Pages> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, pages: &Pages) -> Result<Self, Response> {
        let gateway = &pages.gateway;
        let jar = CookieJar::from_headers(&parts.headers);
        let name = cookie_name(SESSION, by_tls(gateway, &parts.headers));
        let Some(cookie) = jar.get(&name) else {
            return Err(super::sign_in_page::first(&parts.headers));
        };
        let session = digest(cookie.value().as_bytes());
        let used = !by_script(&parts.headers);
        match gateway.store.visit(&session, LASTS, used).await {
            Ok(Some(visit)) => {
                if let Some(connection) = parts.extensions.get::<Arc<Connection>>() {
                    connection.is_of(visit.account);
                }
                Ok(Visitor(visit))
            }
            Ok(None) => Err(super::sign_in_page::first(&parts.headers)),
            Err(error) => Err(Sorry::from(error).into_response()),
        }
    }
}

/// A form of another site's page, as far as browsers report it.
pub(super) fn from_elsewhere(headers: &HeaderMap) -> bool {
    let get = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = headers.get("sec-fetch-site") {
        return site != "same-origin";
    }
    match get(header::ORIGIN) {
        Some(origin) => origin.split_once("://").map(|(_, host)| host) != get(header::HOST),
        None => false,
    }
}

/// The fields of a form.
pub(super) fn fields<T: DeserializeOwned>(body: &Bytes) -> Result<T, Sorry> {
    serde_urlencoded::from_bytes(body)
        .map_err(|_| Sorry::new(StatusCode::UNPROCESSABLE_ENTITY, "This form can't be read."))
}

/// Compares secrets in a time that says nothing of where they differ.
pub(super) fn same(one: &str, other: &str) -> bool {
    digest(one.as_bytes()) == digest(other.as_bytes())
}

impl<T: DeserializeOwned> FromRequest<Pages> for Posted<T> {
    type Rejection = Response;

    async fn from_request(request: Request, pages: &Pages) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let Visitor(visit) = Visitor::from_request_parts(&mut parts, pages).await?;
        let forged = from_elsewhere(&parts.headers);
        let body = Bytes::from_request(Request::from_parts(parts, body), pages).await;
        let body = body.map_err(IntoResponse::into_response)?;
        let ours = fields::<Csrf>(&body).is_ok_and(|form| same(&form.csrf, &visit.csrf));
        if forged || !ours {
            tracing::warn!(account = visit.name, "a form that is not this session's was refused");
            return Err(Sorry::forged().into_response());
        }
        Ok(Posted { visit, fields: fields(&body).map_err(IntoResponse::into_response)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_other_sites_are_known_by_what_browsers_say() {
        let elsewhere = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, header::HeaderValue::from_static(value));
            }
            from_elsewhere(&headers)
        };
        assert!(elsewhere(&[("sec-fetch-site", "cross-site")]));
        assert!(elsewhere(&[("sec-fetch-site", "same-site"), ("origin", "http://a"), ("host", "a")]));
        assert!(elsewhere(&[("origin", "http://b:1"), ("host", "a:1")]));
        assert!(elsewhere(&[("origin", "null"), ("host", "a")]));
        assert!(!elsewhere(&[("sec-fetch-site", "same-origin")]));
        assert!(!elsewhere(&[("origin", "http://a:1"), ("host", "a:1")]));
        assert!(!elsewhere(&[("host", "a:1")]));
    }
}
