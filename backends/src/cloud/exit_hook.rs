//! Cancels open runs when the process exits, as far as there is time. A process that is killed (or
//! interrupted without a handler) sends nothing; its runs end with their leases.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use fastmap_sandbox::unpoisoned::LockUnpoisoned;

use crate::cloud::run_handle::RunHandle;
use crate::execution::exit_hook::{self, ExitHook};

/// Maximum time that the exit waits for the cancellations.
const EXIT_DEADLINE: Duration = Duration::from_secs(1);

static OPEN: Mutex<Vec<Weak<RunHandle>>> = Mutex::new(Vec::new());

/// Registers the run to be cancelled when the process exits.
pub(crate) fn watch(shared: &Arc<RunHandle>) {
    // Where it can't be registered, runs end with their leases.
    exit_hook::register::<CancelRuns>();
    let mut open = OPEN.lock_unpoisoned();
    open.retain(|run| run.strong_count() > 0);
    open.push(Arc::downgrade(shared));
}

struct CancelRuns;

impl ExitHook for CancelRuns {
    fn registered() -> &'static AtomicBool {
        static REGISTERED: AtomicBool = AtomicBool::new(false);
        &REGISTERED
    }

    fn at_exit() {
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
    }
}
