//! Decides on calls that name a file. `sigsys_handler` calls `decide`, in a signal, for their return value.
//! The kernel decides by Landlock whether a file may be read. Writing is denied except to harmless devices
//! and the worker's own files: paths below `/tmp`, `/var/tmp` and `/dev/shm` are redirected to those, see
//! `temporary`. This module does not allocate, lock or panic.

use std::ffi::{CStr, c_int};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::calls::{MARKER, WRITING};
use crate::refusal_notes::{is_path, note, note_missing, returned};
use crate::{readable_files, temporary};

/// Whether this process is in a jail.
static IN_JAIL: AtomicBool = AtomicBool::new(false);

/// Makes the jail decide from now on.
pub(crate) fn set_in_jail() {
    IN_JAIL.store(true, Ordering::Relaxed);
}

fn is_in_jail() -> bool {
    IN_JAIL.load(Ordering::Relaxed)
}

/// The folder of paths without a folder's descriptor.
const CWD: u64 = libc::AT_FDCWD as u64;

/// The path argument of a call: a folder's descriptor, and an address.
#[derive(Clone, Copy)]
struct PathArgument {
    folder: u64,
    path: u64,
}

impl PathArgument {
    /// The path within the worker's own files, if it leads there.
    fn own(self) -> Option<PathArgument> {
        if !is_path(self.folder, self.path) {
            return None;
        }
        // SAFETY: the kernel has read a path there.
        if let Some((folder, path)) = unsafe { temporary::find(pointer(self.path)) } {
            return Some(PathArgument { folder: folder as u64, path: path.expose_provenance() as u64 });
        }
        // SAFETY: as above.
        let absolute = unsafe { pointer(self.path).read() } == b'/';
        (!absolute && self.folder != CWD && temporary::is_own(self.folder as c_int)).then_some(self)
    }

    fn is_device(self) -> bool {
        if !is_path(self.folder, self.path) {
            return false;
        }
        // SAFETY: the kernel has read a path there.
        let path = unsafe { CStr::from_ptr(pointer(self.path).cast()) };
        readable_files::DEVICES.iter().any(|device| device.as_bytes() == path.to_bytes())
    }

    /// Returns true if the path is the machine's, and not below one of the jail's folders for this worker.
    /// The kernel must have read the path.
    fn is_outside(self) -> bool {
        // SAFETY: the kernel has read a path there.
        let path = unsafe { CStr::from_ptr(pointer(self.path).cast()) }.to_bytes();
        match path.first() {
            None => false,
            Some(b'/') => !temporary::is_below_a_folder(path),
            Some(_) => self.folder as c_int == libc::AT_FDCWD,
        }
    }

    /// The address of the path for the record, if it is readable.
    fn recordable_path(self) -> Option<u64> {
        is_path(self.folder, self.path).then_some(self.path)
    }
}

fn pointer(address: u64) -> *const u8 {
    std::ptr::with_exposed_provenance(address as usize)
}

