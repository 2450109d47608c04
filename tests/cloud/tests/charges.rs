//! What a map costs, who is asked, and what happens when there is nothing left to pay with.

use std::process::Command;

use fastmap_test_cloud::{Account, Service, Terminal, without_terminal};
use fastmap_test_programs::{Ended, Report, Running};
use serde_json::Value;

const SERVICE: &str = env!("CARGO_BIN_EXE_cloud-service");
const HOST: &str = env!("CARGO_BIN_EXE_cloud-host");
/// CPU time is free, and the 100 KB of a result cost a hundredth of a credit.
const BY_BYTES: [&str; 4] = ["--price-result-gb", "100", "--price-cpu-hour", "0"];

fn run(command: &mut Command) -> Ended {
    let ended = Running::start(command).finish();
    assert!(ended.status.success(), "{command:?}: {ended:#?}");
    ended
}

/// Items whose answers the service has charged. The last one of a batch may be worth more than was left for it: that is
/// the service's loss.
fn items_answered(service: &Service) -> u64 {
    service.runs("a").iter().filter_map(|run| run["items_answered"].as_u64()).sum()
}

fn credits(value: &Value) -> f64 {
    value.as_str().expect("credits").parse().expect("a number")
}

/// What the closing line says was spent.
fn told(ended: &Ended) -> f64 {
    let (_, rest) = ended.stderr.split_once("/s, cloud, ").unwrap_or_else(|| panic!("{}", ended.stderr));
    let words = rest.split([',', ')']).find_map(|part| part.trim().strip_suffix(" credits"));
    words.unwrap_or_else(|| panic!("{}", ended.stderr)).parse().expect("a number")
}

fn notices(stderr: &str) -> usize {
    stderr.matches("is charged automatically").count()
}

#[test]
fn the_closing_line_tells_what_the_ledger_has() {
    let service = Service::start(SERVICE, &BY_BYTES);
    let account = service.account("a", "10");
    let ended = run(&mut account.program(HOST, &["bytes", "30"]));
    assert_eq!(Report::read(&ended.stdout).good, 30);
    let spent = credits(&service.runs("a")[0]["credits"]);
    assert!((0.3..0.31).contains(&spent), "{spent}");
    assert!((told(&ended) - spent).abs() < 1e-9, "{spent}: {}", ended.stderr);
    let left = credits(&service.ask(&["account", "show", "a"])["credits"]);
    assert!((left + spent - 10.0).abs() < 1e-9);
    assert!(ended.stderr.contains(&format!(", {left} left)")), "{left}: {}", ended.stderr);
    service.ask(&["credits", "audit"]);
}

#[test]
fn that_the_balance_is_debited_is_told_once_a_configuration_unless_it_is_quiet_or_local() {
    let service = Service::start(SERVICE, &[]);
    let account = service.account("a", "10");
    let program = || account.program(HOST, &["squares", "100", "3"]);
    assert_eq!(notices(&run(&mut program()).stderr), 1);
    assert_eq!(run(program().env("FASTMAP_VERBOSITY", "quiet")).stderr, "");
    let local = run(program().env("FASTMAP_EXEC_POLICY", "local")).stderr;
    assert!(notices(&local) == 0 && local.lines().count() == 3, "{local}");
}

/// All that was paid for is there, and then one error; nothing behind it. Items in a gap say so each.
fn ends_paid(service: &Service, ended: &Ended) -> String {
    let report = Report::read(&ended.stdout);
    let (last, gaps) = report.errors.split_last().expect("an error");
    assert_eq!(report.answers, report.good + gaps.len() + 1, "{report:#?}");
    assert_eq!((&*last.kind, last.index), ("OutOfCredits", None), "{report:#?}");
    assert!(gaps.iter().all(|gap| gap.kind == "OutOfCredits" && gap.index.is_some()), "{report:#?}");
    // The cause stands once, in the last error.
    let short = "not answered when the map ended: out of credits (the map's last error says more)";
    assert!(gaps.iter().all(|gap| gap.text.ends_with(short) && gap.text.len() < 120), "{report:#?}");
    assert!(report.good > 0 && report.good < 1000, "{report:#?}");
    assert_eq!(items_answered(service), report.good as u64, "what was paid for was yielded: {report:#?}");
    service.ask(&["credits", "audit"]);
    last.text.clone()
}

