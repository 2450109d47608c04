//! One signed request and its verified answer. There are two pools of kept-alive connections: one for short
//! calls, one for long ones (`Http::long`). So a heartbeat never queues after a batch, nor hangs on a
//! connection that is dead without a sign.

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

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of a short call; then another connection is tried.
const SHORT_TIMEOUT: Duration = Duration::from_secs(8);
/// Write timeout: without progress for this long, the connection is dead. No less: a writer is woken only
/// when a third of its buffer is free again, and on a slow network 4 MB of buffer take that long.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that the service holds a request open for its answer, unless it reports another; and the allowance
/// for the network.
const LONG_POLL: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(10);
/// The service waits a minute for a run's first worker to start before it reports a failure.
const OPENING_TIMEOUT: Duration = Duration::from_secs(70);
/// Less than the minute after which the service closes an idle connection.
const MAX_IDLE: Duration = Duration::from_secs(30);
/// Maximum bytes of a short call's answer.
const MAX_SHORT_ANSWER: u64 = 16 << 20;
/// Maximum bytes of a batch's answer: many times the size at which the service cuts batches, because one
/// result may have any size.
const MAX_LONG_ANSWER: u64 = 4 << 30;

/// HTTP client for one token and one service.
pub(super) struct Http {
    pub(super) url: ServiceUrl,
    token: String,
    key: SigningKey,
    /// The proxy in use, or why the one that the environment names can't be used.
    proxy: Result<Option<NamedProxy>, String>,
    clock: Clock,
    short: OnceLock<Result<Agent, String>>,
    long: OnceLock<Agent>,
    /// Time that the service holds a request open for its answer.
    pub(super) long_poll: OnceLock<Duration>,
}

/// Clock for signing requests: this machine's, until the service reports a difference. From then on it is the
/// service's time, advanced by the monotonic clock, so that later steps of this machine's wall clock do not
/// matter.
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

    /// Sets the service's time, from an answer signed for a request made just now.
    fn set(&self, time: u64) {
        *self.0.lock_unpoisoned() = Some((time, Instant::now()));
    }
}

/// Connection pool and timeouts of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeoutClass {
    Short,
    Long,
    /// The long pool, with the time that the service takes to start a first worker.
    Opening,
}

/// Answer of the service with a valid signature.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    pub(super) took: Duration,
}

/// Reason why a request has no usable answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// A problem document of the service.
    Problem(Box<Problem>),
    /// Answered without a signature, for example by a proxy.
    Unsigned { status: u16, retry_after: Option<Duration> },
    /// No answer, or an incomplete one.
    Transport(Box<ureq::Error>),
    /// An error on this machine.
    Local(String),
    /// Signed, but not readable by this version.
    Unreadable(String),
}

impl Failure {
    /// Returns whether the connection is open and accepts requests, but no answer arrives: the server has
    /// stalled. If no server listens, or none is reachable, a new connection fails instead.
    pub(super) fn is_silence(&self) -> bool {
        use ureq::Timeout as At;
        matches!(self, Failure::Transport(error) if matches!(error.as_ref(), ureq::Error::Timeout(
            At::PerRead | At::PerWrite | At::SendRequest | At::SendBody | At::RecvResponse | At::RecvBody)))
    }
}

impl fmt::Debug for Http {
    /// Redacts the token: it is the half of the secret that is sent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("url", &self.url)
            .field("token", &self.token_prefix())
            .finish_non_exhaustive()
    }
}

