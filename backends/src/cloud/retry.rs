//! What a failed request means: to be made again, and when, or the end of the run, in words. Pure; the pauses and the
//! requests are `session`'s and `batch_sender`'s.

use std::time::{Duration, Instant};

use super::http::Failure;
use super::problem::{Problem, ProblemCode};
use crate::model::error::BackendError;
use crate::model::failure::{FailureKind, ItemFailure};

/// The first pause, which doubles up to the longest. Each varies, lest all come back at once.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// What does not go on is not worth a line before, and then every so often.
pub(super) const WORTH_A_LINE: Duration = Duration::from_secs(3);
pub(super) const NEXT_LINE: Duration = Duration::from_secs(15);
/// A proxy that refuses requests of a kind is borne for so long: it may be starting, but most likely it is set so.
pub(super) const PROXY_PATIENCE: Duration = Duration::from_secs(8);
/// The service's own wish is followed up to here.
const LONGEST_WISH: Duration = Duration::from_secs(60);
/// Between two failures of a request there is no more than this for one that is tried: where more time has
/// passed, this process stood still, and nothing was tried.
const LONGEST_TRY: Duration = Duration::from_secs(60);

/// What to do about a failed request.
#[derive(Debug)]
pub(super) enum RetryDecision {
    /// Make it again; after so long, if the service has said so, else after a pause that grows. With what it was.
    Again(Option<Duration>, Failure),
    /// No repetition will help.
    Fail(BackendError),
}

/// Whom the request was made to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Service<'a> {
    pub(super) url: &'a str,
    pub(super) token: &'a str,
    /// A signed answer has come before: it is a service, and the token is right.
    pub(super) reached: bool,
}

impl Service<'_> {
    /// What to do about a failure of any call. Whoever can do more about a code has done so before.
    pub(super) fn then(&self, failure: Failure) -> RetryDecision {
        match failure {
            Failure::Problem(problem) => self.then_problem(problem),
            Failure::Unsigned { status, retry_after } => self.then_unsigned(status, retry_after),
            Failure::Transport(error) if is_distrust(&error) => RetryDecision::Fail(BackendError::Cloud(
                format!(
                    "the certificate of {} is not to be trusted: {error}; SSL_CERT_FILE names a file of certificates that are",
                    self.url
                ),
                Some(error),
            )),
            Failure::Transport(_) => RetryDecision::Again(None, failure),
            Failure::Local(why) => fail(why),
            Failure::Unreadable(what) => {
                fail(format!("{what}: is the service at {} of another version?", self.url))
            }
        }
    }

    fn then_problem(&self, problem: Box<Problem>) -> RetryDecision {
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

    fn then_unsigned(&self, status: u16, retry_after: Option<Duration>) -> RetryDecision {
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
        let here = std::time::SystemTime::now();
        let there = problem.server_time.map(|time| std::time::UNIX_EPOCH + Duration::from_secs(time));
        let show = |time| humantime::format_rfc3339_seconds(time).to_string();
        format!(
            "the clocks differ by more than 5 minutes: here it is {}, at {} {}; set this machine's clock",
            show(here),
            self.url,
            there.map_or_else(|| "another time".to_owned(), show)
        )
    }

    /// The end of a run that got no good answer for so long.
    pub(super) fn give_up(&self, after: Duration, last: Failure) -> BackendError {
        let url = self.url;
        if let Failure::Problem(problem) = &last
            && problem.known() == Some(ProblemCode::ClockSkew)
        {
            return BackendError::Unauthorized(self.skew(problem));
        }
        let why = words(&last);
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

/// A failure in words.
pub(super) fn words(failure: &Failure) -> String {
    match failure {
        Failure::Problem(problem) => problem.to_string(),
        Failure::Unsigned { status, .. } => {
            format!("status {status}, not signed by the service{}", advice(*status).unwrap_or_default())
        }
        Failure::Transport(error) => error.to_string(),
        Failure::Local(why) | Failure::Unreadable(why) => why.clone(),
    }
}

/// What to do about a proxy that answers in the service's place by a refusal; `None` for what time may heal.
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

/// Whether a proxy refuses what it is set to refuse.
pub(super) fn is_refused_by_a_proxy(failure: &Failure) -> bool {
    matches!(failure, Failure::Unsigned { status, .. } if advice(*status).is_some())
}

/// Whether it is the certificate that fails: nothing that time heals.
fn is_distrust(error: &ureq::Error) -> bool {
    let of = |error: &rustls::Error| matches!(error, rustls::Error::InvalidCertificate(_));
    match error {
        ureq::Error::Rustls(error) => of(error),
        ureq::Error::Io(error) => {
            error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).is_some_and(of)
        }
        _ => false,
    }
}

/// Counts the failures of one request in a row, and says how long to wait before the next try.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
    /// How long it fails, and when it last did.
    failing: Option<(Failing, Instant)>,
    waiting: Option<Instant>,
    told: Option<Instant>,
}

/// How long a request fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Failing {
    /// In all.
    pub(super) total: Duration,
    /// Since it was last met by silence: so long it is refused, or finds no way.
    pub(super) refused: Duration,
}

impl Backoff {
    /// It fails now, by silence or otherwise; for how long it does so.
    pub(super) fn fails(&mut self, now: Instant, silence: bool) -> Failing {
        let (mut failing, last) = self.failing.unwrap_or((Failing::default(), now));
        let time = now.saturating_duration_since(last).min(LONGEST_TRY);
        failing.total += time;
        failing.refused = if silence { Duration::ZERO } else { failing.refused + time };
        self.failing = Some((failing, now));
        failing
    }

