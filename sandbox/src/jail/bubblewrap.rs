//! Builds the command that starts a program in a jail: bubblewrap with all its namespaces, an almost empty
//! root, and the filters. Between fork and exec the child sets up the rest: group, limits, user and
//! descriptors.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, Signal};

use super::filter::Filters;
use super::ids::{self, Helper};
use super::shown::{self, Shown};
use super::{Executable, announced, root};
use crate::elf::ElfError;
use crate::jail::spec::{Limits, PROGRAM, SOCKET, SetupError, Spec};

/// Oldest version that was tried. It has `--disable-userns`, and `--ro-bind-fd` with Debian's updates.
const MIN_VERSION: (u32, u32) = (0, 8);

/// Paths of the executable and of the host's socket in the child's own mount namespace, see `shown`.
const SHOWN_PROGRAM: &CStr = c"/tmp/program";
const SHOWN_SOCKET: &CStr = c"/tmp/socket";
/// A usable installation of bubblewrap.
#[derive(Clone, Debug)]
pub(crate) struct Bubblewrap {
    path: PathBuf,
    pub(crate) version: String,
}

impl Bubblewrap {
    /// Looks for bubblewrap in the usual folders. `PATH` is not used, because its setter must not choose the
    /// program.
    pub(crate) fn find() -> Result<Bubblewrap, SetupError> {
        let path = ["/usr/bin/bwrap", "/usr/local/bin/bwrap", "/bin/bwrap"].map(PathBuf::from);
        let path = path.into_iter().find(|path| path.is_file()).ok_or(SetupError::NoBubblewrap)?;
        let ask = |argument: &str| {
            let answer = Command::new(&path).arg(argument).env_clear().output();
            let answer = answer.map_err(|error| {
                SetupError::Bubblewrap(format!("{} can't be run: {error}", path.display()))
            })?;
            if !answer.status.success() {
                // bubblewrap reads files below /proc/sys before its arguments. A unit's `ProcSubset=pid`
                // hides them.
                let words = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
                return Err(SetupError::Bubblewrap(format!(
                    "bwrap {argument} fails ({}): {words}",
                    answer.status
                )));
            }
            Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
        };
        let version = ask("--version")?;
        let version = version.trim().trim_start_matches("bubblewrap ").to_owned();
        let mut numbers = version.split('.').map_while(|part| part.parse::<u32>().ok());
        let number = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if number < MIN_VERSION {
            return Err(SetupError::Bubblewrap(format!(
                "version 0.8 or newer is needed, this is {version:?}"
            )));
        }
        // A service without the right to mount binds by descriptor, so that the jail gets this very file.
        // bubblewrap still looks the path up as the worker's user, so that user must be able to enter the
        // folders above.
        if !ask("--help")?.contains("--ro-bind-fd") {
            let why =
                format!("{version:?} does not know --ro-bind-fd; 0.10 does, and 0.8 with Debian's updates");
            return Err(SetupError::Bubblewrap(why));
        }
        Ok(Bubblewrap { path, version })
    }

    /// Examines bubblewrap itself as the executable of a jail.
    pub(crate) fn examine(&self) -> Result<Executable, ElfError> {
        Executable::examine(&self.path)
    }

