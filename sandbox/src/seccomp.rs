//! Installs the filters compiled by `filters` in this process. Called by `confine` and `watch`. It uses
//! direct system calls where the library has no function.
//!
//! The local sandbox has three filters, and the kernel uses the strictest answer: one for calls that start a
//! process (answered by `notify_thread`), one by arguments, and one by number (a signal to `sigsys_handler`).
//! The last denies the system call `seccomp`, so later filters are installed by `prctl`. A fourth filter
//! protects the signal in this thread and in threads started later. A jailed worker has all of them but the
//! first.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use seccompiler::BpfProgram;

use crate::calls::Side;
use crate::filters::{by_arguments, by_number, protect_signal, user_notif};
use crate::{notify_thread, sigsys_handler};

/// Checks that this kernel supports the filter action `SECCOMP_RET_…`.
pub(crate) fn available(action: u32) -> io::Result<()> {
    // SAFETY: the kernel reads the action, whose address is valid.
    match unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Confines all threads of this process.
pub(crate) fn install() -> io::Result<()> {
    // SAFETY: sets a flag of this process; the unused arguments are zero as required.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    sigsys_handler::install()?;
    match set_listener(&user_notif(true).map_err(io::Error::other)?) {
        Ok(listener) => notify_thread::start(listener)?,
        // Another filter of this process has a listener, or the kernel is older than 5.7: deny without
        // recording.
        Err(_) => drop(install_in_all_threads(&user_notif(false).map_err(io::Error::other)?, 0)?),
    }
    install_in_all_threads(&by_arguments(Side::Local).map_err(io::Error::other)?, 0)?;
    install_in_all_threads(&by_number(Side::Local), 0)?;
    install_in_thread(&protect_signal().map_err(io::Error::other)?)?;
    notify_thread::wait_until_ready();
    Ok(())
}

/// Returns whether a jail's filter is in force. With it `fsync` of an invalid descriptor succeeds, which no
/// kernel does. Other confinement by a launcher may allow more calls.
pub(crate) fn is_jailed() -> bool {
    // SAFETY: -1 is not a descriptor.
    unsafe { libc::fsync(-1) == 0 }
}

/// Installs filters that record the denied calls of this jailed process. Must be called before a second
/// thread is started. The jail's filter stays in force: the kernel uses the stricter answer, and a signal is
/// stricter than an error.
pub(crate) fn install_inside() -> io::Result<()> {
    let by_arguments = by_arguments(Side::Inside).map_err(io::Error::other)?;
    let programs = [by_arguments, by_number(Side::Inside), protect_signal().map_err(io::Error::other)?];
    sigsys_handler::install()?;
    programs.iter().try_for_each(install_in_thread)
}

/// Installs a filter in this thread, and in the threads it starts.
fn install_in_thread(program: &BpfProgram) -> io::Result<()> {
    let filter = as_fprog(program);
    // SAFETY: the kernel copies the filter, which is valid. (The system call `seccomp` is denied by now.)
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn as_fprog(program: &BpfProgram) -> libc::sock_fprog {
    libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut().cast() }
}

/// Installs a filter in all threads. Returns the listener's descriptor if `flags` request one.
fn install_in_all_threads(program: &BpfProgram, flags: libc::c_ulong) -> io::Result<i32> {
    let filter = as_fprog(program);
    let flags = flags | libc::SECCOMP_FILTER_FLAG_TSYNC;
    // SAFETY: the kernel copies the filter, whose address, length and layout are valid.
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
    let listener = install_in_all_threads(program, flags)?;
    // SAFETY: the kernel has just returned this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(listener) })
}
