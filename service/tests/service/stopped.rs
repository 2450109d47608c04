//! Processes that stand still for longer than their leases (a machine that is paused, a debugger, swap), and
//! batches that wait for a place: what was begun goes on, and what waits begins.

use std::thread::sleep;
use std::time::Duration;

use fastmap_backends::cloud::{LogPage, RunInfo, RunState};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::Agent;
use crate::client::{Client, Wrong, batch, results};
use crate::nats::Nats;
use crate::server::{Server, until};

/// An item that says that it has begun, sleeps for six seconds, and returns that number.
const ITEM: &str = "t6000";
/// A stop that is longer than all leases of these tests.
const STOP: Duration = Duration::from_millis(3500);

/// How often the run's items have begun.
fn begun(client: &Client, run: &str) -> usize {
    let page: LogPage = client.call("GET", &format!("/runs/{run}/logs"), b"").json(200);
    page.lines.iter().filter(|line| line.text == "begun").count()
}

/// Stops a process once the run's first item has begun, and lets it go on after its leases are over. The item
/// must be answered by the worker that has begun it.
fn stop_amid_an_item(server: &Server, stopped: u32) {
    let client = server.tenant("a", "1000");
    let run = client.run();
    assert_eq!(client.call("PUT", &format!("/runs/{run}/batches/1"), &batch(&[ITEM])).status, 202);
    until("the item's begin", || (begun(&client, &run) == 1).then_some(()));
    let pid = Pid::from_raw(stopped.cast_signed());
    kill(pid, Signal::SIGSTOP).expect("it runs");
    sleep(STOP);
    kill(pid, Signal::SIGCONT).expect("it is there");
    // The client says nothing until then.
    until("an answer that is charged, or the end of the run", || {
        let run = &server.json(&["runs", "list"])[0];
        (run["batches"] == 1 || run["state"] != "open").then_some(())
    });
    assert_eq!(results(&client.batch(&run, 1, &[ITEM]), 1), [b"6000"]);
    assert_eq!(begun(&client, &run), 1, "it was given up and begun again");
    let info: RunInfo = client.call("GET", &format!("/runs/{run}"), b"").json(200);
    assert_eq!((info.state, info.batches, info.held), (RunState::Open, 1, 0));
    server.audit();
}

#[test]
fn a_service_that_stood_still_for_longer_than_its_leases_goes_on_where_it_was() {
    let options = ["--workers", "1", "--agent-lease", "1", "--lease", "3", "--long-poll", "1"];
    let server = Server::start(&options);
    stop_amid_an_item(&server, server.pid().cast_unsigned());
}

#[test]
fn an_agent_that_stood_still_goes_on_with_what_it_is_given_again() {
    let nats = Nats::start();
    let server = Server::start(&["--nats", &nats.url(), "--agent-lease", "1", "--long-poll", "1"]);
    let agent = Agent::join(&nats, "one", &[]);
    stop_amid_an_item(&server, agent.pid());
}

#[test]
fn what_waits_for_a_place_begins_when_all_that_had_places_is_cancelled() {
    const ROUNDS: u64 = 6;
    let server = Server::start(&["--workers", "1"]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let hasty = client.clone().answered_within(Duration::from_millis(100));
    for first in (0..ROUNDS).map(|round| 10 * round) {
        let target = |at: u64| format!("/runs/{run}/batches/{}", first + at);
        // Two are the worker's, the others wait at the agent.
        for (at, item) in (1..).zip(["z600000", "z600000", "z600000", "z20"]) {
            let left = hasty.try_call("PUT", &target(at), &batch(&[item]), &Wrong::default());
            assert!(left.is_err(), "{left:?}");
        }
        client.call("DELETE", &target(3), b"");
        // The worker is ended for the first, some 25 ms after that is cancelled: the second is still its own
        // then, most often, and comes back when all cancelling is over.
        std::thread::scope(|scope| {
            for at in 1..3 {
                let target = target(at);
                scope.spawn(|| client.call("DELETE", &{ target }, b""));
            }
        });
        assert_eq!(results(&client.batch(&run, first + 4, &["z20"]), 1), [b"20"]);
    }
}
