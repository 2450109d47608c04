//! Several gateways on one PostgreSQL: for a client they are one service, and a batch is worked on and charged once, whichever
//! of them it is sent to and whichever dies.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fastmap_backends::cloud::{BatchCancelled, Bill, RunInfo};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::client::{Client, Wrong, batch, nonce, open_run, results, to_json};
use crate::money::children;
use crate::server::{LIMIT, Server, postgres, until};

/// A client of the same account at another gateway.
fn at(client: &Client, server: &Server) -> Client {
    Client { url: server.url.clone(), ..client.clone() }
}

fn info(client: &Client, run: &str) -> RunInfo {
    client.call("GET", &format!("/runs/{run}"), b"").json(200)
}

fn charge(body: &[u8]) -> i64 {
    i64::from_le_bytes(body[8..16].try_into().expect("eight"))
}

#[test]
fn a_client_whose_requests_alternate_notices_nothing() {
    let one = Server::start_on_postgres(&[]);
    let two = one.beside();
    let client = one.tenant("a", "1000");
    let clients = [client.clone(), at(&client, &two)];
    let either = |n: u64| &clients[n as usize % 2];
    // Uploaded at both in turn, part by part.
    let program = std::fs::read(crate::server::worker()).expect("the worker is built");
    let hash = fastmap_backends::cloud::digest(&program);
    let packed = zstd::bulk::compress(&program, 1).expect("memory");
    let part = packed.len() / 5 + 1;
    for (n, piece) in (0u64..).zip(packed.chunks(part)) {
        let target = format!("/executables/{hash}?offset={}&total={}", n as usize * part, packed.len());
        let status = either(n).call("PUT", &target, piece).status;
        assert!(status == 202 || status == 200, "{status}");
    }
    let request = to_json(&open_run(&hash, "obey"));
    let run = clients[0].call("POST", "/runs", &request).json::<Value>(201)["run"].clone();
    let run = run.as_str().expect("a name");
    let again: Value = clients[1].call("POST", "/runs", &request).json(201);
    assert_eq!(again["run"], run, "the same key is the same run, at whichever gateway");
    let mut spent = 0;
    for seq in 0..20 {
        let text = format!("e{seq}");
        let answer = either(seq).batch(run, seq, &[&text]);
        assert_eq!(results(&answer, 1), [seq.to_string().into_bytes()]);
        assert_eq!(either(seq + 1).batch(run, seq, &[&text]).body, answer.body, "it is not run again");
        let target = format!("/runs/{run}/batches/{seq}");
        assert_eq!(either(seq + 1).call("GET", &target, b"").body, answer.body);
        spent += charge(&answer.body);
    }
    let seqs: Value = either(1).call("POST", &format!("/runs/{run}/ack"), br#"{"seqs":[1,2,3]}"#).json(200);
    assert_eq!(seqs["deleted"], 3);
    clients[0].call("GET", &format!("/runs/{run}/batches/1"), b"").problem("result_gone");
    let bill: Bill = clients[1].call("POST", &format!("/runs/{run}/done"), b"").json(200);
    assert_eq!((bill.run.batches, bill.run.spent, bill.balance), (20, spent, 1_000_000_000 - spent));
    clients[0].call("PUT", &format!("/runs/{run}/batches/99"), &batch(&["e"])).problem("run_ended");
    // The gateway that was not told ends its workers, too.
    for server in [&one, &two] {
        until("the end of the workers", || (children(server.pid()).len() <= 1).then_some(()));
    }
    one.audit();
}

#[test]
fn a_batch_that_both_have_is_worked_on_by_one() {
    let one = Server::start_on_postgres(&["--long-poll", "1"]);
    let two = one.beside();
    let client = one.tenant("a", "1000");
    let other = at(&client, &two);
    let run = client.run();
    let body = batch(&["s1500", "p1"]);
    let answers = std::thread::scope(|scope| {
        let calls = [&client, &other, &client, &other].map(|to| {
            let (run, body) = (&run, &body);
            scope.spawn(move || to.patiently(run, 1, body).body)
        });
        calls.map(|call| call.join().expect("no panic"))
    });
    assert!(answers.iter().all(|answer| *answer == answers[0]));
    let printed = |client: &Client| {
        let page: Value = client.call("GET", &format!("/runs/{run}/logs"), b"").json(200);
        page["lines"].as_array().expect("lines").len()
    };
    assert_eq!(printed(&client) + printed(&other), 1, "it ran once");
    let (spent, batches) = (info(&client, &run).spent, info(&client, &run).batches);
    assert_eq!((spent, batches), (charge(&answers[0]), 1));
    one.audit();
}

#[test]
fn a_batch_is_cancelled_at_whichever_gateway_its_client_says_so() {
    let one = Server::start_on_postgres(&["--workers", "1", "--long-poll", "1"]);
    let two = one.beside();
    let client = one.tenant("a", "1000");
    let other = at(&client, &two);
    let run = client.run();
    let body = batch(&["s600000"]);
    let target = |seq: u64| format!("/runs/{run}/batches/{seq}");
    let send = |to: &Client, seq: u64| to.call("PUT", &target(seq), &body);
    let ask = |at: &Client, seq: u64| {
        until("an end", || Some(at.call("GET", &target(seq), b"")).filter(|reply| reply.status != 202))
    };
    let cancel = |at: &Client, seq: u64| {
        let told: BatchCancelled = at.call("DELETE", &target(seq), b"").json(200);
        told.cancelled
    };
    assert!(!cancel(&other, 1), "nobody has sent it");
    // The second time the other has it, too, and waits for the first.
    for (seq, at_both) in [(1, false), (2, true)] {
        std::thread::scope(|scope| {
            let sent = scope.spawn(|| match send(&client, seq) {
                reply if reply.status == 202 => ask(&client, seq),
                reply => reply,
            });
            until("the reservation", || (info(&client, &run).held > 0).then_some(()));
            let waits = at_both.then(|| {
                assert_eq!(send(&other, seq).status, 202);
                scope.spawn(|| ask(&other, seq))
            });
            assert!(cancel(&other, seq));
            let now = info(&client, &run);
            assert_eq!((now.held, now.spent, now.batches), (0, 0, 0), "{seq}");
            sent.join().expect("no panic").problem("batch_cancelled");
            if let Some(waits) = waits {
                waits.join().expect("no panic").problem("batch_cancelled");
            }
            assert!(!cancel(&client, seq), "a second time");
        });
    }
    // The only worker of the first would spin for ten minutes, if nobody ended it.
    let reply = client.batch(&run, 3, &["b100000"]);
    results(&reply, 1);
    let mut spent = charge(&reply.body);
    // What is sent again is a new batch, also where nobody has looked since.
    assert_eq!(send(&client, 4).status, 202);
    assert!(cancel(&other, 4));
    for (seq, at) in [(4, &client), (1, &other)] {
        let reply = at.batch(&run, seq, &["eagain"]);
        assert_eq!(results(&reply, 1), [b"again"]);
        assert!(!cancel(&client, seq) && !cancel(&other, seq), "what is answered stays answered");
        spent += charge(&reply.body);
    }
    let bill: Bill = other.call("POST", &format!("/runs/{run}/done"), b"").json(200);
    assert_eq!((bill.run.held, bill.run.spent, bill.run.batches), (0, spent, 3));
    one.audit();
}

/// Sends batches from several threads to whichever gateway answers for as long as `trouble` is made, which is given the number
/// of batches that are answered; and checks that each was answered and charged once.
fn under_load(one: &Server, client: &Client, urls: &[String], trouble: impl FnOnce(&dyn Fn() -> u64)) {
    let run = client.run();
    let turn = AtomicUsize::new(0);
    let patiently = |seq: u64| {
        let text = format!("e{seq}");
        let (body, target) = (batch(&[&text, "s20"]), format!("/runs/{run}/batches/{seq}"));
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < 2 * LIMIT, "no answer to batch {seq}");
            let url = urls[turn.fetch_add(1, Ordering::Relaxed) % urls.len()].clone();
            // As a balancer does it.
            let ready = client.agent.get(format!("{url}/readyz")).call();
            if !ready.is_ok_and(|ready| ready.status() == 200) {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            let client = Client { url, ..client.clone() };
            match client.try_call("PUT", &target, &body, &Wrong::default()) {
                Ok(reply) if reply.status == 200 => return (seq, reply),
                // What a client may be told in such days, and none of it is an end.
                Ok(reply) => assert!([202, 429, 503].contains(&reply.status), "{reply:?}"),
                Err(_) => {}
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (over, next) = (AtomicBool::new(false), AtomicU64::new(0));
    let work = || {
        let mut answers = Vec::new();
        while !over.load(Ordering::Relaxed) {
            answers.push(patiently(next.fetch_add(1, Ordering::Relaxed)));
        }
        answers
    };
    let answers: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..6).map(|_| scope.spawn(work)).collect();
        let made = Over(&over);
        trouble(&|| one.json(&["runs", "list"])[0]["batches"].as_u64().expect("a number"));
        drop(made);
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    for (seq, reply) in &answers {
        assert_eq!(results(reply, 2)[0], seq.to_string().into_bytes());
    }
    let charged: i64 = answers.iter().map(|(_, reply)| charge(&reply.body)).sum();
    let runs = one.json(&["runs", "show", &run]);
    assert_eq!(runs["batches"].as_u64(), Some(answers.len() as u64), "{runs}");
    assert_eq!((runs["spent"].as_i64(), runs["held"].as_i64()), (Some(charged), Some(0)), "{runs}");
    assert_eq!(one.balance("a"), 1_000_000_000 - charged);
    one.audit();
}

fn progress(batches: &dyn Fn() -> u64) {
    let seen = batches();
    until("progress", || (batches() > seen + 10).then_some(()));
}

#[test]
fn gateways_that_are_killed_in_turn_lose_and_charge_nothing_twice() {
    let mut one = Server::start_on_postgres(&[]);
    let mut two = one.beside();
    let client = one.tenant("a", "1000");
    let (urls, admin) = ([one.url.clone(), two.url.clone()], one.without_process());
    under_load(&admin, &client, &urls, |batches| {
        for _ in 0..2 {
            for gateway in [&mut one, &mut two] {
                progress(batches);
                gateway.kill();
                // The other takes over what this one had in hand.
                progress(batches);
                gateway.restart();
            }
        }
    });
}

#[test]
fn a_rolling_restart_under_load_fails_nothing() {
    let mut one = Server::start_on_postgres(&[]);
    let mut two = one.beside();
    let client = one.tenant("a", "1000");
    let (urls, admin) = ([one.url.clone(), two.url.clone()], one.without_process());
    under_load(&admin, &client, &urls, |batches| {
        for gateway in [&mut one, &mut two] {
            progress(batches);
            // What it has in hand it finishes; it does not wait for runs that go on at the other.
            gateway.signal(Signal::SIGTERM);
            assert!(gateway.ended().success());
            progress(batches);
            gateway.restart();
        }
    });
}

#[test]
fn a_gateway_that_is_asked_to_stop_goes_when_nobody_comes_any_more() {
    let mut one = Server::start_on_postgres(&["--grace", "50"]);
    let two = one.beside();
    let client = one.tenant("a", "1000");
    let run = client.run();
    results(&client.batch(&run, 1, &["eone"]), 1);
    one.signal(Signal::SIGTERM);
    until("the drain", || {
        let ready = client.agent.get(format!("{}/readyz", one.url)).call().expect("an answer");
        (ready.status() == 503).then_some(())
    });
    let reply = client.batch(&run, 2, &["etwo"]);
    assert_eq!(results(&reply, 1), [b"two"]);
    assert_eq!(reply.headers.get("connection").and_then(|value| value.to_str().ok()), Some("close"));
    let begun = Instant::now();
    assert!(one.ended().success());
    assert!(begun.elapsed() < Duration::from_secs(45), "the run is open, and its client elsewhere");
    assert_eq!(results(&at(&client, &two).batch(&run, 3, &["ethree"]), 1), [b"three"]);
    two.audit();
}

#[test]
fn a_database_that_drops_all_connections_is_only_late() {
    let one = Server::start_on_postgres(&[]);
    let two = one.beside();
    let client = one.tenant("a", "1000");
    let url = one.database().expect("it is a server's").to_owned();
    let name = url.rsplit('=').next().expect("it names its client");
    let drop = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = '{name}' AND pid <> pg_backend_pid()"
    );
    under_load(&one, &client, &[one.url.clone(), two.url.clone()], |batches| {
        for _ in 0..5 {
            progress(batches);
            postgres::blocking(postgres::say(&url, drop.clone()));
        }
    });
}

#[test]
fn a_run_whose_gateway_and_client_are_gone_is_ended_by_another() {
    let mut one = Server::start_on_postgres(&["--lease", "4", "--long-poll", "1"]);
    let two = one.beside();
    let client = one.tenant("a", "1000");
    let run = client.run();
    assert_eq!(client.call("PUT", &format!("/runs/{run}/batches/1"), &batch(&["s600000"])).status, 202);
    let other = at(&client, &two);
    assert!(info(&other, &run).held > 0);
    one.kill();
    until("what was reserved", || (info(&other, &run).held == 0).then_some(()));
    until("the end of the run", || (info(&other, &run).state.as_str() == "expired").then_some(()));
    two.audit();
}

#[test]
fn gateways_and_commands_with_another_key_are_refused_in_words() {
    let server = Server::start_on_postgres(&[]);
    server.json(&["account", "create", "a"]);
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().to_str().expect("text");
    let refused = |words: &str| {
        for command in [
            &["serve", "--insecure-no-sandbox", "--listen", "127.0.0.1:0", "--data", data][..],
            &["token", "create", "a", "--data", data],
        ] {
            let url = server.database().expect("it is a server's");
            let output = crate::server::fastmap().args(command).env("FASTMAP_DATABASE", url).output();
            let output = output.expect("the command can be started");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && said.contains(words), "{said}");
        }
    };
    refused("service.key is not there");
    let other = Server::start_on_postgres(&[]);
    std::fs::copy(other.data().join("service.key"), folder.path().join("service.key")).expect("a key");
    refused("another service.key");
    // Named, it is good from anywhere.
    let key = server.data().join("service.key");
    let made = crate::server::fastmap()
        .args(["token", "create", "a", "--data", data, "--key", key.to_str().expect("text")])
        .env("FASTMAP_DATABASE", server.database().expect("it is a server's"))
        .output();
    assert!(made.expect("the command can be started").status.success());
}

#[test]
fn a_call_for_a_link_comes_once_whichever_gateway_it_comes_to() {
    let one = Server::start_on_postgres(&[]);
    let two = one.beside();
    let client = one.tenant("a", "1000");
    let wrong = Wrong { nonce: Some(nonce()), ..Wrong::default() };
    assert_eq!(client.wrong("POST", "/dashboard", b"", &wrong).status, 200);
    at(&client, &two).wrong("POST", "/dashboard", b"", &wrong).problem("nonce_repeated");
    client.wrong("POST", "/dashboard", b"", &wrong).problem("nonce_repeated");
}
