//! Entry of an agent in the servers' bucket.

use std::time::Duration;

use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::{Client, HeaderMap};
use axum::body::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::agent_registry::AgentRegistry;
use crate::dispatch::jetstream::streams::LEASE;
use crate::dispatch::jetstream::subjects::Names;

/// An agent whose entry no bucket has taken for this long warns, and again after that.
pub(super) const UNHEARD: Duration = Duration::from_secs(5);

pub(super) const WARN_AGAIN: Duration = Duration::from_mins(1);

/// Writes an agent's entry into the bucket of agents, for as long as it is polled, and warns while no bucket
/// takes it: without one, no work arrives either. `key`: the agent's name among those of its role.
pub async fn announce(client: Client, names: Names, role: String, key: String, roster: AgentRegistry) {
    let subject = names.agent(&role, &key);
    let mut say = interval(LEASE / 5);
    // An agent that stood still writes one entry, and not all that it has missed.
    say.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut heard, mut warned) = (Instant::now(), None::<Instant>);
    loop {
        say.tick().await;
        for state in roster.agents() {
            let state = serde_json::to_vec(&state).unwrap_or_default();
            // By a request: the stream below the bucket confirms each entry, so that its absence is noticed.
            match write(&client, &subject, state).await {
                Ok(()) => {
                    if warned.take().is_some() {
                        tracing::info!("the bucket of agents is there");
                    }
                    heard = Instant::now();
                }
                Err(why)
                    if heard.elapsed() > UNHEARD && warned.is_none_or(|at| at.elapsed() > WARN_AGAIN) =>
                {
                    warned = Some(Instant::now());
                    tracing::warn!(
                        why,
                        "no work comes here: the servers have no bucket {} that takes this agent's entry; is a gateway there, \
                         of the same --nats-prefix, and is this the gateway's JetStream (at a leaf node: --nats-domain)?",
                        names.agents()
                    );
                }
                Err(_) => {}
            }
        }
    }
}

/// Writes an entry, and waits until the bucket has it.
pub(super) async fn write(client: &Client, subject: &str, state: Vec<u8>) -> Result<(), String> {
    let asked = timeout(LEASE / 5, client.request(subject.to_owned(), state.into())).await;
    let answer = asked.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())?;
    match serde_json::from_slice(&answer.payload) {
        Ok(Response::Ok(PublishAck { .. })) => Ok(()),
        Ok(Response::Err { error }) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Says that an agent is gone.
pub async fn leave(client: &Client, names: &Names, role: &str, key: &str) {
    let mut headers = HeaderMap::new();
    headers.insert("KV-Operation", "DEL");
    // The entry expires by itself otherwise.
    let _ = client.publish_with_headers(names.agent(role, key), headers, Bytes::new()).await;
    // The process ends after this: what is not flushed would not be sent.
    let _ = client.flush().await;
}
