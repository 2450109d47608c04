//! Content-addressed uploads: the program and the context of a function, each as one zstd frame, sent in
//! parts that resume after an interruption. Uploads that the service has are not sent again.

use std::fs::File;
use std::io::{self, Read};
use std::sync::OnceLock;
use std::time::Duration;

use fastmap_sandbox::unpoisoned::LockUnpoisoned;
use ring::digest::{Context, SHA256};

use super::http::{Failure, TimeoutClass};
use super::problem::{Problem, ProblemCode};
use super::protocol::{BlobStatus, Limits};
use super::sign::digest;
use crate::cloud::notices::{Notice, Upload};
use crate::cloud::session::{Session, Stop, Waiter};
use crate::execution::startable::executable_path;
use crate::model::error::BackendError;
use crate::model::hex::hexadecimal;

/// Compression level 3 compresses 300 MB in a second; a program shrinks to a third.
const LEVEL: i32 = 3;
const COMPRESSION_RATIO: u64 = 3;
/// First part. Parts grow while they take less than a second, so that a slow connection is not overloaded at
/// once.
const FIRST_PART: usize = 512 * 1024;
const GROW_BELOW: Duration = Duration::from_secs(1);
/// Maximum answers in a row that report no progress of the upload.
const MAX_STALLS: u32 = 10;

/// This program's hash, its name at the service, and its size.
///
/// # Errors
/// If its file can't be read.
pub(super) fn executable() -> Result<&'static (String, u64), BackendError> {
    static HASH: OnceLock<Result<(String, u64), String>> = OnceLock::new();
    let hash = HASH.get_or_init(|| hash_program().map_err(|error| error.to_string()));
    hash.as_ref().map_err(|error| unreadable(error))
}

fn unreadable(error: &str) -> BackendError {
    BackendError::Cloud(format!("this program's own file can't be read, to be uploaded: {error}"), None)
}

/// The file that this process runs, even if another file has replaced it at its path.
fn program() -> io::Result<File> {
    File::open(executable_path())
}

fn hash_program() -> io::Result<(String, u64)> {
    let mut file = program()?;
    let mut hasher = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hexadecimal(hasher.finish().as_ref()), size)),
            read => {
                hasher.update(&buffer[..read]);
                size += read as u64;
            }
        }
    }
}

/// Compresses to a zstd frame that declares its decompressed size: the service checks that with the first
/// part.
fn compress(mut file: File, size: u64) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), LEVEL)?;
    encoder.set_pledged_src_size(Some(size))?;
    io::copy(&mut file, &mut encoder)?;
    encoder.finish()
}

impl Session {
    /// Uploads this program unless the service has it; returns its hash.
    pub(super) fn ensure_executable(&self, waiter: &dyn Waiter, limits: &Limits) -> Result<String, Stop> {
        let (hash, size) = executable().map_err(Stop::Failed)?;
        if *size > limits.executable_bytes {
            return Err(self.too_large(Upload::Executable, *size, limits.executable_bytes));
        }
        let frame = || program().and_then(|file| compress(file, *size));
        self.ensure_stored(waiter, limits, Upload::Executable, hash, frame)?;
        Ok(hash.clone())
    }

    /// Uploads a context unless the service has it; returns its hash, `None` for an empty one.
    pub(super) fn ensure_context(
        &self,
        waiter: &dyn Waiter,
        limits: &Limits,
        context: &[u8],
    ) -> Result<Option<String>, Stop> {
        if context.is_empty() {
            return Ok(None);
        }
        let size = context.len() as u64;
        if size > limits.context_bytes {
            return Err(self.too_large(Upload::Context, size, limits.context_bytes));
        }
        let hash = digest(context);
        self.ensure_stored(waiter, limits, Upload::Context, &hash, || zstd::bulk::compress(context, LEVEL))?;
        Ok(Some(hash))
    }

    fn too_large(&self, what: Upload, size: u64, limit: u64) -> Stop {
        let url = &self.http.url;
        let advice = match what {
            Upload::Executable => "; leave out what debuggers need (strip = true in the profile)",
            Upload::Context => "",
        };
        Stop::Failed(BackendError::Cloud(
            format!("the {what} has {size} bytes, and the service at {url} takes at most {limit}{advice}"),
            None,
        ))
    }

    /// Approximate bytes to upload before a run. Asks the service for the program once.
    pub(super) fn to_upload(&self, waiter: &dyn Waiter, context: &[u8]) -> Result<u64, Stop> {
        let (hash, size) = executable().map_err(Stop::Failed)?;
        let mut bytes = context.len() as u64 / COMPRESSION_RATIO;
        if !self.is_stored(hash) {
            let path = format!("/executables/{hash}");
            let (status, took): (BlobStatus, _) = self.call_with_retry(waiter, || {
                self.http.call_json(TimeoutClass::Short, "GET", &path, None::<&()>)
            })?;
            self.record_round_trip(took);
            if status.present {
                self.set_stored(hash);
            } else {
                bytes += size / COMPRESSION_RATIO;
            }
        }
        Ok(bytes)
    }

