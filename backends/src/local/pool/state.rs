//! Assignment of batches to workers. All decisions of the pool are taken under one lock, by the thread that reports an
//! event: a run that submits, a reader whose worker answered, the supervisor whose worker died (`events`). Nothing here waits.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastmap_sandbox::ConfinementLevel;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::backend::SubmitError;
use crate::execution::job::Job;
use crate::local::affinity::BusyCores;
use crate::local::ipc::rendezvous::Rendezvous;
use crate::local::output::delivery::Output;
use crate::local::pool::limits::WorkerLimits;
use crate::local::pool::run_state::{Gauge, RunState};
use crate::local::pool::worker_handle::{AssignedBatch, WorkerHandle, recall};
use crate::local::process::descriptors;
use crate::local::process::descriptors::fill_standard;
use crate::local::process::watched::Watched;
use crate::local::{LocalOptions, cores};
use crate::model::batch::Batch;
use crate::model::completion_queue::CompletionQueue;
use crate::model::death::WorkerExit;
use crate::model::error::BackendError;
use crate::model::frame::{Header, ToWorker};
use crate::model::ids::{BatchId, JobId};

/// Workers that may die in a row before their handshake, or without having run anything, before runs are ended.
const FAILED_STARTS: usize = 3;

/// Descriptors that a worker's start takes in the host. Four stay: the channel, two pipes and the process.
const START: usize = 10;
/// Descriptors that are left to the program where there is more than one worker.
const SPARE: usize = 8;

/// Workers that connect have run their first items by then, and what waited for those does not stand in their way.
const STARTED: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(crate) struct PoolHandle {
    state: Mutex<PoolState>,
    /// Wakes the supervisor at once.
    wake: Arc<EventFd>,
    /// Wakes it later, for what goes by the clock: to set it costs 1 µs, where to wake a thread costs 10 and takes a
    /// core for a moment.
    timer: TimerFd,
    /// Wakes who waits for a first worker.
    pub(crate) started: Condvar,
    pub(crate) options: LocalOptions,
    /// How far what workers print has come.
    pub(crate) output: Arc<Output>,
    /// Workers that are started at a time.
    cores: usize,
    /// The process that made the pool.
    pub(crate) owner: u32,
}

/// Where a worker has connected. It is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct ServedRendezvous {
    pub(crate) _server: Arc<Rendezvous>,
    pub(crate) _connection: OwnedFd,
}

/// Whether a limit of the system kept workers from being started.
#[derive(Debug, Default, PartialEq, Eq)]
enum Shortage {
    #[default]
    Unseen,
    /// Which, in words.
    Seen(String),
    /// And it was said.
    Told,
}

#[derive(Debug, Default)]
pub(crate) struct PoolState {
    pub(crate) workers: Vec<WorkerHandle>,
    pub(crate) runs: BTreeMap<JobId, RunState>,
    /// Workers asked for, whose start has not begun.
    pub(crate) requested: usize,
    /// Workers that are being started.
    pub(crate) starting: usize,
    /// Workers that were begun to be started, ever.
    named: u64,
    /// The threads of those, which end with them.
    pub(crate) threads: Vec<JoinHandle<()>>,
    /// What the supervisor is to look after, and has not seen yet.
    pub(crate) arrived: Vec<Watched>,
    /// What the supervisor is to close, see [`PoolHandle::close_later`].
    pub(crate) deferred_close: Vec<ServedRendezvous>,
    /// Workers that died in a row without having run anything.
    pub(crate) failed_starts: Vec<WorkerExit>,
    /// Such deaths in all, and the last of them, for who waits for a first worker.
    pub(crate) failures: u64,
    pub(crate) last_failure: Option<WorkerExit>,
    /// No worker is started before.
    pub(crate) not_before: Option<Instant>,
    pub(crate) closing: bool,
    /// Most workers at a time.
    pub(crate) processes: usize,
    /// Workers are processes of this program, and not what a launcher has started.
    pub(crate) own: bool,
    /// Workers confine themselves or are confined, and keep a record of what they were refused.
    pub(crate) confined: bool,
    /// Warnings that the supervisor is to pass on.
    pub(crate) warnings: Vec<String>,
    shortage: Shortage,
    /// Times that somebody waits, or has waited, for what workers have printed; see `settle`.
    pub(crate) settling: u64,
    /// What each worker may use up.
    pub(crate) allowed: WorkerLimits,
    /// When the supervisor will look around without being woken; `None`: not at all.
    pub(crate) next_look: Option<Instant>,
}

impl PoolHandle {
    /// Whether a worker has come up that takes batches.
    pub(crate) fn has_worker(&self) -> bool {
        self.lock().workers.iter().any(|member| member.sender.is_some())
    }

