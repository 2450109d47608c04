//! Batches that one side has, and copies that race each other.

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

fn stretches(landed: &CopyOutcome) -> Vec<(u64, u64, u32)> {
    landed.completions.iter().map(|(_, part)| (part.batch.0, part.first, part.items)).collect()
}

fn copy(held: &mut InFlight, id: u64, to: Side) -> Option<Batch> {
    held.copy(id, to, 1).and_then(|mut pieces| pieces.pop())
}

#[test]
fn parts_of_a_batch_that_one_side_has_go_through_as_they_come() {
    let mut held = InFlight::default();
    held.submitted(batch(1, 10, 5), Side::Cloud);
    let landed = held.landed(Side::Cloud, done(BatchId(1), 12, 3), false);
    assert_eq!(stretches(&landed), [(1, 12, 3)]);
    assert!(copy(&mut held, 1, Side::Local).is_none(), "of what has come back in part there is no copy");
    held.landed(Side::Cloud, done(BatchId(1), 10, 2), false);
    assert!(held.is_empty() && held.count(Side::Cloud) == 0);
}

#[test]
fn of_two_copies_the_first_that_is_whole_counts_and_the_other_is_cancelled() {
    let mut held = InFlight::default();
    held.submitted(batch(1, 0, 4), Side::Cloud);
    let copy = copy(&mut held, 1, Side::Local).expect("nothing has come back");
    assert!(held.landed(Side::Cloud, done(BatchId(1), 0, 3), false).completions.is_empty());
    assert!(held.landed(Side::Local, done(copy.id(), 2, 2), false).completions.is_empty());
    let landed = held.landed(Side::Local, done(copy.id(), 0, 2), false);
    assert_eq!(stretches(&landed), [(1, 2, 2), (1, 0, 2)]);
    assert_eq!(landed.cancel, [Cancel { side: Side::Cloud, names: vec![BatchId(1)], items: 1 }]);
    assert!(held.is_empty());
    assert!(held.landed(Side::Cloud, done(BatchId(1), 3, 1), false).of.is_none(), "it comes too late");
}

#[test]
fn a_copy_that_fails_leaves_the_other_to_go_on_alone_with_what_it_has() {
    let mut held = InFlight::default();
    held.submitted(batch(1, 0, 4), Side::Local);
    let copy = copy(&mut held, 1, Side::Cloud).expect("nothing has come back");
    held.landed(Side::Cloud, done(copy.id(), 0, 1), false);
    let back =
        Completion { batch: BatchId(1), first: 0, items: 4, outcome: Outcome::Returned(batch(1, 0, 4)) };
    let landed = held.landed(Side::Local, back, false);
    assert_eq!(stretches(&landed), [(1, 0, 1)]);
    let rest = copy.piece(copy.id(), 1, 4, 0);
    let back = Completion { batch: copy.id(), first: 1, items: 3, outcome: Outcome::Returned(rest) };
    let landed = held.landed(Side::Cloud, back, false);
    let Outcome::Returned(rest) = &landed.completions[0].1.outcome else { panic!("{landed:?}") };
    assert_eq!((rest.id(), rest.first(), rest.items()), (BatchId(1), 1, 3));
    assert!(held.is_empty());
}

#[test]
fn what_is_taken_back_of_a_copy_has_its_own_name_and_is_tried_once_more() {
    let mut held = InFlight::default();
    held.submitted(batch(1, 10, 2), Side::Local);
    let copy = copy(&mut held, 1, Side::Cloud).expect("nothing has come back");
    let back =
        Completion { batch: BatchId(1), first: 10, items: 2, outcome: Outcome::Returned(batch(1, 10, 2)) };
    held.landed(Side::Local, back, false);
    let taken = held.taken_back(done(copy.id(), 11, 1));
    let landed = held.landed(Side::Cloud, taken, false);
    let Outcome::Returned(item) = &landed.completions[0].1.outcome else { panic!("{landed:?}") };
    assert_eq!((item.id(), item.first(), item.items(), item.attempt()), (BatchId(1), 11, 1, 1));
}

#[test]
fn what_nobody_waits_for_is_not_taken_back() {
    let mut held = InFlight::default();
    held.submitted(batch(1, 10, 2), Side::Cloud);
    for first in [9, 12] {
        let late = held.taken_back(done(BatchId(1), first, 1));
        assert!(matches!(late.outcome, Outcome::Done(_)), "{late:?}");
    }
}

