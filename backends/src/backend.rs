//! The traits `Backend` and `Run`, and the types that they exchange besides batches and completions.

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::execution::job::Job;
use crate::model::batch::Batch;
use crate::model::batch_sizing::Targets;
use crate::model::completion::Completion;
use crate::model::cost::Receipt;
use crate::model::error::BackendError;
use crate::model::ids::BatchId;

/// A place where batches run: this machine's worker processes, a service, or whatever you write.
///
/// # Examples
///
/// A backend that hands everything to the pool of this machine, and counts the maps:
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// use fastmap_backends::{Backend, BackendError, Job, Local, LocalOptions, Run};
///
/// #[derive(Debug)]
/// struct Counting {
///     pool: Local,
///     maps: AtomicUsize,
/// }
///
/// impl Backend for Counting {
///     fn name(&self) -> &str {
///         "counting"
///     }
///
///     fn open(&self, job: Arc<Job>) -> Result<Box<dyn Run>, BackendError> {
///         self.maps.fetch_add(1, Ordering::Relaxed);
///         self.pool.open(job)
///     }
/// }
///
/// let counting = Counting { pool: Local::new(LocalOptions::new(2))?, maps: AtomicUsize::new(0) };
/// // fastmap::init(Options::new().backend(counting))
/// # Ok::<(), BackendError>(())
/// ```
pub trait Backend: Send + Sync + Debug {
    /// A short name for reports: `local`, `cloud`, …
    fn name(&self) -> &str;

    /// Opens a run of one function. Cheap: what is slow (starting workers) begins here at most.
    ///
    /// # Errors
    /// If this job can't run here, with the reason.
    fn open(&self, job: Arc<Job>) -> Result<Box<dyn Run>, BackendError>;
}

/// One map on one backend. Used by one thread at a time; dropped without [`Run::close`] it ends all the same.
///
/// # Examples
///
/// One that has each batch run at once, by the thread that asks:
///
/// ```
/// use std::collections::VecDeque;
/// use std::sync::Arc;
/// use std::time::{Duration, Instant};
///
/// use fastmap_backends::{
///     BackendError, Batch, BatchId, Capacity, Completion, Executor, Job, Outcome, Receipt, Run, SubmitError,
///     Targets,
/// };
///
/// struct AtOnce {
///     job: Arc<Job>,
///     waiting: VecDeque<Batch>,
/// }
///
/// impl Run for AtOnce {
///     fn capacity(&mut self) -> Capacity {
///         let targets = Targets { work: Duration::from_millis(20), least: Duration::ZERO, bytes: 64 * 1024 };
///         Capacity { batches: 1 - self.waiting.len().min(1), slots: 1, workers: 1, targets }
///     }
///
///     fn submit(&mut self, batch: Batch) -> Result<(), SubmitError> {
///         if !self.waiting.is_empty() {
///             return Err(SubmitError::Full(batch));
///         }
///         self.waiting.push_back(batch);
///         Ok(())
///     }
///
///     fn poll(&mut self, _deadline: Instant) -> Result<Option<Completion>, BackendError> {
///         let Some(batch) = self.waiting.pop_front() else { return Ok(None) };
///         // Prepared anew for each batch, which is why the guide keeps it.
///         let mut executor =
///             Executor::open(&self.job.function, &self.job.context).map_err(BackendError::Setup)?;
///         let (items, results) =
///             executor.run(batch.payload(), batch.stride(), batch.items(), batch.result_credit());
///         if items < batch.items() {
///             self.waiting.push_front(batch.piece(batch.id(), items, batch.items(), batch.attempt()));
///         }
///         let outcome = Outcome::Done(results);
///         Ok(Some(Completion { batch: batch.id(), first: batch.first(), items, outcome }))
///     }
///
///     fn cancel(&mut self, batch: BatchId) {
///         self.waiting.retain(|waiting| waiting.id() != batch);
///     }
///
///     fn close(self: Box<Self>) -> Receipt {
///         Receipt::default()
///     }
/// }
/// ```
pub trait Run: Send {
    /// What the run would take now. Called very often: it reads what is known and does nothing.
    fn capacity(&mut self) -> Capacity;

