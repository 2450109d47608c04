//! Which agents there are: each says so, again and again, in a bucket whose entries the servers forget when nothing more
//! is heard. Gateways follow it, for the operator's page and for what clients are told to expect.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::kv::{Entry, Operation};
use async_nats::{Client, HeaderMap};
use axum::body::Bytes;
use futures_util::StreamExt;
use tokio::time::{interval, sleep};

use super::Names;
use super::sender::Shared;
use crate::roster::{AgentState, Roster};

/// An agent of which nothing is heard for so long is gone.
pub const LEASE: Duration = Duration::from_secs(15);
/// After a failure to follow, so long.
const AGAIN: Duration = Duration::from_secs(1);

/// Says that an agent is there, for as long as it is polled. `key`: its name among those of its role.
pub async fn announce(client: Client, names: Names, role: String, key: String, roster: Roster) {
    let subject = subject(&names, &role, &key);
    let mut say = interval(LEASE / 5);
    loop {
        say.tick().await;
        for state in roster.agents() {
            let state = serde_json::to_vec(&state).unwrap_or_default();
            let _next_time = client.publish(subject.clone(), state.into()).await;
        }
    }
}

/// Says that an agent is gone.
pub async fn leave(client: &Client, names: &Names, role: &str, key: &str) {
    let mut headers = HeaderMap::new();
    headers.insert("KV-Operation", "DEL");
    let _it_is_forgotten =
        client.publish_with_headers(subject(names, role, key), headers, Bytes::new()).await;
    let _it_is_forgotten = client.flush().await;
}

fn subject(names: &Names, role: &str, key: &str) -> String {
    format!("$KV.{}.{role}.{key}", names.agents())
}

/// Keeps a roster of all agents. Never returns.
pub(super) async fn follow(shared: Arc<Shared>, roster: Roster) {
    loop {
        if let Err(error) = follow_once(&shared, &roster).await {
            tracing::debug!(%error, "the agents can't be followed");
        }
        sleep(AGAIN).await;
    }
}

async fn follow_once(shared: &Shared, roster: &Roster) -> Result<(), async_nats::Error> {
    let bucket = shared.jetstream.get_key_value(shared.layout.names.agents()).await?;
    let mut entries = bucket.watch_with_history(">").await?;
    while let Some(entry) = entries.next().await {
        let Entry { key, value, operation, .. } = entry?;
        match (operation, serde_json::from_slice::<AgentState>(&value)) {
            (Operation::Put, Ok(state)) => roster.hear(&key, state, LEASE),
            _ => roster.leave(&key),
        }
    }
    Ok(())
}
