//! State of a run under one lock: queued batches, the run's name at the service, and how the run is to end.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cloud::credit_window::CreditWindow;
use crate::model::batch::Batch;
use crate::model::cost::Receipt;
use crate::model::error::BackendError;
use crate::model::ids::BatchId;
use crate::{ItemCost, Quote};

/// Assumed number of slots until the service reports it: enough to keep a small machine busy.
pub(super) const FIRST_SLOTS: usize = 8;

/// A batch, or a part of one, that is queued or in flight.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) batch: Batch,
    /// Set if it was sent before: the run, which has ended and may have its answer, and its number there.
    pub(crate) sent_before: Option<(Arc<Opened>, u64)>,
}

/// A run as the service has named it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) run: String,
    pub(crate) lease: Duration,
}

/// Intended end of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Closed by its user.
    Done,
    /// Dropped by its user, or failed.
    Cancel,
}

#[derive(Debug)]
pub(crate) struct RunInner {
    pub(crate) waiting: VecDeque<Piece>,
    /// Set if the run is to be opened before its first batch.
    pub(crate) prepared: bool,
    /// Measured cost of an item, given to `prepare`.
    pub(crate) seen: Option<ItemCost>,
    /// Cost estimate, once the service's prices are known.
    pub(crate) quote: Option<Quote>,
    pub(crate) in_flight: usize,
    /// Numbers and batches in flight.
    pub(super) sent: HashMap<u64, BatchId>,
    /// Of these, the cancelled ones.
    pub(super) cancelled_seqs: HashSet<u64>,
    /// Of these, the ones whose cancellation is to be sent to the service.
    pub(crate) to_cancel: Vec<u64>,
    /// The run that batches are sent to; `None`: not open yet, or not at the moment.
    pub(crate) opened: Option<Arc<Opened>>,
    /// A run that was open, and that the service has ended.
    pub(crate) lost: Option<Arc<Opened>>,
    pub(crate) senders: usize,
    pub(crate) idle: usize,
    pub(crate) slots: usize,
    /// Limit of batches in flight while credits are short.
    window: CreditWindow,
    /// Number of the last batch sent (the first one gets 2).
    pub(crate) next: u64,
    /// Answers that have arrived, to be acknowledged to the service.
    pub(crate) arrived: Vec<u64>,
    /// Charges of the answers that have arrived.
    pub(crate) charged: i64,
    /// Last successful request of the run, which renews its lease.
    pub(crate) last_contact: Instant,
    /// Answers since the run was last opened.
    pub(crate) answers: u64,
    /// Why no more batches are sent; those in flight are still awaited.
    pub(super) exhausted: Option<BackendError>,
    pub(super) failed: bool,
    pub(crate) end: Option<End>,
    /// Set when the run thread has finished: the cost, zero if the run was never opened.
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
            cancelled_seqs: HashSet::new(),
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
            last_contact: Instant::now(),
            answers: 0,
            exhausted: None,
            failed: false,
            end: None,
            receipt: None,
        }
    }

    /// Queues a piece in the order of the input, because the consumer needs earlier items first.
    pub(crate) fn put(&mut self, piece: Piece) {
        let first = piece.batch.first();
        let later = self.waiting.iter().rev().take_while(|other| other.batch.first() > first).count();
        self.waiting.insert(self.waiting.len() - later, piece);
    }

    /// Records that a batch was sent under this number.
    pub(crate) fn on_sent(&mut self, seq: u64, batch: BatchId) {
        self.in_flight += 1;
        self.sent.insert(seq, batch);
    }

    /// Returns whether the batch in flight under this number was cancelled.
    pub(crate) fn is_cancelled(&self, seq: u64) -> bool {
        self.cancelled_seqs.contains(&seq)
    }

    /// Removes a number that is no longer in flight. Returns whether its answer is still wanted.
    pub(crate) fn on_done(&mut self, seq: u64) -> bool {
        self.sent.remove(&seq);
        self.to_cancel.retain(|other| *other != seq);
        !self.cancelled_seqs.remove(&seq)
    }

    /// Queues cancellations again that the service has not received, for batches still in flight.
    pub(super) fn requeue_cancellations(&mut self, seqs: &[u64]) {
        let in_flight = seqs.iter().filter(|seq| self.cancelled_seqs.contains(seq));
        self.to_cancel.extend(in_flight);
    }

    /// Number of pieces that may be sent now.
    pub(crate) fn free_slots(&self) -> usize {
        self.slots.min(self.window.limit()).saturating_sub(self.in_flight)
    }

    /// Credits are short: sends the next piece alone, after all pieces in flight have released their unused
    /// credits.
    pub(crate) fn shrink_window(&mut self) {
        self.window.shrink(self.in_flight);
    }

    /// Removes a piece from those in flight; it is queued again.
    pub(crate) fn on_put_back(&mut self) {
        self.in_flight -= 1;
        self.window.on_put_back();
    }

    /// Removes a piece from those in flight; it is finished.
    pub(crate) fn on_finished(&mut self) {
        self.in_flight -= 1;
        self.window.on_finished();
    }

    /// Fails the run: no batch is sent from now on. Returns whether this is the first failure.
    pub(super) fn end_by_failure(&mut self) -> bool {
        self.waiting.clear();
        self.end.get_or_insert(End::Cancel);
        !std::mem::replace(&mut self.failed, true)
    }

    /// No more batches can be paid. Pieces that may have an answer already are still fetched, because that
    /// answer is paid.
    pub(super) fn on_exhausted(&mut self, error: BackendError) {
        self.exhausted.get_or_insert(error);
        self.waiting.retain(|piece| piece.sent_before.is_some());
    }

    /// Returns the exhaustion error once nothing is in flight or queued. Ends the run in the same step: a
    /// batch sent in between would be charged and not be yielded.
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
