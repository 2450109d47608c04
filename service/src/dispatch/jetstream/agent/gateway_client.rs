//! An agent's requests to gateways: sent again until they are answered, or until the gateway must be taken for gone.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_nats::Client;
use fastmap_backends::unpoisoned::LockUnpoisoned;
use tokio::time::{sleep, timeout};

use crate::dispatch::jetstream::messages::{Origin, Reply, Request};
use crate::dispatch::jetstream::subjects::Names;

/// A gateway that does not answer for this time is gone; one whose server was killed is back within seconds.
const GONE: Duration = Duration::from_secs(10);
/// An answer comes within this, or the request is sent again.
const ANSWER: Duration = Duration::from_secs(3);
/// A gateway that has answered within this time is not looked for.
const LATELY: Duration = Duration::from_secs(5);

/// Asks gateways.
#[derive(Debug)]
pub(super) struct GatewayClient {
    client: Client,
    names: Names,
    heard: Mutex<HashMap<String, Instant>>,
}

impl GatewayClient {
    pub(super) fn new(client: Client, names: Names) -> Self {
        GatewayClient { client, names, heard: Mutex::default() }
    }

    /// Whether the gateway has answered lately. If not, it counts as if it had from now on: the caller asks
    /// it, and calls in between need not ask as well.
    pub(super) fn heard_lately(&self, origin: &Origin) -> bool {
        let mut heard = self.heard.lock_unpoisoned();
        if heard.get(&origin.gateway).is_some_and(|heard| heard.elapsed() < LATELY) {
            return true;
        }
        // Gateways come and go while an agent lives: entries of those that are silent would pile up.
        heard.retain(|_, heard| heard.elapsed() < LATELY);
        heard.insert(origin.gateway.clone(), Instant::now());
        false
    }

    /// Asks about something. `None`: the gateway is gone.
    pub(super) async fn ask(&self, origin: &Origin, about: &str, request: &Request) -> Option<Reply> {
        let (subject, payload) = (self.names.gateway(&origin.gateway, about), request.encode());
        let begun = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            let asked = timeout(ANSWER, self.client.request(subject.clone(), payload.clone())).await;
            match asked {
                Ok(Ok(message)) => {
                    let mut heard = self.heard.lock_unpoisoned();
                    heard.insert(origin.gateway.clone(), Instant::now());
                    return Some(Reply::decode(&message.payload));
                }
                // Also at once, if no process has subscribed: a gateway whose connection is lost is back
                // within seconds.
                Ok(Err(error)) => tracing::debug!(gateway = origin.gateway, %error, "a request failed"),
                Err(_) => tracing::debug!(gateway = origin.gateway, "a request was not answered"),
            }
            if begun.elapsed() + pause > GONE {
                return None;
            }
            // A request whose answer was lost or late arrives twice. The gateway knows it again: reports of CPU
            // time have a number, claims the count of deliveries, outcomes the subject for the acknowledgement.
            sleep(pause).await;
            pause = (2 * pause).min(Duration::from_secs(1));
        }
    }

    /// Sends a message that needs no answer.
    pub(super) async fn notify(&self, origin: &Origin, request: &Request) {
        let subject = self.names.gateway(&origin.gateway, &origin.token);
        // If the message is lost, the servers deliver the work again when the lease is over.
        let _ = self.client.publish(subject, request.encode()).await;
    }
}
