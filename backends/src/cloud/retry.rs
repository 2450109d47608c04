//! Retry policy: decides whether a failed request is repeated, and when, or which error ends the run. Pure
//! functions; `session` and `batch_sender` do the pauses and the requests.

use std::time::{Duration, Instant};

use super::http::Failure;
use super::problem::{Problem, ProblemCode};
use crate::model::error::BackendError;
use crate::model::failure::{FailureKind, ItemFailure};

/// First pause, doubled up to the longest. Pauses are randomized so that clients don't retry in step.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Time without progress before the first notice, and between later ones.
pub(super) const NOTICE_DELAY: Duration = Duration::from_secs(3);
pub(super) const NOTICE_INTERVAL: Duration = Duration::from_secs(15);
/// Patience with a proxy that rejects a kind of request: it may be starting, but most likely it is configured
/// so.
pub(super) const PROXY_PATIENCE: Duration = Duration::from_secs(8);
/// Upper limit of the service's `Retry-After`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Upper limit of the time between two failures of one request. If more has passed, this process was stopped,
/// and made no attempt.
const MAX_ATTEMPT: Duration = Duration::from_secs(60);

/// Decision after a failed request.
#[derive(Debug)]
pub(super) enum RetryDecision {
    /// Repeat it: after the duration that the service requests, else after a growing pause. Carries the
    /// failure.
    Again(Option<Duration>, Failure),
    /// Retrying will not help.
    Fail(BackendError),
}

/// The service that the request was sent to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Service<'a> {
    pub(super) url: &'a str,
    pub(super) token: &'a str,
    /// It has answered with a signature before: it is a service, and the token is valid.
    pub(super) reached: bool,
}

