//! The exit of the process with pools that were not dropped: output of workers is passed on, and sockets are removed.

use std::panic::catch_unwind;
use std::sync::atomic::AtomicBool;

use crate::execution::exit_hook::ExitHook;
use crate::local::ipc::rendezvous;
use crate::local::output::settle;

/// See the module.
pub(crate) struct EndPools;

impl ExitHook for EndPools {
    fn registered() -> &'static AtomicBool {
        static REGISTERED: AtomicBool = AtomicBool::new(false);
        &REGISTERED
    }

    fn at_exit() {
        // A relay is the user's own code: its panic leaves no socket behind.
        let _passed_on = catch_unwind(settle::at_exit);
        rendezvous::remove_all();
    }
}
