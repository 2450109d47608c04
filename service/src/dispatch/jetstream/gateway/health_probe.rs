//! Trial messages to servers that have refused one.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use axum::body::Bytes;
use tokio::time::interval;

use super::publisher::Shared;

/// Pause between two trials of servers that have refused a message.
pub(super) const TRY: Duration = Duration::from_secs(1);

/// Tries servers that have refused a message, until they take one: no batch comes to a gateway that is not
/// ready. Never returns.
pub(super) async fn look(shared: Arc<Shared>) {
    let mut look = interval(TRY);
    // No tenant has this number: the message is delivered to no agent.
    let subject = shared.layout.names.work("0", "trial", &shared.gateway, "0");
    loop {
        look.tick().await;
        let Some(bytes) = shared.health.refused_bytes() else { continue };
        // As large as the one that was refused: servers that are nearly full take a smaller one.
        let trial = Bytes::from(vec![0; bytes]);
        match shared.publish(&subject, HeaderMap::new(), &trial).await {
            Ok(_) => {
                // No agent acknowledges it.
                shared.purge(subject.clone()).await;
                shared.health.takes();
            }
            Err(unput) => {
                shared.health.gives_up(&unput, bytes);
                // It is tried again later.
                let _ = shared.layout.make(&shared.jetstream).await;
            }
        }
    }
}
