//! Bad days, as the service has them: programs that do their worst, clients that say half of something and no more, and a
//! disk that is full. Each is told in one clear message; others notice nothing, nothing is lost or charged twice.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use fastmap_backends::cloud::{Answer, LogPage, PartOutcome, Problem, RunInfo, digest};
use fastmap_backends::{ExitReason, MemoryLimit};
use fastmap_test_programs::skipped;

use crate::client::{Client, batch, results};
use crate::server::{LIMIT, Server, until};

/// How the only item of an answer was lost.
#[track_caller]
fn cause(body: &[u8]) -> ExitReason {
    let mut answer = Answer::decode(body, 1).expect("an answer");
    match answer.parts.remove(0).outcome {
        PartOutcome::Lost(loss) => loss.death.cause,
        other => panic!("{other:?}"),
    }
}

#[test]
fn programs_that_do_their_worst_are_ended_by_name_and_the_neighbour_works_on() {
    let Some(server) = Server::start_jailed(&["--worker-memory", "100000000", "--batch-cpu", "1"]) else {
        return;
    };
    let (worst, neighbour) = (server.tenant("worst", "1000"), server.tenant("neighbour", "1000"));
    let (run, other) = (worst.run(), neighbour.run());
    std::thread::scope(|scope| {
        let answers = scope.spawn(|| {
            let orders = ["m1000", "s600000", "a"];
            (0..).zip(orders).map(|(seq, order)| worst.batch(&run, seq, &[order]).body).collect::<Vec<_>>()
        });
        let mut seq = 0;
        while !answers.is_finished() {
            assert_eq!(results(&neighbour.batch(&other, seq, &["ehere"]), 1), [b"here"]);
            seq += 1;
        }
        assert!(seq > 20, "{seq} batches in seconds");
        let answers = answers.join().expect("no panic");
        let causes: Vec<ExitReason> = answers.iter().map(|body| cause(body)).collect();
        assert!(matches!(causes[0], ExitReason::OutOfMemory(MemoryLimit::Jail(100_000_000))), "{causes:?}");
        assert!(matches!(causes[1], ExitReason::Timeout(_)), "{causes:?}");
        assert_eq!(causes[2], ExitReason::Signal(6));
    });
    // One that prints 5 MB is answered, as often as it does so, and what was left out is counted.
    for seq in 7..9 {
        results(&worst.batch(&run, seq, &["f5"]), 1);
    }
    let page: LogPage = worst.call("GET", &format!("/runs/{run}/logs"), b"").json(200);
    let told = |text: &str| text.starts_with("[fastmap: ") && text.contains("lines are left out here");
    assert!(page.lines.iter().any(|line| told(&line.text)), "{:?}", page.lines.last());
    results(&worst.batch(&run, 9, &["e"]), 1);
    server.audit();
}

/// The head of a signed request with that body, which is still to be sent.
fn head(client: &Client, method: &str, target: &str, body: &[u8]) -> String {
    client.signed_head(method, target, &digest(body), body.len() as u64)
}

fn connect(server: &Server) -> TcpStream {
    let address = server.url.strip_prefix("http://").expect("plain HTTP");
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    stream
}

#[test]
fn clients_that_say_half_of_something_are_cut_off_and_hold_nobody_up() {
    let server = Server::start(&["--head-time", "2", "--body-time", "2"]);
    let (slow, other) = (server.tenant("slow", "1000"), server.tenant("other", "1000"));
    let (run, theirs) = (slow.run(), other.run());
    let mut heads: Vec<TcpStream> = (0..300).map(|_| connect(&server)).collect();
    for stream in &mut heads {
        stream.write_all(b"GET /api/v1/runs HTTP/1.1\r\nhost: x\r\nauthor").expect("it reads");
    }
    // And who says nothing, or only begins as HTTP/2 would.
    let mut silent: Vec<TcpStream> = (0..20).map(|_| connect(&server)).collect();
    for stream in &mut silent[..10] {
        stream.write_all(b"PRI * HTTP/2.0\r\n").expect("it reads");
    }
    let mut idle = connect(&server);
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").expect("it reads");
    let body = batch(&["e", "s10"]);
    let mut bodies: Vec<TcpStream> = (0..50).map(|_| connect(&server)).collect();
    for stream in &mut bodies {
        let head = head(&slow, "PUT", &format!("/runs/{run}/batches/1"), &body);
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..9])).expect("it reads");
    }
    for seq in 0..20 {
        results(&other.batch(&theirs, seq, &["e"]), 1);
    }
    for stream in &mut bodies {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer, and an end");
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("request_timeout"), "{answer}");
        assert!(answer.contains("fastmap-signature: "), "{answer}");
    }
    for stream in &mut heads {
        // Whether it is told or not, it is at an end.
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    }
    for stream in &mut silent {
        let end = stream.read_to_end(&mut Vec::new());
        let waited = |error: std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        assert!(!end.is_err_and(waited), "it is held for ever");
    }
    let mut answer = String::new();
    idle.read_to_string(&mut answer).expect("an answer, and an end");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let info: RunInfo = slow.call("GET", &format!("/runs/{run}"), b"").json(200);
    assert_eq!((info.batches, info.held, info.spent), (0, 0, 0));
    results(&slow.batch(&run, 1, &["e", "s10"]), 2);
    server.audit();
}

