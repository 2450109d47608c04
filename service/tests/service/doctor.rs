//! `fastmap doctor` on this machine, which runs maps and can make jails; what it says of services that are there and that
//! are not, and of a machine on which something is broken.

use std::process::{Command, Output};

use fastmap_test_jails::machine::jail;
use serde_json::Value;

use crate::server::{Server, fastmap};

/// What it says; `change` sees to what it is to find.
fn doctor(change: impl FnOnce(&mut Command) -> &mut Command) -> (Output, Value) {
    let mut command = fastmap();
    command.args(["doctor", "--json"]).env_remove("FASTMAP_CLOUD_URL").env_remove("FASTMAP_SECRET");
    change(&mut command);
    let output = command.output().expect("it can be started");
    let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (output, value)
}

fn of_service(url: Option<&str>, secret: Option<&str>) -> (Output, Value) {
    doctor(|command| {
        url.map(|url| command.env("FASTMAP_CLOUD_URL", url));
        secret.map(|secret| command.env("FASTMAP_SECRET", secret));
        command
    })
}

#[track_caller]
fn finding<'a>(found: &'a Value, name: &str) -> &'a Value {
    let all = found["findings"].as_array().expect("a list");
    all.iter().find(|finding| finding["name"] == name).unwrap_or_else(|| panic!("{name}: {found}"))
}

/// It fails, and for that one reason: which is named, with what to do.
#[track_caller]
fn assert_broken((output, found): &(Output, Value), name: &str, says: &str) {
    assert!(!output.status.success(), "{found}");
    assert_eq!(found["good"], false);
    let broken = finding(found, name);
    assert_eq!(broken["good"], false, "{found}");
    let text = broken["found"].as_str().expect("text");
    assert!(text.contains(says), "{name}: {text}");
    assert!(broken["advice"].as_str().is_some_and(|advice| advice.len() > 5), "{broken}");
}

#[test]
fn a_machine_that_runs_maps_is_told_so_by_workers_that_have_answered() {
    let (output, found) = doctor(|command| command.env("FASTMAP_LOCAL_PROCESSES", "3"));
    assert!(output.status.success(), "{found}");
    for name in ["version", "kernel", "cores", "temporary folder", "open files", "processes", "service"] {
        assert_eq!(finding(&found, name)["good"], true, "{name}: {found}");
    }
    let workers = finding(&found, "workers")["found"].as_str().expect("text");
    assert!(workers.starts_with("3 of 3 were started"), "{workers}");
    let sandbox = finding(&found, "sandbox")["found"].as_str().expect("text");
    assert!(sandbox.contains("could not read") || sandbox.contains("not all of its layers"), "{sandbox}");
}

#[test]
fn a_machine_that_makes_jails_is_told_so_part_by_part() {
    if jail().is_none() {
        return;
    }
    let (output, found) = doctor(|command| command.arg("--serve"));
    assert!(output.status.success(), "{found}");
    for name in
        ["kernel", "user", "seccomp", "bubblewrap", "control groups", "namespaces", "worker users", "attack"]
    {
        assert_eq!(finding(&found, name)["good"], true, "{name}: {found}");
    }
    assert!(!output.stderr.starts_with(b"fastmap:"));
}

#[test]
fn people_are_told_in_lines_with_what_to_do() {
    let mut command = fastmap();
    let output = command
        .args(["doctor"])
        .env_remove("FASTMAP_SECRET")
        .env("FASTMAP_CLOUD_URL", "https://fastmap.example")
        .output()
        .expect("it can be started");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.lines().any(|line| line.starts_with("ok  workers ")), "{text}");
    assert!(text.contains("no  token "), "{text}");
    assert!(text.contains("-> export the secret"), "{text}");
}

#[test]
fn a_temporary_folder_that_is_none_is_named_and_workers_do_without() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let long = tempfile::tempdir().expect("a folder");
    let long = long.path().join("a".repeat(120));
    std::fs::create_dir(&long).expect("a folder in it");
    let file = file.path().to_str().expect("text");
    let long = long.to_str().expect("text");
    // Nobody can make a folder in /proc.
    for (path, says) in
        [("/nowhere/at/all", "not there"), (file, "no folder"), ("/proc", "/proc"), (long, "too long")]
    {
        let (output, told) = doctor(|command| command.env("TMPDIR", path));
        assert!(output.status.success(), "{told}");
        let found = finding(&told, "temporary folder");
        let text = found["found"].as_str().expect("text");
        assert!(text.contains(says) && text.contains("/dev/shm"), "{text}");
        assert!(found["advice"].as_str().is_some_and(|advice| advice.contains("TMPDIR")), "{found}");
    }
}

#[test]
fn too_few_descriptors_and_a_number_of_workers_that_is_none_are_told() {
    let program = fastmap().get_program().to_owned();
    let mut command = Command::new("sh");
    let output = command
        .args(["-c", "ulimit -n 16; exec \"$0\" doctor --json"])
        .arg(program)
        .env_remove("FASTMAP_CLOUD_URL")
        .env_remove("FASTMAP_SECRET")
        .env("FASTMAP_LOCAL_PROCESSES", "8")
        .output()
        .expect("it can be started");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_broken(&(output, found.clone()), "workers", "");
    assert!(
        finding(&found, "open files")["found"].as_str().is_some_and(|text| text.contains("16")),
        "{found}"
    );
    for value in ["0", "many"] {
        let told = doctor(|command| command.env("FASTMAP_LOCAL_PROCESSES", value));
        assert_broken(&told, "workers", value);
    }
}

#[test]
fn a_service_is_asked_whether_it_takes_the_secret() {
    let server = Server::start(&[]);
    let client = server.tenant("a-tenant", "12.5");
    let (output, found) = of_service(Some(&server.url), Some(client.secret.reveal()));
    assert!(output.status.success(), "{found}");
    assert_eq!(finding(&found, "clock")["good"], true);
    assert!(finding(&found, "service")["advice"].is_null(), "its version is this one's: {found}");
    assert!(
        finding(&found, "token")["found"].as_str().is_some_and(|text| text.contains("a-tenant")),
        "{found}"
    );
    let credits = finding(&found, "credits")["found"].as_str().expect("text");
    assert!(credits.contains("a-tenant") && credits.contains("12.5"), "{credits}");
    let poor = server.tenant("a-poor-one", "0");
    let told = of_service(Some(&server.url), Some(poor.secret.reveal()));
    assert_broken(&told, "credits", "none left");

    let unknown = "0".repeat(64);
    let told = of_service(Some(&server.url), Some(&unknown));
    assert_broken(&told, "token", "");
    assert_eq!(finding(&told.1, "service")["good"], true, "it is there: {}", told.1);
    assert!(!told.1.to_string().contains(&unknown[..40]), "{}", told.1);
    assert_broken(&of_service(Some(&server.url), None), "token", "FASTMAP_SECRET");
    assert_broken(&of_service(Some(&server.url), Some("too short")), "token", "64 characters");
}

#[test]
fn a_service_that_is_not_there_or_has_no_good_address_is_told() {
    let unknown = "0".repeat(64);
    assert_broken(&of_service(Some("http://127.0.0.1:1"), Some(&unknown)), "service", "does not answer");
    assert_broken(&of_service(Some("http://example.com"), Some(&unknown)), "service", "https://");
    assert_broken(&of_service(None, Some(&unknown)), "service", "FASTMAP_CLOUD_URL");
}
