//! How a program is entered, and everything that could make workers start workers: bounded, and told in words.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use fastmap_test_programs::{
    Ended, Failure, LIMIT, Report, Running, is_alive, program, skipped, until, write_program,
};
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
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
        counted(host(&["squares", "100"]).env("FASTMAP_WORKER", "7 1 worker-7 INFO open /tmp/nobody"));
    assert_eq!(Report::read(&ended.stdout).good, 100, "{ended:#?}");
}

/// Writes a program for the shell.
fn script(path: &Path, text: &str) {
    write_program(path, format!("#!/bin/sh\n{text}").as_bytes());
}

/// The process ids that files of a folder are named by.
fn listed(folder: &Path) -> Vec<i32> {
    let entries = fs::read_dir(folder).expect("it is there");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Whether all threads of a process sleep: those that start workers are through with that, too.
fn at_rest(pid: i32) -> bool {
    let sleeps = |entry: fs::DirEntry| {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
    };
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    threads.is_ok_and(|mut threads| threads.all(|entry| entry.is_ok_and(sleeps)))
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
    let text = format!(
        ": >{pids}/$$\nread word <{gate}\nexec {HOST} checkpoint {checkpoint} {log} 10 0\n",
        pids = pids.display(),
        gate = gate.display(),
        checkpoint = path("checkpoint").display(),
        log = path("log").display(),
    );
    let late = path("late");
    script(&late, &text);
    let host = Running::start(&mut host(&["with-program", late.to_str().expect("a plain path")]));
    until("both workers on their way", LIMIT, || listed(&pids).len() == 2);
    host.signal(Signal::SIGKILL);
    host.finish();
    let workers = listed(&pids);
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
        format!("5 {parent} worker-7 INFO"),
        format!("99 {parent} worker-7 INFO open /tmp/nobody"),
        format!("5 {parent} worker-7 INFO open /tmp/nobody"),
        format!("5 {parent} worker-7 INFO ajar /tmp/nobody"),
    ] {
        let (ended, processes) = counted(host(&["squares", "100"]).env("FASTMAP_WORKER", &forged));
        assert!(!ended.status.success(), "{forged}: {ended:#?}");
        assert!(ended.stderr.contains("fastmap: this worker can't begin"), "{forged}: {ended:#?}");
        assert_eq!(processes, 1);
    }
}

/// The temporary folder can't be used, and another one is. This machine has shared memory.
fn is_done_without(temporary: &OsStr, here: &Path) {
    let (ended, processes) = counted(host(&["squares", "100"]).current_dir(here).env("TMPDIR", temporary));
    assert_eq!(Report::read(&ended.stdout).good, 100, "{}: {ended:#?}", temporary.display());
    assert!(processes > 1);
}

#[test]
fn a_temporary_folder_that_cannot_be_used_is_done_without() {
    let folder = TempDir::new().expect("a folder");
    let missing = folder.path().join("missing");
    let mut long = folder.path().to_owned();
    while long.as_os_str().len() < 120 {
        long.push("a_long_name_of_a_folder");
    }
    let no_text = folder.path().join(OsStr::from_bytes(b"no\xfftext"));
    fs::create_dir_all(&long).and_then(|()| fs::create_dir(&no_text)).expect("folders");
    // Root can make no folder in /proc, either.
    for unusable in [missing.as_path(), long.as_path(), no_text.as_path(), "/proc".as_ref()] {
        is_done_without(unusable.as_os_str(), folder.path());
    }
    is_done_without(OsStr::new("."), &long);
}

#[test]
fn a_relative_temporary_folder_counts_from_where_the_host_is() {
    let folder = TempDir::new().expect("a folder");
    fs::create_dir(folder.path().join("here")).expect("a folder can be made");
    let ended = Running::start(host(&["squares", "100"]).current_dir(&folder).env("TMPDIR", "here")).finish();
    assert_eq!(Report::read(&ended.stdout).good, 100, "{ended:#?}");
    assert_eq!(fs::read_dir(folder.path().join("here")).expect("it is there").count(), 0);
}

#[test]
fn workers_that_die_unheard_end_the_map_also_where_no_descriptor_is_left() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let (pids, temporary) = (path("pids"), path("temporary"));
    for made in [&pids, &temporary] {
        fs::create_dir(made).expect("a folder can be made");
    }
    // What is started as a worker says who it is, and never greets.
    let mute = path("mute");
    script(&mute, &format!(": >{}/$$\nexec sleep 1000\n", pids.display()));
    let mut command = host(&["with-program", mute.to_str().expect("a plain path")]);
    let host = Running::start(command.env("TMPDIR", &temporary));
    until("both workers on their way", LIMIT, || listed(&pids).len() == 2 && at_rest(host.pid()));
    let limit = libc::rlimit { rlim_cur: 3, rlim_max: 3 };
    // SAFETY: the limit is there for the call; what was before is not asked for.
    let set =
        unsafe { libc::prlimit(host.pid(), libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!(set, 0);
    for pid in listed(&pids) {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is there");
    }
    let ended = host.finish();
    let error = ends_with(&ended, "AllWorkersDied");
    assert!(error.text.contains("ulimit -n"), "{error:?}");
    assert_eq!(fs::read_dir(&temporary).map_or(0, Iterator::count), 0);
}

/// The loader that a program names.
fn loader(program: &str) -> Option<String> {
    let content = fs::read(program).expect("it is there");
    let at = content.windows(5).position(|part| part == b"/lib/" || part == b"/lib6")?;
    let name: Vec<u8> = content[at..].iter().copied().take_while(|byte| *byte != 0).collect();
    String::from_utf8(name).ok().filter(|name| Path::new(name).exists())
}

#[test]
fn a_program_that_its_loader_has_started_starts_no_loader_again() {
    let Some(loader) = loader(HOST) else {
        skipped("the program is linked statically");
        return;
    };
    let (ended, processes) = counted(program(&loader).args([HOST, "squares", "100"]));
    let error = ends_with(&ended, "NotEntered");
    assert!(error.text.contains("started by its loader") && error.text.contains(HOST), "{error:?}");
    assert_eq!(processes, 1);
    // Named, it can be started.
    let ended = Running::start(program(&loader).args([HOST, "with-program", HOST])).finish();
    assert_eq!(Report::read(&ended.stdout).good, 100, "{ended:#?}");
}

#[test]
fn a_library_in_another_program_starts_that_program_no_more() {
    let library = Path::new(HOST).with_file_name("deps").join("libfastmap_test_extension.so");
    let loads = format!("import ctypes; print('sum', ctypes.CDLL({:?}).squares())", library.display());
    let python = Command::new("python3").args(["-c", "print(1)"]).output();
    if !python.is_ok_and(|output| output.status.success()) {
        skipped("it takes python3");
        return;
    }
    let (ended, processes) = counted(program("python3").args(["-c", &loads]));
    assert!(ended.stdout.iter().any(|line| line == "sum -1"), "{ended:#?}");
    assert!(
        ended.stderr.contains("libfastmap_test_extension.so") && ended.stderr.contains("python"),
        "{ended:#?}"
    );
    assert!(ended.stderr.contains("an executable of your own"), "{ended:#?}");
    assert_eq!(processes, 0, "the library counts none, and workers would");
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
