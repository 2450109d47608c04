//! The gateway's side: puts work into the stream, answers what agents ask about it, acknowledges it when its outcome is
//! dealt with, and announces to agents which tenants have work and which runs are over.

use std::sync::{Arc, Mutex};

use async_nats::connection::State;
use async_nats::jetstream::context;
use async_nats::{Client, SubscribeError};
use async_trait::async_trait;
use axum::body::Bytes;
use fastmap_backends::unpoisoned::LockUnpoisoned;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinSet;

use super::health::Health;
use super::pending::{PendingTable, Registered, name};
use super::publisher::{Shared, TAKEN};
use super::{agent_registry, reconcile};
use crate::agent_registry::AgentRegistry;
use crate::dispatch::jetstream::gateway::pending_work::{Ack, Requeued};
use crate::dispatch::jetstream::streams::{Consumers, ProvisionError};
use crate::dispatch::jetstream::{Layout, worker_logs};
use crate::dispatch::work::Work;
use crate::dispatch::{Closed, Dispatch, PendingWork, Used, Uses};
use crate::run_log::RunLogs;

/// The gateway's side of work that goes through JetStream.
#[derive(Debug)]
pub struct JetStreamDispatcher {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum Unstarted {
    /// What it needs on the servers can't be made.
    #[error(transparent)]
    ProvisionError(#[from] ProvisionError),
    /// A subscription that it needs is refused.
    #[error("cannot subscribe to what agents say")]
    Deaf(#[from] SubscribeError),
}

/// Acknowledges the work, when it is dropped: its outcome is dealt with.
#[derive(Debug)]
struct AckOnDrop {
    shared: Arc<Shared>,
    token: String,
    ack: Ack,
}

impl Drop for AckOnDrop {
    fn drop(&mut self) {
        let ack = self.ack.lock_unpoisoned().take();
        match ack {
            // By a task, because a destructor can't wait for the connection.
            Some(ack) => drop(self.shared.dealt_with.send(ack)),
            // Agents that claim it get the answer that it is not wanted.
            None => drop(self.shared.pending.remove(&self.token)),
        }
    }
}

impl JetStreamDispatcher {
    /// Makes what is needed on the servers and begins to listen to agents: those that there are stand in `roster`, what
    /// their workers print in `events`.
    ///
    /// # Errors
    /// If the servers refuse something.
    pub async fn start(
        client: Client,
        layout: Layout,
        roster: AgentRegistry,
        events: RunLogs,
    ) -> Result<Self, Unstarted> {
        let context = context::ContextBuilder::new().timeout(TAKEN).ack_timeout(TAKEN);
        let jetstream = context.api_prefix(layout.names.api()).build(client.clone());
        layout.ensure_with_retry(&jetstream).await?;
        let (dealt_with, acks) = unbounded_channel();
        // A new name for each process: agents and other gateways find the old one silent, and drop the work
        // that it has left.
        let gateway = name();
        let requests = client.subscribe(layout.names.gateway(&gateway, "*")).await?;
        let ended = client.subscribe(layout.names.ended()).await?;
        let joins = client.subscribe(layout.names.join()).await?;
        let printed = client.subscribe(layout.names.lines("*")).await?;
        let shared = Arc::new(Shared {
            client,
            jetstream,
            pending: PendingTable::new(layout.names.clone()),
            layout,
            gateway,
            consumers: Consumers::default(),
            health: Health::default(),
            announced: Mutex::default(),
            dealt_with,
            uses: Uses::default(),
        });
        // The servers must know of the subscriptions before work is published: agents may ask about it at
        // once. Without a connection the client sends them again when there is one.
        let _ = shared.client.flush().await;
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&shared).answer(requests));
        tasks.spawn(Arc::clone(&shared).hear_of_ends(ended));
        tasks.spawn(Arc::clone(&shared).announce_tenants(joins));
        tasks.spawn(Arc::clone(&shared).acknowledge(acks));
        tasks.spawn(reconcile::audit(Arc::clone(&shared)));
        tasks.spawn(super::health_probe::look(Arc::clone(&shared)));
        tasks.spawn(agent_registry::follow(Arc::clone(&shared), roster));
        tasks.spawn(worker_logs::take(printed, events));
        Ok(JetStreamDispatcher { shared, _tasks: tasks })
    }
}

#[async_trait]
impl Dispatch for JetStreamDispatcher {
    async fn submit(&self, work: Work) -> Result<PendingWork, Closed> {
        let shared = &self.shared;
        let registered = shared.pending.register(work.clone()).ok_or(Closed)?;
        let Registered { token, n, files, outcome, ack } = registered;
        // Before the first `await`: if the caller is dropped while the work is being published, nothing stays
        // in the table.
        let ack_on_drop = AckOnDrop { shared: Arc::clone(shared), token: token.clone(), ack };
        shared.put_or_refuse(&Requeued { token, work, n, attempt: 0, files }).await;
        Ok(PendingWork { outcome, _kept: Some(Box::new(ack_on_drop)) })
    }

    async fn cancel(&self, run: &str, seq: u64) {
        let Shared { client, layout, gateway, pending, .. } = &*self.shared;
        // First of all, so that no answer is accepted any more. Then agents are notified, which remember the
        // token for what is in flight, and last what still waits is purged.
        let Some((token, n)) = pending.cancel(run, seq) else { return };
        if let Err(error) = client.publish(layout.names.revoked(), token.into()).await {
            tracing::warn!(run, seq, %error, "the cancellation of a batch could not be sent to agents");
        }
        self.shared.purge(layout.names.work("*", run, gateway, &n.to_string())).await;
    }

    async fn end_run(&self, run: &str) {
        let Shared { client, layout, pending, .. } = &*self.shared;
        // Other gateways may have work of the run, and agents may have workers without work: all are
        // notified, even if nothing of it is pending here.
        pending.end_run(run);
        // Agents drop what they hold when this arrives; what waits is purged below.
        if let Err(error) = client.publish(layout.names.ended(), Bytes::from(run.to_owned())).await {
            tracing::warn!(run, %error, "the end of a run could not be sent to agents");
        }
        self.shared.purge(layout.names.work("*", run, "*", "*")).await;
    }

    async fn used(&self) -> Option<Used> {
        self.shared.uses.next().await
    }

    fn refuses(&self) -> Option<String> {
        if self.shared.client.connection_state() != State::Connected {
            return Some("no NATS server is connected".to_owned());
        }
        self.shared.health.refuses()
    }

    async fn close(&self) {
        self.shared.pending.close();
    }
}
