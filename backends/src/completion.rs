//! What comes back from a run: results, items given back, or a batch lost with its worker.
//! Made by backends, consumed by the host's adapter, which alone decides what is tried again.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::batch::{Batch, BatchId};
use crate::buffers;
use crate::credit;
use crate::local::{Taken, confined};
use crate::text::look_of;
use crate::words::{counted, noun};

/// News of some consecutive items of one batch. All completions of a batch together cover each item once.
#[derive(Debug)]
pub struct Completion {
    /// The batch that was submitted.
    pub batch: BatchId,
    /// Index in the input of the first item that this is about.
    pub first: u64,
    /// How many items it is about.
    pub items: u32,
    /// What became of them.
    pub outcome: Outcome,
}

/// What became of items.
#[derive(Debug)]
pub enum Outcome {
    /// Each was answered, by a result or by its own failure.
    Done(Results),
    /// None was begun; they can be submitted again as they are. The piece has the name of its batch.
    Returned(Batch),
    /// The process that had them is gone. Some may have run; none has an answer.
    Lost(Batch, Loss),
}

/// Answers to consecutive items.
#[derive(Debug, Default)]
pub struct Results {
    /// Encoded results of the items that did not fail, in order, laid out as the worker's entry wrote them.
    pub payload: Payload,
    /// Items that failed, in order.
    pub failures: Vec<ItemFailure>,
    /// Time on the clock from the first item's begin to the last one's end.
    pub wall: Duration,
    /// CPU time of the thread that ran the items.
    pub cpu: Duration,
    /// Time in which that thread was ready to run and had no core, where it is known: part of `wall`, and not of `cpu`.
    /// That of a batch which took less than a millisecond may come with a later one.
    pub queued: Option<Duration>,
    /// The worker, for reports.
    pub worker: String,
    /// Where it is.
    pub place: Place,
    /// When the answer reached this process, where that is before it is polled for.
    pub came: Option<Instant>,
    /// The item that took longest, where the worker knows: its position among those of the completion, and its time.
    pub slowest: Option<(u32, Duration)>,
    /// Calls that the sandbox refused to items that have a result all the same, and files that are not there.
    pub refused: Vec<RefusedCall>,
}

impl Results {
    /// Bytes that they count against what their batch was granted: those of the results, and of the failures'
    /// messages with 64 more for each.
    pub fn bytes(&self) -> u64 {
        self.payload.len() as u64 + credit::of_failures(&self.failures)
    }
}

/// Where items were run, for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Place {
    /// On this machine, or on whatever a backend of your own has.
    #[default]
    Here,
    /// In a cloud service.
    Cloud,
}

/// A call that the sandbox refused to a function that went on without it, or a file that the function looked for in
/// the cloud and that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedCall {
    /// Index in the input of the item that made it; `None` where the function was being prepared.
    pub index: Option<u64>,
    /// The system call, with its path if it has one; of a file that is not there the path alone.
    pub call: String,
    /// The item's result is an error of its own (`Err`): the call may be why.
    pub own_error: bool,
    /// It was not refused: there is no such file.
    pub missing: bool,
}

/// Bytes that stand somewhere in a received frame. Nothing is copied to take them out.
#[derive(Default)]
pub struct Payload {
    frame: Vec<u8>,
    start: usize,
    end: usize,
    /// What of a budget they take as long as they are here.
    taken: Option<Taken>,
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len())
    }
}

impl Payload {
    /// The bytes `start..end` of `frame`.
    ///
    /// # Panics
    /// If the range does not lie in the frame.
    pub fn within(frame: Vec<u8>, start: usize, end: usize) -> Self {
        assert!(start <= end && end <= frame.len(), "bytes {start}..{end} of {}", frame.len());
        Payload { frame, start, end, taken: None }
    }