#[test]
fn what_a_service_had_alone_comes_home_and_what_both_had_is_here() {
    let mut held = InFlight::default();
    held.submitted(batch(1, 0, 4), Side::Cloud);
    held.submitted(batch(2, 4, 4), Side::Cloud);
    held.landed(Side::Cloud, done(BatchId(1), 1, 2), false);
    let copy = copy(&mut held, 2, Side::Local).expect("nothing has come back");
    let home = held.withdraw_side(Side::Cloud);
    let back: Vec<_> = home.iter().flat_map(|(.., parts)| parts).collect();
    let back: Vec<_> = back.iter().map(|part| (part.batch.0, part.first, part.items)).collect();
    assert_eq!(back, [(1, 0, 1), (1, 3, 1)]);
    assert_eq!(held.count(Side::Cloud), 0);
    let landed = held.landed(Side::Local, done(copy.id(), 4, 4), false);
    assert_eq!(stretches(&landed), [(2, 4, 4)]);
    assert!(held.is_empty());
}

#[test]
fn a_loss_ends_a_race_and_is_told_with_the_item_that_ran() {
    let mut held = InFlight::default();
    let whole = batch(1, 10, 4);
    held.submitted(whole.clone(), Side::Local);
    let copy = copy(&mut held, 1, Side::Cloud).expect("nothing has come back");
    let landed = held.landed(Side::Local, lost(whole, Running::Item(2)), true);
    assert_eq!(landed.cancel, [Cancel { side: Side::Cloud, names: vec![copy.id()], items: 4 }]);
    let Outcome::Lost(again, loss) = &landed.completions[0].1.outcome else { panic!("{landed:?}") };
    assert_eq!((again.id(), again.first(), again.items()), (BatchId(1), 10, 4));
    assert_eq!(loss.running, Running::Item(2));
    assert!(held.is_empty() && held.count(Side::Cloud) == 0);
    assert!(held.landed(Side::Cloud, done(copy.id(), 10, 4), false).of.is_none(), "it comes too late");
}

#[test]
fn a_loss_of_a_preparation_leaves_the_other_to_go_on_alone() {
    let mut held = InFlight::default();
    held.submitted(batch(1, 10, 4), Side::Local);
    let copy = copy(&mut held, 1, Side::Cloud).expect("nothing has come back");
    let landed = held.landed(Side::Cloud, lost(copy, Running::Setup), false);
    assert!(landed.completions.is_empty() && held.count(Side::Local) == 1 && held.count(Side::Cloud) == 0);
}

#[test]
fn of_a_copy_in_pieces_what_is_answered_stays_where_the_other_side_is_lost() {
    let mut held = InFlight::default();
    let whole = batch(1, 0, 8);
    held.submitted(whole.clone(), Side::Cloud);
    let pieces = held.copy(1, Side::Local, 4).expect("nothing has come back");
    let each: Vec<_> = pieces.iter().map(|piece| (piece.first(), piece.items())).collect();
    assert_eq!(each, [(0, 2), (2, 2), (4, 2), (6, 2)]);
    assert_eq!(held.count(Side::Local), 4);
    for at in [0, 2, 3] {
        let answer = done(pieces[at].id(), pieces[at].first(), 2);
        assert!(held.landed(Side::Local, answer, false).completions.is_empty());
    }
    assert_eq!(held.count(Side::Local), 1, "what is answered takes no place");
    // The item 3 hangs, and the service knows that first.
    let landed = held.landed(Side::Cloud, lost(whole, Running::Item(3)), true);
    assert_eq!(stretches(&landed), [(1, 0, 2), (1, 4, 2), (1, 6, 2), (1, 2, 2)]);
    let Outcome::Lost(again, loss) = &landed.completions[3].1.outcome else { panic!("{landed:?}") };
    assert_eq!((again.first(), again.items(), loss.running), (2, 2, Running::Item(1)));
    let cancelled: Vec<_> = landed.cancel.iter().map(|cancel| (cancel.side, cancel.items)).collect();
    assert_eq!(cancelled, [(Side::Cloud, 0), (Side::Local, 2)]);
    assert!(held.is_empty() && held.count(Side::Local) == 0 && held.count(Side::Cloud) == 0);
}

#[test]
fn of_a_loss_only_what_the_other_side_has_not_answered_is_lost() {
    let mut held = InFlight::default();
    let whole = batch(1, 0, 8);
    held.submitted(whole.clone(), Side::Local);
    let copy = copy(&mut held, 1, Side::Cloud).expect("nothing has come back");
    held.landed(Side::Cloud, done(copy.id(), 2, 2), false);
    // Of the items 1 to 3 the last ran, which the other side has answered: none is to blame.
    let part = whole.piece(BatchId(1), 1, 4, 0);
    let landed = held.landed(Side::Local, lost(part, Running::Item(2)), true);
    assert_eq!(stretches(&landed), [(1, 2, 2), (1, 0, 1), (1, 1, 1), (1, 4, 4)]);
    let given_back = |(_, part): &(Side, Completion)| matches!(part.outcome, Outcome::Returned(_));
    assert!(landed.completions[1..].iter().all(given_back), "{landed:?}");
    assert!(held.is_empty());
}
