//! The service killed, stopped, started again; clients that are gone; and the service as a newcomer starts it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use fastmap_backends::cloud::{EventHead, RunInfo, RunOpened, digest};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::client::{Client, Wrong, batch, nonce, now, open_run, results, to_json};
use crate::money::children;
use crate::server::{LIMIT, Server, start_dev, until};

#[test]
fn killed_again_and_again_in_the_middle_nothing_is_lost_or_charged_twice() {
    const BATCHES: u64 = 60;
    let mut server = Server::start(&["--lease", "30"]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..6)
            .map(|worker| {
                let (client, run) = (&client, &run);
                scope.spawn(move || {
                    let mine = (0..BATCHES).filter(move |seq| seq % 6 == worker);
                    mine.map(|seq| {
                        let text = format!("e{seq}");
                        (seq, client.patiently(run, seq, &batch(&[&text, "s30"])))
                    })
                    .collect::<Vec<_>>()
                })
            })
            .collect();
        for _ in 0..4 {
            let seen = client_batches(&server);
            until("progress", || (client_batches(&server) > seen + 3).then_some(()));
            server.kill();
            server.restart();
        }
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    });
    assert_eq!(answers.len() as u64, BATCHES);
    for (seq, reply) in &answers {
        assert_eq!(results(reply, 2)[0], seq.to_string().into_bytes());
        // Asked again, it is the same bytes.
        assert_eq!(client.call("GET", &format!("/runs/{run}/batches/{seq}"), b"").body, reply.body);
    }
    let info: RunInfo = client.call("GET", &format!("/runs/{run}"), b"").json(200);
    assert_eq!((info.batches, info.items_answered, info.held), (BATCHES, 2 * BATCHES, 0));
    let charged: i64 = answers
        .iter()
        .map(|(_, reply)| i64::from_le_bytes(reply.body[8..16].try_into().expect("eight")))
        .sum();
    assert_eq!(info.spent, charged);
    assert_eq!(server.balance("a"), 1_000_000_000 - charged);
    server.audit();
}

#[test]
fn a_run_whose_client_was_killed_keeps_no_other_of_its_account_waiting() {
    // No lease ends within this test.
    let server = Server::start(&["--workers", "2", "--lease", "3600", "--long-poll", "1"]);
    let client = server.tenant("a", "1000");
    let executable = client.upload_worker();
    let opened: RunOpened = client.call("POST", "/runs", &to_json(&open_run(&executable, "obey"))).json(201);
    // As many batches as a client is told to send, none of which ends.
    std::thread::scope(|scope| {
        for seq in 0..opened.slots {
            let (client, run) = (&client, &opened.run);
            scope.spawn(move || {
                let target = format!("/runs/{run}/batches/{seq}");
                assert_eq!(client.call("PUT", &target, &batch(&["s600000"])).status, 202);
            });
        }
    });
    let next = client.open(&executable);
    assert_eq!(results(&client.batch(&next, 0, &["e7"]), 1)[0], b"7");
}

/// Batches answered so far, from the database: the service may be down.
fn client_batches(server: &Server) -> u64 {
    let runs = server.json(&["runs", "list"]);
    runs[0]["batches"].as_u64().expect("a number")
}

#[test]
fn asked_to_stop_it_finishes_what_runs_and_takes_no_new_runs() {
    let mut server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let executable = client.upload_worker();
    let run = client.open(&executable);
    server.signal(Signal::SIGTERM);
    until("the refusal of new runs", || {
        let reply = client.call("POST", "/runs", &to_json(&open_run(&executable, "obey")));
        (reply.status == 503).then(|| reply.problem("shutting_down"))
    });
    let ready = client.agent.get(format!("{}/readyz", server.url)).call().expect("an answer");
    assert_eq!(ready.status(), 503);
    results(&client.batch(&run, 1, &["s50"]), 1);
    assert_eq!(client.call("POST", &format!("/runs/{run}/done"), b"").status, 200);
    assert!(server.ended().success());
    server.restart();
    results(&client.batch(&run, 1, &["s50"]), 1);
    server.audit();
}

#[test]
fn a_second_signal_ends_it_at_once_and_the_run_goes_on_after_the_next_start() {
    let mut server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    results(&client.batch(&run, 1, &["eone"]), 1);
    server.signal(Signal::SIGTERM);
    until("the first signal's effect", || {
        (client.agent.get(format!("{}/readyz", server.url)).call().expect("an answer").status() == 503)
            .then_some(())
    });
    server.signal(Signal::SIGTERM);
    assert!(server.ended().success());
    server.restart();
    assert_eq!(results(&client.batch(&run, 1, &["eone"]), 1), [b"one"]);
    assert_eq!(results(&client.batch(&run, 2, &["etwo"]), 1), [b"two"]);
}

