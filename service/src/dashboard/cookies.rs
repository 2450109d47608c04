//! Cookies of the pages, and how a browser came here.

use axum::http::{HeaderMap, header};
use axum_extra::extract::cookie::{Cookie, SameSite};

use crate::app::Gateway;

/// Whether the browser came by TLS: ended here, or by a proxy that says so. Who lies about it loses his own cookie.
pub(super) fn by_tls(gateway: &Gateway, headers: &HeaderMap) -> bool {
    let forwarded = headers.get("x-forwarded-proto").is_some_and(|scheme| scheme == "https");
    gateway.config.tls.is_some() || forwarded
}

/// A cookie's whole name: by TLS, one that no other host or plain page can set.
pub(super) fn cookie_name(name: &str, tls: bool) -> String {
    if tls { format!("__Host-{name}") } else { name.to_owned() }
}

/// A cookie for this site's own requests, out of the reach of scripts.
pub(super) fn cookie(name: &str, value: String, tls: bool) -> Cookie<'static> {
    Cookie::build((cookie_name(name, tls), value))
        .path("/")
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(tls)
        .build()
}

/// The session's cookie.
pub(super) const SESSION: &str = "fastmap";

/// Asked by a script of ours: no user need be there.
pub(super) fn by_script(headers: &HeaderMap) -> bool {
    headers.contains_key("hx-request")
        || headers.get(header::ACCEPT).is_some_and(|accept| accept == "text/event-stream")
}