    /// Gives back what it takes of a budget when it is dropped.
    pub(crate) fn counted(self, taken: Option<Taken>) -> Self {
        let mut counted = self;
        counted.taken = taken;
        counted
    }

    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.frame[self.start..self.end]
    }

    /// `length` of the bytes from `at` on, for who reads item by item and keeps to [`Payload::len`] itself: what stands
    /// behind in the frame would be given, too.
    #[inline]
    pub fn item(&self, at: usize, length: usize) -> Option<&[u8]> {
        self.frame.get(self.start + at..)?.get(..length)
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        buffers::give(std::mem::take(&mut self.frame));
    }
}

impl From<Vec<u8>> for Payload {
    fn from(frame: Vec<u8>) -> Self {
        let end = frame.len();
        Payload { frame, start: 0, end, taken: None }
    }
}

/// Why an item has no result although its worker lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemFailure {
    /// Position of the item among those of the completion (0 is its first).
    pub offset: u32,
    /// What went wrong.
    pub kind: FailureKind,
    /// In words, without the item's index. Behind the message of a panic may stand its frames, see
    /// [`FRAMES`](ItemFailure::FRAMES).
    pub message: String,
}

impl ItemFailure {
    /// What stands between the message of a panic and its frames.
    pub const FRAMES: &str = "\nstack backtrace:";

    /// Adds a note to the message, before the frames of a panic.
    pub fn add(&mut self, note: &str) {
        add(&mut self.message, note);
    }
}

/// Adds a note to the message of a failure, before the frames of a panic.
pub(crate) fn add(message: &mut String, note: &str) {
    let end = message.find(ItemFailure::FRAMES).unwrap_or(message.len());
    message.insert_str(end, note);
}

/// The kinds of [`ItemFailure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The function panicked.
    Panic,
    /// The item could not be read, or its result not be written.
    Serialize,
}

/// How a batch was lost.
#[derive(Clone, Debug)]
pub struct Loss {
    /// What its worker was doing.
    pub running: Running,
    /// How the worker ended.
    pub death: Death,
}

/// What a worker was doing when it died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// It ran the item at this position of the batch.
    Item(u32),
    /// It prepared the function (its context, or the `init` of `fastmap_init`): no item is to blame.
    Setup,
    /// Nobody can tell.
    Unknown,
}

/// The end of a worker that was not asked to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Its name.
    pub worker: String,
    /// Its process id; 0 where there never was a process.
    pub pid: u32,
    /// What ended it.
    pub cause: DeathCause,
    /// Calls that the sandbox had refused to what then ran: the likely reason.
    pub refused: Option<String>,
    /// The last lines it wrote to stderr, oldest first, capped.
    pub stderr: Vec<String>,
}