    pub(crate) fn new(options: LocalOptions) -> io::Result<Self> {
        fill_standard();
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let allowed = WorkerLimits { memory: options.memory, items: options.most_items };
        let state = Mutex::new(PoolState {
            allowed,
            processes: options.processes,
            own: options.launcher.is_none(),
            confined: options.launcher.is_some() || options.sandbox != ConfinementLevel::Off,
            ..PoolState::default()
        });
        let started = Condvar::default();
        let (cores, owner) = (cores::count(&cores::own()).max(1), std::process::id());
        Ok(PoolHandle { state, wake, timer, started, options, output: Arc::default(), cores, owner })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, if nobody has it now.
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
        if state.next_look.is_some_and(|look| look <= at + pause) {
            return;
        }
        state.next_look = Some(at);
        let once = Expiration::OneShot(pause.into());
        if self.timer.set(once, TimerSetTimeFlags::empty()).is_err() {
            self.wake_supervisor();
        }
    }

    pub(crate) fn wake_supervisor(&self) {
        // Fails only when the counter is full, and then the supervisor is awake.
        let _full = self.wake.write(1);
    }

    pub(crate) fn worker_pids(&self) -> Vec<u32> {
        self.lock().workers.iter().map(|member| member.child.id()).collect()
    }

    pub(crate) fn shut_down(&self) {
        self.lock().closing = true;
        self.wake_supervisor();
    }

    /// The supervisor is gone: ends the workers and all runs, now and later.
    pub(crate) fn give_up(&self) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.closing = true;
        state.workers.iter_mut().for_each(WorkerHandle::kill);
        self.output.end();
        for run in state.runs.values_mut() {
            run.fail(BackendError::Other("the thread that looks after the workers panicked".to_owned()));
        }
    }

    /// Whether workers may start processes, which are to be ended with them.
    pub(crate) fn starts_processes(&self) -> bool {
        self.options.launcher.is_none() && self.options.sandbox != ConfinementLevel::Full
    }

    /// Whether that worker was told to leave, with nothing to do any more.
    pub(crate) fn is_asked_to_leave(&self, id: u64) -> bool {
        let mut state = self.lock();
        state.closing || state.member(id).is_some_and(|member| member.leaving.is_some())
    }

    /// A run begins.
    pub(crate) fn open(&self, job: Arc<Job>) -> (Arc<CompletionQueue>, Arc<Gauge>) {
        let mut run = RunState::new(job, self.options.launcher.is_some());
        let handles = (Arc::clone(&run.completions), Arc::clone(&run.gauge));
        let mut state = self.lock();
        if state.closing {
            run.fail(BackendError::Other("the thread that looks after the workers panicked".to_owned()));
        }
        state.runs.insert(run.job.id, run);
        state.update_gauges(self.options.processes);
        // It looks after silent workers by the clock while there are runs.
        self.look_after(&mut state, crate::local::pool::state::SILENT / 4);
        handles
    }

    /// A run hands in a batch.
    pub(crate) fn submit(&self, job: JobId, batch: Batch) -> Result<(), SubmitError> {
        let state = self.lock();
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
            run.pending.retain(|waiting| waiting.id() != batch);
            run.grants.forget(batch);
        }
        state.abandon(|held| held.batch.job() == job && held.batch.id() == batch);
        self.hand_out(state);
    }

    /// A run ends. What is queued is dropped, what runs is nobody's.
    pub(crate) fn close(&self, job: JobId) {
        let mut state = self.lock();
        if let Some(run) = state.runs.get_mut(&job) {
            run.pending.clear();
            run.closed = true;
        }
        state.abandon(|held| held.batch.job() == job);
        state.forget_finished();
        self.hand_out(state);
    }

    /// Has a socket removed that a worker has come through and that nobody needs any more: on a disk that takes 0.5 ms,
    /// which no map should wait for.
    pub(crate) fn close_later(&self, met: ServedRendezvous) {
        let mut state = self.lock();
        state.deferred_close.push(met);
        self.look_after(&mut state, STARTED);
    }

    /// The numbers of those workers of the requested whose start is to begin now.
    pub(crate) fn take_requested(&self) -> Range<u64> {
        let mut state = self.lock();
        let first = state.named + 1;
        if state.closing || state.not_before.is_some_and(|not_before| Instant::now() < not_before) {
            return first..first;
        }
        // A start takes a core. Where one has failed, those of several could take from each other what is scarce.
        let abreast =
            if state.failed_starts.is_empty() && state.shortage == Shortage::Unseen { self.cores } else { 1 };
        let begun = state.requested.min(abreast.saturating_sub(state.starting));
        state.requested -= begun;
        state.starting += begun;
        state.named += begun as u64;
        first..first + begun as u64
    }

    /// A worker's process has started.
    pub(crate) fn came(&self, mut member: WorkerHandle, watched: Watched) {
        let mut state = self.lock();
        state.starting -= 1;
        if state.closing {
            // It has begun nothing yet, and could not be told otherwise.
            member.kill();
        }
        state.workers.push(member);
        state.arrived.push(watched);
        state.warn_of_shortage(self.options.processes);
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
        let count = if first { START } else { START + SPARE };
        descriptors::expect(self.wake.as_fd(), count).or_else(|_| {
            descriptors::raise();
            descriptors::expect(self.wake.as_fd(), count)
        })
    }

    /// A limit kept that many workers from being started. A map goes on with the others, if there are some.
    pub(crate) fn short(&self, death: WorkerExit, limit: String, workers: usize) {
        let mut state = self.lock();
        state.starting -= workers;
        if state.starting == 0 && state.workers.is_empty() {
            state.failed_start(death);
        } else {
            if state.shortage == Shortage::Unseen {
                state.shortage = Shortage::Seen(limit);
            }
            state.not_before = Some(Instant::now() + Duration::from_secs(1));
            state.warn_of_shortage(self.options.processes);
        }
        self.started.notify_all();
        self.hand_out(state);
        self.wake_supervisor();
    }

    /// A worker could not be started; with those behind it that were not tried, it is so many.
    pub(crate) fn not_started(&self, death: WorkerExit, workers: usize) {
        let mut state = self.lock();
        state.starting -= workers;
        state.failed_start(death);
        self.started.notify_all();
        self.hand_out(state);
        // It may be waiting for this start to begin the next, or to end.
        self.wake_supervisor();
    }

    /// Gives waiting batches to workers with room, and asks for workers where there is work for more.
    pub(crate) fn hand_out(&self, mut guard: MutexGuard<'_, PoolState>) {
        let state = &mut *guard;
        while state.hand_out_one() {}
        state.update_gauges(self.options.processes);
        let idle = state.workers.iter().any(WorkerHandle::idle);
        let outstanding: usize = state.runs.values().map(RunState::outstanding).sum();
        let wanted = outstanding.min(self.options.processes);
        let there = state.workers.len() + state.starting + state.requested;
        // Stealing, timeouts and stuck orphans go by the clock.
        if let Some(pause) = crate::local::pool::state::first_look(state, idle && outstanding > 0) {
            self.look_after(state, pause);
        }
        let wake = wanted > there && !state.closing;
        if wake {
            state.requested += wanted - there;
        }
        drop(guard);
        if wake {
            self.wake_supervisor();
        }
    }
}

