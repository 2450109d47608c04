//! Work that is left when the process exits without having dropped its pools, runs and reports.

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, Ordering};

/// Work at the exit of the process.
pub trait ExitHook {
    /// Whether the hook is registered: a static of its own.
    fn registered() -> &'static AtomicBool;

    /// Does the work. A fork of the process inherits the registration: pools, runs and locks of its parent are not its own,
    /// which each hook looks at.
    fn at_exit();
}

/// Registers the hook, once in a process. Hooks run in the opposite order. Where the C library has no room for one more,
/// the work is not done.
pub fn register<H: ExitHook>() {
    // No `Once`: a fork made while another thread registers would wait for that thread for ever. Relaxed, because the flag
    // guards the call alone and no memory.
    if !H::registered().swap(true, Ordering::Relaxed) {
        // SAFETY: the function lives as long as the program; it takes and gives nothing.
        let _unregistered = unsafe { libc::atexit(call::<H>) };
    }
}

extern "C" fn call<H: ExitHook>() {
    // A panic must not leave a function that C calls.
    let _caught = catch_unwind(H::at_exit);
}
