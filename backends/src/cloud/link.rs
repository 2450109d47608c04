//! What all runs of one `Cloud` share: the way to the service and its health, what is known of the account, and what is
//! uploaded. Called from the runs' threads.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::CloudOptions;
use super::http::{By, Failure, Http};
use super::protocol::Auth;
use super::retry::{
    Backoff, NEXT_LINE, PROXY_PATIENCE, Service, Then, WORTH_A_LINE, is_refused_by_a_proxy, words,
};
use super::told::Notice;
use crate::error::BackendError;

/// What was said of the account is believed for so long.
const FRESH: Duration = Duration::from_secs(60);
/// Where nothing answers at first, most likely the address is wrong.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) options: CloudOptions,
    pub(super) http: Http,
    /// The process that made it.
    pub(super) owner: u32,
    auth: Mutex<Option<(Instant, Auth)>>,
    /// Hashes of uploads that are there.
    stored: Mutex<HashSet<String>>,
    /// One upload at a time.
    pub(super) uploading: Mutex<()>,
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
    troubled: Option<Instant>,
    told: Option<Instant>,
}

/// Why a run's thread does not go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// Nobody wants it any more.
    Ended,
    /// It can't.
    Failed(BackendError),
}

/// Who waits between two tries, and for whom.
pub(super) trait Waiter {
    /// Waits so long; `false`: nobody wants it any more.
    fn pause(&self, pause: Duration) -> bool;

    /// So many bytes of an upload are still to be sent.
    fn uploading(&self, left: u64) {
        let _ = left;
    }
}

