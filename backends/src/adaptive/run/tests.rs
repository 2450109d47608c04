//! News of two sides that do nothing: what the host's adapter gets of it, and where it goes from there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::service_link::GONE;
use super::*;
use crate::backend::SubmitError;
use crate::model::completion::Results;
use crate::model::death::{ExitReason, Running, WorkerExit, WorkerLoss};
use crate::model::failure::{FailureKind, ItemFailure};
use crate::{BatchBuilder, Context, Descriptor, FunctionId, JobId};

/// Takes whatever comes: what it is called, its first item, how often that was tried. Says that it is silent for so many
/// seconds, and what is cancelled.
#[derive(Clone, Debug, Default)]
struct Taker(Arc<Mutex<Vec<(u64, u64, u32)>>>, Arc<AtomicU64>, Arc<Mutex<Vec<BatchId>>>);

impl Taker {
    fn taken(&self) -> Vec<(u64, u64, u32)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Backend for Taker {
    fn name(&self) -> &'static str {
        "taker"
    }

    fn open(&self, _job: Arc<Job>) -> Result<Box<dyn Run>, BackendError> {
        Ok(Box::new(self.clone()))
    }
}

impl Run for Taker {
    fn capacity(&mut self) -> Capacity {
        let targets = Targets { work: TURN, least: TURN, bytes: 1000 };
        Capacity { batches: 1, slots: 1, workers: 1, targets }
    }

    fn submit(&mut self, batch: Batch) -> Result<(), SubmitError> {
        let taken = (batch.id().0, batch.first(), batch.attempt());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(taken);
        Ok(())
    }

    fn poll(&mut self, _deadline: Instant) -> Result<Option<Completion>, BackendError> {
        Ok(None)
    }

    fn cancel(&mut self, batch: BatchId) {
        self.2.lock().unwrap_or_else(PoisonError::into_inner).push(batch);
    }

    fn readiness(&mut self) -> Readiness {
        Readiness { silent: Duration::from_secs(self.1.load(Ordering::Relaxed)), ..Readiness::default() }
    }

    fn close(self: Box<Self>) -> Receipt {
        Receipt::default()
    }
}

/// A run whose two sides are takers.
fn adaptive(item_timeout: Option<Duration>) -> (AdaptiveRun, Taker) {
    static NEVER: Descriptor = Descriptor::new(|| "never", |_| unreachable!("nobody works"));
    let job = Job {
        id: JobId::next(),
        function: FunctionId::of(&NEVER),
        context: Context::default(),
        label: None,
        items: Some(100),
        item_timeout,
        fail_fast: false,
        cancel_running: false,
    };
    let (here, there) = (Taker::default(), Taker::default());
    let local = Box::new(here.clone());
    let mut run = AdaptiveRun::new(local, Arc::new(there.clone()), Arc::new(job), AdaptiveOptions::default());
    run.sides.cloud = Some(Box::new(there));
    (run, here)
}

fn batch(id: u64, first: u64, items: u32) -> Batch {
    let mut builder = BatchBuilder::new(Some(1));
    builder.buffer().extend(std::iter::repeat_n(0, items as usize));
    builder.added(items);
    builder.finish(JobId(1), BatchId(id), first, 1000)
}

fn news(batch: BatchId, first: u64, items: u32, outcome: Outcome) -> Completion {
    Completion { batch, first, items, outcome }
}

fn timeout(batch: Batch, limit: Duration) -> Outcome {
    let cause = ExitReason::Timeout(limit);
    let death = WorkerExit { worker: "w".to_owned(), pid: 1, cause, refused: None, stderr: Vec::new() };
    Outcome::Lost(batch, WorkerLoss { running: Running::Item(0), death })
}

/// What the adapter does with a batch that was given back.
fn send_again(run: &mut AdaptiveRun) {
    let back = run.ready.pop_front().expect("there is news");
    let Outcome::Returned(rest) = back.outcome else { panic!("{back:?}") };
    run.submit(rest).expect("all is taken");
}

#[test]
fn an_item_that_outlasts_the_services_own_limit_is_done_here() {
    let (mut run, here) = adaptive(None);
    let item = batch(1, 7, 1);
    run.send(item.clone(), Side::Cloud).expect("all is taken");
    let lost = timeout(item, Duration::from_mins(5));
    run.landed(Side::Cloud, news(BatchId(1), 7, 1, lost));
    send_again(&mut run);
    assert_eq!(here.taken(), [(1, 7, 1)]);
}

