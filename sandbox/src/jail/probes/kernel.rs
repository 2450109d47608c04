//! Probes of the kernel's interfaces, most of which only root may use. The arguments are invalid, so that
//! only the permission check is tested.

use std::io;

use crate::jail::probes::probe::{Probe, not_blocked, result};

/// Probe of one system call, with invalid arguments.
macro_rules! call {
    ($name:literal, $number:ident $(, $argument:expr)*) => {
        Probe {
            name: $name,
            // SAFETY: numbers, null pointers and constant strings. The call writes to no memory of this
            // process; if it is permitted, the kernel rejects its arguments.
            act: || not_blocked(unsafe { libc::syscall(libc::$number $(, $argument)*) }),
        }
    };
}

const NONE: *const libc::c_char = std::ptr::null();
const NOWHERE: *const libc::c_char = c"/none/none".as_ptr();

pub(super) const ALL: &[Probe] = &[
    call!("mount", SYS_mount, NONE, NOWHERE, c"tmpfs".as_ptr(), 0, NONE),
    call!("unmount", SYS_umount2, NOWHERE, 0),
    call!("change the root", SYS_chroot, NOWHERE),
    call!("swap the root", SYS_pivot_root, NOWHERE, NOWHERE),
    call!("open a file system", SYS_fsopen, c"none".as_ptr(), 0),
    call!("open a tree of mounts", SYS_open_tree, -1, NOWHERE, 0),
    call!("move a mount", SYS_move_mount, -1, NOWHERE, -1, NOWHERE, 0),
    call!("load a program into the kernel", SYS_bpf, -1, NONE, 0),
    call!("measure the machine", SYS_perf_event_open, NONE, 0, -1, -1, 0),
    call!("queue requests in rings", SYS_io_uring_setup, 0, NONE),
    call!("handle page faults", SYS_userfaultfd, -1),
    call!("use the kernel's keys", SYS_keyctl, 0, -1, 0),
    call!("add a key", SYS_add_key, NONE, NONE, NONE, 0, 0),
    call!("load a module", SYS_init_module, NONE, 0, NONE),
    call!("load a module by descriptor", SYS_finit_module, -1, NONE, 0),
    call!("unload a module", SYS_delete_module, c"none".as_ptr(), libc::O_NONBLOCK),
    call!("load another kernel", SYS_kexec_load, 0, 0, NONE, -1),
    call!("restart the machine", SYS_reboot, 0, 0, 0, NONE),
    call!("swap to a file", SYS_swapon, NOWHERE, 0),
    call!("stop swapping", SYS_swapoff, NOWHERE),
    call!("rename the machine", SYS_sethostname, NONE, -1),
    call!("read the kernel's log", SYS_syslog, 9, NONE, 0),
    call!("account for processes", SYS_acct, NOWHERE),
    call!("set quotas", SYS_quotactl, 0, NONE, 0, NONE),
    call!("set the clock", SYS_clock_settime, -1, NONE),
    call!("steer the clock", SYS_clock_adjtime, -1, NONE),
    call!("watch all files", SYS_fanotify_init, -1, 0),
    call!("share memory by key", SYS_shmget, 0, 0, 0),
    call!("make semaphores", SYS_semget, 0, -1, 0),
    call!("make message queues", SYS_mq_open, NONE, 0, 0, NONE),
    call!("change its personality", SYS_personality, 0xffff_ffff_u32),
    call!("compare processes", SYS_kcmp, -1, -1, 0, 0, 0),
    call!("filter its own calls anew", SYS_seccomp, -1, 0, NONE),
    call!("move pages", SYS_move_pages, -1, 0, NONE, NONE, NONE, 0),
    Probe { name: "type into the terminal", act: terminal },
];

fn terminal() -> io::Result<()> {
    let key = b'x';
    // SAFETY: the address of one byte, which is what the request reads.
    match result(unsafe { libc::ioctl(0, libc::TIOCSTI, &raw const key) }.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(error),
        _ => Ok(()),
    }
}
