//! Uploads of executables and contexts: in parts that can be resumed, under the hash of what they are. Only what is
//! whole, hashes to its name and (an executable) could run here becomes visible, and only to the account that
//! sent it. What an upload may take on the disk is counted in the database before its first byte is written.
//!
//! Nothing here waits for the disk on a thread of the runtime: files are touched by `tokio::fs` or within
//! `blocking`.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{Path as Named, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use fastmap_backends::cloud::{BlobStatus, Problem, ProblemCode, is_digest};
use tracing::Instrument;

use crate::api::partial_uploads::{PartAt, Upload, length, remove};
use crate::app::Gateway;
use crate::app::caller::Caller;
use crate::problem::{Problems, Refusal, Reply, refuse};
use crate::store::Kind;

pub(crate) type Context = (State<Arc<Gateway>>, Extension<Caller>, Named<String>);

/// Whether an executable is there, in this account.
#[utoipa::path(head, path = "/executables/{hash}", tag = "uploads", params(("hash" = String, Path, description = "SHA-256")),
    responses((status = 200, description = "it is there"), (status = 404, description = "it is not"), Problems))]
pub(crate) async fn head_executable(context: Context) -> Result<StatusCode, Refusal> {
    head(Kind::Executable, context).await
}

/// Whether a context is there, in this account.
#[utoipa::path(head, path = "/contexts/{hash}", tag = "uploads", params(("hash" = String, Path, description = "SHA-256")),
    responses((status = 200, description = "it is there"), (status = 404, description = "it is not"), Problems))]
pub(crate) async fn head_context(context: Context) -> Result<StatusCode, Refusal> {
    head(Kind::Context, context).await
}

/// How much of an executable is there, in this account.
#[utoipa::path(get, path = "/executables/{hash}", tag = "uploads", params(("hash" = String, Path, description = "SHA-256")),
    responses((status = 200, body = BlobStatus), Problems))]
pub(crate) async fn get_executable(context: Context) -> Reply<BlobStatus> {
    get(Kind::Executable, context).await
}

/// How much of a context is there, in this account.
#[utoipa::path(get, path = "/contexts/{hash}", tag = "uploads", params(("hash" = String, Path, description = "SHA-256")),
    responses((status = 200, body = BlobStatus), Problems))]
pub(crate) async fn get_context(context: Context) -> Reply<BlobStatus> {
    get(Kind::Context, context).await
}

/// Uploads a part of an executable.
#[utoipa::path(put, path = "/executables/{hash}", tag = "uploads", params(("hash" = String, Path, description = "SHA-256"), PartAt),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, description = "it is whole", body = BlobStatus),
              (status = 202, description = "the part is there", body = BlobStatus), Problems))]
pub(crate) async fn put_executable(
    context: Context,
    at: Query<PartAt>,
    part: Bytes,
) -> Result<Response, Refusal> {
    upload(Kind::Executable, context, at.0, part).await
}

/// Uploads a part of a context.
#[utoipa::path(put, path = "/contexts/{hash}", tag = "uploads", params(("hash" = String, Path, description = "SHA-256"), PartAt),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, description = "it is whole", body = BlobStatus),
              (status = 202, description = "the part is there", body = BlobStatus), Problems))]
pub(crate) async fn put_context(
    context: Context,
    at: Query<PartAt>,
    part: Bytes,
) -> Result<Response, Refusal> {
    upload(Kind::Context, context, at.0, part).await
}

async fn head(kind: Kind, context: Context) -> Result<StatusCode, Refusal> {
    let status = get(kind, context).await?;
    Ok(if status.present { StatusCode::OK } else { StatusCode::NOT_FOUND })
}

pub(crate) async fn get(
    kind: Kind,
    (State(gateway), Extension(caller), Named(hash)): Context,
) -> Reply<BlobStatus> {
    check_hash(&hash)?;
    let present = gateway.has(caller.account, kind, &hash).await?;
    let offset = if present { 0 } else { length(&gateway.part(kind, caller.account, &hash)).await };
    Ok(Json(BlobStatus { present, offset }))
}

fn check_hash(hash: &str) -> Result<(), Refusal> {
    match is_digest(hash) {
        true => Ok(()),
        false => Err(refuse(ProblemCode::BadRequest, "a hash is 64 digits of lower-case hexadecimal")),
    }
}

/// A part that has arrived is dealt with to its end, also where its client does not wait for the answer: what is whole and
/// was never unpacked would be sent again.
pub(crate) async fn upload(
    kind: Kind,
    context: Context,
    at: PartAt,
    part: Bytes,
) -> Result<Response, Refusal> {
    let taken = tokio::spawn(take_part(kind, context, at, part).in_current_span()).await;
    taken.unwrap_or_else(|error| Err(refuse(ProblemCode::Internal, error.to_string())))
}

async fn take_part(
    kind: Kind,
    (State(gateway), Extension(caller), Named(hash)): Context,
    at: PartAt,
    part: Bytes,
) -> Result<Response, Refusal> {
    check_hash(&hash)?;
    if gateway.has(caller.account, kind, &hash).await? {
        return Ok(Json(BlobStatus { present: true, offset: 0 }).into_response());
    }
    gateway.serving()?;
    let most = gateway.most(kind);
    if at.total > zstd::zstd_safe::compress_bound(most as usize) as u64 || at.total == 0 {
        let detail = format!("a {} has at most {most} bytes, and an upload at least one", kind.as_str());
        return Err(refuse(ProblemCode::TooLarge, detail));
    }
    let path = gateway.part(kind, caller.account, &hash);
    let Some(_busy) = gateway.uploads.begin(&path) else {
        return Err(Problem::new(ProblemCode::TooManyRequests, "another part of it is on its way")
            .retry_after(1)
            .into());
    };
    let upload = Upload { kind, account: caller.account, hash: &hash, path: &path };
    let (offset, unpacked) = gateway.grow(&upload, at, part).await?;
    if offset < at.total {
        return Ok((StatusCode::ACCEPTED, Json(BlobStatus { present: false, offset })).into_response());
    }
    // It takes the processor: of one account one at a time.
    let Some(_alone) = gateway.uploads.begin(&gateway.unpacking(caller.account)) else {
        return Err(Problem::new(ProblemCode::TooManyRequests, "another upload of this account is unpacked")
            .retry_after(1)
            .into());
    };
    if let Some(rest) = gateway.uploads.rest_of(caller.account, Instant::now()) {
        let detail = "an upload of this account was unpacked and refused; the next one is taken later";
        return Err(Problem::new(ProblemCode::TooManyRequests, detail)
            .retry_after(rest.as_secs() + 1)
            .into());
    }
    let began = Instant::now();
    let stored = gateway.store_whole(&upload, unpacked).await;
    // Right or wrong, it is dealt with: what was wrong must be sent from its begin.
    remove(&path).await;
    let bytes = match stored {
        Ok(bytes) => bytes,
        Err(refusal) => {
            // Not where the service itself has failed.
            if refusal.0.status < 500 {
                gateway.uploads.was_in_vain(caller.account, began.elapsed(), Instant::now());
            }
            gateway.store.end_upload(caller.account, kind, &hash).await?;
            return Err(refusal);
        }
    };
    if !gateway.has(caller.account, kind, &hash).await? {
        // The last other account that had it has forgotten it in this moment.
        return Err(Problem::new(ProblemCode::TooManyRequests, "it was forgotten meanwhile; send it again")
            .retry_after(1)
            .into());
    }
    tracing::info!(account = caller.name, kind = kind.as_str(), hash, bytes, "uploaded");
    Ok(Json(BlobStatus { present: true, offset: 0 }).into_response())
}
