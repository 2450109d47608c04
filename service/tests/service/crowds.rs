//! Many connections that want to cost what they do not pay for: strangers' and tenants' that send nothing,
//! read nothing, or stay when they have no right to any more. Another tenant must not notice, and what they
//! took is given back.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use fastmap_backends::cloud::{RequestHead, digest};

use crate::client::{Client, Wrong, agent, batch, nonce, now, results};
use crate::server::{LIMIT, Server, until};

fn connect(server: &Server) -> TcpStream {
    let address = server.url.strip_prefix("http://").expect("plain HTTP");
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
    stream
}

/// Sends the head of a signed request, and of its body of so many bytes what is there of it.
fn begin(
    server: &Server,
    client: &Client,
    method: &str,
    target: &str,
    (body, length): (&[u8], usize),
) -> TcpStream {
    let (path, nonce, timestamp, digest) = (format!("/api/v1{target}"), nonce(), now() as u64, digest(body));
    let head = RequestHead { method, path: &path, query: "", timestamp, nonce: &nonce, digest: &digest };
    let signature = client.secret.key().sign_request(&head);
    let mut stream = connect(server);
    let length = if length > 0 { format!("content-length: {length}\r\n") } else { String::new() };
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\nfastmap-timestamp: {timestamp}\r\n\
         fastmap-nonce: {nonce}\r\nfastmap-digest: {digest}\r\nfastmap-signature: {signature}\r\n\
         {length}\r\n",
        client.secret.token()
    )
    .expect("it reads");
    stream.write_all(body).expect("it reads");
    stream
}

/// Sends a signed request without a body.
fn ask(server: &Server, client: &Client, target: &str) -> TcpStream {
    begin(server, client, "GET", target, (b"", 0))
}

fn status(stream: &mut TcpStream) -> String {
    let mut begin = [0; 12];
    stream.read_exact(&mut begin).expect("an answer");
    String::from_utf8_lossy(&begin[9..]).into_owned()
}

