//! A run as the pool knows it: its batches that wait, how many it may hold, and where its completions go.
//! Changed under the pool's lock; [`Gauge`] and the completion queue are what the run's own thread reads without it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::execution::job::Job;
use crate::local::Opening;
use crate::local::ipc::channel::Channel;
use crate::local::ipc::frame_sender::Frame;
use crate::local::pool::grants::Grants;
use crate::model::batch::Batch;
use crate::model::completion::{Completion, Outcome};
use crate::model::completion_queue::CompletionQueue;
use crate::model::error::BackendError;
use crate::model::frame::{DoneHead, Header, ToWorker};

/// Batches that a worker holds at a time, the running one included: enough that what waits is as long as the
/// way of an answer to the host and of the next batch back. More would only bind work to a worker before it
/// is known which one is free.
const LEAST_DEPTH: usize = 2;
const MOST_DEPTH: usize = 4;
/// The way there and back, from one sleeping core to another.
const ROUND_TRIP: Duration = Duration::from_micros(150);

/// One open run.
#[derive(Debug)]
pub(crate) struct RunState {
    pub(crate) job: Arc<Job>,
    /// The frame that opens the job in a worker; a context that is a file goes beside it.
    opening: Arc<Vec<u8>>,
    pub(crate) completions: Arc<CompletionQueue>,
    pub(crate) gauge: Arc<Gauge>,
    pub(crate) pending: VecDeque<Batch>,
    pub(crate) in_flight: usize,
    /// What of its batches workers may still answer.
    pub(crate) grants: Grants,
    /// When it last handed in a batch.
    pub(crate) fed: Option<Instant>,
    /// Its adapter is gone; it stays until its last batch is out of the workers' hands.
    pub(crate) closed: bool,
    pub(crate) failed: bool,
    /// Items about which a warning was written while they ran, because calls were refused to them.
    pub(crate) doubted: usize,
    /// Moving means over answered batches.
    batch_time: Option<Duration>,
    pub(crate) item_time: Option<Duration>,
}

/// What a run asks before each item, without the pool's lock.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    /// Batches submitted and not completed.
    outstanding: AtomicUsize,
    slots: AtomicUsize,
}

impl Gauge {
    /// (batches that would be taken now, batches held at most)
    #[inline]
    pub(crate) fn read(&self) -> (usize, usize) {
        // Relaxed, and the two not in one step: they are a hint for the run's thread, and `submit` decides
        // again under the pool's lock.
        let slots = self.slots.load(Ordering::Relaxed);
        (slots.saturating_sub(self.outstanding.load(Ordering::Relaxed)), slots)
    }
}

/// The frame that opens a job, with its context or without.
fn opening(job: &Job, beside: bool) -> Vec<u8> {
    let opening = Opening { function: job.function.clone(), fail_fast: job.fail_fast };
    let mut payload = postcard::to_stdvec(&opening).expect("a function's name can be written");
    let context_at = (!beside).then_some(payload.len() as u32);
    if !beside {
        payload.extend_from_slice(&job.context);
    }
    Header::frame(ToWorker::Open { job: job.id, context_at }, &payload)
}

impl RunState {
    /// `strict`: its workers are trusted with nothing.
    pub(crate) fn new(job: Arc<Job>, strict: bool) -> Self {
        RunState {
            opening: Arc::new(opening(&job, job.context.file().is_some())),
            completions: Arc::default(),
            gauge: Arc::default(),
            pending: VecDeque::new(),
            in_flight: 0,
            grants: Grants::new(strict),
            fed: None,
            closed: false,
            failed: false,
            doubted: 0,
            batch_time: None,
            item_time: None,
            job,
        }
    }

    /// What opens the job in a worker; gives it the file of the context, where there is one.
    pub(crate) fn opening_for(&self, worker: &Channel) -> Frame {
        let gone = |kind| matches!(kind, io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
        match self.job.context.file().map(|file| worker.give(file)) {
            // Without the file (too many are on their way, say) the context goes through the channel, as a
            // small one does. A dead worker needs neither: frames to it are dropped.
            Some(Err(error)) if !gone(error.kind()) => opening(&self.job, false).into(),
            _ => Frame::Bytes(Arc::clone(&self.opening)),
        }
    }

    /// Tells the run's thread how many batches it may hold.
    pub(crate) fn update_gauge(&self, slots: usize) {
        self.gauge.slots.store(slots, Ordering::Relaxed);
        self.gauge.outstanding.store(self.outstanding(), Ordering::Relaxed);
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.pending.len() + self.in_flight
    }

    pub(crate) fn depth(&self) -> usize {
        let batch = self.batch_time.unwrap_or(ROUND_TRIP).as_nanos().max(1);
        let waiting = ROUND_TRIP.as_nanos().div_ceil(batch);
        usize::try_from(1 + waiting).unwrap_or(MOST_DEPTH).clamp(LEAST_DEPTH, MOST_DEPTH)
    }

    pub(crate) fn observe(&mut self, done: &DoneHead) {
        let mean = |old: Option<Duration>, new: Duration| Some(old.map_or(new, |old| (old * 3 + new) / 4));
        self.batch_time = mean(self.batch_time, done.wall);
        self.item_time = mean(self.item_time, done.wall / done.items.max(1));
    }

    /// Hands a completion to the run's thread, which then finds the place of its batch free.
    pub(crate) fn tell(&mut self, completion: Completion) {
        self.grants.told(completion.batch, completion.items);
        // Before the completion is put. The queue's lock lies between the two, so that the thread that takes
        // the completion sees this number without an order of its own.
        self.gauge.outstanding.store(self.outstanding(), Ordering::Relaxed);
        self.completions.put(completion);
    }

    /// Items that a worker has not begun go to another one, or back to their owner if they were moved too often.
    pub(crate) fn move_on(&mut self, items: Batch) {
        match self.grants.may_move(items.id()) {
            // In front, because these items are earlier than those that have never been handed out.
            true => self.pending.push_front(items),
            false => self.give_back(items),
        }
    }

    /// Items that no worker has begun go back to their owner.
    pub(crate) fn give_back(&mut self, items: Batch) {
        let (batch, first, count) = (items.id(), items.first(), items.items());
        self.tell(Completion { batch, first, items: count, outcome: Outcome::Returned(items) });
    }

    pub(crate) fn fail(&mut self, error: BackendError) {
        if !self.failed {
            self.failed = true;
            self.completions.fail(error);
        }
        // What workers hold is left to them: its answers come as before, and keep the run here until then.
        self.pending.clear();
    }
}