/// Returns the result of call `number` if this module decides on it. `a` are its arguments, as in the
/// registers.
pub(crate) fn decide(number: i64, a: [u64; 6]) -> Option<i64> {
    let at = |folder: usize| PathArgument { folder: a[folder], path: a[folder + 1] };
    let cwd = |path: usize| PathArgument { folder: CWD, path: a[path] };
    Some(match number {
        libc::SYS_openat => open(number, at(0), a[2], a[3]),
        libc::SYS_newfstatat | libc::SYS_statx | libc::SYS_readlinkat => {
            look_up(number, at(0), [a[2], a[3], a[4]])
        }
        libc::SYS_faccessat | libc::SYS_faccessat2 => look_up(number, at(0), [a[2], a[3], 0]),
        libc::SYS_mkdirat | libc::SYS_unlinkat | libc::SYS_fchmodat => change(number, number, at(0), a[2], 0),
        libc::SYS_utimensat if a[1] != 0 => change(number, number, at(0), a[2], a[3]),
        libc::SYS_utimensat | libc::SYS_fchmod => by_descriptor(number, a),
        libc::SYS_renameat | libc::SYS_renameat2 | libc::SYS_linkat => {
            link(number, number, at(0), at(2), a[4])
        }
        libc::SYS_truncate => truncate(cwd(0), a[1]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => open(number, cwd(0), a[1], a[2]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat => {
            open(number, cwd(0), (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u64, a[1])
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_stat => look_up(libc::SYS_newfstatat, cwd(0), [a[1], 0, 0]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lstat => look_up(libc::SYS_newfstatat, cwd(0), [a[1], libc::AT_SYMLINK_NOFOLLOW as u64, 0]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_access => look_up(libc::SYS_faccessat, cwd(0), [a[1], 0, 0]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_readlink => look_up(libc::SYS_readlinkat, cwd(0), [a[1], a[2], 0]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mkdir => change(number, libc::SYS_mkdirat, cwd(0), a[1], 0),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink => change(number, libc::SYS_unlinkat, cwd(0), 0, 0),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rmdir => change(number, libc::SYS_unlinkat, cwd(0), libc::AT_REMOVEDIR as u64, 0),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod => change(number, libc::SYS_fchmodat, cwd(0), a[1], 0),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => link(number, libc::SYS_renameat2, cwd(0), cwd(1), 0),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_link => link(number, libc::SYS_linkat, cwd(0), cwd(1), 0),
        _ => return None,
    })
}

/// Makes a call that the filter allows, because its last argument is the marker.
fn syscall_marked(number: i64, place: PathArgument, [one, two, three]: [u64; 3]) -> i64 {
    // SAFETY: the user's call, or the same with another path, plus the marker by which the filter allows it.
    returned(unsafe { libc::syscall(number, place.folder, place.path, one, two, three, MARKER) })
}

/// In a jail: records a denial or a missing file that `answer` indicates, and returns `answer`.
fn record_denial(number: i64, place: PathArgument, writes: bool, answer: i64) -> i64 {
    match (-answer) as c_int {
        libc::ENOENT if !writes && place.is_outside() => note_missing(number, place.path),
        // Only the worker's own folders are writable.
        libc::ENOENT | libc::EROFS | libc::EACCES | libc::EPERM if writes && place.is_outside() => {
            note(number, Some(place.path));
        }
        _ => {}
    }
    answer
}

/// Records the denial and returns EPERM.
fn deny(number: i64, place: PathArgument) -> i64 {
    note(number, place.recordable_path());
    -i64::from(libc::EPERM)
}

fn open(number: i64, place: PathArgument, flags: u64, mode: u64) -> i64 {
    let opened = |place: PathArgument| syscall_marked(libc::SYS_openat, place, [flags, mode, 0]);
    let writes = WRITING.iter().any(|writing| flags as c_int & writing == *writing);
    if is_in_jail() {
        return record_denial(number, place, writes, opened(place));
    }
    let own = place.own().map(opened);
    let missing = -i64::from(libc::ENOENT);
    if let Some(opened) = own.filter(|opened| *opened != missing) {
        return opened;
    }
    if writes {
        return match own {
            Some(missing) => missing,
            None if place.is_device() => opened(place),
            None => deny(number, place),
        };
    }
    // The program's own executable may be below one of these folders, and may be read.
    let opened = opened(place);
    // Record a denial by Landlock, but not one by the file's mode.
    if opened == -i64::from(libc::EACCES) && may_read(place) {
        return deny(number, place);
    }
    opened
}

fn may_read(place: PathArgument) -> bool {
    syscall_marked(libc::SYS_faccessat, place, [libc::R_OK as u64, 0, 0]) == 0
}

/// Looks up a file: one of the worker's own, or the program and other readable files. Other files below these
/// folders do not exist for the worker.
fn look_up(number: i64, place: PathArgument, arguments: [u64; 3]) -> i64 {
    let found = |place: PathArgument| syscall_marked(number, place, arguments);
    if is_in_jail() {
        return record_denial(number, place, false, found(place));
    }
    let missing = -i64::from(libc::ENOENT);
    match place.own().map(found) {
        None => found(place),
        Some(own) if own != missing => own,
        Some(_) => {
            let flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
            let opened = syscall_marked(libc::SYS_openat, place, [flags, 0, 0]);
            if opened < 0 {
                return missing;
            }
            // SAFETY: this function opened the descriptor above, and no other code has it.
            unsafe { libc::close(opened as c_int) };
            found(place)
        }
    }
}

/// Changes one of the worker's own files, by the call `by`.
fn change(number: i64, by: i64, place: PathArgument, one: u64, two: u64) -> i64 {
    if is_in_jail() {
        return record_denial(number, place, true, syscall_marked(by, place, [one, two, 0]));
    }
    match place.own() {
        Some(own) => syscall_marked(by, own, [one, two, 0]),
        None => deny(number, place),
    }
}

/// Links or renames a file if both paths are the worker's own.
fn link(number: i64, by: i64, from: PathArgument, to: PathArgument, flags: u64) -> i64 {
    if is_in_jail() {
        let answer = syscall_marked(by, from, [to.folder, to.path, flags]);
        // Without these errors the kernel has read both paths.
        let known = !matches!((-answer) as c_int, libc::EFAULT | libc::ENAMETOOLONG);
        if answer < 0 && known && !from.is_outside() && to.is_outside() {
            note(number, Some(to.path));
            return answer;
        }
        return record_denial(number, from, true, answer);
    }
    match (from.own(), to.own()) {
        (Some(from), Some(to)) => syscall_marked(by, from, [to.folder, to.path, flags]),
        (None, _) => deny(number, from),
        (_, None) => deny(number, to),
    }
}

/// Truncates a file by path. The system call `truncate` takes no folder's descriptor, so open the file and
/// use `ftruncate`.
fn truncate(place: PathArgument, length: u64) -> i64 {
    if is_in_jail() {
        // SAFETY: the user's call, plus the marker by which the filter allows it.
        let result =
            unsafe { libc::syscall(libc::SYS_truncate, place.path, length, 0u64, 0u64, 0u64, MARKER) };
        return record_denial(libc::SYS_truncate, place, true, returned(result));
    }
    let Some(own) = place.own() else { return deny(libc::SYS_truncate, place) };
    let opened = syscall_marked(libc::SYS_openat, own, [(libc::O_WRONLY | libc::O_CLOEXEC) as u64, 0, 0]);
    if opened < 0 {
        return opened;
    }
    // SAFETY: this function opened the descriptor above, and no other code has it.
    unsafe {
        let result = returned(libc::ftruncate(opened as c_int, length as i64).into());
        libc::close(opened as c_int);
        result
    }
}

/// Changes an open file.
fn by_descriptor(number: i64, a: [u64; 6]) -> i64 {
    // In a jail open files are the worker's own, or can't be changed.
    if is_in_jail() || temporary::is_own(a[0] as c_int) {
        return syscall_marked(number, PathArgument { folder: a[0], path: a[1] }, [a[2], a[3], 0]);
    }
    note(number, None);
    -i64::from(libc::EPERM)
}
