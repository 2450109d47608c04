//! Bytes of an answer: small ones from memory, large ones from their file, piece by piece as the client takes
//! them. Made by `batches`. An answer that is not read to its end holds a few pieces and a descriptor,
//! whatever its size.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use fastmap_backends::cloud::hexadecimal;
use http_body::{Frame, SizeHint};
use sha2::{Digest, Sha256};
use tokio::task::{JoinHandle, spawn_blocking};

use super::limits::{BodyPermit, Counted, Memory};
use crate::answer_files::{AnswerFiles, Position};

/// Bytes that are read at a time.
const PIECE: u64 = 64 << 10;
/// Pieces in memory of one answer: two on their way out, and one that is read ahead.
const PIECES: u64 = 3;

/// Where the bytes of an answer are.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Memory(Bytes),
    File(Arc<InFile>),
}

/// An answer in its file, which stays readable when it is removed.
#[derive(Debug)]
pub(crate) struct InFile {
    pub(crate) file: File,
    pub(crate) place: Position,
    /// What it was when it was kept, where that is to be looked at again.
    pub(crate) check: Option<Check>,
}

/// What is known of an answer that another process, or this one long ago, has kept.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) spool: AnswerFiles,
    pub(crate) run: String,
    pub(crate) digest: Arc<str>,
}

impl Content {
    /// The body of an answer to this account. `None`: the account has no memory left for it.
    pub(crate) fn body(self, memory: &Memory, account: i64) -> Option<Body> {
        let answer = match self {
            Content::Memory(bytes) => return memory.counted(account, bytes).map(Body::from),
            Content::File(answer) => answer,
        };
        let mut held = memory.hold(account);
        let (at, left) = (answer.place.at, answer.place.length);
        held.grow(left.min(PIECES * PIECE)).then(|| {
            let hasher = answer.check.is_some().then(Sha256::new);
            Body::new(Pieces { answer, at, left, hasher, held: Arc::new(held), next: None })
        })
    }
}

/// A piece, and the hash of all up to its end where that is wanted.
type Piece = (Bytes, Option<Sha256>);

/// A body that reads its file as it is taken.
///
/// A wrong digest is found with the last piece, which is held back then: the answer breaks off, its client
/// asks again, and finds that the answer is not there.
struct Pieces {
    answer: Arc<InFile>,
    at: u64,
    left: u64,
    hasher: Option<Sha256>,
    held: Arc<BodyPermit>,
    next: Option<JoinHandle<io::Result<Piece>>>,
}

impl Pieces {
    /// Begins to read the next piece, if there is one.
    fn read(&mut self) {
        let length = self.left.min(PIECE);
        if length == 0 {
            return;
        }
        let (answer, at, held) = (Arc::clone(&self.answer), self.at, Arc::clone(&self.held));
        let mut hasher = self.hasher.take();
        let last = length == self.left;
        self.next = Some(spawn_blocking(move || {
            let mut piece = vec![0; length as usize];
            answer.file.read_exact_at(&mut piece, at)?;
            if let Some(hasher) = &mut hasher {
                hasher.update(&piece);
            }
            if last && let (Some(hasher), Some(check)) = (&hasher, &answer.check) {
                check.last(hasher.clone(), answer.place)?;
            }
            Ok((Bytes::from_owner(Counted { bytes: piece.into(), _held: held }), hasher))
        }));
        self.at += length;
        self.left -= length;
    }
}

impl Check {
    /// Compares what was read to the end with what was kept.
    fn last(&self, hasher: Sha256, place: Position) -> io::Result<()> {
        if hexadecimal(&hasher.finalize()) == *self.digest {
            return Ok(());
        }
        tracing::warn!(run = self.run, "a stored answer is not as it was kept; its batch is run again");
        self.spool.is_damaged(&self.run, place);
        Err(io::ErrorKind::InvalidData.into())
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.next.is_none() {
            self.read();
        }
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        let read = ready!(Pin::new(next).poll(cx)).unwrap_or_else(|error| Err(io::Error::other(error)));
        self.next = None;
        match read {
            Ok((piece, hasher)) => {
                self.hasher = hasher;
                self.read();
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            Err(error) => {
                self.left = 0;
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.next.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        // Asked before anything is taken: then it is the answer's length.
        SizeHint::with_exact(self.answer.place.at + self.answer.place.length - self.at)
    }
}
