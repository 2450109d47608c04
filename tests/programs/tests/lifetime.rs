//! Hosts that are killed, interrupted, fork or lose their file; what workers see, and what they leave behind.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Duration;

use fastmap_test_programs::{
    LIMIT, Report, Running, children, command_line, is_alive, program, state, until, workers, write_program,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

fn host(arguments: &[&str]) -> Command {
    let mut command = program(env!("CARGO_BIN_EXE_host"));
    command.args(arguments);
    command
}

fn run(command: &mut Command) -> fastmap_test_programs::Ended {
    let ended = Running::start(command).finish();
    assert!(ended.status.success(), "{ended:#?}");
    ended
}

/// A host whose two workers are in items that never end.
fn held(how: &str) -> (Running, Vec<i32>) {
    let mut running = Running::start(&mut host(&["hold", how]));
    let pids = [(); 2].map(|()| running.line("begun ").parse().expect("a process id"));
    (running, pids.to_vec())
}

fn gone(pids: &[i32]) {
    // Their items take longer by far, or never end.
    until("the end of all workers", LIMIT, || pids.iter().all(|pid| !is_alive(*pid)));
}

#[test]
fn workers_of_a_killed_host_end_whatever_they_do() {
    for how in ["loop", "sleep", "stopped"] {
        let (running, pids) = held(how);
        if how == "stopped" {
            for pid in &pids {
                kill(Pid::from_raw(*pid), Signal::SIGSTOP).expect("it is there");
            }
            until("both are stopped", LIMIT, || pids.iter().all(|pid| state(*pid) == Some('T')));
        }
        running.signal(Signal::SIGKILL);
        gone(&pids);
    }
}

#[test]
fn a_dropped_config_ends_its_workers_and_leaves_nothing() {
    let folder = TempDir::new().expect("a folder");
    let mut running = Running::start(host(&["drop"]).env("TMPDIR", folder.path()));
    assert_eq!(running.line("first "), "Some(Ok(0))");
    let stuck: i32 = running.line("begun ").parse().expect("a process id");
    let pids = workers(running.pid());
    assert!(pids.contains(&stuck));
    running.say("drop all");
    // Its item would never end.
    running.line("dropped");
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(children(running.pid()), [0; 0], "zombies");
    let left: Vec<_> = fs::read_dir(folder.path()).expect("it is there").collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(running.finish().status.success());
}

#[test]
fn a_host_that_ends_while_workers_are_on_their_way_leaves_nothing() {
    let folder = TempDir::new().expect("a folder");
    for round in 0..50 {
        let end = ["return", "exit"][round % 2];
        let command = &mut host(&["global", "16", end]);
        command.env("TMPDIR", folder.path()).env("FASTMAP_LOCAL_PROCESSES", "16");
        let ended = run(command);
        assert_eq!(Report::read(&ended.stdout).good, 16, "{ended:#?}");
        assert_eq!(ended.stderr, "", "round {round}");
        let left: Vec<_> = fs::read_dir(folder.path()).expect("it is there").collect();
        assert!(left.is_empty(), "round {round}: {left:?}");
    }
}

#[test]
fn what_a_function_has_started_ends_with_its_worker_however_that_ends() {
    for how in ["timeout", "abort", "exit", "hold", "drop", "return"] {
        let mut command = host(&["leaves", how]);
        if how == "timeout" {
            command.env("FASTMAP_ITEM_TIMEOUT", "1");
        }
        let mut running = Running::start(&mut command);
        assert_eq!(running.line("output "), "works");
        let started = ["command ", "daemon ", "fork "];
        let mut started =
            started.map(|kind| running.line(kind).parse::<i32>().expect("a process id")).to_vec();
        let mut kept = vec![running.line("kept ").parse::<i32>().expect("a process id")];
        if how == "abort" || how == "exit" {
            // It was tried twice.
            started.extend(
                ["command ", "daemon ", "fork "]
                    .map(|kind| running.line(kind).parse::<i32>().expect("a number")),
            );
            kept.push(running.line("kept ").parse().expect("a process id"));
        }
        match how {
            "hold" => running.signal(Signal::SIGKILL),
            "drop" | "return" => running.say("go on"),
            _ => {}
        }
        let left = || started.iter().copied().filter(|pid| is_alive(*pid)).collect::<Vec<_>>();
        until(&format!("{how}: the end of all that was started"), Duration::from_secs(10), || {
            left().is_empty()
        });
        assert!(kept.iter().all(|pid| is_alive(*pid)), "{how}: what is started without the mark lives on");
        for pid in kept {
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it lives");
        }
    }
}

#[test]
fn ctrl_c_and_sigterm_end_host_and_workers_without_a_word() {
    for (signal, group) in [(Signal::SIGINT, true), (Signal::SIGTERM, false), (Signal::SIGHUP, true)] {
        let (running, pids) = held("loop");
        if group {
            running.signal_group(signal);
        } else {
            running.signal(signal);
        }
        let ended = running.finish();
        assert_eq!(ended.status.signal(), Some(signal as i32));
        assert_eq!(ended.stderr, "");
        gone(&pids);
    }
}

#[test]
fn a_host_that_handles_the_signals_of_its_group_keeps_its_workers() {
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGTERM] {
        let mut running = Running::start(&mut host(&["handles", signal.as_str()]));
        let _both = [(); 2].map(|()| running.line("worker "));
        running.signal_group(signal);
        let ended = running.finish();
        assert!(ended.status.success(), "{signal}: {ended:#?}");
        assert!(ended.stdout.iter().all(|line| !line.starts_with("wrong")), "{signal}: {ended:#?}");
        let used = ended.stdout.iter().filter_map(|line| line.strip_prefix("worker ")).count();
        assert_eq!(used, 2, "{signal}: {ended:#?}");
        assert_eq!(ended.stderr, "", "{signal}");
    }
}

