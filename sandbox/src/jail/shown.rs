//! Mounts for files that bubblewrap can't open by path: it looks paths up as the worker's user, which may not
//! enter the folder of a program or socket. A service with the right to mount attaches them in the child's
//! own mount namespace, in a `/tmp` that no other process sees. Called by `bubblewrap`.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Mount options of the namespace's own `/tmp`, in which two empty files are made.
const OPTIONS: &CStr = c"mode=0755,size=64k,nr_inodes=16";

/// A file, and its path in the child's namespace.
#[derive(Debug)]
pub(super) struct Shown {
    tree: OwnedFd,
    at: &'static CStr,
}

/// Makes a detached mount of this file alone. It stays this very file even if its path is replaced later.
///
/// # Errors
/// Names the file. EPERM means that this process may not mount (`CAP_SYS_ADMIN`).
pub(super) fn detached(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: a system call with a NUL-terminated path.
    let tree = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, name.as_ptr(), flags) };
    if tree < 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())));
    }
    // SAFETY: the call has just returned this descriptor, and no one else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(tree as i32) })
}

impl Shown {
    /// Prepares the file `path` for the path `at` in `/tmp`.
    ///
    /// # Errors
    /// As [`detached`].
    pub(super) fn new(path: &Path, at: &'static CStr) -> io::Result<Shown> {
        Ok(Shown { tree: detached(path)?, at })
    }

    /// Attaches the mount. Called between fork and exec: makes system calls only.
    fn attach(&self) -> io::Result<()> {
        // SAFETY: system calls with constant strings and descriptors that this value owns.
        unsafe {
            let flags = libc::O_CREAT | libc::O_EXCL | libc::O_WRONLY | libc::O_CLOEXEC;
            let file = libc::open(self.at.as_ptr(), flags, 0o444);
            check(file.min(0).into())?;
            check(libc::close(file).into())?;
            check(libc::syscall(
                libc::SYS_move_mount,
                self.tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                self.at.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            ))
        }
    }
}

/// Gives this process a mount namespace of its own, with a `/tmp` that contains these files and nothing else.
/// Called between fork and exec.
pub(super) fn enter(shown: &[Shown]) -> io::Result<()> {
    // SAFETY: system calls with constant strings.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS).into())?;
        let none = std::ptr::null();
        // Keep later mounts from propagating out of this namespace.
        let private = libc::MS_REC | libc::MS_PRIVATE;
        check(libc::mount(none, c"/".as_ptr(), none, private, std::ptr::null()).into())?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        let tmpfs = c"tmpfs".as_ptr();
        check(libc::mount(tmpfs, c"/tmp".as_ptr(), tmpfs, flags, OPTIONS.as_ptr().cast()).into())?;
    }
    shown.iter().try_for_each(Shown::attach)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
