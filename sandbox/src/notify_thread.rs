//! Thread that handles seccomp user notifications for calls that start a process: it records the call and
//! denies it. Started by `seccomp`. A signal handler can't do this: `posix_spawn` and `fork` block all
//! signals first, and the kernel kills a process when a filter raises a blocked SIGSYS.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{io, thread};

use crate::refusal_notes::{is_path, note};

/// Stack size of the thread.
const STACK_SIZE: usize = 64 * 1024;

/// Signals that the thread has finished its setup. Without this a deadlock was seen: the thread's setup
/// allocated while `fork` held the allocator's lock and waited for the thread's answer. After its setup the
/// thread allocates nothing.
static READY: Barrier = Barrier::new(2);
static STARTED: AtomicBool = AtomicBool::new(false);

/// Starts the thread, which serves the listener of a filter until the process ends or closes the descriptor.
/// After that these calls fail with ENOSYS.
pub(crate) fn start(listener: OwnedFd) -> io::Result<()> {
    let builder = thread::Builder::new().name("fastmap-sandbox".to_owned()).stack_size(STACK_SIZE);
    builder
        .spawn(move || {
            block_signals();
            READY.wait();
            while handle_request(&listener) {}
        })
        .map(drop)?;
    STARTED.store(true, Ordering::Relaxed);
    Ok(())
}

/// Waits until the thread, if it was started, has finished its setup.
pub(crate) fn wait_until_ready() {
    if STARTED.load(Ordering::Relaxed) {
        READY.wait();
    }
}

/// Blocks all signals in this thread, so that the user's threads receive them.
fn block_signals() {
    // SAFETY: fills a set, and blocks its signals in this thread.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut());
    }
}

/// Answers one call. Returns false after the last one.
fn handle_request(listener: &OwnedFd) -> bool {
    // The kernel requires it to be zeroed. SAFETY: all fields are integers, for which zero is valid.
    let mut request: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes a `seccomp_notif`, and the structure has that layout.
    let taken =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV as _, &raw mut request) };
    if taken != 0 {
        // ENOENT: the calling thread is gone.
        let why = io::Error::last_os_error().raw_os_error();
        return matches!(why, Some(libc::EINTR | libc::ENOENT));
    }
    let number = i64::from(request.data.nr);
    let path = crate::calls::find(number).and_then(|call| call.path).map_or(0, |at| request.data.args[at]);
    // The calling thread is blocked, so its path stays valid.
    note(number, is_path(libc::AT_FDCWD as u64, path).then_some(path));
    let answer = libc::seccomp_notif_resp { id: request.id, val: 0, error: -libc::EPERM, flags: 0 };
    // SAFETY: the kernel reads a `seccomp_notif_resp`, and the structure has that layout.
    let answered =
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND as _, &raw const answer) };
    answered == 0 || io::Error::last_os_error().raw_os_error() == Some(libc::ENOENT)
}
