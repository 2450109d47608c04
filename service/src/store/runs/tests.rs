//! Tests of `runs`.

use std::future::Future;
use std::time::Duration;

use fastmap_backends::cloud::FunctionName;
use tokio::time::timeout;

use super::*;
use crate::answer_files::Position;
use crate::pricing::{CREDIT, DEFAULT, Work};
use crate::stats::{Failure, StatsDelta};
use crate::store::testing::{Fresh, on_both};
use crate::store::{Committer, Reserve, Settle, Stored};

on_both!(
    acknowledging_numbers_that_a_run_does_not_have_takes_no_turn_at_the_writer,
    what_is_acknowledged_or_forgotten_lets_others_write_in_between,
    what_an_ended_run_has_reserved_is_given_back_in_pieces,
    of_long_texts_a_list_has_the_begin_and_a_run_all,
    a_list_is_read_by_an_index_of_the_accounts_own_runs,
    of_runs_that_cost_nothing_the_newest_thousand_are_kept,
    of_cancelled_batches_a_run_keeps_the_newest,
    only_the_newest_runs_of_an_account_have_their_course_kept,
);

/// What is waited for has come by then.
const LIMIT: Duration = Duration::from_secs(30);

async fn open(store: &Store, id: &str) {
    let request = OpenRun {
        key: id.to_owned(),
        executable: "e".to_owned(),
        function: FunctionName { offset: 0, name: "f".to_owned() },
        context: None,
        label: None,
        items: None,
        item_timeout_ms: None,
        max_credits: None,
        locale: None,
    };
    let new =
        NewRun { account: 1, id, digest: "d", request: &request, most_open: 1000, lease_until_ms: i64::MAX };
    store.open_run(&new).await.expect("a new run");
}

async fn store_with_a_run(fresh: &Fresh) -> (Store, Committer) {
    let store = fresh.open().await;
    assert_eq!(store.create_account("a", CREDIT).await.expect("a new account").id, 1);
    open(&store, "run").await;
    let committer = Committer::start(store.clone());
    (store, committer)
}

async fn answer(committer: &Committer, run: &str, seq: i64) {
    let wanted = Work { cpu: Duration::from_micros(1), bytes: 1 };
    let digest = "d".to_owned();
    let ask = Reserve {
        account: 1,
        run: run.to_owned(),
        seq,
        digest,
        wanted,
        prices: DEFAULT,
        most_kept: u64::MAX,
    };
    committer.reserve(ask).await.expect("no failure");
    let place = Position { file: 0, at: 0, length: 1 };
    let answer = Stored { digest: "a".to_owned(), place };
    let settle = Settle {
        run: run.to_owned(),
        seq,
        status: 200,
        charge: 1,
        cpu: Duration::from_micros(1),
        bytes: 1,
        items: 1,
        answer,
    };
    committer.settle(settle).await.expect("no failure");
}

async fn acknowledging_numbers_that_a_run_does_not_have_takes_no_turn_at_the_writer(fresh: Fresh) {
    let (store, committer) = store_with_a_run(&fresh).await;
    for seq in 0..3 {
        answer(&committer, "run", seq).await;
    }
    let writing = store.writer().await.expect("a connection");
    let unknown: Vec<u64> = (10..10_010).collect();
    let done = timeout(LIMIT, store.acknowledge("run", &unknown)).await;
    assert!(done.expect("it does not wait for the writer").expect("no failure").is_empty());
    drop(writing);
    let all: Vec<u64> = (0..5000).chain(0..5000).collect();
    assert_eq!(store.acknowledge("run", &all).await.expect("no failure").len(), 3);
    assert!(store.acknowledge("run", &all).await.expect("no failure").is_empty());
}

/// Batches of a run, put there in one statement.
async fn fill(store: &Store, run: &str, state: &str, batches: i64) {
    let mut conn = store.writer().await.expect("a connection");
    let sql = conn.sql(
        "WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < $2 - 1)
         INSERT INTO batches (run, seq, digest, state, hold, cpu_limit_ns, byte_limit, short, status, charge,
                              answer_digest, opened_ms, settled_ms)
         SELECT $1, n, 'd', $3, 1, 1, 1, FALSE, 200, 0, 'd', 0, 0 FROM n",
    );
    sql.bind(run).bind(batches).bind(state).execute().await.expect("it is filled");
}

async fn count(store: &Store, sql: &'static str) -> i64 {
    store.sql(sql).fetch_one().await.expect("a row").try_get(0).expect("a number")
}

