//! Locks and waits that go on after a panic of another thread. Here because all crates of fastmap build on this one.
//!
//! The standard library's locks are poisoned when a thread panics while it holds one. Each critical section of fastmap leaves
//! its data whole at every point where it could panic, so the data stays usable, and a map must not end because of a panic that
//! was reported elsewhere.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// [`Mutex::lock`] without poison.
pub trait LockUnpoisoned<T: ?Sized> {
    /// Waits for the lock.
    fn lock_unpoisoned(&self) -> MutexGuard<'_, T>;
}

impl<T: ?Sized> LockUnpoisoned<T> for Mutex<T> {
    #[inline]
    fn lock_unpoisoned(&self) -> MutexGuard<'_, T> {
        self.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The waits of [`Condvar`] without poison.
pub trait WaitUnpoisoned {
    /// Waits for a notification; may also return without one.
    fn wait_unpoisoned<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T>;

    /// Waits for a notification, no longer than `most`; may also return without one.
    fn wait_timeout_unpoisoned<'a, T>(&self, guard: MutexGuard<'a, T>, most: Duration) -> MutexGuard<'a, T>;
}

impl WaitUnpoisoned for Condvar {
    fn wait_unpoisoned<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_timeout_unpoisoned<'a, T>(&self, guard: MutexGuard<'a, T>, most: Duration) -> MutexGuard<'a, T> {
        self.wait_timeout(guard, most).unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_lock_and_a_wait_go_on_after_a_panic_of_another_thread() {
        let (mutex, condvar) = (Mutex::new(1), Condvar::new());
        let panicked = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let mut value = mutex.lock_unpoisoned();
                *value = 2;
                panic!("while it holds the lock");
            });
            thread.join().is_err()
        });
        assert!(panicked && mutex.is_poisoned());
        let guard = condvar.wait_timeout_unpoisoned(mutex.lock_unpoisoned(), Duration::ZERO);
        assert_eq!(*guard, 2);
        drop(guard);
        thread::scope(|scope| {
            scope.spawn(|| {
                *mutex.lock_unpoisoned() = 3;
                condvar.notify_all();
            });
            let mut guard = mutex.lock_unpoisoned();
            while *guard != 3 {
                guard = condvar.wait_unpoisoned(guard);
            }
        });
    }
}
