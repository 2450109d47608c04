//! How a program is entered, and everything that could make workers start workers: bounded, and told in words.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::process::Command;

use fastmap_test_programs::{Ended, Failure, LIMIT, Report, Running, is_alive, program, until};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

const HOST: &str = env!("CARGO_BIN_EXE_host");

/// Runs a program and counts the processes that came of it.
fn counted(command: &mut Command) -> (Ended, usize) {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("count");
    let ended = Running::start(command.env("COUNT", &file)).finish();
    let processes = fs::read_to_string(file).unwrap_or_default().lines().count();
    (ended, processes)
}

fn host(arguments: &[&str]) -> Command {
    let mut command = program(HOST);
    command.args(arguments);
    command
}

/// The one error that a map ends with.
fn ends_with(ended: &Ended, kind: &str) -> Failure {
    let mut report = Report::read(&ended.stdout);
    assert_eq!((report.answers, report.good), (1, 0), "{ended:#?}");
    let error = report.errors.remove(0);
    assert_eq!((&*error.kind, error.index), (kind, None), "{ended:#?}");
    error
}

#[test]
fn a_program_that_forgot_to_enter_is_told_so_and_starts_nothing() {
    let (ended, processes) = counted(&mut program(env!("CARGO_BIN_EXE_forgot")));
    assert!(ended.stdout.iter().any(|line| line.starts_with("error NotEntered")), "{ended:#?}");
    assert!(ended.stdout.iter().any(|line| line == "children 0"), "{ended:#?}");
    assert_eq!(processes, 1);
}

#[test]
fn a_worker_that_comes_to_user_code_leaves_and_the_host_says_why() {
    let (ended, processes) = counted(program(env!("CARGO_BIN_EXE_conditional")).arg("enter"));
    let error = ends_with(&ended, "AllWorkersDied");
    assert!(error.text.contains("came to user code without being entered"), "{error:?}");
    assert!(error.text.contains("fastmap::enter()"), "{error:?}");
    assert!(processes <= 12, "{processes} processes");
}

#[test]
fn a_function_that_starts_its_own_program_makes_no_flood_of_processes() {
    let (ended, processes) = counted(&mut host(&["start", "self", "squares", "50"]));
    let printed: Vec<_> = ended.stdout.iter().filter(|line| line.starts_with("printed")).collect();
    assert_eq!(printed, ["printed first answer; answers 50 ok 50"; 4], "{ended:#?}");
    // The host, its two workers, and the four that were asked for.
    assert!(processes <= 7, "{processes} processes");
}

#[test]
fn a_program_that_starts_itself_in_every_generation_is_bounded() {
    let (ended, processes) = counted(&mut host(&["start", "self", "start", "self", "squares", "10"]));
    assert!(ended.status.success(), "{ended:#?}");
    assert!(processes <= 3 + 4 + 16, "{processes} processes");
}

#[test]
fn another_fastmap_program_that_a_function_starts_is_no_worker() {
    let (ended, processes) = counted(&mut host(&["start", env!("CARGO_BIN_EXE_helper")]));
    let printed: Vec<_> = ended.stdout.iter().filter(|line| line.starts_with("printed")).collect();
    assert_eq!(printed.len(), 4, "{ended:#?}");
    for line in printed {
        assert!(line.contains("the helper's own main") && line.contains("answers 100 ok 100"), "{ended:#?}");
    }
    assert!(processes <= 7, "{processes} processes");
}

#[test]
fn a_stale_marker_of_another_host_makes_no_worker() {
    let (ended, _) =
        counted(host(&["squares", "100"]).env("FASTMAP_WORKER", "3 1 worker-7 INFO open /tmp/nobody"));
    assert_eq!(Report::read(&ended.stdout).good, 100, "{ended:#?}");
}

