//! Recycling of workers: one that has run its number of items is asked to leave, and replaced. Called by the pool with
//! each answer, and by the watchdog.

use std::time::{Duration, Instant};

use crate::local::pool::connection::Connection;
use crate::local::pool::state::PoolState;
use crate::model::batch::Batch;
use crate::model::death::ExitReason;

/// Workers that are asked to leave have so long before they are ended.
pub(crate) const LEAVE: Duration = Duration::from_millis(300);

/// What each worker may use.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WorkerLimits {
    /// Bytes of memory of its own.
    pub(crate) memory: Option<u64>,
    /// Items it may run before it is replaced.
    pub(crate) items: Option<u64>,
}

impl WorkerLimits {
    /// How many more items a worker may be given.
    pub(crate) fn items_left(&self, worker: &Connection) -> u64 {
        self.items.map_or(u64::MAX, |most| most.saturating_sub(worker.items_taken()))
    }
}

impl PoolState {
    /// How soon to look at what workers use up, if at all.
    pub(crate) fn wear_pause(&self) -> Option<Duration> {
        let leaving =
            self.workers.iter().any(|member| member.life.leaving_since().is_some()).then_some(LEAVE);
        leaving.into_iter().chain(self.memory_pause()).min()
    }

    /// Ends workers that hold too much memory, and those that were asked to leave and don't.
    pub(crate) fn recycle_exhausted(&mut self, now: Instant) -> Option<Duration> {
        for member in &mut self.workers {
            if member.life.leaving_since().is_some_and(|since| now.saturating_duration_since(since) > LEAVE) {
                // This end accuses no item: the worker holds no batch, or the pool closes and no map is left
                // that waits.
                member.end_for(ExitReason::Unknown, None);
            }
        }
        self.end_over_memory();
        self.wear_pause()
    }

    /// A worker has answered: if it has run as many items as it may, it is asked to leave. It holds nothing that
    /// could be lost then.
    pub(crate) fn retire(&mut self, id: u64, now: Instant) {
        let allowed = self.allowed;
        let Some(member) = self.member(id) else { return };
        let used_up = |worker: &Connection| worker.held().is_empty() && allowed.items_left(worker) == 0;
        if member.life.serving().is_some_and(used_up) {
            member.ask_to_leave(now);
        }
    }
}

/// Cuts off what a worker that may be given `left` items must not have.
pub(crate) fn split(batch: Batch, left: u64) -> (Batch, Option<Batch>) {
    let items = batch.items();
    // What does not fit 32 bits is more than any batch has.
    match u32::try_from(left).ok().filter(|left| *left < items) {
        None => (batch, None),
        Some(left) => {
            let piece = |from, to| batch.piece(batch.id(), from, to, batch.attempt());
            (piece(0, left), Some(piece(left, items)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::BatchBuilder;
    use crate::model::ids::{BatchId, JobId};

    #[test]
    fn a_batch_is_split_where_a_worker_may_have_less() {
        let mut builder = BatchBuilder::new(Some(1));
        builder.buffer().extend([1, 2, 3, 4, 5]);
        builder.added(5);
        let batch = builder.finish(JobId(1), BatchId(7), 100, 0);
        for left in [5, 6, u64::MAX] {
            assert!(split(batch.clone(), left).1.is_none());
        }
        let (first, rest) = split(batch, 2);
        assert_eq!((first.first(), first.payload()), (100, &[1u8, 2][..]));
        let rest = rest.expect("three are left");
        assert_eq!((rest.first(), rest.payload(), rest.id()), (102, &[3u8, 4, 5][..], BatchId(7)));
    }
}
