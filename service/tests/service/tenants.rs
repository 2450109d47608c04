//! Two tenants: neither can name, read, cancel or see anything of the other's, by any operation.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use fastmap_backends::cloud::{
    Auth, BlobStatus, DashboardLink, OpenRun, Problem, RequestHead, RunInfo, RunState, digest,
};
use serde_json::Value;

use crate::client::{Client, agent, batch, nonce, now, open_run, to_json};
use crate::server::{LIMIT, Server, until};

const CREDITS: i64 = 1_000_000_000;

/// An owner with one of everything, and another tenant with nothing.
struct Scene {
    server: Server,
    owner: Client,
    other: Client,
    executable: String,
    context: String,
    run: String,
    /// A batch of the run, and what it was answered.
    batch: Vec<u8>,
    answer: Vec<u8>,
}

const NOTHING: &str = "00000000000000000000000000000000";

/// An operation, and what is checked of it.
type Operation = (&'static str, fn(&Scene));

/// What another tenant is told, by operation of the OpenAPI document. One that is missing here fails the test.
const OPERATIONS: [Operation; 20] = [
    ("POST /auth", |scene| {
        let auth: Auth = scene.other.call("POST", "/auth", b"").json(200);
        assert_eq!((auth.account.as_str(), auth.balance, auth.available), ("other", CREDITS, CREDITS));
    }),
    ("POST /dashboard", |scene| {
        let link: DashboardLink = scene.other.call("POST", "/dashboard", b"").json(200);
        let page = agent().get(format!("{}{}", scene.server.url, link.path)).call().expect("an answer");
        let page = page.into_body().read_to_string().expect("text");
        assert!(page.contains("<b>other</b>") && !page.contains("owner"), "{page}");
    }),
    ("HEAD /executables/{hash}", |scene| scene.hides_upload("HEAD", "executables", &scene.executable)),
    ("GET /executables/{hash}", |scene| scene.hides_upload("GET", "executables", &scene.executable)),
    // Half a part, though the owner's is whole: another account uploads it itself, from its begin.
    ("PUT /executables/{hash}", |scene| scene.takes_an_upload_anew("executables", &scene.executable)),
    ("HEAD /contexts/{hash}", |scene| scene.hides_upload("HEAD", "contexts", &scene.context)),
    ("GET /contexts/{hash}", |scene| scene.hides_upload("GET", "contexts", &scene.context)),
    ("PUT /contexts/{hash}", |scene| scene.takes_an_upload_anew("contexts", &scene.context)),
    ("GET /runs", |scene| {
        for target in ["/runs".to_owned(), format!("/runs?before={}", scene.run)] {
            let runs: Value = scene.other.call("GET", &target, b"").json(200);
            assert_eq!(runs["runs"], Value::Array(Vec::new()), "{target}");
        }
    }),
    ("POST /runs", |scene| {
        let none = open_run(&digest(b"nothing"), "obey");
        let theirs = OpenRun { executable: scene.executable.clone(), ..none.clone() };
        let open =
            |request: &OpenRun| scene.other.call("POST", "/runs", &to_json(request)).problem("not_found");
        let said = open(&theirs).detail.replace(&theirs.executable, &none.executable);
        assert_eq!(said, open(&none).detail);
        // With a program of its own, but another's context.
        let own = scene.other.upload_worker();
        assert_eq!(own, scene.executable, "stored once, and uploaded again");
        let with_context = OpenRun { context: Some(scene.context.clone()), executable: own, ..none };
        open(&with_context);
    }),
    ("GET /runs/{run}", |scene| scene.hides_run("GET", "", b"")),
    ("PUT /runs/{run}/batches/{seq}", |scene| {
        scene.hides_run("PUT", "/batches/1", &scene.batch);
        scene.hides_run("PUT", "/batches/2", &scene.batch);
    }),
    ("GET /runs/{run}/batches/{seq}", |scene| scene.hides_run("GET", "/batches/1", b"")),
    ("DELETE /runs/{run}/batches/{seq}", |scene| {
        scene.hides_run("DELETE", "/batches/1", b"");
        scene.hides_run("DELETE", "/batches/2", b"");
    }),
    ("POST /runs/{run}/heartbeat", |scene| scene.hides_run("POST", "/heartbeat", b"")),
    ("POST /runs/{run}/ack", |scene| scene.hides_run("POST", "/ack", br#"{"seqs":[1]}"#)),
    ("POST /runs/{run}/cancel", |scene| scene.hides_run("POST", "/cancel", b"")),
    ("POST /runs/{run}/done", |scene| scene.hides_run("POST", "/done", b"")),
    ("GET /runs/{run}/logs", |scene| {
        scene.hides_run("GET", "/logs", b"");
        scene.hides_run("GET", "/logs?after=1", b"");
    }),
    ("GET /runs/{run}/events", |scene| scene.hides_run("GET", "/events", b"")),
];

impl Scene {
    fn new() -> Scene {
        let server = Server::start(&[]);
        let (owner, other) = (server.tenant("owner", "1000"), server.tenant("other", "1000"));
        let executable = owner.upload_worker();
        let context = owner.upload("contexts", b"secret context", 100);
        let run = owner.open(&executable);
        let answer = owner.batch(&run, 1, &["esecret", "p3"]).body;
        let batch = batch(&["esecret", "p3"]);
        Scene { server, owner, other, executable, context, run, batch, answer }
    }

    /// The answer about the owner's run is the very one about a run that nobody has.
    #[track_caller]
    fn hides_run(&self, method: &str, rest: &str, body: &[u8]) {
        let ask = |run: &str| self.other.call(method, &format!("/runs/{run}{rest}"), body);
        let (theirs, none): (Problem, Problem) = (ask(&self.run).json(404), ask(NOTHING).json(404));
        assert_eq!(theirs, none, "{method} {rest} tells whether there is something");
    }

    #[track_caller]
    fn hides_upload(&self, method: &str, kind: &str, hash: &str) {
        let target = |hash: &str| format!("/{kind}/{hash}");
        assert_eq!(self.owner.call("HEAD", &target(hash), b"").status, 200);
        let ask = |hash: &str| self.other.call(method, &target(hash), b"");
        let (theirs, none) = (ask(hash), ask(&digest(b"nothing")));
        assert_eq!((theirs.status, theirs.body), (none.status, none.body), "{method} {kind}");
    }

    #[track_caller]
    fn takes_an_upload_anew(&self, kind: &str, hash: &str) {
        let target = format!("/{kind}/{hash}?offset=0&total=100");
        let status: BlobStatus = self.other.call("PUT", &target, b"half").json(202);
        assert_eq!(status, BlobStatus { present: false, offset: 4 }, "{kind}");
        // Gone on with wrongly, so that it is forgotten again.
        let rest = format!("/{kind}/{hash}?offset=4&total=100");
        self.other.call("PUT", &rest, &[7; 96]).problem("invalid_body");
    }

    /// The owner has what it had, and nothing of it was told to anybody else.
    fn check_owner(&self) {
        let (owner, run) = (&self.owner, &self.run);
        assert_eq!(owner.call("GET", &format!("/runs/{run}/batches/1"), b"").body, self.answer);
        let info: RunInfo = owner.call("GET", &format!("/runs/{run}"), b"").json(200);
        assert_eq!((info.state, info.batches, info.held), (RunState::Open, 1, 0));
        let logs: Value = owner.call("GET", &format!("/runs/{run}/logs"), b"").json(200);
        assert_eq!(logs["lines"].as_array().map(Vec::len), Some(3), "{logs}");
        assert_eq!(self.server.balance("other"), CREDITS);
        assert_eq!(self.server.balance("owner"), CREDITS - info.spent);
        let ledger = self.server.json(&["credits", "show", "other"]);
        assert_eq!(ledger["ledger"].as_array().map(Vec::len), Some(1), "{ledger}");
        self.server.audit();
    }
}

/// The operations of the document that the service serves.
fn operations(server: &Server) -> BTreeSet<String> {
    let url = format!("{}/api/v1/openapi.json", server.url);
    let text = agent().get(url).call().expect("an answer").body_mut().read_to_string().expect("text");
    let document: Value = serde_json::from_str(&text).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let of_path = |(path, item): (&String, &Value)| -> Vec<String> {
        let methods = item.as_object().expect("operations").keys();
        methods.map(|method| format!("{} {path}", method.to_uppercase())).collect()
    };
    paths.iter().flat_map(of_path).collect()
}

#[test]
fn every_operation_answers_another_tenant_as_if_there_were_nothing() {
    let scene = Scene::new();
    let tried: BTreeSet<String> = OPERATIONS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(tried, operations(&scene.server), "an operation without a test, or a test of none");
    for (name, check) in OPERATIONS {
        eprintln!("{name}");
        check(&scene);
    }
    scene.check_owner();
}

/// The document leaves no route of the protocol out: what is routed there is what it describes.
#[test]
fn every_route_stands_in_the_document() {
    let routed = include_str!("../../src/http.rs");
    let begin = routed.find("let protocol =").expect("the routes of the protocol");
    let end = begin + routed[begin..].find(".fallback").expect("their end");
    let quoted = routed[begin..end].split('"').skip(1).step_by(2);
    let routes: BTreeSet<&str> = quoted.filter(|text| text.starts_with('/')).collect();
    let tried: BTreeSet<&str> =
        OPERATIONS.iter().filter_map(|(name, _)| Some(name.split_once(' ')?.1)).collect();
    assert_eq!(routes, tried);
}

/// A row of the table in docs/security.md that says what a tenant can use.
struct Bound<'a> {
    resource: &'a str,
    routes: Vec<&'a str>,
    tests: Vec<&'a str>,
}

/// What stands between backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// The rows of the table in docs/security.md that says what a tenant can use, checked for their form.
fn bounds(page: &str) -> Vec<Bound<'_>> {
    let (_, section) = page.split_once("\n## What a tenant can use\n").expect("the section");
    let section = section.split("\n## ").next().expect("its text");
    let rows = section.lines().filter(|line| line.starts_with('|'));
    let mut rows = rows.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>());
    let head = rows.next().expect("a head");
    assert_eq!(head, ["resource", "routes", "bound", "charged to", "at the bound", "test"]);
    rows.skip(1)
        .map(|cells| {
            assert_eq!(cells.len(), head.len(), "a row of as many cells as the head: {cells:?}");
            assert!(cells.iter().all(|cell| !cell.is_empty()), "an empty cell: {cells:?}");
            Bound { resource: cells[0], routes: quoted(cells[1]), tests: quoted(cells[5]) }
        })
        .collect()
}

