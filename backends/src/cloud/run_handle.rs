//! Handle of one run, shared by its threads. Its state is under one lock, which is never held during I/O.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use fastmap_sandbox::unpoisoned::{LockUnpoisoned, WaitUnpoisoned};

use crate::backend::SubmitError;
use crate::cloud::run_state::{End, FIRST_SLOTS, Piece, RunInner};
use crate::cloud::session::{Session, Stop, Waiter};
use crate::cloud::targets::targets;
use crate::execution::job::Job;
use crate::model::batch::Batch;
use crate::model::completion::Completion;
use crate::model::completion_queue::CompletionQueue;
use crate::model::cost::Receipt;
use crate::model::error::BackendError;
use crate::model::ids::BatchId;
use crate::{Capacity, ItemCost, Readiness};

/// Assumed number of workers until the service reports it.
const FIRST_WORKERS: usize = 2;
/// Timeout for the bill when a run is closed.
const BILL_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct RunHandle {
    pub(crate) session: Arc<Session>,
    pub(crate) job: Arc<Job>,
    pub(crate) completions: CompletionQueue,
    gauge: Gauge,
    /// Bytes of uploads that are still to be sent.
    upload_left: AtomicU64,
    state: Mutex<RunInner>,
    /// Notified when there is work for a sender, or the run ends.
    pub(crate) work: Condvar,
    /// Notified when there is work for the run thread, when a pause is cut short, or when the receipt is set.
    pub(crate) changed: Condvar,
}

/// Numbers that are read before each item, without the lock.
#[derive(Debug)]
struct Gauge {
    /// Pieces submitted and not answered.
    outstanding: AtomicUsize,
    slots: AtomicUsize,
    workers: AtomicUsize,
}

