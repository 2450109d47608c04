//! What must be remembered of requests to refuse some: nonces that were used, how many came from whom, and whose hold how
//! much memory and how many places.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A timestamp may be off by so much.
pub(crate) const SKEW: u64 = 300;
/// After this a request is too old whatever its nonce: twice the skew, for it may have come from the future.
pub(crate) const REMEMBER: Duration = Duration::from_secs(2 * SKEW + 1);

/// Nonces that were used lately. Two generations: what is older than both is refused by its timestamp.
#[derive(Debug)]
pub(crate) struct Nonces(Mutex<Generations>);

#[derive(Debug)]
struct Generations {
    young: HashSet<(i64, u128)>,
    old: HashSet<(i64, u128)>,
    since: Instant,
}

impl Default for Nonces {
    fn default() -> Self {
        let (young, old) = Default::default();
        Nonces(Mutex::new(Generations { young, old, since: Instant::now() }))
    }
}

impl Nonces {
    /// Whether this token uses this nonce for the first time.
    pub(crate) fn is_new(&self, token: i64, nonce: u128, now: Instant) -> bool {
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(generations.since) > REMEMBER {
            generations.old = std::mem::take(&mut generations.young);
            generations.since = now;
        }
        !generations.old.contains(&(token, nonce)) && generations.young.insert((token, nonce))
    }
}

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
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
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

/// Bytes of bodies that may be in memory at a time: of one account, and of all.
const BODIES_OF_ONE: u64 = 256 << 20;
const BODIES: u64 = 2 << 30;

/// How many bytes of bodies are in memory, by account. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bodies(Arc<Mutex<HashMap<i64, u64>>>);

/// Bytes of one body; they count until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    bodies: Bodies,
    account: i64,
    bytes: u64,
}

impl Bodies {
    /// Admits a body of so many bytes, if there is room for it. One at a time is always admitted.
    pub(crate) fn admit(&self, account: i64, bytes: u64) -> Option<Held> {
        let mut bodies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: u64 = bodies.values().sum();
        let theirs = bodies.entry(account).or_default();
        if *theirs > 0 && (*theirs + bytes > BODIES_OF_ONE || all + bytes > BODIES) {
            return None;
        }
        *theirs += bytes;
        Some(Held { bodies: self.clone(), account, bytes })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut bodies = self.bodies.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(theirs) = bodies.get_mut(&self.account) {
            *theirs -= self.bytes;
            if *theirs == 0 {
                bodies.remove(&self.account);
            }
        }
    }
}

/// What may be open at a time, so many of one account and so many of all. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    of_one: usize,
    all: usize,
    taken: Arc<Mutex<HashMap<i64, usize>>>,
}

/// One of them, until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    places: Places,
    account: i64,
}

/// There is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The account has all that it may.
    OfOne,
    /// All accounts together have all that there are.
    All,
}

impl Places {
    pub(crate) fn new(of_one: usize, all: usize) -> Self {
        Places { of_one, all, taken: Arc::default() }
    }

    pub(crate) fn admit(&self, account: i64) -> Result<Taken, Full> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.get(&account).is_some_and(|theirs| *theirs >= self.of_one) {
            return Err(Full::OfOne);
        }
        if taken.values().sum::<usize>() >= self.all {
            return Err(Full::All);
        }
        *taken.entry(account).or_default() += 1;
        Ok(Taken { places: self.clone(), account })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(theirs) = taken.get_mut(&self.account) {
            *theirs -= 1;
            if *theirs == 0 {
                taken.remove(&self.account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_by_account_and_in_all_and_given_back() {
        let places = Places::new(3, 5);
        let many: Vec<_> = (0..100).map_while(|_| places.admit(1).ok()).collect();
        assert_eq!(many.len(), 3);
        let others: Vec<_> = (0..100).map_while(|_| places.admit(2).ok()).collect();
        assert_eq!(others.len(), 2);
        let full = |account: i64| places.admit(account).err();
        assert_eq!((full(1), full(2), full(3)), (Some(Full::OfOne), Some(Full::All), Some(Full::All)));
        drop(many);
        assert_eq!((full(1), full(3)), (None, None));
        drop(others);
        assert!(places.taken.lock().expect("no panic").is_empty());
    }

    #[test]
    fn a_nonce_is_new_once_for_as_long_as_its_timestamp_is_good() {
        let (nonces, now) = (Nonces::default(), Instant::now());
        assert!(nonces.is_new(1, 5, now));
        assert!(nonces.is_new(2, 5, now), "nonces of other tokens are their own");
        for seconds in [0, 1, SKEW, 2 * SKEW] {
            assert!(!nonces.is_new(1, 5, now + Duration::from_secs(seconds)), "{seconds}");
        }
        let mut later = now;
        for _ in 0..3 {
            later += REMEMBER + Duration::from_secs(1);
            nonces.is_new(1, 6, later);
        }
        assert!(nonces.is_new(1, 5, later), "what is refused by its timestamp need not be remembered");
    }

    #[test]
    fn bodies_are_bounded_and_one_is_always_admitted() {
        let bodies = Bodies::default();
        let huge = bodies.admit(1, BODIES * 2).expect("the first of its account");
        assert!(bodies.admit(1, 1).is_none());
        let other = bodies.admit(2, 1).expect("the first of its account");
        drop(huge);
        let half = bodies.admit(1, BODIES_OF_ONE / 2).expect("there is room again");
        assert!(bodies.admit(1, BODIES_OF_ONE / 2 + 1).is_none());
        let rest = bodies.admit(1, BODIES_OF_ONE / 2);
        assert!(rest.is_some());
        drop((other, half, rest));
        assert!(bodies.0.lock().expect("no panic").is_empty());
    }

    #[test]
    fn rates_are_per_account_and_recover() {
        let (rates, now) = (Rates::new(10), Instant::now());
        assert_eq!((0..20).filter(|_| rates.admit(1, now)).count(), 10);
        assert!(rates.admit(2, now));
        assert_eq!((0..20).filter(|_| rates.admit(1, now + Duration::from_millis(500))).count(), 5);
    }
}
