//! Compiles seccomp filters from the list in `calls`: pure functions from one side's answers to BPF programs.
//! Used by `seccomp`, which installs them in this process, and by `jail::filter`, which passes them to
//! bubblewrap.
//!
//! Each side has two filters: one decides by the call's number alone, the other by its arguments. The kernel
//! uses the stricter answer. The local sandbox has a third filter, for the calls that `notify_thread`
//! answers. In a jail these raise a signal, because the jail's own denial would take precedence over that
//! thread's answer.
//!
//! The first filter is a search tree, not compiled by the library. The kernel runs a new filter once for each
//! existing call. With the library's chain of comparisons that takes 0.4 ms for a list of this length, at the
//! start of each worker.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Length, SeccompCmpOp as Is,
    SeccompCondition, SeccompFilter, SeccompRule, sock_filter,
};

use crate::calls::{Answer, Condition, MARKER, Side, answers};
use crate::temporary;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Returns the kernel's action for a denied call.
fn refusal(side: Side) -> SeccompAction {
    match side {
        // A signal to `sigsys_handler`. In a jail it takes precedence over the error of the jail's own
        // filter.
        Side::Local | Side::Inside => SeccompAction::Trap,
        #[cfg(any(feature = "jail", test))]
        Side::Jail => SeccompAction::Errno(libc::EPERM as u32),
    }
}

/// Compiles the answers that do not depend on arguments. A number that is not on the list is a newer call, or
/// one of x86-64's second numbering (x32), which could evade a list: both get ENOSYS. (Other numberings, such
/// as that of 32-bit programs, kill the process, by the filters of [`by_arguments`].)
pub(crate) fn by_number(side: Side) -> BpfProgram {
    let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    let action = |answer: Answer| match answer {
        Answer::Refused => u32::from(refusal(side)),
        Answer::Absent => absent,
        Answer::Skipped => libc::SECCOMP_RET_ERRNO,
        Answer::Allowed | Answer::Only(_) | Answer::UserNotif(_) => libc::SECCOMP_RET_ALLOW,
    };
    let mut actions: BTreeMap<u32, u32> =
        answers(side).map(|(call, answer)| (call.number as u32, action(answer))).collect();
    for number in actions.keys().copied().collect::<Vec<_>>() {
        actions.entry(number + 1).or_insert(absent);
    }
    actions.entry(0).or_insert(absent);
    // The lowest number of each range with its action.
    let mut ranges: Vec<(u32, u32)> = actions.into_iter().collect();
    ranges.dedup_by_key(|(_, action)| *action);
    // The call's number is the first field of `struct seccomp_data`.
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    search(&ranges, &mut program);
    program
}

/// Adds a binary search for the number's range.
fn search(ranges: &[(u32, u32)], program: &mut BpfProgram) {
    if let [(_, action)] = ranges {
        program.push(step(libc::BPF_RET | libc::BPF_K, 0, *action));
        return;
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let fork = program.len();
    program.push(step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, high[0].0));
    search(low, program);
    // A jump offset is at most 255, which the test below checks.
    program[fork].jt = (program.len() - fork - 1) as u8;
    search(high, program);
}

fn step(code: u32, yes: u8, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: yes, jf: 0, k }
}

/// Compiles the denial of calls whose arguments break their conditions.
pub(crate) fn by_arguments(side: Side) -> Result<BpfProgram, BackendError> {
    let mut rules = Rules::new();
    for (call, answer) in answers(side) {
        match answer {
            Answer::Only(conditions) => {
                // An empty list of rules would match any arguments.
                let breaches = unless(conditions, side)?;
                if !breaches.is_empty() {
                    rules.insert(call.number, breaches);
                }
            }
            // Without rules it is a match whatever the arguments.
            Answer::UserNotif(conditions) if side == Side::Inside => {
                rules
                    .insert(call.number, conditions.map_or_else(|| Ok(Vec::new()), |all| unless(all, side))?);
            }
            _ => {}
        }
    }
    compile(rules, refusal(side))
}

