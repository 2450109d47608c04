//! Bounds the memory that answers of workers take in this process: bytes of frames that are not complete, and
//! of answers that have not been dropped yet. One budget is shared by all pools of an account; what one
//! account fills holds up its own workers alone. Taken by `reader` before it keeps anything, given back with
//! the answer's [`Payload`](crate::Payload).

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes that answers may take at a time. See [`LocalOptions::budget`](crate::LocalOptions::budget).
///
/// # Examples
///
/// 64 MB for each of two accounts, and no more than 100 MB for both; 1 MB of it each has in any case:
///
/// ```
/// use fastmap_backends::local::Budget;
///
/// let all = Budget::new(100_000_000);
/// let one = Budget::within(&all, 64_000_000, 1_000_000);
/// let other = Budget::within(&all, 64_000_000, 1_000_000);
/// assert_eq!((one.used(), other.used(), all.used()), (0, 0, 0));
/// ```
pub struct Budget {
    most: u64,
    /// The bytes that it has whatever is left of the whole, and the whole; `None`: it is not a part.
    part: Option<(u64, Arc<Budget>)>,
    used: Mutex<u64>,
    freed: Condvar,
}

impl Budget {
    /// A budget of `most` bytes.
    pub fn new(most: u64) -> Arc<Budget> {
        Arc::new(Budget { most, part: None, used: Mutex::default(), freed: Condvar::new() })
    }

    /// A budget of `most` bytes that is a part of `whole`. Its first `sure` bytes are granted even where the
    /// whole is used up, and so is one answer of any size where it has no other: a part never waits for other
    /// parts alone.
    pub fn within(whole: &Arc<Budget>, most: u64, sure: u64) -> Arc<Budget> {
        let part = Some((sure, Arc::clone(whole)));
        Arc::new(Budget { most, part, used: Mutex::default(), freed: Condvar::new() })
    }

    /// Bytes that are taken now.
    pub fn used(&self) -> u64 {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes so many bytes, as soon as they are there. `None`: they were not there within `patience`, or
    /// `over` has returned true, because they are not wanted any more.
    pub(crate) fn take(
        self: &Arc<Self>,
        bytes: u64,
        patience: Duration,
        over: &dyn Fn() -> bool,
    ) -> Option<Taken> {
        let deadline = Instant::now() + patience;
        let mut used = self.lock();
        loop {
            // What is larger than the whole budget goes alone: whether it may be so large is decided
            // elsewhere.
            if *used == 0 || used.saturating_add(bytes) <= self.most {
                // One answer is granted even where the whole is used up: a part must not wait for other parts
                // alone.
                let alone = *used == 0 || self.part.as_ref().is_some_and(|(sure, _)| *used + bytes <= *sure);
                if self.of_whole(bytes, alone) {
                    *used += bytes;
                    return Some(Taken { budget: Arc::clone(self), bytes });
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || over() {
                return None;
            }
            // Other parts give back to the whole without a word to this one.
            used = self.freed.wait_timeout(used, left.min(LOOK)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes the bytes of the whole, if there is one; `sure`: whatever is left of it.
    fn of_whole(&self, bytes: u64, sure: bool) -> bool {
        let Some((_, whole)) = &self.part else { return true };
        // The part's own lock is held here, and never taken under the whole's: `give` takes one after the
        // other.
        let mut used = whole.lock();
        let fits = sure || used.saturating_add(bytes) <= whole.most;
        if fits {
            *used += bytes;
        }
        fits
    }

    fn give(&self, bytes: u64) {
        if let Some((_, whole)) = &self.part {
            // The whole first: what is woken by this part's own bytes then finds room in both.
            whole.give(bytes);
        }
        *self.lock() -= bytes;
        self.freed.notify_all();
    }
}

/// How often one that waits looks whether the whole has room again, and whether it is still wanted.
const LOOK: Duration = Duration::from_millis(20);

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget").field("most", &self.most).field("used", &self.used()).finish_non_exhaustive()
    }
}

/// Bytes of a budget, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.give(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_mins(1);

    /// Without waiting.
    fn take(budget: &Arc<Budget>, bytes: u64) -> Option<Taken> {
        budget.take(bytes, Duration::ZERO, &|| false)
    }

    #[test]
    fn what_is_taken_is_bounded_and_waits_until_it_is_given_back() {
        let budget = Budget::new(100);
        let first = take(&budget, 60).expect("it is empty");
        assert!(take(&budget, 41).is_none());
        let second = take(&budget, 40).expect("as much as is left");
        let waiting = Arc::clone(&budget);
        let third = thread::spawn(move || waiting.take(60, LONG, &|| false).is_some());
        drop(first);
        assert!(third.join().expect("no panic"));
        drop(second);
        assert_eq!(budget.used(), 0);
        // Alone it may be larger.
        let large = take(&budget, 1000).expect("nothing else is taken");
        assert!(take(&budget, 1).is_none());
        drop(large);
    }

    #[test]
    fn a_part_that_fills_the_whole_leaves_the_others_what_is_sure() {
        let all = Budget::new(100);
        let hostile: Vec<_> = (0..3).map(|_| Budget::within(&all, 60, 10)).collect();
        let held: Vec<_> = hostile.iter().map(|part| take(part, 60)).collect();
        assert!(held.iter().all(Option::is_some), "each has one answer in any case");
        let honest = Budget::within(&all, 60, 10);
        let one = take(&honest, 50).expect("one answer in any case");
        assert!(take(&honest, 5).is_none());
        drop(one);
        let small: Vec<_> = (0..5).map(|_| take(&honest, 2).expect("it is sure")).collect();
        assert!(take(&honest, 2).is_none());
        drop((held, small));
        assert_eq!((all.used(), honest.used()), (0, 0));
    }
}
