//! Batches on one side, and copies that race each other.

use std::time::Duration;

use super::*;
use crate::model::completion::Results;
use crate::model::death::{ExitReason, WorkerExit};
use crate::{BatchBuilder, JobId};

fn batch(id: u64, first: u64, items: u32) -> Batch {
    let mut builder = BatchBuilder::new(Some(1));
    builder.buffer().extend(std::iter::repeat_n(0, items as usize));
    builder.added(items);
    builder.finish(JobId(1), BatchId(id), first, 1000)
}

fn done(batch: BatchId, first: u64, items: u32) -> Completion {
    Completion { batch, first, items, outcome: Outcome::Done(Results::default()) }
}

fn lost(batch: Batch, running: Running) -> Completion {
    let death = WorkerExit {
        worker: "w".to_owned(),
        pid: 1,
        cause: ExitReason::Timeout(Duration::from_secs(2)),
        refused: None,
        stderr: Vec::new(),
    };
    let (id, first, items) = (batch.id(), batch.first(), batch.items());
    Completion { batch: id, first, items, outcome: Outcome::Lost(batch, WorkerLoss { running, death }) }
}

fn item_ranges(result: &CopyOutcome) -> Vec<(u64, u64, u32)> {
    result.completions.iter().map(|(_, part)| (part.batch.0, part.first, part.items)).collect()
}

fn copy(in_flight: &mut InFlight, id: u64, to: Side) -> Option<Batch> {
    in_flight.copy(id, to, 1).and_then(|mut pieces| pieces.pop())
}

#[test]
fn parts_of_a_single_copy_are_delivered_at_once() {
    let mut in_flight = InFlight::default();
    in_flight.submitted(batch(1, 10, 5), Side::Cloud);
    let result = in_flight.landed(Side::Cloud, done(BatchId(1), 12, 3), false);
    assert_eq!(item_ranges(&result), [(1, 12, 3)]);
    assert!(copy(&mut in_flight, 1, Side::Local).is_none(), "of what has come back in part there is no copy");
    in_flight.landed(Side::Cloud, done(BatchId(1), 10, 2), false);
    assert!(in_flight.is_empty() && in_flight.count(Side::Cloud) == 0);
}

#[test]
fn first_complete_copy_wins_and_the_other_is_cancelled() {
    let mut in_flight = InFlight::default();
    in_flight.submitted(batch(1, 0, 4), Side::Cloud);
    let copy = copy(&mut in_flight, 1, Side::Local).expect("nothing has come back");
    assert!(in_flight.landed(Side::Cloud, done(BatchId(1), 0, 3), false).completions.is_empty());
    assert!(in_flight.landed(Side::Local, done(copy.id(), 2, 2), false).completions.is_empty());
    let result = in_flight.landed(Side::Local, done(copy.id(), 0, 2), false);
    assert_eq!(item_ranges(&result), [(1, 2, 2), (1, 0, 2)]);
    assert_eq!(result.cancel, [Cancel { side: Side::Cloud, names: vec![BatchId(1)], items: 1 }]);
    assert!(in_flight.is_empty());
    assert!(in_flight.landed(Side::Cloud, done(BatchId(1), 3, 1), false).of.is_none(), "it comes too late");
}

#[test]
fn other_copy_continues_with_its_answers_after_a_failure() {
    let mut in_flight = InFlight::default();
    in_flight.submitted(batch(1, 0, 4), Side::Local);
    let copy = copy(&mut in_flight, 1, Side::Cloud).expect("nothing has come back");
    in_flight.landed(Side::Cloud, done(copy.id(), 0, 1), false);
    let back =
        Completion { batch: BatchId(1), first: 0, items: 4, outcome: Outcome::Returned(batch(1, 0, 4)) };
    let result = in_flight.landed(Side::Local, back, false);
    assert_eq!(item_ranges(&result), [(1, 0, 1)]);
    let rest = copy.piece(copy.id(), 1, 4, 0);
    let back = Completion { batch: copy.id(), first: 1, items: 3, outcome: Outcome::Returned(rest) };
    let result = in_flight.landed(Side::Cloud, back, false);
    let Outcome::Returned(rest) = &result.completions[0].1.outcome else { panic!("{result:?}") };
    assert_eq!((rest.id(), rest.first(), rest.items()), (BatchId(1), 1, 3));
    assert!(in_flight.is_empty());
}

#[test]
fn returned_items_of_a_copy_have_the_batch_id_and_one_more_attempt() {
    let mut in_flight = InFlight::default();
    in_flight.submitted(batch(1, 10, 2), Side::Local);
    let copy = copy(&mut in_flight, 1, Side::Cloud).expect("nothing has come back");
    let back =
        Completion { batch: BatchId(1), first: 10, items: 2, outcome: Outcome::Returned(batch(1, 10, 2)) };
    in_flight.landed(Side::Local, back, false);
    let taken = in_flight.as_returned(done(copy.id(), 11, 1));
    let result = in_flight.landed(Side::Cloud, taken, false);
    let Outcome::Returned(item) = &result.completions[0].1.outcome else { panic!("{result:?}") };
    assert_eq!((item.id(), item.first(), item.items(), item.attempt()), (BatchId(1), 11, 1, 1));
}

#[test]
fn unknown_items_are_not_returned() {
    let mut in_flight = InFlight::default();
    in_flight.submitted(batch(1, 10, 2), Side::Cloud);
    for first in [9, 12] {
        let late = in_flight.as_returned(done(BatchId(1), first, 1));
        assert!(matches!(late.outcome, Outcome::Done(_)), "{late:?}");
    }
}

