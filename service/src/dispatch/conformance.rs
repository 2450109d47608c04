//! What every kind of dispatch promises, as a suite that runs against any of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use fastmap_backends::FunctionId;
use fastmap_backends::cloud::{Problem, ProblemCode};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{BatchTask, Dispatch, Lease, RunSpec, Task, Verdict, Work};
use crate::price;

/// What must come has come by then.
const LIMIT: Duration = Duration::from_secs(20);
/// What must not come does not come within this.
const MOMENT: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_mins(10);

/// Runs the suite; `make` gives an empty dispatch with that quota and that length of a lease.
pub(crate) async fn all<D: Dispatch + 'static>(make: impl Fn(usize, Duration) -> Arc<D>) {
    answers_reach_who_submitted(&*make(100, LONG)).await;
    tenants_are_taken_in_turn(&*make(100, LONG)).await;
    a_quota_holds_back_its_tenant_alone(&*make(2, LONG)).await;
    what_an_agent_drops_is_given_to_another(&*make(100, Duration::from_millis(200))).await;
    what_is_given_back_comes_at_once_until_it_is_lost(&*make(100, LONG)).await;
    an_ended_run_is_over_wherever_its_work_is(&*make(100, LONG)).await;
    a_cancelled_batch_is_over_and_its_agent_learns_it(&*make(100, LONG)).await;
    nobody_waits_for_a_closed_dispatch(&make(100, LONG)).await;
    a_lease_that_is_given_up_loses_nothing(&*make(100, LONG)).await;
}

fn work(account: i64, run: &str, seq: u64) -> Work {
    let spec = RunSpec {
        run: run.to_owned(),
        account,
        executable: PathBuf::new(),
        identity: String::new(),
        function: FunctionId { offset: 0, name: String::new() },
        context: None,
        label: None,
        items: None,
        item_timeout: None,
    };
    let (payload, limit) = (Bytes::new(), price::Work::default());
    let batch = BatchTask { seq, first: 0, items: 1, stride: None, payload, limit };
    Work { spec: Arc::new(spec), task: Task::Batch(batch) }
}

async fn submit(dispatch: &dyn Dispatch, account: i64, run: &str, seq: u64) -> oneshot::Receiver<Verdict> {
    dispatch.submit(work(account, run, seq)).await.expect("it is open")
}

async fn lease(dispatch: &dyn Dispatch) -> Lease {
    timeout(LIMIT, dispatch.lease()).await.expect("there is work").expect("it is open")
}

async fn nothing_to_lease(dispatch: &dyn Dispatch) {
    let got = timeout(MOMENT, dispatch.lease()).await;
    assert!(got.is_err(), "{got:?}");
}

async fn verdict(receiver: oneshot::Receiver<Verdict>) -> Verdict {
    timeout(LIMIT, receiver).await.expect("a verdict in time").expect("a verdict")
}

fn seq(lease: &Lease) -> (i64, u64) {
    let Task::Batch(batch) = &lease.work.task else { panic!("{lease:?}") };
    (lease.work.spec.account, batch.seq)
}

/// A verdict that tells the seq it is for.
fn answer(lease: &Lease) -> Verdict {
    Verdict::Failed(Problem::new(ProblemCode::WorkerFailed, seq(lease).1.to_string()))
}

fn is_answer(verdict: &Verdict, seq: u64) -> bool {
    matches!(verdict, Verdict::Failed(problem) if problem.detail == seq.to_string())
}

async fn answers_reach_who_submitted(dispatch: &dyn Dispatch) {
    let mut waiting = Vec::new();
    for seq in 0..50 {
        waiting.push(submit(dispatch, 1, "r", seq).await);
    }
    let mut leases = Vec::new();
    for _ in 0..50 {
        leases.push(lease(dispatch).await);
    }
    nothing_to_lease(dispatch).await;
    for lease in leases.iter().rev() {
        assert!(dispatch.answer(lease.id, answer(lease)).await);
        assert!(!dispatch.answer(lease.id, Verdict::Lost).await, "answered twice");
    }
    for (seq, receiver) in waiting.into_iter().enumerate() {
        assert!(is_answer(&verdict(receiver).await, seq as u64));
    }
}

async fn tenants_are_taken_in_turn(dispatch: &dyn Dispatch) {
    for seq in 0..1000 {
        drop(submit(dispatch, 1, "large", seq).await);
    }
    let mut waiting = Vec::new();
    for seq in 0..10 {
        waiting.push(submit(dispatch, 2, "small", seq).await);
    }
    let mut others = 0;
    for seq in 0..10 {
        loop {
            let lease = lease(dispatch).await;
            dispatch.answer(lease.id, answer(&lease)).await;
            if lease.work.spec.account == 2 {
                assert_eq!(super::conformance::seq(&lease), (2, seq), "a tenant's work keeps its order");
                break;
            }
            others += 1;
        }
    }
    assert!(others <= 12, "{others} batches of another tenant came before ten of this one");
    for receiver in waiting {
        verdict(receiver).await;
    }
}

