//! The list of system calls, in groups by purpose. A call is allowed in a jail only if it affects nothing
//! outside: no file, process or setting of the machine, and no memory that is not charged to the jail's
//! control group.
//!
//! Both sides give the same answer unless a group is made by [`apart`].

use Answer::{Absent, Allowed, Only, Refused, Skipped, UserNotif};
use Condition::{Exactly, Flag, Marked, NoFlag, NoneOf, OneOf, OwnPid};

use crate::calls::arguments::{
    AFFECTING_OTHERS, CONNECTED, IOPRIO_WHO_PROCESS, MARKER, NAMESPACES, NON_REAL_TIME, OPTIONS,
    PRIO_PROCESS, REQUESTS,
};
use crate::calls::syscall::{Answer, Call, Condition, Group};

macro_rules! calls {
    ($($call:ident $(($path:literal))?)*) => {
        &[$(Call {
            number: libc::$call,
            name: stringify!($call).split_at("SYS_".len()).1,
            path: calls!(@path $($path)?),
        }),*] as &[Call]
    };
    (@path) => { None };
    (@path $path:literal) => { Some($path) };
}

/// Calls that only x86-64 has; newer architectures have only their replacements.
#[cfg(target_arch = "x86_64")]
macro_rules! old {
    ($($calls:tt)*) => { calls! { $($calls)* } };
}
#[cfg(not(target_arch = "x86_64"))]
macro_rules! old {
    ($($calls:tt)*) => {
        &[] as &[Call]
    };
}

/// A call that some versions of libc lack. Its number is the same on all architectures.
const fn new(number: i64, name: &'static str) -> Call {
    Call { number, name, path: None }
}

const fn new_with_path(number: i64, name: &'static str, path: usize) -> Call {
    Call { number, name, path: Some(path) }
}