/// Compiles a filter that routes calls to `sigsys_handler` which could block SIGSYS or replace its handler:
/// the kernel kills a process whose filter raises a blocked SIGSYS. (`posix_spawn`, `fork` and some
/// libraries' threads block all signals.) It is for the calling thread and the threads it starts; another
/// thread may have blocked the signal already.
pub(crate) fn protect_signal() -> Result<BpfProgram, BackendError> {
    let mut rules = Rules::new();
    let is = |argument, length, operator, value| SeccompCondition::new(argument, length, operator, value);
    // With a null pointer the call only reads the mask, or the handler.
    let changes = || is(1, Length::Qword, Is::Ne, 0);
    let not_marked = || is(5, Length::Qword, Is::Ne, MARKER);
    let unblocks = libc::SIG_UNBLOCK as u64;
    let mask = vec![changes()?, not_marked()?, is(0, Length::Dword, Is::Ne, unblocks)?];
    rules.insert(libc::SYS_rt_sigprocmask, vec![SeccompRule::new(mask)?]);
    rules.insert(libc::SYS_rt_sigaction, vec![SeccompRule::new(vec![changes()?, not_marked()?])?]);
    compile(rules, SeccompAction::Trap)
}

/// Compiles the calls that the local sandbox's notify thread answers. Without a listener they fail with
/// EPERM.
pub(crate) fn user_notif(listener: bool) -> Result<BpfProgram, BackendError> {
    let mut rules = Rules::new();
    for (call, answer) in answers(Side::Local) {
        if let Answer::UserNotif(conditions) = answer {
            // Without rules it is a match whatever the arguments.
            let unless = |all| unless(all, Side::Local);
            rules.insert(call.number, conditions.map_or_else(|| Ok(Vec::new()), unless)?);
        }
    }
    if !listener {
        return compile(rules, SeccompAction::Errno(libc::EPERM as u32));
    }
    // The library has no user-notification action: replace another action by it.
    let mut program = compile(rules, SeccompAction::Trace(0))?;
    for step in &mut program {
        if u32::from(step.code) == libc::BPF_RET && step.k == libc::SECCOMP_RET_TRACE {
            step.k = libc::SECCOMP_RET_USER_NOTIF;
        }
    }
    Ok(program)
}

/// Compiles a filter with `action` for calls that match a rule; all others are allowed.
fn compile(rules: Rules, action: SeccompAction) -> Result<BpfProgram, BackendError> {
    let target = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, action, target)?.try_into()
}

/// Returns rules that match unless all conditions hold.
fn unless(conditions: &[Condition], side: Side) -> Result<Vec<SeccompRule>, BackendError> {
    let mut rules = Vec::new();
    for condition in conditions {
        breaches(condition, side, &mut rules)?;
    }
    Ok(rules)
}