    /// Takes a batch. Never waits for user code.
    ///
    /// # Errors
    /// Gives the batch back if it can't be taken now. An open run that holds no batch always takes one.
    fn submit(&mut self, batch: Batch) -> Result<(), SubmitError>;

    /// The next completion, in any order, or `None` at the deadline. Completions that are there come before errors.
    ///
    /// # Errors
    /// What ends the run. It gives nothing more after that.
    fn poll(&mut self, deadline: Instant) -> Result<Option<Completion>, BackendError>;

    /// Gives up a batch: its items need no answer. Completions of it that are under way may still come.
    fn cancel(&mut self, batch: BatchId);

    /// Cost so far, for reports; called a few times a second. A run that learns its cost only at its end keeps the default.
    fn cost_so_far(&mut self) -> Receipt {
        Receipt::default()
    }

    /// How far the run is from taking batches at its full pace, and what it knows of its costs; called often. A run that
    /// needs no preparation is always ready.
    fn readiness(&mut self) -> Readiness {
        Readiness::default()
    }

    /// Starts what is slow and free of charge (uploading, starting workers elsewhere) without waiting for a batch. `seen` is
    /// what items have cost on another backend, for the estimate in a question to the user.
    fn prepare(&mut self, seen: Option<ItemCost>) {
        let _ = seen;
    }

    /// A sentence on how the run went, for the closing line of its map; `None` where there is nothing to report.
    fn summary(&mut self) -> Option<String> {
        None
    }

    /// Time that all answered items would have taken without the service that ran part of them, for the closing line; `None`
    /// where no service took part.
    fn local_baseline(&mut self) -> Option<Duration> {
        None
    }

    /// Closes the run. Queued batches are dropped; results of running batches are discarded. Returns the cost.
    fn close(self: Box<Self>) -> Receipt;
}

/// Why a [`Run`] did not take a batch, which it gives back.
#[derive(Clone, Debug)]
pub enum SubmitError {
    /// The run has no room for another batch now. It has again after the next completion.
    Full(Batch),
    /// The run has failed and takes no more batches. [`Run::poll`] returns the cause.
    Closed(Batch),
}

impl SubmitError {
    /// The batch, as it was submitted.
    pub fn into_batch(self) -> Batch {
        match self {
            SubmitError::Full(batch) | SubmitError::Closed(batch) => batch,
        }
    }
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SubmitError::Full(_) => "the run has no room for another batch now",
            SubmitError::Closed(_) => "the run has failed and takes no more batches",
        })
    }
}

impl std::error::Error for SubmitError {}

/// What a [`Run`] would take, and what it knows for sizing batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// Batches it would take now without another one finishing first.
    pub batches: usize,
    /// Batches it would hold at most.
    pub slots: usize,
    /// Workers that will share the work.
    pub workers: usize,
    /// What it wants of a batch.
    pub targets: Targets,
}

/// How far a [`Run`] is from taking batches at its full pace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Readiness {
    /// It takes batches at its full pace.
    pub ready: bool,
    /// What it costs, once that is known.
    pub quote: Option<Quote>,
    /// Bytes that are still to be uploaded, about.
    pub upload_left: u64,
    /// For how long no answer of use has come from where batches run, which may stand still; zero where all is well.
    pub silent: Duration,
}

impl Default for Readiness {
    fn default() -> Self {
        Readiness { ready: true, quote: None, upload_left: 0, silent: Duration::ZERO }
    }
}

/// What a run costs, as its service says before anything is charged. Money is in millionths of a credit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quote {
    /// From a request to its answer.
    pub round_trip: Duration,
    /// Bytes to be uploaded before the first batch, about.
    pub upload: u64,
    /// An hour of CPU time.
    pub cpu_hour: i64,
    /// 10⁹ bytes of results.
    pub result_gb: i64,
    /// What can be spent: what the account has, and the run's cap.
    pub spendable: i64,
}

/// What items have cost where they ran.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ItemCost {
    /// How many were tried.
    pub items: u64,
    /// CPU time of one, on average.
    pub cpu: Duration,
    /// Bytes of one result, on average.
    pub result_bytes: f64,
}
