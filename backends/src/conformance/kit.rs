//! Entry points of the kit, the list of promises, and the report.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use crate::execution::job::Job;
use crate::model::error::BackendError;
use crate::{Backend, Run};

/// A trial that neither ends nor opens another run within this time is stuck in a call of the backend.
const HANG_TIMEOUT: Duration = Duration::from_secs(150);

/// A promise that a backend makes by implementing the trait. `Display` describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Promise {
    /// [`Run::capacity`] is never 0 while the run has no batches, and a batch is accepted then.
    Capacity,
    /// Each item is answered exactly once, by its own result, whatever the size and layout of its batch.
    AnswersOnce,
    /// Thousands of batches are answered, with as many in flight as the run accepts.
    ManyBatches,
    /// An item or a result may have no bytes.
    EmptyItems,
    /// An item of 8 MiB is received and returned.
    LargeItems,
    /// The function receives its context: none, a little, or megabytes of it.
    Context,
    /// Failed items are answered by their failures at their offsets, and the others by their results.
    ItemFailures,
    /// A batch whose results exceed its credit is answered in parts that cover it.
    ResultCredit,
    /// [`Run::submit`] never waits for the function; a rejected batch is returned unchanged.
    SubmitNeverWaits,
    /// [`Run::poll`] returns at its deadline if there is no completion, not sooner, and also while an item
    /// runs.
    PollDeadline,
    /// A cancelled batch is answered at most once more, and the others as before.
    Cancel,
    /// Two concurrent runs both progress, however busy one is, and each gets its own answers.
    TwoRuns,
    /// The backend still works after a run is closed or dropped midway.
    EndedMidway,
    /// A run may be opened, used and closed by different threads.
    MovesBetweenThreads,
    /// A function that is not in the executable causes an error of the run, when it is opened or later.
    UnknownFunction,
    /// A function that can't be prepared ends its run with [`BackendError::Setup`].
    RefusedSetup,
    /// A process that dies while preparing the function loses its batches, and no item is accused.
    DeathInSetup,
    /// An item that ends its process costs no other item its answer, and no innocent one is accused.
    DeathInItem,
}

impl Promise {
    /// All promises in the order in which [`check`] tries them: promises that others depend on are first.
    pub const ALL: &[Promise] = &[
        Promise::Capacity,
        Promise::AnswersOnce,
        Promise::ManyBatches,
        Promise::EmptyItems,
        Promise::LargeItems,
        Promise::Context,
        Promise::ItemFailures,
        Promise::ResultCredit,
        Promise::SubmitNeverWaits,
        Promise::PollDeadline,
        Promise::Cancel,
        Promise::TwoRuns,
        Promise::EndedMidway,
        Promise::MovesBetweenThreads,
        Promise::UnknownFunction,
        Promise::RefusedSetup,
        Promise::DeathInSetup,
        Promise::DeathInItem,
    ];

    /// The promises whose trials end processes on purpose. A backend that runs the function in the calling
    /// process can't keep them: see [`check_all_but`].
    pub const LETHAL: &[Promise] = &[Promise::DeathInSetup, Promise::DeathInItem];

    fn try_on(self, backend: &dyn Backend) -> Result<(), String> {
        match self {
            Promise::Capacity => crate::conformance::promises::capacity(backend),
            Promise::AnswersOnce => crate::conformance::promises::answers_once(backend),
            Promise::ManyBatches => crate::conformance::promises::many_batches(backend),
            Promise::EmptyItems => crate::conformance::promises::empty_items(backend),
            Promise::LargeItems => crate::conformance::promises::large_items(backend),
            Promise::Context => crate::conformance::promises::context(backend),
            Promise::ItemFailures => crate::conformance::promises::item_failures(backend),
            Promise::ResultCredit => crate::conformance::promises::result_credit(backend),
            Promise::SubmitNeverWaits => crate::conformance::promises::submit_never_waits(backend),
            Promise::PollDeadline => crate::conformance::promises::poll_deadline(backend),
            Promise::Cancel => crate::conformance::promises::cancel(backend),
            Promise::TwoRuns => crate::conformance::promises::two_runs(backend),
            Promise::EndedMidway => crate::conformance::promises::ended_midway(backend),
            Promise::MovesBetweenThreads => crate::conformance::promises::moves_between_threads(backend),
            Promise::UnknownFunction => crate::conformance::promises::unknown_function(backend),
            Promise::RefusedSetup => crate::conformance::promises::refused_setup(backend),
            Promise::DeathInSetup => crate::conformance::promises::death_in_setup(backend),
            Promise::DeathInItem => crate::conformance::promises::death_in_item(backend),
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Promise::Capacity => "a run that holds nothing has room for a batch",
            Promise::AnswersOnce => "each item is answered exactly once, by its own result",
            Promise::ManyBatches => "thousands of batches are answered",
            Promise::EmptyItems => "items and results may have no bytes",
            Promise::LargeItems => "items and results may have megabytes",
            Promise::Context => "the context reaches the function",
            Promise::ItemFailures => "failures stand at the places of their items",
            Promise::ResultCredit => "results beyond the credit of a batch come in parts",
            Promise::SubmitNeverWaits => "submit never waits for the function",
            Promise::PollDeadline => "poll comes back at its deadline",
            Promise::Cancel => "a batch that is given up disturbs no other",
            Promise::TwoRuns => "two runs at once both progress, and do not mix",
            Promise::EndedMidway => "a run that ends midway leaves the backend fit for the next",
            Promise::MovesBetweenThreads => "a run may move between threads",
            Promise::UnknownFunction => "a function that is not there is an error of the run",
            Promise::RefusedSetup => "a function that can't be prepared is a setup error of the run",
            Promise::DeathInSetup => "a death while the function is prepared accuses no item",
            Promise::DeathInItem => "an item that ends its process costs no other its answer",
        })
    }
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The promise.
    pub promise: Promise,
    /// Description of the violation.
    pub how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken: {} ({:?}): {}", self.promise, self.promise, self.how)
    }
}

