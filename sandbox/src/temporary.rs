//! A confined worker's own `/tmp` and `/dev/shm`: empty, in memory, seen by no other process and gone with
//! it. Made by `confine` before anything is refused; `landlock` allows writing in it, and `path_calls` leads calls
//! that name a path below one of these folders there. (A jailed worker has mounts of its own at these paths,
//! see `jail`.)
//!
//! It is a file system that is mounted nowhere: the worker has its root as a descriptor, by which it is
//! found, and the kernel frees it when the last descriptor is closed, however the worker ends. So nothing is
//! left over, and nothing has to be removed. To make one takes the right to mount: root has it; for another
//! user a child process takes it in a user namespace of its own and leaves the descriptor to the worker,
//! whose own view of users stays as it is.

use std::ffi::{CStr, CString, c_int};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;
use std::{fs, io};

/// The folders that lead there, and each one's own folder in it.
const FOLDERS: [(&[u8], &CStr); 3] = [(b"/tmp", c"tmp"), (b"/var/tmp", c"tmp"), (b"/dev/shm", c"shm")];

/// Variables that name another folder for temporary files, where a function can't write.
const VARIABLES: [&str; 4] = ["TMPDIR", "TEMP", "TMP", "SQLITE_TMPDIR"];

/// Its own root, its folders in the order of [`FOLDERS`], and the number of its device.
#[derive(Debug)]
struct Own {
    root: OwnedFd,
    folders: [OwnedFd; 3],
    device: u64,
}

static OWN: OnceLock<Own> = OnceLock::new();

/// Makes it. To be called before there is a second thread, and before anything is refused.
///
/// # Errors
/// If this kernel can't (before 5.2), or refuses this user both mounts and user namespaces. Then writing is
/// refused in these folders as it is everywhere.
pub(crate) fn make() -> io::Result<()> {
    let root = mount().or_else(|_| mount_in_a_namespace())?;
    let folder = |name: &CStr| {
        // SAFETY: system calls with a descriptor of our own and constant strings.
        unsafe {
            libc::mkdirat(root.as_raw_fd(), name.as_ptr(), 0o1777);
            let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
            descriptor(libc::openat(root.as_raw_fd(), name.as_ptr(), flags).into())
        }
    };
    let folders = [folder(FOLDERS[0].1)?, folder(FOLDERS[1].1)?, folder(FOLDERS[2].1)?];
    let device = device_of(root.as_raw_fd()).ok_or_else(io::Error::last_os_error)?;
    let _first = OWN.set(Own { root, folders, device });
    Ok(())
}

/// Unsets the variables that name a folder elsewhere, as they are not set in a jail.
///
/// # Safety
/// There is no second thread.
pub(crate) unsafe fn unset_variables() {
    for name in VARIABLES {
        // SAFETY: as this function's own.
        unsafe { std::env::remove_var(name) };
    }
}

/// Its root, if there is one.
pub(crate) fn root() -> Option<BorrowedFd<'static>> {
    OWN.get().map(|own| own.root.as_fd())
}

/// A path that is below one of the folders: descriptor and address of the path from there on. In signals as
/// well.
///
/// # Safety
/// `path` points to bytes that end with a zero byte.
pub(crate) unsafe fn find(path: *const u8) -> Option<(c_int, *const u8)> {
    let own = OWN.get()?;
    // SAFETY: as this function's own.
    let bytes = unsafe { CStr::from_ptr(path.cast()) }.to_bytes();
    let (at, rest) = below(bytes)?;
    // Out of the folder again.
    if rest.split(|byte| *byte == b'/').any(|name| name == b"..") {
        return None;
    }
    let begin = rest.iter().position(|byte| *byte != b'/');
    // The end of the same bytes.
    let relative = begin.map_or(c".".as_ptr().cast(), |begin| rest[begin..].as_ptr());
    Some((own.folders[at].as_raw_fd(), relative))
}

/// The folder in which a path is, and the path from there on.
fn below(path: &[u8]) -> Option<(usize, &[u8])> {
    FOLDERS.iter().enumerate().find_map(|(at, (folder, _))| {
        let rest = path.strip_prefix(*folder)?;
        (rest.is_empty() || rest[0] == b'/').then_some((at, rest))
    })
}

