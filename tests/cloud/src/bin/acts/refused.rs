//! Acts that the contract of a mapped function forbids, or for which callers have another way. Where a worker
//! is confined each fails, in the same way on both sides.

use std::io;
use std::os::unix::net::{UnixDatagram, UnixListener};

use super::{Act, act, at, call, failed, outcome};

/// A number that no kernel has given to a call yet.
const FUTURE: libc::c_long = 900;

fn word(value: i32) -> usize {
    value as u32 as usize
}

fn errno<T>(result: io::Result<T>) -> String {
    result.map_or_else(|error| failed(error.raw_os_error().unwrap_or(0)), |_| "done".to_owned())
}

pub(crate) const ACTS: &[Act] = &[
    act("an internet socket", || outcome(call(libc::SYS_socket, &[word(libc::AF_INET), 1, 0]))),
    act("a pair of datagram sockets", || errno(UnixDatagram::pair())),
    act("a pair of internet sockets", || {
        let mut ends = [0i32; 2];
        outcome(call(libc::SYS_socketpair, &[word(libc::AF_INET), 1, 0, at(&mut ends)]))
    }),
    act("a time limit of sends", || {
        let pair = std::os::unix::net::UnixStream::pair();
        errno(pair.and_then(|(one, _)| one.set_write_timeout(Some(std::time::Duration::from_secs(1)))))
    }),
    act("listening", || outcome(call(libc::SYS_listen, &[word(-1), 1]))),
    act("binding", || match UnixListener::bind("/fastmap-no-such-folder/socket") {
        Ok(_) => "done".to_owned(),
        Err(error) => failed(error.raw_os_error().unwrap_or(0)),
    }),
    act("fork", || outcome(call(libc::SYS_clone, &[0; 1]))),
    act("clone3", || outcome(call(libc::SYS_clone3, &[]))),
    act("namespaces", || outcome(call(libc::SYS_unshare, &[word(libc::CLONE_FILES)]))),
    act("tracing", || outcome(call(libc::SYS_ptrace, &[word(libc::PTRACE_DETACH as i32)]))),
    act("holding a process", || outcome(call(libc::SYS_pidfd_open, &[std::process::id() as usize, 0]))),
    act("limits of its own", || outcome(call(libc::SYS_setrlimit, &[libc::RLIMIT_CORE as usize, 0]))),
    act("another user", || outcome(call(libc::SYS_setresuid, &[word(-1), word(-1), word(-1)]))),
    act("real time", || {
        let mut usual = [0i32; 1];
        outcome(call(libc::SYS_sched_setscheduler, &[0, word(libc::SCHED_FIFO), at(&mut usual)]))
    }),
    act("another process group's priority", || {
        outcome(call(libc::SYS_setpriority, &[libc::PRIO_PGRP as usize, 0, 0]))
    }),
    act("watching files", || outcome(call(libc::SYS_inotify_init1, &[0]))),
    act("a request of a terminal", || {
        outcome(call(libc::SYS_ioctl, &[1, libc::TIOCSTI as usize, at(&mut b'x')]))
    }),
    act("signals by way of a pipe", || {
        let Ok((reader, _writer)) = io::pipe() else { return "no pipe".to_owned() };
        let fd = std::os::fd::AsRawFd::as_raw_fd(&reader);
        outcome(call(libc::SYS_fcntl, &[word(fd), word(libc::F_SETOWN), std::process::id() as usize]))
    }),
    act("shared memory by a key", || outcome(call(libc::SYS_shmget, &[0, 0, 0]))),
    act("message queues", || outcome(call(libc::SYS_mq_open, &[]))),
    act("io_uring", || outcome(call(libc::SYS_io_uring_setup, &[1, 0]))),
    act("performance counters", || outcome(call(libc::SYS_perf_event_open, &[0, 0, word(-1), word(-1), 0]))),
    act("filters of its own", || outcome(call(libc::SYS_seccomp, &[word(-1), 0, 0]))),
    act("personality", || outcome(call(libc::SYS_personality, &[word(-1)]))),
    act("keys of the kernel", || outcome(call(libc::SYS_keyctl, &[0, word(-3), 0]))),
    act("mounting", || outcome(call(libc::SYS_mount, &[]))),
    act("the clock", || outcome(call(libc::SYS_clock_settime, &[word(-1), 0]))),
    act("splice", || outcome(call(libc::SYS_splice, &[word(-1), 0, word(-1), 0, 0, 0]))),
    act("sendfile", || outcome(call(libc::SYS_sendfile, &[word(-1), word(-1), 0, 0]))),
    act("copy_file_range", || outcome(call(libc::SYS_copy_file_range, &[word(-1), 0, word(-1), 0, 0, 0]))),
    act("placement of memory", || outcome(call(libc::SYS_get_mempolicy, &[0, 0, 0, 0, 0]))),
    act("asynchronous files", || outcome(call(libc::SYS_io_setup, &[0, 0]))),
    act("Landlock", || outcome(call(libc::SYS_landlock_create_ruleset, &[0, 0, 1]))),
    act("openat2", || outcome(call(libc::SYS_openat2, &[]))),
    act("a call of the future", || outcome(call(FUTURE, &[]))),
];
