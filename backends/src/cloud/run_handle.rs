//! One run as all its threads see it. Its state is under one lock, which is never held while anything is sent.

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

/// Before the service has said how many.
const FIRST_WORKERS: usize = 2;
/// The bill comes by then, or the run is closed without.
const BILL: Duration = Duration::from_secs(10);

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
    /// There is something for a sender, or the end.
    pub(crate) work: Condvar,
    /// There is something for the run thread, or for who waits for the end.
    pub(crate) news: Condvar,
}

/// What is read before each item, without the lock.
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
            news: Condvar::new(),
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
        self.news.notify_all();
    }

    /// Waits for the first batch, or for the word that there will be one: nothing is uploaded for a run that gets none.
    ///
    /// # Errors
    /// If the run ends before.
    pub(crate) fn await_work(&self) -> Result<(), Stop> {
        let mut state = self.lock();
        while state.waiting.is_empty() && !state.prepared {
            if state.end.is_some() {
                return Err(Stop::Ended);
            }
            state = self.news.wait_unpoisoned(state);
        }
        Ok(())
    }

    /// What has been charged so far, by the answers that came.
    pub(crate) fn spent(&self) -> Receipt {
        Receipt { microcredits: self.lock().charged.unsigned_abs(), balance: None }
    }

    pub(crate) fn submit(&self, batch: Batch) -> Result<(), SubmitError> {
        if self.gauge.outstanding.load(Ordering::Relaxed) >= self.gauge.slots.load(Ordering::Relaxed) {
            return Err(SubmitError::Full(batch));
        }
        let mut state = self.lock();
        if state.failed || state.exhausted.is_some() {
            // The error is there, or comes with the last answer.
            return Ok(());
        }
        state.put(Piece { batch, before: None });
        self.measure(&state);
        let enough = state.waiting.len() <= state.idle;
        drop(state);
        self.work.notify_one();
        if !enough {
            // For more senders.
            self.news.notify_all();
        }
        Ok(())
    }

    pub(crate) fn cancel(&self, batch: BatchId) {
        let mut state = self.lock();
        state.waiting.retain(|piece| piece.batch.id() != batch);
        let in_flight: Vec<u64> =
            state.sent.iter().filter(|(_, flies)| **flies == batch).map(|(seq, _)| *seq).collect();
        let sent = !in_flight.is_empty();
        state.given_up.extend(&in_flight);
        state.to_cancel.extend(in_flight);
        self.fail_if_exhausted(&mut state);
        self.measure(&state);
        drop(state);
        if sent {
            self.news.notify_all();
        }
    }

    /// The service takes so many batches at a time, and has so many workers.
    pub(crate) fn set_slots(&self, state: &mut RunInner, slots: usize, workers: Option<usize>) {
        state.slots = slots.max(1);
        self.gauge.slots.store(state.slots, Ordering::Relaxed);
        if let Some(workers) = workers {
            self.gauge.workers.store(workers.max(1), Ordering::Relaxed);
        }
    }

    pub(crate) fn measure(&self, state: &RunInner) {
        self.gauge.outstanding.store(state.waiting.len() + state.in_flight, Ordering::Relaxed);
    }

    /// A piece is out of the senders' hands, with what there is to tell of it, and what of it is still to be sent.
    pub(crate) fn landed(&self, completions: impl IntoIterator<Item = Completion>, rest: Vec<Piece>) {
        let mut state = self.lock();
        for piece in rest {
            state.put(piece);
        }
        state.land_for_good();
        // All under the lock: an answer that came behind the error of another piece would be charged, and not be yielded.
        for completion in completions {
            self.completions.put(completion);
        }
        self.fail_if_exhausted(&mut state);
        self.measure(&state);
        drop(state);
        self.work.notify_one();
    }

    /// A piece goes back among those that wait.
    pub(crate) fn put_back(&self, piece: Piece) {
        let mut state = self.lock();
        state.put(piece);
        state.land();
        self.measure(&state);
        drop(state);
        self.wake();
    }

    /// Credits are short: from now on what comes first in the input is paid first. Whether others are in flight, whose
    /// reservations may leave something over.
    pub(crate) fn shrink_window(&self) -> bool {
        let mut state = self.lock();
        state.shrink_window();
        state.in_flight > 1
    }

    /// No more batches can be paid: what is under way is still waited for, and so are answers that were paid before.
    pub(crate) fn exhaust(&self, error: BackendError) {
        self.lock().on_exhausted(error);
        self.landed(None, Vec::new());
    }

    /// Ends a run without credits by its error, once nothing is under way any more.
    fn fail_if_exhausted(&self, state: &mut RunInner) {
        if let Some(error) = state.end_by_exhaustion() {
            self.completions.fail(error);
            self.wake();
        }
    }

    /// The run can't go on.
    pub(crate) fn fail(&self, error: BackendError) {
        let mut state = self.lock();
        if state.end_by_failure() {
            self.completions.fail(error);
        }
        self.measure(&state);
        drop(state);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        self.work.notify_all();
        self.news.notify_all();
    }

    /// Its user has dropped it.
    pub(crate) fn give_up(&self) {
        self.lock().end.get_or_insert(End::Cancel);
        self.wake();
    }

    /// Ends it and waits for the bill.
    pub(crate) fn close(&self) -> Receipt {
        let mut state = self.lock();
        state.end.get_or_insert(End::Done);
        self.wake();
        self.await_end(state, Instant::now() + BILL)
    }

    /// Waits until the run thread is through, up to the deadline.
    pub(crate) fn await_end(&self, mut state: MutexGuard<'_, RunInner>, deadline: Instant) -> Receipt {
        loop {
            if let Some(receipt) = state.receipt {
                return receipt;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Receipt { microcredits: state.charged.unsigned_abs(), balance: None };
            }
            state = self.news.wait_timeout_unpoisoned(state, left);
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
            state = self.news.wait_timeout_unpoisoned(state, left);
        }
    }
}

/// Acknowledgements go together: so many, or after so long.
pub(crate) const ACKS: usize = 256;
