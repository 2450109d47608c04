//! What comes back from a run: results, items given back, or a batch lost with its worker.
//! Made by backends, consumed by the host's adapter, which alone decides what is tried again.

use std::fmt;
use std::time::{Duration, Instant};

use crate::local::Taken;
use crate::model::batch::Batch;
use crate::model::death::WorkerLoss;
use crate::model::failure::ItemFailure;
use crate::model::ids::BatchId;
use crate::model::refused_call::RefusedCall;
use crate::model::{buffer_pool, result_credit};

/// News of some consecutive items of one batch. All completions of a batch together cover each item once.
#[derive(Debug)]
pub struct Completion {
    /// The batch that was submitted.
    pub batch: BatchId,
    /// Index in the input of the first item that this is about.
    pub first: u64,
    /// How many items it is about.
    pub items: u32,
    /// What became of them.
    pub outcome: Outcome,
}

/// What became of items.
#[derive(Debug)]
pub enum Outcome {
    /// Each was answered, by a result or by its own failure.
    Done(Results),
    /// None was begun; they can be submitted again as they are. The piece has the name of its batch.
    Returned(Batch),
    /// The process that had them is gone. Some may have run; none has an answer.
    Lost(Batch, WorkerLoss),
}

/// Answers to consecutive items.
#[derive(Debug, Default)]
pub struct Results {
    /// Encoded results of the items that did not fail, in order, laid out as the worker's entry wrote them.
    pub payload: Payload,
    /// Items that failed, in order.
    pub failures: Vec<ItemFailure>,
    /// Time on the clock from the first item's begin to the last one's end.
    pub wall: Duration,
    /// CPU time of the thread that ran the items.
    pub cpu: Duration,
    /// Time in which that thread was ready to run and had no core, where it is known: part of `wall`, and not of `cpu`.
    /// That of a batch which took less than a millisecond may come with a later one.
    pub queued: Option<Duration>,
    /// The worker, for reports.
    pub worker: String,
    /// Where it is.
    pub place: Origin,
    /// When the answer reached this process, where that is before it is polled for.
    pub received_at: Option<Instant>,
    /// The item that took longest, where the worker knows: its position among those of the completion, and its time.
    pub slowest: Option<(u32, Duration)>,
    /// Calls that the sandbox refused to items that have a result all the same, and files that are not there.
    pub refused: Vec<RefusedCall>,
}

impl Results {
    /// Bytes that they count against what their batch was granted: those of the results, and of the failures'
    /// messages with 64 more for each.
    pub fn bytes(&self) -> u64 {
        self.payload.len() as u64 + result_credit::of_failures(&self.failures)
    }
}

/// Where items were run, for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Origin {
    /// On this machine, or on whatever a backend of your own has.
    #[default]
    Local,
    /// In a cloud service.
    Cloud,
}

/// Bytes that stand somewhere in a received frame. Nothing is copied to take them out.
#[derive(Default)]
pub struct Payload {
    frame: Vec<u8>,
    start: usize,
    end: usize,
    /// What of a budget they take as long as they are here.
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
    /// If the range does not lie in the frame.
    pub fn within(frame: Vec<u8>, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= frame.len(), "bytes {start}..{end} of {}", frame.len());
        Payload { frame, start, end, taken: None }
    }

    /// Gives back what it takes of a budget when it is dropped.
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

    /// `length` of the bytes from `at` on, for who reads item by item and keeps to [`Payload::len`] itself: what stands
    /// behind in the frame would be given, too.
    #[inline]
    pub fn item(&self, at: usize, length: usize) -> Option<&[u8]> {
        self.frame.get(self.start + at..)?.get(..length)
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there are none.
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
