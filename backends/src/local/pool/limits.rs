//! Items that a worker may still take before it is replaced.

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
    match u32::try_from(left).ok().filter(|left| *left < items) {
        None => (batch, None),
        Some(left) => {
            let piece = |from, to| batch.piece(batch.id(), from, to, batch.attempt());
            (piece(0, left), Some(piece(left, items)))
        }
    }
}
