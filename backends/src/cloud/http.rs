//! One request and its answer: signed, sent, and believed only with the service's signature. Connections are kept
//! alive in two pools: one for short calls, one for what may take long (`Http::long`), so that a heartbeat never waits
//! behind a batch or hangs on a connection that is dead without saying so.

use std::fmt;
use std::io::Read;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fastmap_sandbox::unpoisoned::LockUnpoisoned;
use serde::Serialize;
use serde::de::DeserializeOwned;
use ureq::http::{Request, Response};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::problem::{Problem, ProblemCode};
use super::proxy::{self, NamedProxy};
use super::sign::{
    HEADER_DIGEST, HEADER_NONCE, HEADER_PROTOCOL, HEADER_SIGNATURE, HEADER_TIMESTAMP, PROTOCOL, RequestHead,
    ResponseHead, Secret, SigningKey, digest,
};
use super::url::ServiceUrl;
use crate::model::hex::hexadecimal;

const CONNECT: Duration = Duration::from_secs(10);
/// A short call is over by then, or another connection is tried.
const SHORT: Duration = Duration::from_secs(8);
/// Not a byte of a request goes on within this: the connection is dead. No less: a writer is woken only when a third of
/// its buffer is free again, and on a slow way 4 MB of buffer take that long.
const STALLED: Duration = Duration::from_secs(30);
/// The service lets a request wait for its answer so long, unless it says otherwise; and what the way may add.
const LONG_POLL: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(10);
/// The service gives a run's first worker a minute, and says then why there is none.
const OPENING: Duration = Duration::from_secs(70);
/// Less than the minute after which the service closes an idle connection.
const IDLE: Duration = Duration::from_secs(30);
/// Bytes of an answer of a short call.
const SHORT_ANSWER: u64 = 16 << 20;
/// Bytes of an answer to a batch: many times what the service cuts batches at, as one result may be of any size.
const LONG_ANSWER: u64 = 4 << 30;

/// Sends requests of one token to one service.
pub(super) struct Http {
    pub(super) url: ServiceUrl,
    token: String,
    key: SigningKey,
    /// Why a proxy that the environment names can't be used, or the one that is.
    proxy: Result<Option<NamedProxy>, String>,
    clock: Clock,
    short: OnceLock<Result<Agent, String>>,
    long: OnceLock<Agent>,
    /// How long a request waits for its answer at the service.
    pub(super) long_poll: OnceLock<Duration>,
}

/// The time that requests are signed with: this machine's, until the service says that the two differ. From
/// then on it is the service's, carried on by the monotonic clock, so that further steps of this machine's
/// wall clock do not matter.
#[derive(Debug, Default)]
struct Clock(Mutex<Option<(u64, Instant)>>);

impl Clock {
    /// Seconds since 1970.
    fn now(&self) -> u64 {
        match *self.0.lock_unpoisoned() {
            Some((time, at)) => time.saturating_add(at.elapsed().as_secs()),
            None => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        }
    }

    /// The service's clock says so now, in an answer that is signed for a request of this moment.
    fn set(&self, time: u64) {
        *self.0.lock_unpoisoned() = Some((time, Instant::now()));
    }
}

/// Which pool a request goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Short,
    Long,
    /// The long one; the answer may take as long as the service takes to start a first worker.
    Opening,
}

/// An answer of the service, its signature checked.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    pub(super) took: Duration,
}

/// Why there is nothing to go on with.
#[derive(Debug)]
pub(super) enum Failure {
    /// The service has said why.
    Problem(Box<Problem>),
    /// Somebody has answered, and did not sign.
    Unsigned { status: u16, retry_after: Option<Duration> },
    /// No answer, or half of one.
    Transport(Box<ureq::Error>),
    /// This machine lacks something.
    Local(String),
    /// Signed, and not what this version can read.
    Unreadable(String),
}

