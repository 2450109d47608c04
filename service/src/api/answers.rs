//! Answers of batches: kept in files, found again, and sent.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fastmap_backends::cloud::ProblemCode;
use tokio::task::spawn_blocking;

use crate::answer_files::Position;
use crate::app::Gateway;
use crate::app::answer_content::{Check, Content, InFile};
use crate::app::caller::BodyDigest;
use crate::app::in_flight::EncodedAnswer;
use crate::problem::{Refusal, crowded, disk, problem_response, refuse};
use crate::store::Stored;

/// What the disk's cache takes without anybody noticing.
pub(super) const SMALL: usize = 256 << 10;

impl Gateway {
    /// An answer as it is sent to this account.
    pub(super) fn answer_response(&self, account: i64, answer: EncodedAnswer) -> Result<Response, Refusal> {
        let EncodedAnswer { status, content, digest } = answer;
        let body = content.body(&self.memory, account).ok_or_else(crowded)?;
        let mut response = match status == StatusCode::OK.as_u16() {
            true => {
                let kind = HeaderValue::from_static("application/octet-stream");
                ([(header::CONTENT_TYPE, kind)], body).into_response()
            }
            false => problem_response(status, body, None),
        };
        response.extensions_mut().insert(BodyDigest(digest));
        Ok(response)
    }

    /// A stored answer, if it is there as it was; a large one is looked at while it is sent.
    pub(super) async fn stored(&self, run: &str, status: u16, stored: Stored) -> Option<EncodedAnswer> {
        let Stored { digest, place } = stored;
        let (spool, run, digest) = (self.spool.clone(), run.to_owned(), Arc::<str>::from(digest));
        let wanted = Arc::clone(&digest);
        let content = spawn_blocking(move || {
            if place.length <= SMALL as u64 {
                return spool.get(&run, place, &wanted).map(Content::Memory);
            }
            let file = spool.open(&run, place)?;
            let check = Some(Check { spool, run, digest: wanted });
            Some(Content::File(Arc::new(InFile { file, place, check })))
        });
        Some(EncodedAnswer { status, content: content.await.ok()??, digest })
    }

    /// An answer that was kept a moment ago: of a large one the file alone, for clients may take their time.
    pub(super) async fn kept(&self, run: &str, place: Position, body: Bytes) -> Content {
        if body.len() <= SMALL {
            return Content::Memory(body);
        }
        let (spool, run) = (self.spool.clone(), run.to_owned());
        match spawn_blocking(move || spool.open(&run, place)).await {
            Ok(Some(file)) => Content::File(Arc::new(InFile { file, place, check: None })),
            // Its run has ended meanwhile, and its file is gone.
            _ => Content::Memory(body),
        }
    }

    /// Keeps an answer. A small one is in the disk's cache before another thread would have begun.
    pub(super) async fn keep(&self, run: &str, body: &Bytes) -> Result<Position, Refusal> {
        let kept = if body.len() <= SMALL {
            self.spool.put(run, body)
        } else {
            let (spool, run, body) = (self.spool.clone(), run.to_owned(), body.clone());
            let kept = spawn_blocking(move || spool.put(&run, &body)).await;
            kept.map_err(|error| refuse(ProblemCode::Internal, error.to_string()))?
        };
        kept.map_err(|error| disk(&error))
    }
}
