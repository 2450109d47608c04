//! Things that a gateway makes on the servers, once, whichever gateway is first: the stream of work, the tenants'
//! consumers, the bucket of agents. Each is made so that making it again changes nothing.

use std::collections::HashMap;
use std::error::Error;
use std::iter::successors;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::{Config, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Context, ErrorCode, context, kv, stream};
use fastmap_backends::unpoisoned::LockUnpoisoned;
use tokio::time::sleep;

use crate::dispatch::jetstream::subjects::Names;

/// Work that no agent has taken is forgotten after this time; its client has sent it again long before.
const KEPT: Duration = Duration::from_hours(24);
/// A message that is published again within this is dropped.
const DEDUP: Duration = Duration::from_mins(2);
/// The servers forget a tenant's consumer that was not asked for this time.
const INACTIVE: Duration = Duration::from_hours(1);
/// A consumer is made again if it was last made longer ago than this.
pub(super) const MADE: Duration = Duration::from_mins(10);
/// Servers that elect a leader, or have just been started, answer nothing for some seconds.
const PATIENCE: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_millis(500);
/// Bytes of what an agent says of itself, and of what all say. One that floods the bucket keeps others out of the
/// operator's page, and takes no more of the servers' memory.
const ENTRY: i32 = 4 << 10;
const ENTRIES: i64 = 8 << 20;
/// Consumers that the stream may have: one for each tenant of the last hour. From 2.15 on, servers limit a
/// stream that sets no limit of its own to 1,000.
pub(super) const CONSUMERS: i32 = 50_000;
/// Requests that may wait at a tenant's consumer: agents that are idle have one or two there.
const WAITING: i64 = 8192;

/// How the things on the servers are to be made.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Their names.
    pub names: Names,
    /// Servers that keep a copy of each.
    pub replicas: usize,
    /// What one tenant may have in agents' hands.
    pub quota: usize,
    /// Length of a lease: work whose agent sends nothing for this time goes to others.
    pub lease: Duration,
    /// An agent may keep a batch for twenty times its limit of CPU time and this, whatever it says.
    pub patience: Duration,
}

/// Why the servers do not have what a gateway needs.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// Of the stream.
    #[error("the stream of work can't be made on the NATS servers (is JetStream on?)")]
    Stream(#[from] context::CreateStreamError),
    /// Of the bucket of agents.
    #[error("the bucket of agents can't be made on the NATS servers")]
    Agents(#[from] context::CreateKeyValueError),
}

impl Layout {
    /// [`Layout::patience`] where nothing else is needed.
    pub const PATIENCE: Duration = Duration::from_mins(1);
}

impl ProvisionError {
    /// Whether the servers were not ready, and did not refuse.
    fn may_pass(&self) -> bool {
        // A refusal lasts, but for those of a cluster without a leader. Silence passes: servers that have
        // just been started answer nothing.
        let lasting = |error: &(dyn Error + 'static)| {
            error.downcast_ref::<context::CreateStreamError>().is_some_and(|error| match error.kind() {
                context::CreateStreamErrorKind::JetStream(refusal) => {
                    let busy = [ErrorCode::CLUSTER_NOT_AVAILABLE, ErrorCode::CLUSTER_NOT_LEADER];
                    !busy.contains(&refusal.error_code())
                }
                kind => !matches!(
                    kind,
                    context::CreateStreamErrorKind::TimedOut
                        | context::CreateStreamErrorKind::JetStreamUnavailable
                ),
            })
        };
        !successors(Some(self as &(dyn Error + 'static)), |error: &&(dyn Error + 'static)| (*error).source())
            .any(lasting)
    }
}

impl Layout {
    /// Makes the stream and the buckets, as soon as the servers are ready for it.
    ///
    /// # Errors
    /// If the servers refuse, are fewer than the replicas, or are not ready for half a minute.
    pub(super) async fn ensure_with_retry(&self, jetstream: &Context) -> Result<(), ProvisionError> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.make(jetstream).await {
                Err(unmade) if unmade.may_pass() && Instant::now() < until => {
                    tracing::warn!(error = %unmade, "the NATS servers are not ready, trying on");
                    sleep(AGAIN).await;
                }
                made => return made,
            }
        }
    }

    /// Makes the stream and the buckets.
    ///
    /// # Errors
    /// If the servers refuse, or are fewer than the replicas.
    pub(super) async fn make(&self, jetstream: &Context) -> Result<(), ProvisionError> {
        // A message is removed when it is acknowledged, and each subject has one consumer: that is a work
        // queue. The window is longer than all attempts to publish a message take: one that comes again
        // within them is dropped.
        let work = Config {
            name: self.names.stream(),
            subjects: vec![self.names.work("*", "*", "*", "*")],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            num_replicas: self.replicas,
            duplicate_window: DEDUP,
            max_age: KEPT,
            max_consumers: CONSUMERS,
            ..Config::default()
        };
        self.make_stream(jetstream, work).await?;
        // In memory: each agent writes its entry again several times within the life of an entry, so that
        // what a server loses is there again within seconds.
        let agents = kv::Config {
            bucket: self.names.agents(),
            description: "agents, each until its registration expires".to_owned(),
            history: 1,
            max_value_size: ENTRY,
            max_bytes: ENTRIES,
            max_age: LEASE,
            storage: StorageType::Memory,
            num_replicas: self.replicas,
            ..kv::Config::default()
        };
        jetstream.create_or_update_key_value(agents).await?;
        Ok(())
    }
}