async fn a_quota_holds_back_its_tenant_alone(dispatch: &dyn Dispatch) {
    for seq in 0..3 {
        drop(submit(dispatch, 1, "r", seq).await);
    }
    let first = lease(dispatch).await;
    lease(dispatch).await;
    nothing_to_lease(dispatch).await;
    let other = submit(dispatch, 2, "s", 0).await;
    let lease_of_other = lease(dispatch).await;
    assert_eq!(seq(&lease_of_other), (2, 0));
    dispatch.answer(lease_of_other.id, answer(&lease_of_other)).await;
    verdict(other).await;
    dispatch.answer(first.id, answer(&first)).await;
    assert_eq!(seq(&lease(dispatch).await), (1, 2));
}

async fn what_an_agent_drops_is_given_to_another(dispatch: &dyn Dispatch) {
    let waiting = submit(dispatch, 1, "r", 0).await;
    let dropped = lease(dispatch).await;
    // Within its lease it is the first agent's, who can make it longer.
    nothing_to_lease(dispatch).await;
    assert!(dispatch.extend(dropped.id).await);
    nothing_to_lease(dispatch).await;
    let again = lease(dispatch).await;
    assert_eq!(seq(&again), (1, 0));
    assert_ne!(again.id, dropped.id);
    assert!(!dispatch.extend(dropped.id).await);
    assert!(!dispatch.answer(dropped.id, Verdict::Lost).await, "the first agent is too late");
    assert!(dispatch.answer(again.id, answer(&again)).await);
    assert!(is_answer(&verdict(waiting).await, 0));
}

async fn what_is_given_back_comes_at_once_until_it_is_lost(dispatch: &dyn Dispatch) {
    let waiting = submit(dispatch, 1, "r", 0).await;
    drop(submit(dispatch, 1, "r", 1).await);
    let mut deliveries = 0;
    while deliveries < 20 {
        let lease = lease(dispatch).await;
        if seq(&lease) == (1, 1) {
            break;
        }
        deliveries += 1;
        dispatch.give_back(lease.id).await;
    }
    assert!((2..20).contains(&deliveries), "{deliveries}");
    let got = verdict(waiting).await;
    assert!(matches!(got, Verdict::Lost), "{got:?}");
}

async fn an_ended_run_is_over_wherever_its_work_is(dispatch: &dyn Dispatch) {
    let mut ended = dispatch.ended_runs();
    let (leased, queued) = (submit(dispatch, 1, "r", 0).await, submit(dispatch, 1, "r", 1).await);
    let held = lease(dispatch).await;
    let other = submit(dispatch, 1, "other", 2).await;
    dispatch.end_run("r").await;
    for receiver in [leased, queued] {
        let got = verdict(receiver).await;
        assert!(matches!(got, Verdict::Cancelled), "{got:?}");
    }
    assert_eq!(timeout(LIMIT, ended.recv()).await.expect("in time"), Ok("r".to_owned()));
    assert!(!dispatch.answer(held.id, answer(&held)).await);
    let lease = lease(dispatch).await;
    assert_eq!(seq(&lease), (1, 2));
    dispatch.answer(lease.id, answer(&lease)).await;
    assert!(is_answer(&verdict(other).await, 2));
}

async fn a_cancelled_batch_is_over_and_its_agent_learns_it(dispatch: &dyn Dispatch) {
    let (leased, queued) = (submit(dispatch, 1, "r", 0).await, submit(dispatch, 1, "r", 1).await);
    let (kept, others) = (submit(dispatch, 1, "r", 2).await, submit(dispatch, 2, "s", 0).await);
    let held = lease(dispatch).await;
    assert_eq!(seq(&held), (1, 0));
    // What is not there is not cancelled, and does no harm.
    dispatch.cancel("r", 9).await;
    assert!(timeout(MOMENT, dispatch.revoked(held.id)).await.is_err(), "it is the agent's");
    dispatch.cancel("r", 1).await;
    dispatch.cancel("r", 0).await;
    timeout(LIMIT, dispatch.revoked(held.id)).await.expect("the agent is told");
    for receiver in [leased, queued] {
        let got = verdict(receiver).await;
        assert!(matches!(got, Verdict::Cancelled), "{got:?}");
    }
    assert!(!dispatch.extend(held.id).await && !dispatch.answer(held.id, answer(&held)).await);
    for (receiver, expected) in [(others, 0), (kept, 2)] {
        let lease = lease(dispatch).await;
        dispatch.answer(lease.id, answer(&lease)).await;
        assert!(is_answer(&verdict(receiver).await, expected), "{lease:?}");
    }
    nothing_to_lease(dispatch).await;
}

async fn nobody_waits_for_a_closed_dispatch<D: Dispatch + 'static>(dispatch: &Arc<D>) {
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let dispatch = Arc::clone(dispatch);
            tokio::spawn(async move { dispatch.lease().await.is_err() })
        })
        .collect();
    nothing_to_lease(&**dispatch).await;
    dispatch.close().await;
    for waiter in waiters {
        assert!(timeout(LIMIT, waiter).await.expect("in time").expect("no panic"));
    }
    assert!(dispatch.submit(work(1, "r", 0)).await.is_err());
}

async fn a_lease_that_is_given_up_loses_nothing(dispatch: &dyn Dispatch) {
    for seq in 0..20 {
        nothing_to_lease(dispatch).await;
        let waiting = submit(dispatch, 1, "r", seq).await;
        let lease = lease(dispatch).await;
        dispatch.answer(lease.id, answer(&lease)).await;
        assert!(is_answer(&verdict(waiting).await, seq));
    }
}