impl Failure {
    /// Whether the connection is there and takes requests, and nothing comes back: whatever answers at the other end stands
    /// still. Where none listens, or none is reached, a new connection says so.
    pub(super) fn is_silence(&self) -> bool {
        use ureq::Timeout as At;
        matches!(self, Failure::Transport(error) if matches!(error.as_ref(), ureq::Error::Timeout(
            At::PerRead | At::PerWrite | At::SendRequest | At::SendBody | At::RecvResponse | At::RecvBody)))
    }
}

impl fmt::Debug for Http {
    /// The half of the secret that travels is nobody's to see either.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("url", &self.url)
            .field("token", &self.token_begin())
            .finish_non_exhaustive()
    }
}

impl Http {
    pub(super) fn new(url: ServiceUrl, secret: &Secret) -> Self {
        let proxy = proxy::on_the_way_to(&url, |name| std::env::var(name).ok());
        Http {
            url,
            proxy,
            token: secret.token().to_owned(),
            key: secret.key(),
            clock: Clock::default(),
            short: OnceLock::new(),
            long: OnceLock::new(),
            long_poll: OnceLock::new(),
        }
    }

    /// Where requests go, in words: the service, and the proxy on the way.
    pub(super) fn way(&self) -> String {
        match &self.proxy {
            Ok(Some(proxy)) => format!("{} (by the proxy of {proxy})", self.url),
            _ => self.url.to_string(),
        }
    }

    /// What of the token may be shown: enough to tell it from others.
    pub(super) fn token_begin(&self) -> &str {
        &self.token[..6]
    }

    fn agent(&self, by: By) -> Result<&Agent, Failure> {
        if let Err(unusable) = &self.proxy {
            return Err(Failure::Local(unusable.clone()));
        }
        let short = self.short.get_or_init(|| Ok(self.make(self.tls()?, By::Short)));
        let short = short.as_ref().map_err(|why| Failure::Local(why.clone()))?;
        match by {
            By::Short => Ok(short),
            By::Long | By::Opening => {
                Ok(self.long.get_or_init(|| self.make(short.config().tls_config().clone(), By::Long)))
            }
        }
    }

    fn make(&self, tls: TlsConfig, by: By) -> Agent {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // A request is signed for the path that it names.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("fastmap/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .max_idle_age(IDLE)
            .timeout_connect(Some(CONNECT))
            .timeout_per_write(Some(STALLED));
        let proxy = self.proxy.as_ref().ok().and_then(Option::as_ref);
        let config = config.proxy(proxy.map(|named| named.proxy.clone()));
        let config = match by {
            By::Short => config.timeout_per_call(Some(SHORT)).max_idle_connections_per_host(2),
            By::Long | By::Opening => {
                let poll = self.long_poll.get().copied().unwrap_or(LONG_POLL);
                config
                    .timeout_recv_response(Some(poll + GRACE))
                    .timeout_per_read(Some(poll + GRACE))
                    .max_idle_connections(256)
                    .max_idle_connections_per_host(256)
            }
        };
        config.build().into()
    }

    /// Whom to believe: the file or folder that `SSL_CERT_FILE` or `SSL_CERT_DIR` name, else the system's certificates.
    fn tls(&self) -> Result<TlsConfig, String> {
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
        if !self.url.is_secure() {
            return Ok(tls.build());
        }
        let found = rustls_native_certs::load_native_certs();
        if found.certs.is_empty() {
            let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
            return Err(format!(
                "no certificates of authorities were found to check {} by{why}; install ca-certificates, or name a \
                 file of them in SSL_CERT_FILE",
                self.url
            ));
        }
        let certificates: Vec<_> =
            found.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect();
        Ok(tls.root_certs(RootCerts::new_with_certs(&certificates)).build())
    }

