//! The way of a run: upload, open, batches, bill.

use fastmap_backends::cloud::{Answer, Bill, PartOutcome, RunInfo};
use fastmap_backends::{DeathCause, Running};
use serde_json::Value;

use crate::client::{batch, open_run, results, to_json};
use crate::server::Server;

#[test]
fn a_run_from_its_upload_to_its_bill() {
    let server = Server::start(&[]);
    let client = server.tenant("a", "1000");
    let run = client.run();
    for seq in 0..5 {
        let reply = client.batch(&run, seq, &["eone", "etwo", "s20"]);
        assert_eq!(results(&reply, 3), [b"one".to_vec(), b"two".to_vec(), b"20".to_vec()]);
    }
    let info: RunInfo = client.call("GET", &format!("/runs/{run}"), b"").json(200);
    assert_eq!((info.batches, info.items_answered, info.held), (5, 15, 0));
    assert!(info.cpu_ns >= 100_000_000, "{info:?}");
    let bill: Bill = client.call("POST", &format!("/runs/{run}/done"), b"").json(200);
    assert_eq!(bill.balance, 1_000_000_000 - bill.run.spent);
    // 0.1 s of CPU time at 10 credits an hour.
    assert!((277..2000).contains(&bill.run.spent), "{bill:?}");
    let again: Bill = client.call("POST", &format!("/runs/{run}/done"), b"").json(200);
    assert_eq!(again, bill);
    client.call("PUT", &format!("/runs/{run}/batches/9"), &batch(&["e"])).problem("run_ended");
    server.audit();
}
