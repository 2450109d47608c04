//! `fastmap doctor` on this machine, which can make jails, and what it says of services that are there and that are not.

use std::process::Output;

use serde_json::Value;

use crate::server::{Server, fastmap};

fn doctor(url: Option<&str>, secret: Option<&str>) -> (Output, Value) {
    let mut command = fastmap();
    command.args(["doctor", "--json"]).env_remove("FASTMAP_CLOUD_URL");
    url.map(|url| command.env("FASTMAP_CLOUD_URL", url));
    secret.map(|secret| command.env("FASTMAP_SECRET", secret));
    let output = command.output().expect("it can be started");
    let value = serde_json::from_slice(&output.stdout).expect("JSON");
    (output, value)
}

#[track_caller]
fn finding<'a>(found: &'a Value, name: &str) -> &'a Value {
    let all = found["findings"].as_array().expect("a list");
    all.iter().find(|finding| finding["name"] == name).unwrap_or_else(|| panic!("{name}: {found}"))
}

#[test]
fn a_machine_that_makes_jails_is_told_so_part_by_part() {
    let (output, found) = doctor(None, None);
    assert!(output.status.success(), "{found}");
    for name in ["kernel", "user", "seccomp", "bubblewrap", "control groups", "namespaces", "attack"] {
        assert_eq!(finding(&found, name)["good"], true, "{name}: {found}");
    }
    assert!(!output.stderr.starts_with(b"fastmap:"));
}

#[test]
fn a_service_is_asked_whether_it_takes_the_secret() {
    let server = Server::start(&[]);
    let client = server.tenant("a-tenant", "12.5");
    let (output, found) = doctor(Some(&server.url), Some(client.secret.reveal()));
    assert!(output.status.success(), "{found}");
    assert_eq!(finding(&found, "clock")["good"], true);
    let credits = finding(&found, "credits")["found"].as_str().expect("text");
    assert!(credits.contains("a-tenant") && credits.contains("12.5"), "{credits}");

    let unknown = "0".repeat(64);
    let (output, found) = doctor(Some(&server.url), Some(&unknown));
    assert!(!output.status.success());
    assert_eq!(finding(&found, "service")["good"], false);
    assert!(!found.to_string().contains(&unknown[..40]), "{found}");
    let (output, found) = doctor(Some("http://127.0.0.1:1"), Some(&unknown));
    assert!(!output.status.success());
    let service = finding(&found, "service");
    assert!(service["found"].as_str().is_some_and(|found| found.contains("does not answer")), "{service}");
    let (output, found) = doctor(Some(&server.url), None);
    assert!(!output.status.success());
    assert!(finding(&found, "service")["found"].as_str().expect("text").contains("FASTMAP_SECRET"));
}