    /// Sends a request; gives its answer if that is of the kind that was asked for (2xx).
    pub(super) fn call(&self, by: By, method: &str, target: &str, body: &[u8]) -> Result<Reply, Failure> {
        let begun = Instant::now();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = format!("/api/v{PROTOCOL}{path}");
        let nonce = random_hex()?;
        let timestamp = self.clock.now();
        let body_digest = digest(body);
        let head = RequestHead { method, path: &path, query, timestamp, nonce: &nonce, digest: &body_digest };
        let signature = self.key.sign_request(&head);
        let request = Request::builder()
            .method(method)
            .uri(format!("{}/api/v{PROTOCOL}{target}", self.url))
            .header("authorization", format!("Bearer {}", self.token))
            .header(HEADER_PROTOCOL, PROTOCOL)
            .header(HEADER_TIMESTAMP, timestamp)
            .header(HEADER_NONCE, &nonce)
            .header(HEADER_DIGEST, &body_digest)
            .header(HEADER_SIGNATURE, signature);
        let agent = self.agent(by)?;
        let broken = |error: ureq::http::Error| Failure::Transport(Box::new(error.into()));
        let response = match method {
            "GET" | "DELETE" => agent.run(request.body(()).map_err(broken)?),
            _ => {
                let request = request.body(body).map_err(broken)?;
                let request = match by {
                    By::Opening => {
                        let config = agent.configure_request(request);
                        config.timeout_recv_response(Some(OPENING)).timeout_per_read(Some(OPENING)).build()
                    }
                    _ => request,
                };
                agent.run(request)
            }
        };
        let response = response.map_err(|error| Failure::Transport(Box::new(error)))?;
        let (status, body) = self.check(response, by, &path, &nonce)?;
        let reply = Reply { status, body, took: begun.elapsed() };
        match status {
            200..300 => Ok(reply),
            _ => {
                let problem: Box<Problem> = reply.json()?;
                if problem.known() == Some(ProblemCode::ClockSkew)
                    && let Some(time) = problem.server_time
                {
                    self.clock.set(time);
                }
                Err(Failure::Problem(problem))
            }
        }
    }

    /// A short call that takes and gives JSON.
    pub(super) fn ask<T: DeserializeOwned>(
        &self,
        by: By,
        method: &str,
        target: &str,
        body: Option<&impl Serialize>,
    ) -> Result<(T, Duration), Failure> {
        let body = body.map(|body| serde_json::to_vec(body).expect("names and numbers can be written"));
        let reply = self.call(by, method, target, &body.unwrap_or_default())?;
        Ok((reply.json()?, reply.took))
    }

    /// Takes the body of an answer that is signed for this request; nothing of it is decoded before.
    fn check(
        &self,
        mut response: Response<Body>,
        by: By,
        path: &str,
        nonce: &str,
    ) -> Result<(u16, Vec<u8>), Failure> {
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let unsigned = || Failure::Unsigned {
            status,
            retry_after: header("retry-after").and_then(|after| after.parse().ok()).map(Duration::from_secs),
        };
        let Some(signature) = header(HEADER_SIGNATURE).map(str::to_owned) else { return Err(unsigned()) };
        let unsigned = unsigned();
        let most = if by == By::Short { SHORT_ANSWER } else { LONG_ANSWER };
        let length = response.body().content_length().unwrap_or(0);
        // What is said to come is not allocated at once: it has not come yet.
        let mut body = Vec::with_capacity(length.min(8 << 20) as usize);
        let read = response.body_mut().with_config().limit(most).reader().read_to_end(&mut body);
        read.map_err(|error| Failure::Transport(Box::new(error.into())))?;
        let mut words = path.split('/').skip(3);
        let (run, seq) = match (words.next(), words.next(), words.next(), words.next()) {
            (Some("runs"), Some(run), Some("batches"), Some(seq)) => (run, seq),
            (Some("runs"), Some(run), ..) => (run, ""),
            _ => ("", ""),
        };
        let head = ResponseHead { nonce, status, run, seq, digest: &digest(&body) };
        match self.key.verify_response(&head, &signature) {
            true => Ok((status, body)),
            false => Err(unsigned),
        }
    }
}

impl Reply {
    /// What the body says.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::Unreadable(format!("an answer that this version can't read: {error}")))
    }
}

/// 32 hexadecimal digits that nobody can guess.
pub(super) fn random_hex() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Failure::Local(format!("no random bytes: {error}")))?;
    Ok(hexadecimal(&bytes))
}
