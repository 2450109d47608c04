//! Limits by account: request rates, memory for bodies and answers, and places of event streams. The nonces
//! that were used are in `nonces`.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use axum::body::Bytes;
use fastmap_backends::cloud::{Problem, ProblemCode};
use fastmap_backends::unpoisoned::LockUnpoisoned;
use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::problem::Refusal;

/// A bucket of requests for each account, that fills again at a steady rate.
#[derive(Debug)]
pub(crate) struct Rates {
    per_second: f64,
    buckets: Mutex<HashMap<i64, (f64, Instant)>>,
}

impl Rates {
    pub(crate) fn new(per_second: u32) -> Self {
        Rates { per_second: f64::from(per_second), buckets: Mutex::default() }
    }

    /// Whether this account may have one more request now.
    pub(crate) fn admit(&self, account: i64, now: Instant) -> bool {
        let mut buckets = self.buckets.lock_unpoisoned();
        let (left, last) = buckets.entry(account).or_insert((self.per_second, now));
        let refilled = now.saturating_duration_since(*last).as_secs_f64() * self.per_second;
        *left = (*left + refilled).min(self.per_second);
        *last = now;
        let admitted = *left >= 1.0;
        if admitted {
            *left -= 1.0;
        }
        admitted
    }
}

/// Bytes that an account may always hold, whatever others hold.
const ALWAYS: u64 = 8 << 20;
/// A shorter answer is not counted: the bounds of connections cover it.
const SMALL: usize = 16 << 10;

/// Bytes of bodies and answers in memory, by account. Cheap to clone.
///
/// One account may hold `most` for as long as others hold nothing. Its fair share (`most`, divided by the
/// accounts that hold something) it may hold whatever others hold, because the memory of an account that came
/// first is not taken back. Together `n` accounts therefore hold at most 1 + 1/2 + 1/3 + … + 1/n times
/// `most`.
#[derive(Clone, Debug)]
pub(crate) struct Memory(Arc<Shares>);

#[derive(Debug)]
struct Shares {
    most: u64,
    holders: Mutex<Holders>,
}

#[derive(Debug, Default)]
struct Holders {
    by_account: HashMap<i64, u64>,
    all: u64,
}

/// Bytes that an account holds, until this is dropped.
#[derive(Debug)]
pub(crate) struct BodyPermit {
    memory: Memory,
    account: i64,
    bytes: u64,
}

impl Memory {
    pub(crate) fn new(most: u64) -> Self {
        Memory(Arc::new(Shares { most, holders: Mutex::default() }))
    }

    /// Nothing yet, to grow.
    pub(crate) fn hold(&self, account: i64) -> BodyPermit {
        BodyPermit { memory: self.clone(), account, bytes: 0 }
    }

    /// Counts the bytes of an answer until the last of them is sent. `None`: the account has no room for it.
    pub(crate) fn counted(&self, account: i64, bytes: Bytes) -> Option<Bytes> {
        if bytes.len() <= SMALL {
            return Some(bytes);
        }
        let mut held = self.hold(account);
        held.grow(bytes.len() as u64).then(|| Bytes::from_owner(Counted { bytes, _held: Arc::new(held) }))
    }

    fn lock(&self) -> MutexGuard<'_, Holders> {
        self.0.holders.lock_unpoisoned()
    }
}

impl BodyPermit {
    /// Takes more, if the account may have it. A refusal comes at once: what waited for memory would keep
    /// what it has.
    pub(crate) fn grow(&mut self, more: u64) -> bool {
        let most = self.memory.0.most;
        let mut holders = self.memory.lock();
        let theirs = holders.by_account.get(&self.account).copied();
        let active = holders.by_account.len() as u64 + u64::from(theirs.is_none());
        let wanted = theirs.unwrap_or(0).saturating_add(more);
        let fair = wanted <= ALWAYS.max(most / active);
        let idle = wanted <= most && holders.all.saturating_add(more) <= most;
        if more == 0 || !(fair || idle) {
            return more == 0;
        }
        holders.by_account.insert(self.account, wanted);
        holders.all += more;
        self.bytes += more;
        true
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut holders = self.memory.lock();
        holders.all -= self.bytes;
        if let Some(theirs) = holders.by_account.get_mut(&self.account) {
            *theirs -= self.bytes;
            if *theirs == 0 {
                holders.by_account.remove(&self.account);
            }
        }
    }
}

/// Bytes that count for as long as any part of them is in memory.
#[derive(Debug)]
pub(crate) struct Counted {
    pub(crate) bytes: Bytes,
    pub(crate) _held: Arc<BodyPermit>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What may be open at a time: a few of each account, whatever others have, and up to a bound of one account
/// and of all. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct SlotLimit {
    always: usize,
    of_one: usize,
    all: usize,
    taken: Arc<Mutex<HashMap<i64, usize>>>,
}

/// One of them, until this is dropped.
#[derive(Debug)]
pub(crate) struct SlotPermit {
    places: SlotLimit,
    account: i64,
}

/// There is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuotaExceeded {
    /// The account has all that it may.
    OfOne,
    /// All accounts together have all that there are.
    All,
}

impl SlotLimit {
    pub(crate) fn new(always: usize, of_one: usize, all: usize) -> Self {
        SlotLimit { always, of_one, all, taken: Arc::default() }
    }

