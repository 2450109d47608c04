//! The agent's side: asks tenants' consumers for work as long as a caller waits for some, extends leases, and
//! delivers outcomes to the gateways that wait for them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::jetstream::context::ContextBuilder;
use async_nats::{Client, SubscribeError};
use async_trait::async_trait;
use axum::body::Bytes;
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use super::fair_pull::{FairPuller, Next};
use super::gateway_client::GatewayClient;
use super::leases::{ActiveLease, LeaseTable};
use super::upload_cache::Cache;
use crate::dispatch::jetstream::agent::intake::{
    AGAIN, Delivery, ENDED, IN_PROGRESS, LOOK, NEVER, Ready, Shared,
};
use crate::dispatch::jetstream::messages;
use crate::dispatch::jetstream::messages::{Origin, Reply, Request};
use crate::dispatch::jetstream::subjects::Names;
use crate::dispatch::work::{RunSpec, WorkOutcome};
use crate::dispatch::{Closed, Lease, LeaseId, Payer, Unavailable, WorkSource};
use crate::keys::random;

/// The agent's side of work that goes through JetStream.
#[derive(Debug)]
pub struct JetStreamWorkSource {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl JetStreamWorkSource {
    /// Subscribes to gateways' messages, for an agent that has up to `places` leases at a time.
    ///
    /// # Errors
    /// If the servers refuse a subscription.
    pub async fn start(
        client: Client,
        names: Names,
        files: Cache,
        places: usize,
    ) -> Result<Self, SubscribeError> {
        let inbox = client.new_inbox();
        let on_delivered = client.subscribe(format!("{inbox}.*.*")).await?;
        let tenants = client.subscribe(names.tenants()).await?;
        let over = client.subscribe(names.ended()).await?;
        let revoked = client.subscribe(names.revoked()).await?;
        let (pulls, asked) = unbounded_channel();
        let shared = Arc::new(Shared {
            jetstream: ContextBuilder::new().api_prefix(names.api()).build(client.clone()),
            gateways: GatewayClient::new(client.clone(), names.clone()),
            client,
            names,
            inbox,
            puller: Mutex::new(FairPuller::new()),
            places,
            leases: LeaseTable::default(),
            files,
            changed: Notify::new(),
            closed: AtomicBool::new(false),
            over: Mutex::default(),
            pulls,
            ended: broadcast::Sender::new(ENDED),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&shared).take(on_delivered));
        tasks.spawn(Arc::clone(&shared).hear_of_tenants(tenants));
        tasks.spawn(Arc::clone(&shared).hear_of_ends(over));
        tasks.spawn(Arc::clone(&shared).hear_of_revoked(revoked));
        tasks.spawn(Arc::clone(&shared).ask(asked));
        tasks.spawn(Arc::clone(&shared).hand_back_stale());
        // Gateways announce tenants again by themselves.
        let _ = shared.client.publish(shared.names.join(), Bytes::new()).await;
        Ok(JetStreamWorkSource { shared, _tasks: tasks })
    }

    /// Waits, after `close`, until the last requests to the servers are over (some seconds), and hands back
    /// the work that they bring. An agent that leaves before may take work along, which others get when its
    /// lease ends.
    pub async fn last_requests(&self) {
        loop {
            let changed = self.shared.changed.notified();
            // Requests can't be taken back. The end of one may be lost, so that the time counts, too.
            let Some(until) = self.shared.puller().open_until(Instant::now()) else { return };
            drop(timeout_at(until.into(), changed).await);
        }
    }
}

#[async_trait]
impl WorkSource for JetStreamWorkSource {
    async fn lease(&self) -> Result<Lease, Closed> {
        let shared = &self.shared;
        loop {
            // Made before the look at the flag and at the table: a change in between wakes it all the same.
            let changed = shared.changed.notified();
            if shared.closed.load(Ordering::Relaxed) {
                return Err(Closed);
            }
            // One at least: the agent that calls has a place, even if a lease that it has dropped is still in
            // the table.
            let (now, room) = (Instant::now(), shared.places.saturating_sub(shared.leases.len()).max(1));
            // From here to the return of the lease there is no `await`, except for work that is in hand
            // already: a caller that gives up loses no work.
            let (next, pulls) = {
                let mut puller = shared.puller();
                (puller.next(now), puller.pulls(room, now))
            };
            for pull in pulls {
                // The receiving task lives as long as this source.
                let _sent = shared.pulls.send(pull);
            }
            let look = match next {
                Next::Work(Ready { work, origin, files, ack, sequence, since }) => {
                    let lasts = Duration::from_millis(origin.lease_ms);
                    // From its delivery on, as the servers count it, and not from the lease.
                    let until = since + lasts;
                    let run = work.spec.run.clone();
                    let payer =
                        Payer { gateway: origin.gateway.clone(), name: files.executable.name.clone() };
                    let in_hand = Arc::default();
                    let active = ActiveLease {
                        origin: origin.clone(),
                        files,
                        run,
                        ack,
                        sequence,
                        until,
                        in_hand: Arc::downgrade(&in_hand),
                        revoked: Arc::default(),
                    };
                    let entered = shared.leases.insert(active);
                    // Other callers that wait may find more.
                    shared.changed.notify_one();
                    let Some(id) = entered else {
                        // The claim of this delivery was counted as another agent's.
                        tracing::debug!(run = work.spec.run, "a batch that is in hand came again");
                        shared.gateways.notify(&origin, &Request::Unstarted).await;
                        continue;
                    };
                    return Ok(Lease { id, lasts, work, payer, in_hand });
                }
                Next::At(at) => at,
                Next::Nothing => now + LOOK,
            };
            drop(timeout_at(look.into(), changed).await);
        }
    }

