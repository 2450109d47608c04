//! Where something around a map is amiss, it gives what can be had or says what is wrong; it never stands still.

use std::fs::File;
use std::io::{BufRead, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use fastmap_test_programs::{Ended, Failure, LIMIT, Report, Running, open_copy, program, skipped, until};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tempfile::TempDir;

fn host(arguments: &[&str]) -> Command {
    let mut command = program(env!("CARGO_BIN_EXE_host"));
    command.args(arguments);
    command
}

fn with_processes<'a>(command: &'a mut Command, processes: &str) -> &'a mut Command {
    command.env("FASTMAP_LOCAL_PROCESSES", processes)
}

fn ended(command: &mut Command) -> Ended {
    let ended = Running::start(command).finish();
    assert!(ended.status.success(), "{ended:#?}");
    ended
}

fn run(command: &mut Command) -> Report {
    Report::read(&ended(command).stdout)
}

/// How often a line came.
fn times(ended: &Ended, line: &str) -> usize {
    ended.stdout.iter().filter(|other| *other == line).count()
}

fn number(ended: &Ended, begin: &str) -> u64 {
    let line = ended.stdout.iter().find_map(|line| line.strip_prefix(begin));
    line.unwrap_or_else(|| panic!("no {begin:?}: {ended:#?}")).parse().expect("a number")
}

/// Every item was answered well, or the map ended by one error, which is of no item and the last answer.
/// Gives that error.
fn all_or_one_error(report: &Report, items: usize) -> Option<&Failure> {
    match report.errors.as_slice() {
        [] => assert_eq!((report.answers, report.good), (items, items), "{report:#?}"),
        [error] => {
            assert_eq!((error.index, report.answers), (None, report.good + 1), "{report:#?}");
            assert!(["AllWorkersDied", "Io"].contains(&&*error.kind), "{error:?}");
        }
        _ => panic!("more than one error: {report:#?}"),
    }
    report.errors.first()
}

fn folder() -> (TempDir, String) {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().to_str().expect("a plain path").to_owned();
    (folder, path)
}

#[test]
fn an_init_that_panics_ends_a_map_whose_input_is_slow_and_endless() {
    for processes in ["1", "4"] {
        let ended = ended(with_processes(&mut host(&["init-panics"]), processes));
        let report = Report::read(&ended.stdout);
        assert_eq!((report.answers, report.good), (1, 0), "{report:#?}");
        let error = &report.errors[0];
        assert_eq!((&*error.kind, error.index), ("Panic", None), "{error:?}");
        assert!(error.text.contains("no licence found"), "{error:?}");
        // As many as there are places for before anything is known of them.
        assert!(number(&ended, "pulled ") <= 40, "{ended:#?}");
    }
}

#[test]
fn a_host_that_holds_its_stdout_hears_of_deaths_and_lines_all_the_same() {
    let ended = ended(&mut host(&["stdout-held", "400"]));
    let report = Report::read(&ended.stdout);
    assert_eq!((report.answers, report.good), (400, 399), "{report:#?}");
    assert_eq!((&*report.errors[0].kind, report.errors[0].index), ("Crash", Some(200)));
    assert_eq!(times(&ended, "printed by a worker"), 1, "{ended:#?}");
    assert_eq!(ended.stdout.last().map(String::as_str), Some("all dropped"));
}

#[test]
fn a_host_whose_stdout_nobody_reads_hears_of_deaths_all_the_same() {
    let ended = ended(&mut host(&["stdout-full", "400"]));
    let report = Report::read(&ended.stdout);
    assert_eq!((report.answers, report.good), (400, 399), "{report:#?}");
    assert_eq!((&*report.errors[0].kind, report.errors[0].index), ("Crash", Some(200)));
    assert_eq!(number(&ended, "read "), 1, "{ended:#?}");
}

