//! Connection of a gateway to the servers: publishes work, answers agents, acknowledges.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_nats::jetstream::Context;
use async_nats::{Client, HeaderMap, Message, Subscriber, header};
use axum::body::Bytes;
use fastmap_backends::unpoisoned::LockUnpoisoned;
use futures_util::StreamExt;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::spawn_blocking;
use tokio::time::{interval, sleep};

use super::health::{Health, Unput};
use super::pending::{Answer, PendingTable, Report};
use crate::dispatch::Uses;
use crate::dispatch::jetstream::gateway::pending_work::{Overdue, Requeued};
use crate::dispatch::jetstream::messages::{Origin, Reply, Request};
use crate::dispatch::jetstream::streams::{Consumers, MADE};
use crate::dispatch::jetstream::{Layout, messages};

/// A tenant that goes on waiting is announced to agents at this interval.
pub(super) const ANNOUNCE: Duration = Duration::from_secs(2);

/// The servers have taken a message within this, or it is sent again under the same id.
pub(super) const TAKEN: Duration = Duration::from_secs(3);

/// Attempts to publish a message before its work is given up, if the servers are silent: half a minute in
/// all. A message that they refuse is sent twice.
pub(super) const TRIES: u32 = 12;

/// A consumer that agents miss is made again if it was last made longer ago than this: agents may report it
/// at any rate.
pub(super) const MISSED: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) jetstream: Context,
    pub(super) layout: Layout,
    /// This gateway's name among others: a new one for each process.
    pub(super) gateway: String,
    pub(super) pending: PendingTable,
    pub(super) consumers: Consumers,
    pub(super) health: Health,
    pub(super) announced: Mutex<HashMap<i64, Instant>>,
    pub(super) dealt_with: UnboundedSender<String>,
    pub(super) uses: Uses,
}

impl Shared {
    /// Puts work into the queue. Sent again under the same id, it is there once.
    async fn put(&self, requeued: &Requeued) -> Result<(), Unput> {
        let (spec, names) = (&requeued.work.spec, &self.layout.names);
        let origin = Origin {
            gateway: self.gateway.clone(),
            token: requeued.token.clone(),
            lease_ms: self.layout.lease.as_millis() as u64,
        };
        let room = messages::room(self.client.max_payload());
        let message = messages::work(&requeued.work, &origin, &requeued.files, room);
        let subject =
            names.work(&spec.account.to_string(), &spec.run, &self.gateway, &requeued.n.to_string());
        // With the attempt: within the window servers drop a message whose id they know, also if they have
        // lost or purged the first one.
        let id = format!("{}.{}.{}.{}", spec.run, self.gateway, requeued.n, requeued.attempt);
        let mut tried = 0;
        loop {
            let unput = match self.try_put(&subject, &id, &message, spec.account).await {
                Ok(place) => {
                    self.health.takes();
                    // It may be answered already; then nothing is noted.
                    self.pending.set_position(&requeued.token, place);
                    self.tell_of(spec.account).await;
                    return Ok(());
                }
                Err(unput) => unput,
            };
            self.health.report(&spec.run, &unput);
            tried += 1;
            // A refusal is tried once more, after the stream and the consumer were made anew. Silence may be
            // an election among the servers, which takes some seconds.
            if tried == TRIES || (tried > 1 && unput.lasts) {
                self.health.gives_up(&unput, message.len());
                return Err(unput);
            }
            if tried > 1 || unput.lasts {
                // The stream or the consumer may be gone, or not as it should be.
                self.consumers.forget();
                // It is tried again later.
                let _ = self.layout.make(&self.jetstream).await;
            }
            // Longer each time: attempts that fail at once would be over before the servers have a leader.
            sleep(Duration::from_millis(50) * tried).await;
        }
    }

