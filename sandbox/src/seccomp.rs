//! The filters, made of the lists in `calls`. Called by `confine`; calls the crate `seccompiler`, and the kernel itself
//! where the library has no word for it.
//!
//! Three, of which the strictest answer counts: what does not exist here (ENOSYS), what starts a process (asked
//! of `attendant`), what is refused (a signal, to `handler`).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule, sock_filter,
};

use crate::calls::{ABSENT, OPENING, PROCESSES, REFUSED, SOMETIMES};
use crate::{attendant, handler};

/// Stands as sixth argument of `openat`, which has four, where the handler opens for the function: so Landlock is asked, and
/// its answer is known. No secret: to know it is to be asked by Landlock alone, for reading.
pub(crate) const ASKED: u64 = 0x6661_7374_6d61_7000;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Whether this kernel has filters that raise signals.
pub(crate) fn available() -> io::Result<()> {
    let action = libc::SECCOMP_RET_TRAP;
    // SAFETY: the kernel reads the action, which is there.
    match unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Confines all threads of this process.
pub(crate) fn install() -> io::Result<()> {
    // SAFETY: sets a flag of this process; the unused arguments are zero, as they have to be.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    handler::install()?;
    set(&absent(), 0)?;
    // Before the refusals: the thread that attends to it can't be made of a call that is refused, but its descriptor
    // is to be the only one.
    let listener = set_listener(&asked(processes()?)?);
    match listener {
        Ok(listener) => attendant::start(listener)?,
        // Another filter of this process has a listener, or the kernel is older than 5.7: refused without a record.
        Err(_) => drop(set(&program(processes()?, SeccompAction::Errno(libc::EPERM as u32))?, 0)?),
    }
    set(&program(refused()?, SeccompAction::Trap)?, 0).map(drop)
}

/// What is not on the list is allowed.
fn program(rules: Rules, action: SeccompAction) -> io::Result<BpfProgram> {
    let target = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    SeccompFilter::new(rules, SeccompAction::Allow, action, target)
        .and_then(TryInto::try_into)
        .map_err(io::Error::other)
}

/// Installs a filter in all threads; the descriptor, if one was asked for.
fn set(program: &BpfProgram, flags: libc::c_ulong) -> io::Result<i32> {
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut().cast() };
    let flags = flags | libc::SECCOMP_FILTER_FLAG_TSYNC;
    // SAFETY: the kernel copies the filter, which is there, as long as it says, and of the kernel's own layout.
    let set =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    match set {
        0.. if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 || set == 0 => Ok(set as i32),
        0.. => Err(io::Error::other(format!("thread {set} has filters of its own"))),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set_listener(program: &BpfProgram) -> io::Result<OwnedFd> {
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
    let listener = set(program, flags)?;
    // SAFETY: the kernel has just made it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(listener) })
}

/// The library knows no action for a listener: it is put in the place of another.
fn asked(rules: Rules) -> io::Result<BpfProgram> {
    let mut program = program(rules, SeccompAction::Trace(0))?;
    for step in &mut program {
        if u32::from(step.code) == libc::BPF_RET && step.k == libc::SECCOMP_RET_TRACE {
            step.k = libc::SECCOMP_RET_USER_NOTIF;
        }
    }
    Ok(program)
}

/// Calls that are said not to exist, and x86-64's second numbering of all calls, by which a list can be got round. (Other
/// numberings, such as 32-bit programs have, end the process: the library sees to that.)
fn absent() -> BpfProgram {
    let step =
        |code: u32, yes: usize, no: u8, k: u32| sock_filter { code: code as u16, jt: yes as u8, jf: no, k };
    // The number of the call is the first of what a filter sees.
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    const SECOND_NUMBERING: u32 = 0x4000_0000;
    for (at, call) in ABSENT.iter().enumerate() {
        let to_end = ABSENT.len() - at + 1;
        program.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, to_end, 0, call.number as u32));
    }
    program.push(step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, 0, SECOND_NUMBERING));
    program.push(step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW));
    program.push(step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32));
    program
}

