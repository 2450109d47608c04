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
        if std::env::var_os(SERVICE).is_some() {
            serve();
        }
    }
    #[used]
    #[unsafe(link_section = ".init_array")]
    static ENTER: extern "C" fn() = enter;
};

/// Set for a process that is to find out whether it could serve, as the service does at its start.
const SERVICE: &str = "FASTMAP_TEST_SERVICE";

fn serve() -> ! {
    match Jail::check().and_then(|jail| Ok((jail.describe(), jail.attack(&own())?.len()))) {
        Ok((made_of, probes)) => println!("{probes} acts refused by {made_of}"),
        Err(refusal) => println!("refusal: {refusal}"),
    }
    std::process::exit(0);
}

/// Starts this program as an unprivileged user, in the given control groups.
fn serve_as_nobody(groups: &[PathBuf]) -> String {
    let doors = groups.iter().map(|group| format!("echo $$ >{}/cgroup.procs;", group.display()));
    let script = format!(
        "{} exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups \"$0\"",
        doors.collect::<String>()
    );
    let output =
        Command::new("sh").args(["-ec", &script]).arg(own()).env(SERVICE, "1").output().expect("a shell");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Nobody's number.
const NOBODY: u32 = 64_123;

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

#[test]
fn a_service_that_may_make_no_groups_refuses_in_words() {
    let said = serve_as_nobody(&[]);
    assert!(said.starts_with("refusal: memory, processes and CPU of a jail can't be bounded: "), "{said}");
    assert!(said.contains("Permission denied"), "{said}");
}

#[test]
fn an_unprivileged_service_with_groups_of_its_own_makes_jails_too() {
    let own = std::fs::read_to_string("/proc/self/cgroup").expect("it is there");
    let name = format!("fastmap-test-{}", std::process::id());
    let folders = ["memory", "pids", "cpu", "cpuacct"].map(|controller| {
        let suffix = format!(":{controller}:");
        let path = own.lines().find_map(|line| line.split_once(&suffix)).map_or("/", |(_, path)| path);
        Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/')).join(&name)
    });
    for folder in &folders {
        std::fs::create_dir(folder).expect("version 1, and this is root");
        std::os::unix::fs::chown(folder, Some(NOBODY), Some(NOBODY)).expect("this is root");
    }
    let said = serve_as_nobody(&folders);
    for folder in &folders {
        std::fs::remove_dir(folder).expect("the service has left nothing in it");
    }
    assert!(said.contains("acts refused by bubblewrap"), "{said}");
    assert!(said.contains("the service's own user"), "{said}");
}
