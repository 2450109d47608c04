//! The kernel: its administration, its less trodden paths, and ways of talking to other processes through it.

use crate::Control::{Past, RootPast, RootWorks, Works};
use crate::{Probe, call, probe};

/// No memory.
const NOTHING: *const u8 = std::ptr::null();
const NO_SUCH: *const std::ffi::c_char = c"/fastmap/no/such/path".as_ptr();

pub(crate) const PROBES: &[Probe] = &[
    probe("io_uring", "io_uring_setup", RootPast(&[libc::EFAULT, libc::EINVAL]), |_| {
        call!(libc::SYS_io_uring_setup, 1, NOTHING)
    }),
    probe("io_uring that is there", "io_uring_enter", Past(&[libc::EBADF, libc::EOPNOTSUPP]), |_| {
        call!(libc::SYS_io_uring_enter, -1, 0, 0, 0, NOTHING, 0)
    }),
    probe("bpf", "bpf", RootPast(&[libc::EINVAL, libc::EFAULT]), |_| call!(libc::SYS_bpf, 9999, NOTHING, 0)),
    probe("performance counters", "perf_event_open", RootPast(&[libc::EFAULT]), |_| {
        call!(libc::SYS_perf_event_open, NOTHING, 0, -1, -1, 0)
    }),
    probe("userfaultfd", "userfaultfd", RootPast(&[libc::EINVAL]), |_| {
        call!(libc::SYS_userfaultfd, u32::MAX)
    }),
    probe("secret memory", "memfd_secret", Past(&[libc::EINVAL]), |_| call!(447, u32::MAX)),
    probe("keys of the kernel", "keyctl", Works, |_| {
        // The id of this session's keyring, if it has one.
        call!(libc::SYS_keyctl, 0, -3, 1)
    }),
    probe("add a key", "add_key", Past(&[libc::EFAULT]), |_| {
        call!(libc::SYS_add_key, NOTHING, NOTHING, NOTHING, 0, 0)
    }),
    probe("request a key", "request_key", Past(&[libc::EFAULT]), |_| {
        call!(libc::SYS_request_key, NOTHING, NOTHING, NOTHING, 0)
    }),
    probe("personality", "personality", Works, |_| call!(libc::SYS_personality, u32::MAX)),
    probe("unshare", "unshare", Works, |_| call!(libc::SYS_unshare, libc::CLONE_FILES)),
    probe("unshare into a user namespace", "unshare", Past(&[libc::EINVAL]), |_| {
        // With a flag that there is not: no kernel obeys.
        call!(libc::SYS_unshare, libc::CLONE_NEWUSER | 1)
    }),
    probe("enter a namespace", "setns", Past(&[libc::EBADF]), |_| call!(libc::SYS_setns, -1, 0)),
    probe("mount", "mount", RootPast(&[libc::ENOENT, libc::ENODEV]), |_| {
        call!(libc::SYS_mount, NO_SUCH, NO_SUCH, c"tmpfs".as_ptr(), 0, NOTHING)
    }),
    probe("unmount", "umount2", RootPast(&[libc::ENOENT]), |_| call!(libc::SYS_umount2, NO_SUCH, 0)),
    probe("pivot_root", "pivot_root", RootPast(&[libc::ENOENT]), |_| {
        call!(libc::SYS_pivot_root, NO_SUCH, NO_SUCH)
    }),
    probe("chroot", "chroot", Past(&[libc::ENOENT]), |_| call!(libc::SYS_chroot, NO_SUCH)),
    probe("open a file system", "fsopen", RootPast(&[libc::ENODEV]), |_| {
        call!(libc::SYS_fsopen, c"fastmap".as_ptr(), 0)
    }),
    probe("take a mount", "open_tree", Past(&[libc::ENOENT]), |_| {
        call!(libc::SYS_open_tree, libc::AT_FDCWD, NO_SUCH, 0)
    }),
    probe("move a mount", "move_mount", RootPast(&[libc::ENOENT]), |_| {
        call!(libc::SYS_move_mount, libc::AT_FDCWD, NO_SUCH, libc::AT_FDCWD, NO_SUCH, 0)
    }),
    probe("attributes of a mount", "mount_setattr", Past(&[libc::EINVAL, libc::ENOENT]), |_| {
        call!(libc::SYS_mount_setattr, libc::AT_FDCWD, NO_SUCH, 0, NOTHING, 0)
    }),
    probe("load a module", "init_module", RootPast(&[libc::ENOEXEC, libc::EFAULT, libc::EINVAL]), |_| {
        call!(libc::SYS_init_module, NOTHING, 0, c"".as_ptr())
    }),
    probe("load a module from a file", "finit_module", RootPast(&[libc::EBADF]), |_| {
        call!(libc::SYS_finit_module, -1, c"".as_ptr(), 0)
    }),
    probe("unload a module", "delete_module", RootPast(&[libc::ENOENT]), |_| {
        call!(libc::SYS_delete_module, c"fastmap_no_such".as_ptr(), libc::O_NONBLOCK)
    }),
    probe("load another kernel", "kexec_load", RootPast(&[libc::EINVAL]), |_| {
        call!(libc::SYS_kexec_load, 0, 99_999, NOTHING, u64::from(u32::MAX))
    }),
    probe("restart the machine", "reboot", RootPast(&[libc::EINVAL]), |_| {
        // Without the magic numbers nothing happens.
        call!(libc::SYS_reboot, 0, 0, 0, 0)
    }),
    probe("swapon", "swapon", RootPast(&[libc::ENOENT]), |_| call!(libc::SYS_swapon, NO_SUCH, 0)),
    probe("swapoff", "swapoff", RootPast(&[libc::ENOENT]), |_| call!(libc::SYS_swapoff, NO_SUCH)),
    probe("name the machine", "sethostname", RootPast(&[libc::EINVAL]), |_| {
        call!(libc::SYS_sethostname, NOTHING, 9999)
    }),
    probe("name its domain", "setdomainname", RootPast(&[libc::EINVAL]), |_| {
        call!(libc::SYS_setdomainname, NOTHING, 9999)
    }),
    probe("kernel log, the call", "syslog", RootWorks, |_| call!(libc::SYS_syslog, 10, NOTHING, 0)),
    probe("set the clock", "clock_settime", Past(&[libc::EINVAL]), |_| {
        call!(libc::SYS_clock_settime, libc::CLOCK_MONOTONIC, NOTHING)
    }),
    probe("adjust the clock", "adjtimex", Past(&[libc::EFAULT]), |_| call!(libc::SYS_adjtimex, NOTHING)),
    probe("account for processes", "acct", RootPast(&[libc::ENOENT]), |_| call!(libc::SYS_acct, NO_SUCH)),
    probe("quotas", "quotactl", Past(&[libc::ENOENT, libc::EINVAL]), |_| {
        call!(libc::SYS_quotactl, 0x80_0007u32 << 8, NO_SUCH, 0, NOTHING)
    }),
    probe("type at the terminal", "ioctl", Past(&[libc::ENOTTY]), |_| {
        call!(libc::SYS_ioctl, 0, libc::TIOCSTI, c"x".as_ptr())
    }),
    probe("paste at the console", "ioctl", Past(&[libc::ENOTTY]), |_| {
        call!(libc::SYS_ioctl, 0, 0x541c, c"x".as_ptr())
    }),
    probe("type, with bits that the kernel cuts off", "ioctl", Past(&[libc::ENOTTY]), |_| {
        call!(libc::SYS_ioctl, 0, libc::TIOCSTI | 0xdead << 32, c"x".as_ptr())
    }),
    probe("shared memory of System V", "shmget", Past(&[libc::EINVAL]), |_| {
        call!(libc::SYS_shmget, libc::IPC_PRIVATE, 0, libc::IPC_CREAT)
    }),
    probe("attach shared memory", "shmat", Past(&[libc::EINVAL]), |_| call!(libc::SYS_shmat, -1, NOTHING, 0)),
    probe("semaphores of System V", "semget", Past(&[libc::EINVAL]), |_| {
        call!(libc::SYS_semget, libc::IPC_PRIVATE, -1, libc::IPC_CREAT)
    }),
    probe("messages of System V", "msgget", Past(&[libc::ENOENT]), |_| {
        call!(libc::SYS_msgget, 0x0fa5_73a9, 0)
    }),
    probe("send a message of System V", "msgsnd", Past(&[libc::EINVAL, libc::EFAULT]), |_| {
        call!(libc::SYS_msgsnd, -1, NOTHING, 0, 0)
    }),
    probe("message queues", "mq_open", Past(&[libc::ENOENT]), |_| {
        call!(libc::SYS_mq_open, c"fastmap-no-such".as_ptr(), libc::O_RDONLY, 0, NOTHING)
    }),
    #[cfg(target_arch = "x86_64")]
    probe("segments of memory", "modify_ldt", Works, |_| call!(libc::SYS_modify_ldt, 0, NOTHING, 0)),
    #[cfg(target_arch = "x86_64")]
    probe("ports of the machine", "ioperm", Past(&[libc::EINVAL]), |_| {
        call!(libc::SYS_ioperm, u64::from(u32::MAX), 1, 1)
    }),
    // The numbers of 32-bit programs: the list does not hold for them.
    #[cfg(target_arch = "x86_64")]
    Probe {
        confined: crate::Confined::Killed,
        ..probe("calls by the numbers of 32-bit programs", "", Works, |_| {
            let mut pid: u64 = 20;
            // SAFETY: `getpid`; a kernel without them ends the process.
            unsafe {
                std::arch::asm!("int 0x80", inout("rax") pid, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
            }
            assert_eq!(pid, u64::from(std::process::id()));
            Ok(())
        })
    },
];
