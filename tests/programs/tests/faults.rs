//! Items, workers and outsiders that kill: every other item is answered, in order, and the map ends.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastmap_test_programs::{Failure, LIMIT, Report, Running, is_alive, program, skipped, until, workers};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

fn host(arguments: &[&str]) -> Command {
    let mut command = program(env!("CARGO_BIN_EXE_host"));
    command.args(arguments);
    command
}

fn run(command: &mut Command) -> Report {
    let ended = Running::start(command).finish();
    assert!(ended.status.success(), "{ended:#?}");
    Report::read(&ended.stdout)
}

/// One item among 1,000 fails in that way; gives its error.
fn one_of_1000(command: &mut Command) -> Failure {
    let mut report = run(command);
    assert_eq!((report.answers, report.good), (1000, 999), "{:#?}", report.errors);
    let error = report.errors.remove(0);
    assert_eq!(error.index, Some(500), "{error:?}");
    error
}

fn crash(fault: &str, words: &[&str]) {
    let error = one_of_1000(&mut host(&["faults", fault, "1000", "1000", "500"]));
    assert_eq!(error.kind, "Crash", "{error:?}");
    for word in words.iter().chain(&["item 500", "item 500 is about to fail"]) {
        assert!(error.text.contains(word), "{word}: {error:?}");
    }
}

#[test]
fn an_item_that_segfaults_costs_itself_alone() {
    crash("segfault", &["signal 11", "SIGSEGV"]);
}

#[test]
fn a_crash_whose_core_takes_longer_to_dump_than_items_may_take_is_a_crash_with_a_whole_core() {
    const MEGABYTES: u64 = 128;
    let folder = TempDir::new().expect("a folder");
    let mut command = host(&["dumps"]);
    command.env("MEGABYTES", MEGABYTES.to_string()).env("FASTMAP_ITEM_TIMEOUT", "0.1").current_dir(&folder);
    let ended = Running::start(&mut command).finish();
    if ended.stdout.iter().any(|line| line == "limit 0") {
        skipped("no process may dump its core");
        return;
    }
    let report = Report::read(&ended.stdout);
    assert_eq!((report.answers, report.good), (10, 9), "{ended:#?}");
    let error = &report.errors[0];
    assert_eq!((&*error.kind, error.index), ("Crash", Some(3)), "{error:?}");
    assert!(error.text.contains("SIGSEGV"), "{error:?}");
    // Where the system hands cores to a program, or names them otherwise, it has none here.
    for core in std::fs::read_dir(&folder).expect("it is there").flatten() {
        let bytes = core.metadata().expect("a file").len();
        assert!(bytes > MEGABYTES << 20, "{core:?} has {bytes} bytes");
    }
}

#[test]
fn an_item_that_aborts_costs_itself_alone() {
    crash("abort", &["signal 6", "SIGABRT"]);
}

#[test]
fn an_item_that_exits_costs_itself_alone() {
    crash("exit-3", &["exit(3)"]);
}

#[test]
fn an_item_that_exits_as_if_all_were_well_costs_itself_alone() {
    crash("exit-0", &["exit(0)"]);
}

#[test]
fn an_item_that_overflows_the_stack_costs_itself_alone() {
    crash("overflow", &["signal 6", "has overflowed its stack"]);
}

#[test]
fn an_item_that_kills_its_worker_costs_itself_alone() {
    crash("kill", &["signal 9", "SIGKILL"]);
}

#[test]
fn an_item_that_runs_out_of_memory_costs_itself_alone() {
    crash("memory", &["signal 6", "memory allocation of"]);
}

#[test]
fn a_limit_that_init_set_holds_for_the_items_of_its_worker() {
    let error = one_of_1000(&mut host(&["init-limit", "1000"]));
    assert_eq!(error.kind, "Crash");
    assert!(error.text.contains("memory allocation of"), "{error:?}");
}

#[test]
fn an_item_that_panics_is_answered_by_message_and_place_and_its_worker_lives() {
    let error = one_of_1000(&mut host(&["faults", "panic", "1000", "1000", "500"]));
    assert_eq!(error.kind, "Panic");
    assert!(error.text.contains("as asked") && error.text.contains("faults.rs:"), "{error:?}");
}

#[test]
fn an_item_that_never_returns_times_out_and_costs_itself_alone() {
    for fault in ["hang", "spin"] {
        let command = &mut host(&["faults", fault, "1000", "1000", "500"]);
        let error = one_of_1000(command.env("FASTMAP_ITEM_TIMEOUT", "0.5"));
        assert_eq!(error.kind, "Timeout", "{error:?}");
        assert!(error.text.contains("item 500") && error.text.contains("500ms"), "{error:?}");
    }
}

