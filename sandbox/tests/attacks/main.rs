//! Attacks on a worker's surroundings: each is tried by a process of its own, once as it is, which must succeed (or get as far
//! as the kernel proper), and once confined, which must be refused, by the sandbox and on record.
//! Prints a table; `cargo test -p fastmap-sandbox --test attacks`.

#![allow(
    clippy::macro_metavars_in_unsafe,
    reason = "the macro is of these tests alone, and all its arguments are seen"
)]

#[path = "../common/mod.rs"]
mod common;
mod files;
mod kernel;
mod network;
mod processes;
mod scene;

use std::io;
use std::os::unix::process::ExitStatusExt;

use common::{Ended, case, confine_if_asked, refused, run};
use scene::Scene;

/// An attack.
pub(crate) struct Probe {
    name: &'static str,
    /// The call that the record names when it is refused.
    call: &'static str,
    control: Control,
    confined: Confined,
    attack: fn(&Scene) -> io::Result<()>,
}

/// What an unconfined process gets.
#[derive(Clone, Copy)]
pub(crate) enum Control {
    /// It succeeds.
    Works,
    /// The kernel's own answer to arguments that can do no harm: the call has come through.
    Past(&'static [i32]),
    /// It succeeds for root in the machine's own namespaces, and gets EPERM otherwise: then the record alone
    /// tells the sandbox's refusal from the kernel's.
    RootWorks,
    /// As `Past`, for root.
    RootPast(&'static [i32]),
}

/// What a confined process gets.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Confined {
    /// EPERM, and the call is on record.
    Refused,
    /// ENOSYS, for callers that then do otherwise.
    Absent,
    /// Its end.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "calls of 32-bit programs"))]
    Killed,
}

/// What a kernel says that was built without something.
const LACKING: [i32; 5] =
    [libc::ENOSYS, libc::EAFNOSUPPORT, libc::EPROTONOSUPPORT, libc::EOPNOTSUPP, libc::ENXIO];

pub(crate) const fn probe(
    name: &'static str,
    call: &'static str,
    control: Control,
    attack: fn(&Scene) -> io::Result<()>,
) -> Probe {
    Probe { name, call, control, confined: Confined::Refused, attack }
}

/// The result of a raw system call.
pub(crate) fn result(returned: i64) -> io::Result<()> {
    if returned == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes a system call whose arguments can do no harm, or whose effect is the attack.
#[macro_export]
macro_rules! call {
    ($number:expr $(, $argument:expr)* $(,)?) => {
        // SAFETY: a probe: the kernel checks what it is given, and what it does is what is being tried.
        $crate::result(unsafe { libc::syscall($number $(, $crate::Argument::whole($argument))*) })
    };
}

/// What a call is given. In a variable list of arguments all are as wide as a register: of what is passed narrower the rest
/// would be whatever stands there.
trait Argument {
    fn whole(self) -> libc::c_long;
}

macro_rules! arguments {
    ($($kind:ty),+) => {$(
        #[allow(clippy::cast_lossless, reason = "of some kinds")]
        impl Argument for $kind {
            fn whole(self) -> libc::c_long {
                self as libc::c_long
            }
        }
    )+};
}

arguments!(i32, u32, i64, u64, isize, usize);

impl<T> Argument for *const T {
    fn whole(self) -> libc::c_long {
        self.expose_provenance() as libc::c_long
    }
}

impl<T> Argument for *mut T {
    fn whole(self) -> libc::c_long {
        self.expose_provenance() as libc::c_long
    }
}

fn probes() -> impl Iterator<Item = &'static Probe> {
    [files::PROBES, network::PROBES, processes::PROBES, kernel::PROBES].into_iter().flatten()
}

/// Root with all that root may, and no filter around it (as containers have).
fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map_or_else(String::new, |value| value.trim().to_owned())
    };
    // CAP_SYS_ADMIN
    let administers = u64::from_str_radix(&value("CapEff"), 16).is_ok_and(|bits| bits >> 21 & 1 == 1);
    administers && value("Seccomp") == "0"
}

