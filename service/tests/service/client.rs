//! A client of the protocol as docs/protocol.md has it: small, patient, and able to say wrong things.

use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fastmap_backends::cloud::{
    Answer, BatchBody, FunctionName, OpenRun, PartOutcome, Problem, RequestHead, ResponseHead, RunOpened,
    Secret, digest, hexadecimal,
};
use serde_json::Value;
use ureq::http::{Request, Response};
use ureq::{Agent, Body};

use crate::server::{LIMIT, worker};

#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) agent: Agent,
    pub(crate) url: String,
    pub(crate) secret: Secret,
}

/// An answer, its signature checked where there is one.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    pub(crate) signed: bool,
    pub(crate) headers: ureq::http::HeaderMap,
}

impl Reply {
    #[track_caller]
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, status: u16) -> T {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body).expect("JSON of the right kind")
    }

    #[track_caller]
    pub(crate) fn problem(&self, code: &str) -> Problem {
        let problem: Problem = serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{error}: {} {}", self.status, String::from_utf8_lossy(&self.body))
        });
        assert_eq!((problem.code.as_str(), problem.status), (code, self.status), "{problem}");
        problem
    }
}

/// What of a request may be made wrong.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wrong {
    pub(crate) timestamp: i64,
    pub(crate) nonce: Option<String>,
    pub(crate) signature: Option<String>,
    pub(crate) digest: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) protocol: Option<String>,
}

pub(crate) fn nonce() -> String {
    hexadecimal(&fastmap_service::keys::random::<16>().expect("random bytes"))
}

pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64
}

pub(crate) fn agent() -> Agent {
    let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(LIMIT));
    config.max_idle_connections_per_host(16).build().into()
}

impl Client {
    pub(crate) fn new(url: &str, secret: Secret) -> Client {
        Client { agent: agent(), url: url.to_owned(), secret }
    }

    /// This one leaves where an answer takes longer.
    pub(crate) fn answered_within(self, time: Duration) -> Client {
        let config = Agent::config_builder().http_status_as_error(false).timeout_recv_response(Some(time));
        Client { agent: config.build().into(), ..self }
    }

    /// Sends a request; fails the test where no answer comes.
    pub(crate) fn call(&self, method: &str, target: &str, body: &[u8]) -> Reply {
        self.wrong(method, target, body, &Wrong::default())
    }

    pub(crate) fn wrong(&self, method: &str, target: &str, body: &[u8], wrong: &Wrong) -> Reply {
        self.try_call(method, target, body, wrong)
            .unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    pub(crate) fn try_call(
        &self,
        method: &str,
        target: &str,
        body: &[u8],
        wrong: &Wrong,
    ) -> Result<Reply, ureq::Error> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = format!("/api/v1{path}");
        let nonce = wrong.nonce.clone().unwrap_or_else(nonce);
        let timestamp = (now() + wrong.timestamp) as u64;
        let body_digest = wrong.digest.clone().unwrap_or_else(|| digest(body));
        let head = RequestHead { method, path: &path, query, timestamp, nonce: &nonce, digest: &body_digest };
        let signature = wrong.signature.clone().unwrap_or_else(|| self.secret.key().sign_request(&head));
        let token = wrong.token.as_deref().unwrap_or(self.secret.token());
        let request = Request::builder()
            .method(method)
            .uri(format!("{}/api/v1{target}", self.url))
            .header("authorization", format!("Bearer {token}"))
            .header("fastmap-protocol", wrong.protocol.as_deref().unwrap_or("1"))
            .header("fastmap-timestamp", timestamp)
            .header("fastmap-nonce", &nonce)
            .header("fastmap-digest", &body_digest)
            .header("fastmap-signature", signature);
        let response = match method {
            "GET" | "HEAD" | "DELETE" => self.agent.run(request.body(()).expect("a request"))?,
            _ => self.agent.run(request.body(body.to_vec()).expect("a request"))?,
        };
        self.check(response, &path, &nonce)
    }

