//! Where reports are made and written: by a thread of its own, so that no map is held up by that (a map of a million square roots
//! takes 6 ms; its report 0.4). What was handed in is written when the process exits, or when who has made the configuration
//! drops it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The exit waits so long for a disk.
const PATIENCE: Duration = Duration::from_secs(10);

type Work = Box<dyn FnOnce() + Send>;

struct Desk {
    /// The process whose thread it is; 0: there is none.
    process: u32,
    waiting: VecDeque<Work>,
    /// In the thread's hands.
    under_way: bool,
}

static DESK: Mutex<Desk> = Mutex::new(Desk { process: 0, waiting: VecDeque::new(), under_way: false });
/// Something was handed in, or is done.
static NEWS: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, Desk> {
    DESK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sees to it that there is the thread: by the first map, at its begin.
pub(super) fn open() {
    let mut desk = lock();
    let this = std::process::id();
    if desk.process == this {
        return;
    }
    // In a fork of the process there is no such thread, and what waits there is not its own.
    desk.waiting.clear();
    desk.under_way = false;
    let started = thread::Builder::new().name("fastmap-reports".to_owned()).spawn(work);
    desk.process = if started.is_ok() { this } else { 0 };
    drop(desk);
    // SAFETY: the function lives as long as the program; it takes and gives nothing.
    unsafe { libc::atexit(at_exit) };
}

fn work() {
    let mut desk = lock();
    loop {
        let Some(work) = desk.waiting.pop_front() else {
            desk = NEWS.wait(desk).unwrap_or_else(PoisonError::into_inner);
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
pub(super) fn hand_in(work: impl FnOnce() + Send + 'static) {
    let mut desk = lock();
    if desk.process == std::process::id() {
        desk.waiting.push_back(Box::new(work));
        NEWS.notify_all();
    } else {
        drop(desk);
        work();
    }
}

/// Waits until all is written that was handed in, or for ten seconds.
pub(crate) fn wait() {
    let until = Instant::now() + PATIENCE;
    let mut desk = lock();
    while desk.process == std::process::id() && (desk.under_way || !desk.waiting.is_empty()) {
        let Some(left) = until.checked_duration_since(Instant::now()) else { return };
        desk = NEWS.wait_timeout(desk, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

extern "C" fn at_exit() {
    // A panic must not leave a function that C calls.
    let _over = std::panic::catch_unwind(wait);
}