    async fn try_put(&self, subject: &str, id: &str, message: &Bytes, account: i64) -> Result<u64, Unput> {
        // Before the message: an agent asks a tenant's consumer as soon as the tenant is announced.
        self.consumers.make(&self.jetstream, &self.layout, account, MADE).await?;
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_MESSAGE_ID, id);
        self.publish(subject, headers, message).await
    }

    /// Puts a message into the stream; returns its place there.
    pub(super) async fn publish(
        &self,
        subject: &str,
        headers: HeaderMap,
        message: &Bytes,
    ) -> Result<u64, Unput> {
        let sent = self.jetstream.publish_with_headers(subject.to_owned(), headers, message.clone()).await?;
        // The first `await` sends, this one waits until the stream has the message.
        Ok(sent.await?.sequence)
    }

    /// Takes a batch away from an agent that has kept it for too long, and gives it to others.
    pub(super) async fn reassign(&self, overdue: Overdue) {
        let Overdue { token, run, n, requeued } = overdue;
        tracing::warn!(run, "an agent has kept a batch for too long; it is taken away");
        metrics::counter!("fastmap_batches_kept_too_long_total").increment(1);
        // The agent gets no message: agents drop all work under a name that was revoked, and the next one
        // gets it under the same name. If this agent answers first, its outcome counts. The purge is before
        // the publication, because both attempts have one subject.
        self.purge(self.layout.names.work("*", &run, &self.gateway, &n.to_string())).await;
        match requeued {
            Some(requeued) => self.put_or_refuse(&requeued).await,
            None => self.pending.lose(&token),
        }
    }

    /// Puts work into the queue, or ends the item with the queue's reason.
    pub(super) async fn put_or_refuse(&self, requeued: &Requeued) {
        if let Err(unput) = self.put(requeued).await {
            self.pending.refuse(&requeued.token, unput.why);
        }
    }

    pub(super) async fn put_requeued(&self, requeued: Requeued) {
        tracing::warn!(
            run = requeued.work.spec.run,
            attempt = requeued.attempt,
            "the queue has lost a batch"
        );
        metrics::counter!("fastmap_batches_lost_by_queue_total").increment(1);
        self.put_or_refuse(&requeued).await;
    }

    /// Takes away what waits under these subjects.
    pub(super) async fn purge(&self, subjects: String) {
        let stream = self.jetstream.get_stream_no_info(self.layout.names.stream()).await;
        let purged = match stream {
            Ok(stream) => stream.purge().filter(&subjects).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = purged {
            // Agents that begin it find that it is not wanted.
            tracing::warn!(subjects, error, "what is over could not be taken from the queue");
        }
    }

    /// Announces a tenant to agents, unless that was done lately.
    async fn tell_of(&self, account: i64) {
        // Noted before it is sent, and under one lock: of many submissions at a time one announces.
        let lately = {
            let mut announced = self.announced.lock_unpoisoned();
            let lately = announced.get(&account).is_some_and(|announced| announced.elapsed() < ANNOUNCE);
            if !lately {
                announced.insert(account, Instant::now());
            }
            lately
        };
        if !lately {
            self.tell_all(&[account]).await;
        }
    }

    async fn tell_all(&self, accounts: &[i64]) {
        let announced = serde_json::to_vec(accounts).unwrap_or_default();
        if let Err(error) = self.client.publish(self.layout.names.tenants(), announced.into()).await {
            tracing::warn!(%error, "the list of tenants with work could not be sent to agents");
        }
    }

    /// Announces all tenants with pending work to agents, at intervals and when an agent joins.
    pub(super) async fn announce_tenants(self: Arc<Self>, mut joins: Subscriber) {
        let mut timer = interval(ANNOUNCE);
        loop {
            tokio::select! {
                _ = timer.tick() => {}
                joined = joins.next() => match joined {
                    Some(joined) => self.see_to(&joined.payload),
                    None => return,
                },
            }
            let tenants = self.pending.tenants();
            // A tenant that waits for nothing is forgotten: its next work is announced at once.
            self.announced.lock_unpoisoned().retain(|account, _| tenants.binary_search(account).is_ok());
            if !tenants.is_empty() {
                self.tell_all(&tenants).await;
            }
        }
    }

    /// Makes the consumers that an agent misses, of tenants that wait here.
    fn see_to(self: &Arc<Self>, missed: &[u8]) {
        let mut missed: Vec<i64> = serde_json::from_slice(missed).unwrap_or_default();
        if missed.is_empty() {
            return;
        }
        let tenants = self.pending.tenants();
        // An agent may name any account: consumers are made only for tenants that wait here.
        missed.retain(|account| tenants.binary_search(account).is_ok());
        let shared = Arc::clone(self);
        // Beside the loop that announces tenants, which does not wait for the servers' answers.
        drop(tokio::spawn(async move {
            for account in missed {
                shared.make_consumer(account, MISSED).await;
            }
        }));
    }

    /// Makes the consumer of a tenant that waits, unless that was done lately.
    pub(super) async fn make_consumer(&self, account: i64, lately: Duration) {
        if let Err(error) = self.consumers.make(&self.jetstream, &self.layout, account, lately).await {
            tracing::warn!(account, %error, "a tenant's consumer can't be made");
        }
    }

    pub(super) async fn answer(self: Arc<Self>, mut requests: Subscriber) {
        while let Some(message) = requests.next().await {
            let Message { subject, payload, reply, .. } = message;
            let about = subject.rsplit('.').next().unwrap_or_default();
            let Ok(request) = Request::decode(&payload) else { continue };
            // About a run, not about work, and charged by the database: the loop does not wait for that.
            if let Request::Used(report, cpu_ns) = request {
                self.take_report(about, report, Duration::from_nanos(cpu_ns), reply);
                continue;
            }
            let room = messages::room(self.client.max_payload());
            let answer = self.pending.request(about, request, room);
            // Notifications get no reply.
            let Some(reply) = reply else { continue };
            match answer {
                Answer::Now(answer) => self.reply(reply, &answer).await,
                Answer::Over(answer) => {
                    self.reply(reply, &answer).await;
                    // An agent that does not get it works in vain, and its answer is refused.
                    let _ = self.client.publish(self.layout.names.revoked(), about.to_owned().into()).await;
                }
                Answer::File(path, offset) => {
                    let shared = Arc::clone(&self);
                    drop(tokio::spawn(async move {
                        // Beside the loop: other agents do not wait for this one's file.
                        let read = spawn_blocking(move || read(&path, offset, room)).await;
                        let answer = read.ok().and_then(Result::ok).map_or(Reply::No, Reply::Yes);
                        shared.reply(reply, &answer).await;
                    }));
                }
            }
        }
    }

    /// An agent reports what workers have used. One that is not answered comes again.
    fn take_report(
        self: &Arc<Self>,
        name: &str,
        report: u64,
        cpu: Duration,
        to: Option<async_nats::Subject>,
    ) {
        let known = self.pending.report(name, report);
        let (shared, name) = (Arc::clone(self), name.to_owned());
        drop(tokio::spawn(async move {
            let paid = match known {
                Report::Charge(run) => {
                    let paid = shared.uses.report(&run, cpu).await;
                    shared.pending.end_report(&name, report, paid.is_some());
                    paid
                }
                // Whether the run could pay was the first one's answer; if not, the run ends, and its workers
                // with it.
                Report::Charged => Some(true),
                // The agent repeats it, and learns then what has become of the first one.
                Report::UnderWay => None,
                Report::Unknown => Some(false),
            };
            // Without a reply the agent sends the report again.
            if let (Some(paid), Some(to)) = (paid, to) {
                shared.reply(to, &Reply::Yes(Bytes::copy_from_slice(&[u8::from(paid)]))).await;
            }
        }));
    }

    async fn reply(&self, to: async_nats::Subject, answer: &Reply) {
        // An agent that does not get the answer asks again.
        let _ = self.client.publish(to, answer.encode()).await;
    }

    /// Runs that end at another gateway end here.
    pub(super) async fn hear_of_ends(self: Arc<Self>, mut ended: Subscriber) {
        while let Some(message) = ended.next().await {
            // This gateway's own ends arrive here, too, and find nothing.
            self.pending.end_run(&String::from_utf8_lossy(&message.payload));
        }
    }

    pub(super) async fn acknowledge(self: Arc<Self>, mut acks: UnboundedReceiver<String>) {
        while let Some(ack) = acks.recv().await {
            // One that is lost costs another delivery; the agent that gets it learns that the work is not
            // wanted.
            let _ = self.client.publish(ack, Bytes::from_static(b"+ACK")).await;
        }
    }
}

/// Bytes of a file from `offset` on, as many as fit into a message.
pub(super) fn read(path: &Path, offset: u64, room: usize) -> std::io::Result<Bytes> {
    let file = File::open(path)?;
    let left = file.metadata()?.len().saturating_sub(offset);
    let mut bytes = vec![0; room.min(usize::try_from(left).unwrap_or(room))];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.into())
}
