//! The files that pages name: style, and htmx as it came (0BSD, see the licences beside it). Each is in the program, and
//! its address has a part of its hash, so that browsers may keep it for good.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use fastmap_backends::cloud::digest;

const FILES: [(&str, &str, &str); 4] = [
    ("dashboard.css", "text/css; charset=utf-8", include_str!("assets/dashboard.css")),
    ("htmx.js", "text/javascript; charset=utf-8", include_str!("assets/htmx-2.0.11.min.js")),
    ("htmx-sse.js", "text/javascript; charset=utf-8", include_str!("assets/htmx-ext-sse-2.2.4.min.js")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

static ADDRESSES: LazyLock<[String; 4]> = LazyLock::new(|| {
    FILES.map(|(name, _, text)| format!("assets/{name}?{}", &digest(text.as_bytes())[..12]))
});

/// Where a file is.
pub(super) fn address(name: &str) -> &'static str {
    FILES.iter().zip(ADDRESSES.iter()).find(|(file, _)| file.0 == name).map_or("", |(_, address)| address)
}

pub(super) async fn get(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|file| file.0 == name) {
        Some((_, kind, text)) => {
            let headers = [
                (header::CONTENT_TYPE, *kind),
                (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
            ];
            (headers, *text).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