    async fn prepare_uploads(&self, spec: &Arc<RunSpec>) -> Result<Arc<RunSpec>, Unavailable> {
        let gone = || Unavailable("its lease is over".into());
        // The names of the files are in the lease, not in the run's description: only an agent that has work
        // of the run gets them.
        let active = self.shared.leases.of_run(&spec.run).ok_or_else(gone)?;
        let executable = self.shared.upload(&active.origin, &active.files.executable).await?;
        let context = match &active.files.context {
            Some(context) => Some(self.shared.upload(&active.origin, context).await?),
            None => None,
        };
        Ok(Arc::new(RunSpec { executable, context, ..RunSpec::clone(spec) }))
    }

    async fn used(&self, payer: &Payer, _run: &str, cpu: Duration) -> Option<bool> {
        let Payer { gateway, name } = payer.clone();
        // Without a lease: the run may have no work any more when its last workers have ended.
        let origin = Origin { gateway, token: name.clone(), lease_ms: 0 };
        // By this number the gateway knows a report that is sent again because its answer was lost.
        let report = u64::from_le_bytes(random().ok()?);
        let report = Request::Used(report, messages::nanos(cpu));
        match self.shared.gateways.ask(&origin, &name, &report).await? {
            Reply::Yes(paid) => Some(paid.first() == Some(&1)),
            Reply::No => Some(false),
        }
    }

    async fn revoked(&self, lease: LeaseId) {
        if let Some(revoked) = self.shared.leases.revoked(lease) {
            revoked.notified().await;
        }
    }

    async fn extend(&self, lease: LeaseId) -> bool {
        let shared = &self.shared;
        let Some((mut ack, over)) = shared.leases.extend(lease, Instant::now()) else { return false };
        if over {
            // This agent stood still, or was cut off: others may have the work as well by now, it may be
            // answered, or the message about its end did not arrive here.
            let Some(origin) = shared.leases.origin(lease) else { return false };
            let asked = shared.gateways.ask(&origin, &origin.token, &Request::Claim(0)).await;
            if !matches!(asked, Some(Reply::Yes(_))) {
                shared.leases.take(lease);
                return false;
            }
            let Some((now, _)) = shared.leases.extend(lease, Instant::now()) else { return false };
            ack = now;
        }
        shared.acknowledge(&ack, IN_PROGRESS).await;
        true
    }

    async fn answer(&self, lease: LeaseId, outcome: WorkOutcome) -> bool {
        let shared = &self.shared;
        // Also after the end of the lease: the first answer counts, whichever agent's it is.
        let Some(active) = shared.leases.take(lease) else { return false };
        let delivering = shared.deliver(&active, messages::encode_outcome(outcome));
        let delivery = shared.meanwhile(&active.origin, &active.ack, delivering).await;
        if delivery != Delivery::Taken {
            shared.acknowledge(&active.ack, NEVER).await;
        }
        delivery != Delivery::Unwanted
    }

    async fn nack(&self, lease: LeaseId) {
        let shared = &self.shared;
        let now = Instant::now();
        // Where the lease is over, the servers have given the work to others, and the gateway counts it with
        // the next claim.
        let Some(active) = shared.leases.take(lease).filter(|active| active.until > now) else { return };
        let asking = shared.gateways.ask(&active.origin, &active.origin.token, &Request::Nack);
        let lost = matches!(shared.meanwhile(&active.origin, &active.ack, asking).await, Some(Reply::No));
        // Without an answer the work goes back, too: the next agent finds out whether the gateway is gone.
        shared.acknowledge(&active.ack, if lost { NEVER } else { AGAIN }).await;
    }

    fn ended_runs(&self) -> broadcast::Receiver<String> {
        self.shared.ended.subscribe()
    }

    async fn close(&self) {
        let shared = &self.shared;
        shared.closed.store(true, Ordering::Relaxed);
        // All calls that wait now are woken; the permit is for one that is about to wait and has not seen the
        // flag.
        shared.changed.notify_waiters();
        shared.changed.notify_one();
        // After the flag: what arrives from now on is handed back by `take` and `ready`.
        let ready = shared.puller().take_if(|_| true);
        for ready in ready {
            shared.nack_ready(ready).await;
        }
    }
}
