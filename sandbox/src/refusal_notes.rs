//! Records denied calls from the signal handler, without allocation.

use std::ffi::c_int;

use crate::calls::MARKER;
use crate::refusal_record;
use crate::refusal_slot::Why;

/// Converts the C library's result to the kernel's: a negative error number on failure.
pub(crate) fn returned(result: i64) -> i64 {
    if result >= 0 {
        return result;
    }
    // SAFETY: errno is thread-local.
    -i64::from(unsafe { *libc::__errno_location() })
}

/// Records a denied call with its path, which the kernel must have read.
pub(crate) fn note(number: i64, path: Option<u64>) {
    let path = path.map_or(std::ptr::null(), |path| std::ptr::with_exposed_provenance(path as usize));
    // SAFETY: the kernel has read the path, so it is NUL-terminated.
    unsafe { refusal_record::note(number, path, Why::Refused) };
}

/// Records a call that looked for a missing file.
pub(crate) fn note_missing(number: i64, path: u64) {
    // SAFETY: as above.
    unsafe { refusal_record::note(number, std::ptr::with_exposed_provenance(path as usize), Why::Missing) };
}

/// Returns whether `path` points to readable memory with a path, existing or not. Dereferencing an invalid
/// address would crash the process, so the kernel checks it.
pub(crate) fn is_path(folder: u64, path: u64) -> bool {
    path != 0 && !matches!(access(folder, path, libc::F_OK), libc::EFAULT | libc::ENAMETOOLONG)
}

/// Calls `faccessat`, which Landlock does not restrict. Returns 0, or the error number.
pub(crate) fn access(folder: u64, path: u64, mode: c_int) -> c_int {
    // SAFETY: the kernel returns EFAULT for an invalid address.
    match unsafe { libc::syscall(libc::SYS_faccessat, folder, path, mode, 0u64, 0u64, MARKER) } {
        0 => 0,
        // SAFETY: errno is thread-local.
        _ => unsafe { *libc::__errno_location() },
    }
}
