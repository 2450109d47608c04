//! Loop of an agent: leases work, runs each lease, and answers it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastmap_backends::BatchId;
use fastmap_backends::cloud::{Problem, ProblemCode};
use fastmap_backends::unpoisoned::LockUnpoisoned;
use tokio::runtime::Handle;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, OnceCell, Semaphore, oneshot, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, interval, interval_at, timeout};
use tracing::{Instrument, Span};

use super::launcher::Launch;
use super::run_pool::Pool;
use super::tab::{Due, Tab};
use crate::agent::active_batch::BatchResult;
use crate::agent_registry::{AgentRegistry, Registration};
use crate::dispatch::{Lease, Payer, RunSpec, Task, WorkOutcome, WorkSource};
use crate::run_log::RunLogs;

/// Work that an agent has at a time where no other could have it: most of it waits for a worker.
pub const PLACES: usize = 1024;
/// A run that sends nothing for so long has its workers ended; they are started again when something comes.
const IDLE: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_secs(10);
/// How often workers' meters are looked at for what was used beside batches.
const SETTLE: Duration = Duration::from_millis(200);
/// Less than this is reported with the last of it.
const WORTH: Duration = Duration::from_millis(250);
/// The last reports have arrived within this, or do not.
const LAST: Duration = Duration::from_secs(5);

/// What an agent is made of.
#[derive(Debug)]
pub struct Agent {
    /// Its name in the roster.
    pub name: String,
    /// What it runs on, in words; empty where that goes without saying.
    pub machine: String,
    /// Where its work comes from.
    pub source: Arc<dyn WorkSource>,
    /// What starts its workers.
    pub launch: Arc<dyn Launch>,
    /// Where what its workers print goes.
    pub events: RunLogs,
    /// Workers of each run.
    pub workers: usize,
    /// Work that it has at a time. What waits here for a worker waits for this agent's, even if others are idle.
    pub places: usize,
    /// What is in hand when the work source closes has this time to end; the rest is given back then.
    pub grace: Duration,
    /// Told, it ends the grace.
    pub hurry: Arc<Notify>,
    /// Where it says what it has in hand.
    pub roster: AgentRegistry,
}

/// A pool, or why there is none; made by the first who needs it.
type Slot = Arc<OnceCell<Result<Arc<Pool>, NoPool>>>;

/// Why a run has no pool here.
#[derive(Clone, Debug)]
enum NoPool {
    /// What it needs can't be had here; another agent may have more luck.
    Unavailable,
    /// Its program can't work.
    Failed(Problem),
}

#[derive(Debug)]
struct Shared {
    agent: Agent,
    seat: Arc<Registration>,
    pools: Mutex<HashMap<String, Slot>>,
    /// What the workers of all runs have used and is not settled, also of those that are dead.
    tabs: Mutex<Vec<Arc<Tab>>>,
    /// Grace is over: what is in hand is given back.
    pub(crate) over: watch::Sender<bool>,
}

