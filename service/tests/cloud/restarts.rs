//! Processes that end in the middle: the service, and the client.

use std::process::Command;
use std::thread;
use std::time::Duration;

use fastmap_backends::cloud::CloudOptions;

use crate::common::{Tenancy, config};
use crate::server::until;

fn slowly(n: u64) -> u64 {
    thread::sleep(Duration::from_millis(10));
    n * 3
}

fn items_answered(tenancy: &Tenancy) -> u64 {
    tenancy.runs().first().and_then(|run| run["items_answered"].as_u64()).unwrap_or(0)
}

/// Three kills as soon as there is progress; with `FASTMAP_TEST_LONG` a minute of work, and one every five seconds.
#[test]
fn a_service_that_is_killed_and_started_again_is_only_late() {
    let (items, kills, pace) = match std::env::var_os("FASTMAP_TEST_LONG") {
        Some(_) => (12_000, 12, Duration::from_secs(5)),
        None => (800, 3, Duration::ZERO),
    };
    let mut tenancy = Tenancy::start(&[]);
    let config = config(tenancy.options());
    thread::scope(|scope| {
        let map = scope.spawn(|| config.fastmap(slowly, 0..items).collect::<Result<Vec<_>, _>>());
        for _ in 0..kills {
            thread::sleep(pace);
            let seen = items_answered(&tenancy);
            until("progress", || (items_answered(&tenancy) > seen + 20).then_some(()));
            tenancy.server.kill();
            tenancy.server.restart();
        }
        let values = map.join().expect("no panic").expect("it is back each time");
        assert_eq!(values, (0..items).map(|n| n * 3).collect::<Vec<_>>());
    });
    let run = &tenancy.runs()[0];
    assert_eq!((run["state"].as_str(), run["items_answered"].as_u64()), (Some("done"), Some(items)), "{run}");
    assert_eq!(run["held"].as_i64(), Some(0), "{run}");
    // Each batch was charged once: the run's sum is all that the account has lost.
    let entries = tenancy.server.json(&["credits", "show", "a", "--entries", "10000"]);
    let charges: i64 = entries["ledger"].as_array().expect("a list").len() as i64 - 1;
    assert_eq!(run["batches"].as_i64(), Some(charges), "{run}");
    assert!(tenancy.spent() > 0);
}

#[test]
fn a_map_that_is_dropped_is_ended_at_the_service() {
    let tenancy = Tenancy::start(&[]);
    let config = config(tenancy.options());
    let mut map = config.fastmap(slowly, 0..);
    assert_eq!(map.next().expect("an answer").expect("a value"), 0);
    drop(map);
    until("the end of the run", || (tenancy.runs()[0]["state"] != "open").then_some(()));
}

fn thread_names() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("/proc is mounted").flatten();
    tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok()).collect()
}

/// Threads of maps in the cloud; those of other tests, too.
fn threads() -> usize {
    thread_names().iter().filter(|name| name.starts_with("fastmap-cloud")).count()
}

const CLIENT: &str = "FASTMAP_TEST_CLIENT";

/// As a process of its own: begins a map and ends as it is told; this test otherwise.
fn client(how: &str, tenancy: &Tenancy) -> Command {
    let mut child = Command::new(std::env::current_exe().expect("a path"));
    child.args(["--exact", "restarts::a_client_as_a_process_of_its_own", "--nocapture"]);
    child.env(CLIENT, format!("{how} {} {}", tenancy.server.url, tenancy.secret.reveal()));
    child
}

#[test]
fn a_client_as_a_process_of_its_own() {
    let Ok(case) = std::env::var(CLIENT) else { return };
    let words: Vec<&str> = case.split(' ').collect();
    let config = config(CloudOptions::new(words[1], words[2].parse().expect("a secret")));
    let mut map = config.fastmap(slowly, 0..);
    assert_eq!(map.next().expect("an answer").expect("a value"), 0);
    match words[0] {
        "exit" => std::process::exit(7),
        "drop" => {
            drop((map, config));
            // Of what such a map needs nothing is left, save what still says goodbye.
            until("the end of all threads", || (threads() == 0).then_some(()));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_client_that_exits_in_the_middle_says_so() {
    let tenancy = Tenancy::start(&[]);
    let status = client("exit", &tenancy).status().expect("this program can be started");
    assert_eq!(status.code(), Some(7));
    // Long before the lease of 30 s is over.
    assert_eq!(tenancy.runs()[0]["state"], "cancelled");
    assert_eq!(tenancy.runs()[0]["held"], 0);
}

#[test]
fn dropped_maps_and_configurations_leave_no_thread() {
    let tenancy = Tenancy::shared();
    let output = client("drop", &tenancy).output().expect("this program can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
