//! Worker processes of this machine, behind the [`Backend`] trait.
//!
//! `pool` holds who has which batch (`run`, `member`) and decides, without any I/O but sends that can't wait:
//! `news` is what workers tell it, `steal` goes by the clock, `wear` by what workers have used up.
//! `supervisor` is the one thread that has workers started, watches them die and reads what they print
//! (`relay`), which `lines` passes on; `repeats` keeps back what dying workers repeat, and `settle` waits at
//! the end of a map until all is passed on. For each worker there is a thread that starts it (`start`) and takes
//! its answers (`reader`), the first of them at a socket (`server`); `worker` is the other end, in the worker
//! process. `greeting`, `channel`, `outbox`, `page` and `area` are the parts of what is between them;
//! `confined` is how a worker confines itself and what is told of the calls that it was refused; `spread`
//! keeps workers off each other's cores; `descendants` ends what a dead worker has started. `foreign` is for hosts of other programs than their own. Where a
//! `launch`er starts the workers, they may be anybody's: `jailed` puts them into jails, `door` and `channel` take nothing
//! from them unseen, `quota` cuts what they print, `grants` is what they may answer, and `budget` bounds what their
//! answers take here.

mod area;
mod budget;
mod channel;
pub(crate) mod confined;
mod cores;
mod descendants;
mod descriptors;
mod door;
mod foreign;
mod grants;
mod greeting;
#[cfg(feature = "jail")]
mod jailed;
mod launch;
mod lines;
mod member;
mod news;
mod outbox;
mod page;
mod pool;
mod quota;
mod reader;
mod relay;
mod repeats;
mod run;
mod server;
mod settle;
mod spread;
mod start;
mod steal;
mod supervisor;
mod wear;
mod worker;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use budget::Budget;
pub(crate) use budget::Taken;
pub use cores::{available as available_cores, note_at_start};
pub(crate) use descriptors::fill_standard;
use fastmap_sandbox::Demand;
pub use greeting::INSIDE;
#[cfg(feature = "jail")]
pub use jailed::{CpuTimes, Jailed};
pub use launch::{Keeper, Launch, Launcher, Start};
use log::LevelFilter;
pub use relay::{LogRecord, PassThrough, Relay, Stream};
pub use server::MOST_TEMP_FOLDER;
pub(crate) use worker::{Opening, Record};
pub use worker::{enter, enter_after, inside_worker, leave_unentered, marked};

use crate::batch::{Batch, BatchId};
use crate::completion::{Completion, Receipt};
use crate::error::BackendError;
use crate::inbox::Inbox;
use crate::job::{Job, JobId};
use crate::sizing::Targets;
use crate::{Backend, Capacity, Readiness, Run};
use pool::Shared;
use run::Gauge;

/// For the fuzzers.
#[cfg(fuzzing)]
pub(crate) mod fuzzing {
    pub(crate) use super::greeting::{Marker, read};
    pub(crate) use super::{Opening, Record};
}

/// What a batch should be for workers on the same machine: a message costs about 0.1 ms at worst and keeps the host's
/// CPU for 10 µs, so that 20 ms of work hide it and 0.1 ms is worth it; of large items what stays in a core's cache (a million
/// square roots in batches of 64, 128, 256 and 512 KB: 132, 160, 172 and 173 million a second).
const TARGETS: Targets =
    Targets { work: Duration::from_millis(20), least: Duration::from_micros(200), bytes: 256 * 1024 };

/// A worker sends an answer at one go: what it waits for is this process, and a core.
const UNFINISHED: Duration = Duration::from_secs(10);

/// More make no sense on any machine, and each costs the host four descriptors and two threads.
const MOST_PROCESSES: usize = 4096;

