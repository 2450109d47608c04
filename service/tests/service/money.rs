//! Credits: what is reserved, what is charged, and what happens when they end.

use std::time::Duration;

use fastmap_backends::cloud::{Answer, Part, PartOutcome};
use fastmap_backends::cloud::{BatchCancelled, Bill, OpenRun, RunInfo, RunState};
use fastmap_backends::{ExitReason, Payload, Results, Running};
use fastmap_service::dispatch::jetstream::{self, Cache, Credentials, Names, NatsOptions};
use fastmap_service::dispatch::{Answered, Task, WorkOutcome, WorkSource};
use serde_json::Value;

use crate::client::{Client, batch, open_run, results, to_json};
use crate::nats::Nats;
use crate::server::{Server, until, worker};

/// What a second of CPU time costs.
const SECOND: i64 = 2778;

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
    // Less is left than a second costs.
    let rest = fastmap_service::pricing::show(1000 - client.balance());
    server.json(&["credits", "add", "a", &rest]);
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
    assert!(matches!(loss.death.cause, ExitReason::Timeout(_)), "{loss:?}");
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

/// Uploads the worker's program with another habit.
fn upload_with_habit(client: &Client, habit: &str) -> String {
    let mut program = std::fs::read(worker()).expect("it is built");
    let mark = b"fastmap-test-habit:";
    let places: Vec<usize> = (0..program.len() - 24).filter(|at| program[*at..].starts_with(mark)).collect();
    for at in places {
        program[at + mark.len()..at + mark.len() + habit.len()].copy_from_slice(habit.as_bytes());
    }
    client.upload("executables", &program, 8 << 20)
}

fn spent(client: &Client, run: &str) -> i64 {
    client.call("GET", &format!("/runs/{run}"), b"").json::<RunInfo>(200).spent
}

#[test]
fn what_workers_compute_before_any_batch_is_charged_as_they_go() {
    let Some(server) = Server::start_jailed(&["--workers", "1"]) else { return };
    let client = server.tenant("a", "1000");
    let request = open_run(&upload_with_habit(&client, "early"), "obey");
    let run: Value = client.call("POST", "/runs", &to_json(&request)).json(201);
    let run = run["run"].as_str().expect("a name");
    let paid = until("a charge", || Some(spent(&client, run)).filter(|spent| *spent >= SECOND));
    results(&client.batch(run, 1, &["e"]), 1);
    let bill: Bill = client.call("POST", &format!("/runs/{run}/done"), b"").json(200);
    assert!(bill.run.spent >= paid && bill.run.cpu_ns > 1_900_000_000, "{bill:?}");
    until("the end of the jails", || children(server.pid()).is_empty().then_some(()));
    // Of all that the kernel has counted one second is free, and nothing else.
    let info = until("the last report", || {
        let info: RunInfo = client.call("GET", &format!("/runs/{run}"), b"").json(200);
        let due = (info.cpu_ns - 1_000_000_000) as i64 / 1_000_000 * SECOND / 1000;
        (info.spent >= due).then_some(info)
    });
    assert!(info.spent <= 1_000_000_000 - client.balance(), "{info:?}");
    server.audit();
}

#[test]
fn a_program_that_computes_and_never_reports_for_duty_is_charged() {
    let Some(server) = Server::start_jailed(&["--workers", "1"]) else { return };
    let client = server.tenant("a", "1000");
    let executable = upload_with_habit(&client, "never");
    let reply = client.call("POST", "/runs", &to_json(&open_run(&executable, "obey")));
    assert!(reply.problem("worker_failed").detail.contains("found"));
    until("the charge", || (client.balance() <= 1_000_000_000 - SECOND / 2).then_some(()));
    server.audit();
}

#[test]
fn a_batch_that_is_cancelled_once_it_has_shown_its_results_is_charged_beyond_the_free_second() {
    let Some(server) = Server::start_jailed(&["--workers", "1"]) else { return };
    let client = server.tenant("a", "1000");
    let run = client.run();
    let body = batch(&["w1300"]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.patiently(&run, 1, &body));
        until("its line", || {
            let lines: Value = client.call("GET", &format!("/runs/{run}/logs"), b"").json(200);
            lines["lines"].as_array().is_some_and(|lines| !lines.is_empty()).then_some(())
        });
        let target = format!("/runs/{run}/batches/1");
        let told: BatchCancelled = client.call("DELETE", &target, b"").json(200);
        assert!(told.cancelled);
        waiting.join().expect("no panic").problem("batch_cancelled");
    });
    until("the charge", || (spent(&client, &run) > SECOND / 4).then_some(()));
    server.audit();
}

