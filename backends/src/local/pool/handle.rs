//! The pool: its state behind one lock, and what wakes its supervisor. Runs come in here, and readers report here that a
//! worker has started or not; what workers report later is in `events`, what the supervisor asks for in `supervisor_api`.
//!
//! All decisions are taken under the one lock, by the thread that has an event. Nothing waits under it. A frame is sent
//! under it where that can't wait, so that frames keep the order of the decisions. The locks of a
//! [`FrameSender`](crate::local::ipc::frame_sender::FrameSender) and of a completion queue are taken under it, never the
//! other way round.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use fastmap_sandbox::ConfinementLevel;
use fastmap_sandbox::unpoisoned::LockUnpoisoned;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::backend::SubmitError;
use crate::execution::job::Job;
use crate::local::output::delivery::Output;
use crate::local::pool::errands::ServedRendezvous;
use crate::local::pool::pauses::SILENT;
use crate::local::pool::run_state::{Gauge, RunState};
use crate::local::pool::state::PoolState;
use crate::local::pool::worker_handle::WorkerHandle;
use crate::local::pool::worker_limits::WorkerLimits;
use crate::local::process::descriptors;
use crate::local::process::descriptors::fill_standard;
use crate::local::process::watched::Watched;
use crate::local::{LocalOptions, cores};
use crate::model::batch::Batch;
use crate::model::completion_queue::CompletionQueue;
use crate::model::death::WorkerExit;
use crate::model::error::BackendError;
use crate::model::ids::{BatchId, JobId};

/// Descriptors that a worker's start takes in the host. Four stay: the channel, two pipes and the process.
const START: usize = 10;
/// Descriptors that are left to the program where there is more than one worker.
const SPARE: usize = 8;

/// Time after which the sockets of new workers are removed: the workers have run their first items by then,
/// so that the removal takes no core from them.
const STARTED: Duration = Duration::from_millis(2);

/// The pool of a [`Local`](crate::local::Local), which its threads share.
#[derive(Debug)]
pub(crate) struct PoolHandle {
    state: Mutex<PoolState>,
    /// Wakes the supervisor at once.
    wake: Arc<EventFd>,
    /// Wakes it later, for what goes by the clock: to set it costs 1 µs, where to wake a thread costs 10 and takes a
    /// core for a moment.
    timer: TimerFd,
    /// Wakes a caller that waits for a first worker.
    pub(crate) started: Condvar,
    pub(crate) options: LocalOptions,
    /// How much of what workers print has been passed on.
    pub(crate) output: Arc<Output>,
    /// Workers that are started at a time.
    cores: usize,
    /// The process that made the pool.
    pub(crate) owner: u32,
}

impl PoolHandle {
    /// Whether a worker has come up that takes batches.
    pub(crate) fn has_worker(&self) -> bool {
        self.lock().has_connected_worker()
    }