impl Service<'_> {
    /// Decides on a failure of any call. Codes that a caller handles specially never reach this function.
    pub(super) fn decide(&self, failure: Failure) -> RetryDecision {
        match failure {
            Failure::Problem(problem) => self.decide_problem(problem),
            Failure::Unsigned { status, retry_after } => self.decide_unsigned(status, retry_after),
            Failure::Transport(error) if is_certificate_error(&error) => {
                RetryDecision::Fail(BackendError::Cloud(
                    format!(
                        "the certificate of {} is not to be trusted: {error}; SSL_CERT_FILE names a file of certificates that are",
                        self.url
                    ),
                    Some(error),
                ))
            }
            Failure::Transport(_) => RetryDecision::Again(None, failure),
            Failure::Local(why) => fail(why),
            Failure::Unreadable(what) => {
                fail(format!("{what}: is the service at {} of another version?", self.url))
            }
        }
    }

    fn decide_problem(&self, problem: Box<Problem>) -> RetryDecision {
        use ProblemCode as Code;
        let Service { url, token, .. } = self;
        let Problem { detail, .. } = problem.as_ref();
        let after = problem.retry_after.map(Duration::from_secs);
        let unauthorized = |what: String| RetryDecision::Fail(BackendError::Unauthorized(what));
        match problem.known() {
            Some(Code::Unauthorized | Code::BadSignature) => unauthorized(self.unknown_secret()),
            Some(Code::TokenRevoked) => unauthorized(format!(
                "the token {token}… of FASTMAP_SECRET was revoked at {url}; ask for another one (`fastmap token create` there)"
            )),
            Some(Code::TokenExpired) => unauthorized(format!(
                "the token {token}… of FASTMAP_SECRET has expired at {url}; ask for another one (`fastmap token create` there)"
            )),
            Some(Code::OutOfCredits) => RetryDecision::Fail(BackendError::OutOfCredits(format!(
                "out of credits at {url}: {detail}; add some there (`fastmap credits add`), or use the policy local"
            ))),
            Some(Code::SpendCapReached) => RetryDecision::Fail(BackendError::OutOfCredits(format!(
                "{detail}, at {url}; raise Options::max_credits (FASTMAP_MAX_CREDITS) to go on"
            ))),
            Some(Code::SetupFailed) => {
                let kind = match problem.failure.as_deref() {
                    Some("serialize") => FailureKind::Serialize,
                    _ => FailureKind::Panic,
                };
                RetryDecision::Fail(BackendError::Setup(ItemFailure {
                    offset: 0,
                    kind,
                    message: detail.clone(),
                }))
            }
            Some(Code::WorkerFailed) => fail(format!("this program can't work at {url}: {detail}")),
            Some(Code::NotExecutable) => fail(format!("this program can't run at {url}: {detail}")),
            // The next request is signed with the service's time.
            Some(Code::NonceRepeated | Code::DigestMismatch | Code::BatchUnknown | Code::ClockSkew) => {
                RetryDecision::Again(after.or(Some(Duration::ZERO)), Failure::Problem(problem))
            }
            Some(Code::UnsupportedProtocol) => fail(format!(
                "this version of fastmap ({}) and the service at {url} do not go together: {detail}",
                env!("CARGO_PKG_VERSION")
            )),
            _ if problem.status == 408 || problem.status == 429 || problem.status >= 500 => {
                RetryDecision::Again(after, Failure::Problem(problem))
            }
            _ => fail(format!("the service at {url} refuses: {problem}")),
        }
    }

    fn decide_unsigned(&self, status: u16, retry_after: Option<Duration>) -> RetryDecision {
        let url = self.url;
        let again = RetryDecision::Again(retry_after, Failure::Unsigned { status, retry_after });
        match status {
            401 => RetryDecision::Fail(BackendError::Unauthorized(self.unknown_secret())),
            407 => fail(format!(
                "the proxy on the way to {url} asks for a password (status 407); put it into HTTPS_PROXY, or the \
                 service's host into NO_PROXY"
            )),
            408 | 429 | 502 | 503 | 504 => again,
            // Somebody in between, for now.
            _ if self.reached => again,
            _ => fail(format!(
                "the server at {url} is not a fastmap service, or a proxy changes its answers (status \
                 {status}, not signed); is FASTMAP_CLOUD_URL right?"
            )),
        }
    }

    fn unknown_secret(&self) -> String {
        format!(
            "the service at {} does not know the secret (its token begins with {}): is FASTMAP_SECRET whole, and of \
             this service?",
            self.url, self.token
        )
    }

    fn skew(&self, problem: &Problem) -> String {
        let local_time = std::time::SystemTime::now();
        let service_time = problem.server_time.map(|time| std::time::UNIX_EPOCH + Duration::from_secs(time));
        let show = |time| humantime::format_rfc3339_seconds(time).to_string();
        format!(
            "the clocks differ by more than 5 minutes: here it is {}, at {} {}; set this machine's clock",
            show(local_time),
            self.url,
            service_time.map_or_else(|| "another time".to_owned(), show)
        )
    }

    /// The error that ends a run without a good answer for `after`.
    pub(super) fn give_up(&self, after: Duration, last: Failure) -> BackendError {
        let url = self.url;
        if let Failure::Problem(problem) = &last
            && problem.known() == Some(ProblemCode::ClockSkew)
        {
            return BackendError::Unauthorized(self.skew(problem));
        }
        let why = describe(&last);
        let message = match self.reached {
            true => format!("no good answer from {url} for {} s: {why}", after.as_secs()),
            false => format!(
                "{url} can't be reached ({why}; tried for {} s): is the service running, and is FASTMAP_CLOUD_URL right?",
                after.as_secs()
            ),
        };
        let source = match last {
            Failure::Transport(error) => Some(error as Box<dyn std::error::Error + Send + Sync>),
            _ => None,
        };
        BackendError::Cloud(message, source)
    }
}

fn fail(message: String) -> RetryDecision {
    RetryDecision::Fail(BackendError::Cloud(message, None))
}

/// Describes a failure for messages.
pub(super) fn describe(failure: &Failure) -> String {
    match failure {
        Failure::Problem(problem) => problem.to_string(),
        Failure::Unsigned { status, .. } => {
            format!("status {status}, not signed by the service{}", advice(*status).unwrap_or_default())
        }
        Failure::Transport(error) => error.to_string(),
        Failure::Local(why) | Failure::Unreadable(why) => why.clone(),
    }
}

/// Advice about a proxy that rejects the request itself; `None` for failures that may be temporary.
fn advice(status: u16) -> Option<&'static str> {
    Some(match status {
        403 => "; a proxy on the way forbids the request: let it pass all below /api/",
        404 | 405 | 501 => {
            "; a proxy on the way answers in the service's place: let it pass all below /api/, with the methods GET, \
             POST, PUT and DELETE"
        }
        413 => {
            "; a proxy on the way takes no request as large as this one: raise its limit (nginx: client_max_body_size 64m)"
        }
        414 | 431 => {
            "; a proxy on the way takes no head as long as this request's: raise its limit (nginx: \
             large_client_header_buffers 4 32k)"
        }
        _ => return None,
    })
}