    /// Returns the command for `spec`. A process joins the jail's group by writing to the `procs_files`.
    /// `user` is its user ID outside of the jail, if this process may choose one. `mounts`: this process may
    /// mount, so the executable and the socket need not be in folders that the user can enter.
    pub(crate) fn command(
        &self,
        spec: &Spec<'_>,
        filters: &Filters,
        procs_files: Vec<OwnedFd>,
        user: Option<u32>,
        mounts: bool,
    ) -> io::Result<Command> {
        let mut shown: Vec<Shown> = Vec::new();
        let mut inherited: Vec<OwnedFd> = Vec::new();
        let mut command = Command::new(&self.path);
        command.env_clear().args([
            "--unshare-all",
            "--unshare-user",
            "--unshare-cgroup",
            "--disable-userns",
            "--die-with-parent",
            "--new-session",
            "--clearenv",
            "--cap-drop",
            "ALL",
            "--uid",
            "65534",
            "--gid",
            "65534",
            "--hostname",
            &ids::hostname(),
        ]);
        command.args(root::arguments(spec.executable, spec.zone, spec.limits.memory));
        let helper = Box::new(Helper::new([memory_file(&[])?, memory_file(&[])?]));
        command.args(helper.options());
        let mut bind = |path: &Path, at: &'static CStr, inside: &str| -> io::Result<()> {
            if mounts {
                shown.push(Shown::new(path, at)?);
                command.args([OsStr::new("--ro-bind"), OsStr::from_bytes(at.to_bytes()), OsStr::new(inside)]);
                return Ok(());
            }
            let fd = path_fd(path)?;
            command.args(["--ro-bind-fd", &fd.as_raw_fd().to_string(), inside]);
            inherited.push(fd);
            Ok(())
        };
        bind(spec.executable.path(), SHOWN_PROGRAM, PROGRAM)?;
        if let Some(socket) = spec.socket {
            if let Some(user) = user {
                chown(socket, Some(user), Some(user))?;
                std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
                if let Some(folder) = socket.parent().filter(|_| !mounts) {
                    // bubblewrap looks up the socket's path as that user.
                    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o711))?;
                }
            }
            bind(socket, SHOWN_SOCKET, SOCKET)?;
        }
        for (name, value) in announced::variables(&spec.limits) {
            command.args(["--setenv", name, &value]);
        }
        for (name, value) in spec.environment {
            command.args([OsString::from("--setenv"), name.into(), value.into()]);
        }
        for folder in announced::folders(&spec.limits) {
            command.args(["--dir", &folder]);
        }
        for (path, content) in announced::files(&spec.limits) {
            let fd = memory_file(content.as_bytes())?;
            command.args(["--perms", "0444", "--file", &fd.as_raw_fd().to_string(), &path]);
            inherited.push(fd);
        }
        command.args(["--remount-ro", "/", "--chdir", "/"]);
        for filter in &filters.0 {
            let fd = memory_file(filter)?;
            command.args(["--add-seccomp-fd".to_owned(), fd.as_raw_fd().to_string()]);
            inherited.push(fd);
        }
        command.args(["--", PROGRAM]);
        let (limits, parent) = (limits(&spec.limits), std::process::id());
        let pre_exec = PreExec { procs_files, shown, inherited, helper, limits, user, parent };
        // SAFETY: `PreExec::enter` makes system calls only, allocates nothing and takes no lock, so it may
        // run between fork and exec in a multithreaded process.
        unsafe { command.pre_exec(move || pre_exec.enter()) };
        Ok(command)
    }
}

/// Opens an `O_PATH` descriptor: it names the file without opening it.
fn path_fd(path: &Path) -> io::Result<OwnedFd> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    Ok(File::options().read(true).custom_flags(libc::O_PATH).open(path).map_err(named)?.into())
}

fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let name: &CStr = c"fastmap-jail";
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// Limit of open descriptors of a worker.
const DESCRIPTORS: u64 = 256;
/// Limit of the bytes that a worker may lock in memory, as libraries do with keys. Jails have no swap, and
/// the group counts these bytes like all others. The number is systemd's default.
const LOCKED_MEMORY: u64 = 8 << 20;
/// Limit of queued signals and timers of a worker. Without root all workers of a service share one count,
/// that of its user.
const SIGNALS: u64 = 1024;

/// Per-process resource limits, in addition to those of the group.
///
/// `RLIMIT_FSIZE` is not set. A worker can write to memory files only, which the group's memory limit covers,
/// and exceeding `RLIMIT_FSIZE` kills by a signal instead of returning an error.
fn limits(limits: &Limits) -> Vec<(Resource, u64)> {
    let mut all = vec![
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NOFILE, DESCRIPTORS),
        (Resource::RLIMIT_MEMLOCK, LOCKED_MEMORY),
        (Resource::RLIMIT_SIGPENDING, SIGNALS),
    ];
    if let Some(cpu) = limits.cpu_time {
        all.push((Resource::RLIMIT_CPU, cpu.as_secs().max(1)));
    }
    all
}

