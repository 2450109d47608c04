//! What workers that are trusted with nothing may still answer of the batches of a run: bytes of results,
//! over all pieces that a batch was cut into, and how many pieces these may be. Kept by `run_state`, asked by
//! `events` under the pool's lock. A pool of this program's own workers keeps none of it.

use std::collections::HashMap;

use crate::model::batch::Batch;
use crate::model::ids::BatchId;
use crate::model::result_credit::SPARE;

/// Pieces of one batch that move from worker to worker. More go back to the batch's owner: to cut one costs
/// the host a copy of what is left.
const PIECES: u32 = 64;

/// The open batches of a run.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    /// `None`: the workers are this program's own.
    open: Option<HashMap<BatchId, Grant>>,
}

#[derive(Debug, Default)]
struct Grant {
    /// Items that have no answer yet.
    items: u64,
    /// Bytes that may still come.
    bytes: u64,
    pieces: u32,
}

impl Grants {
    pub(crate) fn new(strict: bool) -> Self {
        Grants { open: strict.then(HashMap::new) }
    }

    /// Whether workers are held to what was granted.
    pub(crate) fn are_kept(&self) -> bool {
        self.open.is_some()
    }

    /// A batch, or a part of one that was given back, is handed in.
    pub(crate) fn submitted(&mut self, batch: &Batch) {
        let Some(open) = &mut self.open else { return };
        let grant = open.entry(batch.id()).or_default();
        // Added to what is there: a part that was given back may be handed in again while other pieces of its
        // batch are out.
        grant.items += u64::from(batch.items());
        grant.bytes = grant.bytes.saturating_add(batch.granted()).saturating_add(SPARE);
    }

    /// Whether an answer of so many bytes is covered by what is left; if so, it is used up.
    pub(crate) fn covers(&mut self, batch: BatchId, bytes: u64) -> bool {
        let Some(grant) = self.open.as_mut().and_then(|open| open.get_mut(&batch)) else { return true };
        // An answer that is not covered uses up nothing: its items go back to the batch's owner instead.
        let left = grant.bytes.checked_sub(bytes);
        grant.bytes = left.unwrap_or(grant.bytes);
        left.is_some()
    }

    /// Whether one more piece of a batch may go to another worker.
    pub(crate) fn may_move(&mut self, batch: BatchId) -> bool {
        let Some(grant) = self.open.as_mut().and_then(|open| open.get_mut(&batch)) else { return true };
        grant.pieces += 1;
        grant.pieces <= PIECES
    }

    /// The owner of a batch gets a completion of some of its items.
    pub(crate) fn told(&mut self, batch: BatchId, items: u32) {
        let Some(open) = &mut self.open else { return };
        if let Some(grant) = open.get_mut(&batch) {
            grant.items = grant.items.saturating_sub(u64::from(items));
            if grant.items == 0 {
                open.remove(&batch);
            }
        }
    }

    /// The owner of a batch wants no answer any more.
    pub(crate) fn forget(&mut self, batch: BatchId) {
        if let Some(open) = &mut self.open {
            open.remove(&batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::BatchBuilder;
    use crate::model::ids::JobId;

    fn batch(items: u32, credit: u64) -> Batch {
        let mut builder = BatchBuilder::new(Some(1));
        builder.buffer().extend(std::iter::repeat_n(0, items as usize));
        builder.added(items);
        builder.finish(JobId(1), BatchId(7), 0, credit)
    }

    #[test]
    fn pieces_of_a_batch_share_its_grant_and_nothing_is_kept_of_one_that_is_over() {
        let mut grants = Grants::new(true);
        grants.submitted(&batch(10, 1000));
        assert!(grants.covers(BatchId(7), 1000) && grants.covers(BatchId(7), SPARE));
        assert!(!grants.covers(BatchId(7), 1));
        assert_eq!((0..1000).filter(|_| grants.may_move(BatchId(7))).count(), PIECES as usize);
        grants.told(BatchId(7), 4);
        grants.told(BatchId(7), 6);
        assert_eq!(grants.open.as_ref().map(HashMap::len), Some(0));
        // Given back and handed in again, it has what it is granted anew.
        grants.submitted(&batch(6, 1000));
        assert!(grants.covers(BatchId(7), 1000));
        grants.forget(BatchId(7));
        assert_eq!(grants.open.map(|open| open.len()), Some(0));
    }

    #[test]
    fn own_workers_are_held_to_nothing() {
        let mut grants = Grants::new(false);
        grants.submitted(&batch(1, 0));
        assert!(grants.covers(BatchId(7), u64::MAX) && (0..1000).all(|_| grants.may_move(BatchId(7))));
    }
}
