//! Completions of two fake sides: what the host's adapter receives, and where batches go from there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::service_link::GIVE_UP_LIMIT;
use super::*;
use crate::backend::SubmitError;
use crate::model::completion::Results;
use crate::model::death::{ExitReason, Running, WorkerExit, WorkerLoss};
use crate::model::failure::{FailureKind, ItemFailure};
use crate::{BatchBuilder, Context, Descriptor, FunctionId, JobId};

/// Accepts every batch and records its id, its first item and its attempt. Also has the seconds of silence to
/// report, and records cancellations.
#[derive(Clone, Debug, Default)]
struct RecordingBackend(Arc<Mutex<Vec<(u64, u64, u32)>>>, Arc<AtomicU64>, Arc<Mutex<Vec<BatchId>>>);

impl RecordingBackend {
    fn taken(&self) -> Vec<(u64, u64, u32)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Backend for RecordingBackend {
    fn name(&self) -> &'static str {
        "taker"
    }

    fn open(&self, _job: Arc<Job>) -> Result<Box<dyn Run>, BackendError> {
        Ok(Box::new(self.clone()))
    }
}

impl Run for RecordingBackend {
    fn capacity(&mut self) -> Capacity {
        let targets = Targets { work: POLL_INTERVAL, least: POLL_INTERVAL, bytes: 1000 };
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

/// A run with two recording sides.
fn adaptive(item_timeout: Option<Duration>) -> (AdaptiveRun, RecordingBackend) {
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
    let (local, cloud) = (RecordingBackend::default(), RecordingBackend::default());
    let local_run = Box::new(local.clone());
    let mut run =
        AdaptiveRun::new(local_run, Arc::new(cloud.clone()), Arc::new(job), AdaptiveOptions::default());
    run.sides.cloud = Some(Box::new(cloud));
    (run, local)
}

fn batch(id: u64, first: u64, items: u32) -> Batch {
    let mut builder = BatchBuilder::new(Some(1));
    builder.buffer().extend(std::iter::repeat_n(0, items as usize));
    builder.added(items);
    builder.finish(JobId(1), BatchId(id), first, 1000)
}

fn answer(batch: BatchId, first: u64, items: u32, outcome: Outcome) -> Completion {
    Completion { batch, first, items, outcome }
}

fn timeout(batch: Batch, limit: Duration) -> Outcome {
    let cause = ExitReason::Timeout(limit);
    let death = WorkerExit { worker: "w".to_owned(), pid: 1, cause, refused: None, stderr: Vec::new() };
    Outcome::Lost(batch, WorkerLoss { running: Running::Item(0), death })
}

/// Submits a returned batch again, as the adapter does.
fn resubmit(run: &mut AdaptiveRun) {
    let back = run.ready.pop_front().expect("there is news");
    let Outcome::Returned(rest) = back.outcome else { panic!("{back:?}") };
    run.submit(rest).expect("all is taken");
}

#[test]
fn item_beyond_the_service_time_limit_runs_locally() {
    let (mut run, local) = adaptive(None);
    let item = batch(1, 7, 1);
    run.send(item.clone(), Side::Cloud).expect("all is taken");
    let lost = timeout(item, Duration::from_mins(5));
    run.on_completion(Side::Cloud, answer(BatchId(1), 7, 1, lost));
    resubmit(&mut run);
    assert_eq!(local.taken(), [(1, 7, 1)]);
}

#[test]
fn item_beyond_the_user_time_limit_is_lost() {
    let limit = Duration::from_secs(2);
    let (mut run, _) = adaptive(Some(limit));
    let item = batch(1, 7, 1);
    run.send(item.clone(), Side::Cloud).expect("all is taken");
    run.on_completion(Side::Cloud, answer(BatchId(1), 7, 1, timeout(item, limit)));
    let lost = run.ready.pop_front().expect("there is news");
    assert!(matches!(lost.outcome, Outcome::Lost(..)), "{lost:?}");
}

#[test]
fn item_too_large_for_the_service_runs_locally() {
    let (mut run, local) = adaptive(None);
    run.send(batch(1, 7, 3), Side::Cloud).expect("all is taken");
    let failure = ItemFailure { offset: 0, kind: FailureKind::Serialize, message: "too large".to_owned() };
    let refused = Results { failures: vec![failure], ..Results::default() };
    run.on_completion(Side::Cloud, answer(BatchId(1), 8, 1, Outcome::Done(refused)));
    resubmit(&mut run);
    assert_eq!(local.taken(), [(1, 8, 1)]);
    assert_eq!(run.answered, [0, 0]);
}

#[test]
fn answers_count_for_their_side_if_the_other_copy_fails() {
    let (mut run, _) = adaptive(None);
    let whole = batch(1, 0, 4);
    run.send(whole.clone(), Side::Local).expect("all is taken");
    let copy = run.in_flight.copy(1, Side::Cloud, 1).expect("nothing has come back").remove(0);
    run.on_completion(Side::Cloud, answer(copy.id(), 0, 1, Outcome::Done(Results::default())));
    assert_eq!(run.answered, [0, 0], "the other one may be first");
    run.on_completion(Side::Local, answer(BatchId(1), 0, 4, Outcome::Returned(whole)));
    assert_eq!(run.answered, [0, 1]);
    assert_eq!(run.summary().as_deref(), Some("0 items here, 1 in the service"));
}

#[test]
fn local_answers_count_if_the_service_is_left() {
    let (mut run, _) = adaptive(None);
    run.send(batch(1, 0, 4), Side::Cloud).expect("all is taken");
    let copy = run.in_flight.copy(1, Side::Local, 1).expect("nothing has come back").remove(0);
    run.on_completion(Side::Local, answer(copy.id(), 0, 3, Outcome::Done(Results::default())));
    run.leave_service(&BackendError::Other("it is gone".to_owned()));
    assert_eq!(run.answered, [3, 0]);
}

fn crash(batch: Batch, item: u32) -> Outcome {
    let cause = ExitReason::Signal(6);
    let death = WorkerExit { worker: "w".to_owned(), pid: 1, cause, refused: None, stderr: Vec::new() };
    Outcome::Lost(batch, WorkerLoss { running: Running::Item(item), death })
}

#[test]
fn first_loss_of_a_duplicated_batch_is_reported_from_either_side() {
    for side in [Side::Local, Side::Cloud] {
        let limit = Duration::from_secs(2);
        let (mut run, _) = adaptive(Some(limit));
        let whole = batch(1, 0, 4);
        run.send(whole.clone(), side).expect("all is taken");
        run.in_flight.copy(1, side.other(), 1).expect("nothing has come back");
        run.on_completion(side, answer(BatchId(1), 0, 4, timeout(whole, limit)));
        let lost = run.ready.pop_front().expect("it is told");
        assert!(matches!(lost.outcome, Outcome::Lost(..)) && lost.items == 4, "{lost:?}");
        assert!(run.in_flight.is_empty() && run.ready.is_empty());
    }
}

#[test]
fn service_timeout_does_not_end_a_race() {
    let (mut run, _) = adaptive(Some(Duration::from_secs(600)));
    let whole = batch(1, 0, 4);
    run.send(whole.clone(), Side::Cloud).expect("all is taken");
    run.in_flight.copy(1, Side::Local, 1).expect("nothing has come back");
    run.on_completion(Side::Cloud, answer(BatchId(1), 0, 4, timeout(whole, Duration::from_secs(300))));
    assert!(
        run.ready.is_empty()
            && run.in_flight.count(Side::Local) == 1
            && run.in_flight.count(Side::Cloud) == 0
    );
}

#[test]
fn crashing_items_do_not_disqualify_a_service_with_answers() {
    let (mut run, _) = adaptive(None);
    run.see(Event::Ready { workers: 1 });
    run.send(batch(1, 0, 1), Side::Cloud).expect("all is taken");
    run.on_completion(Side::Cloud, answer(BatchId(1), 0, 1, Outcome::Done(Results::default())));
    for id in 2..20 {
        let item = batch(id, id, 1);
        run.send(item.clone(), Side::Cloud).expect("all is taken");
        run.on_completion(Side::Cloud, answer(BatchId(id), id, 1, crash(item, 0)));
    }
    assert_eq!(*run.policy.link(), Link::Ready);
    let (mut run, _) = adaptive(None);
    run.see(Event::Ready { workers: 1 });
    for id in 2..20 {
        let item = batch(id, id, 1);
        run.send(item.clone(), Side::Cloud).expect("all is taken");
        run.on_completion(Side::Cloud, answer(BatchId(id), id, 1, crash(item, 0)));
    }
    assert!(matches!(run.policy.link(), Link::Left { .. }), "nothing works there");
}

/// A run whose service is ready, with both sides' records.
fn with_service() -> (AdaptiveRun, RecordingBackend, RecordingBackend) {
    let (mut run, local) = adaptive(None);
    let cloud = RecordingBackend::default();
    run.sides.cloud = Some(Box::new(cloud.clone()));
    run.see(Event::Ready { workers: 2 });
    (run, local, cloud)
}

/// Polls both sides without waiting, as a map does whose consumer polls.
fn look(run: &mut AdaptiveRun) {
    run.next_step = Instant::now();
    let waiting = run.poll(run.started).expect("nothing fails");
    run.ready.extend(waiting);
}

#[test]
fn batches_of_a_silent_service_run_locally_before_new_ones() {
    let (mut run, local, cloud) = with_service();
    for (id, first) in [(1, 0), (2, 4)] {
        run.send(batch(id, first, 4), Side::Cloud).expect("all is taken");
    }
    look(&mut run);
    assert_eq!(local.taken(), [], "it is well");
    cloud.1.store(9, Ordering::Relaxed);
    look(&mut run);
    let firsts: Vec<u64> = local.taken().iter().map(|(_, first, _)| *first).collect();
    assert_eq!(firsts, [0, 4]);
    run.submit(batch(3, 8, 4)).expect("all is taken");
    assert_eq!((local.taken().len(), cloud.taken().len()), (3, 2), "new work stays here");
    // The first answer counts, and the other side's batch is cancelled.
    let (copy, ..) = local.taken()[0];
    run.on_completion(Side::Local, answer(BatchId(copy), 0, 4, Outcome::Done(Results::default())));
    assert_eq!(run.answered, [4, 0]);
    assert_eq!(*cloud.2.lock().unwrap_or_else(PoisonError::into_inner), [BatchId(1)]);
    cloud.1.store(0, Ordering::Relaxed);
    look(&mut run);
    run.on_completion(Side::Cloud, answer(BatchId(2), 4, 4, Outcome::Done(Results::default())));
    assert_eq!(run.answered, [4, 4]);
    let (copy, ..) = local.taken()[1];
    assert_eq!(*local.2.lock().unwrap_or_else(PoisonError::into_inner), [BatchId(copy)]);
    assert!(!run.policy.is_silent() && *run.policy.link() == Link::Ready, "it is used again");
}

#[test]
fn uncopyable_batches_are_withdrawn_from_a_silent_service() {
    let (mut run, local, cloud) = with_service();
    let tried = batch(1, 0, 2).piece(BatchId(1), 1, 2, 1);
    run.send(tried, Side::Cloud).expect("all is taken");
    cloud.1.store(9, Ordering::Relaxed);
    look(&mut run);
    assert_eq!(*cloud.2.lock().unwrap_or_else(PoisonError::into_inner), [BatchId(1)]);
    resubmit(&mut run);
    assert_eq!(local.taken(), [(1, 1, 1)]);
    assert_eq!((run.in_flight.count(Side::Cloud), run.in_flight.count(Side::Local)), (0, 1));
}

#[test]
fn silent_service_without_batches_is_left() {
    let (mut run, _, cloud) = with_service();
    cloud.1.store(GIVE_UP_LIMIT.as_secs(), Ordering::Relaxed);
    look(&mut run);
    assert!(run.policy.is_silent() && *run.policy.link() == Link::Ready);
    cloud.1.store(GIVE_UP_LIMIT.as_secs() + 1, Ordering::Relaxed);
    look(&mut run);
    assert!(matches!(run.policy.link(), Link::Left { .. }) && run.sides.cloud.is_none());
}