    /// It does not fail, but is told to wait: for so long until now.
    pub(super) fn waits(&mut self) -> Duration {
        self.failing = None;
        self.waiting.get_or_insert_with(Instant::now).elapsed()
    }

    /// Whether the user should be told that it has waited for so long.
    pub(super) fn is_worth_a_line(&mut self, since: Duration) -> bool {
        let due = self.told.map_or(since > WORTH_A_LINE, |told| told.elapsed() > NEXT_LINE);
        if due {
            self.told = Some(Instant::now());
        }
        due
    }

    /// The pause before the next try; `chance` is one of 256.
    pub(super) fn pause(&mut self, wish: Option<Duration>, chance: u8) -> Duration {
        let doubled = FIRST_PAUSE * 2u32.saturating_pow(self.tries.min(10));
        self.tries += 1;
        let pause = match wish {
            // What is wished for again and again is no longer followed at once.
            Some(wish) if wish.is_zero() && self.tries <= 2 => return Duration::ZERO,
            Some(wish) => wish.clamp(doubled.min(LONGEST_PAUSE) / 4, LONGEST_WISH),
            None => doubled.min(LONGEST_PAUSE),
        };
        // Between three and five quarters of it.
        pause.mul_f64(0.75 + f64::from(chance) / 512.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: Service<'_> = Service { url: "https://s.example", token: "abcdef", reached: true };

    fn then(code: ProblemCode) -> RetryDecision {
        SERVICE.then(Failure::Problem(Box::new(Problem::new(code, "the detail"))))
    }

    #[test]
    fn each_code_is_tried_again_exactly_where_the_document_says_so() {
        let document = include_str!("../../../docs/protocol.md");
        for code in ProblemCode::ALL {
            let row = document.lines().find(|line| line.contains(&format!("| `{code}` |"))).expect("a row");
            let again = row.trim_end_matches(['|', ' ']).rsplit('|').next().expect("a last column").trim();
            // What only its own caller can do something about ends the run where it comes by another.
            let elsewhere = ["from `offset` on", "smaller", "once, from the begin"].contains(&again);
            assert_eq!(
                matches!(then(*code), RetryDecision::Fail(_)),
                again == "no" || elsewhere,
                "{code}: {again}"
            );
        }
    }

    #[test]
    fn what_ends_a_run_says_what_where_and_what_to_do() {
        for (code, words) in [
            (ProblemCode::TokenRevoked, "revoked"),
            (ProblemCode::TokenExpired, "expired"),
            (ProblemCode::Unauthorized, "FASTMAP_SECRET"),
            (ProblemCode::OutOfCredits, "fastmap credits"),
            (ProblemCode::SpendCapReached, "FASTMAP_MAX_CREDITS"),
            (ProblemCode::WorkerFailed, "the detail"),
        ] {
            let RetryDecision::Fail(error) = then(code) else { panic!("{code}") };
            let text = error.to_string();
            assert!(text.contains(words) && text.contains("https://s.example"), "{text}");
        }
    }

    #[test]
    fn clocks_that_differ_to_the_end_are_named() {
        let RetryDecision::Again(Some(pause), failure) = then(ProblemCode::ClockSkew) else {
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
    fn who_does_not_sign_is_believed_only_that_the_secret_is_wrong() {
        let unsigned = |reached, status| {
            let service = Service { reached, ..SERVICE };
            service.then(Failure::Unsigned { status, retry_after: None })
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
    fn a_proxy_that_refuses_is_told_with_what_to_set() {
        let failure = |status| Failure::Unsigned { status, retry_after: None };
        for (status, setting) in [(404, "PUT"), (413, "client_max_body_size"), (431, "large_client_header")] {
            assert!(is_refused_by_a_proxy(&failure(status)));
            let error = SERVICE.give_up(PROXY_PATIENCE, failure(status)).to_string();
            assert!(error.contains(setting) && error.contains(&status.to_string()), "{error}");
        }
        assert!([200, 301, 500, 502].iter().all(|status| !is_refused_by_a_proxy(&failure(*status))));
    }

    #[test]
    fn a_failure_behind_a_long_wait_is_a_new_one() {
        let mut backoff = Backoff::default();
        let begin = Instant::now();
        let later = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(backoff.fails(begin, false).total, Duration::ZERO);
        assert_eq!(backoff.fails(later(30), false).total, Duration::from_secs(30));
        // This process stood still for an hour.
        assert_eq!(backoff.fails(later(3630), false).total, Duration::from_secs(90));
        backoff.waits();
        assert_eq!(backoff.fails(later(3640), false).total, Duration::ZERO);
        assert!(!backoff.is_worth_a_line(Duration::ZERO));
        assert!(backoff.is_worth_a_line(WORTH_A_LINE * 2) && !backoff.is_worth_a_line(WORTH_A_LINE * 2));
    }

    #[test]
    fn refusals_are_counted_from_the_last_silence_on() {
        let mut backoff = Backoff::default();
        let begin = Instant::now();
        let mut fails = |seconds, silence| {
            let failing = backoff.fails(begin + Duration::from_secs(seconds), silence);
            (failing.total.as_secs(), failing.refused.as_secs())
        };
        assert_eq!(fails(0, false), (0, 0));
        assert_eq!(fails(3, false), (3, 3));
        assert_eq!(fails(33, true), (33, 0));
        assert_eq!(fails(34, false), (34, 1));
        assert_eq!(fails(44, false), (44, 11));
    }

    #[test]
    fn pauses_grow_vary_and_have_an_end() {
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
