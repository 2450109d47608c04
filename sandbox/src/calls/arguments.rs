//! Argument values by which the list distinguishes calls: flags, requests and options.

/// Marker in the sixth argument of calls that `path_calls` and the signal handler make for the function; none
/// of these calls has six arguments. The filter allows marked calls, so Landlock decides and its answer can
/// be recorded. The marker is not a secret: Landlock still applies to a function that uses it.
pub(crate) const MARKER: u64 = 0x6661_7374_6d61_7000;

/// Its type differs between C libraries.
pub(super) const PRIO_PROCESS: u32 = libc::PRIO_PROCESS as _;

/// Flags of `openat` for more than reading: they create a file, or allow writing.
pub(crate) const WRITING: [i32; 4] = [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC];

/// Flags of `clone` that create namespaces.
pub(super) const NAMESPACES: &[i32] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Types of connected socket pairs. A pair of datagram sockets is denied: each could send to any other such
/// socket of the machine, for example the system log's.
pub(super) const CONNECTED: &[u32] = &[
    libc::SOCK_STREAM as u32,
    (libc::SOCK_STREAM | libc::SOCK_CLOEXEC) as u32,
    (libc::SOCK_STREAM | libc::SOCK_NONBLOCK) as u32,
    (libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u32,
    libc::SOCK_SEQPACKET as u32,
    (libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC) as u32,
    (libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK) as u32,
    (libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u32,
];

/// The newer form of `TCGETS`, which some versions of libc lack.
const TCGETS2: u32 = 0x802c_542a;

/// Requests of `ioctl` on a terminal, a pipe, a socket or a descriptor that change nothing outside of the
/// process. The last two are for the local sandbox's notify thread; only that thread has a descriptor for
/// them.
pub(super) const REQUESTS: &[u32] = &[
    libc::TCGETS as u32,
    TCGETS2,
    libc::TIOCGWINSZ as u32,
    libc::TIOCGPGRP as u32,
    libc::TIOCOUTQ as u32,
    libc::FIONREAD as u32,
    libc::FIONBIO as u32,
    libc::FIOCLEX as u32,
    libc::FIONCLEX as u32,
    libc::SECCOMP_IOCTL_NOTIF_RECV as u32,
    libc::SECCOMP_IOCTL_NOTIF_SEND as u32,
];

/// Commands of `fcntl` that send signals to other processes, or that watch or delay access to shared files:
/// `F_SETOWN`, `F_SETOWN_EX`, `F_SETLEASE`, `F_NOTIFY`.
pub(super) const AFFECTING_OTHERS: &[u32] =
    &[libc::F_SETOWN as u32, 15, libc::F_SETLEASE as u32, libc::F_NOTIFY as u32];

/// Socket options. The send timeout is not among them: the host sets it on a socket that the worker has as
/// well. The second number of `SO_RCVTIMEO` (66) takes 64-bit times on all machines.
pub(super) const OPTIONS: &[u32] = &[libc::SO_LINGER as u32, libc::SO_RCVTIMEO as u32, 66];

/// Scheduling policies without real time, alone and with `SCHED_RESET_ON_FORK`.
pub(super) const NON_REAL_TIME: &[u32] = &[
    libc::SCHED_OTHER as u32,
    libc::SCHED_BATCH as u32,
    libc::SCHED_IDLE as u32,
    (libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK) as u32,
    (libc::SCHED_BATCH | libc::SCHED_RESET_ON_FORK) as u32,
    (libc::SCHED_IDLE | libc::SCHED_RESET_ON_FORK) as u32,
];

/// With this, ID 0 is the calling thread.
pub(super) const IOPRIO_WHO_PROCESS: u32 = 1;