#[test]
fn time_in_which_nobody_reads_what_items_print_is_not_theirs() {
    let ended = ended(&mut host(&["stdout-unread", "6"]));
    let report = Report::read(&ended.stdout);
    assert_eq!((report.answers, report.good), (6, 6), "{report:#?}");
    assert_eq!(number(&ended, "read "), 6, "{ended:#?}");
}

#[test]
fn a_host_that_gave_up_root_ends_its_workers_all_the_same() {
    if !nix::unistd::geteuid().is_root() {
        skipped("it takes root");
        return;
    }
    let (_folder, path) = folder();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .expect("the folder is our own");
    let ended = ended(host(&["gives-up-root", &path]).env("TMPDIR", &path));
    let report = Report::read(&ended.stdout);
    assert_eq!((report.answers, report.good), (20, 19), "{ended:#?}");
    let error = &report.errors[0];
    assert_eq!((&*error.kind, error.index), ("Timeout", Some(3)), "{ended:#?}");
    assert_eq!(times(&ended, "first Some(Ok(2))"), 1, "{ended:#?}");
    assert_eq!(number(&ended, "left "), 0, "{ended:#?}");
}

#[test]
fn lines_that_a_full_disk_does_not_take_are_counted_and_their_cause_is_named_once() {
    let full = File::options().write(true).open("/dev/full").expect("it is there");
    let output = host(&["prints", "rust", "40", "1", "silent"]).stdout(full).output().expect("it starts");
    assert!(output.status.success(), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stderr.lines().collect();
    let [cause, count] = lines[..] else { panic!("{stderr}") };
    assert!(cause.contains("to stdout can't be written") && cause.contains("No space left"), "{stderr}");
    assert!(count.contains("40 lines that workers printed to stdout were lost"), "{stderr}");
}

#[test]
fn a_pipe_that_is_full_for_a_while_loses_no_line_also_where_it_is_non_blocking() {
    let (mut reader, writer) = std::io::pipe().expect("descriptors");
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("it is ours");
    let mut command = host(&["prints", "wide", "40", "100", "late"]);
    let mut child = command.stdout(writer).stderr(Stdio::piped()).spawn().expect("it starts");
    // The command has the pipe's other end, too.
    drop(command);
    let mut stderr = std::io::BufReader::new(child.stderr.take().expect("it is piped"));
    let mut said = String::new();
    stderr.read_line(&mut said).expect("text");
    assert_eq!(said, "late\n");
    let mut printed = String::new();
    reader.read_to_string(&mut printed).expect("text");
    assert_eq!(printed.lines().count(), 4000);
    stderr.read_to_string(&mut said).expect("text");
    assert_eq!(said, "late\n");
    assert!(child.wait().expect("it is ours").success());
}

#[test]
fn a_logger_that_panics_in_the_host_does_not_hold_up_the_map() {
    let report = run(&mut host(&["logger-panics", "200"]));
    // Which items a broken logger costs is not promised; those that log nothing are answered.
    if report.errors.iter().all(|error| error.index.is_some()) {
        assert_eq!(report.answers, 200, "{report:#?}");
        assert!(
            report.errors.iter().all(|error| error.index.is_some_and(|index| index % 10 == 0)),
            "{report:#?}"
        );
    }
}

#[test]
fn too_few_descriptors_are_one_clear_error_and_enough_are_enough() {
    for descriptors in (3..=30).chain([40, 64]) {
        // A trace would push the reason out of the last lines that a death report holds.
        let command = &mut host(&["few-descriptors", &descriptors.to_string(), "40"]);
        let report = run(command.env("RUST_BACKTRACE", "0"));
        let error = all_or_one_error(&report, 40);
        if let Some(error) = error {
            assert!(!error.text.contains("TMPDIR"), "{descriptors}: {error:?}");
            let words = ["open files", "descriptor", "os error 24"];
            assert!(words.iter().any(|word| error.text.contains(word)), "{descriptors}: {error:?}");
        }
        assert!(error.is_none() || descriptors < 40, "{descriptors}: {error:?}");
        assert!(error.is_some() || descriptors > 6, "{descriptors} can't be enough");
    }
}

#[test]
fn descriptors_for_some_of_the_wanted_workers_are_enough_for_all_items() {
    for descriptors in ["60", "61", "62", "63", "64", "65"] {
        let ended = ended(with_processes(&mut host(&["few-descriptors", descriptors, "400"]), "30"));
        let report = Report::read(&ended.stdout);
        assert_eq!((report.answers, report.good), (400, 400), "{descriptors}: {ended:#?}");
        let told: Vec<_> = ended.stderr.lines().filter(|line| line.contains("of 30 workers")).collect();
        assert_eq!(told.len(), 1, "{descriptors}: {ended:#?}");
        assert!(told[0].contains(&format!("may have {descriptors} open files")), "{told:?}");
        assert!(told[0].contains("ulimit -n"), "{told:?}");
        assert!(!ended.stderr.contains("panicked"), "{descriptors}: {ended:#?}");
    }
}

#[test]
fn a_soft_limit_of_descriptors_is_raised_for_the_host_alone() {
    let ended = ended(with_processes(&mut host(&["soft-limited", "64", "400"]), "24"));
    assert!(number(&ended, "workers ") > 16, "{ended:#?}");
    assert_eq!(times(&ended, "limits {64}"), 1, "{ended:#?}");
    assert!(!ended.stderr.contains("warning"), "{ended:#?}");
}

#[test]
fn a_host_without_standard_descriptors_maps_and_gives_their_numbers_to_nothing_of_fastmaps() {
    let (_folder, path) = folder();
    for when in ["before", "after"] {
        let report = format!("{path}/{when}");
        ended(&mut host(&["without-standard", &report, when]));
        let report = std::fs::read_to_string(report).expect("it was written");
        assert_eq!(report, "sum 780, own descriptors below 3: 0\n", "{when}");
    }
}

#[test]
fn what_a_constructor_has_opened_stays_open_in_workers() {
    let (_folder, path) = folder();
    let log = format!("{path}/log");
    let ended = ended(host(&["constructor-log", "100"]).env("CONSTRUCTOR_LOG", &log));
    assert_eq!(number(&ended, "good "), 100, "{ended:#?}");
    let written = std::fs::read_to_string(log).expect("the constructor has made it");
    assert_eq!(written.lines().count(), 100, "{written}");
}

#[test]
fn a_profiler_that_is_preloaded_profiles_workers() {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let names = ["libprofiler.so.0", "libprofiler.so"];
    let found = folders.iter().flat_map(|folder| names.map(|name| Path::new(folder).join(name)));
    let Some(library) = found.into_iter().find(|path| path.exists()) else {
        skipped("it takes gperftools (libgoogle-perftools4)");
        return;
    };
    let (_folder, path) = folder();
    let mut command = host(&["squares", "2000"]);
    command.env("LD_PRELOAD", library).env("CPUPROFILE", format!("{path}/profile"));
    let ended = ended(&mut command);
    let report = Report::read(&ended.stdout);
    assert_eq!((report.answers, report.good), (2000, 2000), "{ended:#?}");
    assert!(!ended.stderr.contains("Check failed"), "{ended:#?}");
    let profiles = std::fs::read_dir(&path).expect("the folder is our own").count();
    // The host's, and one of each worker, named by its process.
    assert!(profiles > 1, "{profiles}");
}

/// Which file the kernel runs for a program that another one interprets is that one: workers are the program all the same.
#[test]
fn workers_of_a_program_under_valgrind_are_the_program() {
    if !Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success()) {
        skipped("it takes valgrind");
        return;
    }
    let mut command = program("valgrind");
    command.args(["-q", "--error-exitcode=99", env!("CARGO_BIN_EXE_host"), "squares", "50"]);
    let mut host = Running::start(with_processes(&mut command, "1"));
    // It takes a program fifty times as long.
    until("the end of a program under valgrind", 5 * LIMIT, || host.has_ended());
    let ended = host.finish();
    assert!(ended.status.success(), "{ended:#?}");
    let report = Report::read(&ended.stdout);
    assert_eq!((report.answers, report.good), (50, 50), "{ended:#?}");
}

