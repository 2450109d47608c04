//! The filters, made of the lists in `calls`. Called by `confine`; calls the crate `seccompiler`, and the kernel itself
//! where the library has no word for it.
//!
//! Three, of which the strictest answer counts: what is decided by the number of the call alone (a signal, to
//! `handler`, or ENOSYS), what by its arguments as well (a signal), what starts a process (asked of `attendant`).
//!
//! The first is a search tree of our own: the kernel runs a new filter once for each call that there is, and the library's
//! chain of comparisons takes it 0.4 ms for a list of this length, at the start of each worker.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule, sock_filter,
};

use crate::calls::{ABSENT, FILES, LOOKING, LOOKING_HERE, PROCESSES, REFUSED, SOMETIMES};
use crate::{attendant, handler, temporary};

/// Stands as sixth argument of a call that names a file, none of which has six, where `files` makes it for
/// the function: so Landlock is asked, and its answer is known. No secret: to know it is to be asked by
/// Landlock alone.
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
    set(&by_number(), 0)?;
    let asked = asked(processes()?)?;
    match set_listener(&asked) {
        Ok(listener) => attendant::start(listener)?,
        // Another filter of this process has a listener, or the kernel is older than 5.7: refused without a record.
        Err(_) => drop(set(&program(processes()?, SeccompAction::Errno(libc::EPERM as u32))?, 0)?),
    }
    set(&program(by_arguments()?, SeccompAction::Trap)?, 0)?;
    attendant::wait();
    Ok(())
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

/// x86-64's second numbering of all calls, by which a list can be got round. (Other numberings, such as 32-bit programs
/// have, end the process: the library's filters see to that.)
const SECOND_NUMBERING: u32 = 0x4000_0000;

/// What is refused, and what is said not to exist, whatever the arguments.
fn by_number() -> BpfProgram {
    let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    let refused = REFUSED.iter().copied().flatten().map(|call| (call.number as u32, libc::SECCOMP_RET_TRAP));
    let mut actions: BTreeMap<u32, u32> =
        refused.chain(ABSENT.iter().map(|call| (call.number as u32, absent))).collect();
    for number in actions.keys().copied().collect::<Vec<_>>() {
        actions.entry(number + 1).or_insert(libc::SECCOMP_RET_ALLOW);
    }
    actions.entry(0).or_insert(libc::SECCOMP_RET_ALLOW);
    actions.insert(SECOND_NUMBERING, absent);
    // From which number on which action holds.
    let mut ranges: Vec<(u32, u32)> = actions.into_iter().collect();
    ranges.dedup_by_key(|(_, action)| *action);
    // The number of the call is the first of what a filter sees.
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    search(&ranges, &mut program);
    program
}

/// Adds a search for the range in which the number lies.
fn search(ranges: &[(u32, u32)], program: &mut BpfProgram) {
    if let [(_, action)] = ranges {
        program.push(step(libc::BPF_RET | libc::BPF_K, 0, *action));
        return;
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let fork = program.len();
    program.push(step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, high[0].0));
    search(low, program);
    // A jump reaches 255 steps, which the test below sees to.
    program[fork].jt = (program.len() - fork - 1) as u8;
    search(high, program);
}

fn step(code: u32, yes: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: yes, jf: 0, k }
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

fn by_arguments() -> io::Result<Rules> {
    let mut rules = Rules::new();
    let not_asked = || SeccompCondition::new(5, Length::Qword, Is::Ne, ASKED).map_err(io::Error::other);
    let from_here = || {
        let here = libc::AT_FDCWD as u32;
        SeccompCondition::new(0, Length::Dword, Is::Eq, here.into()).map_err(io::Error::other)
    };
    let all = |conditions| SeccompRule::new(conditions).map(|rule| vec![rule]).map_err(io::Error::other);
    for call in FILES.iter().copied().flatten() {
        rules.insert(call.number, all(vec![not_asked()?])?);
    }
    if temporary::root().is_some() {
        for call in LOOKING_HERE {
            rules.insert(call.number, all(vec![not_asked()?])?);
        }
        for call in LOOKING {
            rules.insert(call.number, all(vec![from_here()?, not_asked()?])?);
        }
    }
    for call in SOMETIMES {
        rules.insert(call.number, sometimes(call.number)?);
    }
    Ok(rules)
}

/// Flags of `openat` that ask for more than reading (with them a file is made, or can be written to).
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
    use crate::calls::Call;

    #[test]
    fn all_filters_can_be_built() {
        for program in [
            by_number(),
            asked(processes().expect("rules")).expect("a filter"),
            program(by_arguments().expect("rules"), SeccompAction::Trap).expect("a filter"),
        ] {
            // BPF_MAXINSNS
            assert!(!program.is_empty() && program.len() <= 4096, "{}", program.len());
        }
    }

    /// What a filter that looks at the number alone says of it.
    fn decide(program: &BpfProgram, number: u32) -> u32 {
        let mut at = 1;
        loop {
            let step = &program[at];
            match u32::from(step.code) & 0x07 {
                libc::BPF_RET => return step.k,
                libc::BPF_JMP => at += 1 + usize::from(if number >= step.k { step.jt } else { step.jf }),
                other => panic!("a step of kind {other}"),
            }
        }
    }

    #[test]
    fn each_call_is_decided_as_its_list_says() {
        let program = by_number();
        let listed = |list: &[Call], number: u32| list.iter().any(|call| call.number == i64::from(number));
        for number in (0..1000).chain([SECOND_NUMBERING - 1]) {
            let wanted = if REFUSED.iter().any(|list| listed(list, number)) {
                libc::SECCOMP_RET_TRAP
            } else if listed(ABSENT, number) {
                libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32
            } else {
                libc::SECCOMP_RET_ALLOW
            };
            assert_eq!(decide(&program, number), wanted, "call {number}");
        }
        for number in [SECOND_NUMBERING, SECOND_NUMBERING + 57, u32::MAX] {
            assert_eq!(decide(&program, number), libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
        }
    }

    #[test]
    fn each_call_with_rules_has_some() {
        for call in SOMETIMES {
            assert!(!sometimes(call.number).expect("rules").is_empty(), "{}", call.name);
        }
    }
}