/// Whether a path is in a folder that a worker has for itself, confined or jailed. In signals as well.
pub(crate) fn is_below_a_folder(path: &[u8]) -> bool {
    below(path).is_some()
}

/// Whether an open file or folder is one of its own. In signals as well.
pub(crate) fn has(fd: c_int) -> bool {
    OWN.get().is_some_and(|own| device_of(fd) == Some(own.device))
}

fn device_of(fd: c_int) -> Option<u64> {
    // SAFETY: numbers, for which zero is valid.
    let mut found: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes what the structure holds; a number that is no descriptor is an error.
    (unsafe { libc::fstat(fd, &raw mut found) } == 0).then_some(found.st_dev)
}

/// A descriptor that a system call has just made, or its error.
fn descriptor(made: i64) -> io::Result<OwnedFd> {
    let made = check(made)?;
    // SAFETY: the caller has just got it from the kernel, and it is nowhere else.
    Ok(unsafe { OwnedFd::from_raw_fd(made as c_int) })
}

fn check(returned: i64) -> io::Result<i64> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// A file system in memory, mounted nowhere. Half of the machine's memory is the most that it takes, which is
/// charged to this process's control group.
fn mount() -> io::Result<OwnedFd> {
    const FSCONFIG_SET_STRING: u32 = 1;
    const FSCONFIG_CMD_CREATE: u32 = 6;
    const CLOEXEC: u32 = 1;
    let none = std::ptr::null::<u8>();
    // Code that is made in a file may be mapped, as in a jail: starting a program is refused by other means.
    let attributes = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    // SAFETY: system calls with constant strings, numbers, and descriptors of our own.
    unsafe {
        let context = descriptor(libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), CLOEXEC))?;
        let fd = context.as_raw_fd();
        let (mode, closed) = (c"mode".as_ptr(), c"0700".as_ptr());
        check(libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_SET_STRING, mode, closed, 0))?;
        check(libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, none, none, 0))?;
        descriptor(libc::syscall(libc::SYS_fsmount, fd, CLOEXEC, attributes))
    }
}

/// The same by a child that shares this process's descriptors, and has the right to mount in namespaces of
/// its own.
fn mount_in_a_namespace() -> io::Result<OwnedFd> {
    let place = fs::File::open("/")?;
    // SAFETY: numbers that can't fail.
    let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
    let map = |id: u32| CString::new(format!("{id} {id} 1"));
    let maps = [
        (c"/proc/self/setgroups", CString::from(c"deny")),
        (c"/proc/self/uid_map", map(user)?),
        (c"/proc/self/gid_map", map(group)?),
    ];
    let flags = libc::CLONE_FILES | libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::SIGCHLD;
    // SAFETY: as fork, in a process of one thread. The child makes system calls, leaves the descriptor in the
    // place that the worker has kept for it, and ends.
    unsafe {
        let child = check(libc::syscall(libc::SYS_clone, i64::from(flags), 0, 0, 0, 0))?;
        if child == 0 {
            let made = maps.iter().try_for_each(|(path, map)| write(path, map)).and_then(|()| mount());
            let moved = made.and_then(|made| {
                check(libc::dup3(made.as_raw_fd(), place.as_raw_fd(), libc::O_CLOEXEC).into())
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
            Some(0) => Ok(place.into()),
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Err(io::Error::other("the child that mounts was ended")),
        }
    }
}

fn write(path: &CStr, text: &CStr) -> io::Result<()> {
    // SAFETY: strings that end with a zero byte, and a descriptor of our own.
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
            // Not allowed in many containers.
            let refused = error.kind() == io::ErrorKind::PermissionDenied;
            assert!(refused && !skipped::administers(), "{error}");
            return skipped::skipped("neither mounting nor user namespaces are allowed");
        }
        let find = |path: &'static CStr| {
            // SAFETY: it ends with a zero byte, and so does what is found.
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
        // As root the child's namespace does as well.
        match mount_in_a_namespace() {
            Ok(root) => assert!(device_of(root.as_raw_fd()).is_some()),
            Err(error) => println!("no user namespaces here: {error}"),
        }
    }
}
