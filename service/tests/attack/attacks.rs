//! One attack for each kind of harm that an account, an uploaded program or a stranger was seen to do. Each is a bounded
//! loop over loopback against the suite's own service; the suite runs it again and again until it stops.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastmap_backends::cloud::digest;
use serde_json::json;

use crate::client::{Client, Wrong, nonce, to_json};
use crate::hostile::{Hostile, TURN, order, pause, program};
use crate::service::Group;

/// An attack: one turn of it.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Hostile, &AtomicBool),
}

/// All of them.
pub(crate) const ATTACKS: [Attack; 24] = [
    Attack { name: "greetings with too many descriptors", run: greetings_with_too_many_descriptors },
    Attack { name: "unfinished frames", run: unfinished_frames },
    Attack { name: "answers beyond their credit", run: answers_beyond_their_credit },
    Attack { name: "long refusals", run: long_refusals },
    Attack { name: "answers that are not read", run: answers_that_are_not_read },
    Attack { name: "acknowledgements of unknown batches", run: acknowledgements_of_unknown_batches },
    Attack { name: "uploads of one byte", run: uploads_of_one_byte },
    Attack { name: "threads without batches", run: threads_without_batches },
    Attack { name: "work before the handshake", run: work_before_the_handshake },
    Attack { name: "batches cancelled after their lines", run: batches_cancelled_after_their_lines },
    Attack { name: "spinners", run: spinners },
    Attack { name: "forged log records", run: forged_log_records },
    Attack { name: "announced bodies", run: announced_bodies },
    Attack { name: "long polls", run: long_polls },
    Attack { name: "answers to no batch", run: answers_to_no_batch },
    Attack { name: "long failures", run: long_failures },
    Attack { name: "long names", run: long_names },
    Attack { name: "runs without batches", run: runs_without_batches },
    Attack { name: "event streams", run: event_streams },
    Attack { name: "bombs", run: bombs },
    Attack { name: "floods of lines", run: floods_of_lines },
    Attack { name: "unfinished heads", run: unfinished_heads },
    Attack { name: "idle connections", run: idle_connections },
    Attack { name: "unsigned requests", run: unsigned_requests },
];

/// Set for a process that is to attack: the name of one attack, or nothing for all of them.
pub(crate) const ROLE: &str = "FASTMAP_ATTACK_ROLE";

/// The attackers' process, in a group of its own. Dropping it ends it.
pub(crate) struct Attackers {
    process: Child,
    _group: Group,
}

impl Attackers {
    /// Starts the attack of that name, or all, by these accounts.
    pub(crate) fn start(accounts: &[Hostile], name: Option<&str>) -> Attackers {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.env(ROLE, name.unwrap_or_default()).stdin(Stdio::piped()).stdout(Stdio::null());
        let process = command.spawn().expect("this program can be started");
        let group = Group::put_last(process.id());
        let mut order = process.stdin.as_ref().expect("it is piped");
        for Hostile { client, .. } in accounts {
            writeln!(order, "{} {}", client.url, client.secret.reveal()).expect("it reads");
        }
        writeln!(order).expect("it reads");
        Attackers { process, _group: group }
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        // It would end with its standard input, too, once each attack has come to the end of its turn.
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

/// In a process that was started to attack: does so until its standard input ends.
pub(crate) fn was_started_to_attack() -> bool {
    let Ok(name) = std::env::var(ROLE) else { return false };
    let mut input = BufReader::new(std::io::stdin());
    let mut accounts = Vec::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line).expect("text");
        let Some((url, secret)) = line.trim().split_once(' ') else { break };
        accounts.push(Hostile::new(Client::new(url, secret.parse().expect("a secret"))));
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let attacks = ATTACKS.iter().filter(|attack| name.is_empty() || attack.name == name);
        for (number, attack) in attacks.enumerate() {
            let (hostile, stop) = (&accounts[number % accounts.len()], &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    (attack.run)(hostile, stop);
                    pause(stop, Duration::from_millis(20));
                }
            });
        }
        let _end = input.read_line(&mut String::new());
        stop.store(true, Ordering::Relaxed);
    });
    true
}