#[test]
fn what_a_function_has_started_ends_by_sigterm() {
    let ended = run(&mut host(&["ends-children"]));
    for line in ["program Some(15)", "copy true"] {
        assert!(ended.stdout.iter().any(|other| other == line), "{line}: {ended:#?}");
    }
}

#[test]
fn unusual_dispositions_of_signals_do_not_hide_a_crash() {
    for wish in ["ignore-sigchld", "default-sigpipe"] {
        for fault in ["segfault", "kill"] {
            let ended = run(host(&["faults", fault, "1000", "100", "50"]).env("SIGNALS", wish));
            let report = Report::read(&ended.stdout);
            assert_eq!((report.answers, report.good), (1000, 990), "{wish}: {report:#?}");
            assert!(report.errors.iter().all(|error| error.kind == "Crash"), "{wish}: {report:#?}");
        }
    }
}

#[test]
fn a_fork_of_the_host_harms_no_worker_and_cannot_map() {
    let ended = run(&mut host(&["forks"]));
    let said = |begin: &str| {
        ended
            .stdout
            .iter()
            .find(|line| line.starts_with(begin))
            .unwrap_or_else(|| panic!("{begin}: {ended:#?}"))
    };
    for what in ["drop", "map", "go on", "return"] {
        assert!(said(&format!("copy {what}: Exited")).contains(", 0)"), "{ended:#?}");
    }
    assert!(said("copy maps: ").contains("fork"), "{ended:#?}");
    assert!(said("copy goes on: ").contains("fork"), "{ended:#?}");
    let report = Report::read(&ended.stdout);
    assert_eq!((report.answers, report.good), (99_999, 99_999), "{:#?}", report.errors);
    assert_eq!(said("same workers: "), "same workers: true");
}