#[test]
fn ten_lethal_items_of_a_hundred_are_ten_errors() {
    for fault in ["segfault", "panic", "exit-0", "kill"] {
        let report = run(&mut host(&["faults", fault, "100", "10", "5"]));
        assert_eq!((report.answers, report.good), (100, 90), "{fault}: {report:#?}");
        let places: Vec<_> = report.errors.iter().filter_map(|error| error.index).collect();
        assert_eq!(places, (0..10).map(|n| n * 10 + 5).collect::<Vec<_>>());
    }
}

#[test]
fn items_that_are_all_lethal_are_all_errors_and_the_map_ends() {
    for (fault, kind) in [("abort", "Crash"), ("panic", "Panic"), ("kill", "Crash")] {
        let report = run(&mut host(&["faults", fault, "50", "1", "0"]));
        assert_eq!((report.answers, report.good), (50, 0), "{fault}: {report:#?}");
        for (place, error) in report.errors.iter().enumerate() {
            assert_eq!((error.index, &*error.kind), (Some(place), kind), "{error:?}");
        }
    }
}

#[test]
fn workers_killed_from_outside_again_and_again_lose_no_item() {
    // 2 ms each by two workers: 4,000 items last 4 s, in which there are 15 kills.
    let items: usize =
        std::env::var("FASTMAP_TEST_ITEMS").map_or(4000, |items| items.parse().expect("a number"));
    let mut running = Running::start(&mut host(&["slow", &items.to_string(), "2"]));
    running.line("first answer");
    let mut kills = 0;
    let mut next = Instant::now();
    while kills < items * 15 / 4000 {
        sleep(next.saturating_duration_since(Instant::now()));
        next += Duration::from_millis(200);
        let victims = workers(running.pid());
        if let Some(victim) = victims.get(kills % victims.len().max(1)) {
            kill(Pid::from_raw(*victim), Signal::SIGKILL).expect("it was there a moment ago");
            kills += 1;
        }
    }
    let ended = running.finish();
    let report = Report::read(&ended.stdout);
    assert_eq!((report.answers, report.good), (items, items), "{:#?}", report.errors);
}

#[test]
fn an_init_that_aborts_ends_the_map_once_with_the_deaths_listed() {
    let report = run(&mut host(&["init-abort"]));
    assert_eq!((report.answers, report.good), (1, 0), "{report:#?}");
    let error = &report.errors[0];
    assert_eq!((&*error.kind, error.index), ("AllWorkersDied", None));
    assert!(error.text.contains("signal 6") && error.text.contains("no licence found"), "{error:?}");
}

/// What becomes of the item that broke its worker's channel is not promised; all others are answered.
fn hostile(fault: &str) {
    for processes in ["1", "2"] {
        let command = &mut host(&["faults", fault, "1000", "1000", "500"]);
        let report = run(command.env("FASTMAP_LOCAL_PROCESSES", processes));
        assert_eq!(report.answers, 1000, "{:#?}", report.errors);
        assert!(report.good >= 999, "{:#?}", report.errors);
        assert!(report.errors.iter().all(|error| error.index == Some(500)), "{:#?}", report.errors);
    }
}

#[test]
fn a_function_that_closes_all_descriptors_costs_at_most_its_item() {
    hostile("close-all");
}

#[test]
fn a_function_that_writes_garbage_into_every_socket_costs_at_most_its_item() {
    hostile("garbage");
}

#[test]
fn a_function_that_begins_an_answer_of_a_terabyte_costs_at_most_its_item() {
    hostile("lie-0");
}

#[test]
fn a_function_that_begins_a_message_that_never_ends_costs_at_most_its_item() {
    hostile("lie-1");
}

#[test]
fn a_function_that_answers_what_was_not_asked_costs_at_most_its_item() {
    // To another worker's batch; from beyond the shared memory; by what lies elsewhere where nothing may, and by what
    // is the host's to say.
    for lie in ["lie-2", "lie-3", "lie-4", "lie-6", "lie-7", "lie-8"] {
        hostile(lie);
    }
}

#[test]
fn a_function_that_refuses_a_job_that_nobody_has_costs_at_most_its_item() {
    hostile("lie-5");
}

#[test]
fn a_flood_of_log_records_costs_nothing() {
    let report = run(&mut host(&["faults", "flood", "1000", "1000", "500"]));
    assert_eq!((report.answers, report.good), (1000, 1000), "{:#?}", report.errors);
}