impl Layout {
    /// Makes the stream of work. Older servers change nothing about the consumers of a stream that is there: it keeps what
    /// it has, and they set no limit of their own.
    async fn make_stream(&self, jetstream: &Context, work: Config) -> Result<(), ProvisionError> {
        let made = jetstream.create_or_update_stream(work.clone()).await;
        let invalid = |refusal: &jetstream::Error| refusal.error_code() == ErrorCode::STREAM_INVALID_CONFIG;
        match made {
            Err(error) if matches!(error.kind(), context::CreateStreamErrorKind::JetStream(ref why) if invalid(why)) =>
            {
                let there = jetstream.get_stream(self.names.stream()).await;
                // If the limit is the wanted one, or the stream is not there, the servers refuse something
                // else.
                let most = there.map_or(CONSUMERS, |stream| stream.cached_info().config.max_consumers);
                if most == CONSUMERS {
                    return Err(error.into());
                }
                tracing::warn!(most, "the NATS servers leave the stream's limit of consumers as it is");
                jetstream.create_or_update_stream(Config { max_consumers: most, ..work }).await?;
                Ok(())
            }
            made => Ok(made.map(drop)?),
        }
    }
}

/// The tenants' consumers, as far as this gateway has made them.
#[derive(Debug, Default)]
pub(super) struct Consumers(Mutex<HashMap<i64, Instant>>);

impl Consumers {
    /// Makes a tenant's consumer, unless it was made that lately.
    pub(super) async fn make(
        &self,
        jetstream: &Context,
        layout: &Layout,
        account: i64,
        lately: Duration,
    ) -> Result<(), stream::ConsumerError> {
        if self.lock().get(&account).is_some_and(|made| made.elapsed() < lately) {
            return Ok(());
        }
        // No `max_deliver`: the servers count work that an agent has handed back unbegun, and the gateway,
        // which gives work up after five agents, does not.
        let config = pull::Config {
            durable_name: Some(Names::consumer(account)),
            filter_subject: layout.names.work(&account.to_string(), "*", "*", "*"),
            ack_policy: AckPolicy::Explicit,
            ack_wait: layout.lease,
            max_ack_pending: layout.quota.max(1) as i64,
            max_waiting: WAITING,
            inactive_threshold: INACTIVE,
            ..pull::Config::default()
        };
        jetstream.create_consumer_on_stream(config, layout.names.stream()).await?;
        // Only what the servers have confirmed is noted: the next message of the tenant tries again. To make
        // the same consumer twice changes nothing, so that several gateways may do it at the same time.
        self.lock().insert(account, Instant::now());
        Ok(())
    }

    /// Forgets them: they may be gone, and each is made again when it is needed next.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i64, Instant>> {
        self.0.lock_unpoisoned()
    }
}

/// Life of an agent's entry that is not written again.
pub const LEASE: Duration = Duration::from_secs(15);
