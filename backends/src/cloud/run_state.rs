//! What the threads of a run share under one lock: batches that wait, what the service calls the run, how it is to end.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cloud::credit_window::CreditWindow;
use crate::model::batch::Batch;
use crate::model::cost::Receipt;
use crate::model::error::BackendError;
use crate::model::ids::BatchId;
use crate::{ItemCost, Quote};

/// Before the service has said how many: enough to keep a small machine busy.
pub(super) const FIRST_SLOTS: usize = 8;

/// A batch, or a part of one, on its way.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) batch: Batch,
    /// It was sent before, in a run that is over and may have an answer to it, under this number.
    pub(crate) before: Option<(Arc<Opened>, u64)>,
}

/// The run by the name that the service has given it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) run: String,
    pub(crate) lease: Duration,
}

/// How the run is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its user has what it wants.
    Done,
    /// Its user is gone, or it has failed.
    Cancel,
}

#[derive(Debug)]
pub(crate) struct RunInner {
    pub(crate) waiting: VecDeque<Piece>,
    /// It is to be opened before its first batch; what its items have cost elsewhere.
    pub(crate) prepared: bool,
    /// What whoever prepared it has seen of an item's cost.
    pub(crate) seen: Option<ItemCost>,
    /// What it costs, once the service has said.
    pub(crate) quote: Option<Quote>,
    pub(crate) in_flight: usize,
    /// Numbers under which batches are on their way, with the batches.
    pub(super) sent: HashMap<u64, BatchId>,
    /// Of these, those that nobody waits for.
    pub(super) given_up: HashSet<u64>,
    /// Of these, those whose cancellation is to be sent to the service.
    pub(crate) to_cancel: Vec<u64>,
    /// Where batches are sent; `None`: not yet, or not now.
    pub(crate) opened: Option<Arc<Opened>>,
    /// A run that was open and is no more.
    pub(crate) lost: Option<Arc<Opened>>,
    pub(crate) senders: usize,
    pub(crate) idle: usize,
    pub(crate) slots: usize,
    /// Batches that may be in flight while credits are short.
    window: CreditWindow,
    /// The number of the next batch.
    pub(crate) next: u64,
    /// Answers that have arrived, to be acknowledged to the service.
    pub(crate) arrived: Vec<u64>,
    /// What the answers that have arrived cost.
    pub(crate) charged: i64,
    /// When the service last heard of the run.
    pub(crate) heard: Instant,
    /// Answers since the run was last opened.
    pub(crate) answers: u64,
    /// Why no more batches are sent, while those under way are still waited for.
    pub(super) exhausted: Option<BackendError>,
    pub(super) failed: bool,
    pub(crate) end: Option<End>,
    /// The run thread is through; what it cost, if it ever began.
    pub(crate) receipt: Option<Receipt>,
}

impl RunInner {
    pub(super) fn new() -> Self {
        RunInner {
            waiting: VecDeque::new(),
            prepared: false,
            seen: None,
            quote: None,
            in_flight: 0,
            sent: HashMap::new(),
            given_up: HashSet::new(),
            to_cancel: Vec::new(),
            opened: None,
            lost: None,
            senders: 0,
            idle: 0,
            slots: FIRST_SLOTS,
            window: CreditWindow::default(),
            next: 1,
            arrived: Vec::new(),
            charged: 0,
            heard: Instant::now(),
            answers: 0,
            exhausted: None,
            failed: false,
            end: None,
            receipt: None,
        }
    }

    /// Puts a piece among those that wait: what the consumer wants first goes first.
    pub(crate) fn put(&mut self, piece: Piece) {
        let first = piece.batch.first();
        let behind = self.waiting.iter().rev().take_while(|other| other.batch.first() > first).count();
        self.waiting.insert(self.waiting.len() - behind, piece);
    }

    /// A batch is on its way under this number.
    pub(crate) fn on_sent(&mut self, seq: u64, batch: BatchId) {
        self.in_flight += 1;
        self.sent.insert(seq, batch);
    }

    /// Nobody waits for what is on its way under this number.
    pub(crate) fn is_given_up(&self, seq: u64) -> bool {
        self.given_up.contains(&seq)
    }

    /// Nothing is on its way under this number any more. Whether somebody waited for it.
    pub(crate) fn on_done(&mut self, seq: u64) -> bool {
        self.sent.remove(&seq);
        self.to_cancel.retain(|other| *other != seq);
        !self.given_up.remove(&seq)
    }

    /// The service has not received the cancellation of these; for those that are still on their way it is sent again.
    pub(super) fn cancel_again(&mut self, seqs: &[u64]) {
        let in_flight = seqs.iter().filter(|seq| self.given_up.contains(seq));
        self.to_cancel.extend(in_flight);
    }

    /// How many more may be sent.
    pub(crate) fn room(&self) -> usize {
        self.slots.min(self.window.most()).saturating_sub(self.in_flight)
    }

    /// Credits are short: the next piece goes when all that are in flight have given back what they don't use, and goes
    /// alone.
    pub(crate) fn shrink_window(&mut self) {
        self.window.shrink(self.in_flight);
    }

    /// A piece is not in flight any more, and is put back.
    pub(crate) fn land(&mut self) {
        self.in_flight -= 1;
        self.window.on_put_back();
    }

    /// The same, and it is not put back.
    pub(super) fn land_for_good(&mut self) {
        self.in_flight -= 1;
        self.window.on_landed();
    }

    /// No batch is sent from now on. Whether this is the first failure.
    pub(super) fn end_by_failure(&mut self) -> bool {
        self.waiting.clear();
        self.end.get_or_insert(End::Cancel);
        !std::mem::replace(&mut self.failed, true)
    }

    /// No more can be paid. An answer that may be there since before is paid, and is still fetched.
    pub(super) fn on_exhausted(&mut self, error: BackendError) {
        self.exhausted.get_or_insert(error);
        self.waiting.retain(|piece| piece.before.is_some());
    }

    /// Why no more could be paid, once nothing is under way any more: with it the run has ended, so that no batch is sent
    /// in between, which would be charged and not be yielded.
    pub(super) fn end_by_exhaustion(&mut self) -> Option<BackendError> {
        if self.in_flight > 0 || !self.waiting.is_empty() {
            return None;
        }
        let error = self.exhausted.take()?;
        self.end_by_failure().then_some(error)
    }
}

#[cfg(test)]
mod tests;
