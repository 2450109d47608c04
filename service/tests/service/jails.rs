//! The service as strangers meet it: their programs in jails.

use fastmap_backends::DeathCause;
use fastmap_backends::cloud::{Answer, Bill, PartOutcome, RunInfo};

use crate::client::results;
use crate::money::children;
use crate::server::{Server, until};

#[test]
fn a_jailed_program_does_its_work_sees_no_files_and_leaves_nothing_running() {
    let server = Server::start_jailed(&[]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    // More than goes through the channel, too.
    let reply = client.batch(&run, 0, &["eone", "b100000", "r/etc/passwd"]);
    let answers = results(&reply, 3);
    assert_eq!((answers[0].as_slice(), answers[1].len()), (&b"one"[..], 100_000));
    assert!(answers[2].starts_with(b"refused"), "{:?}", String::from_utf8_lossy(&answers[2]));
    let bill: Bill = client.call("POST", &format!("/runs/{run}/done"), b"").json(200);
    assert_eq!(bill.balance, 1_000_000_000 - bill.run.spent);
    until("the end of the jails", || children(server.pid()).is_empty().then_some(()));
    server.audit();
}

#[test]
fn a_run_in_jails_pays_for_the_time_that_the_kernel_counts() {
    let server = Server::start_jailed(&[]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    // A thread of its own does the work, of which the thread that answers knows nothing.
    client.batch(&run, 0, &["h300"]);
    let info: RunInfo = client.call("GET", &format!("/runs/{run}"), b"").json(200);
    // On a busy machine it gets less than the clock shows.
    assert!(info.cpu_ns > 10_000_000, "{info:?}");
    server.audit();
}

#[test]
fn a_jailed_program_that_aborts_is_told_as_one_that_is_not() {
    let server = Server::start_jailed(&[]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    let reply = client.batch(&run, 0, &["a"]);
    let answer = Answer::decode(&reply.body, 1).expect("an answer");
    let PartOutcome::Lost(loss) = &answer.parts[0].outcome else { panic!("{answer:?}") };
    assert_eq!(loss.death.cause, DeathCause::Signal(6), "{loss:?}");
    results(&client.batch(&run, 1, &["e"]), 1);
    server.audit();
}
