//! Log of denied calls. It is written in the signal handler that denies a call, so writing neither allocates
//! nor locks. The worker reads it after an item, and the host after the worker's death: the log may be in
//! memory that both share.

use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::refusal::Refusal;
use crate::refusal_slot::{Slot, Why};

/// Number of different calls of one batch that are recorded.
const SLOTS: usize = 14;
/// Maximum number of slots used for missing files.
const MAX_MISSING: usize = 8;
/// Denied calls of the items of one batch, each pair of call and path once. Any bytes are a valid log; zeroes
/// are an empty one.
#[derive(Debug)]
#[repr(C)]
pub struct DenialLog {
    /// 1 while a thread writes.
    writing: AtomicU32,
    /// The latest item with a denied call, plus one; 0 if there is none.
    latest: AtomicU32,
    slots: [Slot; SLOTS],
}

static RECORD: AtomicPtr<DenialLog> = AtomicPtr::new(std::ptr::null_mut());
static RUNNING: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());

/// Sets the log of this process.
pub(crate) fn set_record(record: &'static DenialLog, running: &'static AtomicU32) {
    RUNNING.store(std::ptr::from_ref(running).cast_mut(), Ordering::Release);
    RECORD.store(std::ptr::from_ref(record).cast_mut(), Ordering::Release);
}

impl Default for DenialLog {
    fn default() -> Self {
        DenialLog::new()
    }
}

/// Returns the log of this process; `None` if the process is not confined.
#[inline]
pub fn record() -> Option<&'static DenialLog> {
    // SAFETY: it is null, or comes from a `'static` reference.
    unsafe { RECORD.load(Ordering::Acquire).as_ref() }
}

/// Records that a call of this process was denied, or that a file was not found.
///
/// # Safety
/// `path` is null or NUL-terminated.
pub(crate) unsafe fn note(number: i64, path: *const u8, why: Why) {
    let Some(record) = record() else { return };
    // SAFETY: as for `RECORD`.
    let item = unsafe { RUNNING.load(Ordering::Acquire).as_ref() };
    let item = item.map_or(u32::MAX, |running| running.load(Ordering::Relaxed));
    // SAFETY: as this function's own.
    unsafe { record.note(number, item, path, why) };
}

impl DenialLog {
    /// Creates an empty log.
    pub const fn new() -> Self {
        DenialLog { writing: AtomicU32::new(0), latest: AtomicU32::new(0), slots: [Slot::EMPTY; SLOTS] }
    }

    /// Clears the log at the start of a batch, whose items have the same numbers as those of the batch
    /// before.
    pub fn begin(&self) {
        if self.latest.load(Ordering::Relaxed) != 0 {
            self.latest.store(0, Ordering::Relaxed);
            self.slots.iter().for_each(|slot| slot.call.store(0, Ordering::Release));
        }
    }

    /// Returns whether `item` had a denied call, and no other item had one since.
    #[inline]
    pub fn is_of(&self, item: u32) -> bool {
        self.latest.load(Ordering::Relaxed) == item.wrapping_add(1)
    }

    /// Returns the denied calls of `item`, each pair of call and path once. Harmless lookups are included
    /// only if there are no other calls.
    pub fn of_item(&self, item: u32) -> Vec<Refusal> {
        let of_item = || self.slots.iter().filter(|slot| slot.is_of(item) && !slot.is_missing());
        let all_look_up = of_item().all(Slot::is_look_up);
        of_item()
            .filter(|slot| all_look_up || !slot.is_look_up())
            .filter_map(|slot| slot.read(item))
            .collect()
    }

    /// Returns the same as [`DenialLog::of_item`], but never harmless lookups.
    pub fn in_earnest(&self, item: u32) -> Vec<Refusal> {
        let of_item = || self.slots.iter().filter(|slot| slot.is_of(item) && !slot.is_missing());
        of_item().filter(|slot| !slot.is_look_up()).filter_map(|slot| slot.read(item)).collect()
    }

    /// Returns the missing files that `item` looked for, without harmless lookups.
    pub fn missing(&self, item: u32) -> Vec<Refusal> {
        let of_item = || self.slots.iter().filter(|slot| slot.is_of(item) && slot.is_missing());
        of_item().filter(|slot| !slot.is_look_up()).filter_map(|slot| slot.read(item)).collect()
    }