/// Bytes of the service's memory.
fn memory(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// A number of the service's metrics.
fn metric(server: &Server, name: &str) -> u64 {
    let text = agent().get(format!("{}/metrics", server.url)).call().expect("an answer");
    let text = text.into_body().read_to_string().expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[test]
fn answers_that_are_not_read_take_no_memory_and_their_connections_end() {
    const READERS: u64 = 20;
    const LENGTH: u64 = 20_000_000;
    let server = Server::start(&["--stall-time", "2"]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let target = format!("/runs/{run}/batches/1");
    let answer = client.batch(&run, 1, &[&format!("b{LENGTH}")]);
    assert_eq!(results(&answer, 1)[0].len() as u64, LENGTH);
    let before = memory(&server);
    let mut readers: Vec<_> = (0..READERS).map(|_| ask(&server, &client, &target)).collect();
    assert!(readers.iter_mut().all(|reader| status(reader) == "200"));
    let more = memory(&server).saturating_sub(before);
    assert!(more < READERS * LENGTH / 4, "{more} bytes for {READERS} unread answers of {LENGTH}");
    // One that takes its time, and something all the time.
    let mut slow = ask(&server, &client, &target);
    let (mut taken, mut piece) = (0, vec![0; 32 << 10]);
    until("the end of their connections", || {
        taken += slow.read(&mut piece).expect("it is open");
        (metric(&server, "fastmap_connections_stalled_total") >= READERS).then_some(())
    });
    while taken < answer.body.len() {
        let more = slow.read(&mut piece).expect("it is open");
        assert!(more > 0, "cut at {taken} bytes");
        taken += more;
    }
    // One that reads has it all, signed.
    assert_eq!(client.call("GET", &target, b"").body, answer.body);
}

#[test]
fn a_large_answer_that_is_damaged_on_the_disk_breaks_off_and_is_worked_out_again() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let body = batch(&["b1000000", "eend"]);
    let answer = client.patiently(&run, 1, &body);
    let balance = server.balance("a");
    let file = server.data().join("answers").join(&run).join("0");
    let mut kept = std::fs::read(&file).expect("it is there");
    assert!(kept.len() >= answer.body.len());
    kept[1000] ^= 1;
    std::fs::write(&file, kept).expect("room on the disk");
    let target = format!("/runs/{run}/batches/1");
    let broken = client.try_call("GET", &target, b"", &Wrong::default());
    assert!(broken.is_err(), "{:?}", broken.map(|reply| reply.status));
    client.call("GET", &target, b"").problem("batch_unknown");
    let again = client.patiently(&run, 1, &body);
    assert_eq!(results(&again, 2), results(&answer, 2));
    assert_eq!(server.balance("a"), balance, "it is not charged again");
    server.audit();
}

#[test]
fn bodies_that_are_announced_and_not_sent_hold_no_memory_and_end() {
    let server = Server::start(&["--stall-time", "3"]);
    let honest = server.tenant("honest", "1000");
    let run = honest.run();
    results(&honest.batch(&run, 0, &["e"]), 1);
    let others: Vec<Client> = (0..8).map(|n| server.tenant(&format!("other{n}"), "1000")).collect();
    let mut bodies: Vec<TcpStream> = others
        .iter()
        .flat_map(|other| (0..4).map(|seq| (other, format!("/runs/x/batches/{seq}"))).collect::<Vec<_>>())
        // A part of each comes.
        .map(|(other, target)| begin(&server, other, "PUT", &target, (&vec![0; 100_000], 64 << 20)))
        .collect();
    for seq in 1..20 {
        let reply = honest.call("PUT", &format!("/runs/{run}/batches/{seq}"), &batch(&["e"]));
        assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    }
    let statuses: Vec<String> = bodies.iter_mut().map(status).collect();
    assert!(statuses.iter().all(|status| status == "408"), "{statuses:?}");
}

#[test]
fn long_polls_of_one_account_do_not_refuse_each_other() {
    let server = Server::start(&["--long-poll", "5"]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let target = format!("/runs/{run}/batches/1");
    let body = batch(&["z4000"]);
    let mut first = begin(&server, &client, "PUT", &target, (&body, body.len()));
    until("the batch", || (metric(&server, "fastmap_batches_under_way") > 0).then_some(()));
    let mut polls: Vec<_> = (0..16).map(|_| ask(&server, &client, &target)).collect();
    let statuses: Vec<String> = polls.iter_mut().map(status).collect();
    assert!(statuses.iter().all(|status| ["200", "202"].contains(&status.as_str())), "{statuses:?}");
    assert!(["200", "202"].contains(&status(&mut first).as_str()));
    assert_eq!(status(&mut begin(&server, &client, "GET", &target, (b"body", 4))), "413");
}

#[test]
fn a_long_head_is_refused_when_it_has_80_kilobytes() {
    let server = Server::start(&[]);
    let mut stream = connect(&server);
    let mut head = b"GET /healthz HTTP/1.1\r\nhost: a\r\nlong: ".to_vec();
    head.resize(80 << 10, b'x');
    stream.write_all(&head).expect("it reads");
    assert_eq!(status(&mut stream), "431");
}

#[test]
fn strangers_who_connect_and_say_nothing_leave_room_for_tenants() {
    let server = Server::start_with_descriptors(300, &[]);
    let (early, late) = (server.tenant("early", "1000"), server.tenant("late", "1000"));
    let mut kept = ask(&server, &early, "/runs");
    assert_eq!(status(&mut kept), "200");
    let strangers: Vec<TcpStream> = (0..350).map(|_| connect(&server)).collect();
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    let impatient = config.timeout_global(Some(Duration::from_secs(20))).build().into();
    let late = Client { agent: impatient, ..late };
    // One of them that is taken in later may have its place for a moment; a client that is cut off comes again.
    let ask_again = || late.try_call("GET", "/runs", b"", &Wrong::default()).ok();
    assert_eq!(until("an answer while strangers are connected", ask_again).status, 200);
    // A connection that has carried a good request is not one of those that are closed.
    kept.set_nonblocking(true).expect("a socket");
    let mut rest = [0; 4096];
    let end = std::iter::repeat_with(|| kept.read(&mut rest)).find(|read| !matches!(read, Ok(1..)));
    assert_eq!(end.expect("an end").expect_err("it is open").kind(), ErrorKind::WouldBlock);
    drop(strangers);
}

#[test]
fn an_event_stream_ends_when_its_token_is_revoked() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let second = server.client("a");
    let run = second.run();
    let mut stream = ask(&server, &client, &format!("/runs/{run}/events"));
    assert_eq!(status(&mut stream), "200");
    server.json(&["token", "revoke", "1"]);
    // It would say every ten seconds that there is nothing new.
    stream.set_read_timeout(Some(Duration::from_secs(9))).expect("a timeout");
    let (mut said, mut more) = (Vec::new(), [0; 4096]);
    while !said.ends_with(b"\r\n0\r\n\r\n") {
        let length = stream.read(&mut more).expect("the stream's last piece");
        said.extend_from_slice(&more[..length]);
    }
    assert_eq!(second.call("GET", &format!("/runs/{run}"), b"").status, 200);
}
