//! What all runs of one `Cloud` share: the way to the service and its health, what is known of the account, and what is
//! uploaded. Called from the runs' threads.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fastmap_sandbox::unpoisoned::LockUnpoisoned;

use crate::cloud::CloudOptions;
use crate::cloud::http::{By, Failure, Http};
use crate::cloud::notices::Notice;
use crate::cloud::protocol::Auth;
use crate::cloud::retry::{
    Backoff, Failing, NEXT_LINE, PROXY_PATIENCE, RetryDecision, Service, WORTH_A_LINE, is_refused_by_a_proxy,
    words,
};
use crate::model::error::BackendError;

/// What was said of the account is believed for so long.
const FRESH: Duration = Duration::from_secs(60);
/// Where nothing answers at first, most likely the address is wrong.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) options: CloudOptions,
    pub(crate) http: Http,
    /// The process that made it.
    pub(crate) owner: u32,
    auth: Mutex<Option<(Instant, Auth)>>,
    /// Hashes of uploads that are there.
    stored: Mutex<HashSet<String>>,
    /// One upload at a time.
    pub(crate) uploading: Mutex<()>,
    reached: AtomicBool,
    /// A short call, there and back, in nanoseconds; 0: none was made.
    round_trip: AtomicU64,
    /// Bytes of the smallest body that a proxy on the way has refused as too large.
    too_large: AtomicU64,
    health: Mutex<Health>,
}

/// Since when no good answer has come to any run.
#[derive(Debug, Default)]
struct Health {
    /// And when that was first noticed.
    troubled: Option<(Instant, Instant)>,
    told: Option<Instant>,
    /// When the last one came.
    good: Option<Instant>,
}

/// Why a run's thread does not go on.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Nobody wants it any more.
    Ended,
    /// It can't.
    Failed(BackendError),
}

/// Who waits between two tries, and for whom.
pub(crate) trait Waiter {
    /// Waits so long; `false`: nobody wants it any more.
    fn pause(&self, pause: Duration) -> bool;

    /// So many bytes of an upload are still to be sent.
    fn uploading(&self, left: u64) {
        let _ = left;
    }
}

/// What is borne of a call that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bears {
    /// The options' patience, whatever the failure.
    Patience,
    /// There is work under way at the service, which it may go on with: silence is borne for as long as a process is
    /// expected to stand still. What refuses, or is not there, is left as soon as otherwise.
    Silence,
}