    /// Marks the denied calls of `item` as reported, because its failure names them.
    pub fn tell(&self, item: u32) {
        for slot in
            self.slots.iter().filter(|slot| slot.unreported.load(Ordering::Relaxed) == item.wrapping_add(1))
        {
            slot.unreported.store(0, Ordering::Relaxed);
        }
    }

    /// Records that the result of `item` was an error of its own.
    pub fn answered_error(&self, item: u32) {
        let looked_up = |slot: &Slot| slot.is_missing() && slot.is_look_up();
        for slot in self.slots.iter().filter(|slot| slot.is_of(item) && !looked_up(slot)) {
            slot.unreported.store(item.wrapping_add(1), Ordering::Relaxed);
            slot.own_error.store(1, Ordering::Relaxed);
        }
    }

    /// Returns the denied calls of items that continued, and that no failure reports.
    pub fn swallowed(&self) -> Vec<Refusal> {
        let unreported = |slot: &Slot| slot.read(slot.unreported.load(Ordering::Relaxed).checked_sub(1)?);
        self.slots.iter().filter_map(unreported).collect()
    }

    /// # Safety
    /// As [`note`].
    unsafe fn note(&self, number: i64, item: u32, path: *const u8, why: Why) {
        // Another thread is writing, or a signal has interrupted this one while it was writing: drop this
        // call, because a lock can't be used here.
        if self.writing.swap(1, Ordering::Acquire) != 0 {
            return;
        }
        // SAFETY: as this function's own.
        let known = self.slots.iter().find(|slot| unsafe { slot.holds(number, path, why) });
        let slot = known.or_else(|| {
            let slot = self.find_slot(item, why)?;
            // SAFETY: as this function's own.
            unsafe { slot.write(number, path, why) };
            Some(slot)
        });
        if let Some(slot) = slot {
            slot.item.store(item, Ordering::Relaxed);
            if slot.unreported.load(Ordering::Relaxed) == 0 && !slot.is_look_up() {
                slot.unreported.store(item.wrapping_add(1), Ordering::Relaxed);
            }
        }
        self.latest.store(item.wrapping_add(1), Ordering::Relaxed);
        self.writing.store(0, Ordering::Release);
    }

