//! Processes: starting them, and reaching into those that are there.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::Control::{Past, RootPast, Works};
use crate::scene::Scene;
use crate::{Confined, Probe, call, probe, result};

/// Waits for the child of a call that starts one, in which nothing runs but its end.
fn reap(child: i64) -> io::Result<()> {
    if child == 0 {
        // SAFETY: ends this process, which shares nothing with its parent.
        unsafe { libc::_exit(0) };
    }
    result(child)?;
    // SAFETY: waits for a child; its status is not asked for.
    result(i64::from(unsafe { libc::waitpid(child as i32, std::ptr::null_mut(), 0) }))
}

fn host_limits(scene: &Scene, set: bool) -> io::Result<()> {
    let mut limits = [0u64; 2];
    let nothing = std::ptr::null_mut::<[u64; 2]>();
    call!(libc::SYS_prlimit64, scene.host, libc::RLIMIT_CORE, nothing, &raw mut limits)?;
    if !set {
        return Ok(());
    }
    call!(libc::SYS_prlimit64, scene.host, libc::RLIMIT_CORE, &raw const limits, nothing)
}

/// One word here, one there.
fn vectors(scene: &Scene, word: &mut u64) -> (libc::iovec, libc::iovec) {
    let here = libc::iovec { iov_base: std::ptr::from_mut(word).cast(), iov_len: 8 };
    (here, libc::iovec { iov_base: std::ptr::with_exposed_provenance_mut(scene.word), iov_len: 8 })
}

const SIGNAL: i32 = 0;

