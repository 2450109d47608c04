//! The workers of one run, and the batches that they have. A thread of its own waits for completions, puts those of a
//! batch together, and cuts batches that have used up their time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastmap_backends::cloud::{Part, PartOutcome, Problem, ProblemCode};
use fastmap_backends::unpoisoned::LockUnpoisoned;
use fastmap_backends::{
    Backend, BackendError, BatchBuilder, BatchId, Completion, Context, ExitReason, FailureKind, Job, JobId,
    Local, Outcome, Run, Running,
};
use log::LevelFilter;
use tokio::sync::oneshot;

use super::launcher::{Launch, PoolRequest, Workers};
use super::tab::{Closing, Tab};
use super::threads::Threads;
use crate::agent::active_batch::{ActiveBatch, BEYOND, BatchResult};
use crate::dispatch::{BatchTask, RunSpec, WorkOutcome};
use crate::run_log::RunLogs;

/// A worker must have reported for duty within this.
const START: Duration = Duration::from_secs(20);

/// Clock time that a batch may take for each second of CPU time that it has: workers share the machine.
const PATIENCE: u32 = 4;

const PATIENCE_LEAST: Duration = Duration::from_secs(2);
/// Log records of a client that does not say up to which level it wants them.
const LEVEL: LevelFilter = LevelFilter::Info;

/// The workers of one run.
#[derive(Debug)]
pub(super) struct Pool {
    local: Local,
    job: JobId,
    workers: usize,
    shared: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Its files lie where they are as long as this names them.
    _spec: Arc<RunSpec>,
    /// Dropped behind all that keeps workers alive.
    closing: Closing,
}

#[derive(Debug)]
pub(super) struct State {
    /// In the order in which they came.
    pub(super) batches: Vec<ActiveBatch>,
    next: u64,
    failed: Option<Problem>,
    pub(super) tab: Arc<Tab>,
    /// When a batch came or went.
    touched: Instant,
}

impl Pool {
    /// Starts a pool and its first worker; what the workers use from now on is put on the tab. Waits for that: not to be
    /// called where others must not wait.
    ///
    /// # Errors
    /// If the program can't work here, with its own words.
    pub(super) fn start(
        spec: &Arc<RunSpec>,
        launch: &dyn Launch,
        workers: usize,
        events: &RunLogs,
        tab: &Arc<Tab>,
    ) -> Result<Pool, Problem> {
        // Before all that keeps workers alive: dropped behind it.
        let closing = Closing(Arc::clone(tab));
        let refused = |error: &BackendError| Problem::new(ProblemCode::WorkerFailed, error.to_string());
        let relay = events.relay(&spec.run);
        let request = PoolRequest {
            run: &spec.run,
            account: spec.account,
            executable: &spec.executable.path,
            identity: &spec.identity,
            locale: &spec.locale,
            workers,
            relay: &relay,
        };
        let context = spec.context.as_ref().map(|context| Context::read(&context.path)).transpose();
        let context = context.map_err(|error| {
            Problem::new(ProblemCode::Internal, format!("the run's context can't be read: {error}"))
        })?;
        let Workers { local, meter } = launch.pool(request).map_err(|error| refused(&error))?;
        let threads = Threads::new(meter.clone(), relay);
        tab.watch(meter);
        local.try_start(START).map_err(|error| refused(&error))?;
        let job = Job {
            id: JobId::next(),
            function: spec.function.clone(),
            context: context.unwrap_or_default(),
            label: spec.label.clone(),
            items: spec.items,
            item_timeout: spec.item_timeout,
            // What its client gives up is cancelled by name, and runs no longer.
            cancel_running: true,
            fail_fast: false,
        };
        let job_id = job.id;
        let run = local.open(Arc::new(job)).map_err(|error| refused(&error))?;
        let (shared, stop) =
            (Arc::new(Mutex::new(State::new(Arc::clone(tab)))), Arc::<AtomicBool>::default());
        let poller = Poller {
            local: local.clone(),
            job: job_id,
            workers,
            shared: Arc::clone(&shared),
            stop: Arc::clone(&stop),
            tab: Arc::clone(tab),
            threads,
        };
        let thread = std::thread::Builder::new()
            .name("fastmap-run".to_owned())
            .spawn(move || poller.poll(run))
            .map_err(|error| {
                Problem::new(ProblemCode::Internal, format!("cannot start a thread: {error}"))
            })?;
        let thread = Some(thread);
        Ok(Pool { local, job: job_id, workers, shared, stop, thread, _spec: Arc::clone(spec), closing })
    }

