//! A confined worker's own `/tmp` and `/dev/shm`: empty, in memory, visible to no other process, and freed
//! with the worker. `confine` makes it before any call is denied; `landlock` allows writing in it, and
//! `path_calls` redirects calls with a path below one of these folders. (A jailed worker has mounts of its
//! own at these paths, see `jail`.)
//!
//! It is a detached file system: the worker accesses it by a descriptor of its root, and the kernel frees it
//! when the last descriptor is closed, however the worker exits. Nothing has to be removed. Making one needs
//! the right to mount. Root has it; for another user a child process gets it in a user namespace of its own
//! and passes the descriptor to the worker, whose own user IDs stay unchanged.

use std::ffi::{CStr, CString, c_int};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;
use std::{fs, io};

/// The redirected folders, each with its folder in the file system.
const FOLDERS: [(&[u8], &CStr); 3] = [(b"/tmp", c"tmp"), (b"/var/tmp", c"tmp"), (b"/dev/shm", c"shm")];

/// Variables that name another folder for temporary files, which a function can't write to.
const VARIABLES: [&str; 4] = ["TMPDIR", "TEMP", "TMP", "SQLITE_TMPDIR"];

/// The file system: its root, its folders in the order of [`FOLDERS`], and its device number.
#[derive(Debug)]
struct Own {
    root: OwnedFd,
    folders: [OwnedFd; 3],
    device: u64,
}

static OWN: OnceLock<Own> = OnceLock::new();

/// Makes the file system. Must be called before a second thread is started, and before any call is denied.
///
/// # Errors
/// If the kernel is too old (before 5.2), or denies this user both mounts and user namespaces. Writing in
/// these folders is then denied as everywhere.
pub(crate) fn make() -> io::Result<()> {
    let root = mount().or_else(|_| mount_in_a_namespace())?;
    let folder = |name: &CStr| {
        // SAFETY: system calls with our own descriptor and constant strings.
        unsafe {
            libc::mkdirat(root.as_raw_fd(), name.as_ptr(), 0o1777);
            let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
            descriptor(libc::openat(root.as_raw_fd(), name.as_ptr(), flags).into())
        }
    };
    let folders = [folder(FOLDERS[0].1)?, folder(FOLDERS[1].1)?, folder(FOLDERS[2].1)?];
    let device = device_of(root.as_raw_fd()).ok_or_else(io::Error::last_os_error)?;
    let _set_once = OWN.set(Own { root, folders, device });
    Ok(())
}

/// Unsets the variables that name another folder. A jail does not set them either.
///
/// # Safety
/// No second thread exists.
pub(crate) unsafe fn unset_variables() {
    for name in VARIABLES {
        // SAFETY: as this function's own.
        unsafe { std::env::remove_var(name) };
    }
}

/// The root of the file system, if it was made.
pub(crate) fn root() -> Option<BorrowedFd<'static>> {
    OWN.get().map(|own| own.root.as_fd())
}

/// Returns the folder's descriptor and the address of the relative path, if `path` is below one of the
/// folders. Async-signal-safe.
///
/// # Safety
/// `path` is NUL-terminated.
pub(crate) unsafe fn find(path: *const u8) -> Option<(c_int, *const u8)> {
    let own = OWN.get()?;
    // SAFETY: as this function's own.
    let bytes = unsafe { CStr::from_ptr(path.cast()) }.to_bytes();
    let (at, rest) = below(bytes)?;
    // The path may lead out of the folder.
    if rest.split(|byte| *byte == b'/').any(|name| name == b"..") {
        return None;
    }
    let start = rest.iter().position(|byte| *byte != b'/');
    // A suffix of the same string, so NUL-terminated as well.
    let relative = start.map_or(c".".as_ptr().cast(), |start| rest[start..].as_ptr());
    Some((own.folders[at].as_raw_fd(), relative))
}

/// Returns the index of the folder that contains `path`, and the rest of the path.
fn below(path: &[u8]) -> Option<(usize, &[u8])> {
    FOLDERS.iter().enumerate().find_map(|(at, (folder, _))| {
        let rest = path.strip_prefix(*folder)?;
        (rest.is_empty() || rest[0] == b'/').then_some((at, rest))
    })
}

/// Returns whether a path is in one of the folders that a confined or jailed worker has for itself.
/// Async-signal-safe.
pub(crate) fn is_below_a_folder(path: &[u8]) -> bool {
    below(path).is_some()
}

/// Returns whether an open file or folder is in this file system. Async-signal-safe.
pub(crate) fn is_own(fd: c_int) -> bool {
    OWN.get().is_some_and(|own| device_of(fd) == Some(own.device))
}

fn device_of(fd: c_int) -> Option<u64> {
    // SAFETY: all fields are integers, for which zero is valid.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes a `stat`; an invalid descriptor is an error.
    (unsafe { libc::fstat(fd, &raw mut found) } == 0).then_some(found.st_dev)
}