#[test]
fn an_item_that_outlasts_the_users_own_limit_is_answered_so() {
    let limit = Duration::from_secs(2);
    let (mut run, _) = adaptive(Some(limit));
    let item = batch(1, 7, 1);
    run.send(item.clone(), Side::Cloud).expect("all is taken");
    run.landed(Side::Cloud, news(BatchId(1), 7, 1, timeout(item, limit)));
    let lost = run.ready.pop_front().expect("there is news");
    assert!(matches!(lost.outcome, Outcome::Lost(..)), "{lost:?}");
}

#[test]
fn an_item_that_the_service_does_not_take_is_done_here() {
    let (mut run, here) = adaptive(None);
    run.send(batch(1, 7, 3), Side::Cloud).expect("all is taken");
    let failure = ItemFailure { offset: 0, kind: FailureKind::Serialize, message: "too large".to_owned() };
    let refused = Results { failures: vec![failure], ..Results::default() };
    run.landed(Side::Cloud, news(BatchId(1), 8, 1, Outcome::Done(refused)));
    send_again(&mut run);
    assert_eq!(here.taken(), [(1, 8, 1)]);
    assert_eq!(run.answered, [0, 0]);
}

#[test]
fn answers_count_for_the_side_that_gave_them_also_where_the_other_one_fails() {
    let (mut run, _) = adaptive(None);
    let whole = batch(1, 0, 4);
    run.send(whole.clone(), Side::Local).expect("all is taken");
    let copy = run.in_flight.copy(1, Side::Cloud, 1).expect("nothing has come back").remove(0);
    run.landed(Side::Cloud, news(copy.id(), 0, 1, Outcome::Done(Results::default())));
    assert_eq!(run.answered, [0, 0], "the other one may be first");
    run.landed(Side::Local, news(BatchId(1), 0, 4, Outcome::Returned(whole)));
    assert_eq!(run.answered, [0, 1]);
    assert_eq!(run.summary().as_deref(), Some("0 items here, 1 in the service"));
}

#[test]
fn answers_from_here_count_where_the_service_is_left() {
    let (mut run, _) = adaptive(None);
    run.send(batch(1, 0, 4), Side::Cloud).expect("all is taken");
    let copy = run.in_flight.copy(1, Side::Local, 1).expect("nothing has come back").remove(0);
    run.landed(Side::Local, news(copy.id(), 0, 3, Outcome::Done(Results::default())));
    run.gone(&BackendError::Other("it is gone".to_owned()));
    assert_eq!(run.answered, [3, 0]);
}

fn crash(batch: Batch, item: u32) -> Outcome {
    let cause = ExitReason::Signal(6);
    let death = WorkerExit { worker: "w".to_owned(), pid: 1, cause, refused: None, stderr: Vec::new() };
    Outcome::Lost(batch, WorkerLoss { running: Running::Item(item), death })
}

#[test]
fn the_first_loss_of_a_batch_that_both_sides_have_is_told_whichever_side_it_is_of() {
    for side in [Side::Local, Side::Cloud] {
        let limit = Duration::from_secs(2);
        let (mut run, _) = adaptive(Some(limit));
        let whole = batch(1, 0, 4);
        run.send(whole.clone(), side).expect("all is taken");
        run.in_flight.copy(1, side.other(), 1).expect("nothing has come back");
        run.landed(side, news(BatchId(1), 0, 4, timeout(whole, limit)));
        let lost = run.ready.pop_front().expect("it is told");
        assert!(matches!(lost.outcome, Outcome::Lost(..)) && lost.items == 4, "{lost:?}");
        assert!(run.in_flight.is_empty() && run.ready.is_empty());
    }
}

#[test]
fn a_service_that_cuts_what_is_done_here_as_well_ends_no_race() {
    let (mut run, _) = adaptive(Some(Duration::from_secs(600)));
    let whole = batch(1, 0, 4);
    run.send(whole.clone(), Side::Cloud).expect("all is taken");
    run.in_flight.copy(1, Side::Local, 1).expect("nothing has come back");
    run.landed(Side::Cloud, news(BatchId(1), 0, 4, timeout(whole, Duration::from_secs(300))));
    assert!(
        run.ready.is_empty()
            && run.in_flight.count(Side::Local) == 1
            && run.in_flight.count(Side::Cloud) == 0
    );
}