#[test]
fn a_run_whose_workers_use_up_the_account_ends_and_no_other_begins_until_there_are_credits() {
    let Some(server) = Server::start_jailed(&["--workers", "1"]) else { return };
    let client = server.tenant("a", "0.004");
    let executable = upload_with_habit(&client, "early");
    let open = || client.call("POST", "/runs", &to_json(&open_run(&executable, "obey")));
    let run: Value = open().json(201);
    let run = run["run"].as_str().expect("a name");
    let info = until("the end of the run", || {
        let info: RunInfo = client.call("GET", &format!("/runs/{run}"), b"").json(200);
        (info.state == RunState::Failed).then_some(info)
    });
    until("the end of its workers", || children(server.pid()).is_empty().then_some(()));
    assert_eq!((client.balance(), spent(&client, run)), (0, 4000), "{info:?}");
    client.batch(run, 1, &["e"]).problem("out_of_credits");
    open().problem("out_of_credits");
    server.json(&["credits", "add", "a", "1"]);
    open().json::<Value>(201);
    server.audit();
}

#[test]
fn a_run_that_may_spend_nothing_computes_for_no_longer_than_its_free_second() {
    let Some(server) = Server::start_jailed(&["--workers", "1"]) else { return };
    let client = server.tenant("a", "1000");
    let executable = upload_with_habit(&client, "early");
    let request = OpenRun { max_credits: Some(0), ..open_run(&executable, "obey") };
    let run: Value = client.call("POST", "/runs", &to_json(&request)).json(201);
    let run = run["run"].as_str().expect("a name");
    until("the end of the run", || {
        let info: RunInfo = client.call("GET", &format!("/runs/{run}"), b"").json(200);
        (info.state == RunState::Failed).then_some(())
    });
    until("the end of its workers", || children(server.pid()).is_empty().then_some(()));
    client.batch(run, 1, &["e"]).problem("spend_cap_reached");
    assert_eq!(client.balance(), 1_000_000_000);
    server.audit();
}

/// What the answers of a run take on the disk.
fn kept(server: &Server, run: &str) -> u64 {
    let files = std::fs::read_dir(server.data().join("answers").join(run));
    files.into_iter().flatten().flatten().map(|file| file.metadata().map_or(0, |meta| meta.len())).sum()
}

#[test]
fn what_is_kept_of_an_answer_is_paid_and_what_can_not_be_paid_is_not_kept() {
    // A gigabyte costs 10 credits, a byte a hundredth of a millionth.
    let server = Server::start(&["--workers", "1"]);
    let client = server.tenant("a", "1000");
    let run = capped(&client, 12_000);
    let small = client.batch(&run, 1, &["b20000"]);
    results(&small, 1);
    // More than all that is left pays.
    client.batch(&run, 2, &["b50000000"]).problem("spend_cap_reached");
    assert!(kept(&server, &run) < 30_000, "{} bytes are kept", kept(&server, &run));
    let info: RunInfo = client.call("GET", &format!("/runs/{run}"), b"").json(200);
    assert!(info.spent <= 12_000 && info.spent >= 200, "{info:?}");
    // Failures' texts cost what results cost.
    let failed = client.batch(&client.run(), 1, &["x20000"; 10]);
    let answer = Answer::decode(&failed.body, 10).expect("an answer");
    assert!(failed.body.len() > 20_000 && answer.charge >= failed.body.len() as i64 / 100, "{answer:?}");
    server.audit();
}

#[test]
fn whatever_batches_bring_no_byte_is_kept_that_was_not_paid() {
    let server = Server::start(&["--workers", "2"]);
    let client = server.tenant("a", "1000");
    let orders = ["e", "b3000", "b90000", "x500", "x9000", "b700000", "p2", "b1200000", "a"];
    for (round, cap) in (0..).zip([0, 3434, 9000, 30_000, 1_000_000]) {
        let run = capped(&client, cap);
        let mut paid = 0;
        for seq in 0..12usize {
            // Each round another order, and the same in each run of the test.
            let items: Vec<&str> =
                (0..=seq % 3).map(|n| orders[(seq * 7 + n * 5 + round * 3) % orders.len()]).collect();
            let reply = client.batch(&run, seq as u64, &items);
            if reply.status == 200 {
                let answer = Answer::decode(&reply.body, items.len() as u32).expect("an answer");
                assert!(answer.charge * 100 >= reply.body.len() as i64, "{items:?}: {}", answer.charge);
                paid += answer.charge;
            } else {
                assert_eq!(reply.status, 402, "{}", String::from_utf8_lossy(&reply.body));
            }
        }
        let spent = spent(&client, &run);
        // Refusals are kept as well: some hundred bytes each.
        assert!(paid <= spent && spent <= cap && kept(&server, &run) <= spent as u64 * 100 + 12 * 600);
    }
    server.audit();
}