#[test]
fn a_worker_that_is_stopped_times_out() {
    let command = &mut host(&["faults", "stop", "1000", "1000", "500"]);
    let error = one_of_1000(command.env("FASTMAP_ITEM_TIMEOUT", "0.5"));
    assert_eq!(error.kind, "Timeout", "{error:?}");
}

#[test]
fn a_worker_that_is_stopped_goes_on_when_it_is_let() {
    let mut running = Running::start(&mut host(&["faults", "stop", "1000", "1000", "500"]));
    let stopped: i32 = running.line("stopping ").parse().expect("a process id");
    until("the worker is stopped", LIMIT, || fastmap_test_programs::state(stopped) == Some('T'));
    // Long enough for the others to do all that they can take over.
    sleep(Duration::from_millis(300));
    assert!(is_alive(stopped));
    kill(Pid::from_raw(stopped), Signal::SIGCONT).expect("it is there");
    let report = Report::read(&running.finish().stdout);
    assert_eq!((report.answers, report.good), (1000, 1000), "{:#?}", report.errors);
}

#[test]
fn time_in_which_host_and_workers_are_stopped_does_not_count_against_an_item() {
    for stop in [Signal::SIGTSTP, Signal::SIGSTOP] {
        let folder = TempDir::new().expect("a folder");
        let file = folder.path().join("go on");
        let command = &mut host(&["until-file", file.to_str().expect("a plain path")]);
        let mut running = Running::start(command.env("FASTMAP_ITEM_TIMEOUT", "2"));
        running.line("begun ");
        running.line("begun ");
        let all: Vec<i32> = [running.pid()].into_iter().chain(workers(running.pid())).collect();
        running.signal_group(stop);
        until("all are stopped", LIMIT, || {
            all.iter().all(|pid| fastmap_test_programs::state(*pid) == Some('T'))
        });
        // More than the timeout.
        sleep(Duration::from_secs(3));
        running.signal_group(Signal::SIGCONT);
        std::fs::write(file, "").expect("a file can be made");
        let report = Report::read(&running.finish().stdout);
        assert_eq!((report.answers, report.good), (2, 2), "{stop}: {:#?}", report.errors);
    }
}

/// Starts a map whose two workers are idle, stops one of them, and lets it go on.
fn one_stopped_while_idle(limit: Option<&str>) -> Report {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("go on");
    let mut command = host(&["stopped-idle", file.to_str().expect("a plain path")]);
    if let Some(limit) = limit {
        command.env("FASTMAP_ITEM_TIMEOUT", limit);
    }
    let mut running = Running::start(&mut command);
    let stopped: i32 = running.line("idle ").parse().expect("a process id");
    kill(Pid::from_raw(stopped), Signal::SIGSTOP).expect("it is there");
    until("the worker is stopped", LIMIT, || fastmap_test_programs::state(stopped) == Some('T'));
    std::fs::write(file, "").expect("a file can be made");
    Report::read(&running.finish().stdout)
}

#[test]
fn a_worker_that_is_stopped_while_idle_does_not_hold_up_a_map_that_others_can_do() {
    for limit in [None, Some("0.2")] {
        let report = one_stopped_while_idle(limit);
        assert_eq!((report.answers, report.good), (100, 100), "{limit:?}: {:#?}", report.errors);
    }
}

#[test]
fn an_item_that_stops_its_worker_again_and_again_is_answered_by_an_error_of_its_own() {
    let error = one_of_1000(&mut host(&["faults", "stop", "1000", "1000", "500"]));
    assert_eq!(error.kind, "Crash", "{error:?}");
    assert!(error.text.contains("it was stopped (SIGSTOP)"), "{error:?}");
}

#[test]
fn a_map_none_of_whose_first_items_lives_ends_early_and_says_so_once() {
    for items in ["17", "1000"] {
        let ended = Running::start(&mut host(&["library-ends", items])).finish();
        let report = Report::read(&ended.stdout);
        assert!((1..=12).contains(&report.errors.len()) && report.good == 0, "{report:#?}");
        let last = report.errors.last().expect("there are some");
        assert_eq!((&*last.kind, last.index), ("AllWorkersDied", None), "{report:#?}");
        for word in ["has lived", "exit(1)", "no module of that name"] {
            assert!(last.text.contains(word), "{word}: {last:?}");
        }
        let lines: Vec<&str> = ended.stderr.lines().collect();
        let words = lines.iter().filter(|line| line.contains("no module of that name")).count();
        // Workers may end side by side before either is known to have.
        assert!((25..=75).contains(&words), "{words} lines: {lines:#?}");
        assert!(lines.iter().any(|line| line.contains("ended with the same words")), "{lines:#?}");
    }
}