/// All sources of this repository in which there are tests.
fn sources() -> String {
    fn add(folder: &std::path::Path, all: &mut String) {
        for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry")) {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                add(&path, all);
            } else if path.extension().is_some_and(|end| end == "rs") {
                all.push_str(&std::fs::read_to_string(&path).expect("a source"));
            }
        }
    }
    let mut all = String::new();
    add(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &mut all);
    all
}

/// A route in no row of the table is a route without a known bound.
#[test]
fn the_table_of_what_a_tenant_can_use_has_every_route_and_names_tests_that_there_are() {
    let bounds = bounds(include_str!("../../../docs/security.md"));
    let named: BTreeSet<&str> = bounds.iter().flat_map(|bound| bound.routes.iter().copied()).collect();
    let served = operations(&Server::start(&[]));
    let missing: Vec<&String> = served.iter().filter(|route| !named.contains(route.as_str())).collect();
    assert!(missing.is_empty(), "in no row of docs/security.md's table: {missing:?}");
    let sources = sources();
    for bound in &bounds {
        assert!(!bound.tests.is_empty(), "{}: no test holds it", bound.resource);
        for test in &bound.tests {
            let there = ["(", "<"].iter().any(|after| sources.contains(&format!("fn {test}{after}")));
            assert!(there, "{}: there is no test {test}", bound.resource);
        }
    }
    let api = |route: &&&str| route.split_once(' ').is_some_and(|(_, path)| !path.starts_with("/dashboard/"));
    let unknown: Vec<_> = named.iter().filter(api).filter(|route| !served.contains(**route)).collect();
    let others = ["GET /openapi.json", "GET /healthz", "GET /readyz", "GET /metrics"];
    assert!(unknown.iter().all(|route| others.contains(route)), "routes that are not served: {unknown:?}");
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
        until("the queue of the large tenant", || {
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

/// Asks for the events of a run: the answer's status, and its stream, which is open until this is dropped.
fn watch(client: &Client, run: &str) -> (String, TcpStream) {
    let (path, nonce, time) = (format!("/api/v1/runs/{run}/events"), nonce(), now() as u64);
    let digest = digest(b"");
    let head = RequestHead {
        method: "GET",
        path: &path,
        query: "",
        timestamp: time,
        nonce: &nonce,
        digest: &digest,
    };
    let signature = client.secret.key().sign_request(&head);
    let address = client.url.strip_prefix("http://").expect("plain HTTP");
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nauthorization: Bearer {}\r\nfastmap-timestamp: {time}\r\nfastmap-nonce: {nonce}\r\n\
         fastmap-digest: {digest}\r\nfastmap-signature: {signature}\r\n\r\n",
        client.secret.token()
    )
    .expect("it reads");
    let mut begin = [0; "HTTP/1.0 200".len()];
    stream.read_exact(&mut begin).expect("a head");
    (String::from_utf8_lossy(&begin[9..]).into_owned(), stream)
}

#[test]
fn one_accounts_event_streams_leave_room_for_anothers() {
    let server = Server::start(&[]);
    let (large, small) = (server.tenant("large", "1000"), server.tenant("small", "1000"));
    let (run, other) = (large.run(), small.run());
    let mut streams = Vec::new();
    let refused = loop {
        assert!(streams.len() < 512, "an account may have all streams");
        let (status, stream) = watch(&large, &run);
        if status != "200" {
            break status;
        }
        streams.push(stream);
    };
    assert_eq!((refused.as_str(), streams.len()), ("429", 64));
    let problem = large.call("GET", &format!("/runs/{run}/events"), b"").problem("too_many_requests");
    assert!(problem.detail.contains("the account has 64"), "{problem}");
    assert_eq!(watch(&small, &other).0, "200");
    drop(streams.pop());
    until("a place for another", || (watch(&large, &run).0 == "200").then_some(()));
}
