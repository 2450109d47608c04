//! One denied call in memory that the host and its worker share. The worker may write it in a signal handler,
//! so this module neither allocates nor locks. Each field is an atomic, because the other process may read at
//! any time, and any bytes are valid.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::calls::Call;
use crate::refusal::Refusal;

/// Maximum number of recorded bytes of a path.
const MAX_PATH: usize = 112;

/// Prefixes of paths that libraries look up and can do without: cores, limits of memory, a backtrace's map.
/// They cause no warning.
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

/// The reason why a call is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The call was denied.
    Refused,
    /// The file is missing in the jail.
    Missing,
}

/// A denied call; repeated calls with the same path share the slot.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Slot {
    /// The number of the call plus one; 0 if the slot is free.
    pub(crate) call: AtomicU32,
    /// The latest item that made the call.
    pub(crate) item: AtomicU32,
    /// The first item that made the call and continued without a failure that reports it, plus one; 0 if
    /// there is none.
    pub(crate) unreported: AtomicU32,
    /// Whether that item's result was an error of its own.
    pub(crate) own_error: AtomicU32,
    look_up: AtomicU32,
    /// Whether the file is missing in the jail; the call was not denied.
    missing: AtomicU32,
    pub(crate) length: AtomicU32,
    path: [AtomicU8; MAX_PATH],
}

impl Slot {
    #[allow(clippy::declare_interior_mutable_const, reason = "each use is a slot of its own")]
    pub(crate) const EMPTY: Slot = Slot {
        call: AtomicU32::new(0),
        item: AtomicU32::new(0),
        unreported: AtomicU32::new(0),
        own_error: AtomicU32::new(0),
        look_up: AtomicU32::new(0),
        missing: AtomicU32::new(0),
        length: AtomicU32::new(0),
        path: [const { AtomicU8::new(0) }; MAX_PATH],
    };

    pub(crate) fn is_free(&self) -> bool {
        self.call.load(Ordering::Acquire) == 0
    }

    pub(crate) fn is_of(&self, item: u32) -> bool {
        !self.is_free() && self.item.load(Ordering::Relaxed) == item
    }

    pub(crate) fn is_look_up(&self) -> bool {
        self.look_up.load(Ordering::Relaxed) != 0
    }

    pub(crate) fn is_missing(&self) -> bool {
        self.missing.load(Ordering::Relaxed) != 0
    }

    /// Returns whether the slot holds this call with this path.
    ///
    /// # Safety
    /// As [`note`](crate::refusal_record::note).
    pub(crate) unsafe fn holds(&self, number: i64, path: *const u8, why: Why) -> bool {
        let same = self.call.load(Ordering::Acquire) == number as u32 + 1;
        if !same || self.is_missing() != (why == Why::Missing) {
            return false;
        }
        let length = (self.length.load(Ordering::Relaxed) as usize).min(MAX_PATH);
        if path.is_null() {
            return length == 0;
        }
        // SAFETY: a byte is read only if all bytes before it equal those of the recorded path, which contains
        // no NUL.
        let same = |at: usize| self.path[at].load(Ordering::Relaxed) == unsafe { path.add(at).read() };
        // SAFETY: as above, for all bytes.
        (0..length).all(same) && (length == MAX_PATH || unsafe { path.add(length).read() } == 0)
    }

    /// # Safety
    /// As [`note`](crate::refusal_record::note).
    pub(crate) unsafe fn write(&self, number: i64, path: *const u8, why: Why) {
        self.call.store(0, Ordering::Release);
        self.unreported.store(0, Ordering::Relaxed);
        self.own_error.store(0, Ordering::Relaxed);
        self.missing.store(u32::from(why == Why::Missing), Ordering::Relaxed);
        let mut length = 0;
        while !path.is_null() && length < MAX_PATH {
            // SAFETY: no earlier byte was the terminating NUL.
            let byte = unsafe { path.add(length).read() };
            if byte == 0 {
                break;
            }
            self.path[length].store(byte, Ordering::Relaxed);
            length += 1;
        }
        self.length.store(length as u32, Ordering::Relaxed);
        // SAFETY: as this function's own.
        self.look_up.store(u32::from(unsafe { is_look_up(path) }), Ordering::Relaxed);
        self.call.store(number as u32 + 1, Ordering::Release);
    }

    /// Reads the call, as made by `item`.
    pub(crate) fn read(&self, item: u32) -> Option<Refusal> {
        let number = self.call.load(Ordering::Acquire).checked_sub(1)?;
        let call: &Call = crate::calls::find(i64::from(number))?;
        let length = (self.length.load(Ordering::Relaxed) as usize).min(MAX_PATH);
        let path: Vec<u8> = self.path[..length].iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
        let path = (length > 0).then(|| String::from_utf8_lossy(&path).into_owned());
        let own_error = self.own_error.load(Ordering::Relaxed) != 0;
        Some(Refusal { item, call: call.name, path, own_error, missing: self.is_missing() })
    }
}

/// # Safety
/// As [`note`](crate::refusal_record::note).
unsafe fn is_look_up(path: *const u8) -> bool {
    // SAFETY: a byte is read only if all bytes before it equal those of a known prefix, which contains no
    // NUL.
    let begins =
        |known: &[u8]| known.iter().enumerate().all(|(at, byte)| unsafe { path.add(at).read() } == *byte);
    !path.is_null() && LOOK_UPS.iter().any(|known| begins(known))
}
