//! Options of the backend of this machine.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fastmap_sandbox::ConfinementLevel;
use log::LevelFilter;

use crate::local::launcher::Launcher;
use crate::local::output::pipe::{OutputSink, StdioSink};
use crate::local::pool::budget::Budget;

/// More make no sense on any machine, and each costs the host four descriptors and two threads.
pub(crate) const MOST_PROCESSES: usize = 4096;

/// How the workers are started.
#[derive(Clone, Debug)]
pub struct LocalOptions {
    /// Most worker processes at a time, 1 to 4096.
    pub processes: usize,
    /// The program that becomes a worker. It must be the running executable unless `identity` names another; `None` (the
    /// default) takes the very file that runs, also when another has taken its path meanwhile. A `launcher` has its own.
    pub program: Option<PathBuf>,
    /// The identity that a worker must report (see [`identity`](crate::identity())); `None`: that of the
    /// running executable.
    pub identity: Option<String>,
    /// Starts workers of another, untrusted program; `None`: this process starts its own.
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
    /// Time after which a worker that a `launcher` has started is ended, if it has begun to send something and does not go
    /// on with it.
    pub unfinished: Duration,
    /// Log records of the workers that are of interest before their first batch, which brings its own
    /// [`Batch::level`](crate::Batch::level); `None`: as many as this process's own logger wants.
    pub level: Option<LevelFilter>,
    /// Where the lines go that workers print.
    pub relay: Arc<dyn OutputSink>,
    /// How much workers are confined: what the contract of a mapped function forbids is refused by the kernel.
    pub sandbox: ConfinementLevel,
    /// A worker that holds more bytes of memory of its own is ended.
    pub memory: Option<u64>,
    /// Bytes of stack that the function has in a worker of this program; `None`: as many as a main thread may have.
    pub stack: Option<u64>,
    /// Items after which a worker is replaced.
    pub most_items: Option<u64>,
}

/// Workers of a map on `cores` cores by default: two for each core but one. While one waits for its next batch another one
/// computes, and the host has room.
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
            relay: Arc::new(StdioSink),
            sandbox: ConfinementLevel::Off,
            memory: None,
            stack: None,
            most_items: None,
        }
    }
}

/// A worker sends an answer at one go: what it waits for is this process, and a core.
pub(crate) const UNFINISHED: Duration = Duration::from_secs(10);
