//! The backend of this machine, its options, and a run of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastmap_sandbox::unpoisoned::LockUnpoisoned;

use crate::backend::SubmitError;
use crate::execution::exit_hook;
use crate::execution::job::Job;
use crate::local::cores;
use crate::local::exit_hook::EndPools;
use crate::local::options::LocalOptions;
use crate::local::output::settle;
use crate::local::pool::handle::PoolHandle;
use crate::local::pool::run_state::Gauge;
use crate::local::process::descriptors::fill_standard;
use crate::local::process::{spawn, supervisor};
use crate::local::signals::without_signals;
use crate::model::batch::Batch;
use crate::model::batch_sizing::Targets;
use crate::model::completion::Completion;
use crate::model::completion_queue::CompletionQueue;
use crate::model::cost::Receipt;
use crate::model::error::BackendError;
use crate::model::ids::{BatchId, JobId};
use crate::{Backend, Capacity, Readiness, Run};

/// What a batch should be for workers on the same machine: a message costs about 0.1 ms at worst and keeps the host's
/// CPU for 10 µs, so that 20 ms of work hide it and 0.1 ms is worth it; of large items what stays in a core's cache (a million
/// square roots in batches of 64, 128, 256 and 512 KB: 132, 160, 172 and 173 million a second).
const TARGETS: Targets =
    Targets { work: Duration::from_millis(20), least: Duration::from_micros(200), bytes: 256 * 1024 };

/// Runs batches in worker processes of this machine.
///
/// Workers are started when there is work for them, kept for the next map, shared by all runs, and replaced when
/// they die. Dropping the last `Local` and the last of its runs ends them.
#[derive(Debug, Clone)]
pub struct Local {
    pub(crate) pool: Arc<Pool>,
}

#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) shared: Arc<PoolHandle>,
    supervision: Mutex<Supervision>,
}

#[derive(Debug, Default)]
struct Supervision {
    /// The thread that looks after the processes; started with the first batch.
    thread: Option<JoinHandle<()>>,
}

impl Local {
    /// A pool that has no workers yet.
    ///
    /// # Errors
    /// If the system gives no descriptor for waking its thread.
    pub fn new(options: LocalOptions) -> Result<Self, BackendError> {
        let shared = PoolHandle::new(options)
            .map_err(|error| BackendError::Io("cannot make an event descriptor".to_owned(), error))?;
        Ok(Local { pool: Arc::new(Pool { shared: Arc::new(shared), supervision: Mutex::default() }) })
    }

    /// Waits until what workers have printed so far is handed to the relay, as long as that takes it: what an
    /// item prints is in it when its answer is polled. The end of a run waits so by itself.
    pub fn settle(&self) {
        if self.pool.check_owner().is_ok() {
            self.pool.shared.settle();
        }
    }

    /// Process ids of the workers that live now, oldest first.
    pub fn workers(&self) -> Vec<u32> {
        self.pool.shared.worker_pids()
    }
}

impl Backend for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn open(&self, job: Arc<Job>) -> Result<Box<dyn Run>, BackendError> {
        self.pool.check_owner()?;
        fill_standard();
        let id = job.id;
        let (completions, gauge) = self.pool.shared.open(job);
        Ok(Box::new(LocalRun { pool: Arc::clone(&self.pool), job: id, completions, gauge }))
    }
}

impl Pool {
    /// # Errors
    /// If this process is a fork of the one that made the pool.
    pub(crate) fn check_owner(&self) -> Result<(), BackendError> {
        let (owner, this) = (self.shared.owner, std::process::id());
        if this == owner { Ok(()) } else { Err(BackendError::Forked { owner, this }) }
    }

    pub(crate) fn start_supervisor(&self) -> Result<(), BackendError> {
        // Held until the thread is there: of two runs that submit at once, one starts it.
        let mut supervision = self.supervision.lock_unpoisoned();
        if supervision.thread.is_none() {
            if self.shared.options.launcher.is_none() {
                self.shared.warn(cores::binding(self.shared.options.processes));
            }
            // Before the first socket is made, which the hook removes.
            exit_hook::register::<EndPools>();
            // The first workers are on their way before the supervisor is.
            spawn::spawn_requested(&self.shared);
            settle::before_exit(&self.shared);
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("fastmap-supervisor".to_owned());
            let handle = thread
                .spawn(move || {
                    // A relay of the user's own may panic in there. No map may wait for a thread that is
                    // gone.
                    if catch_unwind(AssertUnwindSafe(|| supervisor::supervise(&shared))).is_err() {
                        shared.give_up();
                    }
                })
                .map_err(|error| BackendError::Io("cannot start a thread".to_owned(), error))?;
            supervision.thread = Some(handle);
        }
        Ok(())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // A fork's copy of this owns neither the thread nor the workers: they are the parent's.
        if std::process::id() != self.shared.owner {
            return;
        }
        let supervision = self.supervision.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.shared.shut_down();
        match supervision.thread.take() {
            Some(supervisor) => drop(supervisor.join()),
            // It could not be had: what was begun before is looked after here, to its end.
            None => without_signals(|| supervisor::supervise(&self.shared)),
        }
    }
}

/// One map on the pool.
struct LocalRun {
    pool: Arc<Pool>,
    job: JobId,
    completions: Arc<CompletionQueue>,
    gauge: Arc<Gauge>,
}

impl Run for LocalRun {
    #[inline]
    fn capacity(&mut self) -> Capacity {
        let (batches, slots) = self.gauge.read();
        Capacity { batches, slots, workers: self.pool.shared.options.processes, targets: TARGETS }
    }

    fn submit(&mut self, batch: Batch) -> Result<(), SubmitError> {
        if self.pool.check_owner().is_err() {
            // The next poll says so. The pool's lock may be held for ever here, by a thread that the fork has not.
            return Ok(());
        }
        self.pool.shared.submit(self.job, batch)?;
        // Not before: it finds what to do, and need not be woken for it.
        // The pool has the batch by now: the run fails, and the batch is not given back.
        if let Err(error) = self.pool.start_supervisor() {
            self.pool.shared.fail(self.job, error);
        }
        Ok(())
    }

    fn poll(&mut self, deadline: Instant) -> Result<Option<Completion>, BackendError> {
        self.pool.check_owner()?;
        self.completions.take(deadline)
    }

    fn cancel(&mut self, batch: BatchId) {
        if self.pool.check_owner().is_ok() {
            self.pool.shared.cancel(self.job, batch);
        }
    }

    /// Ready once a worker is there.
    fn readiness(&mut self) -> Readiness {
        let ready = self.pool.check_owner().is_err() || self.pool.shared.has_worker();
        Readiness { ready, ..Readiness::default() }
    }

    fn close(self: Box<Self>) -> Receipt {
        Receipt::default()
    }
}

impl Drop for LocalRun {
    fn drop(&mut self) {
        if std::process::id() == self.pool.shared.owner {
            // Closed first, so that its items are taken back before the wait below.
            self.pool.shared.close(self.job);
            self.pool.shared.settle();
        }
    }
}
