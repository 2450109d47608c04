//! How far what workers print has been passed on, and waiting for that.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

thread_local! {
    /// This thread passes lines on, and must not wait for them.
    static PASSES_ON: Cell<bool> = const { Cell::new(false) };
}

/// How often a wait looks whether anything moves.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

/// How much of the output of a pool's workers has been passed on.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Bytes of lines that wait for the relay.
    pub(crate) waiting: AtomicUsize,
    /// Lines that the relay has taken, and pieces of output that were left out.
    passed: AtomicU64,
    /// The supervisor reads, or keeps back what it has read.
    pub(crate) kept: AtomicBool,
    /// What `passed` was when a wait was given up.
    stuck: Mutex<Option<u64>>,
    reached: Mutex<Reached>,
    moved: Condvar,
}

#[derive(Debug, Default)]
pub(crate) struct Reached {
    /// The last mark that the relay has come to.
    mark: u64,
    /// No line comes any more.
    over: bool,
}

impl Output {
    /// Whether this thread passes lines on, and must not wait for them.
    pub(crate) fn is_passed_on_here() -> bool {
        PASSES_ON.get()
    }

    fn lock(&self) -> MutexGuard<'_, Reached> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This thread is one of those that are waited for.
    pub(crate) fn passes_on() {
        PASSES_ON.set(true);
    }

    /// The supervisor begins to read, or has put all that it read into the queue but what it keeps back.
    pub(crate) fn keep(&self, kept: bool) {
        // SeqCst here and for `waiting`: `has_output` reads the two one after the other, and a line that
        // moves from one to the other must not be missing in both.
        self.kept.store(kept, Ordering::SeqCst);
    }

    /// The relay has taken a line that counted so many bytes; gives what waited before.
    pub(crate) fn passed(&self, bytes: usize) -> usize {
        self.passed.fetch_add(1, Ordering::SeqCst);
        // After the relay has returned: what is not counted here any more has been passed on, see
        // `has_output`.
        self.waiting.fetch_sub(bytes, Ordering::SeqCst)
    }

    /// A piece of output was read and left out: a wait for what is behind it goes on.
    pub(crate) fn left_out(&self) {
        self.passed.fetch_add(1, Ordering::SeqCst);
    }

    /// All lines before this mark are passed on.
    pub(crate) fn reach(&self, mark: u64) {
        let mut reached = self.lock();
        reached.mark = reached.mark.max(mark);
        self.moved.notify_all();
    }

    /// No line comes any more.
    pub(crate) fn end(&self) {
        // Under the lock that a waiting thread holds from its check to its wait: the wake-up can't come
        // between the two.
        self.lock().over = true;
        self.moved.notify_all();
    }

    /// Waits for a mark, or for the end; false if nothing has moved for as long as `patience`.
    pub(crate) fn wait(&self, mark: u64, patience: Duration) -> bool {
        let has_come = |reached: &Reached| reached.mark >= mark || reached.over;
        if has_come(&self.lock()) {
            return true;
        }
        let mut seen = self.passed.load(Ordering::SeqCst);
        let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        if *stuck == Some(seen) && patience <= PATIENCE {
            // An earlier wait was in vain, and nothing has moved since.
            return false;
        }
        // Released before `reached` is locked, because `stuck` is locked under that below.
        *stuck = None;
        drop(stuck);
        let mut since = Instant::now();
        let mut reached = self.lock();
        while !has_come(&reached) {
            // By the clock, because only marks wake this thread: a wake-up for each line would cost more than
            // the line.
            let waited = self.moved.wait_timeout(reached, LOOK.min(patience));
            reached = waited.unwrap_or_else(PoisonError::into_inner).0;
            let passed = self.passed.load(Ordering::SeqCst);
            if passed != seen {
                (seen, since) = (passed, Instant::now());
            } else if since.elapsed() >= patience {
                // The next map's end does not wait again for an output that has taken nothing since.
                *self.stuck.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
                return false;
            }
        }
        true
    }
}

/// The end of a map is held up for so long by an output that takes nothing. Its lines are kept, and come
/// later.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
