//! Work on its way to the agent: asked for, received, prepared, handed back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::{Client, Message, StatusCode, Subscriber, jetstream};
use async_trait::async_trait;
use axum::body::Bytes;
use fastmap_backends::unpoisoned::LockUnpoisoned;
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{Notify, broadcast};
use tokio::time::{interval, interval_at};

use crate::dispatch::Unavailable;
use crate::dispatch::jetstream::agent::fair_pull::{FairPuller, Pull};
use crate::dispatch::jetstream::agent::gateway_client::GatewayClient;
use crate::dispatch::jetstream::agent::leases::{ActiveLease, LeaseTable};
use crate::dispatch::jetstream::agent::upload_cache::{Cache, Source};
use crate::dispatch::jetstream::messages;
use crate::dispatch::jetstream::messages::{DecodedWork, FileRef, Files, Origin, Reply, Request};
use crate::dispatch::jetstream::subjects::Names;
use crate::dispatch::work::{Task, Upload, Work};

/// Interval at which `lease` looks for a tenant that can be asked, if nothing else wakes it.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// Interval at which work that was delivered and not leased is looked for.
pub(super) const STALE: Duration = Duration::from_millis(100);

/// Runs that may end at once before an agent that is slow misses some.
pub(super) const ENDED: usize = 1024;

/// How long the end of a run or a batch is remembered, so that messages of it that were in flight are
/// dropped.
pub(super) const LATE: Duration = Duration::from_secs(30);

pub(super) const IN_PROGRESS: Bytes = Bytes::from_static(b"+WPI");

pub(super) const AGAIN: Bytes = Bytes::from_static(b"-NAK");

pub(super) const NEVER: Bytes = Bytes::from_static(b"+TERM");

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) jetstream: Context,
    pub(super) names: Names,
    /// Prefix of the subjects on which requests for work are answered.
    pub(super) inbox: String,
    pub(super) gateways: GatewayClient,
    pub(super) puller: Mutex<FairPuller<Ready>>,
    /// Leases that the agent takes at a time.
    pub(super) places: usize,
    pub(super) leases: LeaseTable,
    pub(super) files: Cache,
    /// Wakes calls of `lease`: work has arrived, a tenant can be asked, or the source is closed.
    pub(super) changed: Notify,
    pub(super) closed: AtomicBool,
    /// Runs and batches that have ended lately, by name and token: messages of them may still be in flight.
    pub(super) over: Mutex<HashMap<String, Instant>>,
    pub(super) pulls: UnboundedSender<Pull>,
    pub(super) ended: broadcast::Sender<String>,
}

/// Work that was delivered and is not leased yet.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) work: Work,
    pub(super) origin: Origin,
    pub(super) files: Files,
    pub(super) ack: String,
    pub(super) sequence: u64,
    /// Start of its lease.
    pub(super) since: Instant,
}

/// A file that a gateway gives out under a name.
pub(super) struct FromGateway<'a> {
    gateways: &'a GatewayClient,
    origin: &'a Origin,
    name: &'a str,
}

#[async_trait]
impl Source for FromGateway<'_> {
    async fn bytes(&self, offset: u64) -> Option<Bytes> {
        match self.gateways.ask(self.origin, self.name, &Request::Get(offset)).await? {
            Reply::Yes(bytes) => Some(bytes),
            Reply::No => None,
        }
    }
}

