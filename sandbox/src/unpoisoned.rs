//! Locks and waits that ignore poisoning by another thread's panic. They are in this crate because all crates
//! of fastmap depend on it.
//!
//! The standard library poisons a lock when a thread panics while holding it. Each critical section of
//! fastmap keeps its data consistent at every point where it could panic, so the data stays usable. A map
//! must not end because of a panic that was already reported.

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
    /// Waits for a notification; may wake up spuriously.
    fn wait_unpoisoned<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T>;

    /// Waits for a notification for at most `timeout`; may wake up spuriously.
    fn wait_timeout_unpoisoned<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> MutexGuard<'a, T>;
}

impl WaitUnpoisoned for Condvar {
    fn wait_unpoisoned<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_timeout_unpoisoned<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> MutexGuard<'a, T> {
        self.wait_timeout(guard, timeout).unwrap_or_else(PoisonError::into_inner).0
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