    fn ensure_stored(
        &self,
        waiter: &dyn Waiter,
        limits: &Limits,
        what: Upload,
        hash: &str,
        frame: impl FnOnce() -> io::Result<Vec<u8>>,
    ) -> Result<(), Stop> {
        if self.is_stored(hash) {
            return Ok(());
        }
        // Another run of this process may upload the same: wait for it, and check again.
        let _uploading = self.uploading.lock_unpoisoned();
        if self.is_stored(hash) {
            return Ok(());
        }
        let path = match what {
            Upload::Executable => format!("/executables/{hash}"),
            Upload::Context => format!("/contexts/{hash}"),
        };
        let (status, took): (BlobStatus, _) = self.call_with_retry(waiter, || {
            self.http.call_json(TimeoutClass::Short, "GET", &path, None::<&()>)
        })?;
        self.record_round_trip(took);
        if !status.present {
            let frame = frame().map_err(|error| Stop::Failed(unreadable(&error.to_string())))?;
            self.send_parts(waiter, limits, what, &path, &frame, status.offset)?;
        }
        self.set_stored(hash);
        Ok(())
    }

    fn send_parts(
        &self,
        waiter: &dyn Waiter,
        limits: &Limits,
        what: Upload,
        path: &str,
        frame: &[u8],
        stored: u64,
    ) -> Result<(), Stop> {
        enum Sent {
            Whole,
            UpTo(u64),
            OtherOffset(u64),
            Invalid(Box<Problem>),
        }
        let total = frame.len() as u64;
        let mut max_part = usize::try_from(limits.part_bytes).unwrap_or(usize::MAX).max(1);
        let mut offset = if stored < total { stored } else { 0 };
        let (mut part, mut stalls, mut restarted) = (FIRST_PART.min(max_part), 0, false);
        let report = |sent| {
            waiter.uploading(total.saturating_sub(sent));
            self.options.notices.notice(&Notice::Upload { what, sent, total });
        };
        report(offset);
        loop {
            if !waiter.pause(Duration::ZERO) {
                return Err(Stop::Ended);
            }
            let at = offset as usize;
            let mut size = part;
            let mut took = Duration::ZERO;
            let sent = self.call_with_retry(waiter, || {
                let bytes = &frame[at..frame.len().min(at + size)];
                let target = format!("{path}?offset={at}&total={total}");
                match self.http.call(TimeoutClass::Long, "PUT", &target, bytes) {
                    Ok(reply) => {
                        took = reply.took;
                        let status: BlobStatus = reply.json()?;
                        Ok(if status.present { Sent::Whole } else { Sent::UpTo(status.offset) })
                    }
                    Err(Failure::Problem(problem)) => match (problem.known(), problem.offset) {
                        (Some(ProblemCode::UploadOffset), Some(stored)) => Ok(Sent::OtherOffset(stored)),
                        (Some(ProblemCode::HashMismatch | ProblemCode::InvalidBody), _) => {
                            Ok(Sent::Invalid(problem))
                        }
                        (Some(ProblemCode::RequestTimeout), _) => {
                            size = (size / 4).max(1);
                            Err(Failure::Problem(problem))
                        }
                        _ => Err(Failure::Problem(problem)),
                    },
                    Err(failure) => {
                        // Send less at once over a connection that breaks.
                        size = (size / 2).max(FIRST_PART.min(max_part) / 16).max(1);
                        if matches!(failure, Failure::Unsigned { status: 413, .. }) {
                            // A proxy will not accept a larger part next time, either.
                            max_part = size;
                        }
                        Err(failure)
                    }
                }
            })?;
            part = if took < GROW_BELOW { (size * 2).min(max_part) } else { size };
            match sent {
                Sent::Whole => {
                    report(total);
                    return Ok(());
                }
                // Another process may upload the same.
                Sent::UpTo(stored) | Sent::OtherOffset(stored) if stored > offset && stored < total => {
                    (offset, stalls) = (stored, 0);
                }
                Sent::UpTo(stored) | Sent::OtherOffset(stored) => {
                    stalls += 1;
                    if stalls > MAX_STALLS {
                        let url = &self.http.url;
                        let message = format!(
                            "the upload of the {what} to {url} does not get on: {stored} of {total} bytes are there"
                        );
                        return Err(Stop::Failed(BackendError::Cloud(message, None)));
                    }
                    offset = if stored < total { stored } else { 0 };
                }
                // Started by another version of this program: start again, once.
                Sent::Invalid(_) if !restarted => (restarted, offset) = (true, 0),
                Sent::Invalid(problem) => {
                    let message =
                        format!("the upload of the {what} to {} arrives damaged: {problem}", self.http.url);
                    return Err(Stop::Failed(BackendError::Cloud(message, None)));
                }
            }
            report(offset);
        }
    }
}
