//! The lists: which system calls are refused, as data. Read by `seccomp`, which makes filters of them, and by
//! `refusal`, which finds their names.

/// A system call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) number: i64,
    pub(crate) name: &'static str,
    /// Which of its arguments is a path worth telling.
    pub(crate) path: Option<usize>,
}

macro_rules! calls {
    ($($call:ident $(($path:literal))?)*) => {
        &[$(Call {
            number: libc::$call,
            name: stringify!($call).split_at("SYS_".len()).1,
            path: calls!(@path $($path)?),
        }),*]
    };
    (@path) => { None };
    (@path $path:literal) => { Some($path) };
}

const fn call(number: i64, name: &'static str, path: usize) -> Call {
    Call { number, name, path: Some(path) }
}

/// Refused whatever their arguments.
pub(crate) const REFUSED: &[&[Call]] = &[
    // Other processes.
    calls! {
        SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_process_madvise SYS_process_mrelease SYS_pidfd_open
        SYS_pidfd_getfd SYS_pidfd_send_signal SYS_kcmp SYS_move_pages SYS_migrate_pages
    },
    // Network, and talking to services of this machine.
    calls! {
        SYS_socket SYS_socketpair SYS_connect SYS_bind SYS_listen SYS_accept SYS_accept4
        SYS_shmget SYS_shmat SYS_shmctl SYS_semget SYS_semop SYS_semtimedop SYS_semctl
        SYS_msgget SYS_msgsnd SYS_msgrcv SYS_msgctl SYS_mq_open SYS_mq_unlink
    },
    // Changes to files, and ways to them that Landlock does not watch.
    calls! {
        SYS_mknodat(1) SYS_symlinkat(0) SYS_fchown SYS_fchownat(1)
        SYS_setxattr(0) SYS_lsetxattr(0) SYS_fsetxattr SYS_removexattr(0) SYS_lremovexattr(0) SYS_fremovexattr
        SYS_inotify_add_watch(1) SYS_fanotify_init SYS_fanotify_mark SYS_name_to_handle_at(1)
        SYS_open_by_handle_at SYS_chroot(0) SYS_acct(0) SYS_quotactl SYS_lookup_dcookie
    },
    // The same numbers on all machines; too new for some versions of libc.
    &[
        call(452, "fchmodat2", 1),
        call(463, "setxattrat", 1),
        call(466, "removexattrat", 1),
        call(467, "open_tree_attr", 1),
        call(469, "file_setattr", 1),
    ],
    // Mounts and namespaces.
    calls! {
        SYS_mount SYS_umount2 SYS_pivot_root SYS_unshare SYS_setns SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fspick
        SYS_move_mount SYS_open_tree SYS_mount_setattr
    },
    // Parts of the kernel that a computation has no use for, and that were its weak spots before.
    calls! {
        SYS_keyctl SYS_add_key SYS_request_key SYS_bpf SYS_perf_event_open SYS_io_uring_setup SYS_io_uring_enter
        SYS_io_uring_register SYS_userfaultfd SYS_personality SYS_nfsservctl SYS_vhangup
    },
    &[Call { number: 447, name: "memfd_secret", path: None }],
    // The machine.
    calls! {
        SYS_init_module SYS_finit_module SYS_delete_module SYS_kexec_load SYS_reboot SYS_swapon SYS_swapoff
        SYS_sethostname SYS_setdomainname SYS_syslog SYS_settimeofday SYS_clock_settime SYS_adjtimex SYS_clock_adjtime
    },
    // Who this process is, and its limits.
    calls! {
        SYS_setuid SYS_setgid SYS_setreuid SYS_setregid SYS_setresuid SYS_setresgid SYS_setfsuid SYS_setfsgid
        SYS_setgroups SYS_capset SYS_setrlimit
    },
    MACHINE,
];

