//! How handlers say no: a problem document becomes the answer.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fastmap_backends::cloud::{Problem, ProblemCode};

use crate::store::StoreError;

/// An answer other than what was asked for.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) Problem);

/// A refusal of that code.
pub(crate) fn refuse(code: ProblemCode, detail: impl Into<String>) -> Refusal {
    Refusal(Problem::new(code, detail))
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Refusal(problem)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(why) => refuse(ProblemCode::InvalidBody, why),
            // Its words may name paths and statements: they are for the operator.
            other => {
                tracing::error!(error = %other, "the database fails");
                metrics::counter!("fastmap_storage_failures_total", "of" => "database").increment(1);
                Refusal(Problem::new(ProblemCode::Storage, "the ledger can't be written now").retry_after(1))
            }
        }
    }
}

/// The disk fails.
pub(crate) fn disk(error: &std::io::Error) -> Refusal {
    tracing::error!(%error, "the disk fails");
    metrics::counter!("fastmap_storage_failures_total", "of" => "disk").increment(1);
    Refusal(Problem::new(ProblemCode::Storage, "nothing can be stored now").retry_after(5))
}

/// The queue takes no work, for that reason in its own words.
pub(crate) fn queue(why: &str) -> Refusal {
    metrics::counter!("fastmap_storage_failures_total", "of" => "queue").increment(1);
    let detail = format!("the queue takes no work now: {why}");
    Refusal(Problem::new(ProblemCode::Storage, detail).retry_after(2))
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        problem_response(self.0.status, Body::from(body), self.0.retry_after)
    }
}

/// An answer that is the bytes of a problem document.
pub(crate) fn problem_response(status: u16, body: Body, retry_after: Option<u64>) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
