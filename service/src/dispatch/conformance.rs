//! Promises of every kind of dispatch, as a suite that runs against any of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use fastmap_backends::FunctionId;
use fastmap_backends::cloud::{Problem, ProblemCode};
use tokio::time::timeout;

use super::work::{BatchTask, RunSpec, Task, Upload, Work, WorkOutcome};
use super::{Dispatch, Lease, PendingWork, WorkSource};
use crate::pricing;

/// What must come has come by then.
const LIMIT: Duration = Duration::from_mins(1);
/// What must not come does not come within this.
const MOMENT: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_mins(10);
/// A lease that ends while the suite waits: long enough for a machine that is busy with other things.
const SHORT: Duration = Duration::from_secs(2);

/// Both sides of a dispatch.
pub(crate) struct Sides {
    pub(crate) dispatch: Arc<dyn Dispatch>,
    pub(crate) source: Arc<dyn WorkSource>,
}

/// Runs the suite; `make` gives an empty dispatch with that quota and that length of a lease.
pub(crate) async fn all(make: impl AsyncFn(usize, Duration) -> Sides) {
    // An empty dispatch for each: what one leaves leased or queued does not disturb the next.
    answers_reach_who_submitted(&make(100, LONG).await).await;
    tenants_are_taken_in_turn(&make(100, LONG).await).await;
    a_quota_holds_back_its_tenant_alone(&make(2, LONG).await).await;
    what_an_agent_drops_is_given_to_another(&make(100, SHORT).await).await;
    what_an_agent_has_in_hand_stays_there(&make(100, SHORT).await).await;
    what_is_given_back_comes_at_once_until_it_is_lost(&make(100, LONG).await).await;
    an_ended_run_is_over_wherever_its_work_is(&make(2, LONG).await).await;
    a_cancelled_batch_is_over_and_its_agent_learns_it(&make(100, LONG).await).await;
    nobody_waits_for_a_closed_dispatch(&make(100, LONG).await).await;
    a_lease_that_is_given_up_loses_nothing(&make(100, LONG).await).await;
    an_agent_that_closes_hands_back_what_it_has_not_begun(&make(100, LONG).await).await;
    what_workers_use_is_reported_also_behind_the_end_of_their_run(&make(100, LONG).await).await;
}

fn work(account: i64, run: &str, seq: u64) -> Work {
    let spec = RunSpec {
        run: run.to_owned(),
        account,
        executable: Upload::default(),
        identity: String::new(),
        function: FunctionId { offset: 0, name: String::new() },
        context: None,
        label: None,
        items: None,
        item_timeout: None,
        locale: fastmap_backends::cloud::Locale::default(),
    };
    let (payload, limit) = (Bytes::new(), pricing::Work::default());
    let batch = BatchTask {
        seq,
        first: 0,
        items: 1,
        stride: None,
        payload,
        enough: 0,
        level: None,
        limit,
        request: "id".to_owned(),
    };
    Work { spec: Arc::new(spec), task: Task::Batch(batch) }
}

impl Sides {
    pub(crate) async fn submit(&self, account: i64, run: &str, seq: u64) -> PendingWork {
        self.dispatch.submit(work(account, run, seq)).await.expect("it is open")
    }

    pub(crate) async fn lease(&self) -> Lease {
        timeout(LIMIT, self.source.lease()).await.expect("there is work").expect("it is open")
    }

    pub(crate) async fn nothing_to_lease(&self) {
        let got = timeout(MOMENT, self.source.lease()).await;
        assert!(got.is_err(), "{got:?}");
    }

    pub(crate) async fn answer(&self, lease: &Lease) -> bool {
        self.source.answer(lease.id, answer(lease)).await
    }
}

async fn outcome(mut submitted: PendingWork) -> WorkOutcome {
    timeout(LIMIT, submitted.outcome()).await.expect("an outcome in time")
}

fn seq(lease: &Lease) -> (i64, u64) {
    let Task::Batch(batch) = &lease.work.task else { panic!("{lease:?}") };
    (lease.work.spec.account, batch.seq)
}

/// An outcome that names the seq it is for.
fn answer(lease: &Lease) -> WorkOutcome {
    WorkOutcome::Failed(Problem::new(ProblemCode::WorkerFailed, seq(lease).1.to_string()))
}

fn is_answer(outcome: &WorkOutcome, seq: u64) -> bool {
    matches!(outcome, WorkOutcome::Failed(problem) if problem.detail == seq.to_string())
}

async fn answers_reach_who_submitted(sides: &Sides) {
    let mut waiting = Vec::new();
    for seq in 0..50 {
        waiting.push(sides.submit(1, "r", seq).await);
    }
    let mut leases = Vec::new();
    for _ in 0..50 {
        leases.push(sides.lease().await);
    }
    sides.nothing_to_lease().await;
    // Not in the order of the leases: an answer must find its submitter by the lease alone.
    for lease in leases.iter().rev() {
        assert!(sides.answer(lease).await);
        assert!(!sides.source.answer(lease.id, WorkOutcome::Lost).await, "answered twice");
    }
    for (seq, submitted) in waiting.into_iter().enumerate() {
        assert!(is_answer(&outcome(submitted).await, seq as u64));
    }
}