/// How the workers are started.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// Most worker processes at a time, 1 to 4096.
    pub processes: usize,
    /// The program that becomes a worker. It must be the running executable unless `identity` names another; `None` (the
    /// default) takes the very file that runs, also when another has taken its path meanwhile. A `launcher` has its own.
    pub program: Option<PathBuf>,
    /// What a worker must say that it is (see [`identity`](crate::identity())); `None`: the running executable.
    pub identity: Option<String>,
    /// Who starts workers of another program, trusted with nothing; `None`: this process starts its own.
    pub launcher: Option<Arc<dyn Launcher>>,
    /// Bytes of lines and log records of a worker that are passed on at once, and each second (a line counts
    /// 96 bytes beside its text); more are left out and counted. One that prints more before it has reported
    /// for duty is ended. `None`: no bound.
    pub output: Option<u64>,
    /// Bytes that a worker may answer at a time; more ends it. `None`: no bound. One that a `launcher` has
    /// started is also held to the limit of its batch
    /// ([`Batch::limit_answer`](crate::Batch::limit_answer)).
    pub answer: Option<u64>,
    /// What answers of workers that a `launcher` has started may take here, until they are dropped. Where it
    /// is used up, a worker's answer waits, and then its worker is ended. `None`: no bound.
    pub budget: Option<Arc<Budget>>,
    /// A worker that a `launcher` has started, that begins to send something and does not go on with it for
    /// so long, is ended.
    pub unfinished: Duration,
    /// Log records of the workers that are of interest before their first batch, which brings its own
    /// [`Batch::level`](crate::Batch::level); `None`: as many as this process's own logger wants.
    pub level: Option<LevelFilter>,
    /// Where the lines go that workers print.
    pub relay: Arc<dyn Relay>,
    /// How much workers are confined: what the contract of a mapped function forbids is refused by the kernel.
    pub sandbox: Demand,
    /// A worker that holds more bytes of memory of its own is ended.
    pub memory: Option<u64>,
    /// Bytes of stack that the function has in a worker of this program; `None`: as many as a main thread may have.
    pub stack: Option<u64>,
    /// A worker that has run so many items is replaced.
    pub most_items: Option<u64>,
}

/// How many workers a map has on so many cores where nobody says: two for each but one. While one waits for its next
/// batch another computes, and the host has room.
pub fn default_processes(cores: usize) -> usize {
    (cores * 2).saturating_sub(2).max(1)
}

impl LocalOptions {
    /// `processes` workers of this executable, whose lines go to the host's own output, and that are not confined.
    pub fn new(processes: usize) -> Self {
        LocalOptions {
            processes: processes.clamp(1, MOST_PROCESSES),
            program: None,
            identity: None,
            launcher: None,
            output: None,
            answer: None,
            budget: None,
            unfinished: UNFINISHED,
            level: None,
            relay: Arc::new(PassThrough),
            sandbox: Demand::Off,
            memory: None,
            stack: None,
            most_items: None,
        }
    }
}

/// Runs batches in worker processes of this machine.
///
/// Workers are started when there is work for them, kept for the next map, shared by all runs, and replaced when
/// they die. Dropping the last `Local` and the last of its runs ends them.
#[derive(Debug, Clone)]
pub struct Local {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    shared: Arc<Shared>,
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
        let shared = Shared::new(options)
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
        let (inbox, gauge) = self.pool.shared.open(job);
        Ok(Box::new(LocalRun { pool: Arc::clone(&self.pool), job: id, inbox, gauge }))
    }
}

impl Pool {
    /// # Errors
    /// If this process is a fork of the one that made the pool.
    fn check_owner(&self) -> Result<(), BackendError> {
        let (owner, this) = (self.shared.owner, std::process::id());
        if this == owner { Ok(()) } else { Err(BackendError::Forked { owner, this }) }
    }

    fn start_supervisor(&self) -> Result<(), BackendError> {
        let mut supervision = self.supervision.lock().unwrap_or_else(PoisonError::into_inner);
        if supervision.thread.is_none() {
            if self.shared.options.launcher.is_none() {
                self.shared.lock().warnings.extend(cores::binding(self.shared.options.processes));
            }
            // The first workers are on their way before it is.
            start::begin_requested(&self.shared);
            settle::before_exit(&self.shared);
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("fastmap-supervisor".to_owned());
            let handle = thread
                .spawn(move || {
                    // A relay of the user's own may panic in there: nobody must wait for a thread that is gone.
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
            None => supervisor::without_signals(|| supervisor::supervise(&self.shared)),
        }
    }
}

/// One map on the pool.
struct LocalRun {
    pool: Arc<Pool>,
    job: JobId,
    inbox: Arc<Inbox>,
    gauge: Arc<Gauge>,
}

impl Run for LocalRun {
    #[inline]
    fn capacity(&mut self) -> Capacity {
        let (batches, slots) = self.gauge.read();
        Capacity { batches, slots, workers: self.pool.shared.options.processes, targets: TARGETS }
    }

    fn submit(&mut self, batch: Batch) -> Result<(), Batch> {
        if self.pool.check_owner().is_err() {
            // The next poll says so. The pool's lock may be held for ever here, by a thread that the fork has not.
            return Ok(());
        }
        self.pool.shared.submit(self.job, batch)?;
        // Not before: it finds what to do, and need not be woken for it.
        if let Err(error) = self.pool.start_supervisor() {
            self.pool.shared.fail(self.job, error);
        }
        Ok(())
    }

    fn poll(&mut self, deadline: Instant) -> Result<Option<Completion>, BackendError> {
        self.pool.check_owner()?;
        self.inbox.take(deadline)
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
            self.pool.shared.close(self.job);
            self.pool.shared.settle();
        }
    }
}
