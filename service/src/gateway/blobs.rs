//! Uploads of executables and contexts: in parts that can be resumed, under the hash of what they are. Only what is
//! whole, hashes to its name and (an executable) could run here becomes visible, and only to the account that sent it.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use axum::extract::{Path as Named, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use fastmap_backends::cloud::{BlobStatus, Problem, ProblemCode, hexadecimal, is_digest};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::task::spawn_blocking;
use tracing::Instrument;
use utoipa::IntoParams;

use super::auth::Caller;
use super::problem::{Refusal, disk, refuse};
use super::{Gateway, Reply};
use crate::agent::check_executable;
use crate::store::{Blob, Kind};

/// Parts of an upload that nobody goes on with are kept for so long; and what a service has left that was killed while it
/// unpacked one.
const STALE: Duration = Duration::from_hours(1);
/// What the names of files begin with that are being unpacked.
const BEGUN: &str = ".begun-";

/// Uploads to which somebody is writing now: one at a time each.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    busy: Mutex<HashSet<PathBuf>>,
    /// When those that nobody goes on with were last looked for.
    looked: Mutex<Option<SystemTime>>,
}

struct Busy<'a>(&'a Uploads, PathBuf);

impl Uploads {
    fn begin(&self, path: &Path) -> Option<Busy<'_>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.insert(path.to_owned()).then(|| Busy(self, path.to_owned()))
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// Where a part belongs.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
pub(crate) struct PartAt {
    /// Bytes that stand before this part in the zstd frame that is the upload.
    offset: u64,
    /// Bytes of the whole frame.
    total: u64,
}

type Context = (State<Arc<Gateway>>, Extension<Caller>, Named<String>);

/// Whether an executable is there, in this account.
#[utoipa::path(head, path = "/executables/{hash}", tag = "uploads", params(("hash" = String, Path, description = "SHA-256")),
    responses((status = 200, description = "it is there"), (status = 404, description = "it is not"), super::ops::Problems))]
pub(crate) async fn head_executable(context: Context) -> Result<StatusCode, Refusal> {
    head(Kind::Executable, context).await
}

/// Whether a context is there, in this account.
#[utoipa::path(head, path = "/contexts/{hash}", tag = "uploads", params(("hash" = String, Path, description = "SHA-256")),
    responses((status = 200, description = "it is there"), (status = 404, description = "it is not"), super::ops::Problems))]
pub(crate) async fn head_context(context: Context) -> Result<StatusCode, Refusal> {
    head(Kind::Context, context).await
}

/// How much of an executable is there, in this account.
#[utoipa::path(get, path = "/executables/{hash}", tag = "uploads", params(("hash" = String, Path, description = "SHA-256")),
    responses((status = 200, body = BlobStatus), super::ops::Problems))]
pub(crate) async fn get_executable(context: Context) -> Reply<BlobStatus> {
    get(Kind::Executable, context).await
}

/// How much of a context is there, in this account.
#[utoipa::path(get, path = "/contexts/{hash}", tag = "uploads", params(("hash" = String, Path, description = "SHA-256")),
    responses((status = 200, body = BlobStatus), super::ops::Problems))]
pub(crate) async fn get_context(context: Context) -> Reply<BlobStatus> {
    get(Kind::Context, context).await
}

/// Uploads a part of an executable.
#[utoipa::path(put, path = "/executables/{hash}", tag = "uploads", params(("hash" = String, Path, description = "SHA-256"), PartAt),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, description = "it is whole", body = BlobStatus),
              (status = 202, description = "the part is there", body = BlobStatus), super::ops::Problems))]
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
              (status = 202, description = "the part is there", body = BlobStatus), super::ops::Problems))]
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

async fn get(kind: Kind, (State(gateway), Extension(caller), Named(hash)): Context) -> Reply<BlobStatus> {
    check_hash(&hash)?;
    let present = gateway.has(caller.account, kind, &hash).await?;
    let offset = if present { 0 } else { length(&gateway.part(kind, caller.account, &hash)) };
    Ok(Json(BlobStatus { present, offset }))
}