    /// Runs a batch. The outcome comes through the receiver; where that fails, the pool is gone.
    pub(super) fn run(&self, task: &BatchTask) -> (BatchId, oneshot::Receiver<BatchResult>) {
        let (reply, outcome) = oneshot::channel();
        let mut builder = BatchBuilder::new(task.stride);
        builder.buffer().extend_from_slice(&task.payload);
        builder.added(task.items);
        let mut state = lock(&self.shared);
        state.next += 1;
        let id = BatchId(state.next);
        if let Some(problem) = &state.failed {
            let outcome_now = WorkOutcome::Failed(problem.clone());
            // The receiver is gone where the lease was given up.
            let _ = reply.send(BatchResult { outcome: outcome_now, metered: Duration::ZERO });
            return (id, outcome);
        }
        state.touched = Instant::now();
        let batch = builder.finish(self.job, id, task.first, task.enough);
        let batch = batch.limit_answer(task.limit.bytes.saturating_sub(BEYOND));
        let batch = batch.log_up_to(task.level.unwrap_or(LEVEL));
        state.tab.metered(|metered| metered.pledge(task.limit.cpu));
        state.batches.push(ActiveBatch {
            batch: batch.id(),
            first: task.first,
            items: task.items,
            limit: task.limit.cpu,
            parts: Vec::new(),
            covered: 0,
            bytes: 0,
            enough: task.enough,
            whole: Part::HEAD,
            most: task.limit.bytes,
            over: false,
            cpu: Duration::ZERO,
            begun: None,
            age: Duration::ZERO,
            cut: false,
            given_back: false,
            reply: Some(reply),
        });
        // Where the run has failed, the thread is about to hear of it, and answers all that is under way.
        let _ = self.local.submit(batch);
        state.begin(self.workers);
        (id, outcome)
    }

    /// The batch is abandoned: what of it has not begun never does, and a worker that stays in an item of it is
    /// ended. What it has used is used beside batches.
    pub(super) fn cancel(&self, batch: BatchId) {
        let mut state = lock(&self.shared);
        let Some(at) = state.batches.iter().position(|active| active.batch == batch) else { return };
        let under_way = state.batches.iter().filter(|active| active.begun.is_some()).count();
        let active = state.batches.remove(at);
        state.touched = Instant::now();
        let time = active.begun.map_or(active.cpu, |begun| begun.elapsed().max(active.cpu));
        state.tab.metered(|metered| metered.cancel(time, under_way, active.limit));
        self.local.cancel(self.job, batch);
        state.begin(self.workers);
    }

    /// What its workers are charged by.
    pub(super) fn tab(&self) -> &Arc<Tab> {
        &self.closing.0
    }

    /// Nothing of it is under way, and has not been for so long.
    pub(super) fn idle(&self) -> Option<Duration> {
        let state = lock(&self.shared);
        state.batches.is_empty().then(|| state.touched.elapsed())
    }
}

impl Drop for Pool {
    /// Ends the workers, and waits for that.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock_unpoisoned()
}

impl State {
    fn new(tab: Arc<Tab>) -> Self {
        State { batches: Vec::new(), next: 0, failed: None, tab, touched: Instant::now() }
    }

    /// Starts the clocks of the batches that the workers have come to.
    pub(super) fn begin(&mut self, workers: usize) {
        for active in self.batches.iter_mut().take(workers) {
            active.begun.get_or_insert_with(Instant::now);
        }
    }