impl Agent {
    /// Works until its work source is closed and what was leased is done or, after the grace, given back. Its workers have
    /// ended then.
    pub async fn work(self) {
        let seat = self.roster.join(&self.name, &self.machine, self.workers);
        let places = Arc::new(Semaphore::new(self.places));
        let over = watch::Sender::new(false);
        let shared =
            Arc::new(Shared { agent: self, seat, pools: Mutex::default(), tabs: Mutex::default(), over });
        let settling = tokio::spawn(Arc::clone(&shared).settle_again_and_again());
        let mut ended = shared.agent.source.ended_runs();
        let mut look = interval(LOOK);
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                lease = shared.lease(&places) => {
                    let Some((lease, place)) = lease else { break };
                    let shared = Arc::clone(&shared);
                    tasks.spawn(async move {
                        let span = span(&lease);
                        shared.serve(lease).instrument(span).await;
                        drop(place);
                    });
                }
                run = ended.recv() => match run {
                    Ok(run) => shared.retire(&run),
                    // Too many at once: those that were missed are idle, and go with them.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => break,
                },
                _ = look.tick() => shared.retire_idle(),
                Some(_) = tasks.join_next() => {}
            }
        }
        tokio::select! {
            () = all(&mut tasks) => {}
            () = tokio::time::sleep(shared.agent.grace) => {}
            () = shared.agent.hurry.notified() => {}
        }
        if !tasks.is_empty() {
            tracing::warn!(batches = tasks.len(), "what has not ended in time is given back");
            shared.over.send_replace(true);
            all(&mut tasks).await;
        }
        let pools: Vec<Slot> = shared.lock().drain().map(|(_, slot)| slot).collect();
        drop(spawn_blocking(move || drop(pools)).await);
        settling.abort();
        drop(settling.await);
        // A report that was under way with it is made again: the gateway takes none twice.
        if timeout(LAST, shared.settle_the_rest()).await.is_err() {
            tracing::warn!("some of what workers have used could not be reported");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.pools.lock_unpoisoned()
    }

    async fn lease(&self, places: &Arc<Semaphore>) -> Option<(Lease, tokio::sync::OwnedSemaphorePermit)> {
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        Some((self.agent.source.lease().await.ok()?, place))
    }

    /// Does what a lease asks for, and says so as long as it takes.
    async fn serve(self: &Arc<Self>, lease: Lease) {
        let source = &self.agent.source;
        let mut over = self.over.subscribe();
        let in_hand = self.seat.takes();
        let work = self.outcome(&lease);
        tokio::pin!(work);
        let beat = (lease.lasts / 3).max(Duration::from_millis(1));
        // Not `interval` and its first tick, which comes at the timer's next millisecond: the work would wait for that.
        let mut heartbeat = interval_at(Instant::now() + beat, beat);
        let outcome = loop {
            tokio::select! {
                outcome = &mut work => break outcome,
                // What it has of this is given up with the future.
                () = source.revoked(lease.id) => return,
                _ = heartbeat.tick() => if !source.extend(lease.id).await {
                    return;
                },
                () = came(&mut over) => break None,
            }
        };
        match outcome {
            Some((BatchResult { outcome, metered }, tab)) => {
                in_hand.answered();
                let wanted = source.answer(lease.id, outcome).await;
                if !wanted && let Some(tab) = tab {
                    tab.metered(|of_run| of_run.unbill(metered));
                }
                tracing::debug!(wanted, "answered");
            }
            None => {
                in_hand.given_back();
                tracing::debug!("given back");
                source.nack(lease.id).await;
            }
        }
    }

    /// `None`: the pool has gone meanwhile, or its program is not to be had.
    /// With a outcome comes the tab that has its bill.
    async fn outcome(self: &Arc<Self>, lease: &Lease) -> Option<(BatchResult, Option<Arc<Tab>>)> {
        let spec = &lease.work.spec;
        let at_once = |outcome| Some((BatchResult { outcome, metered: Duration::ZERO }, None));
        let pool = match self.pool(spec, &lease.payer).await {
            Ok(pool) => pool,
            // The next run of the program may have more luck, the next batch of this one too.
            Err(NoPool::Unavailable) => {
                self.retire(&spec.run);
                return None;
            }
            Err(NoPool::Failed(problem)) => {
                self.retire(&spec.run);
                return at_once(WorkOutcome::Failed(problem));
            }
        };
        let tab = Arc::clone(pool.tab());
        tab.paid_by(&lease.payer);
        let batch = match &lease.work.task {
            Task::Check => None,
            Task::Batch(task) => Some(pool.run(task)),
        };
        let mut under_way = UnderWay { pool: Some(pool), batch };
        let Some((_, outcome)) = &mut under_way.batch else { return at_once(WorkOutcome::Ready) };
        let result = outcome.await.ok()?;
        under_way.batch = None;
        Some((result, Some(tab)))
    }

    fn all_tabs(&self) -> MutexGuard<'_, Vec<Arc<Tab>>> {
        self.tabs.lock_unpoisoned()
    }

    fn new_tab(&self, run: &str, payer: &Payer) -> Arc<Tab> {
        let tab = Arc::new(Tab::new(run, payer.clone()));
        self.all_tabs().push(Arc::clone(&tab));
        tab
    }

    /// Reports what is used beside batches, so that workers that compute without any are charged as they go. Never
    /// returns.
    async fn settle_again_and_again(self: Arc<Self>) {
        let mut look = interval(SETTLE);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            for due in self.due(WORTH).await {
                drop(tokio::spawn(Arc::clone(&self).report(due)));
            }
        }
    }

    /// Reports until nothing is left.
    async fn settle_the_rest(self: &Arc<Self>) {
        while !self.all_tabs().is_empty() {
            for due in self.due(Duration::ZERO).await {
                Arc::clone(self).report(due).await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// What is to be reported. Tabs on which nothing will come any more are forgotten.
    async fn due(&self, least: Duration) -> Vec<Due> {
        let tabs = {
            let mut tabs = self.all_tabs();
            tabs.retain(|tab| !tab.is_settled());
            tabs.clone()
        };
        if tabs.is_empty() {
            return Vec::new();
        }
        let looked = spawn_blocking(move || tabs.iter().filter_map(|tab| tab.due(least)).collect());
        looked.await.unwrap_or_default()
    }

    /// Reports something; a run that can't pay has no workers any more.
    async fn report(self: Arc<Self>, due: Due) {
        let Due { tab, payer, cpu } = due;
        let paid = self.agent.source.used(&payer, tab.run(), cpu).await;
        tab.reported(cpu, paid.is_some());
        if paid == Some(false) {
            self.retire(tab.run());
            drop(spawn_blocking(move || tab.end_workers()).await);
        }
    }

    async fn pool(self: &Arc<Self>, spec: &Arc<RunSpec>, payer: &Payer) -> Result<Arc<Pool>, NoPool> {
        let slot = Arc::clone(self.lock().entry(spec.run.clone()).or_default());
        let made = slot.get_or_init(|| async {
            let spec = self.agent.source.prepare_uploads(spec).await.map_err(|unavailable| {
                tracing::warn!(run = spec.run, error = %chain(&unavailable), "a run can't be worked on here");
                NoPool::Unavailable
            })?;
            let (shared, tab) = (Arc::clone(self), self.new_tab(&spec.run, payer));
            let start = spawn_blocking(move || {
                let Agent { launch, workers, events, .. } = &shared.agent;
                Pool::start(&spec, launch.as_ref(), *workers, events, &tab).map(Arc::new)
            });
            let started = start.await.unwrap_or_else(|error| {
                Err(Problem::new(ProblemCode::Internal, format!("the pool could not be started: {error}")))
            });
            started.map_err(NoPool::Failed)
        });
        let made = made.await.clone();
        self.seat.pools(self.lock().len());
        made
    }

    fn retire(&self, run: &str) {
        let retired = self.lock().remove(run);
        self.seat.pools(self.lock().len());
        if let Some(slot) = retired {
            drop(spawn_blocking(move || drop(slot)));
        }
    }

    fn retire_idle(&self) {
        let mut pools = self.lock();
        let idle = |slot: &Slot| match slot.get() {
            Some(Ok(pool)) => pool.idle().is_some_and(|idle| idle > IDLE),
            Some(Err(_)) => true,
            None => false,
        };
        let retired: Vec<Slot> = pools.extract_if(|_, slot| idle(slot)).map(|(_, slot)| slot).collect();
        drop(pools);
        let left = self.lock().len();
        metrics::gauge!("fastmap_pools").set(left as f64);
        self.seat.pools(left);
        if !retired.is_empty() {
            drop(spawn_blocking(move || drop(retired)));
        }
    }
}

/// What is logged of a lease stands beneath this: as at the gateway, a batch bears its run, its seq and its request's id.
fn span(lease: &Lease) -> Span {
    let run = &lease.work.spec.run;
    match &lease.work.task {
        Task::Check => tracing::info_span!("check", run),
        Task::Batch(task) => tracing::info_span!("batch", run, seq = task.seq, request = task.request),
    }
}

async fn all(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

async fn came(over: &mut watch::Receiver<bool>) {
    // Its sender is held by who asks.
    drop(over.wait_for(|over| *over).await);
}

/// An error and its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |source| source.source());
    sources.fold(error.to_string(), |line, source| format!("{line}: {source}"))
}

/// A batch that a pool has. It is abandoned once this is dropped.
struct UnderWay {
    pool: Option<Arc<Pool>>,
    batch: Option<(BatchId, oneshot::Receiver<BatchResult>)>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Some(pool) = self.pool.take() else { return };
        if let Some((batch, mut outcome)) = self.batch.take() {
            pool.cancel(batch);
            // It may have landed in this moment. What stood on its bill is on none.
            outcome.close();
            if let Ok(BatchResult { metered, .. }) = outcome.try_recv() {
                pool.tab().metered(|of_run| of_run.unbill(metered));
            }
        }
        // The last to hold a pool waits for the end of its workers.
        if Arc::strong_count(&pool) == 1
            && let Ok(runtime) = Handle::try_current()
        {
            drop(runtime.spawn_blocking(move || drop(pool)));
        }
    }
}