    pub(crate) fn new(options: LocalOptions) -> io::Result<Self> {
        fill_standard();
        // Non-blocking, because the supervisor empties both without a look whether they were set.
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let limits = WorkerLimits { memory: options.memory, items: options.most_items };
        let own = options.launcher.is_none();
        let confined = !own || options.sandbox != ConfinementLevel::Off;
        let state = Mutex::new(PoolState::new(options.processes, limits, own, confined));
        let started = Condvar::default();
        let (cores, owner) = (cores::count(&cores::own()).max(1), std::process::id());
        Ok(PoolHandle { state, wake, timer, started, options, output: Arc::default(), cores, owner })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, PoolState> {
        // Also after a panic under the lock: `give_up` needs it then, or the maps would wait for ever.
        self.state.lock_unpoisoned()
    }

    /// The same, if no thread has it now.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, PoolState>> {
        match self.state.try_lock() {
            Ok(state) => Some(state),
            Err(TryLockError::Poisoned(state)) => Some(state.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(crate) fn wake(&self) -> &Arc<EventFd> {
        &self.wake
    }

    pub(crate) fn timer(&self) -> &TimerFd {
        &self.timer
    }

    /// Has the supervisor look around after that time, if it does not do so anyway at about then.
    fn look_after(&self, state: &mut PoolState, pause: Duration) {
        let at = Instant::now() + pause;
        // A look at up to twice the time is near enough: this runs for each batch, and to set the timer is a
        // system call.
        if state.next_look.is_some_and(|look| look <= at + pause) {
            return;
        }
        state.next_look = Some(at);
        let once = Expiration::OneShot(pause.into());
        // Without the timer the supervisor comes at once, and waits for the rest of the time in `poll`.
        if self.timer.set(once, TimerSetTimeFlags::empty()).is_err() {
            self.wake_supervisor();
        }
    }

    pub(crate) fn wake_supervisor(&self) {
        // Fails only when the counter is full, and then the supervisor is awake.
        let _full = self.wake.write(1);
    }

    /// Has the supervisor pass on a warning, if there is one.
    pub(crate) fn warn(&self, warning: Option<String>) {
        self.lock().errands.warnings.extend(warning);
    }

    pub(crate) fn worker_pids(&self) -> Vec<u32> {
        self.lock().workers.iter().map(WorkerHandle::pid).collect()
    }

    pub(crate) fn shut_down(&self) {
        self.lock().close();
        self.wake_supervisor();
    }

    /// The supervisor is gone: ends the workers and all runs, now and later.
    pub(crate) fn give_up(&self) {
        let mut guard = self.lock();
        let state = &mut *guard;
        // Under the same lock as the failing of the runs: a run that is opened later finds the pool closing,
        // and fails as well.
        state.close();
        state.workers.iter_mut().for_each(WorkerHandle::kill);
        // No thread reads the pipes any more, so that the end of a map must not wait for a mark.
        self.output.end();
        for run in state.runs.values_mut() {
            run.fail(BackendError::Other("the thread that looks after the workers panicked".to_owned()));
        }
    }

    /// Whether workers may start processes, which are to be ended with them.
    pub(crate) fn starts_processes(&self) -> bool {
        self.options.launcher.is_none() && self.options.sandbox != ConfinementLevel::Full
    }

    /// Whether that worker was asked to leave, with nothing to do any more.
    pub(crate) fn is_asked_to_leave(&self, id: u64) -> bool {
        let mut state = self.lock();
        state.is_closing() || state.member(id).is_some_and(|member| member.life.leaving_since().is_some())
    }

    /// A run begins.
    pub(crate) fn open(&self, job: Arc<Job>) -> (Arc<CompletionQueue>, Arc<Gauge>) {
        let mut run = RunState::new(job, self.options.launcher.is_some());
        let handles = (Arc::clone(&run.completions), Arc::clone(&run.gauge));
        let mut state = self.lock();
        if state.is_closing() {
            run.fail(BackendError::Other("the thread that looks after the workers panicked".to_owned()));
        }
        state.runs.insert(run.job.id, run);
        state.update_gauges();
        // It looks after silent workers by the clock while there are runs.
        self.look_after(&mut state, SILENT / 4);
        handles
    }

    /// A run hands in a batch.
    pub(crate) fn submit(&self, job: JobId, batch: Batch) -> Result<(), SubmitError> {
        let state = self.lock();
        // A run with nothing outstanding always gets one batch in: it would have no answer to wait for
        // otherwise.
        let full = |run: &RunState| run.gauge.read().0 == 0 && run.outstanding() > 0;
        match state.runs.get(&job) {
            Some(run) if full(run) => Err(SubmitError::Full(batch)),
            _ => self.take(state, job, batch),
        }
    }

    /// The same for a batch that waits here if the run has no place for it.
    pub(crate) fn submit_beyond(&self, job: JobId, batch: Batch) -> Result<(), SubmitError> {
        self.take(self.lock(), job, batch)
    }

    fn take(
        &self,
        mut state: MutexGuard<'_, PoolState>,
        job: JobId,
        batch: Batch,
    ) -> Result<(), SubmitError> {
        let Some(run) = state.runs.get_mut(&job).filter(|run| !run.failed && batch.job() == job) else {
            return Err(SubmitError::Closed(batch));
        };
        run.grants.submitted(&batch);
        // Earlier items go first: they are what the consumer waits for.
        let at = run.pending.partition_point(|waiting| waiting.first() <= batch.first());
        run.pending.insert(at, batch);
        run.fed = Some(Instant::now());
        self.hand_out(state);
        Ok(())
    }

    /// A run can't go on.
    pub(crate) fn fail(&self, job: JobId, error: BackendError) {
        if let Some(run) = self.lock().runs.get_mut(&job) {
            run.fail(error);
        }
    }

    /// A run has lost interest in a batch.
    pub(crate) fn cancel(&self, job: JobId, batch: BatchId) {
        let mut state = self.lock();
        if let Some(run) = state.runs.get_mut(&job) {
            // A batch may have been cut: several pieces with its number may wait here, and others be in
            // workers' hands.
            run.pending.retain(|waiting| waiting.id() != batch);
            run.grants.forget(batch);
        }
        state.abandon(|held| held.batch.job() == job && held.batch.id() == batch);
        self.hand_out(state);
    }

    /// A run ends. What is queued is dropped, what runs belongs to no run any more.
    pub(crate) fn close(&self, job: JobId) {
        let mut state = self.lock();
        if let Some(run) = state.runs.get_mut(&job) {
            run.pending.clear();
            run.closed = true;
        }
        state.abandon(|held| held.batch.job() == job);
        // Before batches are handed out: workers free the ended job's context before the next job reaches
        // them.
        state.forget_finished();
        self.hand_out(state);
    }

    /// Has a socket removed that a worker has come through and that is not needed any more: on a disk that takes 0.5 ms,
    /// which no map should wait for.
    pub(crate) fn close_later(&self, met: ServedRendezvous) {
        let mut state = self.lock();
        state.errands.deferred_close.push(met);
        self.look_after(&mut state, STARTED);
    }

    /// The numbers of those workers of the requested whose start is to begin now.
    pub(crate) fn on_starts_begin(&self) -> Range<u64> {
        let mut state = self.lock();
        // A start takes a core.
        let abreast = if state.is_closing() { 0 } else { self.cores };
        state.starts.on_begin(abreast, Instant::now())
    }

    /// A worker's process has started.
    pub(crate) fn on_spawned(&self, mut member: WorkerHandle, watched: Watched) {
        let mut state = self.lock();
        state.starts.on_spawned();
        if state.is_closing() {
            // It has begun nothing yet, and has no channel by which it could be asked.
            member.kill();
        }
        state.workers.push(member);
        // Under the same lock: the supervisor would not look after a worker whose process it has not seen.
        state.errands.arrived.push(watched);
        state.warn_of_shortage();
        drop(state);
        self.wake_supervisor();
    }

    /// Sees whether there are descriptors for one more worker, and some for the program beside it. The first worker gets
    /// what there is.
    ///
    /// # Errors
    /// If there are too few, also after the limit was raised as far as that is allowed.
    pub(crate) fn expect_descriptors(&self) -> io::Result<()> {
        let first = self.lock().workers.is_empty();
        // More workers are a gain in speed alone, for which the program's own files must not fail.
        let count = if first { START } else { START + SPARE };
        descriptors::expect(self.wake.as_fd(), count).or_else(|_| {
            // Only where too few are left: programs that the host starts inherit a raised limit, and some of
            // them close as many numbers as it allows.
            descriptors::raise();
            descriptors::expect(self.wake.as_fd(), count)
        })
    }

    /// A limit kept that many workers from being started. A map goes on with the others, if there are some.
    pub(crate) fn on_short(&self, death: WorkerExit, limit: String, workers: usize) {
        let mut state = self.lock();
        state.starts.on_not_started(workers);
        // Without any worker a map can't go on with the others. The shortage then counts as a failed start,
        // so that three in a row end the map.
        if state.starts.starting() == 0 && state.workers.is_empty() {
            state.on_failed_start(death);
        } else {
            state.starts.on_short(limit, Instant::now());
            state.warn_of_shortage();
        }
        self.started.notify_all();
        self.hand_out(state);
        // The supervisor may be waiting for this start to begin the next, or to end.
        self.wake_supervisor();
    }

    /// A worker could not be started; with those behind it that were not tried, it is so many.
    pub(crate) fn on_not_started(&self, death: WorkerExit, workers: usize) {
        let mut state = self.lock();
        state.starts.on_not_started(workers);
        state.on_failed_start(death);
        self.started.notify_all();
        self.hand_out(state);
        // The supervisor may be waiting for this start to begin the next, or to end.
        self.wake_supervisor();
    }

    /// Gives waiting batches to workers with room, and asks for workers where there is work for more.
    pub(crate) fn hand_out(&self, mut state: MutexGuard<'_, PoolState>) {
        state.hand_out();
        // Stealing, timeouts and stuck orphans go by the clock.
        if let Some(pause) = state.first_pause() {
            self.look_after(&mut state, pause);
        }
        let wake = state.want_workers();
        // Unlocked before the supervisor wakes, which would wait for the lock.
        drop(state);
        if wake {
            self.wake_supervisor();
        }
    }
}
