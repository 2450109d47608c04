//! Batches that are kept so that failed items can be tried again: those in flight of maps that retry, and
//! suspects. The engine reports what is sent and received; `again_after_failure` decides, and `sort` returns
//! whole result chunks.

use std::collections::HashMap;

use fastmap_backends::{Batch, BatchId, ItemFailure, Items, Results};

use crate::error::Error;
use crate::map::results::ResultChunk;

/// Whether an item that has failed `tries` times is tried once more. The user's `retries` are tries after the
/// one that would be the last without them.
fn again_after_failure(tries: u32, retries: u32) -> bool {
    tries <= retries
}

/// The tries of one map.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    /// How often a failed item is tried again.
    pub(crate) retries: u32,
    /// Batches in flight, which share their bytes with the backend, and how many of their items are.
    kept: HashMap<BatchId, (Batch, u32)>,
}

/// What becomes of the answers to a batch.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    /// For the consumer: all but the items that are tried again.
    pub(crate) chunks: Vec<ResultChunk>,
    /// Items to be tried again, each alone: its position in the batch that was kept, and its tries so far.
    pub(crate) again: Vec<(u32, u32)>,
}

impl Attempts {
    /// A batch is sent.
    pub(crate) fn sent(&mut self, batch: &Batch) {
        // A suspect is tried again also in a map without retries. It may fail in another way then, and the
        // error has the number of its tries.
        if self.retries > 0 || batch.attempt() > 0 {
            // A part that was given back has the name of its batch. If that is here still, it stays:
            // positions of retried items are counted from its first item.
            self.kept.entry(batch.id()).or_insert_with(|| (batch.clone(), 0)).1 += batch.items();
        }
    }

    /// Items of a batch are back. Returns the kept batch that holds them, if failed ones may be tried again.
    pub(crate) fn on_returned(&mut self, batch: BatchId, items: u32) -> Option<Batch> {
        let (kept, left) = self.kept.get_mut(&batch)?;
        *left = left.saturating_sub(items);
        match left {
            0 => self.kept.remove(&batch).map(|(kept, _)| kept),
            _ => Some(kept.clone()),
        }
    }

    /// Sorts the answers to `items` items from `first` on, which are part of the batch `kept`.
    pub(crate) fn sort(
        &self,
        first: u64,
        items: u32,
        stride: Option<u32>,
        results: Results,
        kept: Option<&Batch>,
    ) -> Sorted {
        let Results { payload, failures, .. } = results;
        // Items that the backend did not have can't be tried again: there are no bytes to send.
        let known = |kept: &&Batch| {
            first >= kept.first() && first + u64::from(items) <= kept.first() + u64::from(kept.items())
        };
        let Some(kept) = kept.filter(known).filter(|_| !failures.is_empty()) else {
            let chunks = vec![ResultChunk::done(first, items, stride, payload, failures)];
            return Sorted { chunks, again: Vec::new() };
        };
        // `after_loss` and `singles` count the tries of single items only.
        let before = if kept.items() == 1 { kept.attempt() } else { 0 };
        let tries = before.saturating_add(1);
        if !again_after_failure(tries, self.retries) {
            // Only items that are alone in their batch reach their last try: there are no results to keep.
            let failed_chunk = |failure: ItemFailure| {
                let index = first + u64::from(failure.offset);
                ResultChunk::failed(index, Error::of_failure(failure).tried(tries))
            };
            return Sorted { chunks: failures.into_iter().map(failed_chunk).collect(), again: Vec::new() };
        }
        let mut sorted = Sorted::default();
        let (mut at, mut next) = (0, 0);
        let ends = failures.iter().map(|failure| failure.offset).chain([items]);
        for end in ends {
            if end > next {
                let mut good = Items::resume(payload.bytes(), stride, at);
                for _ in next..end {
                    good.next();
                }
                let bytes = payload.bytes()[at..good.position()].to_vec();
                at = good.position();
                let run =
                    ResultChunk::done(first + u64::from(next), end - next, stride, bytes.into(), Vec::new());
                sorted.chunks.push(run);
            }
            if end < items {
                // These answers may be a part of the kept batch, from which the position is counted.
                let skipped = first - kept.first();
                sorted.again.push((skipped as u32 + end, tries));
            }
            // The payload has no bytes of a failed item: `at` stays where it is.
            next = end + 1;
        }
        sorted
    }
}

#[cfg(test)]
mod tests {
    use fastmap_backends::{BatchBuilder, FailureKind, JobId};

    use super::*;
    use crate::map::results::Answer;