impl PoolState {
    pub(crate) fn member(&mut self, id: u64) -> Option<&mut WorkerHandle> {
        self.workers.iter_mut().find(|member| member.id == id)
    }

    /// Hands out one batch: of the run that has the fewest in workers' hands, if there is room for it.
    fn hand_out_one(&mut self) -> bool {
        let mut waiting: Vec<(usize, JobId)> = self
            .runs
            .iter()
            .filter(|(_, run)| !run.pending.is_empty())
            .map(|(job, run)| (run.in_flight, *job))
            .collect();
        waiting.sort_unstable();
        waiting.into_iter().any(|(_, job)| self.hand_out_of(job))
    }

    /// Hands out the first batch of a run, to the worker that holds the fewest.
    fn hand_out_of(&mut self, job: JobId) -> bool {
        let run = self.runs.get_mut(&job).expect("it was just listed");
        let depth = run.depth();
        let allowed = self.allowed;
        let busy = self.workers.iter().filter(|member| !member.held.is_empty());
        let busy = BusyCores::on(busy.filter_map(|member| member.page.core()));
        let ready = self.workers.iter_mut().filter(|member| {
            member.takes_work() && member.held.len() < depth && allowed.items_left(member) > 0
        });
        let Some(member) = ready.min_by_key(|member| member.held.len()) else { return false };
        let batch = run.pending.pop_front().expect("it was not empty");
        let (batch, rest) = crate::local::pool::limits::split(batch, allowed.items_left(member));
        if let Some(rest) = rest {
            run.pending.push_front(rest);
        }
        run.in_flight += 1;
        let own = self.own && member.held.is_empty();
        let page = Arc::clone(&member.page);
        let _kept_off =
            own.then(|| busy.keep_off(member.child.id(), page.thread(), page.core(), page.owed())).flatten();
        if member.opened.insert(job) {
            let sender = member.sender.as_mut().expect("a worker that takes work has greeted");
            sender.send(run.opening_for(&member.page.channel));
        }
        member.hand(batch);
        true
    }

