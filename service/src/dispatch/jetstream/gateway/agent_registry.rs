//! Registry of agents on the servers: each agent writes its entry, again and again, into a bucket whose
//! entries expire. Gateways follow it, for the operator's page and for the number of workers that clients may
//! expect.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::kv::{Entry, Operation};
use futures_util::StreamExt;
use tokio::time::sleep;

use super::publisher::Shared;
use crate::agent_registry::{AgentRegistry, AgentState};
use crate::dispatch::jetstream::streams::LEASE;

/// Pause after a failure to follow.
const AGAIN: Duration = Duration::from_secs(1);

/// Keeps a roster of all agents. Never returns.
pub(super) async fn follow(shared: Arc<Shared>, roster: AgentRegistry) {
    loop {
        if let Err(error) = follow_once(&shared, &roster).await {
            tracing::debug!(%error, "the agents can't be followed");
        }
        sleep(AGAIN).await;
    }
}

async fn follow_once(shared: &Shared, roster: &AgentRegistry) -> Result<(), async_nats::Error> {
    let bucket = shared.jetstream.get_key_value(shared.layout.names.agents()).await?;
    // All agents of all roles: first those that are there, then each change.
    let mut entries = bucket.watch_with_history(">").await?;
    while let Some(entry) = entries.next().await {
        let Entry { key, value, operation, .. } = entry?;
        match (operation, serde_json::from_slice::<AgentState>(&value)) {
            (Operation::Put, Ok(state)) => roster.hear(&key, state, LEASE),
            // Deleted by the agent, expired, or not readable for this version.
            _ => roster.leave(&key),
        }
    }
    Ok(())
}