/// The broken promises of a backend. `Debug` is as readable as `Display`, for `unwrap` in tests.
#[derive(Clone, PartialEq, Eq)]
pub struct Failed {
    /// The backend's name.
    pub backend: String,
    /// The broken promises, at least one.
    pub broken: Vec<Broken>,
    /// The promises that were not tried because the backend hung in an earlier one.
    pub untried: Vec<Promise>,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the backend {:?} does not keep {} of its promises", self.backend, self.broken.len())?;
        for broken in &self.broken {
            write!(f, "\n  {broken}")?;
        }
        for promise in &self.untried {
            write!(f, "\n  not tried: {promise} ({promise:?})")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for Failed {}

/// Tries every promise on `backend`, and drops it.
///
/// Takes a few seconds on a machine with two cores. Always returns: a trial in which the backend hangs is
/// abandoned with its thread, and the remaining promises are not tried. The duration of each promise is
/// logged at the debug level of the crate `log`.
///
/// # Errors
/// Lists the broken promises, and how each was broken.
///
/// # Examples
///
/// A whole test file. Worker processes start in `test_support!`, before the harness's own `main`:
///
/// ```
/// # mod fastmap {
/// #     pub use fastmap_backends as backends;
/// #     macro_rules! test_support { () => {} }
/// #     pub(crate) use test_support;
/// # }
/// use fastmap::backends::conformance::{self, Failed};
/// use fastmap::backends::{Local, LocalOptions};
///
/// fastmap::test_support!();
///
/// #[test]
/// fn keeps_its_promises() -> Result<(), Failed> {
///     conformance::check(Local::new(LocalOptions::new(2)).expect("a pool"))
/// }
/// ```
#[allow(clippy::test_attr_in_doctest)] // The example is a test file, and compiling is what it is for.
pub fn check(backend: impl Backend + 'static) -> Result<(), Failed> {
    check_all_but(&[], backend)
}

/// As [`check`], without the promises in `exempt`.
///
/// # Errors
/// As [`check`].
///
/// # Examples
///
/// ```
/// use fastmap_backends::conformance::{self, Promise};
/// use fastmap_backends::{Local, LocalOptions};
///
/// # fastmap_backends::local::enter();
/// conformance::check_all_but(Promise::LETHAL, Local::new(LocalOptions::new(1)).unwrap()).unwrap();
/// ```
pub fn check_all_but(exempt: &[Promise], backend: impl Backend + 'static) -> Result<(), Failed> {
    let backend: Arc<dyn Backend> = Arc::new(backend);
    let mut failed = Failed { backend: backend.name().to_owned(), broken: Vec::new(), untried: Vec::new() };
    let mut has_hung = false;
    for promise in Promise::ALL.iter().copied().filter(|promise| !exempt.contains(promise)) {
        if has_hung {
            failed.untried.push(promise);
            continue;
        }
        let started = Instant::now();
        let how = match try_in_thread(promise, &backend) {
            Verdict::Kept => {
                log::debug!("{}: {promise} ({:?})", failed.backend, started.elapsed());
                continue;
            }
            Verdict::Broken(how) => how,
            Verdict::Hangs => {
                has_hung = true;
                format!("it is stuck in a call of the backend for {HANG_TIMEOUT:?}")
            }
        };
        failed.broken.push(Broken { promise, how });
    }
    if failed.broken.is_empty() { Ok(()) } else { Err(failed) }
}

/// Counts the runs that a trial opens: a trial that still opens runs is slow, not stuck.
#[derive(Debug)]
struct Counting {
    backend: Arc<dyn Backend>,
    opened: Arc<AtomicU64>,
}

impl Backend for Counting {
    fn name(&self) -> &str {
        self.backend.name()
    }

    fn open(&self, job: Arc<Job>) -> Result<Box<dyn Run>, BackendError> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.backend.open(job)
    }
}

enum Verdict {
    Kept,
    Broken(String),
    Hangs,
}

/// Tries one promise in a separate thread, which is abandoned if it does not return.
fn try_in_thread(promise: Promise, backend: &Arc<dyn Backend>) -> Verdict {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::Builder::new().name(format!("conformance-{promise:?}"));
    let opened = Arc::<AtomicU64>::default();
    let backend = Counting { backend: Arc::clone(backend), opened: Arc::clone(&opened) };
    let started = thread.spawn(move || {
        let result = promise.try_on(&backend);
        // Drop the backend before sending: the receiver may rely on it being dropped.
        drop(backend);
        let _receiver_gone = sender.send(result);
    });
    let thread = match started {
        Ok(thread) => thread,
        Err(error) => return Verdict::Broken(format!("no thread for the trial: {error}")),
    };
    let mut seen = 0;
    let outcome = loop {
        match receiver.recv_timeout(HANG_TIMEOUT) {
            Err(RecvTimeoutError::Timeout) if opened.load(Ordering::Relaxed) != seen => {
                seen = opened.load(Ordering::Relaxed);
            }
            outcome => break outcome,
        }
    };
    match outcome {
        Ok(Ok(())) => Verdict::Kept,
        Ok(Err(how)) => Verdict::Broken(how),
        Err(RecvTimeoutError::Timeout) => Verdict::Hangs,
        Err(RecvTimeoutError::Disconnected) => {
            let panic = thread.join().err();
            let words = panic.as_ref().and_then(|panic| {
                panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied())
            });
            Verdict::Broken(format!("it panicked: {}", words.unwrap_or("(a value that is not text)")))
        }
    }
}
