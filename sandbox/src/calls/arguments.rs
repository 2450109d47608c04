//! Values of arguments by which the list tells calls apart: flags, requests and options.

/// Stands as sixth argument of a call that names a file, none of which has six, where `path_calls` makes it for
/// the function: so Landlock is asked, and its answer is known. No secret: to know it is to be asked by
/// Landlock alone.
pub(crate) const ASKED: u64 = 0x6661_7374_6d61_7000;

/// A number of another type with each C library.
pub(super) const PRIO_PROCESS: u32 = libc::PRIO_PROCESS as _;

/// Flags of `openat` that ask for more than reading (with them a file is made, or can be written to).
pub(crate) const WRITING: [i32; 4] = [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC];

/// Flags of `clone` that ask for namespaces.
pub(super) const NAMESPACES: &[i32] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Connected sockets of a pair. A pair of datagram sockets is refused: each can send to any other such socket
/// of the machine, a system log's for example.
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
/// process. The last two are those of the local sandbox's own thread, which alone has a descriptor for them.
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

/// Commands of `fcntl` that send signals to others, or that watch or hold up files of others: `F_SETOWN`,
/// `F_SETOWN_EX`, `F_SETLEASE`, `F_NOTIFY`.
pub(super) const FOR_OTHERS: &[u32] =
    &[libc::F_SETOWN as u32, 15, libc::F_SETLEASE as u32, libc::F_NOTIFY as u32];

/// Options of a socket. Not the time limit of sends: the host sets it on a socket that the worker has as
/// well. The second number of `SO_RCVTIMEO` has times of 64 bits on all machines.
pub(super) const OPTIONS: &[u32] = &[libc::SO_LINGER as u32, libc::SO_RCVTIMEO as u32, 66];

/// Policies without real time, alone and with `SCHED_RESET_ON_FORK`.
pub(super) const ORDINARY: &[u32] = &[
    libc::SCHED_OTHER as u32,
    libc::SCHED_BATCH as u32,
    libc::SCHED_IDLE as u32,
    (libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK) as u32,
    (libc::SCHED_BATCH | libc::SCHED_RESET_ON_FORK) as u32,
    (libc::SCHED_IDLE | libc::SCHED_RESET_ON_FORK) as u32,
];

/// `IOPRIO_WHO_PROCESS`, with which 0 is the calling thread.
pub(super) const ONE_THREAD: u32 = 1;
