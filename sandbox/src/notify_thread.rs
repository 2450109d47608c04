//! The thread that the kernel asks before a process is started: it writes down the call and says no. Started by
//! `seccomp`. A signal handler can't do this: `posix_spawn` and `fork` block all signals first, and a refusal by
//! a blocked signal is death.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{io, thread};

use crate::refusal_notes::{is_path, note};

/// It needs little.
const STACK: usize = 64 * 1024;

/// It is at its work. Without this the thread was seen to wait for ever: it still made itself ready, which allocates, while
/// `fork` held the allocator's lock and waited for its answer. From then on it allocates nothing.
static READY: Barrier = Barrier::new(2);
static STARTED: AtomicBool = AtomicBool::new(false);

/// Attends to the listener of a filter until the process ends, or closes the descriptor: then the calls are said not to
/// exist.
pub(crate) fn start(listener: OwnedFd) -> io::Result<()> {
    let attendant = thread::Builder::new().name("fastmap-sandbox".to_owned()).stack_size(STACK);
    attendant
        .spawn(move || {
            block_signals();
            READY.wait();
            while attend(&listener) {}
        })
        .map(drop)?;
    STARTED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Returns when the thread, if there is one, is at its work.
pub(crate) fn wait() {
    if STARTED.load(Ordering::Relaxed) {
        READY.wait();
    }
}

/// Signals are the function's business.
fn block_signals() {
    // SAFETY: fills a set, and blocks its signals in this thread.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
}

/// Answers one call; false when there will be no more.
fn attend(listener: &OwnedFd) -> bool {
    // The kernel wants it zeroed.
    // SAFETY: numbers, for which zero is valid.
    let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes what the request says, into a structure of that layout.
    let taken =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, &raw mut asked) };
    if taken != 0 {
        // ENOENT: the thread that asked is gone.
        let why = io::Error::last_os_error().raw_os_error();
        return matches!(why, Some(libc::EINTR | libc::ENOENT));
    }
    let number = i64::from(asked.data.nr);
    let path = crate::calls::find(number).and_then(|call| call.path).map_or(0, |at| asked.data.args[at]);
    // The thread that asked waits, so that what is there stays.
    note(number, is_path(libc::AT_FDCWD as u64, path).then_some(path));
    let answer = libc::seccomp_notif_resp { id: asked.id, val: 0, error: -libc::EPERM, flags: 0 };
    // SAFETY: the kernel reads what the request says, of a structure of that layout.
    let answered =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, &raw const answer) };
    answered == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT)
}