/// The child: tries one, and prints what came.
fn attack(name: &str) {
    let probe = probes().find(|probe| probe.name == name).expect("a probe of that name");
    let scene = Scene::from_environment();
    confine_if_asked();
    let result = (probe.attack)(&scene);
    let errno = result.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| 0);
    println!("{errno} {}", refused().unwrap_or("-"));
}

/// Errno (0: success) and the call on record; `None` where it was killed.
fn outcome(ended: &Ended) -> Option<(i32, &str)> {
    let (errno, call) = ended.stdout.lines().last()?.split_once(' ')?;
    Some((errno.parse().ok()?, call))
}

fn word(errno: i32) -> String {
    match errno {
        0 => "succeeds".to_owned(),
        -1 => "fails".to_owned(),
        errno => {
            let text = io::Error::from_raw_os_error(errno).to_string();
            text.split(" (os error").next().unwrap_or_default().to_owned()
        }
    }
}

/// What is wrong with the control; nothing if it shows that the probe works.
fn judge_control(control: Control, errno: Option<i32>, root: bool) -> Result<String, String> {
    let Some(errno) = errno else { return Err("it was killed".to_owned()) };
    let lacks = LACKING.contains(&errno);
    let denied = !root && matches!(errno, libc::EPERM | libc::EACCES);
    match control {
        Control::Works | Control::RootWorks if errno == 0 => Ok(word(0)),
        Control::Past(known) | Control::RootPast(known) if known.contains(&errno) => Ok(word(errno)),
        Control::RootWorks | Control::RootPast(_) if denied => Ok(format!("{} (not root)", word(errno))),
        _ if lacks => Ok(format!("{} (the kernel lacks it)", word(errno))),
        _ => Err(word(errno)),
    }
}

/// `before`: what the system answers before it comes to the sandbox.
fn judge_confined(probe: &Probe, before: Option<i32>, ended: &Ended) -> Result<String, String> {
    let signal = ended.status.signal();
    match (probe.confined, outcome(ended)) {
        (Confined::Refused, Some((libc::EPERM, call))) if call == probe.call => {
            Ok(format!("refused, on record: {call}"))
        }
        (Confined::Refused, Some((errno, "-"))) if before == Some(errno) => {
            Ok(format!("{}, as without", word(errno)))
        }
        (Confined::Absent, Some((libc::ENOSYS, "-"))) => Ok("said not to exist".to_owned()),
        (Confined::Killed, None) if signal == Some(libc::SIGSYS) => Ok("killed by SIGSYS".to_owned()),
        (_, Some((errno, call))) => Err(format!("{}, on record: {call}", word(errno))),
        (_, None) => Err(format!("ended by signal {signal:?}: {}", ended.stderr)),
    }
}

fn main() {
    if let Some(name) = case() {
        return attack(&name);
    }
    let root = is_root();
    let (scene, variables) = Scene::build();
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut wrong = Vec::new();
    println!("{:<46} {:<44} confined", "attack", "as it is");
    for probe in probes() {
        scene.furnish();
        let control = run(probe.name, false, &variables);
        let control_errno = outcome(&control).map(|(errno, _)| errno);
        let control = match probe.confined {
            // There a kernel that lacks it may answer by a signal as well.
            Confined::Killed if outcome(&control).is_none() => Ok("killed (the kernel lacks it)".to_owned()),
            _ => judge_control(probe.control, control_errno, root),
        };
        scene.furnish();
        // A device that is not here, or a file's own permissions, which root is not held to.
        let before = control_errno.filter(|errno| *errno == libc::ENXIO || !root && *errno == libc::EACCES);
        let confined = judge_confined(probe, before, &run(probe.name, true, &variables));
        let show = |judged: &Result<String, String>| match judged {
            Ok(text) => text.clone(),
            Err(text) => format!("WRONG: {text}"),
        };
        println!("{:<46} {:<44} {}", probe.name, show(&control), show(&confined));
        if control.is_err() || confined.is_err() {
            wrong.push(probe.name);
        }
    }
    let count = probes().count();
    assert!(wrong.is_empty(), "{} of {count} probes went wrong: {wrong:?}", wrong.len());
    println!("{count} attacks, each refused or contained, each with a control that was not");
}
