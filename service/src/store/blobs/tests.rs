//! Tests of `blobs`.

use fastmap_backends::cloud::{FunctionName, OpenRun, RunState};

use super::*;
use crate::pricing::CREDIT;
use crate::store::NewRun;
use crate::store::testing::{Fresh, on_both};

on_both!(
    what_no_open_run_needs_goes_for_room_and_what_others_have_stays,
    begun_uploads_count_before_they_come_are_few_and_are_given_back,
);

async fn stored(store: &Store, account: i64) -> u64 {
    store.taken_bytes(account).await.expect("no failure").0
}

async fn open_run(store: &Store, id: &str, executable: &str, context: Option<&str>) {
    let request = OpenRun {
        key: id.repeat(32),
        executable: executable.to_owned(),
        function: FunctionName { offset: 0, name: String::new() },
        context: context.map(str::to_owned),
        label: None,
        items: None,
        item_timeout_ms: None,
        max_credits: None,
        locale: None,
    };
    let new = NewRun { account: 1, id, digest: "", request: &request, most_open: 9, lease_until_ms: 0 };
    store.open_run(&new).await.expect("a new run");
}

async fn what_no_open_run_needs_goes_for_room_and_what_others_have_stays(fresh: Fresh) {
    let store = fresh.open().await;
    for name in ["a", "b"] {
        store.create_account(name, CREDIT).await.expect("a new account");
    }
    // One block, and what a file takes beside.
    let blob = Blob { size: 100, identity: None };
    let one = on_disk(blob.size);
    assert_eq!(one, 8192);
    for (account, kind, hash) in [
        (1, Kind::Executable, "old"),
        (1, Kind::Executable, "needed"),
        (1, Kind::Context, "its context"),
        (1, Kind::Context, "shared"),
        (2, Kind::Context, "shared"),
    ] {
        store.add_blob(account, kind, hash, &blob).await.expect("no failure");
    }
    open_run(&store, "1", "needed", Some("its context")).await;
    let room = async |most| store.make_room(1, most).await.expect("no failure");
    assert_eq!(room(4 * one).await, Some(Vec::new()), "there is room");
    assert_eq!(room(2 * one - 1).await, None, "a run needs two of them");
    assert_eq!(stored(&store, 1).await, 4 * one, "then nothing is forgotten");
    assert_eq!(room(2 * one).await, Some(vec![(Kind::Executable, "old".to_owned())]));
    assert_eq!(stored(&store, 1).await, 2 * one);
    assert_eq!(stored(&store, 2).await, one);
    assert!(store.blob(2, Kind::Context, "shared").await.expect("no failure").is_some());
    store.end_run("1", RunState::Done, None).await.expect("no failure");
    assert_eq!(room(0).await.map(|orphans| orphans.len()), Some(2));
    assert_eq!(stored(&store, 1).await, 0);
}

async fn begun_uploads_count_before_they_come_are_few_and_are_given_back(fresh: Fresh) {
    let store = fresh.open().await;
    for name in ["a", "b"] {
        store.create_account(name, CREDIT).await.expect("a new account");
    }
    let begin = async |account, hash: &str, taken, most, left_before_ms| {
        let part = Part { account, kind: Kind::Context, hash, taken, most, left_before_ms };
        store.begin_upload(&part).await.expect("no failure")
    };
    store.add_blob(1, Kind::Context, "there", &Blob { size: 1, identity: None }).await.expect("no failure");
    assert_eq!(begin(1, "0", 100, 8292, 0).await, Begun::Counted(None));
    assert_eq!(begin(1, "0", 100, 8292, 0).await, Begun::Counted(None), "it counts once");
    assert_eq!(begin(1, "1", 1, 8292, 0).await, Begun::Full(Some(8191)));
    assert_eq!(begin(1, "1", 8293, 8292, 0).await, Begun::Full(None));
    assert_eq!(store.taken_bytes(1).await.expect("no failure"), (8192, 100));
    for n in 1..BEGUN {
        assert_eq!(begin(1, &n.to_string(), 1, 10_000, 0).await, Begun::Counted(None));
    }
    assert_eq!(begin(1, "more", 1, 10_000, 0).await, Begun::Crowded);
    assert_eq!(begin(2, "more", 1, 10_000, 0).await, Begun::Counted(None), "another account");
    let later = now_ms() + 1000;
    let Begun::Counted(Some((Kind::Context, left))) = begin(1, "more", 1, 10_000, later).await else {
        panic!("one that was left gives way")
    };
    assert!(store.begun_upload(1, Kind::Context, &left).await.expect("no failure").is_none());
    // Whole, it is stored and no longer begun; what was wrong is neither.
    let begun = async || store.taken_bytes(1).await.expect("no failure").1;
    let before = begun().await;
    store.add_blob(1, Kind::Context, "more", &Blob { size: 1, identity: None }).await.expect("no failure");
    assert_eq!((begun().await, stored(&store, 1).await), (before - 1, 2 * 8192));
    store.end_upload(1, Kind::Context, "15").await.expect("no failure");
    assert_eq!(begun().await, before - 2);
    let given_up = store.give_up_uploads(later).await.expect("no failure");
    assert_eq!(given_up.len(), BEGUN - 2 + 1);
    assert_eq!(begun().await, 0);
}