#[test]
fn a_run_whose_client_is_gone_ends_and_frees_what_it_held() {
    let server = Server::start(&["--lease", "4", "--long-poll", "1", "--keep-results", "1"]);
    let client = server.tenant("a", "1000");
    let executable = client.upload_worker();
    let gone = client.open(&executable);
    let kept = client.open(&executable);
    results(&client.batch(&gone, 1, &["e"]), 1);
    // Asked for, and never waited for.
    assert_eq!(client.call("PUT", &format!("/runs/{gone}/batches/2"), &batch(&["s600000"])).status, 202);
    let state = |run: &str| client.call("GET", &format!("/runs/{run}"), b"").json::<Value>(200);
    until("the end of the run", || {
        let lease: Value = client.call("POST", &format!("/runs/{kept}/heartbeat"), b"").json(200);
        assert_eq!(lease["state"], "open", "a heartbeat keeps it open");
        (state(&gone)["state"] == "expired").then_some(())
    });
    assert_eq!(state(&gone)["held"], 0);
    client.call("GET", &format!("/runs/{gone}/batches/2"), b"").problem("run_ended");
    until("the end of its workers", || (children(server.pid()).len() <= 1).then_some(()));
    until("the end of its answers", || {
        client.call("POST", &format!("/runs/{kept}/heartbeat"), b"");
        (!server.data().join("answers").join(&gone).exists()).then_some(())
    });
    server.audit();
}

#[test]
fn two_services_can_not_share_a_folder() {
    let server = Server::start(&[]);
    let output = server.command(&["serve", "--insecure-no-sandbox", "--listen", "127.0.0.1:0"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("another `fastmap serve`"));
}

#[test]
fn without_a_jail_it_serves_loopback_alone_and_only_when_told() {
    let server = Server::start(&[]);
    let output = server.command(&["serve", "--insecure-no-sandbox", "--listen", "0.0.0.0:0"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("loopback"));
    let output = server.command(&["serve", "--listen", "0.0.0.0:0", "--tls-cert", "x"]);
    assert!(!output.status.success());
}

#[test]
fn a_dev_service_says_two_lines_that_are_enough() {
    let (mut process, lines) = start_dev();
    let line = |name: &str| {
        let line = lines.recv_timeout(LIMIT).expect("a line");
        line.strip_prefix(&format!("export {name}=")).expect("the variable").to_owned()
    };
    let secret = line("FASTMAP_SECRET").parse().expect("a secret");
    let client = Client::new(&line("FASTMAP_CLOUD_URL"), secret);
    assert_eq!(client.balance(), 1_000_000_000);
    let run = client.run();
    assert_eq!(results(&client.batch(&run, 1, &["eone"]), 1), [b"one"]);
    process.kill().expect("it runs");
    process.wait().expect("it is a child");
}

#[test]
fn a_long_batch_is_answered_by_a_long_poll() {
    let server = Server::start(&["--long-poll", "1"]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let target = format!("/runs/{run}/batches/1");
    let reply = client.call("PUT", &target, &batch(&["s2500"]));
    assert_eq!((reply.status, reply.body.len(), reply.signed), (202, 0, true));
    results(&client.patiently(&run, 1, &batch(&["s2500"])), 1);
}

#[test]
fn events_come_signed_and_in_order_until_the_run_ends() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let nonce = nonce();
    let mut stream = open_stream(&client, &server.url, &format!("/runs/{run}/events"), &nonce);
    let mut next = || next_event(&mut stream, &client, &nonce, &run);
    assert_eq!(next(), (1, "state".to_owned(), serde_json::json!({ "state": "open" })));
    results(&client.batch(&run, 7, &["p2"]), 1);
    let mut lines = Vec::new();
    let mut batches = Vec::new();
    while batches.is_empty() || lines.len() < 2 {
        let (_, name, data) = next();
        match name.as_str() {
            "log" => lines.push(data["text"].as_str().expect("text").to_owned()),
            "batch" => batches.push(data["seq"].as_u64().expect("a number")),
            other => panic!("{other}"),
        }
    }
    assert_eq!((lines, batches), (vec!["line 0".to_owned(), "line 1".to_owned()], vec![7]));
    assert_eq!(client.call("POST", &format!("/runs/{run}/done"), b"").status, 200);
    let (id, name, data) = next();
    assert_eq!((id, name, data), (5, "state".to_owned(), serde_json::json!({ "state": "done" })));
    let page: Value = client.call("GET", &format!("/runs/{run}/logs?after=1"), b"").json(200);
    assert_eq!(page["lines"][0]["text"], "line 1");
    assert_eq!(page["next"], 2);
}

/// The body of a GET that does not end, behind its head.
fn open_stream(client: &Client, url: &str, target: &str, nonce: &str) -> BufReader<TcpStream> {
    let address = url.strip_prefix("http://").expect("plain HTTP");
    let (path, time, digest) = (format!("/api/v1{target}"), now() as u64, digest(b""));
    let head = fastmap_backends::cloud::RequestHead {
        method: "GET",
        path: &path,
        query: "",
        timestamp: time,
        nonce,
        digest: &digest,
    };
    let signature = client.secret.key().sign_request(&head);
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nauthorization: Bearer {}\r\nfastmap-timestamp: {time}\r\nfastmap-nonce: {nonce}\r\n\
         fastmap-digest: {digest}\r\nfastmap-signature: {signature}\r\n\r\n",
        client.secret.token()
    )
    .expect("it reads");
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).expect("a head");
    }
    stream
}

