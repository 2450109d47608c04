//! Installs filters, which `filters` makes, in this process. Called by `confine` and `watch`; calls the kernel
//! itself where the library has no word for it.
//!
//! The local sandbox's are three, of which the strictest answer counts: what starts a process (asked of
//! `notify_thread`), what depends on a call's arguments, and what its number decides (a signal, to `sigsys_handler`).
//! The last refuses further filters by the newer call. The one that keeps the signal is for the threads that are
//! started later. A jailed worker has the others, but for the first.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use seccompiler::BpfProgram;

use crate::calls::Side;
use crate::filters::{asked, by_arguments, by_number, keep_signal};
use crate::{notify_thread, sigsys_handler};

/// Whether this kernel has filters that answer in that way (`SECCOMP_RET_…`).
pub(crate) fn available(action: u32) -> io::Result<()> {
    // SAFETY: the kernel reads the action, which is there.
    match unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Confines all threads of this process.
pub(crate) fn install() -> io::Result<()> {
    // SAFETY: sets a flag of this process; the unused arguments are zero, as they have to be.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    sigsys_handler::install()?;
    match set_listener(&asked(true).map_err(io::Error::other)?) {
        Ok(listener) => notify_thread::start(listener)?,
        // Another filter of this process has a listener, or the kernel is older than 5.7: refused without a
        // record.
        Err(_) => drop(set(&asked(false).map_err(io::Error::other)?, 0)?),
    }
    set(&by_arguments(Side::Local).map_err(io::Error::other)?, 0)?;
    set(&by_number(Side::Local), 0)?;
    set_here(&keep_signal().map_err(io::Error::other)?)?;
    notify_thread::wait();
    Ok(())
}

/// Whether the filter of a jail is in force, by an answer that no kernel gives: `fsync` of no file succeeds. What
/// else a launcher may have put around this worker may allow more.
pub(crate) fn is_jailed() -> bool {
    // SAFETY: a number that is no descriptor.
    unsafe { libc::fsync(-1) == 0 }
}

/// Has the calls of this jailed process recorded that are refused to it. To be called before a second thread is
/// started. The jail's filter stays in force: of two the stricter answer counts, and a signal is stricter than
/// an error.
pub(crate) fn install_inside() -> io::Result<()> {
    let by_arguments = by_arguments(Side::Inside).map_err(io::Error::other)?;
    let programs = [by_arguments, by_number(Side::Inside), keep_signal().map_err(io::Error::other)?];
    sigsys_handler::install()?;
    programs.iter().try_for_each(set_here)
}

/// Installs a filter in this thread, and in those that it starts.
fn set_here(program: &BpfProgram) -> io::Result<()> {
    let filter = whole(program);
    // SAFETY: the kernel copies the filter, which is there. (The newer call for it is refused by now.)
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn whole(program: &BpfProgram) -> libc::sock_fprog {
    libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut().cast() }
}

/// Installs a filter in all threads; the descriptor, if one was asked for.
fn set(program: &BpfProgram, flags: libc::c_ulong) -> io::Result<i32> {
    let filter = whole(program);
    let flags = flags | libc::SECCOMP_FILTER_FLAG_TSYNC;
    // SAFETY: the kernel copies the filter, which is there, as long as it says, and of the kernel's own layout.
    let set =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    match set {
        0.. if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 || set == 0 => Ok(set as i32),
        0.. => Err(io::Error::other(format!("thread {set} has filters of its own"))),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set_listener(program: &BpfProgram) -> io::Result<OwnedFd> {
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
    let listener = set(program, flags)?;
    // SAFETY: the kernel has just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(listener) })
}
