//! Credits: what is reserved, what is charged, and what happens when they end.

use fastmap_backends::cloud::{Answer, PartOutcome};
use fastmap_backends::cloud::{BatchCancelled, Bill, OpenRun, RunInfo};
use fastmap_backends::{DeathCause, Running};
use serde_json::Value;

use crate::client::{Client, batch, open_run, results, to_json};
use crate::server::Server;

fn capped(client: &Client, max_credits: i64) -> String {
    let executable = client.upload_worker();
    let request = OpenRun { max_credits: Some(max_credits), ..open_run(&executable, "obey") };
    let run: Value = client.call("POST", "/runs", &to_json(&request)).json(201);
    run["run"].as_str().expect("a name").to_owned()
}

#[test]
fn an_account_is_never_overdrawn_and_says_when_it_is_empty() {
    // Bytes are dear: each batch of 100 KB costs 0.01 credits.
    let server = Server::start(&["--price-result-gb", "100"]);
    let client = server.tenant("a", "0.1");
    let run = client.run();
    let mut answered = 0;
    let refused = (0..100).map(|seq| client.batch(&run, seq, &["b100000"])).find(|reply| {
        answered += i32::from(reply.status == 200);
        reply.status != 200
    });
    refused.expect("0.1 credits are not enough").problem("out_of_credits");
    assert!((5..=10).contains(&answered), "{answered} batches of a hundredth credit were paid from a tenth");
    // What was paid for is still there.
    results(&client.batch(&run, 0, &["b100000"]), 1);
    client
        .call("POST", "/runs", &to_json(&open_run(&client.upload_worker(), "obey")))
        .problem("out_of_credits");
    let more = server.json(&["credits", "add", "a", "1", "--note", "a top up"]);
    assert_eq!(more["name"], "a");
    results(&client.batch(&run, 100, &["b100000"]), 1);
    let refused = server.command(&["credits", "add", "a", "-5"]);
    assert!(!refused.status.success());
    let shown = server.json(&["credits", "show", "a"]);
    let notes: Vec<_> =
        shown["ledger"].as_array().expect("a list").iter().map(|entry| &entry["note"]).collect();
    assert!(
        notes.contains(&&Value::from("a top up")) && notes.contains(&&Value::from("new account")),
        "{shown}"
    );
    server.audit();
}

#[test]
fn a_run_stops_at_its_cap_whatever_is_in_flight() {
    let server = Server::start(&["--price-result-gb", "100"]);
    let client = server.tenant("a", "1000");
    let cap = 50_000;
    let run = capped(&client, cap);
    let replies: Vec<_> = std::thread::scope(|scope| {
        let one = |seq| client.batch(&run, seq, &["b100000"]);
        let calls: Vec<_> = (0..16).map(|seq| scope.spawn(move || one(seq))).collect();
        calls.into_iter().map(|call| call.join().expect("no panic")).collect()
    });
    let paid = replies.iter().filter(|reply| reply.status == 200).count();
    for refused in replies.iter().filter(|reply| reply.status != 200) {
        refused.problem("spend_cap_reached");
    }
    assert!((2..=5).contains(&paid), "{paid}");
    let bill: Bill = client.call("POST", &format!("/runs/{run}/done"), b"").json(200);
    assert!(bill.run.spent <= cap && bill.run.held == 0, "{bill:?}");
    assert_eq!(bill.balance, 1_000_000_000 - bill.run.spent);
    server.audit();
}

#[test]
fn a_batch_that_spins_is_cut_and_pays_for_its_time() {
    let server = Server::start(&["--batch-cpu", "1"]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let reply = client.batch(&run, 1, &["s600000"]);
    let answer = Answer::decode(&reply.body, 1).expect("an answer");
    let PartOutcome::Lost(loss) = &answer.parts[0].outcome else { panic!("{answer:?}") };
    assert_eq!(loss.running, Running::Item(0));
    assert!(matches!(loss.death.cause, DeathCause::Timeout(_)), "{loss:?}");
    assert!(answer.charge >= 2777, "a second of CPU time: {answer:?}");
    // Of two items none is to blame.
    let reply = client.batch(&run, 2, &["e", "s600000"]);
    let answer = Answer::decode(&reply.body, 2).expect("an answer");
    let lost = answer.parts.iter().find_map(|part| match &part.outcome {
        PartOutcome::Lost(loss) => Some((part.items, loss.running)),
        _ => None,
    });
    assert_eq!(lost, Some((2, Running::Unknown)), "{answer:?}");
    results(&client.batch(&run, 3, &["e"]), 1);
    server.audit();
}

#[test]
fn cancelling_frees_what_is_reserved_and_ends_the_workers() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let body = batch(&["s600000"]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.patiently(&run, 1, &body));
        until_reserved(&client, &run);
        let bill: Bill = client.call("POST", &format!("/runs/{run}/cancel"), b"").json(200);
        assert_eq!((bill.run.held, bill.run.spent, bill.balance), (0, 0, 1_000_000_000));
        waiting.join().expect("no panic").problem("run_ended");
    });
    // The worker spins for ten minutes, if nobody ends it.
    crate::server::until("the end of the workers", || children(server.pid()).is_empty().then_some(()));
    server.audit();
}

#[test]
fn a_cancelled_batch_is_ended_and_not_charged_and_its_run_goes_on() {
    let server = Server::start(&["--workers", "1"]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let cancel = |seq: u64| {
        let told: BatchCancelled =
            client.call("DELETE", &format!("/runs/{run}/batches/{seq}"), b"").json(200);
        told.cancelled
    };
    assert!(!cancel(1), "nobody has sent it");
    let body = batch(&["s600000"]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.patiently(&run, 1, &body));
        // Its worker has begun it: what comes second waits.
        until_reserved(&client, &run);
        assert!(cancel(1));
        waiting.join().expect("no panic").problem("batch_cancelled");
    });
    // The only worker would spin for ten minutes, if nobody ended it.
    let reply = client.batch(&run, 2, &["b100000"]);
    results(&reply, 1);
    let paid = Answer::decode(&reply.body, 1).expect("an answer").charge;
    assert!(paid > 0 && !cancel(2) && !cancel(1), "what is answered stays answered");
    let bill: Bill = client.call("POST", &format!("/runs/{run}/done"), b"").json(200);
    assert_eq!((bill.run.held, bill.run.spent), (0, paid));
    server.audit();
}

/// Waits until a batch of the run has its credits held.
fn until_reserved(client: &Client, run: &str) {
    crate::server::until("the reservation", || {
        let info: RunInfo = client.call("GET", &format!("/runs/{run}"), b"").json(200);
        (info.held > 0).then_some(())
    });
}

/// Processes that a process has started.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let of_task =
        |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let all: Vec<String> = tasks.flatten().map(of_task).collect();
    all.iter().flat_map(|list| list.split_whitespace()).map(|pid| pid.parse().expect("a number")).collect()
}
