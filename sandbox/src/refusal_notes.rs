//! Notes of refused calls that the signal handler makes: without allocation, in a signal.

use std::ffi::c_int;

use crate::calls::ASKED;
use crate::refusal_record;
use crate::refusal_slot::Why;

/// The result as the kernel gives it.
pub(crate) fn returned(result: i64) -> i64 {
    if result >= 0 {
        return result;
    }
    // SAFETY: a location of this thread's own.
    -i64::from(unsafe { *libc::__errno_location() })
}

/// Writes down a refused call with its path, which the kernel must have read.
pub(crate) fn note(number: i64, path: Option<u64>) {
    let path = path.map_or(std::ptr::null(), |path| std::ptr::with_exposed_provenance(path as usize));
    // SAFETY: where the kernel has read a path, there are bytes that end with a zero byte.
    unsafe { refusal_record::note(number, path, Why::Refused) };
}

/// Writes down a call that looked for a file that is not there.
pub(crate) fn note_missing(number: i64, path: u64) {
    // SAFETY: as above.
    unsafe { refusal_record::note(number, std::ptr::with_exposed_provenance(path as usize), Why::Missing) };
}

/// Whether there is a path in memory, of a file or of none. To look would be to die where there is nothing.
pub(crate) fn is_path(folder: u64, path: u64) -> bool {
    path != 0 && !matches!(access(folder, path, libc::F_OK), libc::EFAULT | libc::ENAMETOOLONG)
}

/// What the kernel says of a path, by a call that Landlock leaves alone: 0, or its error.
pub(crate) fn access(folder: u64, path: u64, mode: c_int) -> c_int {
    // SAFETY: the kernel says EFAULT where there is no path.
    match unsafe { libc::syscall(libc::SYS_faccessat, folder, path, mode, 0u64, 0u64, ASKED) } {
        0 => 0,
        // SAFETY: a location of this thread's own.
        _ => unsafe { *libc::__errno_location() },
    }
}