/// Only on this kind of machine.
#[cfg(target_arch = "x86_64")]
const MACHINE: &[Call] = calls! {
    SYS_mknod(0) SYS_symlink(0) SYS_chown(0) SYS_lchown(0) SYS_utime(0) SYS_utimes(0) SYS_futimesat(1)
    SYS_kexec_file_load SYS_iopl SYS_ioperm SYS_modify_ldt
};
/// Only on this kind of machine.
#[cfg(target_arch = "aarch64")]
const MACHINE: &[Call] = &[Call { number: 294, name: "kexec_file_load", path: None }];

/// Refused with some arguments only; which, says `seccomp`.
pub(crate) const SOMETIMES: &[Call] = calls! {
    SYS_kill SYS_tkill SYS_tgkill SYS_rt_sigqueueinfo SYS_rt_tgsigqueueinfo SYS_prlimit64 SYS_ioctl SYS_fcntl
};

/// Opening files, and changing them: decided by `files`, which opens and changes for the function what it
/// may.
pub(crate) const FILES: &[&[Call]] = &[
    calls! {
        SYS_openat(1) SYS_truncate(0) SYS_mkdirat(1) SYS_unlinkat(1) SYS_linkat(1) SYS_renameat(1)
        SYS_renameat2(1) SYS_fchmod SYS_fchmodat(1) SYS_utimensat(1)
    },
    #[cfg(target_arch = "x86_64")]
    calls! {
        SYS_open(0) SYS_creat(0) SYS_mkdir(0) SYS_rmdir(0) SYS_unlink(0) SYS_link(0) SYS_rename(0)
        SYS_chmod(0)
    },
];

/// Looking at a file by a path from the working folder or the root: asked of `files` where the worker has
/// files of its own, for the path may lead to one of these.
pub(crate) const LOOKING: &[Call] = calls! {
    SYS_newfstatat(1) SYS_statx(1) SYS_faccessat(1) SYS_faccessat2(1) SYS_readlinkat(1)
};
/// The same; only on this kind of machine, and without a folder's descriptor.
#[cfg(target_arch = "x86_64")]
pub(crate) const LOOKING_HERE: &[Call] = calls! { SYS_stat(0) SYS_lstat(0) SYS_access(0) SYS_readlink(0) };
/// The same; not on this kind of machine.
#[cfg(target_arch = "aarch64")]
pub(crate) const LOOKING_HERE: &[Call] = &[];

/// These start a process, or another program in this one. (`clone` starts threads as well.)
#[cfg(target_arch = "x86_64")]
pub(crate) const PROCESSES: &[Call] = calls! { SYS_clone SYS_execve(0) SYS_execveat(1) SYS_fork SYS_vfork };
/// These start a process, or another program in this one. (`clone` starts threads as well.)
#[cfg(target_arch = "aarch64")]
pub(crate) const PROCESSES: &[Call] = calls! { SYS_clone SYS_execve(0) SYS_execveat(1) };

/// Said not to exist: what they do stands in memory, where a filter can't look. Callers fall back to `clone` and
/// `openat`.
pub(crate) const ABSENT: &[Call] = calls! { SYS_clone3 SYS_openat2 };

/// What a call of that number is called.
pub(crate) fn find(number: i64) -> Option<&'static Call> {
    let lists = REFUSED.iter().chain(FILES).copied().chain([SOMETIMES, PROCESSES]);
    lists.flatten().find(|call| call.number == number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_stands_in_one_list_and_has_its_name() {
        let lists = REFUSED.iter().chain(FILES).copied();
        let lists = lists.chain([SOMETIMES, LOOKING, LOOKING_HERE, PROCESSES, ABSENT]);
        let mut numbers: Vec<i64> = lists.flatten().map(|call| call.number).collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count);
        assert_eq!(find(libc::SYS_openat).map(|call| call.name), Some("openat"));
        assert_eq!(find(libc::SYS_read).map(|call| call.name), None);
    }
}