async fn tenants_are_taken_in_turn(sides: &Sides) {
    let mut of_other = Vec::new();
    for seq in 0..1000 {
        of_other.push(sides.submit(1, "large", seq).await);
    }
    let mut waiting = Vec::new();
    for seq in 0..10 {
        waiting.push(sides.submit(2, "small", seq).await);
    }
    // The small tenant has submitted last: its turns decide when it is served, not its place in the queue.
    let (mut others, mut own) = (0, Vec::new());
    while own.len() < 10 {
        let lease = sides.lease().await;
        sides.answer(&lease).await;
        match seq(&lease) {
            (2, seq) => own.push(seq),
            _ => others += 1,
        }
    }
    own.sort_unstable();
    assert!(own.into_iter().eq(0..10), "each once");
    // One each in turn, and work that an agent may have requested before it knew of this tenant.
    assert!(others <= 20, "{others} batches of another tenant came before ten of this one");
    for submitted in waiting {
        outcome(submitted).await;
    }
}

async fn a_quota_holds_back_its_tenant_alone(sides: &Sides) {
    let mut waiting = Vec::new();
    for seq in 0..3 {
        waiting.push(sides.submit(1, "r", seq).await);
    }
    let first = sides.lease().await;
    sides.lease().await;
    sides.nothing_to_lease().await;
    let other = sides.submit(2, "s", 0).await;
    let lease_of_other = sides.lease().await;
    assert_eq!(seq(&lease_of_other), (2, 0));
    sides.answer(&lease_of_other).await;
    outcome(other).await;
    sides.answer(&first).await;
    outcome(waiting.remove(0)).await;
    assert_eq!(seq(&sides.lease().await), (1, 2));
}

async fn what_an_agent_drops_is_given_to_another(sides: &Sides) {
    let submitted = sides.submit(1, "r", 0).await;
    // The lease itself is dropped, and with it the mark that the agent has it in hand; only its name is kept.
    let mut dropped = sides.lease().await.id;
    // Within its lease it is the first agent's, which can extend it.
    let begun = loop {
        let begun = Instant::now();
        if sides.source.extend(dropped).await {
            break begun;
        }
        // This test was held up for longer than a lease.
        dropped = sides.lease().await.id;
    };
    let again = sides.lease().await;
    assert!(begun.elapsed() >= SHORT, "it was taken away after {:?}", begun.elapsed());
    assert_eq!(seq(&again), (1, 0));
    assert_ne!(again.id, dropped);
    assert!(!sides.source.extend(dropped).await);
    assert!(!sides.source.answer(dropped, WorkOutcome::Lost).await, "the first agent is too late");
    let mut last = again;
    while !sides.answer(&last).await {
        last = sides.lease().await;
    }
    assert!(is_answer(&outcome(submitted).await, 0));
}

/// An agent that stood still could not extend its lease: it has the work still, and its answer counts.
async fn what_an_agent_has_in_hand_stays_there(sides: &Sides) {
    let (first, second) = (sides.submit(1, "r", 0).await, sides.submit(1, "r", 1).await);
    let (one, two) = (sides.lease().await, sides.lease().await);
    let again = timeout(SHORT * 3 / 2, sides.source.lease()).await;
    assert!(again.is_err(), "{again:?}");
    assert!(sides.answer(&one).await);
    assert!(sides.source.extend(two.id).await && sides.answer(&two).await);
    for (submitted, lease) in [(first, one), (second, two)] {
        assert!(is_answer(&outcome(submitted).await, seq(&lease).1));
    }
    sides.nothing_to_lease().await;
}

async fn what_is_given_back_comes_at_once_until_it_is_lost(sides: &Sides) {
    let submitted = sides.submit(1, "r", 0).await;
    let mut deliveries = 0;
    // Both are waited for: which delivery is the last is the implementation's to say.
    let mut lost = std::pin::pin!(outcome(submitted));
    let got = loop {
        tokio::select! {
            got = &mut lost => break got,
            lease = sides.lease() => {
                deliveries += 1;
                assert!(deliveries < 20, "it comes again and again");
                sides.source.nack(lease.id).await;
            }
        }
    };
    assert!(matches!(got, WorkOutcome::Lost), "{got:?}");
    // An agent that gives work back may be the only one that can't do it.
    assert!(deliveries >= 2, "{deliveries}");
    sides.nothing_to_lease().await;
}

