//! An agent: leases work from dispatch and runs it, with a pool of workers for each run. It knows no HTTP and no
//! money; what it needs of a run comes with the work.
//!
//! `pool` has the workers of one run, `launch` is what starts (and confines) them, `metered` says what a batch has cost of
//! what the kernel counts, `executable` looks at uploads before anything of them runs.

mod executable;
mod launch;
mod metered;
mod pool;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastmap_backends::BatchId;
use fastmap_backends::cloud::{Problem, ProblemCode};
use tokio::runtime::Handle;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::{JoinSet, spawn_blocking};

pub use executable::check_executable;
pub use launch::{InJails, Launch, Meter, PoolRequest, Unconfined, Workers};

use crate::dispatch::{Dispatch, Lease, RunSpec, Task, Verdict};
use crate::events::Events;
use crate::roster::{Roster, Seat};
use pool::Pool;

/// Work that one agent has at a time: most of it waits for a worker.
const LEASES: usize = 1024;
/// A run that sends nothing for so long has its workers ended; they are started again when something comes.
const IDLE: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_secs(10);

/// What an agent is made of.
#[derive(Debug)]
pub struct Agent {
    /// Where its work comes from.
    pub dispatch: Arc<dyn Dispatch>,
    /// What starts its workers.
    pub launch: Arc<dyn Launch>,
    /// Where what its workers print goes.
    pub events: Events,
    /// Workers of each run.
    pub workers: usize,
    /// How often it says that it still works on something: a third of dispatch's lease.
    pub heartbeat: Duration,
    /// Where it says what it has in hand.
    pub roster: Roster,
}

/// A pool, or why there is none; made by the first who needs it.
type Slot = Arc<OnceCell<Result<Arc<Pool>, Problem>>>;

#[derive(Debug)]
struct Shared {
    agent: Agent,
    seat: Arc<Seat>,
    pools: Mutex<HashMap<String, Slot>>,
}

impl Agent {
    /// Works until dispatch is closed and what was leased is done. Its workers have ended then.
    pub async fn work(self) {
        let seat = self.roster.join("in this service", self.workers);
        let shared = Arc::new(Shared { agent: self, seat, pools: Mutex::default() });
        let places = Arc::new(Semaphore::new(LEASES));
        let mut ended = shared.agent.dispatch.ended_runs();
        let mut look = tokio::time::interval(LOOK);
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                lease = shared.lease(&places) => {
                    let Some((lease, place)) = lease else { break };
                    let shared = Arc::clone(&shared);
                    tasks.spawn(async move {
                        shared.serve(lease).await;
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
        while tasks.join_next().await.is_some() {}
        let pools: Vec<Slot> = shared.lock().drain().map(|(_, slot)| slot).collect();
        drop(spawn_blocking(move || drop(pools)).await);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn lease(&self, places: &Arc<Semaphore>) -> Option<(Lease, tokio::sync::OwnedSemaphorePermit)> {
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        Some((self.agent.dispatch.lease().await.ok()?, place))
    }

    /// Does what a lease asks for, and says so as long as it takes.
    async fn serve(self: &Arc<Self>, lease: Lease) {
        let dispatch = &self.agent.dispatch;
        let in_hand = self.seat.takes();
        let work = self.verdict(&lease);
        tokio::pin!(work);
        let mut heartbeat = tokio::time::interval(self.agent.heartbeat);
        heartbeat.tick().await;
        let verdict = loop {
            tokio::select! {
                verdict = &mut work => break verdict,
                // What it has of this is given up with the future.
                () = dispatch.revoked(lease.id) => return,
                _ = heartbeat.tick() => if !dispatch.extend(lease.id).await {
                    return;
                },
            }
        };
        match verdict {
            Some(verdict) => {
                in_hand.answered();
                dispatch.answer(lease.id, verdict).await;
            }
            None => {
                in_hand.given_back();
                dispatch.give_back(lease.id).await;
            }
        }
    }

    /// `None`: the pool has gone meanwhile.
    async fn verdict(self: &Arc<Self>, lease: &Lease) -> Option<Verdict> {
        let spec = &lease.work.spec;
        let pool = match self.pool(spec).await {
            Ok(pool) => pool,
            Err(problem) => {
                // The next run of the program may have more luck, the next batch of this one too.
                self.retire(&spec.run);
                return Some(Verdict::Failed(problem));
            }
        };
        let begun = match &lease.work.task {
            Task::Check => None,
            Task::Batch(task) => Some(pool.run(task)),
        };
        let batch = begun.as_ref().map(|(batch, _)| *batch);
        let mut under_way = UnderWay { pool: Some(pool), batch };
        let verdict = match begun {
            None => Some(Verdict::Ready),
            Some((_, verdict)) => verdict.await.ok(),
        };
        under_way.batch = None;
        verdict
    }

    async fn pool(self: &Arc<Self>, spec: &Arc<RunSpec>) -> Result<Arc<Pool>, Problem> {
        let slot = Arc::clone(self.lock().entry(spec.run.clone()).or_default());
        let made = slot.get_or_init(|| async {
            let (shared, spec) = (Arc::clone(self), Arc::clone(spec));
            let start = spawn_blocking(move || {
                let Agent { launch, workers, events, .. } = &shared.agent;
                Pool::start(&spec, launch.as_ref(), *workers, events).map(Arc::new)
            });
            start.await.unwrap_or_else(|error| {
                Err(Problem::new(ProblemCode::Internal, format!("the pool could not be started: {error}")))
            })
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

/// A batch that a pool has. Nobody waits for it any more once this is dropped.
struct UnderWay {
    pool: Option<Arc<Pool>>,
    batch: Option<BatchId>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Some(pool) = self.pool.take() else { return };
        if let Some(batch) = self.batch {
            pool.cancel(batch);
        }
        // The last to hold a pool waits for the end of its workers.
        if Arc::strong_count(&pool) == 1
            && let Ok(runtime) = Handle::try_current()
        {
            drop(runtime.spawn_blocking(move || drop(pool)));
        }
    }
}
