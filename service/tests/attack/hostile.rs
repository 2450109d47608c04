//! A hostile account, its program, and what the attacks do with both.

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastmap_backends::cloud::{BatchBody, FunctionName, OpenRun, RunOpened, digest};
use serde_json::Value;

use crate::client::{Client, Reply, Wrong, nonce, to_json};

/// An attacker waits this long for an answer, and then goes on without it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one turn of an attack that holds something lasts.
pub(crate) const TURN: Duration = Duration::from_secs(8);

/// Waits, but no longer than until the suite stops.
pub(crate) fn pause(stop: &AtomicBool, time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(10).min(time));
    }
}

/// A hostile account.
pub(crate) struct Hostile {
    pub(crate) client: Client,
    /// The number of its next batch.
    pub(crate) seq: AtomicU64,
}

/// The hostile program with its mode written into it.
pub(crate) fn program(mode: u8) -> Vec<u8> {
    const MARK: &[u8] = b"fastmap-hostile-mode:00";
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let read = || std::fs::read(env!("CARGO_BIN_EXE_fastmap-service-test-hostile")).expect("it is built");
    let mut bytes = BYTES.get_or_init(read).clone();
    let at = bytes.windows(MARK.len()).position(|window| window == MARK).expect("the mark is in it");
    bytes[at + MARK.len()] = b'0' + mode;
    bytes
}

fn function(name: &str) -> FunctionName {
    static SAID: OnceLock<String> = OnceLock::new();
    let said = SAID.get_or_init(|| {
        let output = Command::new(env!("CARGO_BIN_EXE_fastmap-service-test-hostile")).output();
        String::from_utf8(output.expect("it is built").stdout).expect("text")
    });
    let line = said.lines().find_map(|line| line.strip_prefix(name)).expect("a function of that name");
    FunctionName { offset: line.trim().parse().expect("a number"), name: name.to_owned() }
}

/// A batch of one order, with room for so many bytes of results.
pub(crate) fn order(order: &str, result_credit: u64) -> Vec<u8> {
    let mut payload = (order.len() as u32).to_le_bytes().to_vec();
    payload.extend_from_slice(order.as_bytes());
    let length = payload.len() as u64;
    let body = BatchBody {
        first: 0,
        items: 1,
        stride: None,
        result_credit,
        length,
        compressed: false,
        level: None,
        payload: &payload,
    };
    body.encode()
}

impl Hostile {
    pub(crate) fn new(client: Client) -> Hostile {
        Hostile { client: client.answered_within(PATIENCE), seq: AtomicU64::new(0) }
    }

    /// Sends a request; what becomes of it is of no interest.
    pub(crate) fn call(&self, method: &str, target: &str, body: &[u8]) -> Option<Reply> {
        self.client.try_call(method, target, body, &Wrong::default()).ok()
    }

    pub(crate) fn upload(&self, bytes: &[u8]) -> Option<String> {
        let hash = digest(bytes);
        if self.call("HEAD", &format!("/executables/{hash}"), b"")?.status == 200 {
            return Some(hash);
        }
        let packed = zstd::bulk::compress(bytes, 1).ok()?;
        let mut offset = 0;
        while offset < packed.len() {
            let part = &packed[offset..packed.len().min(offset + (4 << 20))];
            let target = format!("/executables/{hash}?offset={offset}&total={}", packed.len());
            let reply = self.call("PUT", &target, part)?;
            match reply.status {
                200 => break,
                202 => offset += part.len(),
                _ => {
                    let problem: Value = serde_json::from_slice(&reply.body).ok()?;
                    offset = usize::try_from(problem["offset"].as_u64()?).ok()?;
                }
            }
        }
        Some(hash)
    }

    pub(crate) fn request(&self, mode: u8, name: &str, label: &str) -> Option<Reply> {
        let open = OpenRun {
            key: nonce(),
            executable: self.upload(&program(mode))?,
            function: function(name),
            context: None,
            label: Some(label.to_owned()),
            items: None,
            item_timeout_ms: None,
            max_credits: None,
            locale: None,
        };
        self.call("POST", "/runs", &to_json(&open))
    }

    pub(crate) fn open(&self, mode: u8, name: &str) -> Option<String> {
        let reply = self.request(mode, name, "hostile")?;
        Some(serde_json::from_slice::<RunOpened>(&reply.body).ok()?.run)
    }

    pub(crate) fn batch(&self, run: &str, body: &[u8]) -> (String, Option<Reply>) {
        let target = format!("/runs/{run}/batches/{}", self.seq.fetch_add(1, Ordering::Relaxed));
        let reply = self.call("PUT", &target, body);
        (target, reply)
    }

    pub(crate) fn end(&self, run: &str) {
        self.call("POST", &format!("/runs/{run}/done"), b"");
    }

    /// Ends all its runs that are open.
    pub(crate) fn end_all_runs(&self) {
        let list = || -> Option<Value> { serde_json::from_slice(&self.call("GET", "/runs", b"")?.body).ok() };
        for run in list().unwrap_or_default()["runs"].as_array().into_iter().flatten() {
            if run["state"] == "open" {
                self.call("POST", &format!("/runs/{}/cancel", run["run"].as_str().unwrap_or_default()), b"");
            }
        }
    }

    pub(crate) fn connect(&self) -> Option<TcpStream> {
        let stream = TcpStream::connect(self.client.url.strip_prefix("http://")?).ok()?;
        stream.set_read_timeout(Some(Duration::from_millis(1))).ok()?;
        stream.set_write_timeout(Some(PATIENCE)).ok()?;
        Some(stream)
    }

    /// Connections that have begun to say something, held for a turn.
    pub(crate) fn hold(&self, number: usize, stop: &AtomicBool, mut begin: impl FnMut(usize) -> Vec<u8>) {
        let mut held = Vec::new();
        for at in 0..number {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let Some(mut stream) = self.connect() else { break };
            if stream.write_all(&begin(at)).is_ok() {
                held.push(stream);
            }
        }
        pause(stop, TURN);
    }
}
