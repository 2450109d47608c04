//! What was refused: written where a call is refused (in a signal handler: nothing here allocates or locks), read by the
//! worker after an item, and by the host when the worker is dead, for the record may lie in memory that both share.

use std::fmt;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, Ordering};

use crate::calls::{self, Call};

const PATH: usize = 116;

/// What libraries look up in passing and do without: cores, limits of memory, a backtrace's map. Nothing to warn of.
const LOOK_UPS: [&[u8]; 10] = [
    b"/proc/self/maps",
    b"/proc/self/cgroup",
    b"/proc/self/mountinfo",
    b"/proc/cpuinfo",
    b"/proc/meminfo",
    b"/proc/stat",
    b"/proc/sys/vm/overcommit_memory",
    b"/sys/fs/cgroup/",
    b"/sys/devices/system/",
    b"/sys/kernel/mm/",
];

/// A call that was refused.
#[derive(Debug)]
#[repr(C)]
struct Slot {
    /// 0: none; else one more than the number of the call.
    call: AtomicU32,
    item: AtomicU32,
    length: AtomicU32,
    path: [AtomicU8; PATH],
}

/// Refused calls of the items of one batch: the first and the last of the latest item, and the first of an item before
/// it that went on all the same. Any bytes are a record; zeroes are an empty one.
#[derive(Debug)]
#[repr(C)]
pub struct Record {
    /// Somebody writes.
    taken: AtomicU32,
    /// Calls refused to the item of `first`, without those that only looked something up.
    count: AtomicU32,
    /// The item of `first` has failed, and says what was refused.
    told: AtomicU32,
    first: Slot,
    last: Slot,
    swallowed: Slot,
}

/// What was refused to an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The number that `running` held (see [`confine`](crate::confine)).
    pub item: u32,
    /// The first call.
    pub call: &'static str,
    /// Its path, if it has one; a long one is cut.
    pub path: Option<String>,
    /// How many calls were refused to the item, if it is known.
    pub calls: u32,
    /// The last of several.
    pub last: Option<Box<Refusal>>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.call)?;
        if let Some(path) = &self.path {
            write!(f, "({path:?})")?;
        }
        match &self.last {
            Some(last) => write!(f, " (the first of {} calls; the last: {last})", self.calls),
            None => Ok(()),
        }
    }
}

static RECORD: AtomicPtr<Record> = AtomicPtr::new(std::ptr::null_mut());
static RUNNING: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());

/// From now on this is the record.
pub(crate) fn keep(record: &'static Record, running: &'static AtomicU32) {
    RUNNING.store(std::ptr::from_ref(running).cast_mut(), Ordering::Release);
    RECORD.store(std::ptr::from_ref(record).cast_mut(), Ordering::Release);
}

impl Default for Record {
    fn default() -> Self {
        Record::new()
    }
}

/// The record of this process; `None` where it is not confined.
pub fn record() -> Option<&'static Record> {
    // SAFETY: it is null, or came from a reference that lives for ever.
    unsafe { RECORD.load(Ordering::Acquire).as_ref() }
}

/// Writes down that this process was refused a call.
///
/// # Safety
/// `path` is null, or bytes that end with a zero byte.
pub(crate) unsafe fn note(number: i64, path: *const u8) {
    let Some(record) = record() else { return };
    // SAFETY: as for the record.
    let item = unsafe { RUNNING.load(Ordering::Acquire).as_ref() };
    let item = item.map_or(u32::MAX, |running| running.load(Ordering::Relaxed));
    // SAFETY: as this function's own.
    unsafe { record.note(number, item, path) };
}

impl Slot {
    #[allow(clippy::declare_interior_mutable_const, reason = "each use is a slot of its own")]
    const EMPTY: Slot = Slot {
        call: AtomicU32::new(0),
        item: AtomicU32::new(0),
        length: AtomicU32::new(0),
        path: [const { AtomicU8::new(0) }; PATH],
    };

    fn is_free(&self) -> bool {
        self.call.load(Ordering::Acquire) == 0
    }

    /// # Safety
    /// As [`note`].
    unsafe fn write(&self, number: i64, item: u32, path: *const u8) {
        self.call.store(0, Ordering::Release);
        self.item.store(item, Ordering::Relaxed);
        let mut length = 0;
        while !path.is_null() && length < PATH {
            // SAFETY: no byte before was the last one.
            let byte = unsafe { path.add(length).read() };
            if byte == 0 {
                break;
            }
            self.path[length].store(byte, Ordering::Relaxed);
            length += 1;
        }
        self.length.store(length as u32, Ordering::Relaxed);
        self.call.store(number as u32 + 1, Ordering::Release);
    }

    fn copy_to(&self, other: &Slot) {
        other.call.store(0, Ordering::Release);
        other.item.store(self.item.load(Ordering::Relaxed), Ordering::Relaxed);
        other.length.store(self.length.load(Ordering::Relaxed), Ordering::Relaxed);
        for (to, from) in other.path.iter().zip(&self.path) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        other.call.store(self.call.load(Ordering::Acquire), Ordering::Release);
    }

    fn read(&self) -> Option<Refusal> {
        let number = self.call.load(Ordering::Acquire).checked_sub(1)?;
        let call: &Call = calls::find(i64::from(number))?;
        let length = (self.length.load(Ordering::Relaxed) as usize).min(PATH);
        let path: Vec<u8> = self.path[..length].iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
        let path = (length > 0).then(|| String::from_utf8_lossy(&path).into_owned());
        Some(Refusal { item: self.item.load(Ordering::Relaxed), call: call.name, path, calls: 1, last: None })
    }
}

