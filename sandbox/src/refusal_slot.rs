//! One refused call in memory that the host and its worker share. The worker may write it in a signal handler: nothing here
//! allocates or locks, and each field is an atomic, because the other process reads at any time and any bytes are valid.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::calls::Call;
use crate::refusal::Refusal;

/// Bytes of a path that are kept.
const PATH: usize = 112;

/// What libraries look up in passing and do without: cores, limits of memory, a backtrace's map. Nothing to
/// warn of.
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

/// Why a call is on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It was refused.
    Refused,
    /// In the jail there is no such file.
    Missing,
}

/// A refused call, as often as it was made with the same path.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Slot {
    /// 0: none; else one more than the number of the call.
    pub(crate) call: AtomicU32,
    /// The latest item that made it.
    pub(crate) item: AtomicU32,
    /// One more than the first item that made it and went on, which no failure says; 0: there is none.
    pub(crate) unsaid: AtomicU32,
    /// That item answered an error of its own.
    pub(crate) own_error: AtomicU32,
    look_up: AtomicU32,
    /// It was not refused: in the jail there is no such file.
    missing: AtomicU32,
    pub(crate) length: AtomicU32,
    path: [AtomicU8; PATH],
}

impl Slot {
    #[allow(clippy::declare_interior_mutable_const, reason = "each use is a slot of its own")]
    pub(crate) const EMPTY: Slot = Slot {
        call: AtomicU32::new(0),
        item: AtomicU32::new(0),
        unsaid: AtomicU32::new(0),
        own_error: AtomicU32::new(0),
        look_up: AtomicU32::new(0),
        missing: AtomicU32::new(0),
        length: AtomicU32::new(0),
        path: [const { AtomicU8::new(0) }; PATH],
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

    /// Whether it is this call with this path.
    ///
    /// # Safety
    /// As [`note`](crate::refusal_record::note).
    pub(crate) unsafe fn holds(&self, number: i64, path: *const u8, why: Why) -> bool {
        let same = self.call.load(Ordering::Acquire) == number as u32 + 1;
        if !same || self.is_missing() != (why == Why::Missing) {
            return false;
        }
        let length = (self.length.load(Ordering::Relaxed) as usize).min(PATH);
        if path.is_null() {
            return length == 0;
        }
        // SAFETY: a byte is looked at only where those before it equal those of the path that is kept, which
        // has no zero.
        let same = |at: usize| self.path[at].load(Ordering::Relaxed) == unsafe { path.add(at).read() };
        // SAFETY: as above, for all of them.
        (0..length).all(same) && (length == PATH || unsafe { path.add(length).read() } == 0)
    }

    /// # Safety
    /// As [`note`](crate::refusal_record::note).
    pub(crate) unsafe fn write(&self, number: i64, path: *const u8, why: Why) {
        self.call.store(0, Ordering::Release);
        self.unsaid.store(0, Ordering::Relaxed);
        self.own_error.store(0, Ordering::Relaxed);
        self.missing.store(u32::from(why == Why::Missing), Ordering::Relaxed);
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
        // SAFETY: as this function's own.
        self.look_up.store(u32::from(unsafe { is_look_up(path) }), Ordering::Relaxed);
        self.call.store(number as u32 + 1, Ordering::Release);
    }

    /// The call as made by that item.
    pub(crate) fn read(&self, item: u32) -> Option<Refusal> {
        let number = self.call.load(Ordering::Acquire).checked_sub(1)?;
        let call: &Call = crate::calls::find(i64::from(number))?;
        let length = (self.length.load(Ordering::Relaxed) as usize).min(PATH);
        let path: Vec<u8> = self.path[..length].iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
        let path = (length > 0).then(|| String::from_utf8_lossy(&path).into_owned());
        let own_error = self.own_error.load(Ordering::Relaxed) != 0;
        Some(Refusal { item, call: call.name, path, own_error, missing: self.is_missing() })
    }
}

/// # Safety
/// As [`note`](crate::refusal_record::note).
unsafe fn is_look_up(path: *const u8) -> bool {
    // SAFETY: a byte is looked at only where none before it was the last one: those equal a name's, which has
    // no zero.
    let begins =
        |known: &[u8]| known.iter().enumerate().all(|(at, byte)| unsafe { path.add(at).read() } == *byte);
    !path.is_null() && LOOK_UPS.iter().any(|known| begins(known))
}