/// Returns whether a proxy rejects the request because of its configuration.
pub(super) fn is_refused_by_a_proxy(failure: &Failure) -> bool {
    matches!(failure, Failure::Unsigned { status, .. } if advice(*status).is_some())
}

/// Returns whether the server's certificate is invalid, which no retry will fix.
fn is_certificate_error(error: &ureq::Error) -> bool {
    let of = |error: &rustls::Error| matches!(error, rustls::Error::InvalidCertificate(_));
    match error {
        ureq::Error::Rustls(error) => of(error),
        ureq::Error::Io(error) => {
            error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some_and(of)
        }
        _ => false,
    }
}

/// Retry state of one request: counts its failures in a row, and chooses the pauses.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
    /// Duration of the failures, and the time of the last one.
    failing: Option<(Failing, Instant)>,
    waiting: Option<Instant>,
    reported: Option<Instant>,
}

/// Duration of a request's failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Failing {
    /// In total.
    pub(super) total: Duration,
    /// Since the last silence: the time in which it was refused or could not connect.
    pub(super) refused: Duration,
}

impl Backoff {
    /// Records a failure, by silence or otherwise; returns the durations so far.
    pub(super) fn record_failure(&mut self, now: Instant, silence: bool) -> Failing {
        let (mut failing, last) = self.failing.unwrap_or((Failing::default(), now));
        let time = now.saturating_duration_since(last).min(MAX_ATTEMPT);
        failing.total += time;
        failing.refused = if silence { Duration::ZERO } else { failing.refused + time };
        self.failing = Some((failing, now));
        failing
    }

    /// Records an answer that asks to wait. Ends the count of failures; returns the time waited so far.
    pub(super) fn record_wait(&mut self) -> Duration {
        self.failing = None;
        self.waiting.get_or_insert_with(Instant::now).elapsed()
    }

    /// Returns whether to notify the user of a wait of this length.
    pub(super) fn is_notice_due(&mut self, since: Duration) -> bool {
        let due = self.reported.map_or(since > NOTICE_DELAY, |reported| reported.elapsed() > NOTICE_INTERVAL);
        if due {
            self.reported = Some(Instant::now());
        }
        due
    }