/// A call that alone gets no answer, while others do, is made for so much longer.
const ALONE: Duration = Duration::from_secs(120);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub(super) fn new(options: CloudOptions, http: Http) -> Self {
        Link {
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
    pub(super) fn is_mine(&self) -> bool {
        std::process::id() == self.owner
    }

    /// The way there and back, once it was measured.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        let nanos = self.round_trip.load(Ordering::Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }

    /// A short call has taken so long.
    pub(super) fn took(&self, took: Duration) {
        let new = (took.as_nanos() as u64).max(1);
        let old = self.round_trip.load(Ordering::Relaxed);
        self.round_trip.store(if old == 0 { new } else { old / 4 * 3 + new / 4 }, Ordering::Relaxed);
    }

    /// A proxy on the way has refused a body of so many bytes as too large.
    pub(super) fn set_too_large(&self, bytes: u64) {
        self.too_large.fetch_min(bytes, Ordering::Relaxed);
    }

    /// Whether a proxy on the way has refused a body no larger than this one.
    pub(super) fn is_too_large(&self, bytes: u64) -> bool {
        bytes >= self.too_large.load(Ordering::Relaxed)
    }

    /// A good answer came.
    pub(super) fn good(&self) {
        if !self.reached.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut health = lock(&self.health);
        let since = health.troubled.take();
        let told = health.told.take();
        drop(health);
        if let (Some(since), Some(_)) = (since, told) {
            self.options.notices.notice(&Notice::Answering { after: since.elapsed() });
        }
    }

    /// No good answer came.
    pub(super) fn bad(&self, failure: &Failure) {
        // The service is well, and says what it does not like.
        if matches!(failure, Failure::Problem(problem) if problem.status < 500) {
            return;
        }
        let mut health = lock(&self.health);
        let since = health.troubled.get_or_insert_with(Instant::now).elapsed();
        let due = health.told.map_or(since > WORTH_A_LINE, |told| told.elapsed() > NEXT_LINE);
        if due {
            health.told = Some(Instant::now());
            drop(health);
            self.options.notices.notice(&Notice::Silent { since, why: &words(failure) });
        }
    }

    /// How long no good answer has come.
    fn troubled(&self) -> Duration {
        lock(&self.health).troubled.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn service<'a>(&'a self, url: &'a str) -> Service<'a> {
        let reached = self.reached.load(Ordering::Relaxed);
        Service { url, token: self.http.token_begin(), reached }
    }

    /// What ends a run that is refused in that way; nothing, where it is worth another try after the pause that is given.
    pub(super) fn after(&self, failure: Failure, backoff: &mut Backoff) -> Result<Duration, BackendError> {
        self.bad(&failure);
        let url = self.http.way();
        let service = self.service(&url);
        let most = match service.reached {
            true if is_refused_by_a_proxy(&failure) => self.options.patience.min(PROXY_PATIENCE),
            true => self.options.patience,
            false => self.options.patience.min(FIRST_PATIENCE),
        };
        let failing = backoff.fails(Instant::now());
        // Where other calls get good answers meanwhile, this one was on the way when the service stood still, maybe twice.
        let others = matches!(failure, Failure::Way(_)) && self.troubled() < most && failing < most + ALONE;
        let over = failing > most && !is_wait(&failure) && !others;
        if is_wait(&failure) {
            // A good answer: what fails after it fails anew.
            let since = backoff.waits();
            if backoff.is_worth_a_line(since) {
                self.options.notices.notice(&Notice::Waiting { since, why: &words(&failure) });
            }
        }
        match service.then(failure) {
            Then::Fail(error) => Err(error),
            Then::Again(_, failure) if over => Err(service.give_up(failing, failure)),
            Then::Again(wish, _) => Ok(backoff.pause(wish, chance())),
        }
    }

    /// Makes a call until it succeeds, as long as that makes sense and somebody wants it.
    pub(super) fn insist<T>(
        &self,
        waiter: &dyn Waiter,
        mut call: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, Stop> {
        let mut backoff = Backoff::default();
        loop {
            match call() {
                Ok(value) => {
                    self.good();
                    return Ok(value);
                }
                Err(failure) => {
                    let pause = self.after(failure, &mut backoff).map_err(Stop::Failed)?;
                    if !waiter.pause(pause) {
                        return Err(Stop::Ended);
                    }
                }
            }
        }
    }

    /// What is known of the account, asked for if it is not, or not any more.
    pub(super) fn auth(&self, waiter: &dyn Waiter) -> Result<Auth, Stop> {
        if let Some((_, auth)) = lock(&self.auth).as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(auth.clone());
        }
        let (auth, took): (Auth, _) =
            self.insist(waiter, || self.http.ask(By::Short, "POST", "/auth", None::<&()>))?;
        self.took(took);
        let _first = self.http.long_poll.set(Duration::from_secs(auth.limits.long_poll_seconds));
        *lock(&self.auth) = Some((Instant::now(), auth.clone()));
        Ok(auth)
    }

    /// The account has so much, as a bill says.
    pub(super) fn billed(&self, balance: i64) {
        if let Some((_, auth)) = lock(&self.auth).as_mut() {
            auth.available += balance - auth.balance;
            auth.balance = balance;
        }
    }

    /// Whether an upload is known to be there.
    pub(super) fn is_stored(&self, hash: &str) -> bool {
        lock(&self.stored).contains(hash)
    }

    pub(super) fn set_stored(&self, hash: &str) {
        lock(&self.stored).insert(hash.to_owned());
    }

    /// Something that was there is not any more.
    pub(super) fn forget_stored(&self) {
        lock(&self.stored).clear();
    }
}

/// A wait for something that goes on at the service, and has its own end there: other batches, other runs.
fn is_wait(failure: &Failure) -> bool {
    use super::problem::ProblemCode::{CreditsHeld, TooManyBatches, TooManyRequests, TooManyRuns};
    matches!(failure, Failure::Problem(problem)
        if matches!(problem.known(), Some(CreditsHeld | TooManyBatches | TooManyRequests | TooManyRuns)))
}

/// For pauses that vary. Where there is no chance, they don't.
fn chance() -> u8 {
    let mut byte = [128];
    let _same = getrandom::fill(&mut byte);
    byte[0]
}
