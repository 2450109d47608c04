//! The kit's entry points, the promises that it tries, and what it reports.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use crate::execution::job::Job;
use crate::model::error::BackendError;
use crate::{Backend, Run};

/// A trial that opens no other run and has not ended by then is stuck inside a call of the backend.
const HANG: Duration = Duration::from_secs(150);

/// One thing that a backend promises by implementing the trait. `Display` says it in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Promise {
    /// [`Run::capacity`] is never 0 while the run holds nothing, and a batch is then taken.
    Capacity,
    /// Each item is answered exactly once, by its own result, whatever the size and layout of its batch.
    AnswersOnce,
    /// Thousands of batches one behind the other, as many in flight as the run takes.
    ManyBatches,
    /// An item or a result may have no bytes.
    EmptyItems,
    /// An item of 8 MiB goes in, and comes out.
    LargeItems,
    /// The function sees its context: none, a little, or megabytes of it.
    Context,
    /// Items that fail are answered by their failures, each at its place, and the others by their results.
    ItemFailures,
    /// A batch whose results outgrow its credit comes back in parts that cover it.
    ResultCredit,
    /// [`Run::submit`] never waits for the function; a batch that is refused is given back whole.
    SubmitNeverWaits,
    /// [`Run::poll`] comes back at its deadline if there is nothing to tell, not sooner, and also
    /// while an item runs.
    PollDeadline,
    /// A batch that is given up is answered at most once more, and the others as ever.
    Cancel,
    /// Two runs at once both progress, however busy one is, and each gets its own answers.
    TwoRuns,
    /// A run that is closed or dropped midway leaves the backend fit for the next.
    EndedMidway,
    /// A run may be opened, used and closed in different threads.
    MovesBetweenThreads,
    /// A function that is not in the executable is an error of the run, at its opening or later.
    UnknownFunction,
    /// A function that can't be prepared ends its run by [`BackendError::Setup`].
    RefusedSetup,
    /// A process that dies while it prepares the function loses its batches, and no item is accused.
    DeathInSetup,
    /// An item that ends its process costs no other item its answer, and no innocent one is accused.
    DeathInItem,
}

impl Promise {
    /// All promises, in the order in which [`check`] tries them: what others rest upon comes first.
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

    /// The promises that end processes on purpose. A backend that runs the function in the process that asks for it
    /// can't give them: see [`check_all_but`].
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

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which one.
    pub promise: Promise,
    /// What was seen instead.
    pub how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken: {} ({:?}): {}", self.promise, self.promise, self.how)
    }
}

/// What [`check`] found wrong with a backend. `Debug` is as readable as `Display`, for `unwrap` in tests.
#[derive(Clone, PartialEq, Eq)]
pub struct Failed {
    /// The backend's name.
    pub backend: String,
    /// The promises that were not kept, at least one.
    pub broken: Vec<Broken>,
    /// The promises that were not tried any more, because the backend hung in one before.
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
/// Takes a few seconds on a machine of two cores. Whatever the backend does, this comes back: a trial in which it hangs
/// is abandoned with its thread, and the rest is not tried. How long each promise took is logged by the crate
/// `log` at its debug level.
///
/// # Errors
/// Lists the promises that were not kept, with what was seen.
///
/// # Examples
///
/// A whole test file. Worker processes are entered before the harness's own `main`:
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

/// As [`check`], without the promises that a backend does not give.
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
    let mut hangs = false;
    for promise in Promise::ALL.iter().copied().filter(|promise| !exempt.contains(promise)) {
        if hangs {
            failed.untried.push(promise);
            continue;
        }
        let begun = Instant::now();
        let how = match guarded(promise, &backend) {
            Verdict::Kept => {
                log::debug!("{}: {promise} ({:?})", failed.backend, begun.elapsed());
                continue;
            }
            Verdict::Broken(how) => how,
            Verdict::Hangs => {
                hangs = true;
                format!("it is stuck in a call of the backend for {HANG:?}")
            }
        };
        failed.broken.push(Broken { promise, how });
    }
    if failed.broken.is_empty() { Ok(()) } else { Err(failed) }
}

/// Counts the runs that a trial opens: one that goes on is slow, and not stuck.
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

/// Tries one promise in a thread of its own, which is left behind if it does not come back.
fn guarded(promise: Promise, backend: &Arc<dyn Backend>) -> Verdict {
    let (tell, told) = mpsc::channel();
    let thread = thread::Builder::new().name(format!("conformance-{promise:?}"));
    let opened = Arc::<AtomicU64>::default();
    let backend = Counting { backend: Arc::clone(backend), opened: Arc::clone(&opened) };
    let started = thread.spawn(move || {
        let result = promise.try_on(&backend);
        // Before the word is given: who hears it may rely on the backend being let go.
        drop(backend);
        let _nobody_waits = tell.send(result);
    });
    let thread = match started {
        Ok(thread) => thread,
        Err(error) => return Verdict::Broken(format!("no thread for the trial: {error}")),
    };
    let mut seen = 0;
    let told = loop {
        match told.recv_timeout(HANG) {
            Err(RecvTimeoutError::Timeout) if opened.load(Ordering::Relaxed) != seen => {
                seen = opened.load(Ordering::Relaxed);
            }
            told => break told,
        }
    };
    match told {
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
