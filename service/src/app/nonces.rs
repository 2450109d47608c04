//! Nonces of requests that were used lately, so that a request that was overheard is refused when it comes
//! again. Asked by `auth` for each request whose signature is good.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastmap_backends::unpoisoned::LockUnpoisoned;

/// Seconds that a request's timestamp may be off.
pub(crate) const SKEW: u64 = 300;
/// After this a request is too old whatever its nonce: twice the skew, because it may have come from the
/// future.
pub(crate) const REMEMBER: Duration = Duration::from_secs(2 * SKEW + 1);

/// Parts of that time; a part is forgotten as a whole.
const PARTS: u32 = 4;
/// Nonces that are remembered of all accounts: 8 bytes each, in tables that are half full or fuller: 180 MB
/// at most. At 8,000 requests in a second it takes 17 minutes to have as many, and the oldest are forgotten
/// after 12.
const MOST: usize = 8 << 20;

/// The nonces of each account.
#[derive(Debug)]
pub(crate) struct Nonces {
    most: usize,
    /// Keyed at random, so that no client can make nonces that meet another's.
    hasher: RandomState,
    accounts: Mutex<HashMap<i64, Arc<Mutex<Parts>>>>,
    all: AtomicUsize,
}

impl Default for Nonces {
    fn default() -> Self {
        Nonces::new(MOST)
    }
}

/// What becomes of a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nonce {
    New,
    Repeated,
    /// All that may be remembered is, and the account has its share of it.
    TooMany,
}

/// An account's nonces as hashes of 64 bits, which are drawn already: they are not hashed again.
type Hashes = HashSet<u64, BuildHasherDefault<Drawn>>;

#[derive(Debug)]
struct Parts {
    /// The newest last.
    parts: Vec<Hashes>,
    since: Instant,
    length: usize,
}

#[derive(Debug, Default)]
struct Drawn(u64);

impl Hasher for Drawn {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, drawn: u64) {
        self.0 = drawn;
    }
}

impl Parts {
    fn new(now: Instant) -> Self {
        Parts { parts: vec![Hashes::default()], since: now, length: 0 }
    }

    /// Forgets what is too old; gives how much that was.
    fn forget(&mut self, now: Instant) -> usize {
        let before = self.length;
        let part = REMEMBER / PARTS;
        let age = now.saturating_duration_since(self.since);
        if age > 2 * REMEMBER {
            *self = Parts::new(now);
        } else if age > part {
            self.parts.push(Hashes::default());
            self.since = now;
            if self.parts.len() > PARTS as usize + 1 {
                self.length -= self.parts.remove(0).len();
            }
        }
        before - self.length
    }
}

impl Nonces {
    fn new(most: usize) -> Self {
        Nonces { most, hasher: RandomState::new(), accounts: Mutex::default(), all: AtomicUsize::new(0) }
    }

    /// Whether this token of this account uses this nonce for the first time.
    pub(crate) fn admit(&self, account: i64, token: i64, nonce: u128, now: Instant) -> Nonce {
        let (theirs, accounts) = {
            let mut accounts = self.accounts.lock_unpoisoned();
            let theirs = accounts.entry(account).or_insert_with(|| Arc::new(Mutex::new(Parts::new(now))));
            (Arc::clone(theirs), accounts.len())
        };
        // Its own lock: a table that grows holds up its own account alone.
        let mut theirs = theirs.lock_unpoisoned();
        self.all.fetch_sub(theirs.forget(now), Ordering::Relaxed);
        let hash = self.hasher.hash_one((token, nonce));
        if theirs.parts.iter().any(|part| part.contains(&hash)) {
            return Nonce::Repeated;
        }
        if self.all.load(Ordering::Relaxed) >= self.most && theirs.length >= self.most / accounts {
            return Nonce::TooMany;
        }
        if let Some(newest) = theirs.parts.last_mut() {
            newest.insert(hash);
            theirs.length += 1;
            self.all.fetch_add(1, Ordering::Relaxed);
        }
        Nonce::New
    }

    /// Forgets what is too old, of accounts that ask for nothing any more, too.
    pub(crate) fn forget(&self, now: Instant) {
        let mut accounts = self.accounts.lock_unpoisoned();
        accounts.retain(|_, theirs| {
            let mut parts = theirs.lock_unpoisoned();
            self.all.fetch_sub(parts.forget(now), Ordering::Relaxed);
            // One that is being asked for at this moment stays.
            parts.length > 0 || Arc::strong_count(theirs) > 1
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_new_once_for_as_long_as_its_timestamp_is_good() {
        let (nonces, now) = (Nonces::default(), Instant::now());
        let is_new = |token: i64, nonce: u128, now: Instant| nonces.admit(1, token, nonce, now) == Nonce::New;
        assert!(is_new(1, 5, now));
        assert!(is_new(2, 5, now), "nonces of other tokens are their own");
        let mut begun = now;
        for seconds in [0, 1, SKEW, 2 * SKEW] {
            begun = now + Duration::from_secs(seconds);
            assert!(!is_new(1, 5, begun), "{seconds}");
        }
        for second in 0..3 * REMEMBER.as_secs() {
            is_new(1, 6 + u128::from(second), begun + Duration::from_secs(second));
        }
        let later = begun + 3 * REMEMBER;
        assert!(is_new(1, 5, later), "what is refused by its timestamp need not be remembered");
        let kept = nonces.all.load(Ordering::Relaxed);
        assert!(kept as u64 <= REMEMBER.as_secs() * 5 / 4 + 10, "{kept} are kept");
        nonces.forget(later + 3 * REMEMBER);
        assert!(nonces.accounts.lock().expect("no panic").is_empty());
        assert_eq!(nonces.all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_nonce_is_remembered_in_the_worst_of_moments() {
        for begin in 0..REMEMBER.as_secs() / u64::from(PARTS) {
            let (nonces, now) = (Nonces::default(), Instant::now());
            let at = |seconds: u64| now + Duration::from_secs(seconds);
            nonces.admit(1, 1, 0, at(0));
            nonces.admit(1, 1, 5, at(begin));
            for second in begin..begin + 2 * SKEW {
                nonces.admit(1, 1, 6 + u128::from(second), at(second));
            }
            assert_eq!(nonces.admit(1, 1, 5, at(begin + 2 * SKEW)), Nonce::Repeated, "{begin}");
        }
    }

    #[test]
    fn an_account_that_asks_without_end_leaves_room_for_others() {
        let (nonces, now) = (Nonces::new(1000), Instant::now());
        let admitted = (0..5000).filter(|nonce| nonces.admit(1, 1, *nonce, now) == Nonce::New).count();
        assert_eq!(admitted, 1000);
        assert_eq!(nonces.admit(1, 1, 5, now), Nonce::Repeated);
        let admitted = (0..5000).filter(|nonce| nonces.admit(2, 2, *nonce, now) == Nonce::New).count();
        assert_eq!(admitted, 500, "the share of one of two");
    }
}
