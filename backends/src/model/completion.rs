//! Completions of a run: results, returned items, or a batch lost with its worker. Created by backends,
//! consumed by the host's adapter, which alone decides about retries.

use std::fmt;
use std::time::{Duration, Instant};

use crate::local::Taken;
use crate::model::batch::Batch;
use crate::model::death::WorkerLoss;
use crate::model::failure::ItemFailure;
use crate::model::ids::BatchId;
use crate::model::refused_call::RefusedCall;
use crate::model::{buffer_pool, result_credit};

/// Completion of consecutive items of one batch. All completions of a batch together cover each item once.
#[derive(Debug)]
pub struct Completion {
    /// Id of the submitted batch.
    pub batch: BatchId,
    /// Index in the input of the first item.
    pub first: u64,
    /// Number of items.
    pub items: u32,
    /// Their outcome.
    pub outcome: Outcome,
}

/// Outcome of items.
#[derive(Debug)]
pub enum Outcome {
    /// Each was answered, by a result or by its own failure.
    Done(Results),
    /// No item was started; they can be submitted again unchanged. The piece has its batch's id.
    Returned(Batch),
    /// Their process is gone. Some items may have run; none has an answer.
    Lost(Batch, WorkerLoss),
}

/// Answers to consecutive items.
#[derive(Debug, Default)]
pub struct Results {
    /// Encoded results of the items that did not fail, in order, in the layout that the worker's entry wrote.
    pub payload: Payload,
    /// Items that failed, in order.
    pub failures: Vec<ItemFailure>,
    /// Wall-clock time from the first item's start to the last one's end.
    pub wall: Duration,
    /// CPU time of the thread that ran the items.
    pub cpu: Duration,
    /// Time in which that thread was ready to run and had no core, if known: part of `wall`, but not of
    /// `cpu`. The time of a batch that took less than a millisecond may be reported with a later one.
    pub queued: Option<Duration>,
    /// The worker's name, for reports.
    pub worker: String,
    /// Location of the worker.
    pub place: Origin,
    /// Time at which the answer reached this process, if that is before it is polled for.
    pub received_at: Option<Instant>,
    /// The slowest item, if the worker measured it: its position in the completion, and its time.
    pub slowest: Option<(u32, Duration)>,
    /// Calls that the sandbox denied to items that still have a result, and missing files.
    pub refused: Vec<RefusedCall>,
}

impl Results {
    /// Bytes that count against the batch's limit: those of the results and of the failures' messages, plus
    /// 64 for each failure.
    pub fn bytes(&self) -> u64 {
        self.payload.len() as u64 + result_credit::of_failures(&self.failures)
    }
}

/// Location where items were run, for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Origin {
    /// On this machine, or wherever a custom backend runs them.
    #[default]
    Local,
    /// In a cloud service.
    Cloud,
}

/// A byte range of a received frame, without a copy.
#[derive(Default)]
pub struct Payload {
    frame: Vec<u8>,
    start: usize,
    end: usize,
    /// Share of a memory budget, released on drop.
    taken: Option<Taken>,
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len())
    }
}

impl Payload {
    /// The bytes `start..end` of `frame`.
    ///
    /// # Panics
    /// If the range is not in the frame.
    pub fn within(frame: Vec<u8>, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= frame.len(), "bytes {start}..{end} of {}", frame.len());
        Payload { frame, start, end, taken: None }
    }

    /// Releases this share of a memory budget when it is dropped.
    pub(crate) fn counted(self, taken: Option<Taken>) -> Self {
        let mut counted = self;
        counted.taken = taken;
        counted
    }

    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.frame[self.start..self.end]
    }

    /// `length` bytes from `at` on, for item-by-item readers. The caller must stay within [`Payload::len`]
    /// itself: later bytes of the frame would be returned, too.
    #[inline]
    pub fn item(&self, at: usize, length: usize) -> Option<&[u8]> {
        self.frame.get(self.start + at..)?.get(..length)
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Returns whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        buffer_pool::give(std::mem::take(&mut self.frame));
    }
}

impl From<Vec<u8>> for Payload {
    fn from(frame: Vec<u8>) -> Self {
        let end = frame.len();
        Payload { frame, start: 0, end, taken: None }
    }
}