/// Returns the descriptor that a system call has just made, or its error.
fn descriptor(made: i64) -> io::Result<OwnedFd> {
    let made = check(made)?;
    // SAFETY: the caller has just received it from the kernel, and no other code has it.
    Ok(unsafe { OwnedFd::from_raw_fd(made as c_int) })
}

fn check(returned: i64) -> io::Result<i64> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// Makes a detached tmpfs. It takes at most half of the machine's memory, charged to this process's control
/// group.
fn mount() -> io::Result<OwnedFd> {
    const FSCONFIG_SET_STRING: u32 = 1;
    const FSCONFIG_CMD_CREATE: u32 = 6;
    const CLOEXEC: u32 = 1;
    let none = std::ptr::null::<u8>();
    // No `noexec`: generated code in a file may be mapped, as in a jail. Starting a program is denied by
    // other means.
    let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    // SAFETY: system calls with constant strings, numbers, and our own descriptors.
    unsafe {
        let context = descriptor(libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), CLOEXEC))?;
        let fd = context.as_raw_fd();
        let (mode, closed) = (c"mode".as_ptr(), c"0700".as_ptr());
        check(libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_SET_STRING, mode, closed, 0))?;
        check(libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, none, none, 0))?;
        descriptor(libc::syscall(libc::SYS_fsmount, fd, CLOEXEC, attributes))
    }
}

/// Makes the same by a child that shares this process's descriptor table, and may mount in namespaces of its
/// own.
fn mount_in_a_namespace() -> io::Result<OwnedFd> {
    let placeholder = fs::File::open("/")?;
    // SAFETY: both calls only return numbers.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let map = |id: u32| CString::new(format!("{id} {id} 1"));
    let maps = [
        (c"/proc/self/setgroups", CString::from(c"deny")),
        (c"/proc/self/uid_map", map(user)?),
        (c"/proc/self/gid_map", map(group)?),
    ];
    let flags = libc::CLONE_FILES | libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::SIGCHLD;
    // SAFETY: equivalent to fork in a single-threaded process. The child makes system calls, moves the
    // descriptor to the worker's placeholder, and exits.
    unsafe {
        let child = check(libc::syscall(libc::SYS_clone, i64::from(flags), 0, 0, 0, 0))?;
        if child == 0 {
            let made = maps.iter().try_for_each(|(path, map)| write(path, map)).and_then(|()| mount());
            let moved = made.and_then(|made| {
                check(libc::dup3(made.as_raw_fd(), placeholder.as_raw_fd(), libc::O_CLOEXEC).into())
            });
            libc::_exit(moved.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |_| 0));
        }
        let mut status = 0;
        while libc::waitpid(child as libc::pid_t, &raw mut status, 0) < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        match libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)) {
            Some(0) => Ok(placeholder.into()),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Err(io::Error::other("the child that mounts was ended")),
        }
    }
}

fn write(path: &CStr, text: &CStr) -> io::Result<()> {
    // SAFETY: NUL-terminated strings, and our own descriptor.
    unsafe {
        let file = descriptor(libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC).into())?;
        check(libc::write(file.as_raw_fd(), text.as_ptr().cast(), text.count_bytes()) as i64).map(drop)
    }
}

#[cfg(test)]
#[path = "../../tests/programs/src/skipped.rs"]
#[allow(unreachable_pub, reason = "public where the tests of maps take it from")]
mod skipped;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_there_and_not_out_again() {
        if let Err(error) = make() {
            // Many containers do not allow it.
            let refused = error.kind() == io::ErrorKind::PermissionDenied;
            assert!(refused && !skipped::administers(), "{error}");
            return skipped::skipped("neither mounting nor user namespaces are allowed");
        }
        let find = |path: &'static CStr| {
            // SAFETY: the path is NUL-terminated, and so is the result.
            unsafe {
                let (folder, rest) = find(path.as_ptr().cast())?;
                let at = OWN.get()?.folders.iter().position(|own| own.as_raw_fd() == folder)?;
                Some((at, CStr::from_ptr(rest.cast()).to_str().ok()?))
            }
        };
        assert_eq!(find(c"/tmp/a/b"), Some((0, "a/b")));
        assert_eq!(find(c"/tmp"), Some((0, ".")));
        assert_eq!(find(c"/tmp//"), Some((0, ".")));
        assert_eq!(find(c"/var/tmp//x"), Some((1, "x")));
        assert_eq!(find(c"/dev/shm/x"), Some((2, "x")));
        for outside in [c"/tmpx", c"/tmp/../etc/passwd", c"/tmp/a/..", c"tmp/a", c"", c"/dev/null", c"/dev"] {
            assert_eq!(find(outside), None, "{outside:?}");
        }
    }

    #[test]
    fn a_user_who_may_mount_nothing_has_one_all_the_same() {
        // This also works as root.
        match mount_in_a_namespace() {
            Ok(root) => assert!(device_of(root.as_raw_fd()).is_some()),
            Err(error) => println!("no user namespaces here: {error}"),
        }
    }
}
