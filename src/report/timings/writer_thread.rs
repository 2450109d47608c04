//! Where reports are made and written: by a thread of its own, so that no map is held up by that (a map of a million square roots
//! takes 6 ms; its report 0.4). What was handed in is written when the process exits, or when who has made the configuration
//! drops it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use fastmap_backends::unpoisoned::{LockUnpoisoned, WaitUnpoisoned};

/// The exit waits so long for a disk.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most that wait; beyond, who hands one in does it himself.
const MOST: usize = 16;

type Work = Box<dyn FnOnce() + Send>;

struct WriterThread {
    waiting: VecDeque<Work>,
    /// In the thread's hands.
    under_way: bool,
}

/// The process whose thread it is; 0: there is none. A fork of the process has no such thread, what waits is not its own, and the
/// lock may be held there for ever: it is not touched.
static PROCESS: AtomicU32 = AtomicU32::new(0);
static DESK: Mutex<WriterThread> = Mutex::new(WriterThread { waiting: VecDeque::new(), under_way: false });
/// Something was handed in, or is done.
static NEWS: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, WriterThread> {
    DESK.lock_unpoisoned()
}

fn is_open() -> bool {
    PROCESS.load(Ordering::Acquire) == std::process::id()
}

/// Sees to it that there is the thread: by the first map, at its begin.
pub(crate) fn open() {
    if PROCESS.load(Ordering::Acquire) != 0 {
        return;
    }
    let desk = lock();
    if PROCESS.load(Ordering::Acquire) == 0
        && thread::Builder::new().name("fastmap-reports".to_owned()).spawn(work).is_ok()
    {
        // SAFETY: the function lives as long as the program; it takes and gives nothing.
        unsafe { libc::atexit(at_exit) };
        PROCESS.store(std::process::id(), Ordering::Release);
    }
    drop(desk);
}

fn work() {
    let mut desk = lock();
    loop {
        let Some(work) = desk.waiting.pop_front() else {
            desk = NEWS.wait_unpoisoned(desk);
            continue;
        };
        desk.under_way = true;
        drop(desk);
        // A report that can't be made must not be the last.
        let _told_by_its_hook = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        desk = lock();
        desk.under_way = false;
        NEWS.notify_all();
    }
}

/// Has it done by the thread; by this one where there is none.
pub(crate) fn enqueue(work: impl FnOnce() + Send + 'static) {
    if is_open() {
        let mut desk = lock();
        if desk.waiting.len() < MOST {
            desk.waiting.push_back(Box::new(work));
            NEWS.notify_all();
            return;
        }
    }
    work();
}

/// Waits until all is written that was handed in, or for ten seconds.
pub(crate) fn wait() {
    if !is_open() {
        return;
    }
    let until = Instant::now() + PATIENCE;
    let mut desk = lock();
    while desk.under_way || !desk.waiting.is_empty() {
        let Some(left) = until.checked_duration_since(Instant::now()) else { return };
        desk = NEWS.wait_timeout_unpoisoned(desk, left);
    }
}

extern "C" fn at_exit() {
    // A panic must not leave a function that C calls.
    let _over = std::panic::catch_unwind(wait);
}