#[test]
fn a_limit_of_file_sizes_is_named() {
    let mut command = program("sh");
    command.args(["-c", "ulimit -f 1000; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_host"), "anything", "40"]);
    let report = run(&mut command);
    let error = all_or_one_error(&report, 40).expect("the workers' memory is a file");
    assert!(error.text.contains("RLIMIT_FSIZE") && error.text.contains("ulimit -f"), "{error:?}");
}

#[test]
fn a_function_has_the_stack_that_was_asked_for() {
    let levels = ["deep", "40000"];
    let ended = ended(host(&levels).env("FASTMAP_WORKER_STACK", (400u64 << 20).to_string()));
    assert_eq!(number(&ended, "deep "), 40_000, "{ended:#?}");
    let ended = Running::start(host(&levels).env("FASTMAP_WORKER_STACK", "2000000")).finish();
    assert!(!ended.status.success(), "{ended:#?}");
}

#[test]
fn deaths_are_noticed_where_the_system_refuses_to_watch_processes() {
    let report = run(&mut host(&["no-pidfd"]));
    assert_eq!((report.answers, report.good), (40, 39), "{report:#?}");
    assert_eq!((&*report.errors[0].kind, report.errors[0].index), ("Crash", Some(20)), "{report:#?}");
}

#[test]
fn a_library_that_binds_the_first_thread_before_main_leaves_workers_their_cores() {
    let cores = std::thread::available_parallelism().expect("cores").get();
    for (variable, value) in [("OMP_PROC_BIND", "true"), ("GOMP_CPU_AFFINITY", "0"), ("OMP_PLACES", "cores")]
    {
        let (_folder, path) = folder();
        let mut command = program(env!("CARGO_BIN_EXE_cores"));
        if cores == 1 {
            with_processes(&mut command, "2");
        }
        // GCC's OpenMP, as if the program were linked with it.
        let ended = ended(command.arg(&path).env("LD_PRELOAD", "libgomp.so.1").env(variable, value));
        let line = format!("{cores} cores");
        assert_eq!(ended.stdout, [line.as_str(); 2], "{variable}: {ended:#?}");
        assert!(ended.stderr.contains(&format!("{variable}={value}")), "{}", ended.stderr);
    }
}