/// Adds rules that match if the condition does not hold.
fn breaches(condition: &Condition, side: Side, rules: &mut Vec<SeccompRule>) -> Result<(), BackendError> {
    let is = |argument, operator, value: u64| SeccompCondition::new(argument, Length::Dword, operator, value);
    let alone = |condition: SeccompCondition| SeccompRule::new(vec![condition]);
    match *condition {
        Condition::OneOf(argument, values) => {
            let none = values.iter().map(|value| is(argument, Is::Ne, u64::from(*value)));
            rules.push(SeccompRule::new(none.collect::<Result<_, _>>()?)?);
        }
        Condition::NoneOf(argument, values) => {
            for value in values {
                rules.push(alone(is(argument, Is::Eq, u64::from(*value))?)?);
            }
        }
        Condition::Exactly(argument, value) => {
            rules.push(alone(SeccompCondition::new(argument, Length::Qword, Is::Ne, value)?)?);
        }
        Condition::Flag(argument, flag) => {
            rules.push(alone(is(argument, Is::MaskedEq(u64::from(flag as u32)), 0)?)?);
        }
        Condition::NoFlag(argument, flags) => {
            for flag in flags {
                let flag = u64::from(*flag as u32);
                rules.push(alone(is(argument, Is::MaskedEq(flag), flag)?)?);
            }
        }
        Condition::Marked(folder) => {
            if side == Side::Inside || temporary::root().is_some() {
                let mut all = vec![SeccompCondition::new(5, Length::Qword, Is::Ne, MARKER)?];
                if let Some(argument) = folder {
                    all.push(is(argument, Is::Eq, u64::from(libc::AT_FDCWD as u32))?);
                }
                rules.push(SeccompRule::new(all)?);
            }
        }
        Condition::OwnPid(argument) => {
            rules.push(alone(is(argument, Is::Ne, u64::from(std::process::id()))?)?);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::find;

    const SIDES: [Side; 2] = [Side::Local, Side::Jail];

    /// Interprets a program for one call: the subset of the kernel's BPF machine that these filters need.
    fn decide(program: &BpfProgram, number: i64, arguments: [u64; 6]) -> u32 {
        let arch = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7_u32 };
        let mut data = vec![number as u32, arch, 0, 0];
        data.extend(arguments.iter().flat_map(|argument| [*argument as u32, (argument >> 32) as u32]));
        let (mut at, mut value) = (0, 0u32);
        loop {
            let step = &program[at];
            at += 1;
            let code = u32::from(step.code);
            match code & 0x07 {
                libc::BPF_LD => value = data[step.k as usize / 4],
                libc::BPF_ALU => value &= step.k,
                libc::BPF_RET => return step.k,
                libc::BPF_JMP if code & 0xf0 == libc::BPF_JA => at += step.k as usize,
                libc::BPF_JMP => {
                    let yes = match code & 0xf0 {
                        libc::BPF_JEQ => value == step.k,
                        libc::BPF_JGT => value > step.k,
                        libc::BPF_JGE => value >= step.k,
                        other => panic!("a jump of kind {other}"),
                    };
                    at += usize::from(if yes { step.jt } else { step.jf });
                }
                other => panic!("a step of kind {other}"),
            }
        }
    }

    /// The filters of one side, as the kernel combines them.
    struct Filters(Side, Vec<BpfProgram>);

    impl Filters {
        fn of(side: Side) -> Filters {
            let mut programs = vec![by_number(side), by_arguments(side).expect("rules")];
            if side == Side::Local {
                programs.push(user_notif(false).expect("rules"));
            }
            if side != Side::Jail {
                programs.push(protect_signal().expect("rules"));
            }
            Filters(side, programs)
        }

        /// Returns 0 if the call is allowed, else its error; `None` if it returns 0 without being executed.
        fn answer(&self, number: i64, arguments: [u64; 6]) -> Option<i32> {
            let answers = self.1.iter().map(|program| decide(program, number, arguments));
            // A trap takes precedence over an error; of two denials the first decides.
            let strictest = answers.min_by_key(|answer| answer & libc::SECCOMP_RET_ACTION_FULL).expect("one");
            match (strictest & libc::SECCOMP_RET_ACTION_FULL, strictest & libc::SECCOMP_RET_DATA) {
                (libc::SECCOMP_RET_ALLOW, _) => Some(0),
                (libc::SECCOMP_RET_TRAP, _) => Some(libc::EPERM),
                (libc::SECCOMP_RET_ERRNO, 0) => None,
                (libc::SECCOMP_RET_ERRNO, error) => Some(error as i32),
                (other, _) => panic!("{:?}: call {number} is answered by {other:#x}", self.0),
            }
        }
    }

    #[test]
    fn filters_are_short_enough_for_the_kernel() {
        for side in [Side::Local, Side::Inside, Side::Jail] {
            for program in
                [by_number(side), by_arguments(side).expect("rules"), user_notif(true).expect("rules")]
            {
                // BPF_MAXINSNS
                assert!(!program.is_empty() && program.len() <= 4096, "{}", program.len());
            }
        }
    }

    #[test]
    fn each_call_is_answered_as_its_list_says_and_unknown_ones_as_by_an_older_kernel() {
        const SECOND_NUMBERING: i64 = 0x4000_0000;
        for side in SIDES {
            let (program, listed) = (by_number(side), answers(side).collect::<Vec<_>>());
            for number in (0..1000).chain([SECOND_NUMBERING - 1, SECOND_NUMBERING, SECOND_NUMBERING + 57]) {
                let answer = listed.iter().find(|(call, _)| call.number == number).map(|(_, answer)| *answer);
                let wanted = match answer {
                    Some(Answer::Refused) => u32::from(refusal(side)),
                    Some(Answer::Skipped) => libc::SECCOMP_RET_ERRNO,
                    Some(Answer::Absent) | None => libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
                    Some(_) => libc::SECCOMP_RET_ALLOW,
                };
                assert_eq!(decide(&program, number, [0; 6]), wanted, "{side:?}: call {number}");
            }
        }
    }

    /// Intended differences, explained in docs/local-and-cloud.md: other processes, sockets, and the calls
    /// that `path_calls` makes.
    const APART: &[&str] = &[
        "connect",
        "execve",
        "fchmod",
        "fchmodat",
        "kill",
        "linkat",
        "mkdirat",
        "openat",
        "renameat",
        "renameat2",
        "rt_sigqueueinfo",
        "rt_tgsigqueueinfo",
        "socket",
        "tgkill",
        "tkill",
        "truncate",
        "unlinkat",
        "utimensat",
    ];
    #[cfg(target_arch = "x86_64")]
    const OLD_APART: &[&str] = &["chmod", "creat", "link", "mkdir", "open", "rename", "rmdir", "unlink"];
    #[cfg(not(target_arch = "x86_64"))]
    const OLD_APART: &[&str] = &[];
    /// Lookups by path. A jailed worker's own filter routes them to `path_calls`; a local one does so if the
    /// worker has files of its own.
    const LOOKUPS_BY_PATH: &[i64] = &[
        libc::SYS_newfstatat,
        libc::SYS_statx,
        libc::SYS_faccessat,
        libc::SYS_faccessat2,
        libc::SYS_readlinkat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_stat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lstat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_access,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_readlink,
    ];
    /// These differ only if the worker has files of its own, which another test in this process may have
    /// made.
    const OLD_LOOKUPS: [&str; 4] = ["access", "lstat", "readlink", "stat"];

    #[test]
    fn both_sides_answer_each_call_alike_but_for_those_that_differ_by_nature() {
        let [local, jail] = SIDES.map(Filters::of);
        let values = [0, 1, 2, 3, 5, 11, 13, 20, 0x5401, 0x541b, 0x5412, 0x0001_0f00, 1 << 19, u64::MAX];
        let triples: Vec<[u64; 6]> = values
            .iter()
            .flat_map(|a| values.iter().flat_map(move |b| values.map(|c| [*a, *b, c, 0, 0, 0])))
            .collect();
        let mut apart: Vec<&str> = Vec::new();
        for number in 0..1000 {
            let differs =
                |arguments: &[u64; 6]| local.answer(number, *arguments) != jail.answer(number, *arguments);
            let depends = SIDES.iter().flat_map(|side| answers(*side)).any(|(call, answer)| {
                call.number == number && matches!(answer, Answer::Only(_) | Answer::UserNotif(_))
            });
            if triples[..if depends { triples.len() } else { 1 }].iter().any(differs) {
                apart.push(find(number).expect("what is not on the list is absent on both sides").name);
            }
        }
        apart.retain(|name| !OLD_LOOKUPS.contains(name));
        apart.sort_unstable();
        let mut wanted = [APART, OLD_APART].concat();
        wanted.sort_unstable();
        assert_eq!(apart, wanted);
    }

    #[test]
    fn a_jailed_worker_answers_itself_as_a_confined_one_and_the_jail_decides_all_the_same() {
        let [local, inside, jail] = [Side::Local, Side::Inside, Side::Jail].map(Filters::of);
        let together = Filters(Side::Inside, [inside.1.clone(), jail.1.clone()].concat());
        let values = [0, 1, 2, 10, 0x5401, 1 << 16, u64::MAX];
        let pairs: Vec<[u64; 2]> = values.iter().flat_map(|a| values.map(|b| [*a, b])).collect();
        for number in 0..1000 {
            let depends = SIDES.iter().flat_map(|side| answers(*side)).any(|(call, answer)| {
                call.number == number && matches!(answer, Answer::Only(_) | Answer::UserNotif(_))
            });
            let pairs = &pairs[..if depends { pairs.len() } else { 1 }];
            for [a, b, last] in pairs.iter().flat_map(|[a, b]| [[*a, *b, 0], [*a, *b, MARKER]]) {
                let arguments = [a, b, 0, 0, 0, last];
                let looks = LOOKUPS_BY_PATH.contains(&number) && last != MARKER;
                if !looks {
                    assert_eq!(inside.answer(number, arguments), local.answer(number, arguments), "{number}");
                }
                // The jail decides on calls that pass the inner filter; others are made by `sigsys_handler`,
                // if at all.
                let (both, jailed) = (together.answer(number, arguments), jail.answer(number, arguments));
                assert!(both != Some(0) || jailed == Some(0), "{number} {arguments:?}");
            }
        }
    }

    #[test]
    fn the_signal_of_refused_calls_can_be_neither_blocked_nor_taken_over_unseen() {
        for filters in [Side::Local, Side::Inside].map(Filters::of) {
            let traps = |number, arguments| filters.answer(number, arguments) == Some(libc::EPERM);
            let (block, unblock) = (libc::SIG_BLOCK as u64, libc::SIG_UNBLOCK as u64);
            assert!(traps(libc::SYS_rt_sigprocmask, [block, 8, 0, 8, 0, 0]));
            assert!(traps(libc::SYS_rt_sigaction, [libc::SIGSYS as u64, 8, 0, 8, 0, 0]));
            assert!(!traps(libc::SYS_rt_sigprocmask, [unblock, 8, 0, 8, 0, 0]));
            assert!(!traps(libc::SYS_rt_sigprocmask, [block, 0, 8, 8, 0, 0]));
            assert!(!traps(libc::SYS_rt_sigaction, [libc::SIGSYS as u64, 0, 8, 8, 0, 0]));
            assert!(!traps(libc::SYS_rt_sigprocmask, [block, 8, 0, 8, 0, MARKER]));
        }
    }

    #[test]
    fn calls_with_conditions_pass_where_all_hold() {
        let word = |value: i32| u64::from(value as u32);
        let passes = |filters: &Filters, number, arguments: [u64; 3]| {
            let [first, second, third] = arguments;
            filters.answer(number, [first, second, third, 0, 0, 0]) == Some(0)
        };
        for filters in SIDES.map(Filters::of) {
            let pair = |family, kind| passes(&filters, libc::SYS_socketpair, [word(family), word(kind), 0]);
            assert!(pair(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC));
            assert!(pair(libc::AF_UNIX, libc::SOCK_SEQPACKET));
            assert!(!pair(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC));
            assert!(!pair(libc::AF_INET, libc::SOCK_STREAM));
            let request = |request: u64| passes(&filters, libc::SYS_ioctl, [0, request, 0]);
            assert!(request(libc::FIONREAD) && request(libc::TCGETS | 0xdead << 32));
            assert!(!request(libc::TIOCSTI) && !request(libc::TIOCSTI | 0xdead << 32));
            let thread = libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND;
            let clone = |flags| passes(&filters, libc::SYS_clone, [word(flags), 0, 0]);
            assert!(clone(thread) && !clone(libc::SIGCHLD) && !clone(thread | libc::CLONE_NEWPID));
            let option = |level, name| passes(&filters, libc::SYS_setsockopt, [3, word(level), word(name)]);
            assert!(option(libc::SOL_SOCKET, libc::SO_RCVTIMEO));
            assert!(!option(libc::SOL_SOCKET, libc::SO_SNDTIMEO) && !option(41, libc::SO_LINGER));
            let policy = |policy| passes(&filters, libc::SYS_sched_setscheduler, [0, word(policy), 8]);
            assert!(policy(libc::SCHED_BATCH) && !policy(libc::SCHED_FIFO));
            assert!(passes(&filters, libc::SYS_setpriority, [0, 0, 5]));
            assert!(!passes(&filters, libc::SYS_setpriority, [2, 0, 5]));
            assert!(passes(&filters, libc::SYS_prlimit64, [0, 7, 0]));
            assert!(!passes(&filters, libc::SYS_prlimit64, [0, 7, 1 << 40]));
            assert_eq!(filters.answer(libc::SYS_fsync, [0; 6]), None);
        }
    }
}
