//! One world: what a function asks of the system has the same outcome under LOCAL, confined or not, and under
//! CLOUD in a jail; one map of ADAPTIVE, whose items are computed on both sides, loses none; and what was refused
//! or is not there is told on both sides.

use std::process::Command;

use fastmap_test_cloud::Account;
use fastmap_test_jails::machine::jail;
use fastmap_test_programs::{Report, Running, program};

const SERVICE: &str = env!("CARGO_BIN_EXE_cloud-service");
const ACTS: &str = env!("CARGO_BIN_EXE_cloud-acts");

/// A service whose workers are jailed, and its account. `None`: this user can't make jails, and the test is left out.
fn jailed() -> Option<(Running, Account)> {
    // The service would do with none.
    jail()?;
    let mut serve = Command::new(SERVICE);
    let mut service = Running::start(serve.args(["serve", "--dev", "--log", "warn", "--workers", "2"]));
    let secret = service.line("export FASTMAP_SECRET=");
    let account = Account { secret, url: service.line("export FASTMAP_CLOUD_URL=") };
    Some((service, account))
}

fn locally(sandbox: &str, acts: &str) -> Command {
    let mut command = program(ACTS);
    command.arg(acts).env("FASTMAP_SANDBOX", sandbox);
    command
}

/// What the program printed of each act.
fn outcomes(mut command: Command) -> Vec<String> {
    let ended = Running::start(&mut command).finish();
    assert!(ended.status.success(), "{command:?}: {ended:#?}");
    ended.stdout
}

/// Lines that differ, one below the other.
fn different(one: &[String], other: &[String]) -> Vec<String> {
    let pairs = one.iter().zip(other).filter(|(one, other)| one != other);
    pairs.map(|(one, other)| format!("{one}  |  {other}")).collect()
}

#[test]
fn what_touches_the_process_alone_has_the_same_outcome_everywhere() {
    let Some((_service, account)) = jailed() else { return };
    let plain = outcomes(locally("off", "works"));
    let confined = outcomes(locally("require", "works"));
    let cloud = outcomes(account.program(ACTS, &["works"]));
    assert!(plain.len() > 40, "{plain:#?}");
    let refused = plain.iter().filter(|line| line.contains("EPERM") || line.contains("ENOSYS"));
    assert_eq!(refused.collect::<Vec<_>>(), [""; 0], "these prove nothing");
    let (confined_differs, cloud_differs) = (different(&plain, &confined), different(&plain, &cloud));
    assert!(
        plain.len() == cloud.len() && confined_differs.is_empty() && cloud_differs.is_empty(),
        "{} confined: {confined_differs:#?}\n{} in a jail: {cloud_differs:#?}",
        confined_differs.len(),
        cloud_differs.len()
    );
}

#[test]
fn what_is_refused_is_refused_alike_on_both_sides() {
    let Some((_service, account)) = jailed() else { return };
    let confined = outcomes(locally("require", "refused"));
    let cloud = outcomes(account.program(ACTS, &["refused"]));
    assert!(confined.len() > 30, "{confined:#?}");
    let refused = |line: &&String| line.ends_with(": EPERM") || line.ends_with(": ENOSYS");
    let passed: Vec<_> = confined.iter().chain(&cloud).filter(|line| !refused(line)).collect();
    let differ = different(&confined, &cloud);
    assert!(passed.is_empty() && differ.is_empty(), "not refused: {passed:#?}, differ: {differ:#?}");
}

#[test]
fn a_function_that_makes_an_async_runtime_loses_no_item_under_any_policy() {
    let Some((_service, account)) = jailed() else { return };
    let items = 200;
    let all = |command: &mut Command| {
        let ended = Running::start(command).finish();
        let report = Report::read(&ended.stdout);
        assert_eq!((report.good, report.errors.len()), (items, 0), "{ended:#?}");
        ended
    };
    let arguments = ["tokio", "200", "20"];
    let mut confined = program(ACTS);
    all(confined.args(arguments).env("FASTMAP_SANDBOX", "require"));
    all(&mut account.program(ACTS, &arguments));
    let mut adaptive = account.program(ACTS, &arguments);
    let ended = all(adaptive.env("FASTMAP_EXEC_POLICY", "adaptive").env("FASTMAP_LOCAL_PROCESSES", "1"));
    assert!(
        ended.stderr.contains("items here, ") && ended.stderr.contains(" in the service"),
        "both sides had some: {}",
        ended.stderr
    );
}