    pub(crate) fn admit(&self, account: i64) -> Result<SlotPermit, QuotaExceeded> {
        let mut taken = self.taken.lock_unpoisoned();
        let theirs = taken.get(&account).copied().unwrap_or(0);
        if theirs >= self.of_one {
            return Err(QuotaExceeded::OfOne);
        }
        if theirs >= self.always && taken.values().sum::<usize>() >= self.all {
            return Err(QuotaExceeded::All);
        }
        *taken.entry(account).or_default() += 1;
        Ok(SlotPermit { places: self.clone(), account })
    }
}

impl Drop for SlotPermit {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock_unpoisoned();
        if let Some(theirs) = taken.get_mut(&self.account) {
            *theirs -= 1;
            if *theirs == 0 {
                taken.remove(&self.account);
            }
        }
    }
}

/// Links that an account may mint in a minute: each is remembered by its nonce for as long as that could come
/// again.
const MINTS: NonZeroU32 = NonZeroU32::new(60).expect("not 0");
/// Accounts that are remembered before those that have minted nothing of late are forgotten.
const MINTERS: usize = 10_000;

/// How often accounts have minted links to the dashboard.
#[derive(Debug)]
pub(crate) struct Mints(RateLimiter<i64, HashMapStateStore<i64>, DefaultClock>);

impl Default for Mints {
    fn default() -> Self {
        Mints(RateLimiter::hashmap(Quota::per_minute(MINTS)))
    }
}

impl Mints {
    pub(crate) fn admit(&self, account: i64) -> Result<(), Refusal> {
        if self.0.len() > MINTERS {
            self.0.retain_recent();
        }
        self.0.check_key(&account).map_err(|_| {
            let detail = format!("more than {MINTS} links to the dashboard in a minute");
            Problem::new(ProblemCode::TooManyRequests, detail).retry_after(5).into()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn places_are_bounded_by_account_and_in_all_and_given_back() {
        let places = SlotLimit::new(1, 3, 5);
        let many: Vec<_> = (0..100).map_while(|_| places.admit(1).ok()).collect();
        assert_eq!(many.len(), 3);
        let others: Vec<_> = (0..100).map_while(|_| places.admit(2).ok()).collect();
        assert_eq!(others.len(), 2);
        let full = |account: i64| places.admit(account).err();
        let first = places.admit(3);
        assert!(first.is_ok(), "an account that has none gets one, whatever others have");
        assert_eq!(
            (full(1), full(2), full(3)),
            (Some(QuotaExceeded::OfOne), Some(QuotaExceeded::All), Some(QuotaExceeded::All))
        );
        drop((many, first));
        assert_eq!((full(1), full(3)), (None, None));
        drop(others);
        assert!(places.taken.lock().expect("no panic").is_empty());
    }

    const MB: u64 = 1 << 20;

    #[test]
    fn memory_is_shared_fairly_and_given_back() {
        let memory = Memory::new(144 * MB);
        let take = |account: i64| {
            let mut held = memory.hold(account);
            while held.grow(MB) {}
            held
        };
        let hogs: Vec<BodyPermit> = (1..=8).map(take).collect();
        let shares: Vec<u64> = hogs.iter().map(|held| held.bytes / MB).collect();
        assert_eq!(shares, [144, 72, 48, 36, 28, 24, 20, 18]);
        // One that came late has its fair share all the same, and an account that has much gets no more.
        assert_eq!(take(9).bytes / MB, 16);
        assert!(!memory.hold(1).grow(1));
        let accounts: Vec<BodyPermit> = (10..60).map(take).collect();
        assert_eq!(accounts.last().expect("fifty").bytes, ALWAYS);
        drop((hogs, accounts));
        assert!(memory.lock().by_account.is_empty());
        assert_eq!(memory.lock().all, 0);
    }

    #[test]
    fn a_batch_of_the_largest_size_fits_as_sent_and_as_unpacked() {
        let memory = Memory::new(crate::config::BODY_MEMORY);
        let largest = crate::config::LIMITS.batch_bytes + 64 * 1024;
        let (mut sent, mut unpacked) = (memory.hold(1), memory.hold(1));
        assert!(sent.grow(largest) && unpacked.grow(largest));
        let mut other = memory.hold(2);
        assert!(other.grow(largest), "another account's largest body beside it");
    }

    #[test]
    fn an_answer_counts_until_its_last_byte_is_gone() {
        let memory = Memory::new(144 * MB);
        let bytes = memory.counted(1, vec![0; 100_000].into()).expect("there is room");
        let last = bytes.slice(99_999..);
        drop(bytes);
        assert_eq!(memory.lock().all, 100_000);
        drop(last);
        assert_eq!(memory.lock().all, 0);
        assert!(memory.counted(1, vec![0; 150 << 20].into()).is_none());
        memory.counted(1, vec![0; SMALL].into()).expect("a small one");
    }

    #[test]
    fn rates_are_per_account_and_recover() {
        let (rates, now) = (Rates::new(10), Instant::now());
        assert_eq!((0..20).filter(|_| rates.admit(1, now)).count(), 10);
        assert!(rates.admit(2, now));
        assert_eq!((0..20).filter(|_| rates.admit(1, now + Duration::from_millis(500))).count(), 5);
    }
}
