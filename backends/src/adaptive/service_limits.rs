//! What a service's own limits keep from an answer, and this machine may do: pure. Asked by `run` of each news of a service.

use std::time::Duration;

use crate::model::completion::{Completion, Outcome};
use crate::model::death::{ExitReason, WorkerLoss};
use crate::model::failure::FailureKind;

/// Whether an item has no answer for a limit that its user has not set: it has outlasted what the service gives a batch, or
/// is larger than what that takes. Several items are divided until the one stands alone.
pub(crate) fn is_of_the_service(completion: &Completion, item_timeout: Option<Duration>) -> bool {
    if completion.items != 1 {
        return false;
    }
    match &completion.outcome {
        Outcome::Lost(_, loss) => is_cut_by_it(loss, item_timeout),
        // No worker has had it: the service's client has not even sent it.
        Outcome::Done(results) => {
            results.worker.is_empty()
                && results.failures.iter().any(|failure| failure.kind == FailureKind::Serialize)
        }
        Outcome::Returned(_) => false,
    }
}

/// Whether a service has cut what took longer than it gives a batch, and not than the user gives an item.
pub(crate) fn is_cut_by_it(loss: &WorkerLoss, item_timeout: Option<Duration>) -> bool {
    match loss.death.cause {
        ExitReason::Timeout(limit) => item_timeout.map(whole) != Some(whole(limit)),
        _ => false,
    }
}

/// As a limit travels: in milliseconds, and one at least.
fn whole(limit: Duration) -> u128 {
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
    fn a_timeout_is_the_items_where_its_user_has_set_it() {
        let (own, limit) = (Duration::from_micros(2_500_900), Duration::from_mins(5));
        let timeout = ExitReason::Timeout;
        assert!(is_of_the_service(&lost(1, timeout(limit)), None));
        assert!(is_of_the_service(&lost(1, timeout(limit)), Some(own)));
        // As the service gives it back.
        assert!(!is_of_the_service(&lost(1, timeout(Duration::from_millis(2500))), Some(own)));
        let shortest = lost(1, timeout(Duration::from_millis(1)));
        assert!(!is_of_the_service(&shortest, Some(Duration::from_micros(9))));
        assert!(!is_of_the_service(&lost(2, timeout(limit)), None), "nobody knows which of them it was");
        assert!(!is_of_the_service(&lost(1, ExitReason::Signal(11)), None));
    }

    #[test]
    fn what_was_never_sent_is_no_failure_of_the_item() {
        assert!(is_of_the_service(&failed("", FailureKind::Serialize), None));
        assert!(!is_of_the_service(&failed("w (cloud)", FailureKind::Serialize), None));
        assert!(!is_of_the_service(&failed("", FailureKind::Panic), None));
    }
}