impl Http {
    pub(super) fn new(url: ServiceUrl, secret: &Secret) -> Self {
        let proxy = proxy::proxy_for(&url, |name| std::env::var(name).ok());
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

    /// The service's URL and the proxy, for messages.
    pub(super) fn url_and_proxy(&self) -> String {
        match &self.proxy {
            Ok(Some(proxy)) => format!("{} (by the proxy of {proxy})", self.url),
            _ => self.url.to_string(),
        }
    }

    /// First characters of the token, which may be shown: enough to identify it.
    pub(super) fn token_prefix(&self) -> &str {
        &self.token[..6]
    }

    fn agent(&self, class: TimeoutClass) -> Result<&Agent, Failure> {
        if let Err(unusable) = &self.proxy {
            return Err(Failure::Local(unusable.clone()));
        }
        let short = self.short.get_or_init(|| Ok(self.build_agent(self.tls()?, TimeoutClass::Short)));
        let short = short.as_ref().map_err(|why| Failure::Local(why.clone()))?;
        match class {
            TimeoutClass::Short => Ok(short),
            TimeoutClass::Long | TimeoutClass::Opening => Ok(self
                .long
                .get_or_init(|| self.build_agent(short.config().tls_config().clone(), TimeoutClass::Long))),
        }
    }

    fn build_agent(&self, tls: TlsConfig, class: TimeoutClass) -> Agent {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // A request is signed for its path, so a redirect would be rejected.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("fastmap/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .max_idle_age(MAX_IDLE)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_write(Some(WRITE_TIMEOUT));
        let proxy = self.proxy.as_ref().ok().and_then(Option::as_ref);
        let config = config.proxy(proxy.map(|named| named.proxy.clone()));
        let config = match class {
            TimeoutClass::Short => {
                config.timeout_per_call(Some(SHORT_TIMEOUT)).max_idle_connections_per_host(2)
            }
            TimeoutClass::Long | TimeoutClass::Opening => {
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

    /// Trusted certificates: the file or folder named by `SSL_CERT_FILE` or `SSL_CERT_DIR`, else the
    /// system's.
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

    /// Sends a request; returns its answer if the status is 2xx.
    pub(super) fn call(
        &self,
        class: TimeoutClass,
        method: &str,
        target: &str,
        body: &[u8],
    ) -> Result<Reply, Failure> {
        let started = Instant::now();
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
        let agent = self.agent(class)?;
        let invalid = |error: ureq::http::Error| Failure::Transport(Box::new(error.into()));
        let response = match method {
            "GET" | "DELETE" => agent.run(request.body(()).map_err(invalid)?),
            _ => {
                let request = request.body(body).map_err(invalid)?;
                let request = match class {
                    TimeoutClass::Opening => {
                        let config = agent.configure_request(request);
                        config
                            .timeout_recv_response(Some(OPENING_TIMEOUT))
                            .timeout_per_read(Some(OPENING_TIMEOUT))
                            .build()
                    }
                    _ => request,
                };
                agent.run(request)
            }
        };
        let response = response.map_err(|error| Failure::Transport(Box::new(error)))?;
        let (status, body) = self.check(response, class, &path, &nonce)?;
        let reply = Reply { status, body, took: started.elapsed() };
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

    /// Makes a call with JSON in both directions.
    pub(super) fn call_json<T: DeserializeOwned>(
        &self,
        class: TimeoutClass,
        method: &str,
        target: &str,
        body: Option<&impl Serialize>,
    ) -> Result<(T, Duration), Failure> {
        let body = body.map(|body| serde_json::to_vec(body).expect("names and numbers can be written"));
        let reply = self.call(class, method, target, &body.unwrap_or_default())?;
        Ok((reply.json()?, reply.took))
    }

    /// Returns status and body if the signature is valid for this request; the body is not decoded before.
    fn check(
        &self,
        mut response: Response<Body>,
        class: TimeoutClass,
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
        let limit = if class == TimeoutClass::Short { MAX_SHORT_ANSWER } else { MAX_LONG_ANSWER };
        let length = response.body().content_length().unwrap_or(0);
        // Allocate at most 8 MB in advance: the declared length is not verified.
        let mut body = Vec::with_capacity(length.min(8 << 20) as usize);
        let read = response.body_mut().with_config().limit(limit).reader().read_to_end(&mut body);
        read.map_err(|error| Failure::Transport(Box::new(error.into())))?;
        let mut segments = path.split('/').skip(3);
        let (run, seq) = match (segments.next(), segments.next(), segments.next(), segments.next()) {
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
    /// Decodes the body.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::Unreadable(format!("an answer that this version can't read: {error}")))
    }
}

/// A random number of 128 bits as 32 hexadecimal digits.
pub(super) fn random_hex() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Failure::Local(format!("no random bytes: {error}")))?;
    Ok(hexadecimal(&bytes))
}
