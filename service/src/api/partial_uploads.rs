//! Files of uploads: parts appended, unpacked, kept within the account's bounds, and removed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use fastmap_backends::cloud::{Problem, ProblemCode, hexadecimal};
use fastmap_backends::unpoisoned::LockUnpoisoned;
use fastmap_sandbox::elf::ElfError;
use fastmap_sandbox::jail::wait_for_writers;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use utoipa::IntoParams;

use crate::app::Gateway;
use crate::app::blocking::blocking;
use crate::clock::now_ms;
use crate::executable::{Examine, check_executable};
use crate::problem::{Refusal, disk, refuse};
use crate::store::{BEGUN, Begun, Blob, Kind, Part, on_disk};

/// Parts of an abandoned upload are kept for so long; and what a service has left that was killed while it
/// unpacked one.
pub(super) const STALE: Duration = Duration::from_hours(1);

/// An upload whose last part came longer ago gives way where its account begins more than it may. A body may
/// take as long.
pub(super) const LEFT: Duration = Duration::from_mins(2);

/// The least time between two notes in the database that an upload goes on.
pub(super) const UPDATED: Duration = Duration::from_secs(10);

/// Bytes of a zstd frame that say how long it is unpacked.
pub(super) const FRAME_HEAD: u64 = 18;

/// What the names of files begin with that are being unpacked.
pub(super) const BEGUN_NAME: &str = ".begun-";

/// Where a part belongs.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
pub(crate) struct PartAt {
    /// Bytes that stand before this part in the zstd frame that is the upload.
    offset: u64,
    /// Bytes of the whole frame.
    pub(super) total: u64,
}

pub(super) async fn length(path: &Path) -> u64 {
    tokio::fs::metadata(path).await.map_or(0, |metadata| metadata.len())
}

pub(super) async fn remove(path: &Path) {
    // It may be gone already.
    let _ = tokio::fs::remove_file(path).await;
}

/// Bytes that a zstd frame says that it unpacks to, by its first bytes. `None`: it does not say, or too few
/// are there.
pub(super) fn announced(begin: &[u8]) -> Option<u64> {
    zstd::zstd_safe::get_frame_content_size(begin).ok().flatten()
}

/// An upload of which a part has come.
pub(super) struct Upload<'a> {
    pub(super) kind: Kind,
    pub(super) account: i64,
    pub(super) hash: &'a str,
    /// Where its parts are.
    pub(super) path: &'a Path,
}

/// Bytes that an upload says that it unpacks to, by what is there of it.
pub(super) fn announced_in(path: &Path) -> Option<u64> {
    let mut begin = Vec::new();
    File::open(path).ok()?.take(FRAME_HEAD).read_to_end(&mut begin).ok()?;
    announced(&begin)
}

/// Appends a part to what is there, if that has so many bytes. Gives how many it has.
pub(super) fn append(path: &Path, there: u64, part: &[u8]) -> io::Result<u64> {
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
        let _ = file.set_len(before);
    }
    written.map(|()| before)
}

