//! Single cases of the ledger that a random life of it meets too seldom.

use std::time::Duration;

use fastmap_backends::cloud::RunState;

use super::model_tests::{reserve, settle, store};
use crate::pricing::{self, CREDIT};
use crate::store::testing::{Fresh, on_both};
use crate::store::{Committer, Reserve, Reserved};

on_both!(
    the_ledger_itself_refuses_changes_and_second_charges,
    an_audit_finds_what_was_tampered_with,
    what_was_reserved_is_all_that_is_charged,
    what_is_used_while_batches_hold_the_credits_is_owed_and_taken_when_they_leave_some,
    an_answer_that_costs_more_than_was_reserved_is_paid_from_what_is_left,
    answers_that_are_kept_are_counted_until_they_are_let_go,
);

async fn the_ledger_itself_refuses_changes_and_second_charges(fresh: Fresh) {
    let store = store(&fresh, CREDIT, None).await;
    let mut conn = store.writer().await.expect("a connection");
    for (sql, why) in [
        ("UPDATE ledger SET amount = 0", "append-only"),
        ("DELETE FROM ledger", "append-only"),
        ("UPDATE accounts SET balance = -1", "check"),
        ("UPDATE accounts SET held = balance + 1", "check"),
    ] {
        let error = conn.sql(sql).execute().await.expect_err(sql).to_string().to_lowercase();
        assert!(error.contains(why), "{error}");
    }
    let charge = "INSERT INTO ledger (account, kind, amount, balance, run, seq, created_ms)
                      VALUES (1, 'charge', -1, 5, 'run0', 7, 0)";
    conn.sql(charge).execute().await.expect("a first charge");
    let error = conn.sql(charge).execute().await.expect_err("a second charge").to_string().to_lowercase();
    assert!(error.contains("unique"), "{error}");
}

async fn an_audit_finds_what_was_tampered_with(fresh: Fresh) {
    let store = store(&fresh, CREDIT, None).await;
    assert!(store.audit().await.expect("no failure").is_empty());
    store
        .writer()
        .await
        .expect("a connection")
        .sql("UPDATE accounts SET balance = balance + 1 WHERE id = 1")
        .execute()
        .await
        .expect("the table allows it");
    let found = store.audit().await.expect("no failure");
    assert_eq!(found, ["account: the balance is not the sum of the ledger a1"]);
}

async fn what_was_reserved_is_all_that_is_charged(fresh: Fresh) {
    let store = store(&fresh, CREDIT, None).await;
    let committer = Committer::start(store.clone());
    let got = committer.reserve(reserve(0, 0, 1000)).await.expect("no failure");
    let Reserved::Granted(grant) = got else { panic!("{got:?}") };
    committer.settle(settle(0, 0, 100 * CREDIT)).await.expect("no failure");
    let (balance, held) = store.balance(1).await.expect("no failure");
    assert_eq!((balance, held), (CREDIT - grant.hold, 0));
    let other = Reserve { account: 2, ..reserve(0, 1, 1000) };
    assert_eq!(committer.reserve(other).await.expect("no failure"), Reserved::NoRun);
    let changed = Reserve { digest: "x".to_owned(), ..reserve(0, 0, 1000) };
    assert_eq!(committer.reserve(changed).await.expect("no failure"), Reserved::Conflict);
}

async fn what_is_used_while_batches_hold_the_credits_is_owed_and_taken_when_they_leave_some(fresh: Fresh) {
    let store = store(&fresh, CREDIT, None).await;
    let committer = Committer::start(store.clone());
    // An hour costs ten credits. Runs 0 and 2 are one account's.
    let mut seq = 0;
    while matches!(committer.reserve(reserve(0, seq, 3_600_000)).await, Ok(Reserved::Granted(_))) {
        seq += 1;
    }
    let use_of = async |run: usize, secs: u64| {
        let used = store.charge_use(&format!("run{run}"), Duration::from_secs(secs), &pricing::DEFAULT).await;
        used.expect("no failure").expect("there is such a run")
    };
    let used = use_of(2, 181).await;
    assert!(used.short.is_none() && used.taken < 10_000, "{used:?}: batches of another run hold the rest");
    let refused = committer.reserve(reserve(2, 0, 1)).await.expect("no failure");
    assert!(matches!(refused, Reserved::OutOfCredits | Reserved::CreditsOnHold), "{refused:?}");
    for seq in 0..seq {
        committer.settle(settle(0, seq, 1)).await.expect("no failure");
    }
    store.take_owed(&pricing::DEFAULT).await.expect("no failure");
    let spent = store.run(None, "run2").await.expect("no failure").expect("it is there").info.spent;
    assert_eq!(spent, CREDIT / 2, "three minutes beyond the free second");
    let used = use_of(2, 3600).await;
    assert_eq!(used.short, Some(super::Short::Balance));
    assert_eq!(store.balance(1).await.expect("no failure"), (0, 0));
    assert_eq!(store.audit().await.expect("no failure"), Vec::<String>::new());
}

async fn an_answer_that_costs_more_than_was_reserved_is_paid_from_what_is_left(fresh: Fresh) {
    let store = store(&fresh, CREDIT, Some(CREDIT / 2)).await;
    let committer = Committer::start(store.clone());
    let granted = committer.reserve(reserve(0, 0, 1000)).await.expect("no failure");
    let Reserved::Granted(grant) = granted else { panic!("{granted:?}") };
    let raise = async |hold| store.raise_hold("run0", 0, hold).await.expect("no failure");
    assert_eq!(raise(CREDIT / 2 + 1).await, Some(super::Short::Cap));
    store.adjust(1, grant.hold - CREDIT + 100, None).await.expect("no failure");
    assert_eq!(raise(grant.hold + 101).await, Some(super::Short::Balance));
    assert_eq!(raise(grant.hold + 100).await, None);
    assert_eq!(store.balance(1).await.expect("no failure"), (grant.hold + 100, grant.hold + 100));
    committer.settle(settle(0, 0, grant.hold + 100)).await.expect("no failure");
    assert_eq!(store.balance(1).await.expect("no failure"), (0, 0));
    assert_eq!(store.audit().await.expect("no failure"), Vec::<String>::new());
}

async fn answers_that_are_kept_are_counted_until_they_are_let_go(fresh: Fresh) {
    let store = store(&fresh, 100 * CREDIT, None).await;
    let committer = Committer::start(store.clone());
    let kept = async || store.kept(1).await.expect("no failure");
    for seq in 0..3 {
        committer.reserve(reserve(2, seq, 1)).await.expect("no failure");
        committer.settle(settle(2, seq, 1)).await.expect("no failure");
    }
    // Each is two bytes long.
    assert_eq!(kept().await, 6);
    // One way is for many at once, the other looks closer.
    for balance in [0, 4 * CREDIT - 100 * CREDIT] {
        if balance != 0 {
            store.adjust(1, balance, None).await.expect("no failure");
        }
        for (most_kept, full) in [(7, false), (6, true)] {
            let ask = Reserve { most_kept, ..reserve(2, 10, 3_600_000) };
            let got = committer.reserve(ask).await.expect("no failure");
            assert_eq!(matches!(got, Reserved::Full(6)), full, "{got:?}");
            store.release("run2", 10).await.expect("no failure");
        }
    }
    store.acknowledge("run2", &[0, 1, 0]).await.expect("no failure");
    assert_eq!(kept().await, 2);
    store.end_run("run2", RunState::Done, None).await.expect("no failure");
    store.purge_run("run2").await.expect("no failure");
    assert_eq!(kept().await, 0);
    assert_eq!(store.audit().await.expect("no failure"), Vec::<String>::new());
}
