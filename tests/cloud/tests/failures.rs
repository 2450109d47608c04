//! A service that can't be used: one clear error, and no map that waits for ever.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use fastmap_test_cloud::{Account, Service};
use fastmap_test_programs::{Ended, Failure, LIMIT, Report, Running, until};
use nix::sys::signal::Signal;

const SERVICE: &str = env!("CARGO_BIN_EXE_cloud-service");
const HOST: &str = env!("CARGO_BIN_EXE_cloud-host");
/// Of the form that a service gives.
const STRANGE: &str = "0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqr";

fn run(command: &mut Command) -> Ended {
    let ended = Running::start(command).finish();
    assert!(ended.status.success(), "{command:?}: {ended:#?}");
    ended
}

/// The one error, behind so many results.
fn only(ended: &Ended) -> (usize, Failure) {
    let mut report = Report::read(&ended.stdout);
    assert_eq!(report.errors.len(), 1, "{report:#?}");
    (report.good, report.errors.remove(0))
}

#[test]
fn a_secret_that_the_service_does_not_know_is_unauthorized() {
    let service = Service::start(SERVICE, &[]);
    let account = service.account("a", "10");
    let wrong = Account { secret: STRANGE.to_owned(), ..account.clone() };
    let halves = account.secret.split_at(32);
    let half_wrong = Account { secret: format!("{}{}", halves.0, &STRANGE[..32]), ..account.clone() };
    for wrong in [wrong, half_wrong] {
        let ended = run(&mut wrong.program(HOST, &["squares", "100"]));
        let (good, error) = only(&ended);
        assert_eq!((good, &*error.kind, error.index), (0, "Unauthorized", None), "{error:?}");
        assert!(error.text.contains(&service.url) && error.text.contains("secret"), "{error:?}");
        assert!(!ended.stderr.contains(&wrong.secret) && !error.text.contains(&wrong.secret));
    }
    let token = service.ask(&["token", "list", "a"])[0]["id"].to_string();
    service.ask(&["token", "revoke", &token]);
    // A running service knows within a second: what it read of the token before may be that old.
    let limit = Instant::now() + LIMIT;
    let refused = loop {
        let ended = run(&mut account.program(HOST, &["squares", "100"]));
        if !Report::read(&ended.stdout).errors.is_empty() {
            break ended;
        }
        assert!(Instant::now() < limit, "the service takes a revoked token: {ended:#?}");
    };
    // It may have known in the middle of a map: what stands in front of answers has an error of its own.
    let errors = Report::read(&refused.stdout).errors;
    assert_eq!(errors.iter().filter(|error| error.index.is_none()).count(), 1, "{errors:?}");
    for error in errors {
        assert!(error.kind == "Unauthorized" && error.text.contains("revoked"), "{error:?}");
    }
}

#[test]
fn what_can_be_no_service_and_no_secret_is_told_by_init() {
    let account = |secret: &str, url: &str| Account { secret: secret.to_owned(), url: url.to_owned() };
    for (wrong, words) in [
        (account(STRANGE, "http://example.com"), ["FASTMAP_CLOUD_URL", "http://example.com", "https://"]),
        (account(STRANGE, "example.com"), ["FASTMAP_CLOUD_URL", "example.com", "https://"]),
        (account("s3cret", "https://example.com"), ["FASTMAP_SECRET", "64 characters", "6 characters"]),
    ] {
        let ended = run(&mut wrong.program(HOST, &["squares", "100"]));
        let told = &ended.stdout[0];
        assert!(told.starts_with("init Options "), "{told}");
        assert!(words.iter().all(|word| told.contains(word)) && !told.contains(&wrong.secret), "{told}");
    }
}

#[test]
fn a_service_that_is_not_there_is_one_error_after_a_while() {
    // A port on which nobody listens: whoever had it has closed it.
    let free = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    let account = Account { secret: STRANGE.to_owned(), url: format!("http://{free}") };
    let begun = Instant::now();
    let ended = run(&mut account.program(HOST, &["squares", "100"]));
    let (good, error) = only(&ended);
    assert_eq!((good, &*error.kind), (0, "Cloud"), "{error:?}");
    assert!(error.text.contains(&account.url), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn a_service_that_dies_for_good_ends_the_map_behind_what_was_answered() {
    let service = Service::start(SERVICE, &[]);
    let account = service.account("a", "10");
    let mut host = Running::start(&mut account.program(HOST, &["sleep-impatiently", "100000", "5"]));
    host.line("first answer");
    service.kill();
    let ended = host.finish();
    assert!(ended.status.success(), "{ended:#?}");
    let report = Report::read(&ended.stdout);
    // Answers come in any order: items without one before the last of them are errors in their places.
    let (last, before) = report.errors.split_last().expect("an error");
    assert!(report.good > 0 && last.kind == "Cloud" && last.index.is_none(), "{report:?}");
    assert!(before.iter().all(|error| error.kind == "Cloud" && error.index.is_some()), "{report:?}");
    // The cause is in the last one alone.
    assert!(last.text.contains(&account.url), "{report:?}");
}

#[test]
fn a_program_that_stood_still_for_longer_than_its_lease_goes_on_in_another_run() {
    let service = Service::start(SERVICE, &["--lease", "3", "--long-poll", "1"]);
    let account = service.account("a", "10");
    let mut host = Running::start(&mut account.program(HOST, &["sleep", "100", "50"]));
    host.line("first answer");
    host.signal_group(Signal::SIGSTOP);
    until("the end of its lease", LIMIT, || service.runs("a")[0]["state"] == "expired");
    host.signal_group(Signal::SIGCONT);
    let ended = host.finish();
    assert!(ended.status.success(), "{ended:#?}");
    let report = Report::read(&ended.stdout);
    assert_eq!((report.good, report.errors.len()), (100, 0), "{ended:#?}");
    assert!(ended.stderr.contains("the map continues in a new run"), "{ended:#?}");
    let runs = service.runs("a");
    let states: Vec<_> = runs.iter().map(|run| run["state"].as_str().unwrap_or_default()).collect();
    assert_eq!(states, ["done", "expired"]);
}