/// # Safety
/// As [`note`].
unsafe fn is_look_up(path: *const u8) -> bool {
    // SAFETY: a byte is looked at only where none before it was the last one: those equal a name's, which has no zero.
    let begins =
        |known: &[u8]| known.iter().enumerate().all(|(at, byte)| unsafe { path.add(at).read() } == *byte);
    !path.is_null() && LOOK_UPS.iter().any(|known| begins(known))
}

impl Record {
    /// An empty one.
    pub const fn new() -> Self {
        Record {
            taken: AtomicU32::new(0),
            count: AtomicU32::new(0),
            told: AtomicU32::new(0),
            first: Slot::EMPTY,
            last: Slot::EMPTY,
            swallowed: Slot::EMPTY,
        }
    }

    /// Forgets all: a batch begins, whose items have the same numbers as those before.
    pub fn begin(&self) {
        for slot in [&self.first, &self.last, &self.swallowed] {
            slot.call.store(0, Ordering::Release);
        }
        self.count.store(0, Ordering::Relaxed);
        self.told.store(0, Ordering::Relaxed);
    }

    /// What was refused to that item, if it is the latest to which anything was.
    pub fn of_item(&self, item: u32) -> Option<Refusal> {
        let mut refusal = self.first.read().filter(|first| first.item == item)?;
        refusal.calls = self.count.load(Ordering::Relaxed).max(1);
        refusal.last = (refusal.calls > 1).then(|| self.last.read()).flatten().map(Box::new);
        Some(refusal)
    }

    /// The latest item has failed, and what was refused to it is told by that.
    pub fn tell(&self) {
        self.told.store(1, Ordering::Relaxed);
    }

    /// What was refused to an item that went on all the same.
    pub fn swallowed(&self) -> Option<Refusal> {
        self.swallowed.read().or_else(|| self.first.read().filter(|_| self.is_unsaid()))
    }

    /// Something was refused to the latest item, and no failure says so.
    fn is_unsaid(&self) -> bool {
        self.told.load(Ordering::Relaxed) == 0 && self.count.load(Ordering::Relaxed) > 0
    }

    /// # Safety
    /// As [`note`].
    unsafe fn note(&self, number: i64, item: u32, path: *const u8) {
        // Another thread writes, or this one was interrupted by a signal in doing so: one is enough.
        if self.taken.swap(1, Ordering::Acquire) != 0 {
            return;
        }
        // SAFETY: as this function's own.
        let look_up = unsafe { is_look_up(path) };
        let count = self.count.load(Ordering::Relaxed);
        let slot = if self.first.is_free() || self.first.item.load(Ordering::Relaxed) != item {
            if self.is_unsaid() && self.swallowed.is_free() {
                self.first.copy_to(&self.swallowed);
            }
            self.told.store(0, Ordering::Relaxed);
            self.count.store(u32::from(!look_up), Ordering::Relaxed);
            Some(&self.first)
        } else if look_up {
            None
        } else {
            self.count.store(count + 1, Ordering::Relaxed);
            Some(if count == 0 { &self.first } else { &self.last })
        };
        if let Some(slot) = slot {
            // SAFETY: as this function's own.
            unsafe { slot.write(number, item, path) };
        }
        self.taken.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(record: &Record, number: i64, item: u32, path: &std::ffi::CStr) {
        // SAFETY: it ends with a zero byte.
        unsafe { record.note(number, item, path.as_ptr().cast()) };
    }

    #[test]
    fn an_item_is_told_its_own_calls_first_and_last() {
        let record = Record::new();
        note(&record, libc::SYS_openat, 3, c"/etc/passwd");
        note(&record, libc::SYS_unlinkat, 3, c"/tmp/x");
        assert_eq!(record.of_item(2), None);
        let told = record.of_item(3).expect("it was refused something").to_string();
        assert_eq!(told, "openat(\"/etc/passwd\") (the first of 2 calls; the last: unlinkat(\"/tmp/x\"))");
        record.tell();
        assert_eq!(record.swallowed(), None);
    }

    #[test]
    fn what_an_item_swallowed_is_not_lost_behind_one_that_fails() {
        let record = Record::new();
        note(&record, libc::SYS_socket, 1, c"");
        note(&record, libc::SYS_openat, 5, c"/etc/passwd");
        record.tell();
        let swallowed = record.swallowed().expect("item 1 went on");
        assert_eq!((swallowed.item, swallowed.to_string().as_str()), (1, "socket"));
        record.begin();
        assert_eq!((record.swallowed(), record.of_item(5)), (None, None));
    }

    #[test]
    fn a_look_up_in_passing_is_no_reason_to_warn_but_an_item_that_fails_is_told() {
        let record = Record::new();
        note(&record, libc::SYS_openat, 0, c"/sys/fs/cgroup/cpu.max");
        assert_eq!(record.swallowed(), None);
        assert_eq!(record.of_item(0).expect("it is on record").call, "openat");
        note(&record, libc::SYS_socket, 0, c"");
        assert_eq!(record.of_item(0).expect("it is on record").to_string(), "socket");
    }

    #[test]
    fn any_bytes_are_a_record() {
        let record = Record::new();
        record.first.call.store(u32::MAX, Ordering::Relaxed);
        assert_eq!(record.of_item(0), None);
        note(&record, libc::SYS_openat, 0, c"/x");
        record.begin();
        note(&record, libc::SYS_openat, 0, c"/x");
        record.first.length.store(u32::MAX, Ordering::Relaxed);
        assert_eq!(record.of_item(0).expect("it is on record").call, "openat");
    }
}