    fn batch(id: u64, first: u64, items: u32) -> Batch {
        let mut builder = BatchBuilder::new(Some(1));
        builder.buffer().extend((0..items).map(|item| item as u8));
        builder.added(items);
        builder.finish(JobId(1), BatchId(id), first, 0)
    }

    /// Each item's result is its index; those at the offsets failed.
    fn results(first: u64, items: u32, failed: &[u32], stride: Option<u32>) -> Results {
        let mut payload = Vec::new();
        for item in (0..items).filter(|item| !failed.contains(item)) {
            if stride.is_none() {
                payload.extend(1u32.to_le_bytes());
            }
            payload.push((first + u64::from(item)) as u8);
        }
        let failure =
            |offset: &u32| ItemFailure { offset: *offset, kind: FailureKind::Panic, message: String::new() };
        let failures = failed.iter().map(failure).collect();
        Results { payload: payload.into(), failures, ..Results::default() }
    }

    /// Index and result of each answer; none for a failure.
    fn read(chunks: Vec<ResultChunk>) -> Vec<(u64, Option<u8>)> {
        let mut read = Vec::new();
        for mut chunk in chunks {
            while let Some((index, answer)) = chunk.next() {
                read.push((
                    index,
                    match answer {
                        Answer::Result(bytes) => Some(bytes[0]),
                        _ => None,
                    },
                ));
            }
        }
        read
    }

    #[test]
    fn retries_are_tries_after_the_first_one() {
        for retries in [0, 1, 5] {
            assert_eq!((1..100).find(|tries| !again_after_failure(*tries, retries)), Some(1 + retries));
        }
        assert!(again_after_failure(u32::MAX, u32::MAX));
    }

    #[test]
    fn failed_items_leave_their_segment_and_all_others_stay() {
        for stride in [None, Some(1)] {
            for failed in [vec![], vec![0], vec![4], vec![1, 2], vec![0, 4], vec![0, 1, 2, 3, 4]] {
                let mut tries = Attempts { retries: 1, ..Attempts::default() };
                tries.sent(&batch(7, 10, 8));
                // The last five of eight.
                let kept = tries.on_returned(BatchId(7), 5);
                let answers = results(13, 5, &failed, stride);
                let Sorted { chunks, again } = tries.sort(13, 5, stride, answers, kept.as_ref());
                let expected: Vec<_> = (0..5)
                    .filter(|item| !failed.contains(item))
                    .map(|item| (13 + u64::from(item), Some(13 + item as u8)))
                    .collect();
                assert_eq!(read(chunks), expected, "{failed:?}");
                let places: Vec<_> = failed.iter().map(|item| (item + 3, 1)).collect();
                assert_eq!(again, places);
            }
        }
    }

    #[test]
    fn an_item_that_failed_too_often_is_answered_with_its_tries() {
        let tries = Attempts { retries: 2, ..Attempts::default() };
        let kept = batch(7, 10, 3).piece(BatchId(8), 1, 2, 2);
        let Sorted { mut chunks, again } = tries.sort(11, 1, None, results(11, 1, &[0], None), Some(&kept));
        assert!(again.is_empty());
        let Some((11, Answer::Failed(error))) = chunks[0].next() else { panic!("no failure") };
        assert_eq!((error.attempts(), error.index()), (3, Some(11)));
    }

    #[test]
    fn a_suspect_that_then_panics_tells_both_tries_of_a_map_that_does_not_retry() {
        let mut tries = Attempts::default();
        let suspect = batch(7, 10, 3).piece(BatchId(8), 1, 2, 1);
        tries.sent(&suspect);
        let kept = tries.on_returned(BatchId(8), 1);
        let Sorted { mut chunks, again } = tries.sort(11, 1, None, results(11, 1, &[0], None), kept.as_ref());
        assert!(again.is_empty());
        let Some((11, Answer::Failed(error))) = chunks[0].next() else { panic!("no failure") };
        assert_eq!(error.attempts(), 2);
    }

    #[test]
    fn a_batch_is_kept_until_its_last_item_is_back() {
        let mut tries = Attempts { retries: 1, ..Attempts::default() };
        let whole = batch(7, 10, 8);
        tries.sent(&whole);
        assert!(tries.on_returned(BatchId(7), 3).is_some());
        assert!(tries.on_returned(BatchId(7), 5).is_some());
        assert!(tries.kept.is_empty());
        tries.sent(&whole.piece(BatchId(7), 3, 8, 0));
        assert_eq!(tries.on_returned(BatchId(7), 5).map(|kept| kept.first()), Some(13));
        let mut none = Attempts::default();
        none.sent(&whole);
        assert!(none.kept.is_empty());
    }
}
