//! Many machines: a NATS server, a gateway and agents, each a process of its own, and what happens to them in a run.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Instant;

use async_nats::jetstream::{self, stream};
use fastmap_backends::cloud::{LogPage, RunInfo};
use fastmap_test_programs::{administers, skipped};
use nix::sys::signal::Signal;

use crate::agent::Agent;
use crate::client::{Client, Wrong, batch, nonce, now, open_run, results, to_json};
use crate::nats::Nats;
use crate::server::{LIMIT, Server, fastmap, free_port, plain_command, until};

/// A gateway; what an agent has that is silent for `lease` seconds goes to others.
fn gateway(nats: &Nats, lease: &str) -> Server {
    Server::start(&["--nats", &nats.url(), "--agent-lease", lease])
}

/// Sends batches by four threads, does `meanwhile` once a quarter of them is answered, and checks all answers and what
/// they cost.
fn work(server: &Server, client: &Client, run: &str, batches: u64, order: &str, meanwhile: impl FnOnce()) {
    let answers: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                scope.spawn(move || {
                    let mine = (0..batches).filter(move |seq| seq % 4 == worker);
                    mine.map(|seq| (seq, client.batch(run, seq, &[&format!("e{seq}"), order])))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        until("progress", || {
            let runs = server.json(&["runs", "list"]);
            (runs[0]["batches"].as_u64().expect("a number") >= batches / 4).then_some(())
        });
        meanwhile();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    for (seq, reply) in &answers {
        assert_eq!(results(reply, 2)[0], seq.to_string().into_bytes());
    }
    let info: RunInfo = client.call("GET", &format!("/runs/{run}"), b"").json(200);
    assert_eq!((info.batches, info.items_answered, info.held), (batches, 2 * batches, 0));
    let charged = |body: &[u8]| i64::from_le_bytes(body[8..16].try_into().expect("eight"));
    let charged: i64 = answers.iter().map(|(_, reply)| charged(&reply.body)).sum();
    assert_eq!(info.spent, charged);
    assert_eq!(server.balance("a"), 1_000_000_000 - charged);
    server.audit();
}

#[test]
fn agents_join_a_run_and_share_it() {
    let nats = Nats::start();
    let server = gateway(&nats, "15");
    let client = server.tenant("a", "1000");
    let one = Agent::join(&nats, "one", &[]);
    let run = client.run();
    let mut two = None;
    work(&server, &client, &run, 60, "s20", || {
        let joined = Agent::join(&nats, "two", &[]);
        until("work of the second agent", || (joined.files() > 0).then_some(()));
        two = Some(joined);
    });
    assert_eq!((one.files(), two.map(|two| two.files())), (1, Some(1)));
}

#[test]
fn a_run_that_waits_for_its_first_agent_outlives_its_lease() {
    let nats = Nats::start();
    let server = Server::start(&["--nats", &nats.url(), "--lease", "2", "--long-poll", "1"]);
    let client = server.tenant("a", "1000");
    let executable = client.upload_worker();
    let (opened, _agent) = std::thread::scope(|scope| {
        let opening = scope.spawn(|| client.open(&executable));
        until("a run that waits for three leases", || {
            let runs = server.json(&["runs", "list"]);
            let opened = runs[0]["opened_ms"].as_i64()?;
            (now() * 1000 - opened > 6000).then_some(())
        });
        let agent = Agent::join(&nats, "late", &[]);
        (opening.join().expect("the run opens"), agent)
    });
    assert_eq!(results(&client.batch(&opened, 0, &["e7"]), 1)[0], b"7");
}

#[test]
fn a_batch_bears_the_id_of_its_request_in_the_log_of_its_agent() {
    let nats = Nats::start();
    let server = gateway(&nats, "15");
    let client = server.tenant("a", "1000");
    let log = tempfile::NamedTempFile::new().expect("a file");
    let there = Stdio::from(log.reopen().expect("it is there"));
    let _agent = Agent::join_logging(&nats, "one", &[], ("info,fastmap_service=debug", there));
    let run = client.run();
    let wrong = Wrong { nonce: Some(nonce()), ..Wrong::default() };
    client.wrong("PUT", &format!("/runs/{run}/batches/7"), &batch(&["eone"]), &wrong);
    let id = wrong.nonce.expect("it was set");
    until("the id in the agent's log", || {
        let text = std::fs::read_to_string(log.path()).expect("text");
        let line = text.lines().find(|line| line.contains("answered") && line.contains(&id))?;
        assert!(line.contains(&format!("run=\"{run}\" seq=7")), "{line}");
        Some(())
    });
}

#[test]
fn an_agent_that_is_killed_loses_nothing_and_nothing_is_paid_twice() {
    let nats = Nats::start();
    let server = gateway(&nats, "2");
    let client = server.tenant("a", "1000");
    let (mut one, _two) = (Agent::join(&nats, "one", &[]), Agent::join(&nats, "two", &[]));
    let run = client.run();
    work(&server, &client, &run, 40, "s100", || {
        one.signal(Signal::SIGKILL);
        one.ended();
    });
}

#[test]
fn an_agent_that_is_asked_to_leave_finishes_what_it_has() {
    let nats = Nats::start();
    // What were left in its hands would not be answered in time.
    let server = gateway(&nats, "600");
    let client = server.tenant("a", "1000");
    let (mut one, _two) = (Agent::join(&nats, "one", &[]), Agent::join(&nats, "two", &[]));
    let run = client.run();
    work(&server, &client, &run, 40, "s100", || {
        one.signal(Signal::SIGTERM);
        assert!(one.ended().success());
    });
}

#[test]
fn an_agent_leaves_though_its_servers_are_gone() {
    let mut nats = Nats::start();
    let mut one = Agent::join(&nats, "one", &[]);
    nats.kill();
    one.signal(Signal::SIGTERM);
    assert!(one.ended().success());
}

#[test]
fn what_an_agent_can_not_finish_in_its_grace_it_hands_to_others() {
    let nats = Nats::start();
    let server = gateway(&nats, "600");
    let client = server.tenant("a", "1000");
    let mut one = Agent::join(&nats, "one", &["--grace", "0"]);
    let run = client.run();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| client.patiently(&run, 1, &batch(&["p1", "s1500", "e"])));
        // What its worker prints is here while it works.
        let printed =
            || client.call("GET", &format!("/runs/{run}/logs"), b"").json::<LogPage>(200).lines.len();
        until("the first agent's work", || (printed() > 0).then_some(()));
        one.signal(Signal::SIGTERM);
        assert!(one.ended().success());
        let _two = Agent::join(&nats, "two", &[]);
        assert_eq!(results(&answer.join().expect("no panic"), 3)[2], b"");
        assert_eq!(printed(), 2, "it was begun twice");
    });
    assert!(begun.elapsed() < LIMIT);
    server.audit();
}