fn check_hash(hash: &str) -> Result<(), Refusal> {
    match is_digest(hash) {
        true => Ok(()),
        false => Err(refuse(ProblemCode::BadRequest, "a hash is 64 digits of lower-case hexadecimal")),
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// A part that has arrived is dealt with to its end, also where its client does not wait for the answer: what is whole and
/// was never unpacked would be sent again.
async fn upload(kind: Kind, context: Context, at: PartAt, part: Bytes) -> Result<Response, Refusal> {
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
    let offset = gateway.grow(caller.account, &path, at, part).await?;
    if offset < at.total {
        return Ok((StatusCode::ACCEPTED, Json(BlobStatus { present: false, offset })).into_response());
    }
    // How much it is unpacked, nobody knows before: of one account one at a time.
    let Some(_alone) = gateway.uploads.begin(&gateway.unpacking(caller.account)) else {
        return Err(Problem::new(ProblemCode::TooManyRequests, "another upload of this account is unpacked")
            .retry_after(1)
            .into());
    };
    let unpacked = {
        let (path, hash, target) = (path.clone(), hash.clone(), gateway.blob_file(kind, &hash));
        blocking(move || unpack(kind, &path, &hash, &target, most)).await
    };
    // Right or wrong, it is dealt with: what was wrong must be sent from its begin.
    let _absent = fs::remove_file(&path);
    let (unpacked, blob) = unpacked??;
    gateway.need_room(caller.account, blob.size).await?;
    // Another account may have brought the same; it is the same, by its hash.
    unpacked.persist(gateway.blob_file(kind, &hash)).map_err(|error| disk(&error.error))?;
    gateway.store.add_blob(caller.account, kind, &hash, &blob).await?;
    if !gateway.has(caller.account, kind, &hash).await? {
        // The last other account that had it has forgotten it in this moment.
        return Err(Problem::new(ProblemCode::TooManyRequests, "it was forgotten meanwhile; send it again")
            .retry_after(1)
            .into());
    }
    tracing::info!(account = caller.name, kind = kind.as_str(), hash, bytes = blob.size, "uploaded");
    Ok(Json(BlobStatus { present: true, offset: 0 }).into_response())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    spawn_blocking(work).await.map_err(|error| refuse(ProblemCode::Internal, error.to_string()))
}

/// Appends a part to what is there, if that has so many bytes. Gives how many it has.
fn append(path: &Path, there: u64, part: &[u8]) -> io::Result<u64> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    // Another gateway may have the folder, too.
    file.lock()?;
    let before = file.metadata()?.len();
    if before != there {
        return Ok(before);
    }
    let written = file.write_all(part);
    if written.is_err() {
        // What is there of the part would be taken for its begin.
        let _unchanged = file.set_len(before);
    }
    written.map(|()| before)
}

/// Unpacks an upload that is whole, of at most `most` bytes, beside where it belongs, and checks it.
fn unpack(
    kind: Kind,
    path: &Path,
    hash: &str,
    target: &Path,
    most: u64,
) -> Result<(NamedTempFile, Blob), Refusal> {
    let unreadable = |error: &io::Error| {
        refuse(ProblemCode::InvalidBody, format!("the upload is no zstd frame that is whole: {error}"))
    };
    let folder = target.parent().unwrap_or(Path::new("."));
    let begun = tempfile::Builder::new().prefix(BEGUN).tempfile_in(folder);
    let mut unpacked = begun.map_err(|error| disk(&error))?;
    let packed = File::open(path).map_err(|error| disk(&error))?;
    let mut decoder = zstd::stream::read::Decoder::new(packed).map_err(|error| unreadable(&error))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let read = decoder.read(&mut buffer).map_err(|error| unreadable(&error))?;
        if read == 0 {
            break;
        }
        size += read as u64;
        if size > most {
            let detail = format!("a {} has at most {most} bytes", kind.as_str());
            return Err(refuse(ProblemCode::TooLarge, detail));
        }
        hasher.update(&buffer[..read]);
        unpacked.write_all(&buffer[..read]).map_err(|error| disk(&error))?;
    }
    let found = hexadecimal(&hasher.finalize());
    if found != hash {
        return Err(refuse(ProblemCode::HashMismatch, format!("what was uploaded hashes to {found}")));
    }
    let identity = match kind {
        Kind::Executable => Some(
            check_executable(unpacked.path(), hash)
                .map_err(|unfit| refuse(ProblemCode::NotExecutable, unfit.to_string()))?,
        ),
        Kind::Context => None,
    };
    // In a jail it is another user that runs it; the folder here is closed to all others.
    let mode = if kind == Kind::Executable { 0o555 } else { 0o400 };
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    unpacked.as_file().set_permissions(permissions).map_err(|error| disk(&error))?;
    unpacked.as_file().sync_all().map_err(|error| disk(&error))?;
    Ok((unpacked, Blob { size, identity }))
}

