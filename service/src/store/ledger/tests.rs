//! Tests of `ledger`.

use fastmap_backends::cloud::{FunctionName, OpenRun};

use super::*;
use crate::pricing::CREDIT;
use crate::store::testing::{Fresh, on_both};
use crate::store::{Committer, NewRun};

on_both!(
    a_batch_is_withdrawn_once_and_whoever_has_it_is_not_paid,
    what_comes_after_a_cancelled_batch_is_a_new_one,
    only_files_of_answers_that_nobody_has_acknowledged_are_needed,
);

async fn store(fresh: &Fresh) -> Store {
    let store = fresh.open().await;
    assert_eq!(store.create_account("a", CREDIT).await.expect("a new account").id, 1);
    let request = OpenRun {
        key: "0".repeat(32),
        executable: String::new(),
        function: FunctionName { offset: 0, name: String::new() },
        context: None,
        label: None,
        items: None,
        item_timeout_ms: None,
        max_credits: None,
        locale: None,
    };
    let new =
        NewRun { account: 1, id: "run", digest: "", request: &request, most_open: 9, lease_until_ms: 0 };
    store.open_run(&new).await.expect("a new run");
    store
}

fn ask(seq: i64, digest: &str) -> Reserve {
    Reserve {
        account: 1,
        run: "run".to_owned(),
        seq,
        digest: digest.to_owned(),
        wanted: Work { cpu: Duration::from_secs(1), bytes: 1000 },
        prices: pricing::DEFAULT,
        most_kept: u64::MAX,
    }
}

fn answer(seq: i64, file: u64) -> Settle {
    Settle {
        run: "run".to_owned(),
        seq,
        status: 200,
        charge: 1,
        cpu: Duration::from_millis(1),
        bytes: 10,
        items: 1,
        answer: Stored { digest: "answer".to_owned(), place: Position { file, at: 0, length: 10 } },
    }
}

async fn state(store: &Store, seq: i64) -> Option<String> {
    store.batch("run", seq).await.expect("no failure").map(|(state, _)| state)
}

async fn audit(store: &Store) {
    assert_eq!(store.audit().await.expect("no failure"), Vec::<String>::new());
}

async fn a_batch_is_withdrawn_once_and_whoever_has_it_is_not_paid(fresh: Fresh) {
    let store = store(&fresh).await;
    let committer = Committer::start(store.clone());
    // On PostgreSQL another gateway; on SQLite the same file again.
    let other = fresh.open().await;
    assert!(!other.cancel_reservation("run", 1).await.expect("no failure"), "it was not sent");
    for seq in [1, 2] {
        let got = committer.reserve(ask(seq, "one")).await.expect("no failure");
        assert!(matches!(got, Reserved::Granted(_)), "{got:?}");
    }
    assert_eq!(store.held_here().await.expect("no failure").len(), 2);
    assert!(other.cancel_reservation("run", 1).await.expect("no failure"));
    assert!(!other.cancel_reservation("run", 1).await.expect("no failure"), "a second time");
    let held = store.held_here().await.expect("no failure");
    assert_eq!(held, HashSet::from([("run".to_owned(), 2)]));
    assert_eq!(state(&store, 1).await.as_deref(), Some("cancelled"));
    let settled = committer.settle_for(answer(1, 0), "one".to_owned()).await.expect("no failure");
    assert_eq!(settled, Settled::NotHeld);
    store.release("run", 1).await.expect("no failure");
    store.release("run", 2).await.expect("no failure");
    assert_eq!(store.balance(1).await.expect("no failure"), (CREDIT, 0));
    audit(&store).await;
}

async fn what_comes_after_a_cancelled_batch_is_a_new_one(fresh: Fresh) {
    let store = store(&fresh).await;
    let committer = Committer::start(store.clone());
    for digest in ["one", "one", "two"] {
        let got = committer.reserve(ask(1, digest)).await.expect("no failure");
        assert!(matches!(got, Reserved::Granted(_)), "{got:?}");
        audit(&store).await;
        assert!(store.cancel_reservation("run", 1).await.expect("no failure"));
        audit(&store).await;
    }
    committer.reserve(ask(1, "three")).await.expect("no failure");
    // Who had one of those before has an answer to other bytes.
    let late = committer.settle_for(answer(1, 0), "two".to_owned()).await.expect("no failure");
    assert_eq!(late, Settled::NotHeld);
    let settled = committer.settle_for(answer(1, 0), "three".to_owned()).await.expect("no failure");
    assert_eq!(settled, Settled::Charged);
    assert!(
        !store.cancel_reservation("run", 1).await.expect("no failure"),
        "what is answered stays answered"
    );
    assert_eq!(state(&store, 1).await.as_deref(), Some("answered"));
    assert_eq!(store.balance(1).await.expect("no failure"), (CREDIT - 1, 0));
    audit(&store).await;
}

async fn only_files_of_answers_that_nobody_has_acknowledged_are_needed(fresh: Fresh) {
    let store = store(&fresh).await;
    let committer = Committer::start(store.clone());
    for (seq, file) in [(0, 0), (1, 0), (2, 3), (3, 7)] {
        committer.reserve(ask(seq, "one")).await.expect("no failure");
        committer.settle(answer(seq, file)).await.expect("no failure");
    }
    // Reserved, and its answer in no file yet.
    committer.reserve(ask(4, "one")).await.expect("no failure");
    let needed = async || {
        let mut needed = store.files_needed("run").await.expect("no failure");
        needed.sort_unstable();
        needed
    };
    assert_eq!(needed().await, [0, 3, 7]);
    store.acknowledge("run", &[0, 2]).await.expect("no failure");
    assert_eq!(needed().await, [0, 7]);
    store.acknowledge("run", &[1, 3]).await.expect("no failure");
    assert!(needed().await.is_empty());
    assert!(store.files_needed("other").await.expect("no failure").is_empty());
}