impl Shared {
    pub(super) fn puller(&self) -> MutexGuard<'_, FairPuller<Ready>> {
        self.puller.lock_unpoisoned()
    }

    /// An acknowledgement that is lost costs another delivery.
    pub(super) async fn acknowledge(&self, ack: &str, how: Bytes) {
        // The server delivers the work again when its lease is over.
        let _ = self.client.publish(ack.to_owned(), how).await;
    }

    /// Sends requests for work. A task of its own, because a call of `lease` may be dropped before its
    /// request is sent.
    pub(super) async fn ask(self: Arc<Self>, mut asked: UnboundedReceiver<Pull>) {
        while let Some(Pull { account, id, batch, expires }) = asked.recv().await {
            let (stream, consumer) = (self.names.stream(), Names::consumer(account));
            let subject = format!("{}.CONSUMER.MSG.NEXT.{stream}.{consumer}", self.names.api());
            let request = json!({ "batch": batch, "expires": expires.as_nanos() as u64 }).to_string();
            let reply = format!("{}.{account}.{id}", self.inbox);
            // A request that is lost expires, and another is made.
            let _ = self.client.publish_with_reply(subject, reply, request.into()).await;
        }
    }

    /// Takes the answers to requests for work.
    pub(super) async fn take(self: Arc<Self>, mut on_delivered: Subscriber) {
        while let Some(message) = on_delivered.next().await {
            if message.status.is_some_and(|status| status != StatusCode::OK) {
                // A request is over: its subject ends with its account and its number.
                let mut tokens = message.subject.rsplit('.');
                let (id, account) = (tokens.next().map(str::parse), tokens.next().map(str::parse));
                if let (Some(Ok(id)), Some(Ok(account))) = (id, account) {
                    self.puller().on_request_end(account, id, Instant::now());
                    self.changed.notify_one();
                    if message.status == Some(StatusCode::NO_RESPONDERS) {
                        self.misses(account).await;
                    }
                }
                continue;
            }
            let message = jetstream::Message { message, context: self.jetstream.clone() };
            // Work comes from a consumer, which its reply subject names; anything else is not work.
            let Ok(info) = message.info() else { continue };
            let Some(account) = Names::tenant(info.consumer) else { continue };
            let (delivered, sequence, pending) = (info.delivered, info.stream_sequence, info.pending);
            let closed = self.closed.load(Ordering::Relaxed);
            if !closed {
                self.puller().on_delivered(account, pending);
            }
            let Message { payload, reply: Some(ack), .. } = message.message else { continue };
            let since = Instant::now();
            match messages::decode_work(&payload) {
                Ok(DecodedWork { origin, work, remote, files }) => {
                    let ready = Ready { work, origin, files, ack: ack.into_string(), sequence, since };
                    if closed {
                        // Handed back before it is counted: when all requests are counted as over,
                        // `last_requests` returns, and the process may end.
                        self.nack_ready(ready).await;
                        self.puller().on_delivered(account, pending);
                        self.changed.notify_one();
                        continue;
                    }
                    // The work is not kept waiting for this answer, because nearly all gateways live.
                    if !self.gateways.heard_lately(&ready.origin) {
                        drop(tokio::spawn(Arc::clone(&self).look_for(ready.origin.clone())));
                    }
                    // The common case costs no question: the gateway has counted the first delivery itself. A
                    // later one may be of work that is answered.
                    if remote.is_none() && delivered == 1 {
                        self.ready(ready).await;
                    } else {
                        // In a task: messages of other tenants do not wait for a gateway's answer.
                        let shared = Arc::clone(&self);
                        drop(tokio::spawn(
                            async move { shared.prepare(ready, delivered as u64, remote).await },
                        ));
                    }
                }
                Err(error) => {
                    tracing::warn!(account, %error, "work that this version can't read is left to others");
                    // After a second, or the servers would deliver it here again at once. Agents of a newer
                    // version may be able to read it.
                    self.acknowledge(&ack, Bytes::from_static(b"-NAK {\"delay\": 1000000000}")).await;
                }
            }
        }
    }

    /// A tenant has no consumer, as far as this agent's servers know: gateways make it.
    async fn misses(&self, account: i64) {
        let missed = json!([account]).to_string();
        // It is tried again later.
        let _ = self.client.publish(self.names.join(), missed.into()).await;
    }

    async fn ready(&self, ready: Ready) {
        if self.closed.load(Ordering::Relaxed) {
            // The source may have been closed while the work was prepared.
            return self.nack_ready(ready).await;
        }
        let (run, token) = (ready.work.spec.run.clone(), ready.origin.token.clone());
        let is_over = || self.is_over(&run) || self.is_over(&token);
        if is_over() {
            return self.give_up(vec![ready], Vec::new()).await;
        }
        self.puller().ready(ready.work.spec.account, ready, Instant::now());
        // An end that arrives from now on finds the work in the table. One that arrived between the check
        // above and this line did not, so that `over` is asked again; the work may even be leased by now.
        if is_over() {
            let over = self.puller().take_if(|ready| ready.origin.token == token);
            return self.give_up(over, self.leases.end(|lease| lease.origin.token == token)).await;
        }
        self.changed.notify_one();
    }

    fn is_over(&self, name: &str) -> bool {
        self.over.lock_unpoisoned().contains_key(name)
    }

    fn heard_of_the_end(&self, name: &str) {
        let mut over = self.over.lock_unpoisoned();
        // Here and not by a timer: ends arrive as often as entries are made.
        over.retain(|_, since| since.elapsed() < LATE);
        over.insert(name.to_owned(), Instant::now());
    }

    /// Asks a gateway whether it is there. What one has left that is gone is not worked on.
    async fn look_for(self: Arc<Self>, origin: Origin) {
        if self.gateways.ask(&origin, messages::PING, &Request::Claim(0)).await.is_some() {
            return;
        }
        tracing::warn!(gateway = origin.gateway, "a gateway is gone; what it has left is given up");
        // Its clients send these batches again, to another gateway: no process would receive the outcome.
        let ready = self.puller().take_if(|ready| ready.origin.gateway == origin.gateway);
        let lease = self.leases.end(|lease| lease.origin.gateway == origin.gateway);
        self.give_up(ready, lease).await;
    }

    async fn give_up(&self, ready: Vec<Ready>, lease: Vec<ActiveLease>) {
        for ack in ready.into_iter().map(|ready| ready.ack).chain(lease.into_iter().map(|lease| lease.ack)) {
            self.acknowledge(&ack, NEVER).await;
        }
    }

    /// Asks the gateway whether the work is still wanted, and for the items that did not fit into the message.
    async fn prepare(&self, mut ready: Ready, delivered: u64, remote: Option<u64>) {
        let (origin, ack) = (ready.origin.clone(), ready.ack.clone());
        let preparing = async {
            match self.gateways.ask(&origin, &origin.token, &Request::Claim(delivered)).await? {
                Reply::Yes(_) => {}
                Reply::No => return None,
            }
            let Some(length) = remote else { return Some(Bytes::new()) };
            let mut payload = Vec::new();
            while (payload.len() as u64) < length {
                let request = Request::Get(payload.len() as u64);
                match self.gateways.ask(&origin, &origin.token, &request).await? {
                    // An empty piece would be asked for again without end.
                    Reply::Yes(bytes) if !bytes.is_empty() => payload.extend_from_slice(&bytes),
                    _ => return None,
                }
            }
            (payload.len() as u64 == length).then(|| payload.into())
        };
        match self.meanwhile(&origin, &ack, preparing).await {
            Some(payload) => {
                if let (Some(_), Task::Batch(batch)) = (remote, &mut ready.work.task) {
                    batch.payload = payload;
                }
                // Preparing may have taken longer than what is left of the lease: it begins anew, here and at
                // the servers.
                ready.since = Instant::now();
                self.acknowledge(&ack, IN_PROGRESS).await;
                self.ready(ready).await;
            }
            // The work is not wanted any more, or its gateway is gone. If the gateway only was cut off, it
            // finds the work missing and submits it again.
            None => self.acknowledge(&ack, NEVER).await,
        }
    }

    /// Does something that may take longer than a lease.
    pub(super) async fn meanwhile<T>(&self, origin: &Origin, ack: &str, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        // A third: one beat may be lost, or late. The first is due after that time, and not at once.
        let beat = Duration::from_millis((origin.lease_ms / 3).max(1));
        let mut extend = interval_at((Instant::now() + beat).into(), beat);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = extend.tick() => self.acknowledge(ack, IN_PROGRESS).await,
            }
        }
    }

    /// What was not begun goes to others, and counts for nothing.
    pub(super) async fn nack_ready(&self, ready: Ready) {
        // Before the work is free again: the next agent's claim is counted after this, or work that only
        // travels would be given up.
        self.gateways.notify(&ready.origin, &Request::Unstarted).await;
        self.acknowledge(&ready.ack, AGAIN).await;
    }

    pub(super) async fn hand_back_stale(self: Arc<Self>) {
        let mut look = interval(STALE);
        loop {
            look.tick().await;
            let stale = self.puller().stale(Instant::now());
            for ready in stale {
                self.nack_ready(ready).await;
            }
        }
    }

    pub(super) async fn hear_of_tenants(self: Arc<Self>, mut tenants: Subscriber) {
        while let Some(message) = tenants.next().await {
            let accounts: Vec<i64> = serde_json::from_slice(&message.payload).unwrap_or_default();
            let now = Instant::now();
            for account in accounts {
                self.puller().on_announced(account, now);
            }
            self.changed.notify_one();
        }
    }

    pub(super) async fn hear_of_revoked(self: Arc<Self>, mut revoked: Subscriber) {
        while let Some(message) = revoked.next().await {
            let token = String::from_utf8_lossy(&message.payload).into_owned();
            // Noted first: work that arrives during the search is dropped by `ready`.
            self.heard_of_the_end(&token);
            let ready = self.puller().take_if(|ready| ready.origin.token == token);
            self.give_up(ready, self.leases.end(|lease| lease.origin.token == token)).await;
        }
    }

    pub(super) async fn hear_of_ends(self: Arc<Self>, mut over: Subscriber) {
        while let Some(message) = over.next().await {
            let run = String::from_utf8_lossy(&message.payload).into_owned();
            // Noted first, as above.
            self.heard_of_the_end(&run);
            let ready = self.puller().take_if(|ready| ready.work.spec.run == run);
            self.give_up(ready, self.leases.end(|lease| lease.run == run)).await;
            // Without a receiver there are no workers to end.
            let _ = self.ended.send(run);
        }
    }

    pub(super) async fn upload(&self, origin: &Origin, named: &FileRef) -> Result<Upload, Unavailable> {
        let source = FromGateway { gateways: &self.gateways, origin, name: &named.name };
        self.files.get(&named.hash, &source).await.map_err(|error| Unavailable(Box::new(error)))
    }

    /// Sends an outcome, in parts if it is large.
    pub(super) async fn deliver(&self, lease: &ActiveLease, outcome: Bytes) -> Delivery {
        // The subject of the acknowledgement travels with the outcome.
        let room = messages::room(self.client.max_payload()) - lease.ack.len();
        let about = &lease.origin.token;
        let ask = async |request: Request| match self.gateways.ask(&lease.origin, about, &request).await {
            Some(Reply::Yes(bytes)) if &*bytes == messages::DUPLICATE => Delivery::Duplicate,
            Some(Reply::Yes(_)) => Delivery::Taken,
            Some(Reply::No) | None => Delivery::Unwanted,
        };
        if outcome.len() <= room {
            return ask(Request::Outcome(lease.ack.clone(), outcome)).await;
        }
        let total = outcome.len() as u64;
        for (at, part) in outcome.chunks(room).enumerate() {
            // One after the other, each when the one before is answered: the gateway refuses a gap.
            let delivered = ask(Request::Part((at * room) as u64, total, outcome.slice_ref(part))).await;
            if delivered != Delivery::Taken {
                return delivered;
            }
        }
        ask(Request::Outcome(lease.ack.clone(), Bytes::new())).await
    }
}

/// What a gateway does with an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    Taken,
    /// Another agent's outcome of the same work was taken before: the service has repeated it, and its time is free.
    Duplicate,
    /// The work is abandoned, or its gateway gone.
    Unwanted,
}