impl RunHandle {
    pub(crate) fn new(session: Arc<Session>, job: Arc<Job>) -> Self {
        RunHandle {
            session,
            job,
            completions: CompletionQueue::default(),
            gauge: Gauge {
                outstanding: AtomicUsize::new(0),
                slots: AtomicUsize::new(FIRST_SLOTS),
                workers: AtomicUsize::new(FIRST_WORKERS),
            },
            upload_left: AtomicU64::new(0),
            state: Mutex::new(RunInner::new()),
            work: Condvar::new(),
            changed: Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, RunInner> {
        self.state.lock_unpoisoned()
    }

    pub(crate) fn capacity(&self) -> Capacity {
        let slots = self.gauge.slots.load(Ordering::Relaxed);
        let outstanding = self.gauge.outstanding.load(Ordering::Relaxed);
        let trip = self.session.round_trip().unwrap_or_default();
        Capacity {
            batches: slots.saturating_sub(outstanding),
            slots,
            workers: self.gauge.workers.load(Ordering::Relaxed),
            targets: targets(trip),
        }
    }

    pub(crate) fn readiness(&self) -> Readiness {
        let state = self.lock();
        Readiness {
            ready: state.opened.is_some() || state.lost.is_some(),
            quote: state.quote,
            upload_left: self.upload_left.load(Ordering::Relaxed),
            silent: self.session.silent(),
        }
    }

    pub(crate) fn prepare(&self, seen: Option<ItemCost>) {
        let mut state = self.lock();
        (state.prepared, state.seen) = (true, seen);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for the first batch, or for `prepare`: a run without items uploads nothing.
    ///
    /// # Errors
    /// If the run ends before.
    pub(crate) fn await_work(&self) -> Result<(), Stop> {
        let mut state = self.lock();
        while state.waiting.is_empty() && !state.prepared {
            if state.end.is_some() {
                return Err(Stop::Ended);
            }
            state = self.changed.wait_unpoisoned(state);
        }
        Ok(())
    }

    /// Charges of the answers that have arrived.
    pub(crate) fn spent(&self) -> Receipt {
        Receipt { microcredits: self.lock().charged.unsigned_abs(), balance: None }
    }

    pub(crate) fn submit(&self, batch: Batch) -> Result<(), SubmitError> {
        if self.gauge.outstanding.load(Ordering::Relaxed) >= self.gauge.slots.load(Ordering::Relaxed) {
            return Err(SubmitError::Full(batch));
        }
        let mut state = self.lock();
        if state.failed || state.exhausted.is_some() {
            // The error is queued already, or follows the last answer.
            return Ok(());
        }
        state.put(Piece { batch, sent_before: None });
        self.update_gauge(&state);
        let idle_sender_available = state.waiting.len() <= state.idle;
        drop(state);
        self.work.notify_one();
        if !idle_sender_available {
            // Wakes the run thread, which starts more senders.
            self.changed.notify_all();
        }
        Ok(())
    }

    pub(crate) fn cancel(&self, batch: BatchId) {
        let mut state = self.lock();
        state.waiting.retain(|piece| piece.batch.id() != batch);
        let in_flight: Vec<u64> =
            state.sent.iter().filter(|(_, sent_batch)| **sent_batch == batch).map(|(seq, _)| *seq).collect();
        let sent = !in_flight.is_empty();
        state.cancelled_seqs.extend(&in_flight);
        state.to_cancel.extend(in_flight);
        self.fail_if_exhausted(&mut state);
        self.update_gauge(&state);
        drop(state);
        if sent {
            self.changed.notify_all();
        }
    }

    /// Sets the batches that the service accepts at a time, and its number of workers.
    pub(crate) fn set_slots(&self, state: &mut RunInner, slots: usize, workers: Option<usize>) {
        state.slots = slots.max(1);
        self.gauge.slots.store(state.slots, Ordering::Relaxed);
        if let Some(workers) = workers {
            self.gauge.workers.store(workers.max(1), Ordering::Relaxed);
        }
    }

    pub(crate) fn update_gauge(&self, state: &RunInner) {
        self.gauge.outstanding.store(state.waiting.len() + state.in_flight, Ordering::Relaxed);
    }

    /// Finishes a piece in flight: reports its completions, and queues the rest that is still to be sent.
    pub(crate) fn finish_piece(&self, completions: impl IntoIterator<Item = Completion>, rest: Vec<Piece>) {
        let mut state = self.lock();
        for piece in rest {
            state.put(piece);
        }
        state.on_finished();
        // All under the lock: an answer queued after another piece's error would be charged, and not be
        // yielded.
        for completion in completions {
            self.completions.put(completion);
        }
        self.fail_if_exhausted(&mut state);
        self.update_gauge(&state);
        drop(state);
        self.work.notify_one();
    }

    /// Returns a piece in flight to the queue.
    pub(crate) fn put_back(&self, piece: Piece) {
        let mut state = self.lock();
        state.put(piece);
        state.on_put_back();
        self.update_gauge(&state);
        drop(state);
        self.wake();
    }

    /// Credits are short: from now on batches are paid in the order of the input. Returns whether others are
    /// in flight, which may leave some of their reserved credits.
    pub(crate) fn shrink_window(&self) -> bool {
        let mut state = self.lock();
        state.shrink_window();
        state.in_flight > 1
    }

    /// No more batches can be paid. Batches in flight and answers that were paid before are still awaited.
    pub(crate) fn exhaust(&self, error: BackendError) {
        self.lock().on_exhausted(error);
        self.finish_piece(None, Vec::new());
    }

    /// Ends an exhausted run with its error, once nothing is in flight or queued.
    fn fail_if_exhausted(&self, state: &mut RunInner) {
        if let Some(error) = state.end_by_exhaustion() {
            self.completions.fail(error);
            self.wake();
        }
    }

    /// Ends the run with an error.
    pub(crate) fn fail(&self, error: BackendError) {
        let mut state = self.lock();
        if state.end_by_failure() {
            self.completions.fail(error);
        }
        self.update_gauge(&state);
        drop(state);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        self.work.notify_all();
        self.changed.notify_all();
    }

    /// Cancels the run: its user has dropped it.
    pub(crate) fn cancel_run(&self) {
        self.lock().end.get_or_insert(End::Cancel);
        self.wake();
    }

    /// Ends the run and waits for the bill.
    pub(crate) fn close(&self) -> Receipt {
        let mut state = self.lock();
        state.end.get_or_insert(End::Done);
        self.wake();
        self.await_end(state, Instant::now() + BILL_TIMEOUT)
    }

    /// Waits for the receipt of the run thread, up to the deadline.
    pub(crate) fn await_end(&self, mut state: MutexGuard<'_, RunInner>, deadline: Instant) -> Receipt {
        loop {
            if let Some(receipt) = state.receipt {
                return receipt;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Receipt { microcredits: state.charged.unsigned_abs(), balance: None };
            }
            state = self.changed.wait_timeout_unpoisoned(state, left);
        }
    }
}

impl Waiter for RunHandle {
    fn uploading(&self, left: u64) {
        self.upload_left.store(left, Ordering::Relaxed);
    }

    fn pause(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        loop {
            if state.end.is_some() {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            state = self.changed.wait_timeout_unpoisoned(state, left);
        }
    }
}

/// Acknowledgements are sent in batches of this many, or after `ACK_INTERVAL`.
pub(crate) const ACK_BATCH: usize = 256;
