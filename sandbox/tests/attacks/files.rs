//! Files: reading, writing, making, removing, and what hangs on them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};

use crate::Control::{Past, RootPast, RootWorks, Works};
use crate::{Confined, Probe, call, probe};

fn own_program() -> io::Result<File> {
    File::open("/proc/self/exe")
}

fn home() -> String {
    std::env::var("HOME").unwrap_or_else(|_| "/".to_owned())
}

pub(crate) const PROBES: &[Probe] = &[
    probe("read /etc/passwd", "openat", Works, |_| fs::read("/etc/passwd").map(drop)),
    probe("read /etc/shadow", "openat", RootWorks, |_| fs::read("/etc/shadow").map(drop)),
    probe("list the home folder", "openat", Works, |_| fs::read_dir(home()).map(drop)),
    probe("list /", "openat", Works, |_| fs::read_dir("/").map(drop)),
    probe("read a file of the user", "openat", Works, |scene| fs::read(scene.folder.join("file")).map(drop)),
    probe("read a file by way of a folder's descriptor", "openat", Works, |scene| {
        let folder = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&scene.folder)?;
        call!(libc::SYS_openat, folder.as_raw_fd(), c"file".as_ptr(), libc::O_RDONLY)
    }),
    probe("open a path and reopen it to read", "openat", Works, |scene| {
        let file =
            OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(scene.folder.join("file"))?;
        fs::read(format!("/proc/self/fd/{}", file.as_raw_fd())).map(drop)
    }),
    probe("read through a link from a readable folder", "openat", Works, |_| {
        fs::read("/usr/lib/../../etc/passwd").map(drop)
    }),
    Probe {
        confined: Confined::Absent,
        ..probe("openat2", "openat2", Works, |scene| {
            let how = [0u64; 3];
            let path = scene.path("file");
            call!(libc::SYS_openat2, libc::AT_FDCWD, path.as_ptr(), &raw const how, size_of_val(&how))
        })
    },
    #[cfg(target_arch = "x86_64")]
    probe("open, the old call", "open", Works, |scene| {
        call!(libc::SYS_open, scene.path("file").as_ptr(), libc::O_RDONLY)
    }),
    #[cfg(target_arch = "x86_64")]
    probe("creat, the old call", "creat", Works, |scene| {
        call!(libc::SYS_creat, scene.path("new").as_ptr(), 0o600)
    }),
    probe("environment of another process", "openat", Works, |scene| {
        fs::read(format!("/proc/{}/environ", scene.host)).map(drop)
    }),
    probe("memory of another process as a file", "openat", Works, |scene| {
        File::open(format!("/proc/{}/mem", scene.host)).map(drop)
    }),
    probe("own memory as a file", "openat", Works, |_| {
        OpenOptions::new().read(true).write(true).open("/proc/self/mem").map(drop)
    }),
    probe("kernel log", "openat", RootWorks, |_| match File::open("/dev/kmsg") {
        // Containers have none: said by a number that no other probe gets.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(io::Error::from_raw_os_error(libc::ENXIO))
        }
        opened => opened.map(drop),
    }),
    probe("make a file", "openat", Works, |scene| File::create(scene.folder.join("new")).map(drop)),
    probe("make a file without a name", "openat", Works, |scene| {
        OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(&scene.folder).map(drop)
    }),
    probe("append to a file", "openat", Works, |scene| {
        OpenOptions::new().append(true).open(scene.folder.join("file")).map(drop)
    }),
    probe("cut a file while opening it to read", "openat", Works, |scene| {
        let flags = libc::O_RDONLY | libc::O_TRUNC;
        call!(libc::SYS_openat, libc::AT_FDCWD, scene.path("file").as_ptr(), flags)
    }),
    probe("cut a file", "truncate", Works, |scene| call!(libc::SYS_truncate, scene.path("file").as_ptr(), 1)),
    probe("write to the own program", "openat", Past(&[libc::ETXTBSY]), |_| {
        OpenOptions::new().write(true).open("/proc/self/exe").map(drop)
    }),
    probe("read another's file in /tmp", "openat", Works, |scene| {
        fs::read(format!("/tmp/fastmap-scene-{}", scene.host)).map(drop)
    }),
    probe("write to another's file in /dev/shm/..", "openat", Works, |_| {
        OpenOptions::new().write(true).open("/dev/shm/../null").map(drop)
    }),
    probe(
        "remove a file",
        if cfg!(target_arch = "x86_64") { "unlink" } else { "unlinkat" },
        Works,
        |scene| fs::remove_file(scene.folder.join("file")),
    ),
    probe(
        "remove a folder",
        if cfg!(target_arch = "x86_64") { "rmdir" } else { "unlinkat" },
        Works,
        |scene| fs::remove_dir(scene.folder.join("empty")),
    ),
    probe(
        "rename a file",
        if cfg!(target_arch = "x86_64") { "rename" } else { "renameat" },
        Works,
        |scene| fs::rename(scene.folder.join("file"), scene.folder.join("other")),
    ),
    probe("exchange two names", "renameat2", Works, |scene| {
        let (one, other) = (scene.path("file"), scene.path("empty"));
        let here = libc::AT_FDCWD;
        call!(libc::SYS_renameat2, here, one.as_ptr(), here, other.as_ptr(), libc::RENAME_EXCHANGE)
    }),
    probe("make a folder", if cfg!(target_arch = "x86_64") { "mkdir" } else { "mkdirat" }, Works, |scene| {
        fs::create_dir(scene.folder.join("new"))
    }),
    probe("make a link", "linkat", Works, |scene| {
        fs::hard_link(scene.folder.join("file"), scene.folder.join("new"))
    }),
    probe(
        "make a symbolic link",
        if cfg!(target_arch = "x86_64") { "symlink" } else { "symlinkat" },
        Works,
        |scene| symlink("/etc/passwd", scene.folder.join("new")),
    ),
    probe("make a named pipe", "mknodat", Works, |scene| {
        call!(libc::SYS_mknodat, libc::AT_FDCWD, scene.path("new").as_ptr(), libc::S_IFIFO | 0o600, 0)
    }),
    probe("make a device", "mknodat", RootWorks, |scene| {
        call!(libc::SYS_mknodat, libc::AT_FDCWD, scene.path("new").as_ptr(), libc::S_IFCHR | 0o600, 0x103)
    }),
    probe(
        "change a file's mode",
        if cfg!(target_arch = "x86_64") { "chmod" } else { "fchmodat" },
        Works,
        |scene| fs::set_permissions(scene.folder.join("file"), fs::Permissions::from_mode(0o777)),
    ),
    probe("change the own program's mode by descriptor", "fchmod", Works, |_| {
        let program = own_program()?;
        let mode = program.metadata()?.permissions().mode();
        call!(libc::SYS_fchmod, program.as_raw_fd(), mode)
    }),
    probe("fchmodat2", "fchmodat2", Works, |scene| {
        call!(452, libc::AT_FDCWD, scene.path("file").as_ptr(), 0o777, 0)
    }),
    probe("change a file's owner", "fchownat", Works, |scene| {
        call!(libc::SYS_fchownat, libc::AT_FDCWD, scene.path("file").as_ptr(), u32::MAX, u32::MAX, 0)
    }),
    probe("change a file's times", "utimensat", Works, |scene| {
        let nothing = std::ptr::null::<libc::timespec>();
        call!(libc::SYS_utimensat, libc::AT_FDCWD, scene.path("file").as_ptr(), nothing, 0)
    }),
    probe("change the own program's times by descriptor", "utimensat", Works, |_| {
        let (path, now) = (std::ptr::null::<u8>(), std::ptr::null::<libc::timespec>());
        call!(libc::SYS_utimensat, own_program()?.as_raw_fd(), path, now, 0)
    }),
    probe("set a file's attribute", "setxattr", Works, |scene| {
        let (path, name) = (scene.path("file"), c"user.fastmap");
        call!(libc::SYS_setxattr, path.as_ptr(), name.as_ptr(), name.as_ptr(), 4, 0)
    }),
    probe("set the own program's flags", "ioctl", Past(&[libc::EFAULT, libc::ENOTTY]), |_| {
        call!(libc::SYS_ioctl, own_program()?.as_raw_fd(), 0x4008_6602u64, std::ptr::null::<u8>())
    }),
    probe("watch a folder", "inotify_init1", Works, |_| {
        // SAFETY: makes a descriptor.
        let watch = unsafe { libc::inotify_init1(libc::IN_CLOEXEC) };
        call!(libc::SYS_inotify_add_watch, watch, c"/tmp".as_ptr(), libc::IN_CREATE)
    }),
    probe("watch all files", "fanotify_init", RootPast(&[libc::EINVAL]), |_| {
        call!(libc::SYS_fanotify_init, u32::MAX, 0)
    }),
    probe("take a handle of a file", "name_to_handle_at", Past(&[libc::EFAULT]), |scene| {
        let nothing = std::ptr::null::<u8>();
        call!(libc::SYS_name_to_handle_at, libc::AT_FDCWD, scene.path("file").as_ptr(), nothing, nothing, 0)
    }),
    probe("open by a handle", "open_by_handle_at", RootPast(&[libc::EFAULT, libc::EBADF]), |_| {
        call!(libc::SYS_open_by_handle_at, -1, std::ptr::null::<u8>(), libc::O_RDONLY)
    }),
];