fn next_event(
    stream: &mut BufReader<TcpStream>,
    client: &Client,
    nonce: &str,
    run: &str,
) -> (u64, String, Value) {
    let begun = Instant::now();
    let mut fields: Vec<(String, String)> = Vec::new();
    loop {
        assert!(begun.elapsed() < LIMIT, "no event");
        let mut line = String::new();
        assert!(stream.read_line(&mut line).expect("a line") > 0, "the stream has ended");
        match line.trim_end().split_once(": ") {
            Some(("", _)) => {}
            Some((field, value)) => fields.push((field.to_owned(), value.to_owned())),
            None if fields.is_empty() => {}
            None => break,
        }
    }
    let names: Vec<&str> = fields.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(names, ["id", "event", "data", "data"]);
    let (id, name, data, signature) =
        (fields[0].1.parse().expect("a number"), &fields[1].1, &fields[2].1, &fields[3].1);
    let head = EventHead { nonce, run, id, name, digest: &digest(data.as_bytes()) };
    assert!(client.secret.key().verify_event(&head, signature));
    (id, name.clone(), serde_json::from_str(data).expect("JSON"))
}

#[test]
fn a_body_that_never_ends_holds_nobody_up() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let address = server.url.strip_prefix("http://").expect("plain HTTP");
    let mut half: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = TcpStream::connect(address).expect("it listens");
            write!(stream, "PUT /api/v1/runs/x/batches/1 HTTP/1.1\r\ncontent-length: 1000000\r\n\r\nxx")
                .expect("it reads");
            stream
        })
        .collect();
    assert_eq!(client.call("GET", "/runs", b"").status, 200);
    // Unsigned, they are answered before their bodies have come.
    let mut answer = [0; 12];
    half[0].set_read_timeout(Some(LIMIT)).expect("a timeout");
    half[0].read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 401");
}

#[test]
fn what_operators_ask_is_answered_without_a_token_and_names_nobody() {
    let server = Server::start(&[]);
    let client = server.tenant("a-tenant", "1000");
    let run = client.run();
    results(&client.batch(&run, 1, &["e"]), 1);
    let get = |path: &str| {
        let mut response = client.agent.get(format!("{}{path}", server.url)).call().expect("an answer");
        (response.status().as_u16(), response.body_mut().read_to_string().expect("text"))
    };
    assert_eq!(get("/healthz"), (200, "alive\n".to_owned()));
    assert_eq!(get("/readyz"), (200, "ready\n".to_owned()));
    let (_, metrics) = get("/metrics");
    assert!(metrics.contains("fastmap_batches_total 1"), "{metrics}");
    assert!(metrics.contains("fastmap_stage_seconds_bucket{stage=\"dispatch\""), "{metrics}");
    assert!(!metrics.contains("a-tenant") && !metrics.contains(&run), "{metrics}");
    let (status, document) = get("/api/v1/openapi.json");
    let document: Value = serde_json::from_str(&document).expect("JSON");
    assert_eq!((status, document["servers"][0]["url"].as_str()), (200, Some("/api/v1")));
    let paths: Vec<&String> = document["paths"].as_object().expect("paths").keys().collect();
    assert_eq!(paths.len(), 13, "{paths:?}");
    assert!(document["components"]["schemas"]["Problem"].is_object());
}

#[test]
fn it_speaks_tls_with_a_certificate() {
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).expect("room on the disk");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("room on the disk");
    let server = Server::start(&[
        "--tls-cert",
        certificate.to_str().expect("text"),
        "--tls-key",
        key.to_str().expect("text"),
    ]);
    assert!(server.url.starts_with("https://127.0.0.1:"));
    let url = server.url.replace("127.0.0.1", "localhost");
    let trusting = |certificate: &rcgen::Certificate| {
        let root = ureq::tls::Certificate::from_der(certificate.der()).to_owned();
        let tls = ureq::tls::TlsConfig::builder()
            .unversioned_rustls_crypto_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(ureq::tls::RootCerts::new_with_certs(&[root]));
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(LIMIT));
        config.tls_config(tls.build()).build().into()
    };
    let secret = server.tenant("a", "1000").secret;
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let wary = Client { agent: trusting(&other.cert), url: url.clone(), secret: secret.clone() };
    let refused = wary.try_call("GET", "/runs", b"", &Wrong::default());
    assert!(refused.is_err(), "an unknown certificate must be refused: {refused:?}");
    let client = Client { agent: trusting(&made.cert), url, secret };
    let run = client.run();
    assert_eq!(results(&client.batch(&run, 1, &["eone"]), 1), [b"one"]);
}
