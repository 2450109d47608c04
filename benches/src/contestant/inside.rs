//! fastmap over backends that answer in this process, at once: what remains of a map is its own path for each item.
//! Counted by `scripts/bench callgrind`, which no worker process can follow, and timed by the micro-benchmarks.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastmap::backends::{
    Backend, BackendError, Batch, BatchId, Capacity, Completion, Executor, ItemFailure, Job, JobId, Outcome,
    Receipt, Results, Run, SubmitError, Targets,
};

use super::WORKERS;

/// What a batch is answered by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answers {
    /// Its own bytes: right where results are laid out as items are.
    Echo,
    /// A byte for each item: the least that can be read.
    Bytes,
    /// What the function gives, by the same loop as in a worker.
    Run,
}

/// The backend.
#[derive(Debug)]
pub(crate) struct Inside(pub(crate) Answers);

impl Backend for Inside {
    fn name(&self) -> &'static str {
        "inside"
    }

    fn open(&self, job: Arc<Job>) -> Result<Box<dyn Run>, BackendError> {
        Ok(Box::new(InsideRun { answers: self.0, job, queue: VecDeque::new() }))
    }
}

struct InsideRun {
    answers: Answers,
    job: Arc<Job>,
    queue: VecDeque<Batch>,
}

thread_local! {
    /// Of the run that was polled last. Not in the run: a run may go to another thread, what a function prepared may not.
    static EXECUTOR: RefCell<Option<(JobId, Executor)>> = const { RefCell::new(None) };
}

/// What a worker's answer says that a square root took: as that is fixed, each run has the same batches.
const ITEM: Duration = Duration::from_nanos(3);

impl Run for InsideRun {
    fn capacity(&mut self) -> Capacity {
        // As the pool of this machine has it.
        let targets =
            Targets { work: Duration::from_millis(20), least: Duration::from_micros(100), bytes: 256 * 1024 };
        let slots = 2 * WORKERS;
        Capacity { batches: slots - self.queue.len(), slots, workers: WORKERS, targets }
    }

    fn submit(&mut self, batch: Batch) -> Result<(), SubmitError> {
        if self.queue.len() == 2 * WORKERS {
            return Err(SubmitError::Full(batch));
        }
        self.queue.push_back(batch);
        Ok(())
    }

    fn poll(&mut self, _deadline: Instant) -> Result<Option<Completion>, BackendError> {
        let Some(batch) = self.queue.pop_front() else { return Ok(None) };
        let (items, results) = match self.answers {
            Answers::Echo => (batch.items(), batch.payload().to_vec().into()),
            Answers::Bytes => (batch.items(), vec![0; batch.items() as usize].into()),
            Answers::Run => {
                let (items, results) = run(&self.job, &batch).map_err(BackendError::Setup)?;
                if items < batch.items() {
                    self.queue.push_front(batch.piece(batch.id(), items, batch.items(), batch.attempt()));
                }
                (items, results.payload)
            }
        };
        let results = Results { payload: results, wall: ITEM * items, ..Results::default() };
        let outcome = Outcome::Done(results);
        Ok(Some(Completion { batch: batch.id(), first: batch.first(), items, outcome }))
    }

    fn cancel(&mut self, batch: BatchId) {
        self.queue.retain(|waiting| waiting.id() != batch);
    }

    fn close(self: Box<Self>) -> Receipt {
        Receipt::default()
    }
}

fn run(job: &Job, batch: &Batch) -> Result<(u32, Results), ItemFailure> {
    EXECUTOR.with_borrow_mut(|held| {
        if held.as_ref().is_none_or(|(id, _)| *id != job.id) {
            *held = Some((job.id, Executor::open(&job.function, &job.context)?));
        }
        let (_, executor) = held.as_mut().expect("it was just opened");
        Ok(executor.run(batch.payload(), batch.stride(), batch.items(), batch.result_credit()))
    })
}
