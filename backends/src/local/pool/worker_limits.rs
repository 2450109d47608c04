//! What one worker may use: memory, and a number of items, at which a batch is split.

use crate::local::pool::connection::Connection;
use crate::model::batch::Batch;

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