fn greetings_with_too_many_descriptors(hostile: &Hostile, _stop: &AtomicBool) {
    hostile.request(1, "obey", "hostile");
}

fn unfinished_frames(hostile: &Hostile, stop: &AtomicBool) {
    let Some(run) = hostile.open(0, "obey") else { return };
    hostile.batch(&run, &order("u700", 1 << 20));
    pause(stop, TURN);
    hostile.end(&run);
}

fn answers_beyond_their_credit(hostile: &Hostile, _stop: &AtomicBool) {
    let Some(run) = hostile.open(0, "obey") else { return };
    for credit in [1, 1 << 20, 64 << 20] {
        hostile.batch(&run, &order("b60000000", credit));
    }
    hostile.end(&run);
}

fn long_refusals(hostile: &Hostile, _stop: &AtomicBool) {
    let Some(run) = hostile.open(0, "broken") else { return };
    hostile.batch(&run, &order("e", 1 << 20));
    hostile.call("GET", "/runs", b"");
}

fn answers_that_are_not_read(hostile: &Hostile, stop: &AtomicBool) {
    let Some(run) = hostile.open(0, "obey") else { return };
    let (target, reply) = hostile.batch(&run, &order("b60000000", 64 << 20));
    if reply.is_some() {
        hostile.hold(30, stop, |_| hostile.client.signed_head("GET", &target, &digest(b""), 0).into_bytes());
    }
    hostile.end(&run);
}

