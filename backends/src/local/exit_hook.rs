//! What is done when the program ends without having dropped its pools: output of workers is passed on, and sockets are
//! removed.

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::local::ipc::rendezvous;
use crate::local::output::settle;

/// Registers the hook, once in a process. A fork inherits it; pools and sockets of its parent are not its own, which
/// both functions look at.
pub(crate) fn register() {
    // No `Once`: a fork made while another thread registers would wait for that thread for ever.
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    // Relaxed, because the flag guards the call alone and no memory.
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: the function lives as long as the program; it takes and gives nothing. Where it can't be registered, a
        // folder may be left.
        let _unregistered = unsafe { libc::atexit(at_exit) };
    }
}

extern "C" fn at_exit() {
    // A panic must not leave a function that C calls.
    let _passed_on = catch_unwind(settle::at_exit);
    let _removed = catch_unwind(rendezvous::remove_all);
}
