//! One world: what a function asks of the system has the same outcome under LOCAL, confined or not, and under
//! CLOUD in a jail; and one map of ADAPTIVE, whose items are computed on both sides, loses none.

use std::process::Command;

use fastmap_test_cloud::Account;
use fastmap_test_programs::{Report, Running, program};

const SERVICE: &str = env!("CARGO_BIN_EXE_cloud-service");
const ACTS: &str = env!("CARGO_BIN_EXE_cloud-acts");

/// A service whose workers are jailed, and its account.
fn jailed() -> (Running, Account) {
    // Without jails the service would do with none.
    fastmap_sandbox::jail::Jail::check().expect("this machine makes jails");
    let mut serve = Command::new(SERVICE);
    let mut service = Running::start(serve.args(["serve", "--dev", "--log", "warn", "--workers", "2"]));
    let secret = service.line("export FASTMAP_SECRET=");
    let account = Account { secret, url: service.line("export FASTMAP_CLOUD_URL=") };
    (service, account)
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
    let (_service, account) = jailed();
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
    let (_service, account) = jailed();
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
    let (_service, account) = jailed();
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