#[test]
fn a_worker_whose_host_died_on_its_way_ends_and_runs_no_program() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let gate = path("gate");
    mkfifo(&gate, Mode::S_IRWXU).expect("a FIFO can be made");
    let pids = path("pids");
    fs::create_dir(&pids).expect("a folder can be made");
    // What is started as a worker says who it is, waits at the gate, and goes on as a program that leaves a log.
    let script = format!(
        "#!/bin/sh\n: >{pids}/$$\nread word <{gate}\nexec {HOST} checkpoint {checkpoint} {log} 10 0\n",
        pids = pids.display(),
        gate = gate.display(),
        checkpoint = path("checkpoint").display(),
        log = path("log").display(),
    );
    let late = path("late");
    fs::write(&late, script).expect("a script can be written");
    fs::set_permissions(&late, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let host = Running::start(&mut host(&["with-program", late.to_str().expect("a plain path")]));
    let on_their_way = || -> Vec<i32> {
        let entries = fs::read_dir(&pids).expect("it is there");
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
    };
    until("both workers on their way", LIMIT, || on_their_way().len() == 2);
    host.signal(Signal::SIGKILL);
    host.finish();
    let workers = on_their_way();
    assert!(workers.iter().all(|pid| is_alive(*pid)), "they wait at the gate");
    let mut open = fs::OpenOptions::new();
    open.write(true).custom_flags(OFlag::O_NONBLOCK.bits());
    until("the end of the workers", LIMIT, || {
        // A word lets one of them go on, if it stands there already.
        let _nobody_there = open.open(&gate).and_then(|mut gate| gate.write_all(b"go\n"));
        !workers.iter().any(|pid| is_alive(*pid))
    });
    assert!(!path("log").exists(), "it ran the user's program");
    assert!(!path("checkpoint").exists(), "it ran the user's program");
}

#[test]
fn a_forged_marker_is_refused_with_a_word() {
    let parent = std::process::id();
    for forged in [
        "yes".to_owned(),
        format!("3 {parent} worker-7 INFO"),
        format!("99 {parent} worker-7 INFO open /tmp/nobody"),
        format!("3 {parent} worker-7 INFO open /tmp/nobody"),
        format!("3 {parent} worker-7 INFO ajar /tmp/nobody"),
    ] {
        let (ended, processes) = counted(host(&["squares", "100"]).env("FASTMAP_WORKER", &forged));
        assert!(!ended.status.success(), "{forged}: {ended:#?}");
        assert!(ended.stderr.contains("fastmap: this worker can't begin"), "{forged}: {ended:#?}");
        assert_eq!(processes, 1);
    }
}

#[test]
fn a_temporary_folder_that_cannot_be_used_is_named() {
    let folder = TempDir::new().expect("a folder");
    let missing = folder.path().join("missing");
    let mut long = folder.path().to_owned();
    while long.as_os_str().len() < 120 {
        long.push("a_long_name_of_a_folder");
    }
    fs::create_dir_all(&long).expect("folders");
    // Nobody can make a folder in there, not even root.
    for unusable in [missing.as_path(), long.as_path(), "/proc".as_ref()] {
        let (ended, processes) = counted(host(&["squares", "100"]).env("TMPDIR", unusable));
        let error = ends_with(&ended, "AllWorkersDied");
        assert!(error.text.contains("TMPDIR"), "{error:?}");
        assert!(error.text.contains(unusable.to_str().expect("a plain path")), "{error:?}");
        assert_eq!(processes, 1);
    }
}

#[test]
fn a_worker_of_another_program_is_refused_in_words() {
    let (ended, processes) = counted(&mut host(&["with-program", env!("CARGO_BIN_EXE_helper")]));
    let error = ends_with(&ended, "AllWorkersDied");
    assert!(error.text.contains("not the program of its host"), "{error:?}");
    assert!(processes <= 12, "{processes} processes");
}

#[test]
fn a_program_that_is_none_of_ours_or_cannot_be_started_is_named() {
    for (path, words) in [
        ("/bin/true", "exit(0)"),
        ("/bin/false", "exit(1)"),
        ("/etc/passwd", "cannot start /etc/passwd"),
        ("/no/such/program", "cannot start /no/such/program"),
    ] {
        let (ended, _) = counted(&mut host(&["with-program", path]));
        let error = ends_with(&ended, "AllWorkersDied");
        assert!(error.text.contains(words), "{error:?}");
    }
}