/// The child's setup between fork and exec.
struct PreExec {
    procs_files: Vec<OwnedFd>,
    shown: Vec<Shown>,
    /// Descriptors that bubblewrap's arguments name by number.
    inherited: Vec<OwnedFd>,
    helper: Box<Helper>,
    limits: Vec<(Resource, u64)>,
    user: Option<u32>,
    parent: u32,
}

impl PreExec {
    fn enter(&self) -> io::Result<()> {
        // Join the group first, so that everything after this is limited and measured.
        for door in &self.procs_files {
            nix::unistd::write(door, b"0")?;
        }
        if !self.shown.is_empty() {
            shown::enter(&self.shown)?;
        }
        self.helper.prepare()?;
        for (resource, limit) in &self.limits {
            setrlimit(*resource, *limit, *limit)?;
        }
        if let Some(user) = self.user {
            // Bypass the C library: its versions change the IDs of all threads, and a forked process does not
            // have those threads. SAFETY: three system calls with plain numbers; an empty list of groups may
            // be a null pointer.
            let changed = unsafe {
                libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>())
                    | libc::syscall(libc::SYS_setresgid, user, user, user)
                    | libc::syscall(libc::SYS_setresuid, user, user, user)
            };
            check(changed)?;
        }
        // A service manager or job system may send its stop signal to all processes of the service. Jails
        // continue until the service ends them. Ignored signals stay ignored across exec.
        for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
            // SAFETY: no handler is installed.
            unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }?;
        }
        // Must follow the change of user, which clears the parent-death signal. bubblewrap sets its own a
        // moment later.
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        if nix::unistd::getppid().as_raw() as u32 != self.parent {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        // Keep all descriptors of the service out, including those that a library opened without CLOEXEC.
        keep_descriptors_out()?;
        self.inherited.iter().try_for_each(|fd| inherit(fd.as_raw_fd()))?;
        self.helper.inherited().into_iter().try_for_each(inherit)?;
        self.helper.start();
        Ok(())
    }
}

/// Sets CLOEXEC on all descriptors but the standard ones. It closes none, because std reports exec errors
/// through a pipe.
fn keep_descriptors_out() -> io::Result<()> {
    // SAFETY: a system call with plain numbers.
    let marked =
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked == 0 { Ok(()) } else { keep_each_out() }
}

/// Fallback that marks each descriptor separately. `CLOSE_RANGE_CLOEXEC` needs Linux 5.11 (EINVAL before),
/// `close_range` itself 5.9.
fn keep_each_out() -> io::Result<()> {
    let mut status = [0; 1024];
    let length = File::open("/proc/self/status")?.read(&mut status)?;
    // Size of this process's descriptor table: all open descriptors have lower numbers.
    let mut lines = status[..length].split(|byte| *byte == b'\n');
    let room = lines.find_map(|line| std::str::from_utf8(line.strip_prefix(b"FDSize:")?).ok());
    let room: Option<RawFd> = room.and_then(|digits| digits.trim().parse().ok());
    let room = room.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    for fd in 3..room {
        // SAFETY: sets a flag; it has no effect if no descriptor has this number (EBADF).
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn inherit(fd: RawFd) -> io::Result<()> {
    // SAFETY: clears the flag of a descriptor that `PreExec` owns.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }.into())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn no_descriptor_gets_into_a_program_whichever_call_keeps_them_out() {
        for keep_out in [keep_descriptors_out, keep_each_out] {
            let open = File::open("/dev/null").expect("a file");
            inherit(open.as_raw_fd()).expect("it is open");
            let mut command = Command::new("ls");
            command.arg("/proc/self/fd");
            // SAFETY: makes system calls only.
            unsafe { command.pre_exec(keep_out) };
            let listed = command.output().expect("it is started");
            // 3 is the folder that `ls` reads.
            assert_eq!(String::from_utf8_lossy(&listed.stdout), "0\n1\n2\n3\n");
        }
    }
}