#[test]
fn a_refusal_to_make_folders_is_named_and_costs_no_descriptors() {
    let ended = ended(host(&["no-folders", "4"]).env("RUST_BACKTRACE", "0"));
    let report = Report::read(&ended.stdout);
    assert_eq!(report.errors.len(), 4, "{ended:#?}");
    for error in &report.errors {
        assert!(error.text.contains("TMPDIR") && error.text.contains("os error 122"), "{error:?}");
    }
    let held = ended.stdout.iter().filter(|line| line.starts_with("descriptors "));
    assert_eq!(held.count(), 3, "{ended:#?}");
}

/// The host as another user, whose processes and threads may be so many.
fn as_other_user(program_of_all: &Path, tasks: &str) -> Command {
    // Nobody else's number, for the kernel counts what a user has.
    let user = (61_000 + std::process::id() % 4000).to_string();
    let mut command = program("setpriv");
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "prlimit"]);
    command.arg(format!("--nproc={tasks}")).arg(program_of_all).args(["anything", "40"]);
    command
}

/// Why the host can't be started as another user here.
fn no_other_user(program_of_all: &Path) -> Option<String> {
    let mut command = as_other_user(program_of_all, "100");
    // A configuration that can't be used: nothing is mapped.
    match command.env("FASTMAP_LOCAL_PROCESSES", "none").stdin(Stdio::null()).output() {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("begun") => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("setpriv: {error}")),
    }
}