    /// Takes a completion; gives the batch that is complete with it.
    pub(super) fn take(&mut self, completion: Completion) -> Option<ActiveBatch> {
        let Completion { batch, first, items, outcome } = completion;
        let at = self.batches.iter().position(|active| active.batch == batch)?;
        let active = &mut self.batches[at];
        let outcome = match outcome {
            Outcome::Done(results) => {
                active.cpu += results.cpu;
                PartOutcome::Done(results)
            }
            Outcome::Returned(_) => PartOutcome::Returned,
            Outcome::Lost(_, mut loss) => {
                if active.cut {
                    // The batch as a whole took too long, and the item that ran is not to blame for it, unless it
                    // was the only one.
                    loss.death.cause = ExitReason::Timeout(active.limit);
                    if items > 1 {
                        loss.running = Running::Unknown;
                    }
                }
                PartOutcome::Lost(loss)
            }
        };
        let offset = u32::try_from(first.checked_sub(active.first)?).ok()?;
        active.covered += items;
        active.add(Part { offset, items, outcome });
        if active.covered < active.items && (active.over || active.bytes >= active.enough) {
            // Each answer alone may stay below that, and be followed by another, until no memory is left.
            active.give_back_the_rest();
        }
        if active.covered < active.items {
            return None;
        }
        let active = self.batches.remove(at);
        self.touched = Instant::now();
        Some(active)
    }

    /// All that is under way gets this answer, and whatever comes.
    pub(super) fn fail(&mut self, problem: &Problem) {
        self.failed = Some(problem.clone());
        self.tab.metered(super::cpu_billing::BillingMeter::release_all);
        for active in self.batches.drain(..) {
            // Nothing is metered here, so nothing is left to bill where the receiver is gone.
            let _ = active.answer(WorkOutcome::Failed(problem.clone()), Duration::ZERO);
        }
    }
}

/// How often the thread looks at its clock.
const LOOK: Duration = Duration::from_millis(200);

/// What a run's client is answered where its workers can't go on.
fn problem_of(error: &BackendError) -> Problem {
    match error {
        BackendError::Setup(failure) => {
            let kind = match failure.kind {
                FailureKind::Panic => "panic",
                FailureKind::Serialize => "serialize",
            };
            let problem = Problem::new(ProblemCode::SetupFailed, failure.message.clone());
            Problem { failure: Some(kind.to_owned()), ..problem }
        }
        other => Problem::new(ProblemCode::WorkerFailed, other.to_string()),
    }
}

/// The thread that waits for completions.
struct Poller {
    local: Local,
    job: JobId,
    workers: usize,
    shared: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    tab: Arc<Tab>,
    threads: Threads,
}

impl Poller {
    fn poll(mut self, mut run: Box<dyn Run>) {
        let mut looked = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            match run.poll(Instant::now() + LOOK) {
                Ok(Some(mut completion)) => {
                    self.threads.blame(&mut completion.outcome);
                    let mut state = lock(&self.shared);
                    let complete = state.take(completion);
                    state.begin(self.workers);
                    let complete = complete.map(|mut active| {
                        active.cpu = state.tab.metered(|metered| metered.bill(active.cpu, active.limit));
                        if active.given_back {
                            self.local.cancel(self.job, active.batch);
                        }
                        active
                    });
                    drop(state);
                    if complete.is_some() {
                        // What its items have printed is there when its client has the answer.
                        self.local.settle();
                    }
                    if let Some(unheard) = complete.and_then(ActiveBatch::complete) {
                        self.tab.metered(|metered| metered.unbill(unheard));
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    lock(&self.shared).fail(&problem_of(&error));
                    break;
                }
            }
            let since_last = looked.elapsed();
            if since_last >= LOOK {
                looked = Instant::now();
                // A stretch that is much longer was spent stopped, or without a CPU: no batch has used it up.
                self.cut(since_last.min(2 * LOOK));
                self.threads.warn();
            }
        }
        // The run before the pool: what is queued is dropped, what runs is ended with its worker.
        run.close();
        let mut state = lock(&self.shared);
        state.batches.clear();
        drop(state);
        self.tab.metered(super::cpu_billing::BillingMeter::release_all);
    }

    /// Cuts batches that have used up their time, so much more than at the last look.
    fn cut(&self, more: Duration) {
        let mut state = lock(&self.shared);
        let mut over = Vec::new();
        for active in state.batches.iter_mut().filter(|active| active.begun.is_some()) {
            let patience = (active.limit * PATIENCE).max(PATIENCE_LEAST);
            active.age += more;
            if active.age > patience {
                active.cut = true;
                over.push((active.batch, active.limit));
            }
        }
        drop(state);
        for (batch, limit) in over {
            self.local.expire(self.job, batch, limit);
        }
    }
}

#[cfg(test)]
mod tests;