#[test]
fn new_workers_start_from_the_old_program_when_its_file_is_deleted_or_replaced() {
    for replaced in [false, true] {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("victim");
        write_program(&path, fs::File::open(env!("CARGO_BIN_EXE_host")).expect("it can be read"));
        let mut running = Running::start(program(path.to_str().expect("a plain path")).arg("serve"));
        running.say("map");
        let before = running.line("workers ");
        fs::remove_file(&path).expect("it can be deleted");
        if replaced {
            write_program(&path, fs::File::open("/bin/true").expect("it can be read"));
        }
        for pid in workers(running.pid()) {
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is there");
            until("its end", LIMIT, || !is_alive(pid));
        }
        running.say("map");
        let after = running.line("workers ");
        assert!(before.split(' ').all(|pid| after.split(' ').all(|other| other != pid)), "{before}, {after}");
        assert!(running.finish().status.success());
    }
}

#[test]
fn workers_are_known_by_the_programs_name_and_fastmap() {
    let (running, pids) = held("sleep");
    for pid in &pids {
        let line = command_line(*pid);
        assert!(line.starts_with("host") && line.contains("fastmap"), "{line}");
    }
    assert_eq!(workers(running.pid()).len(), 2);
}

#[test]
fn workers_have_an_empty_stdin_and_no_secrets() {
    let ended = run(host(&["inside"]).env("FASTMAP_SECRET", "s3cret").env("OTHER", "1"));
    let has = |line: &str| ended.stdout.iter().any(|other| other == line);
    assert!(has("stdin /dev/null") && has("empty true") && has("secret false"), "{ended:#?}");
    assert!(has("variable OTHER"), "what is not fastmap's is inherited: {ended:#?}");
    assert!(!has("variable FASTMAP_SECRET") && !has("variable FASTMAP_WORKER"), "{ended:#?}");
}

#[test]
fn lines_of_many_workers_arrive_unbroken() {
    let ended = run(host(&["lines", "200"]).env("FASTMAP_LOCAL_PROCESSES", "4"));
    assert_eq!(Report::read(&ended.stdout).good, 200);
    let stderr: Vec<String> = ended.stderr.lines().map(str::to_owned).collect();
    let stdout: Vec<String> = ended.stdout.into_iter().filter(|line| line.contains('<')).collect();
    for lines in [&stdout, &stderr] {
        let mut seen = [false; 200];
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            let [begin, text, end] = words[..] else { panic!("a broken line: {line}") };
            let number: usize = begin.trim_start_matches('<').parse().expect("a number");
            assert_eq!(end, format!("{number}>"));
            let letter = char::from(b'a' + (number % 26) as u8);
            assert!(text.len() == 2000 && text.chars().all(|other| other == letter), "{line}");
            assert!(!std::mem::replace(&mut seen[number], true), "twice: {line}");
        }
        assert_eq!(lines.len(), 200);
    }
}

#[test]
fn what_workers_print_stands_before_what_the_program_prints_behind_its_map() {
    let ways = [("rust", "return"), ("rust", "exit"), ("c", "return"), ("c", "exit"), ("rust", "panic")];
    for (lines, (how, end)) in [1, 2000].into_iter().flat_map(|lines| ways.map(|way| (lines, way))) {
        let ended = Running::start(&mut host(&["prints", how, "20", &lines.to_string(), end])).finish();
        let mut printed: Vec<&str> = ended.stdout.iter().map(String::as_str).collect();
        assert_eq!(printed.pop(), Some("after 20"), "{how}, {end}");
        assert_eq!(printed.len(), 20 * lines, "{how}, {end}");
        let all: BTreeSet<&str> = printed.into_iter().collect();
        assert_eq!(all.len(), 20 * lines, "{how}, {end}");
        assert!(all.contains("printed 0 0") && all.contains(&*format!("printed 19 {}", lines - 1)));
    }
}