/// All that starts a process or a program; of `clone` what makes no thread, or a thread with namespaces of its own.
fn processes() -> io::Result<Rules> {
    let mut rules: Rules = PROCESSES.iter().map(|call| (call.number, Vec::new())).collect();
    let mut of_clone = vec![rule(0, Length::Dword, Is::MaskedEq(libc::CLONE_THREAD as u64), 0)?];
    for namespace in [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ] {
        of_clone.push(flag(0, namespace)?);
    }
    rules.insert(libc::SYS_clone, of_clone);
    Ok(rules)
}

fn refused() -> io::Result<Rules> {
    let mut rules: Rules =
        REFUSED.iter().copied().flatten().chain(OPENING).map(|call| (call.number, Vec::new())).collect();
    // Opening for reading only, and only by the handler. On x86-64 `open` comes to it as well, which calls `openat`.
    let mut of_openat = vec![rule(5, Length::Qword, Is::Ne, ASKED)?];
    for writing in WRITING {
        of_openat.push(flag(2, writing)?);
    }
    rules.insert(libc::SYS_openat, of_openat);
    for call in SOMETIMES {
        rules.insert(call.number, sometimes(call.number)?);
    }
    Ok(rules)
}

/// Flags of `openat` that ask for more than reading.
pub(crate) const WRITING: [i32; 4] = [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC];

/// With which arguments a call is refused that is allowed with others.
fn sometimes(number: i64) -> io::Result<Vec<SeccompRule>> {
    // Requests of `ioctl` that libc has not for all machines.
    const FS_IOC_FSSETXATTR: u64 = 0x401c_5820;
    const FS_IOC_SETFLAGS: u64 = 0x4008_6602;
    const TIOCLINUX: u64 = 0x541c;
    const FIOSETOWN: u64 = 0x8901;
    const SIOCSPGRP: u64 = 0x8902;
    const F_SETOWN_EX: u64 = 15;
    let any_of = |requests: &[u64]| {
        requests
            .iter()
            .map(|request| rule(1, Length::Dword, Is::Eq, *request))
            .collect::<io::Result<Vec<_>>>()
    };
    match number {
        // Signals: to this process alone, so that it can abort. (`tkill` names a thread, and the main one has the
        // number of the process.)
        libc::SYS_kill
        | libc::SYS_tkill
        | libc::SYS_tgkill
        | libc::SYS_rt_sigqueueinfo
        | libc::SYS_rt_tgsigqueueinfo => {
            Ok(vec![rule(0, Length::Dword, Is::Ne, u64::from(std::process::id()))?])
        }
        // Limits may be read.
        libc::SYS_prlimit64 => Ok(vec![rule(2, Length::Qword, Is::Ne, 0)?]),
        // Typing for the user at the terminal; attributes of files; signals by way of a descriptor.
        libc::SYS_ioctl => {
            any_of(&[libc::TIOCSTI, TIOCLINUX, FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR, FIOSETOWN, SIOCSPGRP])
        }
        libc::SYS_fcntl => any_of(&[libc::F_SETOWN as u64, F_SETOWN_EX]),
        other => unreachable!("call {other} has no rules"),
    }
}

fn rule(argument: u8, length: Length, is: Is, value: u64) -> io::Result<SeccompRule> {
    SeccompCondition::new(argument, length, is, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(io::Error::other)
}

fn flag(argument: u8, flag: i32) -> io::Result<SeccompRule> {
    let flag = u64::from(flag as u32);
    rule(argument, Length::Dword, Is::MaskedEq(flag), flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_filters_can_be_built() {
        for program in [
            absent(),
            asked(processes().expect("rules")).expect("a filter"),
            program(refused().expect("rules"), SeccompAction::Trap).expect("a filter"),
        ] {
            // BPF_MAXINSNS
            assert!(!program.is_empty() && program.len() <= 4096, "{}", program.len());
        }
    }

    #[test]
    fn each_call_with_rules_has_some() {
        for call in SOMETIMES {
            assert!(!sometimes(call.number).expect("rules").is_empty(), "{}", call.name);
        }
    }
}
