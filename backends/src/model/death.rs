//! Exit of a worker, and the batch that was lost with it.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use crate::model::protocol_error::ProtocolError;
use crate::model::text::look_of;
use crate::model::words::counted;

/// The loss of a batch with its worker.
#[derive(Clone, Debug)]
pub struct WorkerLoss {
    /// Activity of its worker.
    pub running: Running,
    /// Exit of the worker.
    pub death: WorkerExit,
}

/// Activity of a worker when it exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// It ran the item at this position of the batch.
    Item(u32),
    /// It prepared the function (its context, or the `init` of `fastmap_init`): no item is to blame.
    Setup,
    /// Unknown.
    Unknown,
}

/// Exit of a worker that was not asked to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerExit {
    /// Its name.
    pub worker: String,
    /// Its process id; 0 if the process was never started.
    pub pid: u32,
    /// Reason of the exit.
    pub cause: ExitReason,
    /// Calls that the sandbox had denied to what ran at the time: the likely reason.
    pub refused: Option<String>,
    /// The last lines it wrote to stderr, oldest first, capped.
    pub stderr: Vec<String>,
}

impl WorkerExit {
    /// Returns whether another worker exited for the same reason and with the same, non-empty last lines.
    /// Addresses, process ids and thread ids may differ.
    pub fn is_like(&self, other: &WorkerExit) -> bool {
        self.cause == other.cause
            && !self.stderr.is_empty()
            && self.line_fingerprints() == other.line_fingerprints()
    }

    fn line_fingerprints(&self) -> Vec<u64> {
        self.stderr.iter().map(|line| look_of(line.as_bytes(), self.pid)).collect()
    }

    /// Fingerprint of the exit: equal if the reason, the denied calls and the last lines are the same.
    /// Addresses, process ids and thread ids may differ.
    pub fn look(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.cause.to_string(), &self.refused, self.line_fingerprints()).hash(&mut hasher);
        hasher.finish()
    }
}

/// Reason of a worker's exit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitReason {
    /// It exited with this code.
    Exit(i32),
    /// It was ended by this signal.
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
    /// It exited with this code before it connected.
    ExitedBeforeHandshake(i32),
    /// It needed more memory than its limit, and was ended.
    OutOfMemory(MemoryLimit),
    /// It printed and logged more than these bytes, and was ended.
    OutputLimit(u64),
    /// It was a worker of a service that lost this many agents in a row with the batch.
    AgentsLost(u32),
    /// It is gone, and its exit status is unknown: a handler for `SIGCHLD` may have taken it.
    Unknown,
}

/// The memory limit that was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLimit {
    /// Limit of a worker's own memory in the pool, in bytes.
    Worker(u64),
    /// Limit of its jail's memory, a control group of its own, in bytes.
    Jail(u64),
    /// Limit of the host's control group for all processes, in bytes; `None`: the machine's memory.
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
