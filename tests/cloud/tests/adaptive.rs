//! ADAPTIVE with a real service: the right results whatever happens to it, one warning, and nothing paid for nothing.

use std::process::Command;
use std::time::{Duration, Instant};

use fastmap_test_cloud::{Account, Service, Terminal, without_terminal};
use fastmap_test_programs::{Ended, Report, Running, until};
use nix::sys::signal::Signal;
use tempfile::TempDir;

const SERVICE: &str = env!("CARGO_BIN_EXE_cloud-service");
const HOST: &str = env!("CARGO_BIN_EXE_cloud-host");

/// One worker here and two there, and all that is decided is told.
fn adaptive(account: &Account, arguments: &[&str]) -> Command {
    let mut command = account.program(HOST, arguments);
    command.env("FASTMAP_EXEC_POLICY", "adaptive").env("FASTMAP_LOCAL_PROCESSES", "1");
    command
}

fn run(command: &mut Command) -> Ended {
    let ended = Running::start(command).finish();
    assert!(ended.status.success(), "{command:?}: {ended:#?}");
    ended
}

/// All results are there and right.
fn all(ended: &Ended, items: usize) {
    let report = Report::read(&ended.stdout);
    assert_eq!((report.good, report.answers, report.errors.len()), (items, items, 0), "{ended:#?}");
}

fn warnings(ended: &Ended) -> usize {
    ended.stderr.matches("the service is not used any more").count()
}

fn items_answered(service: &Service) -> u64 {
    service.runs("a").iter().filter_map(|run| run["items_answered"].as_u64()).sum()
}