#[test]
fn a_client_that_is_cut_off_finds_its_answer_and_pays_once() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let body = batch(&["s300"]);
    for _ in 0..3 {
        // Sent whole, and left before the answer is there. (What comes with the end of its connection is not begun.)
        let mut stream = connect(&server);
        let head = head(&client, "PUT", &format!("/runs/{run}/batches/1"), &body);
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body)).expect("it reads");
        stream.set_read_timeout(Some(Duration::from_millis(50))).expect("a socket");
        let _left = stream.read(&mut [0]);
    }
    let info = || client.call("GET", &format!("/runs/{run}"), b"").json::<RunInfo>(200);
    until("the answer that nobody waits for", || (info().batches == 1).then_some(()));
    let answer = client.call("GET", &format!("/runs/{run}/batches/1"), b"");
    assert_eq!(results(&answer, 1), [b"300"]);
    assert_eq!(client.batch(&run, 1, &["s300"]).body, answer.body);
    let charge = i64::from_le_bytes(answer.body[8..16].try_into().expect("eight"));
    assert_eq!((info().batches, info().spent), (1, charge));
    server.audit();
}

#[test]
fn on_a_full_disk_nothing_is_lost_or_charged_and_all_goes_on_when_there_is_room() {
    let Some(server) = Server::on_a_small_disk(200 << 20) else {
        skipped("only root may mount a small disk here");
        return;
    };
    let (client, other) = (server.tenant("a", "1000"), server.tenant("b", "1000"));
    let (run, theirs) = (client.run(), other.run());
    let first = client.batch(&run, 0, &["eone"]);
    let balance = client.balance();
    let filler = server.data().join("filler");
    let mut file = std::fs::File::create(&filler).expect("room for a name");
    let piece = vec![7; 1 << 20];
    while file.write_all(&piece).is_ok() {}
    while file.write_all(&[7]).is_ok() {}
    // An answer of a megabyte has no room; whether the database has any does not matter.
    let put = |client: &Client, run: &str| {
        client.call("PUT", &format!("/runs/{run}/batches/1"), &batch(&["b1000000"]))
    };
    for (client, run) in [(&client, &run), (&other, &theirs)] {
        let problem: Problem = put(client, run).problem("storage");
        assert!(problem.retry_after.is_some(), "{problem}");
    }
    let packed = zstd::bulk::compress(&[7; 1000], 1).expect("memory");
    let target = format!("/contexts/{}?offset=0&total={}", digest(&[7; 1000]), packed.len());
    client.call("PUT", &target, &packed).problem("storage");
    // What is there can be read, and nothing was paid.
    assert_eq!(client.call("GET", &format!("/runs/{run}/batches/0"), b"").body, first.body);
    assert_eq!(client.balance(), balance);
    drop(file);
    std::fs::remove_file(filler).expect("it is there");
    let begun = Instant::now();
    for (client, run) in [(&client, &run), (&other, &theirs)] {
        let answer = results(&client.batch(run, 1, &["b1000000"]), 1);
        assert_eq!(answer[0].len(), 1_000_000);
        let info: RunInfo = client.call("GET", &format!("/runs/{run}"), b"").json(200);
        assert_eq!(info.held, 0, "{info:?}");
    }
    assert!(begun.elapsed() < LIMIT);
    assert!(client.call("PUT", &target, &packed).status == 200);
    server.audit();
}