pub(crate) const PROBES: &[Probe] = &[
    // SAFETY: this process has one thread (confined: and one that holds no lock), and the child ends at once.
    probe("fork", "clone", Works, |_| reap(i64::from(unsafe { libc::fork() }))),
    #[cfg(target_arch = "x86_64")]
    probe("fork, the old call", "fork", Works, |_| {
        // SAFETY: as for `fork`.
        reap(unsafe { libc::syscall(libc::SYS_fork) })
    }),
    #[cfg(target_arch = "x86_64")]
    probe("vfork", "vfork", Works, |_| {
        let mut child: i64 = libc::SYS_vfork;
        // SAFETY: the child, which runs on this stack, touches none of it: it ends by the next instructions.
        unsafe {
            std::arch::asm!(
                "syscall", "test rax, rax", "jnz 2f", "mov eax, 60", "xor edi, edi", "syscall", "2:",
                inout("rax") child, out("rcx") _, out("r11") _, out("rdi") _,
            );
        }
        if child < 0 { Err(io::Error::from_raw_os_error(-child as i32)) } else { reap(child) }
    }),
    probe("start a program (posix_spawn)", "clone", Works, |_| Command::new("/bin/true").status().map(drop)),
    probe("start a program through a shell", "clone", Works, |_| {
        Command::new("/bin/sh").args(["-c", "exit 0"]).status().map(drop)
    }),
    probe("become another program", "execve", Past(&[libc::ENOENT]), |_| {
        Err(Command::new("/fastmap/no/such/program").exec())
    }),
    probe("become another program by descriptor", "execveat", Past(&[libc::ENOENT]), |_| {
        let nothing = std::ptr::null::<u8>();
        call!(libc::SYS_execveat, libc::AT_FDCWD, c"/fastmap/no/such/program".as_ptr(), nothing, nothing, 0)
    }),
    probe("clone a process", "clone", Works, |_| {
        // SAFETY: as for `fork`.
        reap(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) })
    }),
    probe("clone into namespaces", "clone", Past(&[libc::EINVAL]), |_| {
        // These flags exclude each other: no kernel obeys.
        call!(libc::SYS_clone, libc::CLONE_THREAD | libc::CLONE_NEWPID, 0, 0, 0, 0)
    }),
    Probe {
        confined: Confined::Absent,
        ..probe("clone3", "clone3", Past(&[libc::EINVAL]), |_| {
            call!(libc::SYS_clone3, std::ptr::null::<u8>(), 0)
        })
    },
    probe("signal to the host", "kill", Works, |scene| call!(libc::SYS_kill, scene.host, SIGNAL)),
    probe("signal to the process group", "kill", Works, |_| call!(libc::SYS_kill, 0, SIGNAL)),
    probe("signal to all", "kill", Works, |_| call!(libc::SYS_kill, -1, SIGNAL)),
    probe("signal to a thread of the host", "tgkill", Works, |scene| {
        call!(libc::SYS_tgkill, scene.host, scene.host, SIGNAL)
    }),
    probe("signal to a thread of the host, the old call", "tkill", Works, |scene| {
        call!(libc::SYS_tkill, scene.host, SIGNAL)
    }),
    probe("queued signal to the host", "rt_sigqueueinfo", Works, |scene| {
        // Number, error, and the code of `sigqueue`.
        let mut info = [0i32; 32];
        info[2] = libc::SI_QUEUE;
        call!(libc::SYS_rt_sigqueueinfo, scene.host, SIGNAL, &raw const info)
    }),
    probe("signal by way of a pipe", "fcntl", Works, |scene| {
        let (reader, _writer) = io::pipe()?;
        call!(libc::SYS_fcntl, std::os::fd::AsRawFd::as_raw_fd(&reader), libc::F_SETOWN, scene.host)
    }),
    probe("hold the host (pidfd_open)", "pidfd_open", Works, |scene| {
        call!(libc::SYS_pidfd_open, scene.host, 0)
    }),
    probe("signal by pidfd", "pidfd_send_signal", Past(&[libc::EBADF]), |_| {
        call!(libc::SYS_pidfd_send_signal, -1, SIGNAL, std::ptr::null::<u8>(), 0)
    }),
    probe("take a descriptor of another process", "pidfd_getfd", Past(&[libc::EBADF]), |_| {
        call!(libc::SYS_pidfd_getfd, -1, 0, 0)
    }),
    probe("trace the host", "ptrace", Past(&[libc::EIO, libc::ESRCH]), |_| {
        // A process that can't be.
        call!(libc::SYS_ptrace, libc::PTRACE_SEIZE, i32::MAX, 0, 0)
    }),
    probe("be traced", "ptrace", Works, |_| call!(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0)),
    probe("read the host's memory", "process_vm_readv", Works, |scene| {
        let mut word = 0;
        let (here, there) = vectors(scene, &mut word);
        call!(libc::SYS_process_vm_readv, scene.host, &raw const here, 1, &raw const there, 1, 0)
    }),
    probe("write to the host's memory", "process_vm_writev", Past(&[libc::EFAULT]), |scene| {
        let mut word = 1;
        let (here, there) = vectors(scene, &mut word);
        // It lies in memory that is read only: the kernel tries.
        call!(libc::SYS_process_vm_writev, scene.host, &raw const here, 1, &raw const there, 1, 0)
    }),
    probe(
        "advise on another process's memory",
        "process_madvise",
        Past(&[libc::EBADF, libc::EINVAL]),
        |_| call!(libc::SYS_process_madvise, -1, std::ptr::null::<u8>(), 0, libc::MADV_COLD, 0),
    ),
    probe("compare with the host", "kcmp", Works, |scene| {
        call!(libc::SYS_kcmp, std::process::id(), scene.host, 0, 0, 1)
    }),
    probe("set limits of the host", "prlimit64", Works, |scene| host_limits(scene, true)),
    probe("set own limits", "prlimit64", Works, |_| {
        let limit = libc::rlimit { rlim_cur: 0, rlim_max: libc::RLIM_INFINITY };
        let mut now = limit;
        // SAFETY: both stand here.
        unsafe {
            libc::getrlimit(libc::RLIMIT_CORE, &raw mut now);
            result(i64::from(libc::setrlimit(libc::RLIMIT_CORE, &raw const now)))
        }
    }),
    probe("set own limits, the old call", "setrlimit", Past(&[libc::EFAULT]), |_| {
        call!(libc::SYS_setrlimit, libc::RLIMIT_CORE, std::ptr::null::<u8>())
    }),
    probe("move the host's pages", "migrate_pages", Past(&[libc::ESRCH, libc::EINVAL]), |_| {
        call!(libc::SYS_migrate_pages, i32::MAX, 0, std::ptr::null::<u8>(), std::ptr::null::<u8>())
    }),
    // To what it is.
    probe("become another user", "setresuid", Works, |_| call!(libc::SYS_setresuid, -1, -1, -1)),
    probe("become another group", "setresgid", Works, |_| call!(libc::SYS_setresgid, -1, -1, -1)),
    probe("set groups", "setgroups", RootPast(&[libc::EINVAL]), |_| {
        call!(libc::SYS_setgroups, i32::MAX, std::ptr::null::<u8>())
    }),
    probe("set capabilities", "capset", Past(&[libc::EFAULT]), |_| {
        call!(libc::SYS_capset, std::ptr::null::<u8>(), std::ptr::null::<u8>())
    }),
];
