//! Leases of open runs, as far as their clients were heard by this gateway.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use fastmap_backends::unpoisoned::LockUnpoisoned;

/// A look that comes so late has found this process standing still.
pub(crate) const STOOD_STILL: Duration = Duration::from_secs(2);

/// Until when runs live, in milliseconds since 1970: as heard of here, and as the database knows.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    runs: Mutex<HashMap<String, (i64, i64)>>,
    last: Mutex<Option<Instant>>,
    pulse: Mutex<Pulse>,
    /// Accounts of which runs have ended since their rows were last counted.
    ended: Mutex<BTreeSet<i64>>,
}

/// When this process was last seen to run, in milliseconds since 1970: by the wall clock, because leases are,
/// and because the monotonic one stops with a machine that is suspended.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    last: Option<i64>,
    /// Since when it runs without a pause.
    since: Option<i64>,
}

impl Pulse {
    /// Looks at the clock; gives since when this process runs without a pause, if it ever stood still.
    fn look(&mut self, now: i64) -> Option<i64> {
        let paused = self.last.is_some_and(|last| now.saturating_sub(last) > STOOD_STILL.as_millis() as i64);
        // The clock may have been set back since.
        if paused || self.since.is_some_and(|since| since > now) {
            self.since = Some(now);
        }
        self.last = Some(now);
        self.since
    }
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (i64, i64)>> {
        self.runs.lock_unpoisoned()
    }

    /// Makes a lease longer; whether it should be stored in the database.
    pub(crate) fn touch(&self, run: &str, until: i64, length: i64) -> bool {
        *self.last.lock_unpoisoned() = Some(Instant::now());
        let mut leases = self.lock();
        let (here, stored) = leases.entry(run.to_owned()).or_default();
        *here = until;
        let is_due = until - *stored > length / 2;
        if is_due {
            *stored = until;
        }
        is_due
    }

    /// A run of this account has ended, or there are more of its rows to be forgotten.
    pub(crate) fn count_rows_of(&self, account: i64) {
        self.ended.lock_unpoisoned().insert(account);
    }

    pub(crate) fn accounts_to_count(&self) -> BTreeSet<i64> {
        std::mem::take(&mut *self.ended.lock_unpoisoned())
    }

    pub(crate) fn until(&self, run: &str) -> i64 {
        self.lock().get(run).map_or(0, |lease| lease.0)
    }

    /// Looks at the clock; gives since when this process runs without a pause, if it ever stood still.
    /// Nothing could be heard meanwhile.
    pub(crate) fn awake_since(&self, now: i64) -> Option<i64> {
        self.pulse.lock_unpoisoned().look(now)
    }

    pub(crate) fn forget(&self, run: &str) {
        self.lock().remove(run);
    }

    /// Whether any run was heard of lately.
    pub(crate) fn heard_within(&self, time: Duration) -> bool {
        let last = *self.last.lock_unpoisoned();
        last.is_some_and(|last| last.elapsed() < time)
    }

    /// The runs of which somebody was heard here, and that have not ended here.
    pub(crate) fn all(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_comes_late_has_found_a_pause() {
        let mut pulse = Pulse::default();
        let looks = [10_000, 12_000, 70_000, 71_000];
        assert_eq!(looks.map(|now| pulse.look(now)), [None, None, Some(70_000), Some(70_000)]);
        // The clock is set back, which is no pause.
        assert_eq!([1000, 1500].map(|now| pulse.look(now)), [Some(1000); 2]);
    }

    #[test]
    fn the_database_is_told_of_a_lease_before_half_of_it_is_over() {
        let leases = Leases::default();
        assert!(leases.touch("r", 30_000, 30_000));
        assert!(!leases.touch("r", 40_000, 30_000));
        assert!(!leases.touch("r", 45_000, 30_000));
        assert!(leases.touch("r", 45_001, 30_000));
        assert_eq!(leases.until("r"), 45_001);
        leases.forget("r");
        assert_eq!(leases.until("r"), 0);
    }
}