/// Unpacks an upload that is whole, of at most `most` bytes, beside where it belongs, and checks it.
pub(super) fn unpack(
    kind: Kind,
    path: &Path,
    hash: &str,
    target: &Path,
    most: u64,
    examiner: Option<&dyn Examine>,
) -> Result<(NamedTempFile, Blob), Refusal> {
    let unreadable = |error: &io::Error| {
        refuse(ProblemCode::InvalidBody, format!("the upload is not a complete zstd frame: {error}"))
    };
    let folder = target.parent().unwrap_or(Path::new("."));
    let begun = tempfile::Builder::new().prefix(BEGUN_NAME).tempfile_in(folder);
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
            let detail =
                format!("the {} unpacks to more than the {most} bytes that it may have", kind.as_str());
            return Err(refuse(ProblemCode::TooLarge, detail));
        }
        hasher.update(&buffer[..read]);
        unpacked.write_all(&buffer[..read]).map_err(|error| disk(&error))?;
    }
    let found = hexadecimal(&hasher.finalize());
    if found != hash {
        return Err(refuse(ProblemCode::HashMismatch, format!("what was uploaded hashes to {found}")));
    }
    let unfit = |unfit: ElfError| refuse(ProblemCode::NotExecutable, unfit.to_string());
    let identity = match kind {
        Kind::Executable => {
            let identity = check_executable(unpacked.path(), hash).map_err(unfit)?;
            examiner.map_or(Ok(()), |examiner| examiner.examine(unpacked.path())).map_err(unfit)?;
            Some(identity)
        }
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
    /// Adds a part to what is there of an upload; gives how many bytes that is then, and how many it may
    /// unpack to.
    pub(super) async fn grow(
        &self,
        upload: &Upload<'_>,
        at: PartAt,
        part: Bytes,
    ) -> Result<(u64, u64), Refusal> {
        let bytes = part.len() as u64;
        let misplaced = |there: u64| {
            let detail =
                format!("{there} bytes of {} are there; the part is {bytes} from {} on", at.total, at.offset);
            Refusal(Problem { offset: Some(there), ..Problem::new(ProblemCode::UploadOffset, detail) })
        };
        let there = length(upload.path).await;
        if there > at.total {
            // Begun by another version of the client, whose frame is another.
            remove(upload.path).await;
            return Err(misplaced(0));
        }
        // Where it is whole, the service ended before it was unpacked.
        let whole = there == at.total;
        if !whole && (at.offset != there || there + bytes > at.total || part.is_empty()) {
            return Err(misplaced(there));
        }
        let path = upload.path.to_owned();
        let said = if there == 0 { announced(&part) } else { blocking(move || announced_in(&path)).await? };
        let most = self.most(upload.kind);
        if let Some(said) = said.filter(|said| *said > most) {
            let kind = upload.kind.as_str();
            let detail = format!("the upload unpacks to {said} bytes, and a {kind} has at most {most}");
            return Err(refuse(ProblemCode::TooLarge, detail));
        }
        let unpacked = said.unwrap_or(most);
        self.need_room(upload, on_disk(at.total) + on_disk(unpacked)).await?;
        if whole {
            return Ok((there, unpacked));
        }
        let path = upload.path.to_owned();
        let before = blocking(move || append(&path, there, &part)).await?.map_err(|error| disk(&error))?;
        if before != there {
            return Err(misplaced(before));
        }
        Ok((there + bytes, unpacked))
    }

    /// Unpacks an upload that is whole, of at most `most` bytes, and makes it the account's. Gives its bytes.
    pub(super) async fn store_whole(&self, upload: &Upload<'_>, most: u64) -> Result<u64, Refusal> {
        let Upload { kind, account, hash, path } = *upload;
        let target = self.blob_file(kind, hash);
        let (path, name) = (path.to_owned(), hash.to_owned());
        let examiner = self.examiner.clone();
        let blob = blocking(move || {
            let (unpacked, blob) = unpack(kind, &path, &name, &target, most, examiner.as_deref())?;
            let unpacked = unpacked.into_temp_path();
            // Workers of another run are started meanwhile, and begin with copies of this process's descriptors.
            wait_for_writers(&unpacked).map_err(|error| disk(&error))?;
            // Another account may have brought the same; it is the same, by its hash.
            unpacked.persist(target).map_err(|error| disk(&error.error))?;
            Ok::<_, Refusal>(blob)
        });
        let blob = blob.await??;
        self.store.add_blob(account, kind, hash, &blob).await?;
        Ok(blob.size)
    }

    /// Sees to it that an upload may take so many bytes on the disk, beside what its account has uploaded and
    /// has begun. What the account has not used for longest is forgotten for that, and an upload that was
    /// left gives way to another.
    async fn need_room(&self, upload: &Upload<'_>, taken: u64) -> Result<(), Refusal> {
        let Upload { kind, account, hash, .. } = *upload;
        let (now, most) = (now_ms(), self.config.limits.stored_bytes);
        let begun = self.store.begun_upload(account, kind, hash).await?;
        if begun.is_some_and(|(begun, at_ms)| begun == taken && now - at_ms < UPDATED.as_millis() as i64) {
            return Ok(());
        }
        let part = Part { account, kind, hash, taken, most, left_before_ms: now - LEFT.as_millis() as i64 };
        let mut made = false;
        loop {
            let left = match self.store.begin_upload(&part).await? {
                Begun::Counted(None) => return Ok(()),
                Begun::Counted(Some((kind, hash))) => {
                    remove(&self.part(kind, account, &hash)).await;
                    return Ok(());
                }
                Begun::Crowded => {
                    let detail = format!(
                        "{BEGUN} uploads of this account are under way; finish one, or wait until one was left for {} s",
                        LEFT.as_secs()
                    );
                    return Err(Problem::new(ProblemCode::TooManyRequests, detail).retry_after(5).into());
                }
                Begun::Full(left) => left,
            };
            let Some(left) = left else {
                let detail = format!(
                    "an account's uploads take at most {most} bytes of the disk, and with those under way this one needs more"
                );
                return Err(refuse(ProblemCode::TooLarge, detail));
            };
            let orphans = if made { None } else { self.store.make_room(account, left).await? };
            let Some(orphans) = orphans else {
                let detail = format!(
                    "an account's uploads take at most {most} bytes of the disk, and its open runs need what is there; end one of them"
                );
                return Err(refuse(ProblemCode::TooLarge, detail));
            };
            made = true;
            tracing::info!(
                account,
                files = orphans.len(),
                "uploads that were not used for longest are forgotten"
            );
            for (kind, hash) in orphans {
                remove(&self.blob_file(kind, &hash)).await;
            }
        }
    }

    /// Whether this account has uploaded it, and it is here: a database that was restored, or is shared with a gateway of another
    /// folder, knows of more.
    pub(super) async fn has(&self, account: i64, kind: Kind, hash: &str) -> Result<bool, Refusal> {
        Ok(self.store.blob(account, kind, hash).await?.is_some()
            && tokio::fs::try_exists(self.blob_file(kind, hash)).await.unwrap_or(false))
    }

    pub(super) fn most(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Executable => self.config.limits.executable_bytes,
            Kind::Context => self.config.limits.context_bytes,
        }
    }

    pub(super) fn blob_file(&self, kind: Kind, hash: &str) -> PathBuf {
        self.config.data.blobs(kind.as_str()).join(hash)
    }

    /// Each account uploads for itself: none learns or changes what others have begun.
    pub(super) fn part(&self, kind: Kind, account: i64, hash: &str) -> PathBuf {
        self.config.data.uploads().join(format!("{account}-{}-{hash}", kind.as_str()))
    }

    /// No path of a part: what is unpacked for an account.
    pub(super) fn unpacking(&self, account: i64) -> PathBuf {
        self.config.data.uploads().join(account.to_string())
    }

    /// Gives up uploads that were left, in the database and in the folders: parts of an older version, which
    /// did not count them, are in the folders alone.
    pub(super) async fn forget_stale_uploads(self: &Arc<Self>) -> Result<(), Refusal> {
        let now = SystemTime::now();
        {
            let mut looked = self.uploads.looked.lock_unpoisoned();
            let lately = |last: SystemTime| now.duration_since(last).is_ok_and(|since| since < STALE / 60);
            if looked.is_some_and(lately) {
                return Ok(());
            }
            *looked = Some(now);
        }
        for (account, kind, hash) in self.store.give_up_uploads(now_ms() - STALE.as_millis() as i64).await? {
            remove(&self.part(kind, account, &hash)).await;
        }
        let gateway = Arc::clone(self);
        blocking(move || gateway.sweep_uploads(now)).await
    }

    /// After a start: removes files that a service has left that was killed before it wrote to the database of
    /// them. Where other gateways may use the folder, only those that are an hour old.
    pub(super) async fn remove_unknown_blobs(self: &Arc<Self>) -> Result<(), Refusal> {
        let before = if self.store.is_shared() { SystemTime::now().checked_sub(STALE) } else { None };
        for kind in [Kind::Executable, Kind::Context] {
            let gateway = Arc::clone(self);
            let names = blocking(move || gateway.blobs_older(kind, before)).await?;
            for hash in self.store.unknown_blobs(kind, &names).await? {
                tracing::info!(kind = kind.as_str(), hash, "a file that no account has is removed");
                remove(&self.blob_file(kind, &hash)).await;
            }
        }
        Ok(())
    }

    /// Names of the files of a kind that were last written to before that; `None`: of all.
    fn blobs_older(&self, kind: Kind, before: Option<SystemTime>) -> Vec<String> {
        let entries = fs::read_dir(self.config.data.blobs(kind.as_str())).into_iter().flatten().flatten();
        let older = |entry: &fs::DirEntry| {
            let touched = entry.metadata().and_then(|metadata| metadata.modified());
            before.is_none_or(|before| touched.is_ok_and(|touched| touched < before))
        };
        entries.filter(older).filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn sweep_uploads(&self, now: SystemTime) {
        let in_folder = |folder| fs::read_dir(folder).into_iter().flatten().flatten();
        let stale = |path: &Path| {
            let touched = fs::metadata(path).and_then(|metadata| metadata.modified());
            touched.is_ok_and(|touched| now.duration_since(touched).is_ok_and(|age| age > STALE))
        };
        for path in in_folder(self.config.data.uploads()).map(|entry| entry.path()) {
            let Some(_busy) = self.uploads.begin(&path) else { continue };
            if stale(&path) {
                // It may be gone already.
                let _ = fs::remove_file(&path);
            }
        }
        for kind in [Kind::Executable, Kind::Context] {
            let left = in_folder(self.config.data.blobs(kind.as_str()));
            let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with(BEGUN_NAME));
            for path in left.map(|entry| entry.path()).filter(|path| stale(path)) {
                // It may be gone already.
                let _ = fs::remove_file(path);
            }
        }
    }
}
