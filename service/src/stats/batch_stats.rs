//! Statistics of one answered batch, made of the parts of its answer. Pure.

use fastmap_backends::cloud::{Part, PartOutcome};
use fastmap_backends::{FailureKind, Running};

use super::series::{Series, Share};
use crate::clock::now_ms;
use crate::text::{self, bounded};

/// A longer cause is cut.
const CAUSE: usize = 1000;

/// Something that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The batch.
    pub seq: u64,
    /// Index in the input; `None` where no single item is to blame.
    pub item: Option<u64>,
    /// `panic`, `serialize` or `death`.
    pub kind: String,
    /// In words: the panic's message, or how the worker died and what it last wrote.
    pub cause: String,
    /// The worker's name.
    pub worker: String,
    /// Milliseconds since 1970.
    pub at_ms: i64,
}

/// Adds a batch that was answered at `now_ms`.
pub(crate) fn add(delta: &mut StatsDelta, answered: &Answered<'_>, now_ms: i64) {
    delta.series.batch(now_ms);
    for part in answered.parts {
        let first = answered.first + u64::from(part.offset);
        match &part.outcome {
            PartOutcome::Done(results) => {
                let share = Share {
                    worker: &results.worker,
                    items: u64::from(part.items),
                    failures: results.failures.len() as u64,
                    died: false,
                    wall: results.wall,
                    cpu: results.cpu,
                };
                delta.series.share(now_ms, &share);
                for failure in &results.failures {
                    let kind = match failure.kind {
                        FailureKind::Panic => "panic",
                        FailureKind::Serialize => "serialize",
                    };
                    let item = Some(first + u64::from(failure.offset));
                    push(delta, answered.seq, item, kind, failure.message.clone(), &results.worker, now_ms);
                }
            }
            PartOutcome::Lost(loss) => {
                let worker = &loss.death.worker;
                delta.series.share(now_ms, &Share { worker, died: true, ..Share::default() });
                let (item, cause) = blame(part, first, loss.running, &loss.death);
                push(delta, answered.seq, item, "death", cause, worker, now_ms);
            }
            PartOutcome::Returned => {}
        }
    }
}

fn blame(
    part: &Part,
    first: u64,
    running: Running,
    death: &fastmap_backends::WorkerExit,
) -> (Option<u64>, String) {
    let (item, at) = match running {
        Running::Item(item) => (Some(first + u64::from(item)), String::new()),
        Running::Setup => (None, "while the function was prepared: ".to_owned()),
        Running::Unknown if part.items == 1 => (Some(first), String::new()),
        Running::Unknown => {
            (None, format!("somewhere in items {first} to {}: ", first + u64::from(part.items) - 1))
        }
    };
    (item, format!("{at}{death}"))
}

fn push(
    delta: &mut StatsDelta,
    seq: u64,
    item: Option<u64>,
    kind: &str,
    cause: String,
    worker: &str,
    at_ms: i64,
) {
    if delta.failures.len() >= FAILURES {
        return;
    }
    let cause = bounded(cause, CAUSE);
    let (kind, worker) = (kind.to_owned(), bounded(worker.to_owned(), text::NAME));
    delta.failures.push(Failure { seq, item, kind, cause, worker, at_ms });
}

/// Failures of a run that are kept with their cause; the others are counted.
pub const FAILURES: usize = 200;

/// What has happened in a run since it was last stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatsDelta {
    /// When, and by which worker.
    pub series: Series,
    /// What failed, at most [`FAILURES`].
    pub failures: Vec<Failure>,
}

impl StatsDelta {
    /// A batch is answered, just now.
    pub fn note(&mut self, answered: &Answered<'_>) {
        add(self, answered, now_ms());
    }

    pub(crate) fn merge(&mut self, later: StatsDelta) {
        self.series.merge(&later.series);
        self.failures.extend(later.failures);
        self.failures.truncate(FAILURES);
    }
}

/// A batch that was answered.
#[derive(Debug)]
pub struct Answered<'a> {
    /// Its number in the run.
    pub seq: u64,
    /// Index in the input of its first item.
    pub first: u64,
    /// What became of its items.
    pub parts: &'a [Part],
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fastmap_backends::{ExitReason, ItemFailure, Payload, Results, WorkerExit, WorkerLoss};

    use super::*;

    fn done(offset: u32, items: u32, failures: Vec<ItemFailure>) -> Part {
        let results = Results {
            payload: Payload::from(Vec::new()),
            failures,
            wall: Duration::from_millis(1500),
            cpu: Duration::from_millis(700),
            worker: "worker-1".to_owned(),
            ..Results::default()
        };
        Part { offset, items, outcome: PartOutcome::Done(results) }
    }

    fn lost(offset: u32, items: u32, running: Running) -> Part {
        let death = WorkerExit {
            worker: "worker-2".to_owned(),
            pid: 7,
            cause: ExitReason::Signal(6),
            refused: None,
            stderr: vec!["last words".to_owned()],
        };
        Part { offset, items, outcome: PartOutcome::Lost(WorkerLoss { running, death }) }
    }

    #[test]
    fn failures_are_told_by_their_index_in_the_input() {
        let failure = ItemFailure { offset: 2, kind: FailureKind::Panic, message: "no luck".to_owned() };
        let parts = [
            done(10, 5, vec![failure]),
            lost(0, 3, Running::Item(1)),
            lost(3, 4, Running::Unknown),
            lost(7, 1, Running::Unknown),
            Part { offset: 8, items: 2, outcome: PartOutcome::Returned },
        ];
        let mut delta = StatsDelta::default();
        add(&mut delta, &Answered { seq: 9, first: 1000, parts: &parts }, 50_000);
        let items: Vec<_> = delta.failures.iter().map(|failure| (failure.item, &*failure.kind)).collect();
        assert_eq!(
            items,
            [(Some(1012), "panic"), (Some(1001), "death"), (None, "death"), (Some(1007), "death")]
        );
        assert_eq!(delta.failures[0].cause, "no luck");
        assert!(
            delta.failures[1].cause.contains("signal 6") && delta.failures[1].cause.contains("last words")
        );
        assert!(delta.failures[2].cause.starts_with("somewhere in items 1003 to 1006: "), "{delta:?}");
        let total = delta.series.total();
        assert_eq!((total.items, total.batches, total.failures), (5, 1, 1));
        assert_eq!((delta.series.failures, delta.series.deaths), (1, 3));
    }

    #[test]
    fn what_is_kept_of_failures_is_bounded() {
        let failures = |n| ItemFailure { offset: n, kind: FailureKind::Panic, message: "é".repeat(5000) };
        let parts = [done(0, 1000, (0..1000).map(failures).collect())];
        let mut delta = StatsDelta::default();
        add(&mut delta, &Answered { seq: 0, first: 0, parts: &parts }, 1_000);
        assert_eq!((delta.failures.len(), delta.series.failures), (FAILURES, 1000));
        assert!(delta.failures.iter().all(|failure| failure.cause.len() <= CAUSE));
    }
}
