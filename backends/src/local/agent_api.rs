//! What a host of other programs than its own needs beside [`Backend`](crate::Backend) and [`Run`](crate::Run): to see
//! whether a program can work at all, to feed a run from another thread than the one that polls it, and to end a batch
//! that has used up its time. Called by the cloud service's agent.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::backend::SubmitError;
use crate::local::Local;
use crate::local::pool::connection::AssignedBatch;
use crate::local::pool::handle::PoolHandle;
use crate::model::batch::Batch;
use crate::model::death::ExitReason;
use crate::model::error::BackendError;
use crate::model::ids::{BatchId, JobId};

/// How often the clock is looked at while a first worker is waited for.
const LOOK: Duration = Duration::from_secs(1);

impl Local {
    /// Starts a worker if there is none, and waits until one has connected: a caller learns whether the program can work here
    /// before there is work.
    ///
    /// # Errors
    /// If it dies first, with its last words, or if it has not connected within `most`.
    pub fn try_start(&self, most: Duration) -> Result<(), BackendError> {
        self.pool.check_owner()?;
        self.pool.start_supervisor()?;
        self.pool.shared.try_start(most)
    }

    /// [`Run::submit`](crate::Run::submit) for an open run that another thread polls. Batches beyond the
    /// run's places wait here: a place may come free without a completion (a cancelled batch has none), so
    /// that a caller could not know when to submit again.
    ///
    /// # Errors
    /// Gives the batch back if the run is not open, or has failed.
    pub fn submit(&self, batch: Batch) -> Result<(), SubmitError> {
        self.pool.shared.submit_beyond(batch.job(), batch)
    }

    /// Ends the worker that runs this batch: the batch has used up its time. It comes back as lost, by a timeout; what
    /// else the worker had goes to others. Nothing happens to a batch that no worker has begun.
    pub fn expire(&self, job: JobId, batch: BatchId, limit: Duration) {
        self.pool.shared.expire(job, batch, limit);
    }

    /// [`Run::cancel`](crate::Run::cancel) for an open run that another thread polls.
    pub fn cancel(&self, job: JobId, batch: BatchId) {
        self.pool.shared.cancel(job, batch);
    }
}

impl PoolHandle {
    /// Waits for a first worker, see [`Local::try_start`](super::Local::try_start). Time in which this
    /// process stood still counts for little.
    pub(crate) fn try_start(&self, most: Duration) -> Result<(), BackendError> {
        let (mut waited, mut last) = (Duration::ZERO, Instant::now());
        let mut state = self.lock();
        // Under the lock, before anything is asked for: failures of earlier attempts say nothing of this one.
        let failures = state.starts.failures();
        // A worker that is on its way will do: its failure is seen below as well.
        if state.workers.is_empty() && state.starts.underway() == 0 {
            state.starts.on_wanted(1);
            self.wake_supervisor();
        }
        loop {
            if state.has_connected_worker() {
                return Ok(());
            }
            if let Some(death) = state.starts.failure_since(failures) {
                return Err(BackendError::NoWorkers(vec![death]));
            }
            if waited >= most {
                return Err(BackendError::Other(format!("no worker has connected within {most:?}")));
            }
            state = self.started.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
            // Much more than a look means that this process did not run (SIGSTOP, a suspended machine).
            waited += last.elapsed().min(2 * LOOK);
            last = Instant::now();
        }
    }

    /// A batch has run for too long, see [`Local::expire`](super::Local::expire).
    pub(crate) fn expire(&self, job: JobId, batch: BatchId, limit: Duration) {
        let mut state = self.lock();
        let wanted =
            |held: &AssignedBatch| held.batch.job() == job && held.batch.id() == batch && !held.abandoned;
        for member in state.workers.iter_mut().filter(|member| !member.life.is_ending()) {
            // What does not run has used no time, and would come back as lost for nothing.
            let Some(running) = member.page.running() else { continue };
            if member.held().iter().any(|held| wanted(held) && held.batch.ticket() == running.0) {
                member.end_for(ExitReason::Timeout(limit), Some(running));
            }
        }
        // No exit is reported of a worker that could not be killed: the supervisor has to see by the clock
        // whether it ends itself.
        if state.workers.iter().any(|member| member.life.is_unkillable()) {
            self.wake_supervisor();
        }
    }
}
