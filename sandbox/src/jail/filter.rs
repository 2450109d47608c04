//! The system calls that a jailed worker may make, as two seccomp filters that bubblewrap installs before it starts the
//! executable: a list of what is allowed, everything else fails with EPERM; and a short list of calls that fail with
//! ENOSYS, for which the C library has another way. Nothing kills: a refused call is the function's to report.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// Allowed whatever their arguments. The channel (sockets of its own kind, descriptors sent over it, shared memory),
/// memory, threads, clocks, reading the few files that exist, ending.
const ALLOWED: &[c_long] = &[
    // Bytes and descriptors.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_connect,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_lseek,
    libc::SYS_memfd_create,
    libc::SYS_ftruncate,
    // Reading files: there are few, and all are read-only but for those of the worker's own, see `FILES`.
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    // Memory.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_membarrier,
    // Threads.
    libc::SYS_futex,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_getcpu,
    // Time, chance, and who one is.
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_times,
    libc::SYS_timer_create,
    libc::SYS_timer_settime,
    libc::SYS_timer_delete,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_getrusage,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    // Signals: the process sees nobody but itself and the jail's own init, which takes none. A crash looks as it does
    // outside.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_kill,
    libc::SYS_tgkill,
    libc::SYS_restart_syscall,
    libc::SYS_prctl,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // bubblewrap starts the executable behind the filter, and its init waits there for the end. A worker that
    // starts its own executable anew is in the same jail as before, and so is one that starts a file that it
    // has written.
    libc::SYS_execve,
    libc::SYS_wait4,
];

/// Files of the worker's own, in its `/tmp` and `/dev/shm`: everything else is mounted read-only. A confined
/// local worker may do the same there, see `files`.
const FILES: &[c_long] = &[
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_linkat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_truncate,
    libc::SYS_fallocate,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_flock,
    libc::SYS_msync,
    libc::SYS_fadvise64,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
];

/// Calls that only this architecture has; the others have replaced them long ago.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    libc::SYS_creat,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_link,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_chmod,
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_wait,
    libc::SYS_dup2,
    libc::SYS_time,
    libc::SYS_getrlimit,
    libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[libc::SYS_renameat];

/// Newer ways of which the C library falls back to an allowed one when the kernel does not know them. `clone3` above
/// all: its flags stand in memory, where no filter can see them.
const UNKNOWN: &[c_long] =
    &[libc::SYS_clone3, libc::SYS_openat2, libc::SYS_pidfd_open, libc::SYS_io_uring_setup];

/// Of `ioctl`: is it a terminal, how wide, and the two flags of a descriptor.
const IOCTLS: &[u64] = &[libc::TCGETS, libc::TIOCGWINSZ, libc::FIONBIO, libc::FIOCLEX];

/// Both filters, as the kernel reads them.
#[derive(Clone, Debug)]
pub(crate) struct Filters(pub(crate) [Vec<u8>; 2]);

impl Filters {
    /// # Errors
    /// If this architecture is not known to the compiler of filters.
    pub(crate) fn compile() -> Result<Filters, seccompiler::BackendError> {
        Ok(Filters([bytes(&allowed()?), bytes(&unknown()?)]))
    }
}

fn allowed() -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> =
        ALLOWED.iter().chain(FILES).chain(OLDER).chain(UNKNOWN).map(|call| (*call, Vec::new())).collect();
    let only = |argument, value, operator| {
        SeccompRule::new(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?])
    };
    let equal = |argument, value| only(argument, value, SeccompCmpOp::Eq);
    let unix = libc::AF_UNIX as u64;
    rules.insert(libc::SYS_socket, vec![equal(0, unix)?]);
    rules.insert(libc::SYS_socketpair, vec![equal(0, unix)?]);
    // What ipc-channel sets. The host's timeout for sends is an option of a socket that the worker has, too.
    rules.insert(libc::SYS_setsockopt, vec![equal(2, libc::SO_LINGER as u64)?]);
    // Threads, not processes.
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![only(0, thread, SeccompCmpOp::MaskedEq(thread))?]);
    // The limits may be read: the new ones are given by address.
    let none = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![none])?]);
    let ioctls = IOCTLS.iter().map(|request| equal(1, *request)).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, ioctls);
    compile(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

fn unknown() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = UNKNOWN.iter().map(|call| (*call, Vec::new())).collect();
    compile(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))
}

fn compile(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    other: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    SeccompFilter::new(rules, other, listed, std::env::consts::ARCH.try_into()?)?.try_into()
}

fn bytes(program: &BpfProgram) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 * program.len());
    for step in program {
        bytes.extend_from_slice(&step.code.to_ne_bytes());
        bytes.extend_from_slice(&[step.jt, step.jf]);
        bytes.extend_from_slice(&step.k.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_are_whole_and_short_enough_for_the_kernel() {
        let Filters(filters) = Filters::compile().expect("an architecture that fastmap runs on");
        for filter in filters {
            assert_eq!(filter.len() % 8, 0);
            // BPF_MAXINSNS
            assert!((8..8 * 4096).contains(&filter.len()), "{}", filter.len());
        }
    }

    #[test]
    fn no_call_is_allowed_and_conditional_at_once() {
        for call in
            [libc::SYS_socket, libc::SYS_socketpair, libc::SYS_clone, libc::SYS_prlimit64, libc::SYS_ioctl]
        {
            assert!([ALLOWED, FILES, OLDER].iter().all(|list| !list.contains(&call)), "{call}");
        }
    }
}
