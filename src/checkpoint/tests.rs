//! What is recorded of a batch that comes back in parts while some of it is tried again, and that it is let go in the
//! end. The calls are those of the engine, in its order.

use std::path::Path;

use fastmap_backends::{Batch, BatchBuilder, BatchId, FailureKind, ItemFailure, JobId, Results};
use sha2::{Digest, Sha256};

use super::Checkpoint;
use super::power_loss::{Disk, identity};
use super::store::Store;
use crate::checkpoint::journal::Open;

/// A checkpoint on a disk in memory, which was told of a batch of ten items.
struct Case {
    disk: Disk,
    checkpoint: Checkpoint,
    whole: Batch,
}

/// What became of the items that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Again,
    Error,
}

fn result(item: u64) -> u8 {
    item as u8 + 100
}

impl Case {
    fn new() -> Case {
        let disk = Disk::new(Vec::new(), usize::MAX);
        let store = Store::on(disk.clone(), Path::new("disk")).expect("a new one");
        store.identify(&identity()).expect("it can be written");
        let mut checkpoint = Checkpoint::default();
        checkpoint.open = Some(Open::new(store, "disk".into(), Some(1)).expect("a thread"));
        let mut builder = BatchBuilder::new(Some(1));
        builder.buffer().extend(0..10_u8);
        builder.added(10);
        let whole = builder.finish(JobId(1), BatchId(1), 0, 0);
        checkpoint.pulled(&whole);
        Case { disk, checkpoint, whole }
    }

    /// Answers to some items, of which those at these places failed.
    fn answer(&mut self, first: u64, items: u32, failed: &[u32], then: Then, sent: Option<&Batch>) {
        let good = (0..items).filter(|place| !failed.contains(place));
        let payload: Vec<u8> = good.map(|place| result(first + u64::from(place))).collect();
        let failure =
            |place: &u32| ItemFailure { offset: *place, kind: FailureKind::Panic, message: String::new() };
        let failures = failed.iter().map(failure).collect();
        let results = Results { payload: payload.into(), failures, ..Results::default() };
        self.checkpoint.answered(first, items, &results, sent).expect("nothing has failed before");
        let again = if then == Then::Again { failed.len() as u32 } else { 0 };
        self.checkpoint.settled(first, items - again);
    }

    /// Batches that are kept.
    fn kept(&self) -> usize {
        self.checkpoint.open.as_ref().map_or(0, |open| open.batches.len())
    }

    /// The items that are recorded, once all is on the disk.
    fn recorded(mut self) -> Vec<u64> {
        self.checkpoint.close().expect("it can be written");
        let disk = Disk::new(self.disk.bytes(), usize::MAX);
        let store = Store::on(disk, Path::new("disk")).expect("it opens again");
        let mut recorded = Vec::new();
        let mut at = 0;
        while let Some(segment) = store.segment_from(at).expect("it can be read") {
            at = segment.end();
            let results: Vec<u8> = (segment.first..at).map(result).collect();
            assert_eq!(segment.results, results, "from {}", segment.first);
            let items: Vec<u8> = (segment.first..at).map(|item| item as u8).collect();
            let inputs: [u8; 32] = Sha256::digest(&items).into();
            assert_eq!(segment.inputs, inputs, "from {}", segment.first);
            recorded.extend(segment.first..at);
        }
        recorded
    }
}

fn all_but(missing: &[u64]) -> Vec<u64> {
    (0..10).filter(|item| !missing.contains(item)).collect()
}

#[test]
fn a_batch_is_recorded_whichever_item_is_tried_again_and_whenever_that_is_answered() {
    for place in 0..5 {
        for after_rest in [true, false] {
            for then in [None, Some(Then::Again), Some(Then::Error)] {
                let what = format!("item {place}, behind the rest: {after_rest}, failed once more: {then:?}");
                let mut case = Case::new();
                let whole = case.whole.clone();
                case.answer(0, 5, &[place], Then::Again, Some(&whole));
                let single = whole.piece(BatchId(2), place, place + 1, 1);
                if after_rest {
                    case.answer(5, 5, &[], Then::Error, Some(&whole));
                }
                if let Some(then) = then {
                    case.answer(single.first(), 1, &[0], then, Some(&single));
                }
                if then != Some(Then::Error) {
                    case.answer(single.first(), 1, &[], Then::Error, Some(&single));
                }
                assert_eq!(case.kept(), usize::from(!after_rest), "{what}");
                if !after_rest {
                    case.answer(5, 5, &[], Then::Error, Some(&whole));
                }
                assert_eq!(case.kept(), 0, "{what}");
                let missing = if then == Some(Then::Error) { vec![single.first()] } else { Vec::new() };
                assert_eq!(case.recorded(), all_but(&missing), "{what}");
            }
        }
    }
}

#[test]
fn all_items_of_a_batch_may_be_tried_again() {
    let mut case = Case::new();
    let whole = case.whole.clone();
    let places: Vec<u32> = (0..10).collect();
    case.answer(0, 10, &places, Then::Again, Some(&whole));
    assert_eq!(case.kept(), 1);
    for place in places.into_iter().rev() {
        let single = whole.piece(BatchId(2), place, place + 1, 1);
        case.answer(single.first(), 1, &[], Then::Error, Some(&single));
    }
    assert_eq!(case.kept(), 0);
    assert_eq!(case.recorded(), all_but(&[]));
}

#[test]
fn pieces_of_a_batch_whose_worker_died_are_recorded_but_for_what_is_answered_by_the_death() {
    let mut case = Case::new();
    // Without retries only the piece that is under suspicion is at hand.
    let suspect = case.whole.piece(BatchId(3), 4, 5, 1);
    case.answer(5, 5, &[1], Then::Error, None);
    case.answer(4, 1, &[], Then::Error, Some(&suspect));
    case.checkpoint.settled(2, 1);
    case.answer(3, 1, &[], Then::Error, None);
    assert_eq!(case.kept(), 1);
    case.answer(0, 2, &[], Then::Error, None);
    assert_eq!(case.kept(), 0);
    assert_eq!(case.recorded(), all_but(&[2, 6]));
}

#[test]
fn a_batch_that_does_not_hold_the_items_answered_is_not_taken_for_theirs() {
    let mut case = Case::new();
    let other = case.whole.piece(BatchId(4), 0, 2, 0);
    case.answer(2, 8, &[], Then::Error, Some(&other));
    // Nobody was told of such an item.
    case.answer(10, 1, &[], Then::Error, None);
    assert_eq!(case.kept(), 1);
    assert_eq!(case.recorded(), all_but(&[0, 1]));
}
