//! Probes that make, see and control processes, change credentials and limits, and use resources that the
//! process did not get.

use std::io;

use crate::jail::probes::probe::{Probe, not_blocked, nothing, result};

pub(super) const ALL: &[Probe] = &[
    Probe { name: "fork", act: || child(0) },
    Probe { name: "make a process in namespaces of its own", act: || child(libc::CLONE_NEWUSER) },
    Probe { name: "find a shell", act: shell },
    Probe { name: "find another program", act: || present("/usr/bin/env") },
    Probe { name: "run a program by descriptor", act: by_descriptor },
    Probe { name: "see other processes", act: others },
    Probe { name: "be traced", act: traced },
    Probe { name: "read a process's memory", act: read_memory },
    Probe { name: "hold a process by descriptor", act: hold },
    Probe { name: "leave its namespaces", act: leave },
    Probe { name: "enter other namespaces", act: enter },
    Probe { name: "become another user", act: become_another },
    Probe { name: "change its groups", act: groups },
    Probe { name: "raise its priority", act: priority },
    Probe { name: "set its limits", act: limits },
    Probe { name: "ask for real time", act: real_time },
    Probe { name: "see its host's environment", act: environment },
    Probe { name: "use a descriptor of its host's", act: descriptors },
    Probe { name: "set its capabilities", act: capabilities },
];

fn child(flags: i32) -> io::Result<()> {
    // SAFETY: equivalent to fork; the child exits at once and touches no memory.
    unsafe {
        let child = libc::syscall(libc::SYS_clone, libc::c_long::from(flags | libc::SIGCHLD), 0, 0, 0, 0)
            as libc::pid_t;
        if child == 0 {
            libc::_exit(0);
        }
        result(child.into())?;
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
    Ok(())
}

fn present(path: &str) -> io::Result<()> {
    std::fs::metadata(path).map(drop)
}

fn shell() -> io::Result<()> {
    present("/bin/sh").or_else(|_| present("/bin/busybox"))
}

fn by_descriptor() -> io::Result<()> {
    // SAFETY: an empty path, no arguments and no descriptor, so nothing can be started.
    not_blocked(unsafe { libc::syscall(libc::SYS_execveat, -1, c"".as_ptr(), 0, 0, libc::AT_EMPTY_PATH) })
}

/// Looks for any process but itself and process 1, the jail's own init.
fn others() -> io::Result<()> {
    let own = std::process::id() as i32;
    // SAFETY: signal 0 checks whether the process exists, and has no effect.
    let there = |process: i32| unsafe { libc::kill(process, 0) == 0 } || io::Error::last_os_error().raw_os_error() == Some(libc::EPERM);
    if (2..70_000).any(|process| process != own && there(process)) {
        Ok(())
    } else {
        Err(nothing("no other process is visible"))
    }
}

fn traced() -> io::Result<()> {
    // SAFETY: no addresses are passed. A process that its parent traces continues until it receives a signal.
    not_blocked(unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_DETACH, std::process::id(), 0, 0) })
}

fn read_memory() -> io::Result<()> {
    let (from, mut to) = ([7u8; 8], [0u8; 8]);
    let local = libc::iovec { iov_base: to.as_mut_ptr().cast(), iov_len: to.len() };
    let remote = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
    // SAFETY: both describe eight bytes of this process that outlive the call.
    let read = unsafe {
        libc::process_vm_readv(std::process::id() as i32, &raw const local, 1, &raw const remote, 1, 0)
    };
    result(read as libc::c_long).map(drop)
}

fn hold() -> io::Result<()> {
    // SAFETY: plain numbers; a returned descriptor is closed at once.
    unsafe {
        let fd = result(libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0))?;
        libc::close(fd as i32);
    }
    Ok(())
}

fn leave() -> io::Result<()> {
    // SAFETY: plain numbers. If permitted, it gives this process a descriptor table of its own, which it has
    // anyway.
    result(unsafe { libc::unshare(libc::CLONE_FILES) }.into()).map(drop)
}

fn enter() -> io::Result<()> {
    // SAFETY: the descriptor is invalid, so no namespace is entered.
    not_blocked(unsafe { libc::setns(-1, 0) }.into())
}

fn become_another() -> io::Result<()> {
    // SAFETY: plain numbers; a process that is root already stays root. The direct system call is used
    // because the C library's version changes all threads.
    result(unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) }).map(drop)
}

fn groups() -> io::Result<()> {
    // SAFETY: an empty list of groups.
    result(unsafe { libc::syscall(libc::SYS_setgroups, 0, 0) }).map(drop)
}

fn priority() -> io::Result<()> {
    // SAFETY: plain numbers.
    result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -1) }.into()).map(drop)
}

fn limits() -> io::Result<()> {
    let (soft, hard) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    Ok(nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, soft, hard)?)
}

fn real_time() -> io::Result<()> {
    // SAFETY: the address of a valid structure. Its priority is invalid for that policy, so the kernel
    // rejects it if the call is permitted.
    not_blocked(unsafe {
        let usual: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const usual).into()
    })
}

/// Succeeds if a variable exists besides those that bubblewrap and the jail itself set.
fn environment() -> io::Result<()> {
    let limits = crate::jail::spec::Limits::default();
    let known = |name: &str| {
        matches!(name, "PWD" | "FASTMAP_INSIDE_WORKER" | crate::jail::probes::probe::PROBE)
            || super::super::announced::variables(&limits).any(|(announced_name, _)| announced_name == name)
    };
    if std::env::vars_os().any(|(name, _)| !name.to_str().is_some_and(known)) {
        Ok(())
    } else {
        Err(nothing("there is none"))
    }
}

fn descriptors() -> io::Result<()> {
    // SAFETY: reads the flags of a descriptor.
    let open = |fd: i32| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
    if (3..4096).any(open) { Ok(()) } else { Err(nothing("there is none")) }
}

fn capabilities() -> io::Result<()> {
    // SAFETY: no addresses are passed.
    not_blocked(unsafe { libc::syscall(libc::SYS_capset, 0, 0) })
}