#[test]
fn batches_and_answers_that_fit_into_no_message_come_whole() {
    let nats = Nats::start();
    let server = gateway(&nats, "15");
    let client = server.tenant("a", "1000");
    let _one = Agent::join(&nats, "one", &[]);
    let run = client.run();
    let large: String = ('a'..='z').cycle().take(2_500_000).collect();
    let answer = results(&client.batch(&run, 1, &[&format!("e{}", &large[..900_000]), "b700000"]), 2);
    assert!(answer[0] == large.as_bytes()[..900_000] && answer[1].len() == 700_000);
    // Larger than the results that the client has room for, but not than a message.
    let answer = client.batch(&run, 2, &[&format!("b{}", 1 << 18), &format!("c{large}")]);
    assert_eq!(results(&answer, 2)[0].len(), 1 << 18);
    server.audit();
}

#[test]
fn a_gateway_that_is_killed_is_forgotten_and_the_next_goes_on() {
    let nats = Nats::start();
    let mut server = gateway(&nats, "2");
    let client = server.tenant("a", "1000");
    let _one = Agent::join(&nats, "one", &[]);
    let run = client.run();
    std::thread::scope(|scope| {
        let answers: Vec<_> = (0..8)
            .map(|seq| {
                let (client, run) = (&client, &run);
                scope.spawn(move || client.patiently(run, seq, &batch(&[&format!("e{seq}"), "s200"])))
            })
            .collect();
        until("the first answer", || {
            (server.json(&["runs", "list"])[0]["batches"].as_u64().expect("a number") > 0).then_some(())
        });
        server.kill();
        server.restart();
        for (seq, answer) in answers.into_iter().enumerate() {
            assert_eq!(results(&answer.join().expect("no panic"), 2)[0], seq.to_string().into_bytes());
        }
    });
    server.audit();
}

#[test]
fn a_nats_server_that_is_killed_is_waited_for() {
    let mut nats = Nats::start();
    let server = gateway(&nats, "2");
    let client = server.tenant("a", "1000");
    let (_one, _two) = (Agent::join(&nats, "one", &[]), Agent::join(&nats, "two", &[]));
    let run = client.run();
    work(&server, &client, &run, 40, "s50", || {
        nats.kill();
        nats.restart();
    });
    // A balancer leads no requests to a gateway that could not pass them on.
    let ready = || client.agent.get(format!("{}/readyz", server.url)).call().expect("an answer").status();
    nats.kill();
    until("that it is not ready", || (ready() == 503).then_some(()));
    nats.restart();
    until("that it is ready", || (ready() == 200).then_some(()));
}

