//! The exit of a worker, and the batch that was lost with it.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use crate::model::protocol_error::ProtocolError;
use crate::model::text::look_of;
use crate::model::words::counted;

/// The loss of a batch with its worker.
#[derive(Clone, Debug)]
pub struct WorkerLoss {
    /// What its worker was doing.
    pub running: Running,
    /// How the worker ended.
    pub death: WorkerExit,
}

/// What a worker was doing when it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// It ran the item at this position of the batch.
    Item(u32),
    /// It prepared the function (its context, or the `init` of `fastmap_init`): no item is to blame.
    Setup,
    /// It is not known.
    Unknown,
}

/// The exit of a worker that was not asked to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerExit {
    /// Its name.
    pub worker: String,
    /// Its process id; 0 where there never was a process.
    pub pid: u32,
    /// What ended it.
    pub cause: ExitReason,
    /// Calls that the sandbox had refused to what then ran: the likely reason.
    pub refused: Option<String>,
    /// The last lines it wrote to stderr, oldest first, capped.
    pub stderr: Vec<String>,
}

impl WorkerExit {
    /// Whether another worker ended in the same way and with the same last words, of which there are some; addresses and
    /// the numbers of the process and its threads may differ.
    pub fn is_like(&self, other: &WorkerExit) -> bool {
        self.cause == other.cause && !self.stderr.is_empty() && self.looks() == other.looks()
    }

    fn looks(&self) -> Vec<u64> {
        self.stderr.iter().map(|line| look_of(line.as_bytes(), self.pid)).collect()
    }

    /// A number that deaths have in common whose cause, refused calls and last words are the same; addresses
    /// and the numbers of the process and its threads may differ.
    pub fn look(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.cause.to_string(), &self.refused, self.looks()).hash(&mut hasher);
        hasher.finish()
    }
}

/// What ended a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitReason {
    /// It left by `exit` with that code.
    Exit(i32),
    /// A signal ended it.
    Signal(i32),
    /// It ran one item for longer than the item timeout, and was ended.
    Timeout(Duration),
    /// It was stopped (SIGSTOP) for this long while others could do its work, and was ended.
    Stopped(Duration),
    /// It did not connect within this time, and was ended.
    HandshakeTimeout(Duration),
    /// It runs another program than the host, or another version.
    Mismatch(String),
    /// It broke the protocol, and was ended.
    Protocol(String),
    /// It could not be started.
    NotStarted(String),
    /// It ended by `exit` with that code before it connected.
    ExitedBeforeHandshake(i32),
    /// It wanted more memory than there was for it, and was ended.
    OutOfMemory(MemoryLimit),
    /// It printed and logged more than these bytes, and was ended.
    OutputLimit(u64),
    /// It was a worker of a service that lost this many agents in a row with the batch.
    AgentsLost(u32),
    /// It is gone, and how it ended is unknown: a handler for `SIGCHLD` may have taken its status.
    Unknown,
}

/// Which memory ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLimit {
    /// What a worker of the pool may hold of its own, in bytes.
    Worker(u64),
    /// What its jail may hold, in bytes: a control group of its own.
    Jail(u64),
    /// What the host's control group may hold together, in bytes, or where that has no limit the machine.
    Shared(Option<u64>),
}

impl From<ProtocolError> for ExitReason {
    fn from(error: ProtocolError) -> ExitReason {
        ExitReason::Protocol(error.to_string())
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitReason::Exit(code) => write!(f, "ended by exit({code})"),
            ExitReason::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "was ended by signal {number} ({signal})"),
                Err(_) => write!(f, "was ended by signal {number}"),
            },
            ExitReason::Timeout(limit) => write!(f, "was ended: the item ran for more than {limit:?}"),
            ExitReason::Stopped(time) => write!(
                f,
                "was ended: it was stopped (SIGSTOP) for {time:?} and held up its map, which other workers could go on with"
            ),
            ExitReason::HandshakeTimeout(limit) => write!(
                f,
                "was ended: it did not connect within {limit:?} (does `main` begin with fastmap_main! \
                 or fastmap::enter() on every path?)"
            ),
            ExitReason::Mismatch(what) => write!(f, "was ended: {what}"),
            ExitReason::Protocol(what) => write!(f, "was ended: it broke the protocol ({what})"),
            ExitReason::NotStarted(why) => write!(f, "could not be started: {why}"),
            ExitReason::ExitedBeforeHandshake(code) => write!(
                f,
                "ended by exit({code}) before it connected (is it a fastmap program? does its `main` begin \
                 with fastmap_main! or fastmap::enter()?)"
            ),
            ExitReason::OutOfMemory(limit) => match limit {
                MemoryLimit::Worker(limit) => write!(
                    f,
                    "was ended: out of memory, as it held more than the {limit} bytes that a worker may"
                ),
                MemoryLimit::Jail(limit) => {
                    write!(f, "was ended: out of memory, of which it may have {} MiB", limit >> 20)
                }
                MemoryLimit::Shared(Some(limit)) => write!(
                    f,
                    "was ended by the kernel: out of memory, of which the control group of host and workers may have \
                     {} MiB; fewer local_processes need less",
                    limit >> 20
                ),
                MemoryLimit::Shared(None) => write!(
                    f,
                    "was ended by the kernel: out of memory, as the machine has no more; fewer local_processes need less"
                ),
            },
            ExitReason::OutputLimit(limit) => {
                write!(f, "was ended: it printed more than {} KiB", limit >> 10)
            }
            ExitReason::AgentsLost(times) => {
                let agents = counted(u64::from(*times), "agent");
                write!(f, "is gone: the service has lost {agents} in a row with this batch")
            }
            ExitReason::Unknown => write!(
                f,
                "is gone, and how it ended is not known (a handler of SIGCHLD in the process that started it may have taken \
                 its status)"
            ),
        }
    }
}

impl fmt::Display for WorkerExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            0 => write!(f, "worker {} {}", self.worker, self.cause)?,
            pid => write!(f, "worker {} (process {pid}) {}", self.worker, self.cause)?,
        }
        if let Some(refused) = &self.refused {
            write!(f, "; {}", crate::model::refused_call::denial_message(refused))?;
        }
        if !self.stderr.is_empty() {
            write!(f, "; it last wrote: {}", self.stderr.join(" | "))?;
        }
        Ok(())
    }
}

impl std::error::Error for WorkerExit {}
