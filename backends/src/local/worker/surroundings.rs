//! What a worker settles about its process before anything else: signals, and standard input, which is its channel.
//! Descriptors that were open before are left alone: the program's constructors and preloaded libraries (profilers,
//! tracers) have opened them, or the program's caller has. Called by `mod`, once, before there is a second thread.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::dup2_stdin;

use super::super::descriptors;
use super::super::page::Page;

/// Descriptors that ipc-channel uses for a greeting, at most.
const GREETING: usize = 4;

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

/// Takes the page from standard input, which then is `/dev/null`.
pub(super) fn take_stdin() -> io::Result<Page> {
    let fd = std::io::stdin().as_fd().try_clone_to_owned()?;
    let null = File::open("/dev/null")?;
    dup2_stdin(&null)?;
    Page::open(fd)
}

/// Sees whether there are descriptors for the greeting: ipc-channel panics where there are none.
pub(super) fn expect_descriptors(page: &Page) -> io::Result<()> {
    descriptors::expect(page.channel.as_fd(), GREETING)
}
