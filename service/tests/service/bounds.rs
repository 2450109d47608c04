//! What one account can take of the disk and of the database's rows: it is counted, bounded, and given back.

use fastmap_backends::cloud::{BlobStatus, Locale, OpenRun, Problem, digest};
use serde_json::Value;

use crate::client::{Client, open_run, to_json};
use crate::server::{Server, until};

/// Uploads that an account may have begun.
const BEGUN: usize = 16;

fn begin(client: &Client, n: usize, part: &[u8]) -> crate::client::Reply {
    client.call("PUT", &format!("/contexts/{}?offset=0&total=1000", digest(&n.to_le_bytes())), part)
}

#[test]
fn uploads_that_are_begun_and_left_are_few_and_another_account_uploads() {
    let server = Server::start(&[]);
    let (client, other) = (server.tenant("a", "1000"), server.tenant("b", "1000"));
    let files = || std::fs::read_dir(server.data().join("uploads")).expect("a folder").count();
    for n in 0..BEGUN {
        assert_eq!(begin(&client, n, b"x").status, 202);
    }
    for n in BEGUN..2 * BEGUN {
        let problem = begin(&client, n, b"x").problem("too_many_requests");
        assert!(problem.detail.contains("16 uploads of this account are under way"), "{problem}");
    }
    assert_eq!(files(), BEGUN);
    // Those that are begun go on.
    let target = format!("/contexts/{}?offset=1&total=1000", digest(&0usize.to_le_bytes()));
    assert_eq!(client.call("PUT", &target, b"y").json::<BlobStatus>(202).offset, 2);
    other.upload("contexts", b"of another account", 10);
    // One that ends, well or not, makes room for the next.
    client.call("PUT", &target.replace("offset=1", "offset=2"), &[7; 998]).problem("invalid_body");
    client.upload("contexts", b"whole", 4);
    assert_eq!(begin(&client, BEGUN, b"x").status, 202);
    assert_eq!(files(), BEGUN);
}

#[test]
fn an_upload_counts_what_it_takes_on_the_disk_before_its_bytes_come() {
    // Room for five files of one block and what a file takes beside.
    let server = Server::start(&["--max-stored", "40960"]);
    let client = server.tenant("a", "1000");
    let is_there =
        |hash: &str| client.call("GET", &format!("/contexts/{hash}"), b"").json::<BlobStatus>(200).present;
    let hashes: Vec<String> = (0..6u8).map(|n| client.upload("contexts", &[n], 100)).collect();
    // Packed and unpacked it takes two of them while it is under way.
    assert_eq!(hashes.iter().filter(|hash| is_there(hash)).count(), 4, "six bytes are six files");
    assert!(is_there(&hashes[5]) && !is_there(&hashes[0]));
    // A few bytes that unpack to more than there is room for: refused with the first of them.
    let zeros = zstd::bulk::compress(&vec![0; 1 << 20], 1).expect("memory");
    let target = format!("/contexts/{}?offset=0&total={}", digest(&zeros), zeros.len());
    let problem = client.call("PUT", &target, &zeros[..20]).problem("too_large");
    assert!(problem.detail.contains("take at most 40960 bytes of the disk"), "{problem}");
    assert!(is_there(&hashes[5]), "nothing is forgotten for it");
    assert_eq!(std::fs::read_dir(server.data().join("uploads")).expect("a folder").count(), 0);
}

#[test]
fn what_says_that_it_unpacks_to_too_much_is_refused_with_its_first_bytes() {
    let server = Server::start(&["--max-executable", "100000"]);
    let client = server.tenant("a", "1000");
    let zeros = zstd::bulk::compress(&vec![0; 1 << 20], 1).expect("memory");
    let target = format!("/executables/{}?offset=0&total={}", digest(b"zeros"), zeros.len());
    let problem = client.call("PUT", &target, &zeros[..20]).problem("too_large");
    assert!(problem.detail.contains("unpacks to 1048576 bytes"), "{problem}");
}