/// A group with the same answer on both sides.
const fn both(what: &'static str, answer: Answer, calls: &'static [&'static [Call]]) -> Group {
    Group { what, local: answer, jail: answer, calls }
}

/// A group whose answers differ by design.
const fn apart(what: &'static str, local: Answer, jail: Answer, calls: &'static [&'static [Call]]) -> Group {
    Group { what, local, jail, calls }
}

/// All groups of the list.
pub(crate) const LIST: &[Group] = &[
    // These access open descriptors only.
    both(
        "reading and writing what is open",
        Allowed,
        &[calls! {
            SYS_read SYS_write SYS_readv SYS_writev SYS_pread64 SYS_pwrite64 SYS_preadv SYS_pwritev
            SYS_preadv2 SYS_pwritev2 SYS_lseek SYS_ftruncate SYS_fallocate SYS_flock
        }],
    ),
    both(
        "descriptors, pipes, waiting for them",
        Allowed,
        &[
            calls! {
                SYS_close SYS_close_range SYS_dup SYS_dup3 SYS_pipe2 SYS_ppoll SYS_pselect6 SYS_epoll_create1
                SYS_epoll_ctl SYS_epoll_pwait SYS_epoll_pwait2 SYS_eventfd2 SYS_signalfd4 SYS_memfd_create
            },
            old! {
                SYS_dup2 SYS_pipe SYS_poll SYS_select SYS_epoll_create SYS_epoll_wait SYS_eventfd SYS_signalfd
            },
        ],
    ),
    both(
        "`fcntl`, but for signals to others, leases and watching",
        Only(&[NoneOf(1, AFFECTING_OTHERS)]),
        &[calls! { SYS_fcntl }],
    ),
    both(
        "`ioctl`: sizes and kinds of terminals, pipes and sockets",
        Only(&[OneOf(1, REQUESTS)]),
        &[calls! { SYS_ioctl }],
    ),
    // Only the few accessible files can be found.
    both(
        "looking at files and folders",
        Allowed,
        &[
            calls! {
                SYS_fstat SYS_getdents64 SYS_getcwd SYS_chdir SYS_fchdir SYS_umask SYS_statfs SYS_fstatfs
                SYS_getxattr SYS_lgetxattr SYS_fgetxattr SYS_listxattr SYS_llistxattr SYS_flistxattr
            },
            &[new(464, "getxattrat"), new(465, "listxattrat")],
            old! { SYS_getdents },
        ],
    ),
    // The path may lead to one of the worker's own files.
    apart(
        "looking at a file by its path: LOCAL at what the sandbox shows; CLOUD at what the jail has",
        Only(&[Marked(Some(0))]),
        Allowed,
        &[calls! {
            SYS_newfstatat(1) SYS_statx(1) SYS_faccessat(1) SYS_faccessat2(1) SYS_readlinkat(1)
        }],
    ),
    apart(
        "the same, by the old calls",
        Only(&[Marked(None)]),
        Allowed,
        &[old! { SYS_stat(0) SYS_lstat(0) SYS_access(0) SYS_readlink(0) }],
    ),
    apart(
        "opening and changing files: LOCAL reading what the sandbox shows; CLOUD what the jail has; the worker's \
         own files in `/tmp` and `/dev/shm`",
        // Only `path_calls` makes these calls, and records what Landlock denies.
        Only(&[Exactly(5, MARKER)]),
        Allowed,
        &[calls! {
            SYS_openat(1) SYS_truncate(0) SYS_mkdirat(1) SYS_unlinkat(1) SYS_linkat(1) SYS_renameat(1)
            SYS_renameat2(1) SYS_fchmod SYS_fchmodat(1) SYS_utimensat(1)
        }],
    ),
    // `path_calls` makes a newer call instead of each.
    apart(
        "the same, by the old calls",
        Refused,
        Allowed,
        &[old! {
            SYS_open(0) SYS_creat(0) SYS_mkdir(0) SYS_rmdir(0) SYS_unlink(0) SYS_link(0) SYS_rename(0)
            SYS_chmod(0)
        }],
    ),
    // No file is permanent. On a file of the machine these calls would affect its disk: `fsync` of a library
    // flushes the disk's cache, and advice drops pages that other processes use.
    both(
        "writing through to a disk, advice on files: nothing lasts",
        Skipped,
        &[calls! {
            SYS_fsync SYS_fdatasync SYS_sync_file_range SYS_syncfs SYS_sync SYS_fadvise64 SYS_readahead
        }],
    ),
    // Callers fall back to reading and writing. These calls move pages of files that all jails share, which
    // was a vulnerability before (CVE-2022-0847).
    both(
        "copying inside of the kernel",
        Absent,
        &[calls! { SYS_splice SYS_tee SYS_vmsplice SYS_sendfile SYS_copy_file_range }],
    ),
    // The process's own memory, charged to its control group. `msync` of a read-only file does nothing.
    both(
        "memory",
        Allowed,
        &[
            calls! {
                SYS_mmap SYS_munmap SYS_mremap SYS_mprotect SYS_madvise SYS_brk SYS_mincore SYS_msync
                SYS_mlock
                SYS_mlock2 SYS_munlock SYS_mlockall SYS_munlockall SYS_membarrier SYS_pkey_mprotect
                SYS_pkey_alloc SYS_pkey_free
            },
            &[new(453, "map_shadow_stack"), new(462, "mseal")],
        ],
    ),
    both(
        "threads and locks",
        Allowed,
        &[
            calls! {
                SYS_futex SYS_futex_waitv SYS_rseq SYS_set_robust_list SYS_get_robust_list SYS_set_tid_address
            },
            &[new(454, "futex_wake"), new(455, "futex_wait"), new(456, "futex_requeue")],
            old! { SYS_arch_prctl },
        ],
    ),
    // These affect where and when the process's own threads run, within its control group's CPU quota.
    both(
        "scheduling of the own threads",
        Allowed,
        &[calls! {
            SYS_sched_yield SYS_sched_getaffinity SYS_sched_setaffinity SYS_sched_getparam SYS_sched_setparam
            SYS_sched_getscheduler SYS_sched_getattr SYS_sched_get_priority_max SYS_sched_get_priority_min
            SYS_sched_rr_get_interval SYS_getcpu SYS_getpriority SYS_ioprio_get
        }],
    ),
    both(
        "the calling thread's priority",
        Only(&[OneOf(0, &[PRIO_PROCESS]), OneOf(1, &[0])]),
        &[calls! { SYS_setpriority }],
    ),
    both(
        "the calling thread's priority of input and output",
        Only(&[OneOf(0, &[IOPRIO_WHO_PROCESS]), OneOf(1, &[0])]),
        &[calls! { SYS_ioprio_set }],
    ),
    both(
        "scheduling without real time",
        Only(&[OneOf(1, NON_REAL_TIME)]),
        &[calls! { SYS_sched_setscheduler }],
    ),
    both(
        "clocks and timers",
        Allowed,
        &[
            calls! {
                SYS_clock_gettime SYS_clock_getres SYS_clock_nanosleep SYS_nanosleep SYS_gettimeofday
                SYS_times
                SYS_getitimer SYS_setitimer SYS_timer_create SYS_timer_settime SYS_timer_gettime
                SYS_timer_getoverrun SYS_timer_delete SYS_timerfd_create SYS_timerfd_settime
                SYS_timerfd_gettime
            },
            old! { SYS_time SYS_alarm },
        ],
    ),
    // A process can make a process group or session of its own, but can't leave the control group, which is
    // killed as a whole.
    both(
        "the process itself: ids, users, rights, usage",
        Allowed,
        &[
            calls! {
                SYS_getrandom SYS_getrusage SYS_getrlimit SYS_sysinfo SYS_uname SYS_getpid SYS_getppid
                SYS_gettid
                SYS_getuid SYS_geteuid SYS_getgid SYS_getegid SYS_getresuid SYS_getresgid SYS_getgroups
                SYS_getpgid SYS_getsid SYS_setpgid SYS_setsid SYS_capget SYS_prctl
            },
            old! { SYS_getpgrp },
        ],
    ),
    both("reading limits", Only(&[Exactly(2, 0)]), &[calls! { SYS_prlimit64 }]),
    both(
        "signals: taking them and waiting for them; the end",
        Allowed,
        &[
            calls! {
                SYS_rt_sigaction SYS_rt_sigprocmask SYS_rt_sigreturn SYS_rt_sigpending SYS_rt_sigsuspend
                SYS_rt_sigtimedwait SYS_sigaltstack SYS_restart_syscall SYS_exit SYS_exit_group SYS_wait4
                SYS_waitid
            },
            old! { SYS_pause },
            MACHINE_TRAPS,
        ],
    ),
    // Needed for `abort`. (`tkill` names a thread: the filter knows only the main one, and the handler checks
    // others with the kernel.) A jail's only other process is its init, which receives no signals from
    // inside.
    apart(
        "sending signals: LOCAL to the process itself; CLOUD has no other process",
        Only(&[OwnPid(0)]),
        Allowed,
        &[calls! { SYS_kill SYS_tkill SYS_tgkill SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo }],
    ),
    // A pair can communicate only with itself.
    both(
        "pairs of connected local sockets (`AF_UNIX`, stream or seqpacket)",
        Only(&[OneOf(0, &[libc::AF_UNIX as u32]), OneOf(1, CONNECTED)]),
        &[calls! { SYS_socketpair }],
    ),
    both(
        "sockets that are there",
        Allowed,
        &[calls! {
            SYS_recvfrom SYS_sendto SYS_recvmsg SYS_sendmsg SYS_recvmmsg SYS_sendmmsg SYS_getsockopt
            SYS_getsockname SYS_getpeername SYS_shutdown
        }],
    ),
    both(
        "`SO_LINGER` and `SO_RCVTIMEO` of a socket",
        Only(&[OneOf(1, &[libc::SOL_SOCKET as u32]), OneOf(2, OPTIONS)]),
        &[calls! { SYS_setsockopt }],
    ),
    // A worker connects to its host: LOCAL before it is confined, in a jail after that.
    apart(
        "sockets: CLOUD local ones, which find nothing but the host's",
        Refused,
        Only(&[OneOf(0, &[libc::AF_UNIX as u32])]),
        &[calls! { SYS_socket }],
    ),
    apart("connecting: the same", Refused, Allowed, &[calls! { SYS_connect }]),
    both(
        "being reached, and talking to services of this machine",
        Refused,
        &[calls! {
            SYS_bind SYS_listen SYS_accept SYS_accept4
            SYS_shmget SYS_shmat SYS_shmctl SYS_shmdt SYS_semget SYS_semop SYS_semtimedop SYS_semctl
            SYS_msgget SYS_msgsnd SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink SYS_mq_timedsend
            SYS_mq_timedreceive SYS_mq_notify SYS_mq_getsetattr
        }],
    ),
    apart(
        "starting threads",
        UserNotif(Some(&[Flag(0, libc::CLONE_THREAD), NoFlag(0, NAMESPACES)])),
        Only(&[Flag(0, libc::CLONE_THREAD), NoFlag(0, NAMESPACES)]),
        &[calls! { SYS_clone }],
    ),
    apart(
        "starting processes",
        UserNotif(None),
        Refused,
        &[calls! { SYS_execveat(1) }, old! { SYS_fork SYS_vfork }],
    ),
    // bubblewrap starts the worker after it has installed the filter.
    apart(
        "starting programs: CLOUD has none but the worker's own",
        UserNotif(None),
        Allowed,
        &[calls! { SYS_execve(0) }],
    ),
    both(
        "other processes",
        Refused,
        &[calls! {
            SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_process_madvise SYS_process_mrelease
            SYS_pidfd_open SYS_pidfd_getfd SYS_pidfd_send_signal SYS_kcmp SYS_move_pages SYS_migrate_pages
        }],
    ),
    // Changes to files, and access to files that Landlock does not check.
    both(
        "links, owners and times of files",
        Refused,
        &[
            calls! { SYS_symlinkat(0) SYS_fchown SYS_fchownat(1) },
            &[new_with_path(452, "fchmodat2", 1)],
            old! {
                SYS_symlink(0) SYS_chown(0) SYS_lchown(0) SYS_utime(0) SYS_utimes(0) SYS_futimesat(1)
            },
        ],
    ),
    both(
        "devices, attributes, watching, handles of files, quotas",
        Refused,
        &[
            calls! {
                SYS_mknodat(1) SYS_setxattr(0) SYS_lsetxattr(0) SYS_fsetxattr SYS_removexattr(0)
                SYS_lremovexattr(0) SYS_fremovexattr SYS_inotify_init1 SYS_inotify_add_watch(1)
                SYS_inotify_rm_watch SYS_fanotify_init SYS_fanotify_mark SYS_name_to_handle_at(1)
                SYS_open_by_handle_at SYS_chroot(0) SYS_acct(0) SYS_quotactl SYS_quotactl_fd
                SYS_lookup_dcookie
            },
            &[
                new_with_path(463, "setxattrat", 1),
                new_with_path(466, "removexattrat", 1),
                new_with_path(469, "file_setattr", 1),
            ],
            old! { SYS_mknod(0) SYS_inotify_init },
        ],
    ),
    both(
        "mounts and namespaces",
        Refused,
        &[
            calls! {
                SYS_mount SYS_umount2 SYS_pivot_root SYS_unshare SYS_setns SYS_fsopen SYS_fsconfig SYS_fsmount
                SYS_fspick SYS_move_mount SYS_open_tree SYS_mount_setattr
            },
            &[new_with_path(467, "open_tree_attr", 1), new(457, "statmount"), new(458, "listmount")],
        ],
    ),
    // Parts of the kernel that a computation does not need, and that had vulnerabilities before.
    both(
        "weak spots of the kernel",
        Refused,
        &[
            calls! {
                SYS_keyctl SYS_add_key SYS_request_key SYS_bpf SYS_perf_event_open SYS_io_uring_setup
                SYS_io_uring_enter SYS_io_uring_register SYS_userfaultfd SYS_personality SYS_seccomp
                SYS_nfsservctl SYS_vhangup
            },
            &[new(447, "memfd_secret")],
            old! { SYS_modify_ldt SYS_iopl SYS_ioperm },
        ],
    ),
    both(
        "the machine",
        Refused,
        &[calls! {
            SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load SYS_kexec_file_load SYS_reboot
            SYS_swapon SYS_swapoff SYS_sethostname SYS_setdomainname SYS_syslog SYS_settimeofday
            SYS_clock_settime SYS_adjtimex SYS_clock_adjtime
        }],
    ),
    both(
        "another user, more rights, other limits",
        Refused,
        &[calls! {
            SYS_setuid SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setfsuid
            SYS_setfsgid
            SYS_setgroups SYS_capset SYS_setrlimit SYS_sched_setattr
        }],
    ),
    // Their arguments are in memory, which a filter can't read. Callers fall back to `clone` and `openat`.
    both("calls whose older form does the same", Absent, &[calls! { SYS_clone3 SYS_openat2 }]),
    // As on a kernel without NUMA, without asynchronous I/O (whose requests are counted for the whole
    // machine) and without further security modules.
    both(
        "parts that kernels may lack",
        Absent,
        &[
            calls! {
                SYS_mbind SYS_set_mempolicy SYS_get_mempolicy SYS_set_mempolicy_home_node SYS_io_setup
                SYS_io_destroy SYS_io_getevents SYS_io_submit SYS_io_cancel SYS_remap_file_pages
                SYS_landlock_create_ruleset SYS_landlock_add_rule SYS_landlock_restrict_self
            },
            &[
                new(451, "cachestat"),
                new(459, "lsm_get_self_attr"),
                new(460, "lsm_set_self_attr"),
                new(461, "lsm_list_modules"),
                new(468, "file_getattr"),
            ],
            old! { SYS_ustat SYS_sysfs SYS_set_thread_area SYS_get_thread_area },
        ],
    ),
];

/// The kernel itself makes these calls, in place of an instruction that a tracer of the machine has replaced.
#[cfg(target_arch = "x86_64")]
const MACHINE_TRAPS: &[Call] = &[new(335, "uretprobe"), new(336, "uprobe")];
#[cfg(not(target_arch = "x86_64"))]
const MACHINE_TRAPS: &[Call] = &[];