impl Gateway {
    /// Adds a part to what is there of an upload, and says how many bytes that is then.
    async fn grow(&self, account: i64, path: &Path, at: PartAt, part: Bytes) -> Result<u64, Refusal> {
        let bytes = part.len() as u64;
        let misplaced = |there: u64| {
            let detail =
                format!("{there} bytes of {} are there; the part is {bytes} from {} on", at.total, at.offset);
            Refusal(Problem { offset: Some(there), ..Problem::new(ProblemCode::UploadOffset, detail) })
        };
        let there = length(path);
        if there == at.total {
            // The service ended before it was unpacked.
            return Ok(there);
        }
        if there > at.total {
            // Begun by another version of the client, whose frame is another.
            fs::remove_file(path).map_err(|error| disk(&error))?;
            return Err(misplaced(0));
        }
        if at.offset != there || there + bytes > at.total || part.is_empty() {
            return Err(misplaced(there));
        }
        self.need_room(account, bytes).await?;
        let to = path.to_owned();
        let before = blocking(move || append(&to, there, &part)).await?.map_err(|error| disk(&error))?;
        if before != there {
            return Err(misplaced(before));
        }
        Ok(there + bytes)
    }

    /// Sees to it that an account may store so many bytes more: what it has uploaded, and what is under way, count. What it has
    /// not used for longest is forgotten for that.
    async fn need_room(&self, account: i64, more: u64) -> Result<(), Refusal> {
        let begin = format!("{account}-");
        let theirs = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(&begin);
        let entries = fs::read_dir(self.config.data.uploads()).map_err(|error| disk(&error))?;
        let parts: u64 = entries.flatten().filter(theirs).map(|entry| length(&entry.path())).sum();
        let most = self.config.limits.stored_bytes;
        let full =
            || refuse(ProblemCode::TooLarge, format!("an account stores at most {most} bytes of uploads"));
        let left = most.checked_sub(parts + more).ok_or_else(full)?;
        if self.store.stored_bytes(account).await? <= left {
            return Ok(());
        }
        let Some(orphans) = self.store.make_room(account, left).await? else {
            let detail = format!(
                "an account stores at most {most} bytes of uploads, and its open runs need what is there; end one of them"
            );
            return Err(refuse(ProblemCode::TooLarge, detail));
        };
        tracing::info!(
            account,
            files = orphans.len(),
            "uploads that were not used for longest are forgotten"
        );
        for (kind, hash) in orphans {
            let _absent = fs::remove_file(self.blob_file(kind, &hash));
        }
        Ok(())
    }

    /// Whether this account has uploaded it, and it is here: a database that was restored, or is shared with a gateway of another
    /// folder, knows of more.
    async fn has(&self, account: i64, kind: Kind, hash: &str) -> Result<bool, Refusal> {
        Ok(self.store.blob(account, kind, hash).await?.is_some() && self.blob_file(kind, hash).exists())
    }

    fn most(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Executable => self.config.limits.executable_bytes,
            Kind::Context => self.config.limits.context_bytes,
        }
    }

    pub(super) fn blob_file(&self, kind: Kind, hash: &str) -> PathBuf {
        self.config.data.blobs(kind.as_str()).join(hash)
    }

    /// Each account uploads for itself: nobody learns or changes what others have begun.
    fn part(&self, kind: Kind, account: i64, hash: &str) -> PathBuf {
        self.config.data.uploads().join(format!("{account}-{}-{hash}", kind.as_str()))
    }

    /// No path of a part: what is unpacked for an account.
    fn unpacking(&self, account: i64) -> PathBuf {
        self.config.data.uploads().join(account.to_string())
    }

    pub(super) fn forget_stale_uploads(&self) {
        let now = SystemTime::now();
        {
            let mut looked = self.uploads.looked.lock().unwrap_or_else(PoisonError::into_inner);
            let lately = |last: SystemTime| now.duration_since(last).is_ok_and(|since| since < STALE / 60);
            if looked.is_some_and(lately) {
                return;
            }
            *looked = Some(now);
        }
        let in_folder = |folder| fs::read_dir(folder).into_iter().flatten().flatten();
        let stale = |path: &Path| {
            let touched = fs::metadata(path).and_then(|metadata| metadata.modified());
            touched.is_ok_and(|touched| now.duration_since(touched).is_ok_and(|age| age > STALE))
        };
        for path in in_folder(self.config.data.uploads()).map(|entry| entry.path()) {
            let Some(_busy) = self.uploads.begin(&path) else { continue };
            if stale(&path) {
                let _absent = fs::remove_file(&path);
            }
        }
        for kind in [Kind::Executable, Kind::Context] {
            let left = in_folder(self.config.data.blobs(kind.as_str()));
            let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(BEGUN));
            for path in left.map(|entry| entry.path()).filter(|path| stale(path)) {
                let _absent = fs::remove_file(path);
            }
        }
    }
}