/// How often another got the writer before `work` was done.
async fn turns_of_others<T>(store: &Store, work: impl Future<Output = T>) -> (u64, T) {
    if store.is_shared() {
        // The other has a connection that is open: to open one may take longer than the work.
        let (own, others) = (store.writer().await, store.writer().await);
        drop((own.expect("a connection"), others.expect("a connection")));
    }
    let (mut work, mut turns) = (Box::pin(work), 0);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return (turns, done),
            writer = store.writer() => {
                drop(writer.expect("a connection"));
                turns += 1;
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn what_is_acknowledged_or_forgotten_lets_others_write_in_between(fresh: Fresh) {
    let (store, _committer) = store_with_a_run(&fresh).await;
    fill(&store, "run", "answered", 5000).await;
    let all: Vec<u64> = (0..5000).collect();
    let (turns, kept) = turns_of_others(&store, Box::pin(store.acknowledge("run", &all))).await;
    assert_eq!(kept.expect("no failure").len(), 5000);
    assert!(turns >= 5000 / ACKNOWLEDGED as u64 - 1, "others had the writer {turns} times");
    store.end_run("run", RunState::Done, None).await.expect("no failure");
    let (turns, purged) = turns_of_others(&store, Box::pin(store.purge_run("run"))).await;
    assert!(!store.end_run("run", RunState::Done, None).await.expect("no failure"), "a run ends once");
    assert!(purged.expect("no failure"), "5000 are not too many for one call");
    assert!(turns >= 9, "others had the writer {turns} times");
    assert_eq!(count(&store, "SELECT COUNT(*) FROM batches").await, 0);
    fill(&store, "run", "answered", 10_001).await;
    assert!(!store.purge_run("run").await.expect("no failure"), "the next call goes on");
    assert!(store.purge_run("run").await.expect("no failure"));
}

async fn what_an_ended_run_has_reserved_is_given_back_in_pieces(fresh: Fresh) {
    let (store, _committer) = store_with_a_run(&fresh).await;
    fill(&store, "run", "held", 1000).await;
    assert_eq!(store.balance(1).await.expect("no failure"), (CREDIT, 1000));
    let (turns, ended) =
        turns_of_others(&store, Box::pin(store.end_run("run", RunState::Cancelled, None))).await;
    assert!(ended.expect("no failure"));
    assert!(turns >= 1000 / ACKNOWLEDGED as u64, "others had the writer {turns} times");
    assert_eq!(store.balance(1).await.expect("no failure"), (CREDIT, 0));
    // What was left by a failure is given back when the run is ended again.
    fill(&store, "run", "held", 10).await;
    assert!(!store.end_run("run", RunState::Done, None).await.expect("no failure"));
    assert_eq!(store.balance(1).await.expect("no failure"), (CREDIT, 0));
    assert_eq!(count(&store, "SELECT COUNT(*) FROM batches").await, 0);
    assert_eq!(store.audit().await.expect("no failure"), Vec::<String>::new());
}

async fn of_long_texts_a_list_has_the_begin_and_a_run_all(fresh: Fresh) {
    let (store, _committer) = store_with_a_run(&fresh).await;
    let (reason, name) = ("r".repeat(20_000), "n".repeat(4096));
    store.end_run("run", RunState::Failed, Some(&reason)).await.expect("no failure");
    let mut conn = store.writer().await.expect("a connection");
    conn.sql("UPDATE runs SET function_name = $1").bind(&name).execute().await.expect("no failure");
    drop(conn);
    for account in [Some(1), None] {
        let runs = store.runs(account, None, 9).await.expect("a list");
        assert_eq!(runs[0].reason.as_ref().map(String::len), Some(200));
        assert_eq!(runs[0].info.function.len(), 200);
        assert!(store.runs(account, Some("run"), 9).await.expect("a list").is_empty());
    }
    let run = store.run(Some(1), "run").await.expect("no failure").expect("a run");
    assert_eq!((run.reason, run.info.function), (Some(reason), name));
    assert!(store.runs(Some(2), None, 9).await.expect("a list").is_empty());
}

async fn a_list_is_read_by_an_index_of_the_accounts_own_runs(fresh: Fresh) {
    let (store, _committer) = store_with_a_run(&fresh).await;
    // PostgreSQL plans by what is in the tables.
    for behind in [false, true].into_iter().filter(|_| !store.is_shared()) {
        let sql = format!("EXPLAIN QUERY PLAN {}", list(true, behind));
        let query = store.sql(sql).bind(1i64).bind(behind.then_some("run")).bind(100i64);
        let rows = query.fetch_all().await.expect("a plan");
        let plan: Vec<String> = rows.iter().map(|row| row.try_get("detail").expect("text")).collect();
        assert!(plan.iter().any(|step| step.contains("runs_account (account=?")), "{plan:?}");
        assert!(plan.iter().all(|step| !step.starts_with("SCAN") && !step.contains("TEMP")), "{plan:?}");
    }
}

async fn of_runs_that_cost_nothing_the_newest_thousand_are_kept(fresh: Fresh) {
    let (store, committer) = store_with_a_run(&fresh).await;
    answer(&committer, "run", 1).await;
    for n in 0..1100 {
        open(&store, &n.to_string()).await;
        store.end_run(&n.to_string(), RunState::Done, None).await.expect("no failure");
    }
    store.end_run("run", RunState::Done, None).await.expect("no failure");
    let mut forgotten = 0;
    loop {
        let excess = store.excess_runs(1).await.expect("no failure");
        if excess.is_empty() {
            break;
        }
        for run in excess {
            assert!(store.forget_run(&run).await.expect("no failure"));
            forgotten += 1;
        }
    }
    assert_eq!(forgotten, 100);
    let there = async |run: &str| store.run(Some(1), run).await.expect("no failure").is_some();
    assert!(there("run").await, "it is older, and was paid for");
    assert!(!there("99").await && there("100").await, "the oldest go first");
    assert_eq!(count(&store, "SELECT COUNT(*) FROM run_words").await, 1001);
    // After their time all of them are forgotten; what was paid for has a time of its own.
    let later = now_ms() + 1000;
    let free = store.forgettable_runs(later, 0).await.expect("no failure");
    assert!(!free.is_empty() && !free.contains(&"run".to_owned()));
    assert!(store.forgettable_runs(0, later).await.expect("no failure").is_empty(), "its answers are kept");
    assert!(store.purge_run("run").await.expect("no failure"));
    assert_eq!(store.forgettable_runs(0, later).await.expect("no failure"), ["run"]);
    assert!(store.forget_run("run").await.expect("no failure"));
    assert_eq!(store.audit().await.expect("no failure"), Vec::<String>::new());
    let kept = store.ledger(1, 9).await.expect("the ledger");
    assert!(kept.iter().any(|entry| entry.run.as_deref() == Some("run")), "its charge stays");
}

async fn of_cancelled_batches_a_run_keeps_the_newest(fresh: Fresh) {
    let (store, committer) = store_with_a_run(&fresh).await;
    let wanted = Work { cpu: Duration::from_micros(1), bytes: 1 };
    for seq in 0..1010 {
        let (run, digest) = ("run".to_owned(), "d".to_owned());
        let ask = Reserve { account: 1, run, seq, digest, wanted, prices: DEFAULT, most_kept: u64::MAX };
        committer.reserve(ask).await.expect("no failure");
        assert!(store.cancel_reservation("run", seq).await.expect("no failure"));
    }
    let state = async |seq| store.batch("run", seq).await.expect("no failure").map(|(state, _)| state);
    assert_eq!((state(1009).await.as_deref(), state(0).await), (Some("cancelled"), None));
    assert_eq!(count(&store, "SELECT COUNT(*) FROM batches").await, 1000);
    assert_eq!(store.audit().await.expect("no failure"), Vec::<String>::new());
}

async fn only_the_newest_runs_of_an_account_have_their_course_kept(fresh: Fresh) {
    let (store, _committer) = store_with_a_run(&fresh).await;
    let failure = Failure {
        seq: 0,
        item: None,
        kind: "death".to_owned(),
        cause: "why".to_owned(),
        worker: "w".to_owned(),
        at_ms: 0,
    };
    let delta = || StatsDelta { failures: vec![failure.clone()], ..StatsDelta::default() };
    store.add_activity(&[("run".to_owned(), delta())]).await.expect("no failure");
    for n in 0..500 {
        assert_eq!(store.failures("run").await.expect("a list").len(), 1, "{n}");
        open(&store, &n.to_string()).await;
        if n % 100 == 0 || n == 499 {
            store.forget_excess_activity(1).await.expect("no failure");
        }
    }
    assert!(store.failures("run").await.expect("a list").is_empty());
    assert_eq!(count(&store, "SELECT COUNT(*) FROM run_activity").await, 0);
}
