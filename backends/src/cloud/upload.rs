//! Uploads by content: the program and the context of a function, each as one zstd frame in parts that go on where a
//! break has left them. What the service has is not sent again.

use std::fs::File;
use std::io::{self, Read};
use std::sync::OnceLock;
use std::time::Duration;

use fastmap_sandbox::unpoisoned::LockUnpoisoned;
use ring::digest::{Context, SHA256};

use super::http::{By, Failure};
use super::problem::{Problem, ProblemCode};
use super::protocol::{BlobStatus, Limits};
use super::sign::digest;
use crate::cloud::notices::{Notice, Upload};
use crate::cloud::session::{Session, Stop, Waiter};
use crate::execution::startable::executable_path;
use crate::model::error::BackendError;
use crate::model::hex::hexadecimal;

/// Compresses 300 MB in a second; a program shrinks to a third.
const LEVEL: i32 = 3;
const SHRINKS: u64 = 3;
/// The first part; they grow while they take less than a second, so that a slow link is not asked for too much at once.
const FIRST_PART: usize = 512 * 1024;
const QUICK: Duration = Duration::from_secs(1);
/// The upload may be said to go on elsewhere so often without getting on.
const STANDSTILLS: u32 = 10;

/// This program's name at the service, and its size.
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

/// The very file that runs, also when another has taken its path meanwhile.
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

/// A zstd frame that says how many bytes it unpacks to: the service looks at that with the first part.
fn compress(mut file: File, size: u64) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), LEVEL)?;
    encoder.set_pledged_src_size(Some(size))?;
    io::copy(&mut file, &mut encoder)?;
    encoder.finish()
}

impl Session {
    /// Sees to it that this program is there; gives its hash.
    pub(super) fn need_executable(&self, waiter: &dyn Waiter, limits: &Limits) -> Result<String, Stop> {
        let (hash, size) = executable().map_err(Stop::Failed)?;
        if *size > limits.executable_bytes {
            return Err(self.too_large(Upload::Executable, *size, limits.executable_bytes));
        }
        let frame = || program().and_then(|file| compress(file, *size));
        self.need(waiter, limits, Upload::Executable, hash, frame)?;
        Ok(hash.clone())
    }

    /// Sees to it that a context is there; gives its hash, `None` for an empty one.
    pub(super) fn need_context(
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
        self.need(waiter, limits, Upload::Context, &hash, || zstd::bulk::compress(context, LEVEL))?;
        Ok(Some(hash))
    }

    fn too_large(&self, what: Upload, size: u64, most: u64) -> Stop {
        let url = &self.http.url;
        let advice = match what {
            Upload::Executable => "; leave out what debuggers need (strip = true in the profile)",
            Upload::Context => "",
        };
        Stop::Failed(BackendError::Cloud(
            format!("the {what} has {size} bytes, and the service at {url} takes at most {most}{advice}"),
            None,
        ))
    }

    /// Bytes that must be uploaded before a run, about: what the service has is asked for once.
    pub(super) fn to_upload(&self, waiter: &dyn Waiter, context: &[u8]) -> Result<u64, Stop> {
        let (hash, size) = executable().map_err(Stop::Failed)?;
        let mut bytes = context.len() as u64 / SHRINKS;
        if !self.is_stored(hash) {
            let path = format!("/executables/{hash}");
            let (status, took): (BlobStatus, _) =
                self.call_with_retry(waiter, || self.http.ask(By::Short, "GET", &path, None::<&()>))?;
            self.took(took);
            if status.present {
                self.set_stored(hash);
            } else {
                bytes += size / SHRINKS;
            }
        }
        Ok(bytes)
    }

    fn need(
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
        // Another run of this process may upload the same: it is there then.
        let _turn = self.uploading.lock_unpoisoned();
        if self.is_stored(hash) {
            return Ok(());
        }
        let path = match what {
            Upload::Executable => format!("/executables/{hash}"),
            Upload::Context => format!("/contexts/{hash}"),
        };
        let (status, took): (BlobStatus, _) =
            self.call_with_retry(waiter, || self.http.ask(By::Short, "GET", &path, None::<&()>))?;
        self.took(took);
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
        there: u64,
    ) -> Result<(), Stop> {
        enum Sent {
            Whole,
            UpTo(u64),
            Elsewhere(u64),
            Wrong(Box<Problem>),
        }
        let total = frame.len() as u64;
        let mut most = usize::try_from(limits.part_bytes).unwrap_or(usize::MAX).max(1);
        let mut offset = if there < total { there } else { 0 };
        let (mut part, mut standstills, mut wrong) = (FIRST_PART.min(most), 0, false);
        let tell = |sent| {
            waiter.uploading(total.saturating_sub(sent));
            self.options.notices.notice(&Notice::Upload { what, sent, total });
        };
        tell(offset);
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
                match self.http.call(By::Long, "PUT", &target, bytes) {
                    Ok(reply) => {
                        took = reply.took;
                        let status: BlobStatus = reply.json()?;
                        Ok(if status.present { Sent::Whole } else { Sent::UpTo(status.offset) })
                    }
                    Err(Failure::Problem(problem)) => match (problem.known(), problem.offset) {
                        (Some(ProblemCode::UploadOffset), Some(there)) => Ok(Sent::Elsewhere(there)),
                        (Some(ProblemCode::HashMismatch | ProblemCode::InvalidBody), _) => {
                            Ok(Sent::Wrong(problem))
                        }
                        (Some(ProblemCode::RequestTimeout), _) => {
                            size = (size / 4).max(1);
                            Err(Failure::Problem(problem))
                        }
                        _ => Err(Failure::Problem(problem)),
                    },
                    Err(failure) => {
                        // A link that breaks so often takes less at once.
                        size = (size / 2).max(FIRST_PART.min(most) / 16).max(1);
                        if matches!(failure, Failure::Unsigned { status: 413, .. }) {
                            // A proxy on the way will take no more of the next part, either.
                            most = size;
                        }
                        Err(failure)
                    }
                }
            })?;
            part = if took < QUICK { (size * 2).min(most) } else { size };
            match sent {
                Sent::Whole => {
                    tell(total);
                    return Ok(());
                }
                // Another process may send the same.
                Sent::UpTo(there) | Sent::Elsewhere(there) if there > offset && there < total => {
                    (offset, standstills) = (there, 0);
                }
                Sent::UpTo(there) | Sent::Elsewhere(there) => {
                    standstills += 1;
                    if standstills > STANDSTILLS {
                        let url = &self.http.url;
                        let message = format!(
                            "the upload of the {what} to {url} does not get on: {there} of {total} bytes are there"
                        );
                        return Err(Stop::Failed(BackendError::Cloud(message, None)));
                    }
                    offset = if there < total { there } else { 0 };
                }
                // Begun by another version of this program: from the begin, once.
                Sent::Wrong(_) if !wrong => (wrong, offset) = (true, 0),
                Sent::Wrong(problem) => {
                    let message =
                        format!("the upload of the {what} to {} arrives damaged: {problem}", self.http.url);
                    return Err(Stop::Failed(BackendError::Cloud(message, None)));
                }
            }
            tell(offset);
        }
    }
}