#[test]
fn a_program_that_ends_amid_its_map_shows_what_answered_items_have_printed() {
    for how in ["rust", "c"] {
        let ended = run(&mut host(&["prints", how, "200", "3", "amid"]));
        let answered: Vec<&str> =
            ended.stdout.iter().filter_map(|line| line.strip_prefix("answered ")).collect();
        assert!(!answered.is_empty());
        for n in answered {
            let begin = format!("printed {n} ");
            assert_eq!(ended.stdout.iter().filter(|line| line.starts_with(&begin)).count(), 3, "{n}");
        }
    }
    // What has no end of its line comes when its worker leaves, as by a program that calls the function
    // itself.
    let ended = run(&mut host(&["prints", "rust", "1", "1", "half"]));
    assert_eq!(ended.stdout, ["printed 0 0", "half a line"]);
}

#[test]
fn the_level_of_the_host_is_that_of_its_workers_whenever_it_changes() {
    let ended = run(&mut host(&["levels"]));
    let enabled: Vec<&String> = ended.stdout.iter().filter(|line| line.starts_with("enabled ")).collect();
    assert_eq!(enabled, ["enabled 0", "enabled 10", "enabled 0"]);
    let records: Vec<&String> = ended.stdout.iter().filter(|line| line.starts_with("record ")).collect();
    assert_eq!(records.len(), 10, "{ended:#?}");
    assert!(records.iter().all(|line| line.contains("of 10")), "{ended:#?}");
}

#[test]
fn errors_have_the_place_of_a_panic_and_the_frames_of_the_function_when_they_are_asked_for() {
    for (backtrace, sandbox) in [("0", "off"), ("1", "off"), ("1", "auto")] {
        let command = &mut host(&["panics"]);
        let ended = run(command.env("RUST_BACKTRACE", backtrace).env("FASTMAP_SANDBOX", sandbox));
        let errors: Vec<&String> = ended
            .stdout
            .iter()
            .filter(|line| line.starts_with("plain ") || line.starts_with("hooked "))
            .collect();
        assert_eq!(errors.len(), 4, "{ended:#?}");
        for error in errors {
            assert!(error.contains("panicked at ") && error.contains("printed.rs:"), "{error}");
            assert!(error.contains("index out of bounds: the len is 0"), "{error}");
            let frames = ["deep_in_the_function", "what_is_mapped"];
            assert!(frames.iter().all(|frame| error.contains(frame) == (backtrace == "1")), "{error}");
            let ours = ["fastmap::", "fastmap_backends", "panicking", "begin_unwind"];
            assert!(!ours.iter().any(|frame| error.contains(frame)), "{error}");
        }
        assert_eq!(ended.stderr.matches("the function's own hook").count(), 2, "{ended:#?}");
    }
}

#[test]
fn log_records_of_the_function_reach_the_hosts_logger() {
    let ended = run(&mut host(&["logs"]));
    assert_eq!(Report::read(&ended.stdout).good, 20, "the level of the host is the level there");
    for n in 0..20 {
        let of_this = |line: &&String| line.ends_with(&format!("] info of {n}"));
        let lines: Vec<_> = ended.stdout.iter().filter(of_this).collect();
        assert_eq!(lines.len(), 1, "{ended:#?}");
        assert!(lines[0].starts_with("log INFO function [worker-"), "{lines:?}");
    }
    assert!(!ended.stdout.iter().any(|line| line.contains("debug of")), "{ended:#?}");
}

#[test]
fn no_send_to_a_worker_waits_for_ever() {
    let mut command = program(env!("CARGO_BIN_EXE_host"));
    let ended = Running::start(command.arg("send-limits").env("FASTMAP_LOCAL_PROCESSES", "2")).finish();
    assert!(ended.stdout.iter().any(|line| line == "limited 2"), "{ended:#?}");
}

#[test]
fn the_cheapest_ways_to_live_and_end_are_right() {
    let short = program(env!("CARGO_BIN_EXE_lives")).arg("--short").output().expect("it can be started");
    assert!(
        short.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&short.stdout),
        String::from_utf8_lossy(&short.stderr)
    );
}
