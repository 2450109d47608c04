//! Health of the servers, as far as a gateway has seen whether they take work: for clients, `/readyz` and the log. A
//! refusal is logged once, however many batches meet it; while it lasts, messages of the size that was refused are
//! tried.

use std::error::Error;
use std::iter::successors;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::stream::{ConsumerError, ConsumerErrorKind};
use async_nats::jetstream::{self, ErrorCode};
use fastmap_backends::unpoisoned::LockUnpoisoned;

/// A refusal that lasts is logged again after this time.
const WARN_AGAIN: Duration = Duration::from_mins(1);
/// Refusals that pass within seconds: a leader is elected, or what was deleted is made again.
const PASSING: [ErrorCode; 6] = [
    ErrorCode::CLUSTER_NOT_AVAILABLE,
    ErrorCode::CLUSTER_NOT_LEADER,
    ErrorCode::STREAM_NOT_FOUND,
    ErrorCode::CONSUMER_NOT_FOUND,
    ErrorCode::STREAM_OFFLINE,
    ErrorCode::CONSUMER_OFFLINE,
];

/// Why the servers have not taken a message.
#[derive(Debug)]
pub(super) struct Unput {
    /// Their own words.
    pub(super) why: String,
    /// They have refused it, and will again: no silence, no election.
    pub(super) lasts: bool,
    /// The tenant's consumer could not be made; messages of others may be taken.
    of_tenant: bool,
}

impl Unput {
    fn new(error: &(dyn Error + 'static), refusal: Option<&jetstream::Error>, of_tenant: bool) -> Self {
        Unput {
            why: refusal.map_or_else(|| error.to_string(), ToString::to_string),
            // Without an answer nothing was refused: servers that are restarted or elect a leader are silent.
            lasts: refusal.is_some_and(|refusal| !PASSING.contains(&refusal.error_code())),
            of_tenant,
        }
    }
}

impl From<ConsumerError> for Unput {
    fn from(error: ConsumerError) -> Self {
        match error.kind() {
            ConsumerErrorKind::JetStream(refusal) => Unput::new(&error, Some(&refusal), true),
            _ => Unput::new(&error, None, true),
        }
    }
}

impl From<PublishError> for Unput {
    fn from(error: PublishError) -> Self {
        // The servers' refusal is one of the error's sources; its kind says only that the publication has
        // failed.
        let mut sources = successors(Some(&error as &(dyn Error + 'static)), |error| (*error).source());
        Unput::new(&error, sources.find_map(|error| error.downcast_ref()), false)
    }
}

/// What is known of the servers.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Why they take no message, and the bytes of the one that they refused.
    refused: Option<(String, usize)>,
    /// The refusal that was logged last, and when.
    warned: Option<(String, Instant)>,
}

impl Health {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock_unpoisoned()
    }

    /// Logs why a message of a run was not taken, unless that was said a moment ago.
    pub(super) fn report(&self, run: &str, unput: &Unput) {
        let warned = &mut self.lock().warned;
        if warned.as_ref().is_some_and(|(why, at)| *why == unput.why && at.elapsed() < WARN_AGAIN) {
            return;
        }
        tracing::warn!(run, error = unput.why, "the queue takes no work");
        *warned = Some((unput.why.clone(), Instant::now()));
    }

    /// A message of that many bytes was given up.
    pub(super) fn gives_up(&self, unput: &Unput, bytes: usize) {
        // Where one tenant's consumer can't be made, the gateway stays ready for the others.
        if !unput.of_tenant {
            self.lock().refused = Some((unput.why.clone(), bytes));
        }
    }

    /// A message was taken.
    pub(super) fn takes(&self) {
        let mut state = self.lock();
        if state.refused.take().is_some() {
            // The next refusal is a new one, and is logged even within the minute.
            state.warned = None;
            tracing::info!("the queue takes work again");
        }
    }

    /// Bytes of the message that was refused last, while no other was taken.
    pub(super) fn refused_bytes(&self) -> Option<usize> {
        self.lock().refused.as_ref().map(|(_, bytes)| *bytes)
    }

    /// Why no work would be taken now.
    pub(super) fn refuses(&self) -> Option<String> {
        self.lock().refused.as_ref().map(|(why, _)| why.clone())
    }
}
