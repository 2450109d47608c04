//! The way of a run: upload, open, batches, bill.

use fastmap_backends::cloud::{Answer, Bill, PartOutcome, RunInfo, RunState};
use fastmap_backends::{ExitReason, Running};
use fastmap_service::store::{Database, Store};
use serde_json::Value;

use crate::client::{batch, open_run, results, to_json};
use crate::server::{Server, until};

#[test]
fn a_run_from_its_upload_to_its_bill() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    for seq in 0..5 {
        let reply = client.batch(&run, seq, &["eone", "etwo", "s20"]);
        assert_eq!(results(&reply, 3), [b"one".to_vec(), b"two".to_vec(), b"20".to_vec()]);
    }
    let info: RunInfo = client.call("GET", &format!("/runs/{run}"), b"").json(200);
    assert_eq!((info.batches, info.items_answered, info.held), (5, 15, 0));
    assert!(info.cpu_ns > 10_000_000, "{info:?}");
    let bill: Bill = client.call("POST", &format!("/runs/{run}/done"), b"").json(200);
    assert_eq!(bill.balance, 1_000_000_000 - bill.run.spent);
    // At most 0.1 s of CPU time and some bytes, at 10 credits an hour and a gigabyte; each batch rounded up.
    assert!((28..2000).contains(&bill.run.spent), "{bill:?}");
    let again: Bill = client.call("POST", &format!("/runs/{run}/done"), b"").json(200);
    assert_eq!(again, bill);
    client.call("PUT", &format!("/runs/{run}/batches/9"), &batch(&["e"])).problem("run_ended");
    server.audit();
}

#[test]
fn a_batch_that_comes_again_gets_the_same_answer_at_no_charge() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let first = client.batch(&run, 7, &["s5", "etwo"]);
    let balance = client.balance();
    assert!(balance < 1_000_000_000);
    for _ in 0..3 {
        assert_eq!(client.batch(&run, 7, &["s5", "etwo"]).body, first.body);
        assert_eq!(client.call("GET", &format!("/runs/{run}/batches/7"), b"").body, first.body);
    }
    let bodies: Vec<_> = std::thread::scope(|scope| {
        let same = || client.batch(&run, 8, &["s50"]).body;
        let calls: Vec<_> = (0..4).map(|_| scope.spawn(same)).collect();
        calls.into_iter().map(|call| call.join().expect("no panic")).collect()
    });
    assert!(bodies.iter().all(|body| *body == bodies[0]));
    let info: RunInfo = client.call("GET", &format!("/runs/{run}"), b"").json(200);
    assert_eq!((info.batches, info.items_answered), (2, 3));
    client.call("PUT", &format!("/runs/{run}/batches/7"), &batch(&["eother"])).problem("seq_conflict");

    let acknowledged: Value =
        client.call("POST", &format!("/runs/{run}/ack"), br#"{"seqs":[7,99]}"#).json(200);
    assert_eq!(acknowledged["deleted"], 1);
    let again: Value = client.call("POST", &format!("/runs/{run}/ack"), br#"{"seqs":[7]}"#).json(200);
    assert_eq!(again["deleted"], 0);
    client.call("PUT", &format!("/runs/{run}/batches/7"), &batch(&["s5", "etwo"])).problem("result_gone");
    client.call("GET", &format!("/runs/{run}/batches/7"), b"").problem("result_gone");
    client.call("GET", &format!("/runs/{run}/batches/55"), b"").problem("batch_unknown");
    server.audit();
}

#[test]
fn an_answer_lost_from_the_disk_is_computed_again_at_no_charge() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let first = client.batch(&run, 1, &["eone", "s5"]);
    let balance = client.balance();
    std::fs::write(server.data().join("answers").join(&run).join("0"), b"torn").expect("it is there");
    client.call("GET", &format!("/runs/{run}/batches/1"), b"").problem("batch_unknown");
    let again = client.batch(&run, 1, &["eone", "s5"]);
    assert_eq!(results(&again, 2), results(&first, 2));
    assert_eq!(client.balance(), balance);
    server.audit();
}