fn acknowledgements_of_unknown_batches(hostile: &Hostile, stop: &AtomicBool) {
    let Some(run) = hostile.open(0, "obey") else { return };
    for turn in 0..100u64 {
        let seqs: Vec<u64> = (0..10_000).map(|seq| 1_000_000 + turn * 10_000 + seq).collect();
        hostile.call("POST", &format!("/runs/{run}/ack"), &to_json(&json!({ "seqs": seqs })));
        pause(stop, Duration::from_millis(100));
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    hostile.end(&run);
}

fn uploads_of_one_byte(hostile: &Hostile, stop: &AtomicBool) {
    for _ in 0..500 {
        let target = format!("/contexts/{}?offset=0&total=1000", digest(nonce().as_bytes()));
        hostile.call("PUT", &target, b"x");
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

fn threads_without_batches(hostile: &Hostile, stop: &AtomicBool) {
    let Some(run) = hostile.open(2, "obey") else { return };
    pause(stop, TURN);
    hostile.end(&run);
}

fn work_before_the_handshake(hostile: &Hostile, _stop: &AtomicBool) {
    hostile.request(3, "obey", "hostile");
}

fn batches_cancelled_after_their_lines(hostile: &Hostile, stop: &AtomicBool) {
    let Some(run) = hostile.open(0, "obey") else { return };
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let seq = hostile.seq.fetch_add(1, Ordering::Relaxed);
            let target = format!("/runs/{run}/batches/{seq}");
            let sent = scope.spawn({
                let target = target.clone();
                move || hostile.call("PUT", &target, &order("s9000", 1 << 20)).is_some()
            });
            pause(stop, Duration::from_secs(2));
            hostile.call("DELETE", &target, b"");
            drop(sent.join());
        });
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    hostile.end(&run);
}

/// Eight workers that compute, of one account.
fn spinners(hostile: &Hostile, stop: &AtomicBool) {
    let runs: Vec<String> = (0..4).filter_map(|_| hostile.open(0, "obey")).collect();
    std::thread::scope(|scope| {
        for run in runs.iter().flat_map(|run| [run, run]) {
            scope.spawn(|| hostile.batch(run, &order("s9000", 1 << 20)));
        }
    });
    pause(stop, Duration::from_secs(1));
    for run in &runs {
        hostile.end(run);
    }
}

fn forged_log_records(hostile: &Hostile, _stop: &AtomicBool) {
    let Some(run) = hostile.open(0, "obey") else { return };
    hostile.batch(&run, &order("l100000", 1 << 20));
    hostile.end(&run);
}

fn announced_bodies(hostile: &Hostile, stop: &AtomicBool) {
    let Some(run) = hostile.open(0, "obey") else { return };
    hostile.hold(32, stop, |at| {
        let target = format!("/runs/{run}/batches/{}", 1_000_000 + at);
        hostile.client.signed_head("PUT", &target, &digest(b"never sent"), 64 << 20).into_bytes()
    });
    hostile.end(&run);
}

fn long_polls(hostile: &Hostile, stop: &AtomicBool) {
    let Some(run) = hostile.open(0, "obey") else { return };
    std::thread::scope(|scope| {
        let seq = hostile.seq.fetch_add(1, Ordering::Relaxed);
        let target = format!("/runs/{run}/batches/{seq}");
        let sender = target.clone();
        scope.spawn(move || hostile.call("PUT", &sender, &order("s9000", 1 << 20)));
        pause(stop, Duration::from_millis(300));
        hostile.hold(32, stop, |_| hostile.client.signed_head("GET", &target, &digest(b""), 0).into_bytes());
    });
    hostile.end(&run);
}

fn answers_to_no_batch(hostile: &Hostile, stop: &AtomicBool) {
    let Some(run) = hostile.open(0, "obey") else { return };
    hostile.batch(&run, &order("n", 1 << 20));
    pause(stop, Duration::from_secs(2));
    hostile.end(&run);
}

fn long_failures(hostile: &Hostile, _stop: &AtomicBool) {
    let Some(run) = hostile.open(0, "obey") else { return };
    hostile.batch(&run, &order("x60000000", 1 << 20));
    hostile.end(&run);
}

fn long_names(hostile: &Hostile, _stop: &AtomicBool) {
    let Some(hash) = hostile.upload(&program(0)) else { return };
    let long = "n".repeat(10_000);
    let open = json!({ "key": nonce(), "executable": hash, "function": { "offset": 0, "name": long }, "label": "x" });
    hostile.call("POST", "/runs", &to_json(&open));
}

fn runs_without_batches(hostile: &Hostile, _stop: &AtomicBool) {
    if let Some(run) = hostile.open(0, "obey") {
        hostile.end(&run);
    }
}

fn event_streams(hostile: &Hostile, stop: &AtomicBool) {
    let Some(run) = hostile.open(0, "obey") else { return };
    let target = format!("/runs/{run}/events");
    hostile.hold(80, stop, |_| hostile.client.signed_head("GET", &target, &digest(b""), 0).into_bytes());
    hostile.end(&run);
}

/// What a jail bounds: memory, processes, threads.
fn bombs(hostile: &Hostile, stop: &AtomicBool) {
    let Some(run) = hostile.open(0, "obey") else { return };
    for bomb in ["m4000", "f", "t"] {
        hostile.batch(&run, &order(bomb, 1 << 20));
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    hostile.end(&run);
}

fn floods_of_lines(hostile: &Hostile, _stop: &AtomicBool) {
    let Some(run) = hostile.open(0, "obey") else { return };
    hostile.batch(&run, &order("p30000", 1 << 20));
    hostile.end(&run);
}

fn unfinished_heads(hostile: &Hostile, stop: &AtomicBool) {
    let head = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx-padding: {}", "p".repeat(400_000));
    hostile.hold(100, stop, |_| head.clone().into_bytes());
}

fn idle_connections(hostile: &Hostile, stop: &AtomicBool) {
    hostile.hold(600, stop, |_| Vec::new());
}

/// Requests that need no account, or have a wrong signature.
fn unsigned_requests(hostile: &Hostile, stop: &AtomicBool) {
    for at in 0..200 {
        let Some(mut stream) = hostile.connect() else { return };
        let path = ["/api/v1/openapi.json", "/sign-in/wrong", "/metrics", "/api/v1/runs"][at % 4];
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let _refused = stream.write_all(request.as_bytes());
        let _unread = stream.read(&mut [0; 1024]);
        hostile
            .client
            .try_call("GET", "/runs", b"", &Wrong { signature: Some("0".repeat(64)), ..Wrong::default() })
            .ok();
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}
