//! Signals of fastmap's own threads.

use nix::sys::signal::{SigSet, Signal};

/// Does something on a thread of the program's, with its signals blocked meanwhile.
pub(crate) fn without_signals(act: impl FnOnce()) {
    let before = SigSet::thread_get_mask();
    block_signals();
    act();
    let _unchanged = before.map(|before| before.thread_set_mask());
}

/// Signals are the program's business: a handler of its own must not run here, where it would interrupt a call that
/// can't be resumed (ipc-channel gives up an interrupted `accept`).
pub(crate) fn block_signals() {
    let mut set = SigSet::all();
    // The sandbox's among them: a refused call of a thread that blocks it is that process's end.
    for fault in
        [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGABRT, Signal::SIGSYS]
    {
        set.remove(fault);
    }
    let _unchanged = set.thread_block();
}
