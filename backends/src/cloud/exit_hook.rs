//! Cancels open runs when the process exits, as far as there is time. A process that is killed (or
//! interrupted without a handler) sends nothing; its runs end with their leases.

use std::sync::{Arc, Mutex, Once, Weak};
use std::time::{Duration, Instant};

use fastmap_sandbox::unpoisoned::LockUnpoisoned;

use crate::cloud::run_handle::RunHandle;

/// Maximum time that the exit waits for the cancellations.
const EXIT_DEADLINE: Duration = Duration::from_secs(1);

static OPEN: Mutex<Vec<Weak<RunHandle>>> = Mutex::new(Vec::new());

/// Registers the run to be cancelled when the process exits.
pub(crate) fn watch(shared: &Arc<RunHandle>) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the function is part of the program and takes and returns nothing. If it can't be
        // registered, runs end with their leases.
        unsafe { libc::atexit(at_exit) };
    });
    let mut open = OPEN.lock_unpoisoned();
    open.retain(|run| run.strong_count() > 0);
    open.push(Arc::downgrade(shared));
}

extern "C" fn at_exit() {
    // A panic must not unwind into C.
    let _panicked = std::panic::catch_unwind(|| {
        // In a fork, the lock may be held forever, and the runs belong to the parent.
        let Ok(open) = OPEN.try_lock() else { return };
        let deadline = Instant::now() + EXIT_DEADLINE;
        let runs: Vec<Arc<RunHandle>> =
            open.iter().filter_map(Weak::upgrade).filter(|run| run.session.is_own_process()).collect();
        for run in &runs {
            run.cancel_run();
        }
        for run in &runs {
            run.await_end(run.lock(), deadline);
        }
    });
}