#[test]
fn out_of_credits_all_that_was_paid_for_is_yielded_and_then_the_error() {
    let service = Service::start(SERVICE, &BY_BYTES);
    let account = service.account("a", "0.5");
    let ended = run(&mut account.program(HOST, &["bytes", "1000"]));
    let text = ends_paid(&service, &ended);
    assert!(text.contains("credits"), "{text}");
    let left = credits(&service.ask(&["account", "show", "a"])["credits"]);
    assert!((0.0..0.5).contains(&left), "{left}");
    // The next map yields what the rest still pays for, and then ends in the same way.
    let next = Report::read(&run(&mut account.program(HOST, &["bytes", "1000"])).stdout);
    let last = next.errors.last().unwrap_or_else(|| panic!("{next:#?}"));
    assert_eq!((&*last.kind, last.index), ("OutOfCredits", None), "{next:#?}");
    assert!(next.errors.iter().all(|error| error.kind == "OutOfCredits"), "{next:#?}");
    assert!(f64::from(u32::try_from(next.good).expect("few")) * 0.01 <= left, "{left} left: {next:#?}");
    service.ask(&["credits", "audit"]);
}

#[test]
fn unordered_it_ends_the_same_way() {
    let service = Service::start(SERVICE, &BY_BYTES);
    let ended = run(&mut service.account("a", "0.5").program(HOST, &["bytes-unordered", "1000"]));
    let report = Report::read(&ended.stdout);
    assert_eq!(report.errors.len(), 1, "{ended:#?}");
    assert_eq!(report.errors[0].kind, "OutOfCredits");
    assert_eq!(items_answered(&service), report.good as u64);
}