impl Death {
    /// Whether another worker ended in the same way and with the same last words, of which there are some; addresses and
    /// the numbers of the process and its threads may differ.
    pub fn is_like(&self, other: &Death) -> bool {
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
pub enum DeathCause {
    /// It left by `exit` with that code.
    Exit(i32),
    /// A signal ended it.
    Signal(i32),
    /// It ran one item for longer than the item timeout, and was ended.
    Timeout(Duration),
    /// It was stopped for so long (SIGSTOP) while others could do its work, and was ended.
    Stopped(Duration),
    /// It did not report for duty within this time, and was ended.
    NoGreeting(Duration),
    /// It runs another program than the host, or another version.
    Mismatch(String),
    /// It sent what is no part of the protocol, and was ended.
    Protocol(String),
    /// It could not be started.
    NotStarted(String),
    /// It left, by `exit` with that code, before it reported for duty.
    NeverGreeted(i32),
    /// It wanted more memory than there was for it, and was ended.
    OutOfMemory(MemoryLimit),
    /// It printed and logged more than these bytes, and was ended.
    OutputLimit(u64),
    /// It was a service's, which has lost so many agents in a row with the batch.
    AgentsLost(u32),
    /// It is gone, and whoever started it was not told how: a handler for `SIGCHLD` may have been.
    Unknown,
}

/// Which memory ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLimit {
    /// What a worker of the pool may hold of its own, in bytes.
    Worker(u64),
    /// What its jail may hold, in bytes: a group that nobody else is in.
    Jail(u64),
    /// What the host's control group may hold together, in bytes, or where that has no limit the machine.
    Shared(Option<u64>),
}

impl fmt::Display for DeathCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeathCause::Exit(code) => write!(f, "ended by exit({code})"),
            DeathCause::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "was ended by signal {number} ({signal})"),
                Err(_) => write!(f, "was ended by signal {number}"),
            },
            DeathCause::Timeout(limit) => write!(f, "was ended: the item ran for more than {limit:?}"),
            DeathCause::Stopped(time) => write!(
                f,
                "was ended: it was stopped (SIGSTOP) for {time:?} and held up its map, which other workers could go on with"
            ),
            DeathCause::NoGreeting(limit) => write!(
                f,
                "was ended: it did not report for duty within {limit:?} (does `main` begin with fastmap_main! \
                 or fastmap::enter() on every path?)"
            ),
            DeathCause::Mismatch(what) => write!(f, "was ended: {what}"),
            DeathCause::Protocol(what) => write!(f, "was ended: it broke the protocol ({what})"),
            DeathCause::NotStarted(why) => write!(f, "could not be started: {why}"),
            DeathCause::NeverGreeted(code) => write!(
                f,
                "ended by exit({code}) before it reported for duty (is it a fastmap program? does its `main` begin \
                 with fastmap_main! or fastmap::enter()?)"
            ),
            DeathCause::OutOfMemory(limit) => match limit {
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
            DeathCause::OutputLimit(limit) => {
                write!(f, "was ended: it printed more than {} KiB", limit >> 10)
            }
            DeathCause::AgentsLost(times) => {
                let agents = counted(u64::from(*times), "agent");
                write!(f, "is gone: the service has lost {agents} in a row with this batch")
            }
            DeathCause::Unknown => write!(
                f,
                "is gone, and how it ended is not known (where it was started, a handler of SIGCHLD may have been told \
                 instead)"
            ),
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            0 => write!(f, "worker {} {}", self.worker, self.cause)?,
            pid => write!(f, "worker {} (process {pid}) {}", self.worker, self.cause)?,
        }
        if let Some(refused) = &self.refused {
            write!(f, "; {}", confined::told(refused))?;
        }
        if !self.stderr.is_empty() {
            write!(f, "; it last wrote: {}", self.stderr.join(" | "))?;
        }
        Ok(())
    }
}

impl std::error::Error for Death {}

/// What a run cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Millionths of a credit; 0 for what ran on this machine.
    pub microcredits: u64,
    /// What the account has left, in millionths of a credit, where there is one and it could be asked.
    pub balance: Option<i64>,
}

/// Millionths of a credit, as credits with as many decimals as it takes.
pub fn credits(micro: i64) -> String {
    let (whole, rest) = (micro.unsigned_abs() / 1_000_000, micro.unsigned_abs() % 1_000_000);
    let sign = if micro < 0 { "-" } else { "" };
    let text = format!("{sign}{whole}.{rest:06}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The same with its unit: `1 credit`, `2.5 credits`.
///
/// # Examples
///
/// ```
/// use fastmap_backends::in_credits;
///
/// assert_eq!([in_credits(1_000_000), in_credits(10_000)], ["1 credit", "0.01 credits"]);
/// ```
pub fn in_credits(micro: i64) -> String {
    format!("{} {}", credits(micro), noun(u64::from(micro == 1_000_000), "credit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_are_written_without_idle_decimals() {
        for (micro, text) in [(0, "0"), (10_000_000, "10"), (1, "0.000001"), (-2_500_000, "-2.5")] {
            assert_eq!(credits(micro), text);
        }
    }
}
