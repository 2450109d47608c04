//! What a worker settles about its process before anything else: signals, stray descriptors, standard input.
//! Called by `mod`, once, before there is a second thread.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender};
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
pub(super) fn take_stdin() -> io::Result<Page> {
    let fd = std::io::stdin().as_fd().try_clone_to_owned()?;
    let null = File::open("/dev/null")?;
    dup2_stdin(&null)?;
    Page::open(fd)
}

/// A send to this worker that was to have room and has none for so many seconds fails. It is longer than a machine
/// may be busy with others, for the host holds a lock meanwhile, and what would really wait does so in a thread of its own.
const SEND_SECONDS: libc::time_t = 10;

/// The channel to this worker. Its sends end: the host believes what it reads on the page, where the function can write.
pub(super) fn timed_channel() -> io::Result<(IpcBytesSender, IpcBytesReceiver)> {
    // ipc-channel gives no descriptor away, but there is no other thread yet: its two are the lowest that are free.
    let lowest = File::open("/dev/null")?.as_raw_fd();
    let ends = ipc::bytes_channel()?;
    let time = libc::timeval { tv_sec: SEND_SECONDS, tv_usec: 0 };
    let limit = |fd| {
        let length = size_of::<libc::timeval>() as libc::socklen_t;
        // SAFETY: the time is valid for the call; a number that is no socket is an error.
        let set = unsafe {
            libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDTIMEO, (&raw const time).cast(), length)
        };
        set == 0
    };
    match (lowest..lowest + 8).filter(|fd| limit(*fd)).count() {
        2 => Ok(ends),
        found => Err(io::Error::other(format!("{found} of its two ends were found"))),
    }
}
