//! What a worker settles about its process before anything else: signals, stray descriptors, standard input.
//! Called by `mod`, once, before there is a second thread.

use std::fs::File;
use std::os::fd::AsFd;

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::dup2_stdin;

use super::super::page::Page;

/// The host decides about the terminal's signals; a dead host shows as an error of a send, not as SIGPIPE; and
/// what the host ignores is not ignored for what the function starts.
pub(super) fn settle_signals() -> nix::Result<()> {
    // The thread that starts workers blocks signals, and a mask is inherited.
    SigSet::empty().thread_set_mask()?;
    for (number, handler) in [
        (Signal::SIGINT, SigHandler::SigIgn),
        (Signal::SIGHUP, SigHandler::SigIgn),
        (Signal::SIGPIPE, SigHandler::SigIgn),
        (Signal::SIGCHLD, SigHandler::SigDfl),
        (Signal::SIGTERM, SigHandler::SigDfl),
    ] {
        // SAFETY: both handlers are the kernel's own; no code of ours runs in a signal.
        unsafe { signal(number, handler) }?;
    }
    Ok(())
}

/// Closes what C code in the host opened without CLOEXEC: the function has no business with it.
pub(super) fn close_strays() {
    // SAFETY: closes what was inherited; `enter` is the first statement, so that of this program only a library's
    // constructor can have opened one, which does so in each worker alike.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
}

/// Takes the page from standard input, which then is `/dev/null`.
pub(super) fn take_stdin() -> std::io::Result<Page> {
    let fd = std::io::stdin().as_fd().try_clone_to_owned()?;
    let null = File::open("/dev/null")?;
    dup2_stdin(&null)?;
    Page::open(fd)
}
