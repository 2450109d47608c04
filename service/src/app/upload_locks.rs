//! Uploads that are being written to, and accounts that wait after an upload that was in vain.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use fastmap_backends::unpoisoned::LockUnpoisoned;

/// Where an upload that turns out wrong took longer than this to unpack, the account's next one waits.
pub(crate) const IN_VAIN: Duration = Duration::from_millis(100);

/// It waits for so many times as long: of a core an account gets a fifth for that.
pub(crate) const RESTS: u32 = 4;

/// Uploads to which somebody is writing now: one at a time each.
#[derive(Debug, Default)]
pub(crate) struct Uploads {
    busy: Mutex<HashSet<PathBuf>>,
    /// When abandoned ones were last looked for.
    pub(crate) looked: Mutex<Option<SystemTime>>,
    /// Until when nothing is unpacked for accounts whose uploads were wrong.
    resting: Mutex<HashMap<i64, Instant>>,
}

pub(crate) struct Busy<'a>(&'a Uploads, PathBuf);

impl Uploads {
    pub(crate) fn begin(&self, path: &Path) -> Option<Busy<'_>> {
        let mut busy = self.busy.lock_unpoisoned();
        busy.insert(path.to_owned()).then(|| Busy(self, path.to_owned()))
    }

    /// An upload of this account was unpacked in vain, which took so long.
    pub(crate) fn was_in_vain(&self, account: i64, took: Duration, now: Instant) {
        let mut resting = self.resting.lock_unpoisoned();
        resting.retain(|_, until| *until > now);
        if took > IN_VAIN {
            resting.insert(account, now + took * RESTS);
        }
    }

    /// How long the account still waits for that; `None`: not at all.
    pub(crate) fn rest_of(&self, account: i64, now: Instant) -> Option<Duration> {
        let until = *self.resting.lock_unpoisoned().get(&account)?;
        until.checked_duration_since(now).filter(|rest| !rest.is_zero())
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.lock_unpoisoned().remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_an_upload_that_took_long_in_vain_its_account_waits_and_no_other() {
        let (uploads, now) = (Uploads::default(), Instant::now());
        uploads.was_in_vain(1, Duration::from_millis(50), now);
        assert_eq!(uploads.rest_of(1, now), None, "it took little");
        uploads.was_in_vain(1, Duration::from_secs(2), now);
        let after = |seconds| uploads.rest_of(1, now + Duration::from_secs(seconds));
        assert_eq!((after(0), after(7)), (Some(Duration::from_secs(8)), Some(Duration::from_secs(1))));
        assert_eq!((after(8), uploads.rest_of(2, now)), (None, None));
        uploads.was_in_vain(2, Duration::ZERO, now + Duration::from_secs(9));
        assert!(uploads.resting.lock().expect("no panic").is_empty(), "what is over is forgotten");
    }
}