#[test]
fn items_that_end_their_workers_do_not_make_a_service_useless_that_answers_others() {
    let (mut run, _) = adaptive(None);
    run.see(Event::Ready { workers: 1 });
    run.send(batch(1, 0, 1), Side::Cloud).expect("all is taken");
    run.landed(Side::Cloud, news(BatchId(1), 0, 1, Outcome::Done(Results::default())));
    for id in 2..20 {
        let item = batch(id, id, 1);
        run.send(item.clone(), Side::Cloud).expect("all is taken");
        run.landed(Side::Cloud, news(BatchId(id), id, 1, crash(item, 0)));
    }
    assert_eq!(*run.policy.link(), Link::Ready);
    let (mut run, _) = adaptive(None);
    run.see(Event::Ready { workers: 1 });
    for id in 2..20 {
        let item = batch(id, id, 1);
        run.send(item.clone(), Side::Cloud).expect("all is taken");
        run.landed(Side::Cloud, news(BatchId(id), id, 1, crash(item, 0)));
    }
    assert!(matches!(run.policy.link(), Link::Left { .. }), "nothing works there");
}

/// A run whose service is ready, and what that takes.
fn with_service() -> (AdaptiveRun, Taker, Taker) {
    let (mut run, here) = adaptive(None);
    let there = Taker::default();
    run.sides.cloud = Some(Box::new(there.clone()));
    run.see(Event::Ready { workers: 2 });
    (run, here, there)
}

/// Looks at both sides without waiting, as a map does whose consumer asks.
fn look(run: &mut AdaptiveRun) {
    run.next_step = Instant::now();
    let waiting = run.poll(run.begun).expect("nothing fails");
    run.ready.extend(waiting);
}

#[test]
fn what_a_service_has_that_gives_no_answer_is_done_here_before_new_work() {
    let (mut run, here, there) = with_service();
    for (id, first) in [(1, 0), (2, 4)] {
        run.send(batch(id, first, 4), Side::Cloud).expect("all is taken");
    }
    look(&mut run);
    assert_eq!(here.taken(), [], "it is well");
    there.1.store(9, Ordering::Relaxed);
    look(&mut run);
    let firsts: Vec<u64> = here.taken().iter().map(|(_, first, _)| *first).collect();
    assert_eq!(firsts, [0, 4]);
    run.submit(batch(3, 8, 4)).expect("all is taken");
    assert_eq!((here.taken().len(), there.taken().len()), (3, 2), "new work stays here");
    // The first answer counts, and the other side is told.
    let (copy, ..) = here.taken()[0];
    run.landed(Side::Local, news(BatchId(copy), 0, 4, Outcome::Done(Results::default())));
    assert_eq!(run.answered, [4, 0]);
    assert_eq!(*there.2.lock().unwrap_or_else(PoisonError::into_inner), [BatchId(1)]);
    there.1.store(0, Ordering::Relaxed);
    look(&mut run);
    run.landed(Side::Cloud, news(BatchId(2), 4, 4, Outcome::Done(Results::default())));
    assert_eq!(run.answered, [4, 4]);
    let (copy, ..) = here.taken()[1];
    assert_eq!(*here.2.lock().unwrap_or_else(PoisonError::into_inner), [BatchId(copy)]);
    assert!(!run.policy.is_silent() && *run.policy.link() == Link::Ready, "it is used again");
}

#[test]
fn what_has_no_copy_comes_home_from_a_service_that_gives_no_answer() {
    let (mut run, here, there) = with_service();
    let tried = batch(1, 0, 2).piece(BatchId(1), 1, 2, 1);
    run.send(tried, Side::Cloud).expect("all is taken");
    there.1.store(9, Ordering::Relaxed);
    look(&mut run);
    assert_eq!(*there.2.lock().unwrap_or_else(PoisonError::into_inner), [BatchId(1)]);
    send_again(&mut run);
    assert_eq!(here.taken(), [(1, 1, 1)]);
    assert_eq!((run.in_flight.count(Side::Cloud), run.in_flight.count(Side::Local)), (0, 1));
}

#[test]
fn a_service_that_has_nothing_and_says_nothing_is_left_after_a_while() {
    let (mut run, _, there) = with_service();
    there.1.store(GONE.as_secs(), Ordering::Relaxed);
    look(&mut run);
    assert!(run.policy.is_silent() && *run.policy.link() == Link::Ready);
    there.1.store(GONE.as_secs() + 1, Ordering::Relaxed);
    look(&mut run);
    assert!(matches!(run.policy.link(), Link::Left { .. }) && run.sides.cloud.is_none());
}