/// Waits until the service has answered something.
fn await_answers(service: &Service) {
    let begun = Instant::now();
    while items_answered(service) == 0 {
        assert!(begun.elapsed() < Duration::from_mins(1), "the service is never used");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_long_map_uses_both_and_its_trace_tells_why() {
    let service = Service::start(SERVICE, &[]);
    let account = service.account("a", "10");
    let folder = TempDir::new().expect("a folder");
    let trace = folder.path().join("trace.jsonl");
    let ended = run(adaptive(&account, &["sleep", "800", "10"]).env("FASTMAP_TRACE", &trace));
    all(&ended, 800);
    assert_eq!(warnings(&ended), 0, "{}", ended.stderr);
    assert!(
        ended.stderr.contains("items here, ") && ended.stderr.contains(" in the service"),
        "{}",
        ended.stderr
    );
    let there = items_answered(&service);
    assert!(there > 100, "{there} of 800 items, with two workers of three");
    let told = Command::new(SERVICE).arg("explain").arg(&trace).output().expect("the command can be started");
    let told = String::from_utf8(told.stdout).expect("text");
    for words in
        ["naps: 800 items", "the service is asked", "a run is opened", "takes batches: 2 workers", "over: "]
    {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(!told.contains("would not"), "the policy decides the same again: {told}");
}

#[test]
fn a_short_map_opens_nothing_and_pays_nothing() {
    let service = Service::start(SERVICE, &[]);
    let account = service.account("a", "10");
    let ended = run(&mut adaptive(&account, &["squares", "1000"]));
    all(&ended, 1000);
    assert!(ended.stderr.contains("the service was not "), "{}", ended.stderr);
    assert!(service.runs("a").is_empty());
}

#[test]
fn a_service_that_is_killed_in_the_middle_costs_one_warning() {
    let service = Service::start(SERVICE, &[]);
    let account = service.account("a", "10");
    let host = Running::start(&mut adaptive(&account, &["sleep", "1500", "10"]));
    await_answers(&service);
    service.kill();
    let ended = host.finish();
    all(&ended, 1500);
    assert_eq!(warnings(&ended), 1, "{}", ended.stderr);
}

/// Items that a map has told of.
fn told(host: &mut Running) -> usize {
    host.so_far().filter(|line| line.starts_with("told ")).count()
}

#[test]
fn a_service_that_stands_still_holds_up_no_map_and_is_used_again() {
    const LIMIT: Duration = Duration::from_mins(2);
    let service = Service::start(SERVICE, &[]);
    let account = service.account("a", "10");
    // More than can be done: this machine is never without work.
    let mut host = Running::start(&mut adaptive(&account, &["watched", "1000000", "50"]));
    await_answers(&service);
    let before = items_answered(&service);
    service.signal(Signal::SIGSTOP);
    // More than stood behind what the service has, which is not answered meanwhile.
    let more = told(&mut host) + 200;
    until("items that the service has are done here", LIMIT, || told(&mut host) > more);
    service.signal(Signal::SIGCONT);
    until("the service is used again", LIMIT, || items_answered(&service) > before + 100);
    host.signal_group(Signal::SIGKILL);
    let ended = host.finish();
    assert_eq!(warnings(&ended), 0, "{}", ended.stderr);
    assert!(!ended.stdout.iter().any(|line| line.starts_with("wrong")), "{:?}", ended.stdout);
}

#[test]
fn credits_that_run_out_in_the_middle_cost_one_warning() {
    let service = Service::start(SERVICE, &["--price-result-gb", "100", "--price-cpu-hour", "0"]);
    let account = service.account("a", "0.5");
    let ended = run(&mut adaptive(&account, &["heavy", "400", "20"]));
    all(&ended, 400);
    assert!(warnings(&ended) <= 1, "{}", ended.stderr);
    let there = items_answered(&service);
    assert!(there > 0 && there <= 50, "{there} items, of which 0.5 credits pay 50");
    service.ask(&["credits", "audit"]);
}

#[test]
fn items_that_outlast_the_services_own_limit_are_done_here() {
    // There a batch is cut after four seconds, which no user has asked for.
    let service = Service::start(SERVICE, &["--batch-cpu", "1"]);
    let account = service.account("a", "10");
    let ended = run(adaptive(&account, &["sleep", "10", "5000"]).env("FASTMAP_LOCAL_PROCESSES", "2"));
    all(&ended, 10);
    // Each item is a batch of its own.
    let batches: u64 = service.runs("a").iter().filter_map(|run| run["batches"].as_u64()).sum();
    assert!(batches > items_answered(&service), "none was cut there: {}", ended.stderr);
}

#[test]
fn charges_that_are_declined_cost_one_warning_and_nothing_else() {
    let service = Service::start(SERVICE, &[]);
    let account = service.account("a", "10");
    let ended = run(without_terminal(
        adaptive(&account, &["sleep", "400", "10"]).env("FASTMAP_CONFIRM_CHARGES", "true"),
    ));
    all(&ended, 400);
    assert_eq!(warnings(&ended), 1, "{}", ended.stderr);
    // The command goes at once: it has the terminal open.
    let mut terminal =
        Terminal::start(adaptive(&account, &["sleep", "800", "10"]).env("FASTMAP_CONFIRM_CHARGES", "true"));
    terminal.shows("800 items would cost about");
    terminal.shows("Run it there? [y/N] ");
    terminal.types("n");
    let (status, screen) = terminal.finish();
    assert!(status.success() && screen.contains("answers 800 ok 800"), "{screen}");
    assert!(service.runs("a").is_empty());
}

#[test]
fn a_service_that_does_not_know_the_secret_costs_one_warning() {
    let service = Service::start(SERVICE, &[]);
    let account = service.account("a", "10");
    let wrong = Account { secret: format!("{}{}", &account.secret[..32], "0".repeat(32)), ..account };
    let ended = run(&mut adaptive(&wrong, &["sleep", "200", "10"]));
    all(&ended, 200);
    assert_eq!(warnings(&ended), 1, "{}", ended.stderr);
}

/// A map of which one item is lethal, near its end, where what lags is done on both sides.
fn lethal(which: u64, hangs: bool) -> (Ended, Report) {
    let service = Service::start(SERVICE, &[]);
    let account = service.account("a", "10");
    let (which, hangs) = (which.to_string(), u8::from(hangs).to_string());
    let mut command = adaptive(&account, &["lethal", "300", "10", &which, &hangs]);
    let ended = run(command.env("FASTMAP_ITEM_TIMEOUT", "1"));
    let report = Report::read(&ended.stdout);
    assert_eq!((report.answers, report.good, report.errors.len()), (300, 299, 1), "{ended:#?}");
    assert_eq!(warnings(&ended), 0, "{}", ended.stderr);
    (ended, report)
}

/// How often the lethal item was begun.
fn begun(ended: &Ended) -> usize {
    ended.stdout.iter().filter(|line| line.starts_with("<begun ")).count()
}

#[test]
fn a_hanging_item_is_begun_once_on_each_side_at_most_and_its_first_timeout_answers_it() {
    for which in [150, 296, 298] {
        let (ended, report) = lethal(which, true);
        assert_eq!(report.errors[0].kind, "Timeout", "{ended:#?}");
        assert!((1..=2).contains(&begun(&ended)), "{which}: {} times: {ended:#?}", begun(&ended));
    }
}

#[test]
fn deaths_of_an_item_count_over_both_sides() {
    for which in [150, 296, 298] {
        let (ended, report) = lethal(which, false);
        assert_eq!(report.errors[0].kind, "Crash", "{ended:#?}");
        // Its second try is on its way alone; one more can have begun elsewhere at the first death.
        assert!((2..=3).contains(&begun(&ended)), "{which}: {} times: {ended:#?}", begun(&ended));
    }
}