    /// Batches in workers' hands that nobody waits for: what is not begun comes back, what runs may end.
    fn abandon(&mut self, which: impl Fn(&AssignedBatch) -> bool) {
        for member in &mut self.workers {
            for held in member.held.iter_mut().filter(|held| which(held)) {
                held.abandoned = true;
                held.recalled = true;
                if let Some(sender) = &mut member.sender {
                    member.recalls += 1;
                    sender.send(recall(held.batch.ticket(), false));
                }
            }
        }
    }

    /// Closed runs whose last batch is back: their contexts are freed in the workers.
    pub(crate) fn forget_finished(&mut self) {
        let finished: Vec<JobId> = self
            .runs
            .iter()
            .filter(|(_, run)| run.closed && run.in_flight == 0)
            .map(|(job, _)| *job)
            .collect();
        for job in finished {
            self.runs.remove(&job);
            for member in &mut self.workers {
                if member.opened.remove(&job)
                    && let Some(sender) = &mut member.sender
                {
                    sender.send(Header::frame(ToWorker::Close { job }, &[]).into());
                }
            }
        }
    }

    /// Warns once that there are fewer workers than were asked for, as soon as it is known how many there are.
    fn warn_of_shortage(&mut self, wanted: usize) {
        if self.starting > 0 || !matches!(self.shortage, Shortage::Seen(_)) {
            return;
        }
        if let Shortage::Seen(limit) = std::mem::replace(&mut self.shortage, Shortage::Told) {
            self.warnings.push(format!(
                "fastmap: warning: only {} of {wanted} workers can run: {limit}, or ask for fewer workers \
                 (FASTMAP_LOCAL_PROCESSES)\n",
                self.workers.len()
            ));
        }
    }

    /// Counts a worker that ended without having run anything; after some in a row no run can go on, unless others
    /// work: then the map goes on with those, and a start is tried now and then.
    pub(crate) fn failed_start(&mut self, death: WorkerExit) {
        self.failures += 1;
        self.last_failure = Some(death.clone());
        self.failed_starts.push(death);
        if self.failed_starts.len() < FAILED_STARTS {
            // What the system refuses now (processes, memory, descriptors) it may give in a moment.
            self.not_before =
                Some(Instant::now() + Duration::from_millis(20) * self.failed_starts.len() as u32);
            return;
        }
        // Those that come up may be luckier; or end the same way, and are counted then.
        let hopeful =
            |member: &WorkerHandle| member.healthy || member.sender.is_none() || !member.held.is_empty();
        if self.starting > 0 || self.workers.iter().any(hopeful) {
            self.failed_starts.remove(0);
            self.not_before = Some(Instant::now() + Duration::from_secs(1));
            return;
        }
        let deaths = std::mem::take(&mut self.failed_starts);
        for run in self.runs.values_mut().filter(|run| !run.closed && run.outstanding() > 0) {
            run.fail(BackendError::NoWorkers(deaths.clone()));
        }
    }

    /// Each run may hold its share of the workers' places.
    fn update_gauges(&mut self, processes: usize) {
        // A closed run only waits for what is nobody's.
        let active = self.runs.values().filter(|run| !run.closed && run.outstanding() > 0).count().max(1);
        for run in self.runs.values() {
            run.update_gauge((processes * run.depth()).div_ceil(active).max(1));
        }
    }
}

/// A worker that has answered nothing for this long is behind a slow item: what it has not begun may move.
pub(crate) const STUCK: Duration = Duration::from_millis(2);

/// An answer that was sent and does not come within this time never will.
pub(crate) const SILENT: Duration = Duration::from_secs(3);

/// An item that nobody waits for may block a worker that is wanted for so long.
pub(crate) const ORPHAN: Duration = Duration::from_millis(100);

/// How soon to look for the first time, where there is something to look after. `waste`: a worker is idle while
/// batches are out.
pub(crate) fn first_look(state: &PoolState, waste: bool) -> Option<Duration> {
    let limits = state.runs.values().filter_map(|run| run.job.item_timeout.map(pause_of));
    let orphans = state.runs.values().filter(|run| run.closed).map(|_| ORPHAN / 4);
    // Of a run that goes on, what was cancelled by name.
    let cancelled = state.workers.iter().any(|member| member.held.front().is_some_and(|held| held.abandoned));
    limits
        .chain(orphans)
        .chain(cancelled.then_some(ORPHAN / 4))
        .chain(waste.then_some(STUCK))
        .chain(state.wear_pause())
        .min()
}

/// How often an item is looked at that may run for so long.
pub(crate) fn pause_of(limit: Duration) -> Duration {
    (limit / 20).clamp(Duration::from_micros(500), Duration::from_millis(50))
}
