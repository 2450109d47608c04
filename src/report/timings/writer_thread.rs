//! The thread that makes and writes reports, so that no map waits for them (a map of a million square roots takes 6 ms, its
//! report 0.4). All queued reports are written before the process exits, and when the owner of a configuration drops it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use fastmap_backends::unpoisoned::{LockUnpoisoned, WaitUnpoisoned};
use fastmap_backends::{ExitHook, register_exit_hook};

/// Longest time that the exit waits for a disk.
const EXIT_DEADLINE: Duration = Duration::from_secs(10);
/// Reports in the queue at most. Where it is full, the caller writes its report itself.
const CAPACITY: usize = 16;

type Report = Box<dyn FnOnce() + Send>;

struct Queue {
    waiting: VecDeque<Report>,
    /// The thread writes one.
    writing: bool,
}

/// The process whose thread it is; 0: the thread does not exist. A fork of the process has no such thread, the queue is not its
/// own, and the lock may be held there for ever: the fork does not touch it.
static PROCESS: AtomicU32 = AtomicU32::new(0);
static QUEUE: Mutex<Queue> = Mutex::new(Queue { waiting: VecDeque::new(), writing: false });
/// A report was queued, or written.
static CHANGED: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, Queue> {
    QUEUE.lock_unpoisoned()
}

fn is_running() -> bool {
    PROCESS.load(Ordering::Acquire) == std::process::id()
}

/// Starts the thread, unless it runs. The first map with a report does so when it begins.
pub(crate) fn start() {
    if PROCESS.load(Ordering::Acquire) != 0 {
        return;
    }
    // Two maps can begin at the same time.
    let queue = lock();
    if PROCESS.load(Ordering::Acquire) == 0
        && thread::Builder::new().name("fastmap-reports".to_owned()).spawn(write_all).is_ok()
    {
        register_exit_hook::<WriteReports>();
        PROCESS.store(std::process::id(), Ordering::Release);
    }
    drop(queue);
}

fn write_all() {
    let mut queue = lock();
    loop {
        let Some(report) = queue.waiting.pop_front() else {
            queue = CHANGED.wait_unpoisoned(queue);
            continue;
        };
        queue.writing = true;
        drop(queue);
        // A report whose making panics is not the last one. The panic hook has printed the message.
        let _printed = catch_unwind(AssertUnwindSafe(report));
        queue = lock();
        queue.writing = false;
        CHANGED.notify_all();
    }
}

/// Queues a report for the thread; writes it at once where the thread does not run or the queue is full.
pub(crate) fn enqueue(report: impl FnOnce() + Send + 'static) {
    if is_running() {
        let mut queue = lock();
        if queue.waiting.len() < CAPACITY {
            queue.waiting.push_back(Box::new(report));
            CHANGED.notify_all();
            return;
        }
    }
    report();
}

/// Waits until all queued reports are written, for ten seconds at most.
pub(crate) fn wait() {
    if !is_running() {
        return;
    }
    let deadline = Instant::now() + EXIT_DEADLINE;
    let mut queue = lock();
    while queue.writing || !queue.waiting.is_empty() {
        let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
        queue = CHANGED.wait_timeout_unpoisoned(queue, left);
    }
}

struct WriteReports;

impl ExitHook for WriteReports {
    fn registered() -> &'static AtomicBool {
        static REGISTERED: AtomicBool = AtomicBool::new(false);
        &REGISTERED
    }

    fn at_exit() {
        wait();
    }
}
