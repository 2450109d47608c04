//! Two tenants: neither can name, read, cancel or see anything of the other's, on any route.

use fastmap_backends::cloud::{BlobStatus, Problem, digest};
use serde_json::Value;

use crate::client::{batch, open_run, to_json};
use crate::server::Server;

#[test]
fn every_route_answers_another_tenant_as_if_there_were_nothing() {
    let server = Server::start(&[]);
    let (owner, other) = (server.tenant("owner", "1000"), server.tenant("other", "1000"));
    let executable = owner.upload_worker();
    let context = owner.upload("contexts", b"secret context", 100);
    let run = owner.open(&executable);
    let answer = owner.batch(&run, 1, &["esecret", "p3"]).body;
    let nothing = "0".repeat(32);
    let body = batch(&["esecret", "p3"]);
    for (method, target, body) in [
        ("GET", "/runs/{run}", &b""[..]),
        ("PUT", "/runs/{run}/batches/1", &body),
        ("GET", "/runs/{run}/batches/1", b""),
        ("PUT", "/runs/{run}/batches/2", &body),
        ("POST", "/runs/{run}/heartbeat", b""),
        ("POST", "/runs/{run}/ack", br#"{"seqs":[1]}"#),
        ("POST", "/runs/{run}/cancel", b""),
        ("POST", "/runs/{run}/done", b""),
        ("GET", "/runs/{run}/logs", b""),
        ("GET", "/runs/{run}/events", b""),
    ] {
        let theirs = other.call(method, &target.replace("{run}", &run), body);
        let none = other.call(method, &target.replace("{run}", &nothing), body);
        assert_eq!(theirs.status, 404, "{method} {target}");
        let (theirs, none): (Problem, Problem) = (theirs.json(404), none.json(404));
        assert_eq!(theirs, none, "{method} {target} tells whether there is something");
    }
    let runs: Value = other.call("GET", &format!("/runs?before={run}"), b"").json(200);
    assert_eq!(runs["runs"], Value::Array(Vec::new()));

    for (kind, hash) in [("executables", &executable), ("contexts", &context)] {
        assert_eq!(owner.call("HEAD", &format!("/{kind}/{hash}"), b"").status, 200);
        assert_eq!(other.call("HEAD", &format!("/{kind}/{hash}"), b"").status, 404);
        let status: BlobStatus = other.call("GET", &format!("/{kind}/{hash}"), b"").json(200);
        assert_eq!(status, BlobStatus { present: false, offset: 0 });
    }
    other.call("POST", "/runs", &to_json(&open_run(&executable, "obey"))).problem("not_found");
    // With a program of its own, but another's context.
    let own = other.upload_worker();
    assert_eq!(own, executable, "stored once, and uploaded again");
    let with_context = fastmap_backends::cloud::OpenRun { context: Some(context), ..open_run(&own, "obey") };
    other.call("POST", "/runs", &to_json(&with_context)).problem("not_found");

    // The owner noticed nothing.
    assert_eq!(owner.call("GET", &format!("/runs/{run}/batches/1"), b"").body, answer);
    let info: Value = owner.call("GET", &format!("/runs/{run}"), b"").json(200);
    assert_eq!((&info["state"], &info["batches"]), (&"open".into(), &1.into()));
    let logs: Value = owner.call("GET", &format!("/runs/{run}/logs"), b"").json(200);
    assert_eq!(logs["lines"].as_array().map(Vec::len), Some(3), "{logs}");
    assert_eq!(server.balance("other"), 1_000_000_000);
    server.audit();
}

#[test]
fn the_same_key_and_the_same_upload_in_two_accounts_are_two() {
    let server = Server::start(&[]);
    let (one, two) = (server.tenant("one", "1000"), server.tenant("two", "1000"));
    let executable = one.upload_worker();
    two.upload_worker();
    let request = to_json(&open_run(&executable, "obey"));
    let runs: Vec<Value> =
        [&one, &two].iter().map(|client| client.call("POST", "/runs", &request).json(201)).collect();
    assert_ne!(runs[0]["run"], runs[1]["run"]);

    // Half an upload of one tenant is nothing of the other's.
    let packed = zstd::bulk::compress(&[7; 100], 1).expect("memory");
    let target =
        |offset: usize| format!("/contexts/{}?offset={offset}&total={}", digest(&[7; 100]), packed.len());
    assert_eq!(one.call("PUT", &target(0), &packed[..4]).status, 202);
    assert_eq!(two.call("PUT", &target(4), &packed[4..]).problem("upload_offset").offset, Some(0));
}

#[test]
fn one_tenants_queue_does_not_delay_anothers_batches() {
    let server = Server::start(&[]);
    let (large, small) = (server.tenant("large", "1000"), server.tenant("small", "1000"));
    let (run, other) = (large.run(), small.run());
    std::thread::scope(|scope| {
        for seq in 0..60 {
            let (large, run) = (&large, &run);
            scope.spawn(move || large.batch(run, seq, &["s100"]));
        }
        crate::server::until("the queue of the large tenant", || {
            let info: Value = large.call("GET", &format!("/runs/{run}"), b"").json(200);
            (info["batches"].as_u64() > Some(0)).then_some(())
        });
        for seq in 0..5 {
            small.batch(&other, seq, &["e"]);
        }
        let info: Value = large.call("GET", &format!("/runs/{run}"), b"").json(200);
        assert!(
            info["batches"].as_u64() < Some(50),
            "five small batches came behind the large tenant's: {info}"
        );
    });
}