    /// The head of a signed request whose body has `length` bytes, for a connection of the caller's own.
    pub(crate) fn signed_head(&self, method: &str, target: &str, digest: &str, length: u64) -> String {
        let (path, timestamp, nonce) = (format!("/api/v1{target}"), now() as u64, nonce());
        let head = RequestHead { method, path: &path, query: "", timestamp, nonce: &nonce, digest };
        let signature = self.secret.key().sign_request(&head);
        format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
             fastmap-timestamp: {timestamp}\r\nfastmap-nonce: {nonce}\r\nfastmap-digest: {digest}\r\n\
             fastmap-signature: {signature}\r\ncontent-length: {length}\r\n\r\n",
            self.secret.token()
        )
    }

    fn check(&self, mut response: Response<Body>, path: &str, nonce: &str) -> Result<Reply, ureq::Error> {
        let headers = response.headers().clone();
        let body = response.body_mut().with_config().limit(1 << 30).read_to_vec()?;
        let status = response.status().as_u16();
        let words: Vec<&str> = path.split('/').collect();
        let run = if words.get(3) == Some(&"runs") { words.get(4).copied().unwrap_or("") } else { "" };
        let seq = if words.get(5) == Some(&"batches") { words.get(6).copied().unwrap_or("") } else { "" };
        let head = ResponseHead { nonce, status, run, seq, digest: &digest(&body) };
        let signed = headers.get("fastmap-signature").is_some_and(|signature| {
            let good = self.secret.key().verify_response(&head, signature.to_str().expect("hexadecimal"));
            assert!(good, "a signature that is wrong on {status} of {path}");
            good
        });
        Ok(Reply { status, body, signed, headers })
    }

    /// Uploads in parts of `part` bytes.
    pub(crate) fn upload(&self, kind: &str, bytes: &[u8], part: usize) -> String {
        let hash = digest(bytes);
        let packed = zstd::bulk::compress(bytes, 1).expect("memory");
        let mut last = None;
        for (at, piece) in packed.chunks(part).enumerate() {
            let target = format!("/{kind}/{hash}?offset={}&total={}", at * part, packed.len());
            last = Some(self.call("PUT", &target, piece));
        }
        let status: Value = last.expect("a part").json(200);
        assert_eq!(status["present"], true);
        hash
    }

    pub(crate) fn upload_worker(&self) -> String {
        static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
        let bytes = BYTES.get_or_init(|| std::fs::read(worker()).expect("the worker is built"));
        self.upload("executables", bytes, 4 << 20)
    }

    pub(crate) fn open(&self, executable: &str) -> String {
        let reply = self.call("POST", "/runs", &to_json(&open_run(executable, "obey")));
        reply.json::<RunOpened>(201).run
    }

    /// Uploads the test's worker and opens a run of it.
    pub(crate) fn run(&self) -> String {
        self.open(&self.upload_worker())
    }

    /// Sends a batch until it is answered.
    pub(crate) fn batch(&self, run: &str, seq: u64, items: &[&str]) -> Reply {
        self.patiently(run, seq, &batch(items))
    }

    /// Sends a batch until it is answered, whatever becomes of the service meanwhile.
    pub(crate) fn patiently(&self, run: &str, seq: u64, body: &[u8]) -> Reply {
        let target = format!("/runs/{run}/batches/{seq}");
        let begun = Instant::now();
        let mut method = "PUT";
        loop {
            assert!(begun.elapsed() < 3 * LIMIT, "no answer to {target}");
            let sent = if method == "GET" { &[][..] } else { body };
            match self.try_call(method, &target, sent, &Wrong::default()) {
                Ok(reply) if reply.status == 202 => method = "GET",
                Ok(reply) if [404, 429, 503].contains(&reply.status) && reply_code(&reply) != "not_found" => {
                    method = "PUT";
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok(reply) => return reply,
                Err(_) => {
                    method = "PUT";
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }

    pub(crate) fn balance(&self) -> i64 {
        self.call("POST", "/auth", b"").json::<Value>(200)["balance"].as_i64().expect("a number")
    }
}

fn reply_code(reply: &Reply) -> String {
    serde_json::from_slice::<Problem>(&reply.body).map(|problem| problem.code).unwrap_or_default()
}

pub(crate) fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("it can be written")
}

/// Where a function of the worker stands.
pub(crate) fn function(name: &str) -> FunctionName {
    static SAID: OnceLock<String> = OnceLock::new();
    let said = SAID.get_or_init(|| {
        let output = Command::new(worker()).arg("describe").output().expect("the worker is built");
        String::from_utf8(output.stdout).expect("text")
    });
    let line = said.lines().find_map(|line| line.strip_prefix(name)).expect("a function of that name");
    FunctionName { offset: line.trim().parse().expect("a number"), name: name.to_owned() }
}

pub(crate) fn open_run(executable: &str, name: &str) -> OpenRun {
    OpenRun {
        key: nonce(),
        executable: executable.to_owned(),
        function: function(name),
        context: None,
        label: Some("a test".to_owned()),
        items: None,
        item_timeout_ms: None,
        max_credits: None,
        locale: None,
    }
}

/// A batch of orders for the worker.
pub(crate) fn batch(items: &[&str]) -> Vec<u8> {
    let mut payload = Vec::new();
    for item in items {
        payload.extend_from_slice(&(item.len() as u32).to_le_bytes());
        payload.extend_from_slice(item.as_bytes());
    }
    let body = BatchBody {
        first: 0,
        items: items.len() as u32,
        stride: None,
        result_credit: 1 << 20,
        length: payload.len() as u64,
        compressed: false,
        level: None,
        payload: &payload,
    };
    body.encode()
}

/// The results of a batch, in order; every item must have one.
#[track_caller]
pub(crate) fn results(reply: &Reply, items: u32) -> Vec<Vec<u8>> {
    assert_eq!(reply.status, 200, "{}", String::from_utf8_lossy(&reply.body));
    assert!(reply.signed);
    let mut answer = Answer::decode(&reply.body, items).expect("an answer");
    answer.parts.sort_by_key(|part| part.offset);
    let mut found = Vec::new();
    for part in &answer.parts {
        let PartOutcome::Done(results) = &part.outcome else { panic!("{part:?}") };
        assert_eq!(results.failures, []);
        found.extend(fastmap_backends::Items::new(results.payload.bytes(), None).map(<[u8]>::to_vec));
    }
    found
}
