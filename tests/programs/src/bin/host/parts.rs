//! A backend that answers each batch in two parts, one after the other, before anything that was sent later: as the pool
//! does where work is taken back from a worker, but every time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastmap::backends::{
    Backend, BackendError, Batch, BatchId, Capacity, Completion, Executor, Job, Outcome, Receipt, Run,
    SubmitError, Targets,
};

/// Parts that it holds, as far as it says so.
const MOST: usize = 8;

/// Runs them in the calling thread.
#[derive(Debug)]
pub(crate) struct Parts;

struct PartsRun {
    job: Arc<Job>,
    queue: VecDeque<Batch>,
}

impl Backend for Parts {
    fn name(&self) -> &'static str {
        "in parts"
    }

    fn open(&self, job: Arc<Job>) -> Result<Box<dyn Run>, BackendError> {
        Ok(Box::new(PartsRun { job, queue: VecDeque::new() }))
    }
}

impl Run for PartsRun {
    fn capacity(&mut self) -> Capacity {
        let targets = Targets { work: Duration::from_millis(5), least: Duration::ZERO, bytes: 64 * 1024 };
        Capacity { batches: MOST.saturating_sub(self.queue.len()), slots: MOST, workers: 1, targets }
    }

    fn submit(&mut self, batch: Batch) -> Result<(), SubmitError> {
        let (items, half) = (batch.items(), batch.items() / 2);
        let part = |from, to| batch.piece(batch.id(), from, to, batch.attempt());
        if half > 0 {
            self.queue.push_back(part(0, half));
        }
        self.queue.push_back(part(half, items));
        Ok(())
    }

    fn poll(&mut self, _deadline: Instant) -> Result<Option<Completion>, BackendError> {
        let Some(part) = self.queue.pop_front() else { return Ok(None) };
        // Made anew each time: it may not go to another thread, and a run may.
        let executor = Executor::open(&self.job.function, &self.job.context);
        let mut executor = executor.map_err(BackendError::Setup)?;
        let (answered, results) =
            executor.run(part.payload(), part.stride(), part.items(), part.result_credit());
        if answered < part.items() {
            self.queue.push_front(part.piece(part.id(), answered, part.items(), part.attempt()));
        }
        let outcome = Outcome::Done(results);
        Ok(Some(Completion { batch: part.id(), first: part.first(), items: answered, outcome }))
    }

    fn cancel(&mut self, batch: BatchId) {
        self.queue.retain(|waiting| waiting.id() != batch);
    }

    fn close(self: Box<Self>) -> Receipt {
        Receipt::default()
    }
}