    /// The pause before the next attempt, randomized by `chance`.
    pub(super) fn pause(&mut self, requested: Option<Duration>, chance: u8) -> Duration {
        let doubled = FIRST_PAUSE * 2u32.saturating_pow(self.attempts.min(10));
        self.attempts += 1;
        let pause = match requested {
            // Immediate retries are followed only twice in a row.
            Some(requested) if requested.is_zero() && self.attempts <= 2 => return Duration::ZERO,
            Some(requested) => requested.clamp(doubled.min(LONGEST_PAUSE) / 4, MAX_RETRY_AFTER),
            None => doubled.min(LONGEST_PAUSE),
        };
        // Between three and five quarters of the pause.
        pause.mul_f64(0.75 + f64::from(chance) / 512.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: Service<'_> = Service { url: "https://s.example", token: "abcdef", reached: true };

    fn decide(code: ProblemCode) -> RetryDecision {
        SERVICE.decide(Failure::Problem(Box::new(Problem::new(code, "the detail"))))
    }

    #[test]
    fn codes_are_retried_exactly_as_documented() {
        let document = include_str!("../../../docs/protocol.md");
        for code in ProblemCode::ALL {
            let row = document.lines().find(|line| line.contains(&format!("| `{code}` |"))).expect("a row");
            let again = row.trim_end_matches(['|', ' ']).rsplit('|').next().expect("a last column").trim();
            // Codes that only one kind of call handles end the run when another call gets them.
            let elsewhere = ["from `offset` on", "smaller", "once, from the begin"].contains(&again);
            assert_eq!(
                matches!(decide(*code), RetryDecision::Fail(_)),
                again == "no" || elsewhere,
                "{code}: {again}"
            );
        }
    }

    #[test]
    fn fatal_errors_name_the_service_and_the_remedy() {
        for (code, words) in [
            (ProblemCode::TokenRevoked, "revoked"),
            (ProblemCode::TokenExpired, "expired"),
            (ProblemCode::Unauthorized, "FASTMAP_SECRET"),
            (ProblemCode::OutOfCredits, "fastmap credits"),
            (ProblemCode::SpendCapReached, "FASTMAP_MAX_CREDITS"),
            (ProblemCode::WorkerFailed, "the detail"),
        ] {
            let RetryDecision::Fail(error) = decide(code) else { panic!("{code}") };
            let text = error.to_string();
            assert!(text.contains(words) && text.contains("https://s.example"), "{text}");
        }
    }

    #[test]
    fn persistent_clock_skew_is_reported() {
        let RetryDecision::Again(Some(pause), failure) = decide(ProblemCode::ClockSkew) else {
            panic!("it is final")
        };
        assert!(pause.is_zero());
        let error = SERVICE.give_up(Duration::from_secs(120), failure);
        assert!(
            matches!(&error, BackendError::Unauthorized(text) if text.contains("clocks differ")),
            "{error}"
        );
    }

    #[test]
    fn unsigned_answers_are_trusted_only_for_401() {
        let unsigned = |reached, status| {
            let service = Service { reached, ..SERVICE };
            service.decide(Failure::Unsigned { status, retry_after: None })
        };
        assert!(matches!(unsigned(true, 401), RetryDecision::Fail(BackendError::Unauthorized(_))));
        for status in [200, 301, 400, 402, 404, 500] {
            assert!(matches!(unsigned(true, status), RetryDecision::Again(None, _)), "{status}");
            assert!(
                matches!(unsigned(false, status), RetryDecision::Fail(BackendError::Cloud(..))),
                "{status}"
            );
        }
        assert!(matches!(unsigned(false, 503), RetryDecision::Again(None, _)));
    }

    #[test]
    fn proxy_rejections_name_the_setting_to_change() {
        let failure = |status| Failure::Unsigned { status, retry_after: None };
        for (status, setting) in [(404, "PUT"), (413, "client_max_body_size"), (431, "large_client_header")] {
            assert!(is_refused_by_a_proxy(&failure(status)));
            let error = SERVICE.give_up(PROXY_PATIENCE, failure(status)).to_string();
            assert!(error.contains(setting) && error.contains(&status.to_string()), "{error}");
        }
        assert!([200, 301, 500, 502].iter().all(|status| !is_refused_by_a_proxy(&failure(*status))));
    }

    #[test]
    fn failures_after_a_wait_count_anew() {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(backoff.record_failure(start, false).total, Duration::ZERO);
        assert_eq!(backoff.record_failure(later(30), false).total, Duration::from_secs(30));
        // This process stood still for an hour.
        assert_eq!(backoff.record_failure(later(3630), false).total, Duration::from_secs(90));
        backoff.record_wait();
        assert_eq!(backoff.record_failure(later(3640), false).total, Duration::ZERO);
        assert!(!backoff.is_notice_due(Duration::ZERO));
        assert!(backoff.is_notice_due(NOTICE_DELAY * 2) && !backoff.is_notice_due(NOTICE_DELAY * 2));
    }

    #[test]
    fn refusals_count_from_the_last_silence() {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        let mut fails = |seconds, silence| {
            let failing = backoff.record_failure(start + Duration::from_secs(seconds), silence);
            (failing.total.as_secs(), failing.refused.as_secs())
        };
        assert_eq!(fails(0, false), (0, 0));
        assert_eq!(fails(3, false), (3, 3));
        assert_eq!(fails(33, true), (33, 0));
        assert_eq!(fails(34, false), (34, 1));
        assert_eq!(fails(44, false), (44, 11));
    }

    #[test]
    fn pauses_grow_vary_and_are_bounded() {
        let mut backoff = Backoff::default();
        let pauses: Vec<Duration> = (0..20).map(|_| backoff.pause(None, 128)).collect();
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]), "{pauses:?}");
        assert!(pauses[0] <= FIRST_PAUSE && pauses[19] == LONGEST_PAUSE, "{pauses:?}");
        assert!(Backoff::default().pause(None, 0) < Backoff::default().pause(None, 255));
        let mut wished = Backoff::default();
        assert_eq!(wished.pause(Some(Duration::ZERO), 0), Duration::ZERO);
        assert!(
            (2..10).map(|_| wished.pause(Some(Duration::ZERO), 0)).last().expect("some") > Duration::ZERO
        );
        assert!(wished.pause(Some(Duration::from_secs(2)), 128) >= Duration::from_secs(2));
    }
}
