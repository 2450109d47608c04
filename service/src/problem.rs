//! Refusals of handlers: a problem document becomes the answer.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fastmap_backends::cloud::{Problem, ProblemCode};
use utoipa::IntoResponses;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};

use crate::store::StoreError;
use crate::text;
use crate::text::bounded;

/// Seconds after which a client tries again at the latest, whatever an agent says.
const LONGEST_PAUSE: u64 = 60;

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

/// The run is over; if it failed, the reason is what there is to say.
pub(crate) fn ended(state: &str, reason: Option<&str>) -> Refusal {
    let Some(reason) = reason else {
        return refuse(ProblemCode::RunEnded, format!("the run is {state}; open another"));
    };
    match serde_json::from_str::<Problem>(reason) {
        Ok(problem) => written_by_strangers(problem).into(),
        // Words of the service's own, or what is left of a document that was longer than is kept.
        Err(_) => {
            let reason = bounded(reason.to_owned(), text::DETAIL);
            refuse(ProblemCode::RunEnded, format!("the run is {state}; open another: {reason}"))
        }
    }
}

pub(crate) fn lost() -> Refusal {
    Problem::new(ProblemCode::AgentLost, "the agents that had it are gone").retry_after(1).into()
}

pub(crate) fn crowded() -> Refusal {
    let detail = "too many bytes of this account are on their way at once";
    Problem::new(ProblemCode::TooManyRequests, detail).retry_after(1).into()
}

pub(crate) fn stopping() -> Refusal {
    let detail = "this service is shutting down; try again when it is back";
    Refusal(fastmap_backends::cloud::Problem::new(ProblemCode::ShuttingDown, detail).retry_after(2))
}

/// An answer as JSON.
pub(crate) type Reply<T> = Result<Json<T>, Refusal>;

/// Every answer that is a problem document: one for each status that there is a code for.
pub(crate) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let mut titles: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for code in ProblemCode::ALL {
            titles.entry(code.status().to_string()).or_default().push(code.code());
        }
        let response = |codes: Vec<&str>| {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
            let described = ResponseBuilder::new().description(codes.join(", "));
            RefOr::T(described.content("application/problem+json", content).build())
        };
        titles.into_iter().map(|(status, codes)| (status, response(codes))).collect()
    }
}

/// A problem that an agent reports, in the words of a program: its texts are bounded, and all else follows from
/// its code.
pub(crate) fn written_by_strangers(problem: Problem) -> Problem {
    let code = problem.known().unwrap_or(ProblemCode::WorkerFailed);
    let Problem { detail, failure, retry_after, .. } = problem;
    let failure = failure.map(|failure| bounded(failure, text::NAME));
    let retry_after = retry_after.map(|seconds| seconds.min(LONGEST_PAUSE));
    Problem { failure, retry_after, ..Problem::new(code, bounded(detail, text::DETAIL)) }
}