#[test]
fn an_item_whose_result_is_larger_than_any_answer_is_told_its_size_and_the_limit() {
    let server = Server::start(&["--workers", "1"]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let reply = client.batch(&run, 1, &["b70000000"]);
    let answer = Answer::decode(&reply.body, 1).expect("an answer");
    let PartOutcome::Done(done) = &answer.parts[0].outcome else { panic!("{answer:?}") };
    let told = &done.failures[0].message;
    assert!(told.contains("70000") && told.contains("67108864"), "{told}");
    // One that is larger than its credit, and no larger than an answer may be, is delivered whole.
    let whole = results(&client.batch(&run, 2, &["b60000000"]), 1);
    assert_eq!(whole[0].len(), 60_000_000);
    server.audit();
}

#[test]
fn answers_that_are_not_acknowledged_have_a_quota_which_acknowledging_gives_back() {
    let server = Server::start(&["--max-answers", "1500000"]);
    let (client, other) = (server.tenant("a", "1000"), server.tenant("b", "1000"));
    let (run, theirs) = (client.run(), other.run());
    for seq in 1..=2 {
        results(&client.batch(&run, seq, &["b700000"]), 1);
    }
    // It would go beyond: it is not kept, though its time is paid.
    let put = |seq: u64| client.call("PUT", &format!("/runs/{run}/batches/{seq}"), &batch(&["b700000"]));
    let detail = put(3).problem("too_many_batches").detail;
    assert!(detail.contains("acknowledge"), "{detail}");
    results(&client.batch(&run, 4, &["b200000"]), 1);
    // And from here on nothing is begun.
    put(5).problem("too_many_batches");
    assert!(kept(&server, &run) <= 1_700_000, "{}", kept(&server, &run));
    results(&other.batch(&theirs, 1, &["b700000"]), 1);
    client.call("POST", &format!("/runs/{run}/ack"), br#"{"seqs":[1,2]}"#).json::<Value>(200);
    results(&client.batch(&run, 5, &["b700000"]), 1);
    server.audit();
}

#[test]
fn of_what_an_agent_says_that_lies_nothing_is_kept_that_is_not_paid() {
    const BYTES: usize = 5_000_000;
    let (nats, folder) = (Nats::start(), tempfile::tempdir().expect("a folder"));
    let server = Server::start(&["--nats", &nats.url()]);
    let client = server.tenant("a", "1000");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let options = NatsOptions {
        servers: vec![nats.url()],
        credentials: Credentials::None,
        ca: None,
        certificate: None,
        inbox: "agent".to_owned(),
        name: "liar".to_owned(),
    };
    let cache = Cache::new(folder.path(), 1 << 20).expect("a folder");
    let liar = runtime.block_on(async {
        let connection = jetstream::connect(&options).await.expect("a connection");
        jetstream::JetStreamWorkSource::start(connection, Names::new(jetstream::PREFIX), cache, 9)
            .await
            .expect("an agent")
    });
    runtime.spawn(async move {
        while let Ok(lease) = liar.lease().await {
            let results = Results { payload: Payload::from(vec![7; BYTES]), ..Results::default() };
            let parts = vec![Part { offset: 0, items: 1, outcome: PartOutcome::Done(results) }];
            let outcome = match lease.work.task {
                Task::Check => WorkOutcome::Ready,
                Task::Batch(_) => {
                    WorkOutcome::Answered(Answered { parts, cpu: Duration::from_hours(9), cut: false })
                }
            };
            liar.answer(lease.id, outcome).await;
        }
    });
    let run = capped(&client, 3434);
    client.batch(&run, 1, &["e"]).problem("spend_cap_reached");
    assert!(spent(&client, &run) <= 3434 && kept(&server, &run) < 1000, "{} bytes", kept(&server, &run));
    // Where it can be paid it is, and costs no more than a batch may use.
    let whole = client.batch(&client.run(), 1, &["e"]);
    let charge = Answer::decode(&whole.body, 1).expect("an answer").charge;
    assert!((50_000..=300 * SECOND + 51_000).contains(&charge), "{charge}");
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
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let of_task =
        |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let all: Vec<String> = tasks.flatten().map(of_task).collect();
    all.iter().flat_map(|list| list.split_whitespace()).map(|pid| pid.parse().expect("a number")).collect()
}
