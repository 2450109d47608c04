//! One piece of work that waits for its outcome.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::sync::oneshot;

use crate::dispatch::jetstream::messages::{Files, Reply};
use crate::dispatch::work::{Task, Work, WorkOutcome};

/// Agents that may lose the same work before it is given up.
pub(super) const DELIVERIES: u32 = 5;

/// Bytes that an outcome may have beside an answer within its limit: header and messages.
pub(super) const BESIDE: u64 = 1 << 20;

/// Multiple of its limit of CPU time that a batch may be in agents' hands: agents give it four times the
/// limit on the clock, and may hold five for each worker.
pub(super) const LONGEST: u32 = 20;

/// Where to acknowledge work, once its outcome has come.
pub(super) type Ack = Arc<Mutex<Option<String>>>;

/// Work that waits for its outcome.
#[derive(Debug)]
pub(super) struct PendingItem {
    pub(super) work: Work,
    /// The last token of its subject.
    pub(super) n: u64,
    /// How often it was put into the queue anew.
    pub(super) attempt: u32,
    pub(super) reply: oneshot::Sender<WorkOutcome>,
    pub(super) ack: Ack,
    /// Agents that have had it; the first is counted from the start.
    pub(super) leases: u32,
    /// An outcome that comes in parts, as far as it is here.
    pub(super) parts: Vec<u8>,
    pub(super) sent: Instant,
    pub(super) missing: u32,
    /// Its place in the stream, and since when it is known that an agent has it.
    pub(super) position: Option<u64>,
    pub(super) delivered: Option<Instant>,
    /// The highest count of deliveries that a claim of this attempt has named.
    pub(super) deliveries: u64,
}

impl PendingItem {
    pub(super) fn items(&self) -> u32 {
        match &self.work.task {
            Task::Check => 0,
            Task::Batch(batch) => batch.items,
        }
    }

    /// It is put into the queue anew.
    pub(super) fn requeue(&mut self) {
        self.missing = 0;
        self.leases += 1;
        self.attempt += 1;
        self.sent = Instant::now();
        (self.position, self.delivered, self.deliveries) = (None, None, 0);
    }

    /// How long agents may have it; `None`: without a limit.
    pub(super) fn time_limit(&self, patience: Duration) -> Option<Duration> {
        match &self.work.task {
            // The gateway that has opened the run waits for a check for a minute and gives it up itself.
            Task::Check => None,
            Task::Batch(batch) => Some(batch.limit.cpu.saturating_mul(LONGEST).saturating_add(patience)),
        }
    }

    pub(super) fn answer(self, outcome: WorkOutcome) {
        // The receiver is gone if the batch was given up.
        let _ = self.reply.send(outcome);
    }
}

/// Work that an agent has kept for too long.
#[derive(Debug)]
pub(super) struct Overdue {
    pub(super) token: String,
    pub(super) run: String,
    pub(super) n: u64,
    /// `None`: agents have kept it too often.
    pub(super) requeued: Option<Requeued>,
}

/// Work that is put into the queue anew.
#[derive(Debug)]
pub(super) struct Requeued {
    pub(super) token: String,
    pub(super) work: Work,
    pub(super) n: u64,
    pub(super) attempt: u32,
    pub(super) files: Files,
}

impl PendingItem {
    pub(super) fn payload(&self, offset: u64, room: usize) -> Reply {
        let Task::Batch(batch) = &self.work.task else { return Reply::No };
        let length = batch.payload.len();
        match usize::try_from(offset) {
            Ok(offset) if offset < length => {
                Reply::Yes(batch.payload.slice(offset..length.min(offset + room)))
            }
            _ => Reply::No,
        }
    }

    /// Adds a part of an outcome. A part that comes twice is taken once; a gap is refused.
    pub(super) fn part(&mut self, offset: u64, total: u64, part: &[u8]) -> Reply {
        // Parts are in the gateway's memory until the outcome is whole. Without a bound, an agent could fill
        // it.
        let most = match &self.work.task {
            Task::Check => BESIDE,
            Task::Batch(batch) => batch.limit.bytes.saturating_add(BESIDE),
        };
        // An agent that begins anew, or another agent: parts of an earlier attempt do not count.
        if offset == 0 {
            self.parts.clear();
        }
        let there = self.parts.len() as u64;
        let end = offset.saturating_add(part.len() as u64);
        // An agent sends a part when the one before is answered. A gap is another agent's parts, or a loss.
        if total > most || end > total || offset > there {
            return Reply::No;
        }
        if end > there {
            // A part that comes again because its answer was lost replaces itself.
            self.parts.truncate(offset as usize);
            self.parts.extend_from_slice(part);
        }
        Reply::Yes(Bytes::new())
    }
}