#[test]
fn a_queue_that_loses_everything_is_filled_again() {
    let nats = Nats::start();
    let server = gateway(&nats, "1");
    let client = server.tenant("a", "1000");
    let mut one = Agent::join(&nats, "one", &[]);
    let run = client.run();
    one.signal(Signal::SIGKILL);
    one.ended();
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| client.batch(&run, 1, &["ehere"]));
        let stream = || async {
            let client = async_nats::connect(nats.url()).await.expect("a connection");
            async_nats::jetstream::new(client).get_stream("fastmap_work").await
        };
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        until("the batch in the queue", || {
            let stream = runtime.block_on(stream()).ok()?;
            (stream.cached_info().state.messages > 0).then_some(())
        });
        runtime.block_on(async {
            let client = async_nats::connect(nats.url()).await.expect("a connection");
            async_nats::jetstream::new(client).delete_stream("fastmap_work").await.expect("it is there");
        });
        let _two = Agent::join(&nats, "two", &[]);
        assert_eq!(results(&answer.join().expect("no panic"), 1), [b"here"]);
    });
    server.audit();
}

/// What only a gateway may do on the servers.
fn on_jetstream<T>(nats: &Nats, what: impl AsyncFnOnce(jetstream::Context) -> T) -> T {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let client = async_nats::connect(nats.url()).await.expect("a connection");
        what(jetstream::new(client)).await
    })
}

#[test]
fn batches_whose_consumer_the_servers_have_forgotten_are_worked_on_when_an_agent_comes() {
    let nats = Nats::start();
    let server = gateway(&nats, "1");
    let client = server.tenant("a", "1000");
    let mut one = Agent::join(&nats, "one", &[]);
    let run = client.run();
    one.signal(Signal::SIGKILL);
    one.ended();
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| client.batch(&run, 1, &["ehere"]));
        let waiting = || {
            on_jetstream(&nats, async |jetstream| {
                let stream = jetstream.get_stream("fastmap_work").await.ok()?;
                let info = stream.cached_info();
                Some((info.state.messages, info.state.consumer_count))
            })
        };
        until("the batch in the queue", || (waiting()? == (1, 1)).then_some(()));
        // As the servers do it after an hour.
        on_jetstream(&nats, async |jetstream| {
            let stream = jetstream.get_stream("fastmap_work").await.expect("it is there");
            stream.delete_consumer("tenant_1").await.expect("it is there");
        });
        // Whether an agent comes or not.
        until("the consumer", || (waiting()? == (1, 1)).then_some(()));
        let _two = Agent::join(&nats, "two", &[]);
        assert_eq!(results(&answer.join().expect("no panic"), 1), [b"here"]);
    });
    server.audit();
}

#[test]
fn a_full_queue_is_told_as_such_at_once_and_work_goes_on_when_there_is_room() {
    let nats = Nats::with_jetstream("max_file_store: 2MB", "", &[]);
    let server = gateway(&nats, "15");
    let client = server.tenant("a", "1000");
    let _one = Agent::join(&nats, "one", &[]);
    let run = client.run();
    results(&client.batch(&run, 1, &["eone"]), 1);
    // Another service of the same servers fills them.
    on_jetstream(&nats, async |jetstream| {
        let other = stream::Config { name: "other".to_owned(), ..stream::Config::default() };
        jetstream.create_stream(other).await.expect("a stream");
        let put = async || {
            let sent = jetstream.publish("other", vec![7; 1 << 16].into()).await.expect("it is sent");
            sent.await
        };
        while put().await.is_ok() {}
    });
    let problem = client.call("PUT", &format!("/runs/{run}/batches/2"), &batch(&["etwo"])).problem("storage");
    assert!(problem.detail.contains("the queue takes no work now: insufficient resources"), "{problem}");
    let get = |path: &str| {
        let mut answer = client.agent.get(format!("{}{path}", server.url)).call().expect("an answer");
        (answer.status().as_u16(), answer.body_mut().read_to_string().expect("text"))
    };
    let (status, said) = get("/readyz");
    assert!(status == 503 && said.contains("insufficient resources"), "{said}");
    assert!(get("/metrics").1.contains("fastmap_storage_failures_total{of=\"queue\"} 1"));
    on_jetstream(&nats, async |jetstream| {
        jetstream.delete_stream("other").await.expect("it is there");
    });
    // Nothing comes to a gateway that is not ready: it looks for itself.
    until("that it is ready", || (get("/readyz").0 == 200).then_some(()));
    assert_eq!(results(&client.batch(&run, 2, &["etwo"]), 1), [b"two"]);
    server.audit();
}

