//! What was refused: written where a call is refused (in a signal handler: nothing here allocates or locks),
//! read by the worker after an item, and by the host when the worker is dead, for the record may lie in
//! memory that both share.

use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::refusal::Refusal;
use crate::refusal_slot::{Slot, Why};

/// Different calls of one batch that are kept.
const SLOTS: usize = 14;
/// Those of them that files may take which are not there.
const MISSING: usize = 8;
/// Refused calls of the items of one batch, each with its path once. Any bytes are a record; zeroes are an
/// empty one.
#[derive(Debug)]
#[repr(C)]
pub struct DenialLog {
    /// A thread writes.
    taken: AtomicU32,
    /// One more than the latest item to which anything was refused; 0: nothing was.
    latest: AtomicU32,
    slots: [Slot; SLOTS],
}

static RECORD: AtomicPtr<DenialLog> = AtomicPtr::new(std::ptr::null_mut());
static RUNNING: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());

/// From now on this is the record.
pub(crate) fn keep(record: &'static DenialLog, running: &'static AtomicU32) {
    RUNNING.store(std::ptr::from_ref(running).cast_mut(), Ordering::Release);
    RECORD.store(std::ptr::from_ref(record).cast_mut(), Ordering::Release);
}

impl Default for DenialLog {
    fn default() -> Self {
        DenialLog::new()
    }
}

/// The record of this process; `None` where it is not confined.
#[inline]
pub fn record() -> Option<&'static DenialLog> {
    // SAFETY: it is null, or came from a reference that lives for ever.
    unsafe { RECORD.load(Ordering::Acquire).as_ref() }
}

/// Writes down that this process was refused a call, or was told that a file is not there.
///
/// # Safety
/// `path` is null, or bytes that end with a zero byte.
pub(crate) unsafe fn note(number: i64, path: *const u8, why: Why) {
    let Some(record) = record() else { return };
    // SAFETY: as for the record.
    let item = unsafe { RUNNING.load(Ordering::Acquire).as_ref() };
    let item = item.map_or(u32::MAX, |running| running.load(Ordering::Relaxed));
    // SAFETY: as this function's own.
    unsafe { record.note(number, item, path, why) };
}

impl DenialLog {
    /// An empty one.
    pub const fn new() -> Self {
        DenialLog { taken: AtomicU32::new(0), latest: AtomicU32::new(0), slots: [Slot::EMPTY; SLOTS] }
    }

    /// Forgets all: a batch begins, whose items have the same numbers as those before.
    pub fn begin(&self) {
        if self.latest.load(Ordering::Relaxed) != 0 {
            self.latest.store(0, Ordering::Relaxed);
            self.slots.iter().for_each(|slot| slot.call.store(0, Ordering::Release));
        }
    }

    /// Whether anything was refused to that item, and nothing since to another.
    #[inline]
    pub fn is_of(&self, item: u32) -> bool {
        self.latest.load(Ordering::Relaxed) == item.wrapping_add(1)
    }

    /// What was refused to that item last; each call with its path once. What only looked something up is
    /// among it where there is nothing else.
    pub fn of_item(&self, item: u32) -> Vec<Refusal> {
        let of_item = || self.slots.iter().filter(|slot| slot.is_of(item) && !slot.is_missing());
        let all_look_up = of_item().all(Slot::is_look_up);
        of_item()
            .filter(|slot| all_look_up || !slot.is_look_up())
            .filter_map(|slot| slot.read(item))
            .collect()
    }

    /// [`DenialLog::of_item`] without what only looked something up.
    pub fn in_earnest(&self, item: u32) -> Vec<Refusal> {
        let of_item = || self.slots.iter().filter(|slot| slot.is_of(item) && !slot.is_missing());
        of_item().filter(|slot| !slot.is_look_up()).filter_map(|slot| slot.read(item)).collect()
    }

    /// The files that item has looked for, and that are not there. Nothing that was looked up in passing.
    pub fn missing(&self, item: u32) -> Vec<Refusal> {
        let of_item = || self.slots.iter().filter(|slot| slot.is_of(item) && slot.is_missing());
        of_item().filter(|slot| !slot.is_look_up()).filter_map(|slot| slot.read(item)).collect()
    }

    /// That item has failed, and what was refused to it is said by its failure.
    pub fn tell(&self, item: u32) {
        for slot in
            self.slots.iter().filter(|slot| slot.unsaid.load(Ordering::Relaxed) == item.wrapping_add(1))
        {
            slot.unsaid.store(0, Ordering::Relaxed);
        }
    }

    /// That item has answered an error of its own.
    pub fn answered_error(&self, item: u32) {
        let looked_up = |slot: &Slot| slot.is_missing() && slot.is_look_up();
        for slot in self.slots.iter().filter(|slot| slot.is_of(item) && !looked_up(slot)) {
            slot.unsaid.store(item.wrapping_add(1), Ordering::Relaxed);
            slot.own_error.store(1, Ordering::Relaxed);
        }
    }

    /// What was refused to items that went on all the same, and is not said by a failure.
    pub fn swallowed(&self) -> Vec<Refusal> {
        let unsaid = |slot: &Slot| slot.read(slot.unsaid.load(Ordering::Relaxed).checked_sub(1)?);
        self.slots.iter().filter_map(unsaid).collect()
    }

    /// # Safety
    /// As [`note`].
    unsafe fn note(&self, number: i64, item: u32, path: *const u8, why: Why) {
        // Another thread writes, or this one was interrupted by a signal in doing so: one is enough.
        if self.taken.swap(1, Ordering::Acquire) != 0 {
            return;
        }
        // SAFETY: as this function's own.
        let known = self.slots.iter().find(|slot| unsafe { slot.holds(number, path, why) });
        let slot = known.or_else(|| {
            let slot = self.place(item, why)?;
            // SAFETY: as this function's own.
            unsafe { slot.write(number, path, why) };
            Some(slot)
        });
        if let Some(slot) = slot {
            slot.item.store(item, Ordering::Relaxed);
            if slot.unsaid.load(Ordering::Relaxed) == 0 && !slot.is_look_up() {
                slot.unsaid.store(item.wrapping_add(1), Ordering::Relaxed);
            }
        }
        self.latest.store(item.wrapping_add(1), Ordering::Relaxed);
        self.taken.store(0, Ordering::Release);
    }

    /// Where a call of that item is written that is not on record yet.
    fn place(&self, item: u32, why: Why) -> Option<&Slot> {
        if why == Why::Missing {
            // Libraries look for a file in many places: none of them takes the place of a refused call.
            return self.slots[SLOTS - MISSING..].iter().find(|slot| slot.is_free());
        }
        let free = self.slots.iter().find(|slot| slot.is_free());
        // Of what others were refused less is lost; of this item's own calls the latest one.
        let others = || self.slots.iter().find(|slot| !slot.is_of(item) || slot.is_missing());
        free.or_else(others).or(self.slots.last())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::{NAMED, named};

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
        let told = named(&record.of_item(3));
        assert_eq!(told, "openat(\"/etc/passwd\"), openat(\"/etc/passwd-\") and unlinkat(\"/tmp/x\")");
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
        let told: Vec<_> =
            record.swallowed().iter().map(|refusal| (refusal.item, refusal.own_error)).collect();
        assert_eq!(told, [(7, true), (7, true)]);
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
        assert!(named(&kept).ends_with(&format!("and {} other calls", SLOTS - NAMED)), "{}", named(&kept));
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
                assert_eq!((there.len(), record.of_item(1).len()), (MISSING - 1, SLOTS - MISSING));
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
        // The failure's words name the call; the file is for the host to judge.
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
