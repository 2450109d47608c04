//! A map inside a worker: it runs in that worker, item by item, on the calling thread, and starts nothing.
//! The backend of every configuration made there; it uses the same typed loop as a worker does.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastmap_backends::{
    Backend, BackendError, Batch, BatchId, Capacity, Completion, Executor, Job, JobId, Outcome, Receipt, Run,
    SubmitError, Targets,
};

/// Runs batches where they are asked for.
#[derive(Debug)]
pub(crate) struct SequentialBackend;

impl Backend for SequentialBackend {
    fn name(&self) -> &'static str {
        "inside a worker"
    }

    fn open(&self, job: Arc<Job>) -> Result<Box<dyn Run>, BackendError> {
        let executor = Executor::open(&job.function, &job.context).map_err(BackendError::Setup)?;
        EXECUTORS.with_borrow_mut(|executors| executors.insert(job.id, executor));
        Ok(Box::new(SequentialRun { job, queue: VecDeque::new() }))
    }
}

thread_local! {
    /// A run may go to another thread, and the state of a function may not: each thread prepares its own.
    static EXECUTORS: RefCell<HashMap<JobId, Executor>> = RefCell::default();
}

struct SequentialRun {
    job: Arc<Job>,
    queue: VecDeque<Batch>,
}

impl Run for SequentialRun {
    fn capacity(&mut self) -> Capacity {
        // One short batch at a time: a sequential map reads no further than it must.
        let targets = Targets { work: Duration::from_micros(100), least: Duration::ZERO, bytes: 16 * 1024 };
        Capacity { batches: 1usize.saturating_sub(self.queue.len()), slots: 1, workers: 1, targets }
    }

    fn submit(&mut self, batch: Batch) -> Result<(), SubmitError> {
        self.queue.push_back(batch);
        Ok(())
    }

    fn poll(&mut self, _deadline: Instant) -> Result<Option<Completion>, BackendError> {
        let Some(batch) = self.queue.pop_front() else { return Ok(None) };
        // Out of the map while it runs: the function may map as well.
        let mut executor = match EXECUTORS.with_borrow_mut(|executors| executors.remove(&self.job.id)) {
            Some(executor) => executor,
            None => Executor::open(&self.job.function, &self.job.context).map_err(BackendError::Setup)?,
        };
        let (answered, results) =
            executor.run(batch.payload(), batch.stride(), batch.items(), batch.result_credit());
        EXECUTORS.with_borrow_mut(|executors| executors.insert(self.job.id, executor));
        if answered < batch.items() {
            self.queue.push_front(batch.piece(batch.id(), answered, batch.items(), batch.attempt()));
        }
        let outcome = Outcome::Done(results);
        Ok(Some(Completion { batch: batch.id(), first: batch.first(), items: answered, outcome }))
    }

    fn cancel(&mut self, batch: BatchId) {
        self.queue.retain(|waiting| waiting.id() != batch);
    }

    fn close(self: Box<Self>) -> Receipt {
        Receipt::default()
    }
}

impl Drop for SequentialRun {
    fn drop(&mut self) {
        // A thread that is ending has freed its own already.
        let executor = EXECUTORS.try_with(|executors| executors.borrow_mut().remove(&self.job.id));
        drop(executor);
    }
}

#[cfg(test)]
mod tests {
    use fastmap_backends::conformance::{self, Failed, Promise};

    use super::SequentialBackend;

    #[test]
    fn keeps_the_promises_that_one_thread_can_keep() -> Result<(), Failed> {
        // The function runs inside `poll`, on the caller's own thread.
        let not_given = [Promise::LETHAL, &[Promise::PollDeadline]].concat();
        conformance::check_all_but(&not_given, SequentialBackend)
    }
}
