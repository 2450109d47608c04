//! State that all runs of one `Cloud` share: the connection to the service and its health, the account, and
//! the uploads. Used by the runs' threads.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastmap_sandbox::unpoisoned::LockUnpoisoned;

use crate::cloud::CloudOptions;
use crate::cloud::http::{Failure, Http, TimeoutClass};
use crate::cloud::notices::Notice;
use crate::cloud::protocol::Auth;
use crate::cloud::retry::{
    Backoff, Failing, NOTICE_DELAY, NOTICE_INTERVAL, PROXY_PATIENCE, RetryDecision, Service, describe,
    is_refused_by_a_proxy,
};
use crate::model::error::BackendError;

/// Cached account data is used for this time.
const AUTH_TTL: Duration = Duration::from_secs(60);
/// Patience before the first answer: until then the address is most likely wrong.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) options: CloudOptions,
    pub(crate) http: Http,
    /// Id of the process that created the session.
    pub(crate) owner: u32,
    auth: Mutex<Option<(Instant, Auth)>>,
    /// Hashes of uploads that the service is known to have.
    stored: Mutex<HashSet<String>>,
    /// Serializes uploads.
    pub(crate) uploading: Mutex<()>,
    reached: AtomicBool,
    /// Smoothed round-trip time of short calls, in nanoseconds; 0: not measured yet.
    round_trip: AtomicU64,
    /// Bytes of the smallest body that a proxy has rejected as too large.
    too_large: AtomicU64,
    health: Mutex<Health>,
}

/// Time since the last good answer to any run.
#[derive(Debug, Default)]
struct Health {
    /// Start of the failures, and when the first one was noticed.
    failing_since: Option<(Instant, Instant)>,
    reported: Option<Instant>,
    /// Time of the last good answer.
    last_good: Option<Instant>,
}

/// Reason why a run's thread stops.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The run was closed or cancelled.
    Ended,
    /// The run has failed.
    Failed(BackendError),
}

/// Pauses between two attempts, on behalf of a run.
pub(crate) trait Waiter {
    /// Waits for this time; returns `false` if the run has ended.
    fn pause(&self, pause: Duration) -> bool;

    /// Reports the bytes of an upload that are still to be sent.
    fn uploading(&self, left: u64) {
        let _ = left;
    }
}

/// Tolerance for a call that keeps failing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tolerance {
    /// The options' patience, for every failure.
    Patience,
    /// For calls while work is in flight at the service, which may continue it: silence is tolerated for as
    /// long as a process is expected to stall. A refused or impossible connection is tolerated no longer than
    /// with `Patience`.
    Silence,
}

/// A stalled service is expected to resume within this time, or within the options' patience.
const STALL_LIMIT: Duration = Duration::from_secs(120);
/// Within this time after a failure was noticed, another call has been made.
const CONFIRMATION_DELAY: Duration = Duration::from_secs(1);
/// A call that is the only one to fail is repeated for this much longer.
const SINGLE_CALL_EXTENSION: Duration = Duration::from_secs(120);

impl Session {
    pub(crate) fn new(options: CloudOptions, http: Http) -> Self {
        Session {
            options,
            http,
            owner: std::process::id(),
            auth: Mutex::default(),
            stored: Mutex::default(),
            uploading: Mutex::default(),
            reached: AtomicBool::new(false),
            round_trip: AtomicU64::new(0),
            too_large: AtomicU64::new(u64::MAX),
            health: Mutex::default(),
        }
    }

    /// Returns whether this process created the session. In a fork, locks may be held by threads that don't
    /// exist there.
    pub(crate) fn is_own_process(&self) -> bool {
        std::process::id() == self.owner
    }

    /// Round-trip time, once measured.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        let nanos = self.round_trip.load(Ordering::Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }

