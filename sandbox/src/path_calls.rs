//! Calls that name a file: `sigsys_handler` asks here, in a signal, what each of them returns. Opening to read is
//! the kernel's to decide, by Landlock; writing is refused but for the harmless devices and what is the
//! worker's own, see `temporary`, to which a path below `/tmp`, `/var/tmp` and `/dev/shm` leads. Nothing here
//! allocates, locks or panics.

use std::ffi::{CStr, c_int};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::calls::{ASKED, WRITING};
use crate::refusal_notes::{is_path, note, note_missing, returned};
use crate::{readable_files, temporary};

/// This process is in a jail.
static INSIDE: AtomicBool = AtomicBool::new(false);

/// From now on a jail decides.
pub(crate) fn leave_to_the_jail() {
    INSIDE.store(true, Ordering::Relaxed);
}

fn is_inside() -> bool {
    INSIDE.load(Ordering::Relaxed)
}

/// What paths without a folder's descriptor begin at.
const HERE: u64 = libc::AT_FDCWD as u64;

/// A path as a call has it: a folder's descriptor, and an address.
#[derive(Clone, Copy)]
struct Place {
    folder: u64,
    path: u64,
}

impl Place {
    /// The same file among the worker's own, if the path leads there.
    fn own(self) -> Option<Place> {
        if !is_path(self.folder, self.path) {
            return None;
        }
        // SAFETY: the kernel has read a path there.
        if let Some((folder, path)) = unsafe { temporary::find(pointer(self.path)) } {
            return Some(Place { folder: folder as u64, path: path.expose_provenance() as u64 });
        }
        // SAFETY: as above.
        let absolute = unsafe { pointer(self.path).read() } == b'/';
        (!absolute && self.folder != HERE && temporary::has(self.folder as c_int)).then_some(self)
    }

    fn is_device(self) -> bool {
        if !is_path(self.folder, self.path) {
            return false;
        }
        // SAFETY: the kernel has read a path there.
        let path = unsafe { CStr::from_ptr(pointer(self.path).cast()) };
        readable_files::DEVICES.iter().any(|device| device.as_bytes() == path.to_bytes())
    }

    /// Whether it is a path of the machine's, and not of what a jail has for this worker alone. The kernel must
    /// have read it.
    fn is_elsewhere(self) -> bool {
        // SAFETY: the kernel has read a path there.
        let path = unsafe { CStr::from_ptr(pointer(self.path).cast()) }.to_bytes();
        match path.first() {
            None => false,
            Some(b'/') => !temporary::is_below_a_folder(path),
            Some(_) => self.folder as c_int == libc::AT_FDCWD,
        }
    }

    /// The address of the path, if there is one.
    fn written(self) -> Option<u64> {
        is_path(self.folder, self.path).then_some(self.path)
    }
}

fn pointer(address: u64) -> *const u8 {
    std::ptr::with_exposed_provenance(address as usize)
}