/// A service that stands still is expected to go on within this time, or within the options' patience.
const STANDS_STILL: Duration = Duration::from_secs(120);
/// A service of which nothing good was heard has had a call more by then.
const CONFIRMED: Duration = Duration::from_secs(1);
/// A call that alone gets no answer, while others do, is made for so much longer.
const ALONE: Duration = Duration::from_secs(120);

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

    /// Whether this process is the one that made it. In a fork of it locks may be held by threads that are not there.
    pub(crate) fn is_mine(&self) -> bool {
        std::process::id() == self.owner
    }

    /// The way there and back, once it was measured.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        let nanos = self.round_trip.load(Ordering::Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }

    /// Makes a call on which nothing depends: a caller makes it again when it is due again.
    pub(crate) fn try_call<T: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        target: &str,
        body: Option<&impl serde::Serialize>,
    ) -> Option<T> {
        let began = Instant::now();
        match self.http.ask(By::Short, method, target, body) {
            Ok((answer, took)) => {
                self.on_success();
                self.took(took);
                Some(answer)
            }
            Err(failure) => {
                self.bad(&failure, began);
                log::debug!("{method} {target}: {}", words(&failure));
                None
            }
        }
    }

    /// A short call has taken so long.
    pub(crate) fn took(&self, took: Duration) {
        let new = (took.as_nanos() as u64).max(1);
        let old = self.round_trip.load(Ordering::Relaxed);
        self.round_trip.store(if old == 0 { new } else { old / 4 * 3 + new / 4 }, Ordering::Relaxed);
    }

    /// A proxy on the way has refused a body of so many bytes as too large.
    pub(crate) fn set_too_large(&self, bytes: u64) {
        self.too_large.fetch_min(bytes, Ordering::Relaxed);
    }

    /// Whether a proxy on the way has refused a body no larger than this one.
    pub(crate) fn is_too_large(&self, bytes: u64) -> bool {
        bytes >= self.too_large.load(Ordering::Relaxed)
    }

    /// A good answer came.
    pub(crate) fn on_success(&self) {
        let first = !self.reached.swap(true, Ordering::Relaxed);
        let mut health = self.health.lock_unpoisoned();
        health.good = Some(Instant::now());
        if first {
            return;
        }
        let since = health.troubled.take();
        let told = health.told.take();
        drop(health);
        if let (Some((_, since)), Some(_)) = (since, told) {
            self.options.notices.notice(&Notice::Answering { after: since.elapsed() });
        }
    }

    /// No good answer came to a call that began then.
    pub(crate) fn bad(&self, failure: &Failure, began: Instant) {
        // The service is well, and says what it does not like.
        if matches!(failure, Failure::Problem(problem) if problem.status < 500) {
            return;
        }
        let mut health = self.health.lock_unpoisoned();
        let begins = health.good.map_or(began, |good| good.max(began));
        // A call that was on the way when this process stood still took long, and was not waited for so long.
        let since = health.troubled.get_or_insert_with(|| (begins, Instant::now())).1.elapsed();
        let due = health.told.map_or(since > WORTH_A_LINE, |told| told.elapsed() > NEXT_LINE);
        if due {
            health.told = Some(Instant::now());
            drop(health);
            self.options.notices.notice(&Notice::Silent { since, why: &words(failure) });
        }
    }

    /// How long no good answer has come, where one was due.
    fn troubled(&self) -> Duration {
        self.health.lock_unpoisoned().troubled.map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }

    /// How long none has come, from the begin of the first call that failed on, where another call has had the time to say
    /// otherwise: one that fails was also on the way when this process stood still itself.
    pub(super) fn silent(&self) -> Duration {
        match self.health.lock_unpoisoned().troubled {
            Some((since, noticed)) if noticed.elapsed() > CONFIRMED => since.elapsed(),
            _ => Duration::ZERO,
        }
    }

    fn service<'a>(&'a self, url: &'a str) -> Service<'a> {
        let reached = self.reached.load(Ordering::Relaxed);
        Service { url, token: self.http.token_begin(), reached }
    }

    /// What ends a run that is refused in that way; nothing, where it is worth another try after the pause that is given.
    /// The call began at `began`.
    pub(crate) fn after(
        &self,
        failure: Failure,
        backoff: &mut Backoff,
        began: Instant,
        bears: Bears,
    ) -> Result<Duration, BackendError> {
        self.bad(&failure, began);
        let url = self.http.way();
        let service = self.service(&url);
        let most = match service.reached {
            true if is_refused_by_a_proxy(&failure) => self.options.patience.min(PROXY_PATIENCE),
            true => self.options.patience,
            false => self.options.patience.min(FIRST_PATIENCE),
        };
        let longest = if bears == Bears::Silence { most.max(STANDS_STILL) } else { most };
        let Failing { total, refused } = backoff.fails(Instant::now(), failure.is_silence());
        let (failing, most) = if failure.is_silence() { (total, longest) } else { (refused, most) };
        // Where other calls get good answers meanwhile, this one was on the way when the service stood still, maybe twice.
        let others =
            matches!(failure, Failure::Transport(_)) && self.troubled() < most && total < most + ALONE;
        let over = (failing > most || total > longest) && !is_wait(&failure) && !others;
        if is_wait(&failure) {
            // A good answer: what fails after it fails anew.
            let since = backoff.waits();
            if backoff.is_worth_a_line(since) {
                self.options.notices.notice(&Notice::Waiting { since, why: &words(&failure) });
            }
        }
        match service.then(failure) {
            RetryDecision::Fail(error) => Err(error),
            RetryDecision::Again(_, failure) if over => Err(service.give_up(total, failure)),
            RetryDecision::Again(wish, _) => Ok(backoff.pause(wish, chance())),
        }
    }

    /// Makes a call until it succeeds, as long as that makes sense and somebody wants it.
    pub(crate) fn call_with_retry<T>(
        &self,
        waiter: &dyn Waiter,
        call: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Stop> {
        self.insist_bearing(Bears::Patience, &mut Backoff::default(), waiter, call)
    }

    /// The same, with what is borne, after the failures that were counted before.
    pub(super) fn insist_bearing<T>(
        &self,
        bears: Bears,
        backoff: &mut Backoff,
        waiter: &dyn Waiter,
        mut call: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Stop> {
        loop {
            let began = Instant::now();
            match call() {
                Ok(value) => {
                    self.on_success();
                    return Ok(value);
                }
                Err(failure) => {
                    let pause = self.after(failure, backoff, began, bears).map_err(Stop::Failed)?;
                    if !waiter.pause(pause) {
                        return Err(Stop::Ended);
                    }
                }
            }
        }
    }

    /// What is known of the account, asked for if it is not, or not any more.
    pub(crate) fn auth(&self, waiter: &dyn Waiter) -> Result<Auth, Stop> {
        if let Some((_, auth)) = self.auth.lock_unpoisoned().as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(auth.clone());
        }
        let (auth, took): (Auth, _) =
            self.call_with_retry(waiter, || self.http.ask(By::Short, "POST", "/auth", None::<&()>))?;
        self.took(took);
        let _first = self.http.long_poll.set(Duration::from_secs(auth.limits.long_poll_seconds));
        *self.auth.lock_unpoisoned() = Some((Instant::now(), auth.clone()));
        Ok(auth)
    }

    /// The account has so much, as a bill says.
    pub(crate) fn billed(&self, balance: i64) {
        if let Some((_, auth)) = self.auth.lock_unpoisoned().as_mut() {
            auth.available += balance - auth.balance;
            auth.balance = balance;
        }
    }

    /// Whether an upload is known to be there.
    pub(crate) fn is_stored(&self, hash: &str) -> bool {
        self.stored.lock_unpoisoned().contains(hash)
    }

    pub(crate) fn set_stored(&self, hash: &str) {
        self.stored.lock_unpoisoned().insert(hash.to_owned());
    }

    /// Something that was there is not any more.
    pub(crate) fn forget_stored(&self) {
        self.stored.lock_unpoisoned().clear();
    }
}