#[test]
fn what_becomes_of_items_is_passed_on_as_it_is() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let reply = client.batch(&run, 1, &["eone", "?", "ethree"]);
    let answer = Answer::decode(&reply.body, 3).expect("an answer");
    let failures: Vec<_> = answer
        .parts
        .iter()
        .filter_map(|part| match &part.outcome {
            PartOutcome::Done(results) => Some(
                results
                    .failures
                    .iter()
                    .map(|failure| (part.offset + failure.offset, failure.message.clone())),
            ),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(failures, [(1, "no such order: ?".to_owned())]);

    // One item ends its worker: it is named, with the worker's last words, and the next batch is answered.
    let reply = client.batch(&run, 2, &["eone", "a", "ethree"]);
    let answer = Answer::decode(&reply.body, 3).expect("an answer");
    let loss = answer.parts.iter().find_map(|part| match &part.outcome {
        PartOutcome::Lost(loss) => Some((part.offset, loss)),
        _ => None,
    });
    let (offset, loss) = loss.expect("a loss");
    let Running::Item(item) = loss.running else { panic!("{loss:?}") };
    assert_eq!(offset + item, 1);
    assert_eq!(loss.death.cause, ExitReason::Signal(6));
    assert_eq!(loss.death.stderr, ["about to abort"]);
    results(&client.batch(&run, 3, &["e"]), 1);
    server.audit();
}

#[test]
fn a_context_is_uploaded_once_and_reaches_the_workers() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let executable = client.upload_worker();
    let context = client.upload("contexts", b"a context", 5);
    assert_eq!(client.call("HEAD", &format!("/contexts/{context}"), b"").status, 200);
    let request =
        fastmap_backends::cloud::OpenRun { context: Some(context), ..open_run(&executable, "obey") };
    let run: Value = client.call("POST", "/runs", &to_json(&request)).json(201);
    let run = run["run"].as_str().expect("a name");
    assert_eq!(results(&client.batch(run, 0, &["c"]), 1), [b"a context"]);
    // The same request opens no second run.
    let again: Value = client.call("POST", "/runs", &to_json(&request)).json(201);
    assert_eq!(again["run"], run);
    let other = fastmap_backends::cloud::OpenRun { label: None, ..request };
    client.call("POST", "/runs", &to_json(&other)).problem("key_conflict");
}

#[test]
fn items_may_travel_compressed() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let plain = batch(&["eone", "etwo"]);
    let packed = zstd::bulk::compress(&plain[48..], 1).expect("memory");
    let head = fastmap_backends::cloud::BatchBody::decode(&plain).expect("a batch");
    let body = |length| {
        fastmap_backends::cloud::BatchBody { length, compressed: true, payload: &packed, ..head }.encode()
    };
    let reply = client.call("PUT", &format!("/runs/{run}/batches/1"), &body(head.length));
    assert_eq!(results(&reply, 2), [b"one", b"two"]);
    for wrong in [head.length - 1, head.length + 1] {
        client.call("PUT", &format!("/runs/{run}/batches/2"), &body(wrong)).problem("invalid_body");
    }
    client.call("PUT", &format!("/runs/{run}/batches/2"), &body(1 << 40)).problem("too_large");
}

/// Where the client of `done` leaves at the wrong moment, the run has ended in the database alone.
#[test]
fn a_run_whose_end_was_half_done_is_let_go() {
    let server = Server::start(&["--long-poll", "1"]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let (events, target) = (format!("/runs/{run}/events"), format!("/runs/{run}/batches/1"));
    let heard = std::thread::scope(|scope| {
        let watching = scope.spawn(|| client.call("GET", &events, b"").body);
        assert_eq!(client.call("PUT", &target, &batch(&["s600000"])).status, 202);
        let database: Database = match server.database() {
            Some(address) => address.parse().expect("an address"),
            None => Database::File(server.data().join("fastmap.sqlite")),
        };
        let end = async {
            let store = Store::open(&database).await.expect("the database");
            assert!(store.end_run(&run, RunState::Done, None).await.expect("no failure"));
        };
        tokio::runtime::Runtime::new().expect("a runtime").block_on(end);
        until("the end of the batch", || {
            let reply = client.call("GET", &target, b"");
            (reply.status != 202).then(|| reply.problem("run_ended"))
        });
        watching.join().expect("no panic")
    });
    let heard = String::from_utf8(heard).expect("text");
    assert!(heard.contains(r#"{"state":"done"}"#), "{heard}");
    server.audit();
}