#[test]
fn a_stream_of_before_gets_its_limit_of_consumers_and_doctor_says_so() {
    let nats = Nats::start();
    let limit = || {
        on_jetstream(&nats, async |jetstream| {
            let stream = jetstream.get_stream("fastmap_work").await.expect("it is there");
            stream.cached_info().config.max_consumers
        })
    };
    let doctor = || {
        let output = plain_command(&["doctor", "--json", "--nats", &nats.url()]);
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let findings = found["findings"].as_array().expect("a list").clone();
        findings.into_iter().find(|finding| finding["name"] == "queue").expect("it looks at the queue")
    };
    on_jetstream(&nats, async |jetstream| {
        let before = stream::Config {
            name: "fastmap_work".to_owned(),
            subjects: vec!["fastmap.work.*.*.*.*".to_owned()],
            retention: stream::RetentionPolicy::WorkQueue,
            ..stream::Config::default()
        };
        jetstream.create_stream(before).await.expect("a stream");
    });
    assert_eq!(limit(), -1);
    assert!(doctor()["good"] == false && doctor()["advice"].to_string().contains("max_consumers"));
    let _server = gateway(&nats, "15");
    assert_eq!((limit(), doctor()["good"].as_bool()), (50_000, Some(true)));
}

#[test]
fn an_agent_at_a_leaf_node_says_that_no_work_comes_and_works_once_it_names_the_domain() {
    let port = free_port();
    let hub =
        Nats::with_jetstream("domain: hub", &format!("leafnodes {{ listen: \"127.0.0.1:{port}\" }}"), &[]);
    let remote = format!("leafnodes {{ remotes: [{{ url: \"nats-leaf://127.0.0.1:{port}\" }}] }}");
    let leaf = Nats::with_jetstream("domain: leaf", &remote, &[]);
    let server = gateway(&hub, "15");
    let client = server.tenant("a", "1000");
    let log = tempfile::NamedTempFile::new().expect("a file");
    let there = Stdio::from(log.reopen().expect("it is there"));
    let deaf = Agent::join_logging(&leaf, "deaf", &[], ("info", there));
    // It warns where a run is opened, too: that waits for an agent.
    until("a warning", || {
        let text = std::fs::read_to_string(log.path()).expect("text");
        text.lines().any(|line| line.contains("WARN") && line.contains("--nats-domain")).then_some(())
    });
    drop(deaf);
    let _one = Agent::join(&leaf, "one", &["--nats-domain", "hub"]);
    let run = client.run();
    assert_eq!(results(&client.batch(&run, 1, &["eone"]), 1), [b"one"]);
    server.audit();
}

#[test]
fn a_program_that_can_not_work_is_told_by_the_agent_that_tried() {
    let nats = Nats::start();
    let server = gateway(&nats, "15");
    let client = server.tenant("a", "1000");
    let _one = Agent::join(&nats, "one", &[]);
    let executable = client.upload_worker();
    let reply = client.call("POST", "/runs", &to_json(&open_run(&executable, "broken")));
    let run = reply.json::<fastmap_backends::cloud::RunOpened>(201).run;
    let problem = client.batch(&run, 1, &["e"]).problem("setup_failed");
    assert_eq!(problem.detail, "init said no");
}

#[test]
fn an_agent_refuses_what_it_can_not_confine() {
    let mut namespaces = Command::new("unshare");
    let namespaces = namespaces.args(["--map-root-user", "--mount", "true"]).stderr(Stdio::null()).status();
    if !administers() && !namespaces.is_ok_and(|status| status.success()) {
        return skipped("user namespaces are not allowed");
    }
    let nats = Nats::start();
    let refused = |command: &mut Command, why: &str| {
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts");
        let status = until("the end of the agent", || process.try_wait().expect("it is a child"));
        let mut said = String::new();
        process.stderr.take().expect("it is piped").read_to_string(&mut said).expect("text");
        assert!(!status.success() && said.contains(why), "{said}");
    };
    // Where there is no bubblewrap: the kernel shows it another file.
    let hidden = "mount --bind /dev/null /usr/bin/bwrap && exec \"$@\"";
    let mut jailless = Command::new("unshare");
    jailless.args([
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        hidden,
        "sh",
        env!("CARGO_BIN_EXE_fastmap"),
        "agent",
    ]);
    refused(jailless.args(["--nats", &nats.url()]), "no jail");
    let elsewhere = ["agent", "--insecure-no-sandbox", "--nats", "nats://192.0.2.1:4222"];
    refused(fastmap().args(elsewhere), "loopback");
}
