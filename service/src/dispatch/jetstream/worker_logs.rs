//! Lines that workers print, on their way from an agent to all gateways: whichever a client asks has them. By core
//! messages: nothing waits for them, and what is lost is lost. Agents bound them before they come here.

use std::collections::BTreeMap;

use async_nats::{Client, Subscriber};
use futures_util::StreamExt;
use tokio::sync::mpsc::Receiver;

use crate::dispatch::jetstream::messages;
use crate::dispatch::jetstream::subjects::Names;
use crate::run_log::{Line, RunLogs};

/// Lines that are sent at once.
const AT_ONCE: usize = 256;

/// Sends what workers print, until nothing prints any more.
pub async fn send(client: Client, names: Names, mut lines: Receiver<(String, Line)>) {
    let mut taken = Vec::new();
    // Many lines make one message; a single line is not delayed.
    while lines.recv_many(&mut taken, AT_ONCE).await > 0 {
        let mut runs: BTreeMap<String, Vec<Line>> = BTreeMap::new();
        for (run, line) in taken.drain(..) {
            runs.entry(run).or_default().push(line);
        }
        for (run, lines) in runs {
            let room = messages::room(client.max_payload());
            for some in lines.chunks((room / LARGEST).max(1)) {
                let some = serde_json::to_vec(some).unwrap_or_default();
                // Lines of workers are sent at most once.
                let _ = client.publish(names.lines(&run), some.into()).await;
            }
        }
    }
}

/// Bytes of a line at most: each of its characters, and of a record's target, may be written as six.
const LARGEST: usize = 6 * (4096 + 256) + 1024;

/// Takes them.
pub(super) async fn take(mut lines: Subscriber, events: RunLogs) {
    while let Some(message) = lines.next().await {
        let run = message.subject.rsplit('.').next().unwrap_or_default();
        let some: Vec<Line> = serde_json::from_slice(&message.payload).unwrap_or_default();
        for line in some {
            events.add(run, line);
        }
    }
}
