//! The end of the process while a run is open: the run is cancelled at the service as far as there is time. A process that is
//! killed (or interrupted without a handler) sends nothing; its runs end with their leases.

use std::sync::{Arc, Mutex, Once, Weak};
use std::time::{Duration, Instant};

use fastmap_sandbox::unpoisoned::LockUnpoisoned;

use crate::cloud::run_handle::RunHandle;

/// The exit waits so long for the service to hear of it.
const LAST_WORDS: Duration = Duration::from_secs(1);

static OPEN: Mutex<Vec<Weak<RunHandle>>> = Mutex::new(Vec::new());

/// Sees to it that the run is cancelled when the process exits.
pub(crate) fn watch(shared: &Arc<RunHandle>) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the function lives as long as the program; it takes and gives nothing. Where it can't be registered,
        // runs end with their leases.
        unsafe { libc::atexit(at_exit) };
    });
    let mut open = OPEN.lock_unpoisoned();
    open.retain(|run| run.strong_count() > 0);
    open.push(Arc::downgrade(shared));
}

extern "C" fn at_exit() {
    // A panic must not leave a function that C calls.
    let _over = std::panic::catch_unwind(|| {
        // In a fork of the process the lock may be held for ever, and the runs are not its own.
        let Ok(open) = OPEN.try_lock() else { return };
        let deadline = Instant::now() + LAST_WORDS;
        let runs: Vec<Arc<RunHandle>> =
            open.iter().filter_map(Weak::upgrade).filter(|run| run.session.is_mine()).collect();
        for run in &runs {
            run.give_up();
        }
        for run in &runs {
            run.await_end(run.lock(), deadline);
        }
    });
}