/// The line about an item.
fn about<'a>(lines: &'a [String], name: &str) -> &'a str {
    let line = lines.iter().find(|line| line.starts_with(name));
    line.unwrap_or_else(|| panic!("nothing of {name:?}: {lines:#?}"))
}

#[test]
fn what_was_refused_is_told_in_the_same_words_on_both_sides() {
    let Some((_service, account)) = jailed() else { return };
    let confined = locally("require", "told");
    let cloud = account.program(ACTS, &["told"]);
    let mut adaptive = account.program(ACTS, &["told"]);
    adaptive.env("FASTMAP_EXEC_POLICY", "adaptive");
    for (side, mut command) in [("LOCAL", confined), ("CLOUD", cloud), ("ADAPTIVE", adaptive)] {
        let ended = Running::start(&mut command).finish();
        assert!(ended.status.success(), "{side}: {ended:#?}");
        for name in [
            "goes on without a socket",
            "goes on without a program",
            "goes on in a thread that has all signals blocked",
            "goes on where all signals have the usual effect",
            "goes on in a handler that blocks all signals",
        ] {
            assert_eq!(about(&ended.stdout, name), format!("{name}: done"), "{side}: {ended:#?}");
        }
        let aborted = about(&ended.stdout, "ends without a socket");
        for words in ["SIGABRT", "; the sandbox refused socket, for a mapped function uses neither files"] {
            assert!(aborted.contains(words), "{side}: {words}: {aborted}");
        }
        let panicked = about(&ended.stdout, "panics without a file");
        let refused =
            panicked.contains("; the sandbox refused openat(\"/etc/passwd\"), for a mapped function");
        let absent = panicked.contains("; in the cloud there is no \"/etc/passwd\", which this machine has");
        assert!(if side == "CLOUD" { absent } else { refused || absent }, "{side}: {panicked}");
        let error = "answers an error without a new file";
        assert_eq!(about(&ended.stdout, error), format!("{error}: Err no file"), "{side}");
        let warnings: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("warning: ")).collect();
        let told = |words: &[&str]| {
            let with_all = |line: &&&str| words.iter().all(|word| line.contains(word));
            assert_eq!(warnings.iter().filter(with_all).count(), 1, "{side}: {words:?}: {warnings:#?}");
        };
        told(&["the sandbox refused ", "socket", " which has a result all the same"]);
        told(&["the sandbox refused ", "clone", " which has a result all the same"]);
        told(&["item 3 answered an error of its own (Err)", "refused it openat(\"/var/lib/fastmap-acts\")"]);
    }
}

#[test]
fn the_cloud_tells_of_a_file_that_is_not_there_and_of_an_item_that_waits() {
    let Some((_service, account)) = jailed() else { return };
    let folder = tempfile::tempdir_in("/var/lib").expect("a folder");
    let file = folder.path().join("proj.db").display().to_string();
    std::fs::write(&file, "").expect("a new file");
    let ended = Running::start(&mut account.program(ACTS, &["look-for", &file])).finish();
    assert_eq!(ended.stdout, ["found: false"], "{ended:#?}");
    for words in [
        "the sandbox refused socket to item 0, which still runs after 3 s",
        &format!("in the cloud there is no {file:?}, which this machine has: item 0 looked for it"),
        "fastmap_with",
    ] {
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
    assert!(!ended.stderr.contains("-absent"), "what is on no machine is no news: {}", ended.stderr);
}

#[test]
fn a_limit_of_threads_that_strikes_is_named() {
    let Some((_service, account)) = jailed() else { return };
    let ended = Running::start(&mut account.program(ACTS, &["threads", "1000"])).finish();
    // Between the panic and this may be frames (`RUST_BACKTRACE`).
    let error = ended.stdout.join(" ");
    assert!(error.contains("threads at a time, and starting another"), "{ended:#?}");
}