    /// Chooses the slot for a new call of `item`.
    fn find_slot(&self, item: u32, why: Why) -> Option<&Slot> {
        if why == Why::Missing {
            // Libraries look for a file in many places: such lookups must not displace denied calls.
            return self.slots[SLOTS - MAX_MISSING..].iter().find(|slot| slot.is_free());
        }
        let free = self.slots.iter().find(|slot| slot.is_free());
        // Otherwise replace a call of another item or a missing file; failing that, this item's latest call.
        let others = || self.slots.iter().find(|slot| !slot.is_of(item) || slot.is_missing());
        free.or_else(others).or(self.slots.last())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::{MAX_NAMED, named};

    fn note(record: &DenialLog, number: i64, item: u32, path: &std::ffi::CStr) {
        // SAFETY: it ends with a zero byte.
        unsafe { record.note(number, item, path.as_ptr().cast(), Why::Refused) };
    }

    fn missing(record: &DenialLog, item: u32, path: &std::ffi::CStr) {
        // SAFETY: it ends with a zero byte.
        unsafe { record.note(libc::SYS_openat, item, path.as_ptr().cast(), Why::Missing) };
    }

    fn swallowed(record: &DenialLog) -> Vec<(u32, String)> {
        record.swallowed().iter().map(|refusal| (refusal.item, refusal.to_string())).collect()
    }

    #[test]
    fn an_item_is_told_its_own_calls_each_once() {
        let record = DenialLog::new();
        note(&record, libc::SYS_openat, 2, c"/etc/hosts");
        for _ in 0..3 {
            note(&record, libc::SYS_openat, 3, c"/etc/passwd");
            note(&record, libc::SYS_openat, 3, c"/etc/passwd-");
            note(&record, libc::SYS_unlinkat, 3, c"/tmp/x");
        }
        assert!(record.of_item(1).is_empty());
        assert!(record.is_of(3) && !record.is_of(2));
        let reported = named(&record.of_item(3));
        assert_eq!(reported, "openat(\"/etc/passwd\"), openat(\"/etc/passwd-\") and unlinkat(\"/tmp/x\")");
        record.tell(3);
        assert_eq!(swallowed(&record), [(2, "openat(\"/etc/hosts\")".to_owned())]);
    }

    #[test]
    fn what_an_item_swallowed_is_not_lost_behind_one_that_fails() {
        let record = DenialLog::new();
        note(&record, libc::SYS_socket, 1, c"");
        note(&record, libc::SYS_openat, 5, c"/etc/passwd");
        note(&record, libc::SYS_socket, 5, c"");
        record.tell(5);
        assert_eq!(swallowed(&record), [(1, "socket".to_owned())]);
        record.begin();
        assert!(record.swallowed().is_empty() && record.of_item(5).is_empty());
    }

    #[test]
    fn the_call_of_an_item_that_answers_an_error_is_not_lost_behind_harmless_ones() {
        let record = DenialLog::new();
        for item in 0..8 {
            note(&record, libc::SYS_openat, item, c"/dev/urandom");
        }
        note(&record, libc::SYS_openat, 7, c"/tmp/sorted");
        record.answered_error(7);
        let reported: Vec<_> =
            record.swallowed().iter().map(|refusal| (refusal.item, refusal.own_error)).collect();
        assert_eq!(reported, [(7, true), (7, true)]);
        assert_eq!(swallowed(&record)[1].1, "openat(\"/tmp/sorted\")");
    }

    #[test]
    fn a_look_up_in_passing_is_no_reason_to_warn_but_an_item_that_fails_is_told() {
        let record = DenialLog::new();
        note(&record, libc::SYS_openat, 0, c"/sys/fs/cgroup/cpu.max");
        assert!(record.swallowed().is_empty());
        assert_eq!(record.of_item(0)[0].call, "openat");
        assert!(record.in_earnest(0).is_empty());
        note(&record, libc::SYS_socket, 0, c"");
        assert_eq!(named(&record.of_item(0)), "socket");
    }

    #[test]
    fn of_many_calls_the_first_ones_and_the_latest_are_kept_and_few_are_named() {
        let record = DenialLog::new();
        note(&record, libc::SYS_socket, 0, c"");
        for number in 0..100 {
            let path = std::ffi::CString::new(format!("/tmp/{number}")).expect("no zero in it");
            note(&record, libc::SYS_openat, 1, &path);
        }
        let kept = record.of_item(1);
        assert_eq!(kept.len(), SLOTS);
        assert_eq!(kept[SLOTS - 1].to_string(), "openat(\"/tmp/99\")");
        assert!(
            named(&kept).ends_with(&format!("and {} other calls", SLOTS - MAX_NAMED)),
            "{}",
            named(&kept)
        );
    }

    #[test]
    fn files_that_are_not_there_are_kept_beside_refused_calls_and_take_no_place_of_theirs() {
        let record = DenialLog::new();
        missing(&record, 1, c"/proc/meminfo");
        for number in 0..100 {
            let path = std::ffi::CString::new(format!("/usr/share/x/{number}")).expect("no zero in it");
            missing(&record, 1, &path);
        }
        for number in 0..100 {
            let path = std::ffi::CString::new(format!("/x/{number}")).expect("no zero in it");
            note(&record, libc::SYS_openat, 1, &path);
            if number == 5 {
                let there = record.missing(1);
                assert_eq!((there.len(), record.of_item(1).len()), (MAX_MISSING - 1, SLOTS - MAX_MISSING));
                assert!(there.iter().all(|file| file.missing), "{there:?}");
                assert_eq!(there[0].to_string(), "openat(\"/usr/share/x/0\": not there)");
            }
        }
        assert_eq!(record.of_item(1).len(), SLOTS);
    }

    #[test]
    fn a_missing_file_is_told_although_its_item_fails_of_a_refused_call() {
        let record = DenialLog::new();
        missing(&record, 3, c"/usr/share/proj/proj.db");
        note(&record, libc::SYS_socket, 3, c"");
        record.tell(3);
        // The failure's message names the call; the host decides whether the file matters.
        assert!(swallowed(&record).is_empty(), "what a failure says is said");
        assert_eq!(record.missing(3).len(), 1);
    }

    #[test]
    fn any_bytes_are_a_record() {
        let record = DenialLog::new();
        record.slots[0].call.store(u32::MAX, Ordering::Relaxed);
        assert!(record.of_item(0).is_empty());
        note(&record, libc::SYS_openat, 0, c"/x");
        record.slots[1].length.store(u32::MAX, Ordering::Relaxed);
        assert_eq!(record.of_item(0)[0].call, "openat");
    }
}
