//! A run of a function that can't run: it must end by an error, or by the loss of every batch. Called by
//! `promises`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Backend;
use crate::conformance::trial::{RESULT_CREDIT, TIMEOUT, batch, job};
use crate::execution::function::FunctionId;
use crate::model::batch::Batch;
use crate::model::completion::{Completion, Outcome};
use crate::model::death::WorkerLoss;
use crate::model::error::BackendError;
use crate::model::ids::BatchId;

/// Result of a run that was expected to fail.
pub(super) enum End {
    /// An error, when it was opened or later.
    Error(BackendError),
    /// Every batch was returned as lost.
    Lost(Vec<WorkerLoss>),
}

/// Opens a run of a function that can't run, submits two batches, and waits for the end.
pub(super) fn run_to_failure(backend: &dyn Backend, function: FunctionId) -> Result<End, String> {
    let job = job(function, b"");
    let mut run = match backend.open(Arc::clone(&job)) {
        Ok(run) => run,
        Err(error) => return Ok(End::Error(error)),
    };
    let deadline = Instant::now() + TIMEOUT;
    let mut waiting: VecDeque<Batch> = (0..2u64)
        .map(|n| batch(&job, BatchId(n + 1), n * 2, &[vec![b'e'], vec![b'e']], None, RESULT_CREDIT))
        .collect();
    let mut losses = Vec::new();
    let mut lost_items = 0;
    while lost_items < 4 {
        while let Some(batch) = waiting.pop_front() {
            if let Err(error) = run.submit(batch) {
                waiting.push_front(error.into_batch());
                break;
            }
        }
        match run.poll(Instant::now() + Duration::from_millis(100)) {
            Err(error) => return Ok(End::Error(error)),
            Ok(Some(Completion { items, outcome: Outcome::Lost(_, loss), .. })) => {
                lost_items += items;
                losses.push(loss);
            }
            Ok(Some(Completion { outcome: Outcome::Returned(batch), .. })) => waiting.push_back(batch),
            Ok(Some(other)) => return Err(format!("items were answered: {other:?}")),
            Ok(None) if Instant::now() > deadline => {
                return Err(format!("there was neither an error nor a loss within {TIMEOUT:?}"));
            }
            Ok(None) => {}
        }
    }
    Ok(End::Lost(losses))
}