async fn an_ended_run_is_over_wherever_its_work_is(sides: &Sides) {
    let mut ended = sides.source.ended_runs();
    let mut of_run = Vec::new();
    for seq in 0..3 {
        of_run.push(sides.submit(1, "r", seq).await);
    }
    // The tenant's quota is used up, and one waits.
    let (held, _other) = (sides.lease().await, sides.lease().await);
    let other = sides.submit(1, "other", 7).await;
    sides.dispatch.end_run("r").await;
    for submitted in of_run {
        let got = outcome(submitted).await;
        assert!(matches!(got, WorkOutcome::Cancelled), "{got:?}");
    }
    assert_eq!(timeout(LIMIT, ended.recv()).await.expect("in time"), Ok("r".to_owned()));
    assert!(!sides.answer(&held).await);
    let lease = sides.lease().await;
    assert_eq!(seq(&lease), (1, 7));
    sides.answer(&lease).await;
    assert!(is_answer(&outcome(other).await, 7));
    // The places of the ended run are free again: the whole quota can be leased.
    let _one = sides.submit(1, "other", 8).await;
    let _two = sides.submit(1, "other", 9).await;
    assert_eq!((seq(&sides.lease().await), seq(&sides.lease().await)), ((1, 8), (1, 9)));
}

async fn a_cancelled_batch_is_over_and_its_agent_learns_it(sides: &Sides) {
    let (leased, queued) = (sides.submit(1, "r", 0).await, sides.submit(1, "r", 1).await);
    let (kept, others) = (sides.submit(1, "r", 2).await, sides.submit(2, "s", 0).await);
    // Within a run the order of leases is not promised: the others are given back until it is this one.
    let held = loop {
        let lease = sides.lease().await;
        if seq(&lease) == (1, 0) {
            break lease;
        }
        sides.source.nack(lease.id).await;
    };
    // Not polled yet: a revocation before the agent waits for it must not be missed.
    let revoked = sides.source.revoked(held.id);
    // A cancellation of an unknown batch changes nothing.
    sides.dispatch.cancel("r", 9).await;
    assert!(timeout(MOMENT, sides.source.revoked(held.id)).await.is_err(), "it is the agent's");
    sides.dispatch.cancel("r", 1).await;
    sides.dispatch.cancel("r", 0).await;
    timeout(LIMIT, revoked).await.expect("the agent is notified");
    for submitted in [leased, queued] {
        let got = outcome(submitted).await;
        assert!(matches!(got, WorkOutcome::Cancelled), "{got:?}");
    }
    assert!(!sides.source.extend(held.id).await && !sides.answer(&held).await);
    let mut left = Vec::new();
    for _ in 0..2 {
        let lease = sides.lease().await;
        assert!(sides.answer(&lease).await, "{lease:?}");
        left.push(seq(&lease));
    }
    left.sort_unstable();
    assert_eq!(left, [(1, 2), (2, 0)]);
    assert!(is_answer(&outcome(others).await, 0) && is_answer(&outcome(kept).await, 2));
    sides.nothing_to_lease().await;
}

async fn nobody_waits_for_a_closed_dispatch(sides: &Sides) {
    // Several: the end must wake each of them, and not only one.
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let source = Arc::clone(&sides.source);
            tokio::spawn(async move { source.lease().await.is_err() })
        })
        .collect();
    sides.nothing_to_lease().await;
    sides.source.close().await;
    sides.dispatch.close().await;
    for waiter in waiters {
        assert!(timeout(LIMIT, waiter).await.expect("in time").expect("no panic"));
    }
    assert!(sides.dispatch.submit(work(1, "r", 0)).await.is_err());
}

async fn a_lease_that_is_given_up_loses_nothing(sides: &Sides) {
    for seq in 0..10 {
        sides.nothing_to_lease().await;
        let submitted = sides.submit(1, "r", seq).await;
        let lease = sides.lease().await;
        sides.answer(&lease).await;
        assert!(is_answer(&outcome(submitted).await, seq));
    }
}

async fn an_agent_that_closes_hands_back_what_it_has_not_begun(sides: &Sides) {
    let mut waiting = Vec::new();
    for seq in 0..20 {
        waiting.push(sides.submit(1, "r", seq).await);
    }
    let lease = sides.lease().await;
    sides.source.close().await;
    // What was leased may still be answered.
    assert!(sides.answer(&lease).await);
    assert!(is_answer(&outcome(waiting.remove(0)).await, seq(&lease).1));
}

async fn what_workers_use_is_reported_also_behind_the_end_of_their_run(sides: &Sides) {
    let _submitted = sides.submit(1, "r", 0).await;
    let lease = sides.lease().await;
    let report = async |cpu: Duration, pays: bool| {
        let charging = async {
            let used = timeout(LIMIT, sides.dispatch.used()).await.expect("in time").expect("it is open");
            assert_eq!((used.run.as_str(), used.cpu), ("r", cpu));
            used.paid.send(pays).expect("the agent waits for it");
        };
        // At the same time: the report waits for its charge.
        let (paid, ()) = tokio::join!(sides.source.used(&lease.payer, "r", cpu), charging);
        paid
    };
    assert_eq!(report(Duration::from_millis(300), true).await, Some(true));
    assert_eq!(report(Duration::from_millis(300), false).await, Some(false));
    sides.dispatch.end_run("r").await;
    assert_eq!(report(Duration::from_millis(1), false).await, Some(false));
}