#[test]
fn threads_and_processes_that_the_system_refuses_are_an_error() {
    let (opened, _) = folder();
    let host = open_copy(Path::new(env!("CARGO_BIN_EXE_host")), opened.path());
    if let Some(why) = no_other_user(&host) {
        skipped(&format!("it takes root, setpriv and prlimit: {why}"));
        return;
    }
    let (_folder, path) = folder();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .expect("the folder is our own");
    for tasks in 1..=12 {
        let ended = Running::start(as_other_user(&host, &tasks.to_string()).env("TMPDIR", &path)).finish();
        assert!(ended.status.success() && ended.status.signal().is_none(), "{tasks}: {ended:#?}");
        let report = Report::read(&ended.stdout);
        let error = all_or_one_error(&report, 40);
        assert!(tasks > 2 || error.is_some(), "{tasks} can't be enough");
        assert!(tasks < 12 || error.is_none(), "{error:?}");
    }
    // Of many workers as many run as there may be, and the limit is named.
    let mut command = as_other_user(&host, "14");
    let ended = Running::start(with_processes(command.env("TMPDIR", &path), "8")).finish();
    assert_eq!(Report::read(&ended.stdout).good, 40, "{ended:#?}");
    for words in ["of 8 workers can run", "this user may have 14 (ulimit -u)", "FASTMAP_LOCAL_PROCESSES"] {
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
}

#[test]
fn a_worker_stuck_in_init_for_a_dropped_map_is_ended_for_the_next_map() {
    for timeout in [None, Some("1000"), Some("0.05")] {
        let command = &mut host(&["left-in-init"]);
        if let Some(timeout) = timeout {
            command.env("FASTMAP_ITEM_TIMEOUT", timeout);
        }
        let mut running = Running::start(with_processes(command, "1"));
        running.line("in init");
        running.say("go on");
        assert_eq!(running.line("left "), "true");
        let report = Report::read(&running.finish().stdout);
        assert_eq!((report.answers, report.good), (100, 100), "{timeout:?}: {report:#?}");
    }
}

#[test]
fn state_that_cannot_be_freed_costs_the_next_map_nothing() {
    for (scenario, processes) in
        [("drop-blocks", "1"), ("drop-blocks", "2"), ("drop-panics", "1"), ("drop-panics", "2")]
    {
        let ended = ended(with_processes(&mut host(&[scenario, "3"]), processes));
        assert_eq!(times(&ended, "answers 20 ok 20"), 3, "{scenario}: {ended:#?}");
        assert_eq!(times(&ended, "answers 100 ok 100"), 3, "{scenario}: {ended:#?}");
    }
}

#[test]
fn workers_all_killed_between_two_maps_are_replaced() {
    let (_folder, path) = folder();
    let ended = ended(with_processes(&mut host(&["idle-killed", &path, "8"]), "6"));
    assert_eq!(times(&ended, "answers 60 ok 60"), 8, "{ended:#?}");
}

#[test]
fn answers_that_came_before_no_worker_could_live_come_before_the_error() {
    for processes in ["1", "2"] {
        let (_folder, path) = folder();
        let command = &mut host(&["no-more-workers"]);
        let report = run(with_processes(command, processes).env("DEATHS", format!("{path}/deaths")));
        let (last, before) = report.errors.split_last().expect("no worker lives on");
        assert_eq!((&*last.kind, last.index), ("AllWorkersDied", None), "{last:?}");
        // Item 300 may be known to be the culprit before the end.
        assert!(
            before.iter().all(|error| (&*error.kind, error.index) == ("Crash", Some(300))),
            "{before:#?}"
        );
        assert_eq!(report.answers, report.good + before.len() + 1, "{report:#?}");
        // One worker answers in order: all but the batch of item 300.
        assert!(report.good >= if processes == "1" { 200 } else { 1 }, "{report:#?}");
        assert!(report.good <= 300 || !before.is_empty(), "{report:#?}");
    }
}

#[test]
fn thousands_of_long_messages_are_cut_and_wait_within_the_budget() {
    let ended = ended(host(&["long-messages", "8000"]).env("FASTMAP_READ_AHEAD", "1000000"));
    assert!(!ended.stdout.iter().any(|line| line.starts_with("wrong")), "{ended:#?}");
    assert_eq!(number(&ended, "failures "), 4000);
    assert!((4000..5000).contains(&number(&ended, "longest ")), "{ended:#?}");
    // All of them whole are 400 MB, and cut 16.
    assert!(number(&ended, "peak ") <= 48 * 1024, "{ended:#?}");
}

#[test]
fn a_panic_that_was_passed_on_keeps_its_words_and_one_that_was_caught_lends_it_none() {
    let report = run(&mut host(&["passed-on", "2000"]));
    assert_eq!((report.answers, report.good), (2000, 800), "{report:#?}");
    for error in &report.errors {
        let index = error.index.expect("an item");
        let words = match index % 10 {
            1 => format!("of a thread of item {index}"),
            4 | 6 => format!("passed on by item {index}"),
            7 => format!("own words of item {index}"),
            _ => "a value that is not text".to_owned(),
        };
        assert_eq!(error.kind, "Panic");
        assert!(error.text.contains(&words), "{words}: {error:?}");
        assert!(!error.text.contains("swallowed"), "{error:?}");
    }
}

#[test]
fn work_moves_between_workers_beside_one_that_is_in_an_item_of_a_dropped_map() {
    // With few items nothing waits for a place, only behind the item that blocks.
    for (processes, others) in [("2", 1), ("2", 2), ("2", 11), ("3", 2), ("3", 11), ("4", 11)] {
        let (_folder, path) = folder();
        let command = &mut host(&["moves-beside-orphan", &path, processes, &others.to_string()]);
        let report = run(with_processes(command, processes));
        assert_eq!((report.answers, report.good), (others + 1, others + 1), "{processes}: {report:#?}");
    }
}

/// As another user: connects to each worker's socket that it finds below the folder, and says nothing. Says
/// so when it has begun, and each time that it was let in.
const STRANGER: &str = r#"
    use Socket; $| = 1; my %tried; my @held; print "begun\n";
    while (@held < 200) {
        for my $path (grep { !$tried{$_}++ } glob("$ARGV[0]/*/socket"), glob("$ARGV[0]/.tmp*/socket")) {
            socket(my $end, AF_UNIX, SOCK_SEQPACKET, 0) or next;
            if (connect($end, pack_sockaddr_un($path))) { push @held, $end; print "let in\n" }
            else { delete $tried{$path} }
        }
    }
"#;

#[test]
fn another_user_who_connects_to_a_workers_socket_holds_up_nothing_whatever_the_umask_is() {
    use std::io::BufRead;
    let (opened, _) = folder();
    if let Some(why) = no_other_user(&open_copy(Path::new(env!("CARGO_BIN_EXE_host")), opened.path())) {
        skipped(&format!("it takes root, setpriv and prlimit: {why}"));
        return;
    }
    let (_folder, path) = folder();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .expect("the folder is our own");
    let mut stranger = Command::new("setpriv");
    stranger.args(["--reuid", "65533", "--regid", "65533", "--clear-groups", "perl", "-e", STRANGER, &path]);
    let mut stranger = stranger.stdout(Stdio::piped()).spawn().expect("setpriv was there a moment ago");
    let mut said = std::io::BufReader::new(stranger.stdout.take().expect("a pipe"));
    let mut line = String::new();
    said.read_line(&mut line).expect("text");
    if line.is_empty() {
        drop((stranger.kill(), stranger.wait()));
        skipped("it takes perl");
        return;
    }
    for _ in 0..10 {
        let mut command = program("sh");
        command.args(["-c", "umask 0; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_host"), "squares", "100"]);
        let report = run(with_processes(&mut command, "2").env("TMPDIR", &path));
        assert_eq!((report.answers, report.good), (100, 100), "{report:#?}");
    }
    drop((stranger.kill(), stranger.wait()));
}