    /// Makes a call once, without retries. For calls that the caller repeats anyway when they are next due.
    pub(crate) fn try_call<T: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        target: &str,
        body: Option<&impl serde::Serialize>,
    ) -> Option<T> {
        let started = Instant::now();
        match self.http.call_json(TimeoutClass::Short, method, target, body) {
            Ok((answer, took)) => {
                self.on_success();
                self.record_round_trip(took);
                Some(answer)
            }
            Err(failure) => {
                self.on_failure(&failure, started);
                log::debug!("{method} {target}: {}", describe(&failure));
                None
            }
        }
    }

    /// Updates the round-trip time by a short call's duration.
    pub(crate) fn record_round_trip(&self, took: Duration) {
        let new = (took.as_nanos() as u64).max(1);
        let old = self.round_trip.load(Ordering::Relaxed);
        self.round_trip.store(if old == 0 { new } else { old / 4 * 3 + new / 4 }, Ordering::Relaxed);
    }

    /// Records that a proxy has rejected a body of this size as too large.
    pub(crate) fn set_too_large(&self, bytes: u64) {
        self.too_large.fetch_min(bytes, Ordering::Relaxed);
    }

    /// Returns whether a proxy has rejected a body of at most this size.
    pub(crate) fn is_too_large(&self, bytes: u64) -> bool {
        bytes >= self.too_large.load(Ordering::Relaxed)
    }

    /// Records a good answer.
    pub(crate) fn on_success(&self) {
        let first = !self.reached.swap(true, Ordering::Relaxed);
        let mut health = self.health.lock_unpoisoned();
        health.last_good = Some(Instant::now());
        if first {
            return;
        }
        let since = health.failing_since.take();
        let reported = health.reported.take();
        drop(health);
        if let (Some((_, since)), Some(_)) = (since, reported) {
            self.options.notices.notice(&Notice::Answering { after: since.elapsed() });
        }
    }

    /// Records that a call, started at `started`, got no good answer.
    pub(crate) fn on_failure(&self, failure: &Failure, started: Instant) {
        // A problem below 500 shows that the service works.
        if matches!(failure, Failure::Problem(problem) if problem.status < 500) {
            return;
        }
        let mut health = self.health.lock_unpoisoned();
        let failed_from = health.last_good.map_or(started, |good| good.max(started));
        // If this process was stopped during the call, the call seems long, but was not waited for all that
        // time. So the duration counts from when the failure was noticed.
        let since = health.failing_since.get_or_insert_with(|| (failed_from, Instant::now())).1.elapsed();
        let due =
            health.reported.map_or(since > NOTICE_DELAY, |reported| reported.elapsed() > NOTICE_INTERVAL);
        if due {
            health.reported = Some(Instant::now());
            drop(health);
            self.options.notices.notice(&Notice::Silent { since, why: &describe(failure) });
        }
    }

    /// Time since the current failures were noticed; zero if there are none.
    fn failing_for(&self) -> Duration {
        self.health.lock_unpoisoned().failing_since.map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }

    /// Time since the start of the first failed call; zero until another call had `CONFIRMATION_DELAY` to
    /// succeed. The failed call may also have been in flight while this process itself was stopped.
    pub(super) fn silent(&self) -> Duration {
        match self.health.lock_unpoisoned().failing_since {
            Some((since, noticed)) if noticed.elapsed() > CONFIRMATION_DELAY => since.elapsed(),
            _ => Duration::ZERO,
        }
    }

    fn service<'a>(&'a self, url: &'a str) -> Service<'a> {
        let reached = self.reached.load(Ordering::Relaxed);
        Service { url, token: self.http.token_prefix(), reached }
    }

    /// Returns the pause before the next attempt of a failed call, or the error that ends the run. The call
    /// started at `started`.
    pub(crate) fn retry_pause(
        &self,
        failure: Failure,
        backoff: &mut Backoff,
        started: Instant,
        tolerance: Tolerance,
    ) -> Result<Duration, BackendError> {
        self.on_failure(&failure, started);
        let url = self.http.url_and_proxy();
        let service = self.service(&url);
        let limit = match service.reached {
            true if is_refused_by_a_proxy(&failure) => self.options.patience.min(PROXY_PATIENCE),
            true => self.options.patience,
            false => self.options.patience.min(FIRST_PATIENCE),
        };
        let longest_limit = if tolerance == Tolerance::Silence { limit.max(STALL_LIMIT) } else { limit };
        let Failing { total, refused } = backoff.record_failure(Instant::now(), failure.is_silence());
        let (failing, limit) = if failure.is_silence() { (total, longest_limit) } else { (refused, limit) };
        // If other calls succeed meanwhile, this one was in flight while the service stalled, perhaps twice.
        let others_succeed = matches!(failure, Failure::Transport(_))
            && self.failing_for() < limit
            && total < limit + SINGLE_CALL_EXTENSION;
        let is_over = (failing > limit || total > longest_limit) && !is_wait(&failure) && !others_succeed;
        if is_wait(&failure) {
            // A wait is a good answer: failures after it count anew.
            let since = backoff.record_wait();
            if backoff.is_notice_due(since) {
                self.options.notices.notice(&Notice::Waiting { since, why: &describe(&failure) });
            }
        }
        match service.decide(failure) {
            RetryDecision::Fail(error) => Err(error),
            RetryDecision::Again(_, failure) if is_over => Err(service.give_up(total, failure)),
            RetryDecision::Again(requested, _) => Ok(backoff.pause(requested, chance())),
        }
    }

    /// Repeats a call until it succeeds, the run ends, or the failures exceed the patience.
    pub(crate) fn call_with_retry<T>(
        &self,
        waiter: &dyn Waiter,
        call: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Stop> {
        self.call_with_tolerance(Tolerance::Patience, &mut Backoff::default(), waiter, call)
    }

    /// As `call_with_retry`, with a given tolerance, and continuing the given count of failures.
    pub(super) fn call_with_tolerance<T>(
        &self,
        tolerance: Tolerance,
        backoff: &mut Backoff,
        waiter: &dyn Waiter,
        mut call: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Stop> {
        loop {
            let started = Instant::now();
            match call() {
                Ok(value) => {
                    self.on_success();
                    return Ok(value);
                }
                Err(failure) => {
                    let pause =
                        self.retry_pause(failure, backoff, started, tolerance).map_err(Stop::Failed)?;
                    if !waiter.pause(pause) {
                        return Err(Stop::Ended);
                    }
                }
            }
        }
    }

    /// The account, requested from the service if the cached data is missing or too old.
    pub(crate) fn auth(&self, waiter: &dyn Waiter) -> Result<Auth, Stop> {
        if let Some((_, auth)) =
            self.auth.lock_unpoisoned().as_ref().filter(|(at, _)| at.elapsed() < AUTH_TTL)
        {
            return Ok(auth.clone());
        }
        let (auth, took): (Auth, _) = self.call_with_retry(waiter, || {
            self.http.call_json(TimeoutClass::Short, "POST", "/auth", None::<&()>)
        })?;
        self.record_round_trip(took);
        let _already_set = self.http.long_poll.set(Duration::from_secs(auth.limits.long_poll_seconds));
        *self.auth.lock_unpoisoned() = Some((Instant::now(), auth.clone()));
        Ok(auth)
    }

    /// Updates the cached balance from a bill.
    pub(crate) fn billed(&self, balance: i64) {
        if let Some((_, auth)) = self.auth.lock_unpoisoned().as_mut() {
            auth.available += balance - auth.balance;
            auth.balance = balance;
        }
    }

    /// Returns whether the service is known to have an upload.
    pub(crate) fn is_stored(&self, hash: &str) -> bool {
        self.stored.lock_unpoisoned().contains(hash)
    }

    pub(crate) fn set_stored(&self, hash: &str) {
        self.stored.lock_unpoisoned().insert(hash.to_owned());
    }

    /// Forgets the known uploads, because the service has deleted one.
    pub(crate) fn forget_stored(&self) {
        self.stored.lock_unpoisoned().clear();
    }
}

/// Returns whether the failure is a wait for other batches or runs at the service, which ends there by
/// itself.
fn is_wait(failure: &Failure) -> bool {
    use crate::cloud::problem::ProblemCode::{CreditsHeld, TooManyBatches, TooManyRequests, TooManyRuns};
    matches!(failure, Failure::Problem(problem)
        if matches!(problem.known(), Some(CreditsHeld | TooManyBatches | TooManyRequests | TooManyRuns)))
}

/// A random byte, to vary pauses; constant if there is no source of random bytes.
fn chance() -> u8 {
    let mut byte = [128];
    let _unchanged = getrandom::fill(&mut byte);
    byte[0]
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A session whose service has answered once, and not since.
    fn session(patience: u64) -> Session {
        let secret = "s".repeat(64).parse().expect("64 characters");
        let mut options = CloudOptions::new("http://127.0.0.1:1", secret);
        options.patience = Duration::from_secs(patience);
        let http = Http::new(options.url.parse().expect("an address"), &options.secret);
        let session = Session::new(options, http);
        session.reached.store(true, Ordering::Relaxed);
        session
    }

    fn silence() -> Failure {
        Failure::Transport(Box::new(ureq::Error::Timeout(ureq::Timeout::RecvResponse)))
    }

    fn refused() -> Failure {
        Failure::Transport(Box::new(ureq::Error::Io(io::ErrorKind::ConnectionRefused.into())))
    }

    /// Returns whether a call is given up after these failures, each with the seconds since the one before;
    /// the last is now.
    fn gives_up(patience: u64, tolerance: Tolerance, failures: &[(u64, Failure)]) -> bool {
        let session = session(patience);
        let mut backoff = Backoff::default();
        let mut ago: u64 = failures.iter().map(|(after, _)| after).sum();
        let time = |ago| Instant::now().checked_sub(Duration::from_secs(ago)).expect("this machine is up");
        let started = time(ago);
        for (after, failure) in failures {
            ago -= after;
            backoff.record_failure(time(ago), failure.is_silence());
        }
        session.health.lock_unpoisoned().failing_since = Some((started, started));
        let last =
            if failures.last().is_some_and(|(_, last)| last.is_silence()) { silence() } else { refused() };
        session.retry_pause(last, &mut backoff, started, tolerance).is_err()
    }

    #[test]
    fn silence_is_tolerated_while_work_is_in_flight_but_refusals_are_not() {
        let stalled = || [(0, silence()), (30, silence()), (30, silence())];
        assert!(!gives_up(5, Tolerance::Silence, &stalled()));
        assert!(gives_up(5, Tolerance::Patience, &stalled()));
        let dead = || [(0, refused()), (3, refused()), (3, refused())];
        assert!(gives_up(5, Tolerance::Silence, &dead()) && gives_up(5, Tolerance::Patience, &dead()));
        // It stalls, and is restarted.
        assert!(!gives_up(5, Tolerance::Silence, &[(0, silence()), (30, silence()), (2, refused())]));
        assert!(gives_up(
            5,
            Tolerance::Silence,
            &[(0, silence()), (30, silence()), (4, refused()), (4, refused())]
        ));
        // A machine that is gone is silent, too, until a new connection is tried.
        assert!(gives_up(5, Tolerance::Silence, &[(0, silence()), (10, refused())]));
    }

    #[test]
    fn silence_is_not_tolerated_forever() {
        let silences = |count: u64| (0..count).map(|_| (30, silence())).collect::<Vec<_>>();
        assert!(!gives_up(5, Tolerance::Silence, &silences(4)));
        assert!(gives_up(5, Tolerance::Silence, &silences(6)));
        assert!(!gives_up(200, Tolerance::Silence, &silences(6)), "the options say more");
    }

    #[test]
    fn silence_starts_at_the_failed_call_or_the_last_good_answer() {
        let session = session(5);
        let since = || session.health.lock_unpoisoned().failing_since.map(|(since, _)| since);
        let started = Instant::now().checked_sub(Duration::from_secs(8)).expect("this machine is up");
        session.on_failure(&silence(), started);
        assert_eq!(since(), Some(started));
        assert_eq!(session.silent(), Duration::ZERO, "this process may have stood still");
        session.health.lock_unpoisoned().failing_since = Some((started, started));
        assert!(session.silent() >= Duration::from_secs(8));
        session.on_success();
        assert_eq!((since(), session.silent()), (None, Duration::ZERO));
        session.on_failure(&silence(), started);
        assert!(since() > Some(started), "another call had an answer meanwhile");
    }
}
