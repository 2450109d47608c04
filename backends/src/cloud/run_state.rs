//! One run as all its threads see it: batches that wait, what the service calls it, how it is to end. Everything is
//! under one lock, which is never held while anything is sent.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use fastmap_sandbox::unpoisoned::{LockUnpoisoned, WaitUnpoisoned};

use crate::backend::SubmitError;
use crate::cloud::credit_window::CreditWindow;
use crate::cloud::session::{Session, Stop, Waiter};
use crate::cloud::targets::targets;
use crate::execution::job::Job;
use crate::model::batch::Batch;
use crate::model::completion::Completion;
use crate::model::completion_queue::CompletionQueue;
use crate::model::cost::Receipt;
use crate::model::error::BackendError;
use crate::model::ids::BatchId;
use crate::{Capacity, ItemCost, Quote, Readiness};

/// Before the service has said how many: enough to keep a small machine busy.
const FIRST_SLOTS: usize = 8;
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
    sent: HashMap<u64, BatchId>,
    /// Of these, those that nobody waits for.
    given_up: HashSet<u64>,
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
    exhausted: Option<BackendError>,
    failed: bool,
    pub(crate) end: Option<End>,
    /// The run thread is through; what it cost, if it ever began.
    pub(crate) receipt: Option<Receipt>,
}

impl RunInner {
    fn new() -> Self {
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
    fn land_for_good(&mut self) {
        self.in_flight -= 1;
        self.window.on_landed();
    }

    /// No batch is sent from now on. Whether this is the first failure.
    fn end_by_failure(&mut self) -> bool {
        self.waiting.clear();
        self.end.get_or_insert(End::Cancel);
        !std::mem::replace(&mut self.failed, true)
    }

    /// No more can be paid. An answer that may be there since before is paid, and is still fetched.
    fn on_exhausted(&mut self, error: BackendError) {
        self.exhausted.get_or_insert(error);
        self.waiting.retain(|piece| piece.before.is_some());
    }

    /// Why no more could be paid, once nothing is under way any more: with it the run has ended, so that no batch is sent
    /// in between, which would be charged and not be yielded.
    fn end_by_exhaustion(&mut self) -> Option<BackendError> {
        if self.in_flight > 0 || !self.waiting.is_empty() {
            return None;
        }
        let error = self.exhausted.take()?;
        self.end_by_failure().then_some(error)
    }
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

    /// Nobody wants anything of it any more.
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

#[cfg(test)]
mod tests;
