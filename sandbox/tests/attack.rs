//! A jail around this very test program, which attacks it; and the same attack without a jail, which must succeed in
//! every act, or the acts would prove nothing.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fastmap_sandbox::jail::{Executable, Jail, Limits, PROBE, Spec, probe_if_asked, read_report};

/// Before `main`, which belongs to the test harness.
const _: () = {
    extern "C" fn enter() {
        probe_if_asked();
    }
    #[used]
    #[unsafe(link_section = ".init_array")]
    static ENTER: extern "C" fn() = enter;
};

fn own() -> PathBuf {
    std::env::current_exe().expect("/proc is there")
}

fn jail() -> Jail {
    Jail::check().expect("this machine makes jails (root, bubblewrap, cgroups)")
}

/// A descriptor of this process that is not closed when another program is started.
fn stray() -> std::fs::File {
    let file = std::fs::File::open("/etc/passwd").expect("it can be read");
    // SAFETY: clears the flag of a descriptor of our own.
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) }, 0);
    file
}

#[test]
fn nothing_gets_out_of_a_jail_that_succeeds_outside() {
    let _stray = stray();
    let jailed = jail().attack(&own()).expect("the jail holds");
    assert!(jailed.len() >= 85, "{}", jailed.len());
    let output = Command::new(own()).env(PROBE, "1").stdin(Stdio::null()).output().expect("it starts");
    let lines = String::from_utf8_lossy(&output.stdout);
    let free = read_report(&lines).unwrap_or_else(|| panic!("{lines} {output:?}"));
    // What this kernel was built without can't be shown to succeed: modules, and starting another kernel.
    let (lacking, lame): (Vec<_>, Vec<_>) = free
        .iter()
        .filter_map(|(name, outcome)| outcome.as_ref().err().map(|how| (name, how)))
        .partition(|(name, how)| {
            how.contains("os error 38") && ["module", "kernel"].iter().any(|word| name.contains(word))
        });
    println!("not in this kernel: {lacking:?}");
    assert!(lacking.len() <= 6, "{lacking:#?}");
    assert!(lame.is_empty(), "these prove nothing, for they fail without a jail, too: {lame:#?}");
}

#[test]
fn a_process_that_ends_before_it_has_tried_everything_is_no_proof() {
    // bubblewrap is a program that tries nothing.
    let error = jail().attack(Path::new("/usr/bin/bwrap")).expect_err("it proves nothing").to_string();
    assert!(error.contains("ended early"), "{error}");
}

fn run(code: &str, limits: Limits) -> (io::Result<std::process::Output>, fastmap_sandbox::jail::Usage) {
    let executable = Executable::examine(&own()).expect("it runs here");
    let environment = [("JAILED", code)];
    let spec = Spec { executable: &executable, environment: &environment, socket: None, limits };
    let (mut command, guard) = jail().command(&spec).expect("a group can be made");
    let output = command.stdin(Stdio::null()).output();
    (output, guard.usage())
}

#[test]
fn a_jail_is_measured() {
    let (output, usage) = run("nothing", Limits::default());
    let output = output.expect("it runs");
    // The harness's main, which knows no such argument, has run its tests' list: what it did does not matter.
    assert!(output.status.code().is_some(), "{output:?}");
    assert!(usage.cpu.as_micros() > 100, "{usage:?}");
    assert!(usage.memory > 100_000, "{usage:?}");
    assert_eq!(usage.oom_kills, 0);
}