#[test]
fn what_a_function_says_when_it_refuses_is_cut_where_it_enters() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let executable = client.upload_worker();
    let run: Value = client.call("POST", "/runs", &to_json(&open_run(&executable, "wordy"))).json(201);
    let run = run["run"].as_str().expect("a name");
    let check = |problem: Problem| {
        assert!(problem.detail.len() <= 4096, "{} bytes", problem.detail.len());
        assert!(problem.detail.contains("init said no") && problem.detail.ends_with(" bytes left out)"));
    };
    check(client.batch(run, 0, &["e"]).problem("setup_failed"));
    // From the database.
    check(client.batch(run, 1, &["e"]).problem("setup_failed"));
    let shown = server.json(&["runs", "show", run]);
    assert!(shown["reason"].as_str().is_some_and(|reason| reason.len() < 10_000));
    let listed = server.json(&["runs", "list", "a"]);
    assert!(listed[0]["reason"].as_str().is_some_and(|reason| reason.len() <= 200), "{listed}");
}

#[test]
fn names_have_bounds_and_what_is_longer_is_refused() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let executable = client.upload_worker();
    let request = open_run(&executable, "obey");
    let refused = |request: &OpenRun| client.call("POST", "/runs", &to_json(request)).problem("invalid_body");
    let mut long = request.clone();
    long.function.name = "n".repeat(4097);
    assert!(refused(&long).detail.contains("more than 4096 bytes"));
    let long = OpenRun { label: Some("l".repeat(201)), ..request.clone() };
    assert!(refused(&long).detail.contains("more than 200 bytes"));
    let with = |name: &str, value: String| {
        let locale = Locale { variables: [(name.to_owned(), value)].into(), zone: None };
        OpenRun { locale: Some(locale), ..request.clone() }
    };
    assert!(refused(&with("LC_ALL", "l".repeat(257))).detail.contains("LC_ALL is longer than 256 bytes"));
    assert!(refused(&with("LD_PRELOAD", "x".to_owned())).detail.contains("\"LD_PRELOAD\" is not one of TZ"));
    let zone = Some("../../etc/shadow".to_owned());
    let away = OpenRun { locale: Some(Locale { zone, ..Locale::default() }), ..request };
    assert!(refused(&away).detail.contains("not the name of a time zone"));
}

#[test]
fn runs_that_cost_nothing_are_forgotten_after_their_time_and_paid_ones_stay() {
    let server = Server::start(&["--keep-free-runs", "1"]);
    let client = server.tenant("a", "1000");
    let executable = client.upload_worker();
    let (free, paid) = (client.open(&executable), client.open(&executable));
    assert_eq!(client.batch(&paid, 1, &["s5"]).status, 200);
    for run in [&free, &paid] {
        assert_eq!(client.call("POST", &format!("/runs/{run}/done"), b"").status, 200);
    }
    until("the end of the free run's time", || {
        let reply = client.call("GET", &format!("/runs/{free}"), b"");
        (reply.status != 200).then(|| reply.problem("not_found"))
    });
    let listed: Value = client.call("GET", "/runs", b"").json(200);
    let listed = listed["runs"].as_array().expect("a list");
    assert_eq!(listed.iter().map(|run| run["run"].as_str()).collect::<Vec<_>>(), [Some(paid.as_str())]);
    server.audit();
}

#[test]
fn links_to_the_dashboard_are_minted_so_often_and_no_more() {
    let server = Server::start(&[]);
    let (client, other) = (server.tenant("a", "1000"), server.tenant("b", "1000"));
    let refused = (0..100).map(|_| client.call("POST", "/dashboard", b"")).find(|reply| reply.status != 200);
    let problem = refused.expect("it ends").problem("too_many_requests");
    assert!(problem.detail.contains("links to the dashboard"), "{problem}");
    assert_eq!(other.call("POST", "/dashboard", b"").status, 200);
}

#[test]
fn an_account_has_so_many_open_runs_and_no_more() {
    let server = Server::start(&["--max-runs", "2"]);
    let (client, other) = (server.tenant("a", "1000"), server.tenant("b", "1000"));
    let executable = client.upload_worker();
    let runs = [client.open(&executable), client.open(&executable)];
    let open = || client.call("POST", "/runs", &to_json(&open_run(&executable, "obey")));
    assert_eq!(open().problem("too_many_runs").retry_after, Some(5));
    other.run();
    assert_eq!(client.call("POST", &format!("/runs/{}/cancel", runs[0]), b"").status, 200);
    assert_eq!(open().status, 201);
}
