//! Probes that read files of others, and that write any file at all.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::jail::probes::probe::{Probe, not_blocked, nothing, result};
use crate::readable_files;

pub(super) const ALL: &[Probe] = &[
    Probe { name: "read /etc/passwd", act: || File::open("/etc/passwd").map(drop) },
    Probe { name: "read /etc/hosts", act: || File::open("/etc/hosts").map(drop) },
    Probe { name: "list the folder of private keys", act: || fs::read_dir("/etc/ssl/private").map(drop) },
    Probe { name: "find a process in /proc", act: process },
    Probe { name: "read the kernel's settings", act: || fs::read_dir("/proc/sys").map(drop) },
    Probe { name: "read its own /proc/self/maps", act: || File::open("/proc/self/maps").map(drop) },
    Probe { name: "read another process's environment", act: other_environment },
    Probe { name: "list the kernel's part of /sys", act: || fs::read_dir("/sys/kernel").map(drop) },
    Probe { name: "list the machine's devices", act: || fs::read_dir("/sys/class").map(drop) },
    Probe { name: "see what others have in /tmp", act: || any_in("/tmp") },
    Probe { name: "list /var/lib", act: || fs::read_dir("/var/lib").map(drop) },
    Probe { name: "list /root", act: || fs::read_dir("/root").map(drop) },
    Probe { name: "list /usr/bin", act: || fs::read_dir("/usr/bin").map(drop) },
    Probe { name: "open the control groups", act: control_groups },
    Probe { name: "write to /dev", act: || scratch("/dev") },
    Probe { name: "write to /usr/share", act: || scratch("/usr/share") },
    Probe { name: "write to /", act: || scratch("/") },
    Probe { name: "write beside its program", act: || scratch(folder()?) },
    Probe { name: "open its program for writing", act: open_program },
    Probe { name: "change its program's mode", act: change_mode },
    Probe { name: "change its program's owner", act: change_owner },
    Probe { name: "link its program", act: link_program },
    Probe { name: "write to the C library", act: c_library },
    Probe { name: "make a folder", act: make_folder },
    Probe { name: "make a device", act: make_device },
    Probe { name: "make a symbolic link", act: make_symlink },
    Probe { name: "set an attribute", act: set_attribute },
    Probe { name: "name a file by handle", act: by_handle },
];

/// Succeeds if the folder has an entry. It is another process's, because this one has made none.
fn any_in(folder: &str) -> io::Result<()> {
    fs::read_dir(folder)?.next().map_or_else(|| Err(nothing("it is empty")), |entry| entry.map(drop))
}

/// Returns the path by which the kernel started this program.
fn program() -> io::Result<PathBuf> {
    // SAFETY: `AT_EXECFN` is the address of a string that lives as long as the process.
    let path = unsafe {
        let address = libc::getauxval(libc::AT_EXECFN) as *const libc::c_char;
        if address.is_null() {
            return Err(nothing("no program's name"));
        }
        CStr::from_ptr(address)
    };
    Ok(Path::new(std::ffi::OsStr::from_bytes(path.to_bytes())).to_owned())
}

fn folder() -> io::Result<PathBuf> {
    program().map(|path| path.parent().unwrap_or(Path::new("/")).to_owned())
}

fn name_in(folder: impl AsRef<Path>) -> PathBuf {
    folder.as_ref().join(format!(".fastmap-probe-{}", std::process::id()))
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn scratch(folder: impl AsRef<Path>) -> io::Result<()> {
    let path = name_in(folder);
    File::create_new(&path)?;
    fs::remove_file(path)
}

fn writable(path: impl AsRef<Path>) -> io::Result<()> {
    match File::options().write(true).open(path) {
        // Write permission was granted; only the running program prevents it.
        Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => Ok(()),
        opened => opened.map(drop),
    }
}

/// The C library's folder depends on the architecture and the distribution.
fn c_library() -> io::Result<()> {
    let found = readable_files::LIBRARIES
        .iter()
        .map(|folder| Path::new(folder).join("libc.so.6"))
        .find(|path| path.exists());
    writable(found.ok_or_else(|| nothing("no folder has it"))?)
}

fn open_program() -> io::Result<()> {
    writable(program()?)
}

fn process() -> io::Result<()> {
    let is_number = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.parse::<u32>().is_ok());
    let mut entries = fs::read_dir("/proc")?.flatten();
    if entries.any(|entry| is_number(&entry.file_name())) {
        Ok(())
    } else {
        Err(nothing("no process is in it"))
    }
}

fn other_environment() -> io::Result<()> {
    File::open(format!("/proc/{}/environ", std::os::unix::process::parent_id())).map(drop)
}

fn control_groups() -> io::Result<()> {
    let version_2 = File::options().write(true).open("/sys/fs/cgroup/cgroup.procs");
    version_2.or_else(|_| File::options().write(true).open("/sys/fs/cgroup/memory/cgroup.procs")).map(drop)
}

fn change_mode() -> io::Result<()> {
    let path = program()?;
    let mode = fs::metadata(&path)?.permissions().mode();
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn change_owner() -> io::Result<()> {
    std::os::unix::fs::chown(program()?, None, None)
}

fn link_program() -> io::Result<()> {
    let link = name_in(folder()?);
    fs::hard_link(program()?, &link)?;
    fs::remove_file(link)
}

fn make_folder() -> io::Result<()> {
    let path = name_in(folder()?);
    fs::create_dir(&path)?;
    fs::remove_dir(path)
}

fn make_device() -> io::Result<()> {
    let path = name_in(folder()?);
    let name = c_path(&path)?;
    // SAFETY: a path that ends in a zero; the device is that of /dev/null.
    result(unsafe { libc::mknod(name.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 3)) }.into())?;
    fs::remove_file(path)
}

fn make_symlink() -> io::Result<()> {
    let path = name_in(folder()?);
    std::os::unix::fs::symlink("/", &path)?;
    fs::remove_file(path)
}

fn set_attribute() -> io::Result<()> {
    let path = c_path(&program()?)?;
    // SAFETY: two NUL-terminated strings, and no value. An attribute of an unknown namespace passes the
    // filter and then fails.
    not_blocked(
        unsafe { libc::setxattr(path.as_ptr(), c"none.probe".as_ptr(), std::ptr::null(), 0, 0) }.into(),
    )
}

fn by_handle() -> io::Result<()> {
    let (mut handle, mut mount) = ([0u32; 40], 0i32);
    handle[0] = 128;
    // SAFETY: the handle has room for the 128 bytes that its first word announces, and `mount` is an `i32` as
    // required.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            c"/".as_ptr(),
            handle.as_mut_ptr(),
            &raw mut mount,
            0,
        )
    };
    not_blocked(returned)
}