#[test]
fn no_map_spends_more_than_max_credits() {
    let service = Service::start(SERVICE, &BY_BYTES);
    let account = service.account("a", "10");
    let ended = run(account.program(HOST, &["bytes", "1000"]).env("FASTMAP_MAX_CREDITS", "0.25"));
    let text = ends_paid(&service, &ended);
    assert!(text.contains("max_credits"), "{text}");
    let spent = credits(&service.runs("a")[0]["credits"]);
    assert!(spent > 0.1 && spent <= 0.25, "{spent}");
    // Too little for any batch, it is not said to be spent.
    let ended = run(account.program(HOST, &["bytes", "10"]).env("FASTMAP_MAX_CREDITS", "0.001"));
    let errors = Report::read(&ended.stdout).errors;
    let text = &errors.last().expect("an error").text;
    for words in ["may spend 0.001 credits", "too little for any batch", "FASTMAP_MAX_CREDITS"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // What is enough is no hindrance.
    let ended = run(account.program(HOST, &["bytes", "10"]).env("FASTMAP_MAX_CREDITS", "5"));
    assert_eq!(Report::read(&ended.stdout).good, 10);
}

fn asking(account: &Account, arguments: &[&str]) -> Command {
    let mut command = account.program(HOST, arguments);
    command.env("FASTMAP_CONFIRM_CHARGES", "true");
    command
}

#[test]
fn a_map_that_is_confirmed_at_the_terminal_runs() {
    let service = Service::start(SERVICE, &BY_BYTES);
    let account = service.account("a", "10");
    let mut terminal = Terminal::start(&mut asking(&account, &["bytes", "300"]));
    terminal.shows("Run it there? [y/N] ");
    terminal.types("y");
    let (status, screen) = terminal.finish();
    assert!(status.success() && screen.contains("answers 300 ok 300"), "{screen}");
    assert!(screen.contains("the account a") && screen.contains("300 items would cost about"), "{screen}");
    assert_eq!(notices(&screen), 0, "who was asked knows");
    assert!(items_answered(&service) > 0);
}

#[test]
fn a_map_that_is_declined_sends_nothing_and_says_what_else_to_do() {
    let service = Service::start(SERVICE, &[]);
    let account = service.account("a", "10");
    for answer in ["n", "", "nonsense"] {
        // Its length is not known, so that there is no estimate.
        let mut terminal = Terminal::start(&mut asking(&account, &["endless", "1000000"]));
        terminal.shows("cannot be estimated");
        terminal.shows("Run it there? [y/N] ");
        terminal.types(answer);
        let (status, screen) = terminal.finish();
        assert!(status.success(), "{screen}");
        assert!(screen.contains("error Declined - "), "{screen}");
        assert!(screen.contains("confirm_charges") && screen.contains("the policy local"), "{screen}");
    }
    assert!(service.runs("a").is_empty());
}

#[test]
fn while_the_question_stands_the_map_goes_on_here_and_what_workers_print_waits() {
    let service = Service::start(SERVICE, &[]);
    let account = service.account("a", "10");
    let mut command = asking(&account, &["told", "600", "10"]);
    command.env("FASTMAP_EXEC_POLICY", "adaptive").env("FASTMAP_LOCAL_PROCESSES", "1");
    let mut terminal = Terminal::start(&mut command);
    terminal.shows("Run it there? [y/N] ");
    let told = terminal.screen().matches("<told ").count();
    // More than what was on its way when it was asked.
    let later = told + 150;
    terminal.shows(&format!("<told {later}>"));
    let question = terminal.screen().find("[y/N]").expect("it was shown");
    let made = terminal.screen()[question..].matches("<made ").count();
    assert!(made < 10, "{made} lines of workers stand in the question:\n{}", terminal.screen());
    terminal.types("n");
    let (status, screen) = terminal.finish();
    assert!(status.success(), "{screen}");
    for n in 0..600 {
        assert_eq!(screen.matches(&format!("<told {n}>")).count(), 1, "{n}:\n{screen}");
        assert_eq!(screen.matches(&format!("<made {n}>")).count(), 1, "{n}:\n{screen}");
    }
    assert!(service.runs("a").is_empty());
}

/// How often a question was taken back.
fn taken_back(screen: &str) -> usize {
    screen.matches("(the question is no longer needed: its map is over)").count()
}

#[test]
fn a_question_that_nobody_answers_ends_with_its_map_and_no_line_is_lost() {
    let service = Service::start(SERVICE, &[]);
    let account = service.account("a", "10");
    let mut command = asking(&account, &["told", "600", "10"]);
    command.env("FASTMAP_EXEC_POLICY", "adaptive").env("FASTMAP_LOCAL_PROCESSES", "1");
    let mut terminal = Terminal::start(&mut command);
    terminal.shows("Run it there? [y/N] ");
    // The process ends with the map.
    let (status, screen) = terminal.finish();
    assert!(status.success() && taken_back(&screen) == 1, "{screen}");
    for n in 0..600 {
        assert_eq!(screen.matches(&format!("<made {n}>")).count(), 1, "{n}:\n{screen}");
    }
    assert_eq!(screen.matches("fastmap: 600 items in ").count(), 1, "{screen}");
    assert!(service.runs("a").is_empty());
}

#[test]
fn a_process_that_goes_on_asks_for_its_next_map_and_has_told_of_the_one_before() {
    let service = Service::start(SERVICE, &[]);
    let account = service.account("a", "10");
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = asking(&account, &["left", folder.path().to_str().expect("text")]);
    command.env("FASTMAP_EXEC_POLICY", "adaptive").env("FASTMAP_LOCAL_PROCESSES", "1");
    command.env("TERM", "xterm-256color");
    let mut terminal = Terminal::start(&mut command);
    for (name, items) in [("first", 9000), ("second", 8000)] {
        // It is shown as a whole, whether or not there is an estimate.
        terminal.shows(&format!("{items} items "));
        std::fs::write(folder.path().join(name), "").expect("room on the disk");
        terminal.shows(&format!("<left {name}>"));
    }
    let (status, screen) = terminal.finish();
    assert!(status.success() && taken_back(&screen) == 2, "{screen}");
    let second = screen.find("8000 items ").expect("it was shown");
    assert_eq!(screen[..second].matches("not read to the end").count(), 1, "{screen}");
    assert_eq!(screen[second..].matches("not read to the end").count(), 1, "{screen}");
    assert!(service.runs("a").is_empty());
}

#[test]
fn a_yes_that_comes_when_the_map_is_over_uploads_nothing_and_opens_no_run() {
    let service = Service::start(SERVICE, &[]);
    let account = service.account("a", "10");
    let ended = run(&mut account.program(HOST, &["confirmed-late"]));
    assert_eq!(ended.stdout, ["first Some(Ok(0))", "left"], "{ended:#?}");
    assert!(service.runs("a").is_empty());
}

#[test]
fn a_map_inside_suspend_progress_may_ask() {
    let service = Service::start(SERVICE, &BY_BYTES);
    let account = service.account("a", "10");
    let mut command = asking(&account, &["bytes-suspended", "300"]);
    let mut terminal = Terminal::start(command.env("TERM", "xterm-256color"));
    terminal.shows("Run it there? [y/N] ");
    terminal.types("y");
    let (status, screen) = terminal.finish();
    assert!(status.success() && screen.contains("answers 300 ok 300"), "{screen}");
    assert!(items_answered(&service) > 0);
}

#[test]
fn no_terminal_and_no_answer_means_no() {
    let service = Service::start(SERVICE, &[]);
    let account = service.account("a", "10");
    let ended = run(without_terminal(&mut asking(&account, &["endless", "1000000"])));
    let report = Report::read(&ended.stdout);
    assert_eq!((report.errors.len(), &*report.errors[0].kind), (1, "Declined"), "{report:#?}");
    let text = &report.errors[0].text;
    assert!(text.contains("no terminal to ask at") && text.contains("FASTMAP_CONFIRM_CHARGES"), "{text}");
    assert!(service.runs("a").is_empty());
}