/// What a call of that number returns, if it is one of these; its arguments as they stand in the registers.
pub(crate) fn decide(number: i64, a: [u64; 6]) -> Option<i64> {
    let at = |folder: usize| Place { folder: a[folder], path: a[folder + 1] };
    let here = |path: usize| Place { folder: HERE, path: a[path] };
    Some(match number {
        libc::SYS_openat => open(number, at(0), a[2], a[3]),
        libc::SYS_newfstatat | libc::SYS_statx | libc::SYS_readlinkat => {
            look(number, at(0), [a[2], a[3], a[4]])
        }
        libc::SYS_faccessat | libc::SYS_faccessat2 => look(number, at(0), [a[2], a[3], 0]),
        libc::SYS_mkdirat | libc::SYS_unlinkat | libc::SYS_fchmodat => change(number, number, at(0), a[2], 0),
        libc::SYS_utimensat if a[1] != 0 => change(number, number, at(0), a[2], a[3]),
        libc::SYS_utimensat | libc::SYS_fchmod => by_descriptor(number, a),
        libc::SYS_renameat | libc::SYS_renameat2 | libc::SYS_linkat => {
            link(number, number, at(0), at(2), a[4])
        }
        libc::SYS_truncate => cut(here(0), a[1]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => open(number, here(0), a[1], a[2]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat => {
            open(number, here(0), (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u64, a[1])
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_stat => look(libc::SYS_newfstatat, here(0), [a[1], 0, 0]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lstat => look(libc::SYS_newfstatat, here(0), [a[1], libc::AT_SYMLINK_NOFOLLOW as u64, 0]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_access => look(libc::SYS_faccessat, here(0), [a[1], 0, 0]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_readlink => look(libc::SYS_readlinkat, here(0), [a[1], a[2], 0]),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mkdir => change(number, libc::SYS_mkdirat, here(0), a[1], 0),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink => change(number, libc::SYS_unlinkat, here(0), 0, 0),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rmdir => change(number, libc::SYS_unlinkat, here(0), libc::AT_REMOVEDIR as u64, 0),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod => change(number, libc::SYS_fchmodat, here(0), a[1], 0),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => link(number, libc::SYS_renameat2, here(0), here(1), 0),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_link => link(number, libc::SYS_linkat, here(0), here(1), 0),
        _ => return None,
    })
}

/// A call that the filter lets pass, because its last argument says that it comes from here.
fn ask(number: i64, place: Place, [one, two, three]: [u64; 3]) -> i64 {
    // SAFETY: the call that the function made, or the same for another path, with the argument by which the
    // filter lets it pass.
    returned(unsafe { libc::syscall(number, place.folder, place.path, one, two, three, ASKED) })
}

/// In a jail: writes down what its answer means, and returns it.
fn observed(number: i64, place: Place, writes: bool, answer: i64) -> i64 {
    match (-answer) as c_int {
        libc::ENOENT if !writes && place.is_elsewhere() => note_missing(number, place.path),
        // Where a folder can be written to, it is the worker's own.
        libc::ENOENT | libc::EROFS | libc::EACCES | libc::EPERM if writes && place.is_elsewhere() => {
            note(number, Some(place.path));
        }
        _ => {}
    }
    answer
}

/// Writes the refusal down.
fn refuse(number: i64, place: Place) -> i64 {
    note(number, place.written());
    -i64::from(libc::EPERM)
}

fn open(number: i64, place: Place, flags: u64, mode: u64) -> i64 {
    let opened = |place: Place| ask(libc::SYS_openat, place, [flags, mode, 0]);
    let writes = WRITING.iter().any(|writing| flags as c_int & writing == *writing);
    if is_inside() {
        return observed(number, place, writes, opened(place));
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
            None => refuse(number, place),
        };
    }
    // Among the machine's own files below these folders the program itself may be, which may be read.
    let opened = opened(place);
    // Landlock's refusal, or that of the file's own mode? The latter is nothing to write down.
    if opened == -i64::from(libc::EACCES) && may_read(place) {
        return refuse(number, place);
    }
    opened
}

fn may_read(place: Place) -> bool {
    ask(libc::SYS_faccessat, place, [libc::R_OK as u64, 0, 0]) == 0
}

/// Asks something of a file: that of the worker's own, or of the program and what else it may read. Others
/// below these folders are not there.
fn look(number: i64, place: Place, arguments: [u64; 3]) -> i64 {
    let found = |place: Place| ask(number, place, arguments);
    if is_inside() {
        return observed(number, place, false, found(place));
    }
    let missing = -i64::from(libc::ENOENT);
    match place.own().map(found) {
        None => found(place),
        Some(own) if own != missing => own,
        Some(_) => {
            let flags = (libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
            let opened = ask(libc::SYS_openat, place, [flags, 0, 0]);
            if opened < 0 {
                return missing;
            }
            // SAFETY: it was opened above, and is nowhere else.
            unsafe { libc::close(opened as c_int) };
            found(place)
        }
    }
}

/// A change to one file, by the call that `by` names: to one of the worker's own.
fn change(number: i64, by: i64, place: Place, one: u64, two: u64) -> i64 {
    if is_inside() {
        return observed(number, place, true, ask(by, place, [one, two, 0]));
    }
    match place.own() {
        Some(own) => ask(by, own, [one, two, 0]),
        None => refuse(number, place),
    }
}

/// A second name for a file, or another one: where both are the worker's own.
fn link(number: i64, by: i64, from: Place, to: Place, flags: u64) -> i64 {
    if is_inside() {
        let answer = ask(by, from, [to.folder, to.path, flags]);
        // The kernel has read both, if it was neither of them that it could not read.
        let known = !matches!((-answer) as c_int, libc::EFAULT | libc::ENAMETOOLONG);
        if answer < 0 && known && !from.is_elsewhere() && to.is_elsewhere() {
            note(number, Some(to.path));
            return answer;
        }
        return observed(number, from, true, answer);
    }
    match (from.own(), to.own()) {
        (Some(from), Some(to)) => ask(by, from, [to.folder, to.path, flags]),
        (None, _) => refuse(number, from),
        (_, None) => refuse(number, to),
    }
}

/// As `truncate`, which knows no folder's descriptor.
fn cut(place: Place, length: u64) -> i64 {
    if is_inside() {
        // SAFETY: the call that the function made, with the argument by which the filter lets it pass.
        let cut = unsafe { libc::syscall(libc::SYS_truncate, place.path, length, 0u64, 0u64, 0u64, ASKED) };
        return observed(libc::SYS_truncate, place, true, returned(cut));
    }
    let Some(own) = place.own() else { return refuse(libc::SYS_truncate, place) };
    let opened = ask(libc::SYS_openat, own, [(libc::O_WRONLY | libc::O_CLOEXEC) as u64, 0, 0]);
    if opened < 0 {
        return opened;
    }
    // SAFETY: the descriptor was opened above, and is nowhere else.
    unsafe {
        let cut = returned(libc::ftruncate(opened as c_int, length as i64).into());
        libc::close(opened as c_int);
        cut
    }
}

/// A change to a file that is open.
fn by_descriptor(number: i64, a: [u64; 6]) -> i64 {
    // In a jail what is open is the worker's own, or can't be changed.
    if is_inside() || temporary::has(a[0] as c_int) {
        return ask(number, Place { folder: a[0], path: a[1] }, [a[2], a[3], 0]);
    }
    note(number, None);
    -i64::from(libc::EPERM)
}