/// A wait for something that goes on at the service, and has its own end there: other batches, other runs.
fn is_wait(failure: &Failure) -> bool {
    use crate::cloud::problem::ProblemCode::{CreditsHeld, TooManyBatches, TooManyRequests, TooManyRuns};
    matches!(failure, Failure::Problem(problem)
        if matches!(problem.known(), Some(CreditsHeld | TooManyBatches | TooManyRequests | TooManyRuns)))
}

/// For pauses that vary. Where there is no chance, they don't.
fn chance() -> u8 {
    let mut byte = [128];
    let _same = getrandom::fill(&mut byte);
    byte[0]
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// A link to a service that has answered once, and not since.
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

    /// Whether a call is given up that has failed in these ways, so many seconds after each other until now.
    fn gives_up(patience: u64, bears: Bears, failures: &[(u64, Failure)]) -> bool {
        let session = session(patience);
        let mut backoff = Backoff::default();
        let mut ago: u64 = failures.iter().map(|(after, _)| after).sum();
        let time = |ago| Instant::now().checked_sub(Duration::from_secs(ago)).expect("this machine is up");
        let began = time(ago);
        for (after, failure) in failures {
            ago -= after;
            backoff.fails(time(ago), failure.is_silence());
        }
        session.health.lock_unpoisoned().troubled = Some((began, began));
        let last =
            if failures.last().is_some_and(|(_, last)| last.is_silence()) { silence() } else { refused() };
        session.after(last, &mut backoff, began, bears).is_err()
    }

    #[test]
    fn silence_is_borne_where_work_is_under_way_and_a_refusal_is_not() {
        let stands_still = || [(0, silence()), (30, silence()), (30, silence())];
        assert!(!gives_up(5, Bears::Silence, &stands_still()));
        assert!(gives_up(5, Bears::Patience, &stands_still()));
        let dead = || [(0, refused()), (3, refused()), (3, refused())];
        assert!(gives_up(5, Bears::Silence, &dead()) && gives_up(5, Bears::Patience, &dead()));
        // It stands still, and is started anew.
        assert!(!gives_up(5, Bears::Silence, &[(0, silence()), (30, silence()), (2, refused())]));
        assert!(gives_up(
            5,
            Bears::Silence,
            &[(0, silence()), (30, silence()), (4, refused()), (4, refused())]
        ));
        // A machine that is gone says nothing either, until a new connection is tried.
        assert!(gives_up(5, Bears::Silence, &[(0, silence()), (10, refused())]));
    }

    #[test]
    fn silence_is_not_borne_for_ever() {
        let silences = |count: u64| (0..count).map(|_| (30, silence())).collect::<Vec<_>>();
        assert!(!gives_up(5, Bears::Silence, &silences(4)));
        assert!(gives_up(5, Bears::Silence, &silences(6)));
        assert!(!gives_up(200, Bears::Silence, &silences(6)), "the options say more");
    }

    #[test]
    fn a_service_is_silent_since_the_call_that_got_no_answer_or_the_last_good_one() {
        let session = session(5);
        let since = || session.health.lock_unpoisoned().troubled.map(|(since, _)| since);
        let began = Instant::now().checked_sub(Duration::from_secs(8)).expect("this machine is up");
        session.bad(&silence(), began);
        assert_eq!(since(), Some(began));
        assert_eq!(session.silent(), Duration::ZERO, "this process may have stood still");
        session.health.lock_unpoisoned().troubled = Some((began, began));
        assert!(session.silent() >= Duration::from_secs(8));
        session.on_success();
        assert_eq!((since(), session.silent()), (None, Duration::ZERO));
        session.bad(&silence(), began);
        assert!(since() > Some(began), "another call had an answer meanwhile");
    }
}
