//! One world: each act is done by a process of its own, as it is, confined as a local worker, and in a jail
//! as a worker of the service. Confined and jailed it must come out the same, to the byte. `cargo test -p
//! fastmap-sandbox --features jail --test world`.

#[path = "../common/mod.rs"]
mod common;
mod data;
mod library;
#[path = "../../../tests/jails/src/machine.rs"]
#[allow(unreachable_pub, reason = "public where the tests of maps take it from")]
mod machine;
mod native;
mod temporary;

use std::io;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{case, confine_if_asked, run};
use fastmap_sandbox::jail::{Executable, Limits, Spec};

/// Set in a jail.
const JAILED: &str = "SANDBOX_TEST_JAILED";

/// What a function may do.
pub(crate) struct Act {
    name: &'static str,
    /// What it says, in part.
    says: &'static str,
    act: fn() -> String,
}

pub(crate) const fn act(name: &'static str, says: &'static str, act: fn() -> String) -> Act {
    Act { name, says, act }
}

/// Said by an act that needs a library which this machine has not.
pub(crate) const ABSENT: &str = "not on this machine";

/// An error by its number: the words around it are the caller's.
pub(crate) fn error(error: &io::Error) -> String {
    format!("error {}", error.raw_os_error().unwrap_or(-1))
}

fn acts() -> impl Iterator<Item = &'static Act> {
    temporary::ACTS.iter().chain(data::ACTS).chain(native::ACTS)
}

/// Runs this program for an act in a jail; what it wrote.
fn jailed(name: &str, limits: Limits, zone: Option<&str>) -> String {
    let jail = machine::jail().expect("the tests are left out without");
    let own = std::env::current_exe().expect("/proc is there");
    let executable = Executable::examine(&own).expect("it runs here");
    let environment = [(JAILED, name)];
    let spec = Spec { executable: &executable, environment: &environment, zone, socket: None, limits };
    let (mut command, guard) = jail.command(&spec).expect("a group can be made");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bubblewrap starts");
    let deadline = Instant::now() + Duration::from_secs(20);
    while child.try_wait().expect("it is a child of this process").is_none() {
        if Instant::now() > deadline {
            guard.end();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let output = child.wait_with_output().expect("a pipe can be read");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        said
    } else {
        format!("{said} ({}) {}", output.status, String::from_utf8_lossy(&output.stderr))
    }
}

fn main() {
    let in_jail = std::env::var(JAILED).ok();
    if let Some(name) = in_jail.or_else(case) {
        let found = acts().find(|act| act.name == name).expect("an act of that name");
        confine_if_asked();
        return println!("{}", (found.act)());
    }
    machine::leave_out_without_jails();
    let mut wrong = Vec::new();
    for found in acts() {
        // As in the shell of a user whose temporary files are elsewhere.
        let confined = run(found.name, true, &[("TMPDIR", "/somewhere")]);
        let jailed = jailed(found.name, Limits::default(), None);
        let local = if confined.status.success() {
            confined.stdout
        } else {
            format!("{} ({}) {}", confined.stdout, confined.status, confined.stderr)
        };
        let absent = local.trim() == ABSENT;
        if local == jailed && (absent || local.contains(found.says)) {
            println!("{:<46} {}", found.name, local.trim().replace('\n', " | "));
        } else {
            println!("{:<46} WRONG\n  confined: {local:?}\n  jailed:   {jailed:?}", found.name);
            wrong.push(found.name);
        }
    }
    for (name, wanted, said) in [
        ("the local time zone", "09", jailed("the local hour", Limits::default(), Some("Asia/Tokyo"))),
        ("no local time zone", "00", jailed("the local hour", Limits::default(), None)),
        (
            "a file of more than half of the memory",
            "error 28",
            jailed("fill /tmp", Limits { memory: 64 << 20, ..Limits::default() }, None),
        ),
    ] {
        if said.trim() != wanted {
            println!("{name:<46} WRONG: {said}");
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{} of {} acts went wrong: {wrong:?}", wrong.len(), acts().count());
    println!("{} acts, each the same confined and in a jail", acts().count());
}
