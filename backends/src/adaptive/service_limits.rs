//! Recognizes failures that are due to a service's own limits, and that may succeed on this machine. Pure
//! functions; `run` calls them for each completion of a service.

use std::time::Duration;

use crate::model::completion::{Completion, Outcome};
use crate::model::death::{ExitReason, WorkerLoss};
use crate::model::failure::FailureKind;

/// Returns whether an item failed by a limit that the user has not set: it ran longer than the service allows
/// for a batch, or is larger than the service accepts. Several items are divided first, until one is alone.
pub(crate) fn is_service_limit(completion: &Completion, item_timeout: Option<Duration>) -> bool {
    if completion.items != 1 {
        return false;
    }
    match &completion.outcome {
        Outcome::Lost(_, loss) => is_service_timeout(loss, item_timeout),
        // No worker's name: the service's client has not even sent the item.
        Outcome::Done(results) => {
            results.worker.is_empty()
                && results.failures.iter().any(|failure| failure.kind == FailureKind::Serialize)
        }
        Outcome::Returned(_) => false,
    }
}

/// Returns whether a service stopped a batch by its own time limit, not by the user's limit for an item.
pub(crate) fn is_service_timeout(loss: &WorkerLoss, item_timeout: Option<Duration>) -> bool {
    match loss.death.cause {
        ExitReason::Timeout(limit) => item_timeout.map(as_sent) != Some(as_sent(limit)),
        _ => false,
    }
}

/// A limit as the protocol sends it: in milliseconds, at least one.
fn as_sent(limit: Duration) -> u128 {
    limit.as_millis().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::completion::Results;
    use crate::model::death::{Running, WorkerExit};
    use crate::model::failure::ItemFailure;
    use crate::{Batch, BatchBuilder, BatchId, JobId};

    fn batch(items: u32) -> Batch {
        let mut builder = BatchBuilder::new(Some(1));
        builder.buffer().extend(std::iter::repeat_n(0, items as usize));
        builder.added(items);
        builder.finish(JobId(1), BatchId(1), 0, 1000)
    }

    fn lost(items: u32, cause: ExitReason) -> Completion {
        let death = WorkerExit { worker: "w".to_owned(), pid: 1, cause, refused: None, stderr: Vec::new() };
        let outcome = Outcome::Lost(batch(items), WorkerLoss { running: Running::Item(0), death });
        Completion { batch: BatchId(1), first: 0, items, outcome }
    }

    fn failed(worker: &str, kind: FailureKind) -> Completion {
        let failures = vec![ItemFailure { offset: 0, kind, message: String::new() }];
        let results = Results { failures, worker: worker.to_owned(), ..Results::default() };
        Completion { batch: BatchId(1), first: 0, items: 1, outcome: Outcome::Done(results) }
    }

    #[test]
    fn timeout_counts_for_the_item_only_if_the_user_set_it() {
        let (own, limit) = (Duration::from_micros(2_500_900), Duration::from_mins(5));
        let timeout = ExitReason::Timeout;
        assert!(is_service_limit(&lost(1, timeout(limit)), None));
        assert!(is_service_limit(&lost(1, timeout(limit)), Some(own)));
        // The limit as the service returns it, rounded to milliseconds.
        assert!(!is_service_limit(&lost(1, timeout(Duration::from_millis(2500))), Some(own)));
        let shortest = lost(1, timeout(Duration::from_millis(1)));
        assert!(!is_service_limit(&shortest, Some(Duration::from_micros(9))));
        assert!(!is_service_limit(&lost(2, timeout(limit)), None), "nobody knows which of them it was");
        assert!(!is_service_limit(&lost(1, ExitReason::Signal(11)), None));
    }

    #[test]
    fn unsent_item_is_a_service_limit() {
        assert!(is_service_limit(&failed("", FailureKind::Serialize), None));
        assert!(!is_service_limit(&failed("w (cloud)", FailureKind::Serialize), None));
        assert!(!is_service_limit(&failed("", FailureKind::Panic), None));
    }
}