#[test]
fn withdrawing_a_side_returns_its_own_items_and_keeps_the_other_copies() {
    let mut in_flight = InFlight::default();
    in_flight.submitted(batch(1, 0, 4), Side::Cloud);
    in_flight.submitted(batch(2, 4, 4), Side::Cloud);
    in_flight.landed(Side::Cloud, done(BatchId(1), 1, 2), false);
    let copy = copy(&mut in_flight, 2, Side::Local).expect("nothing has come back");
    let home = in_flight.withdraw_side(Side::Cloud);
    let back: Vec<_> = home.iter().flat_map(|(.., parts)| parts).collect();
    let back: Vec<_> = back.iter().map(|part| (part.batch.0, part.first, part.items)).collect();
    assert_eq!(back, [(1, 0, 1), (1, 3, 1)]);
    assert_eq!(in_flight.count(Side::Cloud), 0);
    let result = in_flight.landed(Side::Local, done(copy.id(), 4, 4), false);
    assert_eq!(item_ranges(&result), [(2, 4, 4)]);
    assert!(in_flight.is_empty());
}

#[test]
fn loss_ends_a_race_and_reports_the_running_item() {
    let mut in_flight = InFlight::default();
    let whole = batch(1, 10, 4);
    in_flight.submitted(whole.clone(), Side::Local);
    let copy = copy(&mut in_flight, 1, Side::Cloud).expect("nothing has come back");
    let result = in_flight.landed(Side::Local, lost(whole, Running::Item(2)), true);
    assert_eq!(result.cancel, [Cancel { side: Side::Cloud, names: vec![copy.id()], items: 4 }]);
    let Outcome::Lost(again, loss) = &result.completions[0].1.outcome else { panic!("{result:?}") };
    assert_eq!((again.id(), again.first(), again.items()), (BatchId(1), 10, 4));
    assert_eq!(loss.running, Running::Item(2));
    assert!(in_flight.is_empty() && in_flight.count(Side::Cloud) == 0);
    assert!(in_flight.landed(Side::Cloud, done(copy.id(), 10, 4), false).of.is_none(), "it comes too late");
}

#[test]
fn setup_loss_leaves_the_other_copy() {
    let mut in_flight = InFlight::default();
    in_flight.submitted(batch(1, 10, 4), Side::Local);
    let copy = copy(&mut in_flight, 1, Side::Cloud).expect("nothing has come back");
    let result = in_flight.landed(Side::Cloud, lost(copy, Running::Setup), false);
    assert!(
        result.completions.is_empty()
            && in_flight.count(Side::Local) == 1
            && in_flight.count(Side::Cloud) == 0
    );
}

#[test]
fn answered_pieces_survive_a_loss_of_the_other_copy() {
    let mut in_flight = InFlight::default();
    let whole = batch(1, 0, 8);
    in_flight.submitted(whole.clone(), Side::Cloud);
    let pieces = in_flight.copy(1, Side::Local, 4).expect("nothing has come back");
    let each: Vec<_> = pieces.iter().map(|piece| (piece.first(), piece.items())).collect();
    assert_eq!(each, [(0, 2), (2, 2), (4, 2), (6, 2)]);
    assert_eq!(in_flight.count(Side::Local), 4);
    for at in [0, 2, 3] {
        let answer = done(pieces[at].id(), pieces[at].first(), 2);
        assert!(in_flight.landed(Side::Local, answer, false).completions.is_empty());
    }
    assert_eq!(in_flight.count(Side::Local), 1, "what is answered takes no place");
    // Item 3 hangs, and the service detects that first.
    let result = in_flight.landed(Side::Cloud, lost(whole, Running::Item(3)), true);
    assert_eq!(item_ranges(&result), [(1, 0, 2), (1, 4, 2), (1, 6, 2), (1, 2, 2)]);
    let Outcome::Lost(again, loss) = &result.completions[3].1.outcome else { panic!("{result:?}") };
    assert_eq!((again.first(), again.items(), loss.running), (2, 2, Running::Item(1)));
    let cancelled: Vec<_> = result.cancel.iter().map(|cancel| (cancel.side, cancel.items)).collect();
    assert_eq!(cancelled, [(Side::Cloud, 0), (Side::Local, 2)]);
    assert!(in_flight.is_empty() && in_flight.count(Side::Local) == 0 && in_flight.count(Side::Cloud) == 0);
}

#[test]
fn loss_affects_only_items_unanswered_by_the_other_side() {
    let mut in_flight = InFlight::default();
    let whole = batch(1, 0, 8);
    in_flight.submitted(whole.clone(), Side::Local);
    let copy = copy(&mut in_flight, 1, Side::Cloud).expect("nothing has come back");
    in_flight.landed(Side::Cloud, done(copy.id(), 2, 2), false);
    // Of items 1 to 3 the last ran, and the other side has answered it: no other is a suspect.
    let part = whole.piece(BatchId(1), 1, 4, 0);
    let result = in_flight.landed(Side::Local, lost(part, Running::Item(2)), true);
    assert_eq!(item_ranges(&result), [(1, 2, 2), (1, 0, 1), (1, 1, 1), (1, 4, 4)]);
    let given_back = |(_, part): &(Side, Completion)| matches!(part.outcome, Outcome::Returned(_));
    assert!(result.completions[1..].iter().all(given_back), "{result:?}");
    assert!(in_flight.is_empty());
}
