//! Statistics of a finished map.

use std::time::Duration;

use fastmap_backends::Receipt;

use crate::error::ErrorKind;

/// What a map did and what it took.
#[derive(Clone, Debug)]
pub(crate) struct MapStats {
    pub(crate) delivered: u64,
    pub(crate) failed: u64,
    pub(crate) deaths: u64,
    /// Items answered from a checkpoint.
    pub(crate) restored: u64,
    /// Items answered by workers, and by the calling thread; more than were delivered where the consumer left early.
    pub(crate) answered: u64,
    pub(crate) inline_items: u64,
    /// Items that a service answered.
    pub(crate) cloud: u64,
    /// Tries of items that failed.
    pub(crate) failed_tries: u64,
    pub(crate) elapsed: Duration,
    /// Time of the items in the workers: on the clock, and of the CPU.
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    /// Time in which workers were ready to run and had no core; `None`: not all of them know.
    pub(crate) queued: Option<Duration>,
    /// Items and results are bytes of a fixed size.
    pub(crate) plain: bool,
    /// Bytes that went to the workers and came back.
    pub(crate) bytes: u64,
    /// Time that the map took for its own beginning: encoding the context, starting the workers.
    pub(crate) beginning: Duration,
    /// From the map's begin to that of the first item that was answered.
    pub(crate) first: Option<Duration>,
    /// Time in which the consumer waited for results.
    pub(crate) waited: Duration,
    pub(crate) workers: usize,
    pub(crate) cores: usize,
    /// A core is as fast beside busy ones as alone.
    pub(crate) steady: bool,
    /// What was paid for it.
    pub(crate) paid: Receipt,
    /// What it would have taken on this machine alone, where a service took part.
    pub(crate) alone: Option<Duration>,
    /// The input was read to its end.
    pub(crate) complete: bool,
    /// The error after which the map could not go on.
    pub(crate) ended_by: Option<ErrorKind>,
}

impl MapStats {
    pub(crate) fn is_paid(&self) -> bool {
        self.paid.microcredits > 0
    }

    /// Items that were delivered and not done by the calling thread.
    pub(super) fn by_workers(&self) -> u64 {
        self.delivered.saturating_sub(self.inline_items)
    }
}

#[cfg(test)]
impl MapStats {
    /// A thousand items of 2 ms on two workers, with nothing in the way.
    pub(crate) fn example() -> MapStats {
        MapStats {
            delivered: 1000,
            failed: 0,
            deaths: 0,
            restored: 0,
            answered: 1000,
            inline_items: 0,
            cloud: 0,
            failed_tries: 0,
            elapsed: Duration::from_secs(1),
            wall: Duration::from_secs(2),
            cpu: Duration::from_millis(1950),
            queued: Some(Duration::from_millis(40)),
            plain: true,
            bytes: 16_000,
            beginning: Duration::from_millis(1),
            first: Some(Duration::from_millis(5)),
            waited: Duration::from_millis(990),
            workers: 2,
            cores: 2,
            steady: true,
            paid: Receipt::default(),
            alone: None,
            complete: true,
            ended_by: None,
        }
    }
}
