//! The gateway's side: puts work into the stream, answers what agents ask about it, acknowledges it when its verdict is
//! dealt with, and tells agents whose work there is and which runs are over.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::jetstream::{Context, context};
use async_nats::{Client, HeaderMap, Message, SubscribeError, Subscriber, header};
use async_trait::async_trait;
use axum::body::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{interval, sleep};

use super::flights::{Ack, Again, Answer, Entered, Flights, Kept as TooLong, Report, name};
use super::health::{self, Health, Unput};
use super::layout::{Consumers, MADE, Unmade};
use super::wire::{self, Origin, Reply, Request};
use super::{Layout, audit, lines, registry};
use crate::dispatch::{Closed, Dispatch, Submitted, Used, Uses, Work};
use crate::events::Events;
use crate::roster::Roster;

/// Agents are told of a tenant that goes on waiting so often.
pub(super) const TELL: Duration = Duration::from_secs(2);
/// The servers have taken a message within this, or it is sent again under the same id.
const TAKEN: Duration = Duration::from_secs(3);
/// How often a message is sent before its work is given up, where the servers are silent: half a minute in all. One that
/// they refuse is sent twice.
const TRIES: u32 = 12;
/// A consumer that agents miss is made again when it was last made this long ago: agents may say so as often as they like.
const MISSED: Duration = Duration::from_secs(1);

/// The gateway's side of work that goes through JetStream.
#[derive(Debug)]
pub struct Sender {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum Unstarted {
    /// What it needs on the servers can't be made.
    #[error(transparent)]
    Unmade(#[from] Unmade),
    /// It may not hear what it must.
    #[error("cannot subscribe to what agents say")]
    Deaf(#[from] SubscribeError),
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) jetstream: Context,
    pub(super) layout: Layout,
    /// This gateway's name among others: a new one for each process.
    pub(super) gateway: String,
    pub(super) flights: Flights,
    pub(super) consumers: Consumers,
    pub(super) health: Health,
    told: Mutex<HashMap<i64, Instant>>,
    dealt_with: UnboundedSender<String>,
    uses: Uses,
}

/// Says, when it is dropped, that a verdict is dealt with.
#[derive(Debug)]
struct Kept {
    shared: Arc<Shared>,
    token: String,
    ack: Ack,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let ack = self.ack.lock().unwrap_or_else(PoisonError::into_inner).take();
        match ack {
            Some(ack) => drop(self.shared.dealt_with.send(ack)),
            // Agents who ask are told that nobody waits.
            None => drop(self.shared.flights.remove(&self.token)),
        }
    }
}

impl Sender {
    /// Makes what is needed on the servers and begins to listen to agents: those that there are stand in `roster`, what
    /// their workers print in `events`.
    ///
    /// # Errors
    /// If the servers refuse something.
    pub async fn start(
        client: Client,
        layout: Layout,
        roster: Roster,
        events: Events,
    ) -> Result<Self, Unstarted> {
        let context = context::ContextBuilder::new().timeout(TAKEN).ack_timeout(TAKEN);
        let jetstream = context.api_prefix(layout.names.api()).build(client.clone());
        layout.make_patiently(&jetstream).await?;
        let (dealt_with, acks) = unbounded_channel();
        let gateway = name();
        let requests = client.subscribe(layout.names.gateway(&gateway, "*")).await?;
        let ended = client.subscribe(layout.names.ended()).await?;
        let joins = client.subscribe(layout.names.join()).await?;
        let printed = client.subscribe(layout.names.lines("*")).await?;
        let shared = Arc::new(Shared {
            client,
            jetstream,
            flights: Flights::new(layout.names.clone()),
            layout,
            gateway,
            consumers: Consumers::default(),
            health: Health::default(),
            told: Mutex::default(),
            dealt_with,
            uses: Uses::default(),
        });
        // The servers know of the subscriptions before work is out.
        let _unheard = shared.client.flush().await;
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&shared).answer(requests));
        tasks.spawn(Arc::clone(&shared).hear_of_ends(ended));
        tasks.spawn(Arc::clone(&shared).tell(joins));
        tasks.spawn(Arc::clone(&shared).acknowledge(acks));
        tasks.spawn(audit::audit(Arc::clone(&shared)));
        tasks.spawn(health::look(Arc::clone(&shared)));
        tasks.spawn(registry::follow(Arc::clone(&shared), roster));
        tasks.spawn(lines::take(printed, events));
        Ok(Sender { shared, _tasks: tasks })
    }
}

impl Shared {
    /// Puts work into the queue. Sent again under the same id, it is there once.
    async fn put(&self, again: &Again) -> Result<(), Unput> {
        let (spec, names) = (&again.work.spec, &self.layout.names);
        let origin = Origin {
            gateway: self.gateway.clone(),
            token: again.token.clone(),
            lease_ms: self.layout.lease.as_millis() as u64,
        };
        let room = wire::room(self.client.max_payload());
        let message = wire::work(&again.work, &origin, &again.files, room);
        let subject = names.work(&spec.account.to_string(), &spec.run, &self.gateway, &again.n.to_string());
        let id = format!("{}.{}.{}.{}", spec.run, self.gateway, again.n, again.attempt);
        let mut tried = 0;
        loop {
            let unput = match self.try_put(&subject, &id, &message, spec.account).await {
                Ok(place) => {
                    self.health.takes();
                    self.flights.placed(&again.token, place);
                    self.tell_of(spec.account).await;
                    return Ok(());
                }
                Err(unput) => unput,
            };
            self.health.tell(&spec.run, &unput);
            tried += 1;
            if tried == TRIES || (tried > 1 && unput.lasts) {
                self.health.gives_up(&unput, message.len());
                return Err(unput);
            }
            if tried > 1 || unput.lasts {
                // Perhaps it is not there any more, or not as it should be.
                self.consumers.forget();
                let _next_time = self.layout.make(&self.jetstream).await;
            }
            sleep(Duration::from_millis(50) * tried).await;
        }
    }

    async fn try_put(&self, subject: &str, id: &str, message: &Bytes, account: i64) -> Result<u64, Unput> {
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
        Ok(sent.await?.sequence)
    }

    /// Takes a batch away from an agent that has kept it for too long, and gives it to others.
    pub(super) async fn take_away(&self, kept: TooLong) {
        let TooLong { token, run, n, again } = kept;
        tracing::warn!(run, "an agent has kept a batch for too long; it is taken away");
        metrics::counter!("fastmap_batches_kept_too_long_total").increment(1);
        // It is not told: agents drop what comes under a name that was revoked. What it answers first counts.
        self.purge(self.layout.names.work("*", &run, &self.gateway, &n.to_string())).await;
        match again {
            Some(again) => self.put_or_refuse(&again).await,
            None => self.flights.lose(&token),
        }
    }

    /// Puts work into the queue, or ends its flight by the queue's reason.
    async fn put_or_refuse(&self, again: &Again) {
        if let Err(unput) = self.put(again).await {
            self.flights.refuse(&again.token, unput.why);
        }
    }

    pub(super) async fn put_again(&self, again: Again) {
        tracing::warn!(run = again.work.spec.run, attempt = again.attempt, "the queue has lost a batch");
        metrics::counter!("fastmap_batches_lost_by_queue_total").increment(1);
        self.put_or_refuse(&again).await;
    }

    /// Takes away what waits under these subjects.
    pub(super) async fn purge(&self, subjects: String) {
        let stream = self.jetstream.get_stream_no_info(self.layout.names.stream()).await;
        let purged = match stream {
            Ok(stream) => stream.purge().filter(&subjects).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = purged {
            // Agents who begin it find that nobody waits.
            tracing::warn!(subjects, error, "what is over could not be taken from the queue");
        }
    }

    /// Tells agents of a tenant of whom they have not heard lately.
    async fn tell_of(&self, account: i64) {
        let lately = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let lately = told.get(&account).is_some_and(|told| told.elapsed() < TELL);
            if !lately {
                told.insert(account, Instant::now());
            }
            lately
        };
        if !lately {
            self.tell_all(&[account]).await;
        }
    }

    async fn tell_all(&self, accounts: &[i64]) {
        let told = serde_json::to_vec(accounts).unwrap_or_default();
        if let Err(error) = self.client.publish(self.layout.names.tenants(), told.into()).await {
            tracing::warn!(%error, "agents could not be told whose work there is");
        }
    }

    /// Tells agents of all tenants that wait, again and again, and when one joins.
    async fn tell(self: Arc<Self>, mut joins: Subscriber) {
        let mut tell = interval(TELL);
        loop {
            tokio::select! {
                _ = tell.tick() => {}
                joined = joins.next() => match joined {
                    Some(joined) => self.see_to(&joined.payload),
                    None => return,
                },
            }
            let tenants = self.flights.tenants();
            self.told
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|account, _| tenants.binary_search(account).is_ok());
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
        let tenants = self.flights.tenants();
        missed.retain(|account| tenants.binary_search(account).is_ok());
        let shared = Arc::clone(self);
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

    async fn answer(self: Arc<Self>, mut requests: Subscriber) {
        while let Some(message) = requests.next().await {
            let Message { subject, payload, reply, .. } = message;
            let about = subject.rsplit('.').next().unwrap_or_default();
            let Ok(request) = Request::decode(&payload) else { continue };
            if let Request::Used(report, cpu_ns) = request {
                self.take_report(about, report, Duration::from_nanos(cpu_ns), reply);
                continue;
            }
            let room = wire::room(self.client.max_payload());
            let answer = self.flights.request(about, request, room);
            // Some things are told, not asked.
            let Some(reply) = reply else { continue };
            match answer {
                Answer::Now(answer) => self.reply(reply, &answer).await,
                Answer::Over(answer) => {
                    self.reply(reply, &answer).await;
                    // One that does not hear it works in vain, and its answer is not taken.
                    let _unheard =
                        self.client.publish(self.layout.names.revoked(), about.to_owned().into()).await;
                }
                Answer::File(path, offset) => {
                    let shared = Arc::clone(&self);
                    drop(tokio::spawn(async move {
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
        let known = self.flights.report(name, report);
        let (shared, name) = (Arc::clone(self), name.to_owned());
        drop(tokio::spawn(async move {
            let paid = match known {
                Report::Charge(run) => shared.uses.report(&run, cpu).await,
                Report::Again => Some(true),
                Report::Unknown => Some(false),
            };
            match (paid, to) {
                (None, _) => shared.flights.forget_report(&name, report),
                (Some(paid), Some(to)) => {
                    shared.reply(to, &Reply::Yes(Bytes::copy_from_slice(&[u8::from(paid)]))).await;
                }
                (Some(_), None) => {}
            }
        }));
    }

    async fn reply(&self, to: async_nats::Subject, answer: &Reply) {
        // Who does not hear it asks again.
        let _gone = self.client.publish(to, answer.encode()).await;
    }

    /// Runs that end at another gateway end here.
    async fn hear_of_ends(self: Arc<Self>, mut ended: Subscriber) {
        while let Some(message) = ended.next().await {
            self.flights.end_run(&String::from_utf8_lossy(&message.payload));
        }
    }

    async fn acknowledge(self: Arc<Self>, mut acks: UnboundedReceiver<String>) {
        while let Some(ack) = acks.recv().await {
            // One that is lost costs another delivery, of which the agent is told that nobody waits.
            let _lost = self.client.publish(ack, Bytes::from_static(b"+ACK")).await;
        }
    }
}

/// What of a file fits into a message, from there on.
fn read(path: &Path, offset: u64, room: usize) -> std::io::Result<Bytes> {
    let file = File::open(path)?;
    let left = file.metadata()?.len().saturating_sub(offset);
    let mut bytes = vec![0; room.min(usize::try_from(left).unwrap_or(room))];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes.into())
}

#[async_trait]
impl Dispatch for Sender {
    async fn submit(&self, work: Work) -> Result<Submitted, Closed> {
        let shared = &self.shared;
        let entered = shared.flights.enter(work.clone()).ok_or(Closed)?;
        let Entered { token, n, files, verdict, ack } = entered;
        let kept = Kept { shared: Arc::clone(shared), token: token.clone(), ack };
        shared.put_or_refuse(&Again { token, work, n, attempt: 0, files }).await;
        Ok(Submitted { verdict, _kept: Some(Box::new(kept)) })
    }

    async fn cancel(&self, run: &str, seq: u64) {
        let Shared { client, layout, gateway, flights, .. } = &*self.shared;
        let Some((token, n)) = flights.cancel(run, seq) else { return };
        if let Err(error) = client.publish(layout.names.revoked(), token.into()).await {
            tracing::warn!(run, seq, %error, "agents could not be told that a batch is cancelled");
        }
        self.shared.purge(layout.names.work("*", run, gateway, &n.to_string())).await;
    }

    async fn end_run(&self, run: &str) {
        let Shared { client, layout, flights, .. } = &*self.shared;
        flights.end_run(run);
        // What agents hold they drop when they hear of it; what waits is taken away.
        if let Err(error) = client.publish(layout.names.ended(), Bytes::from(run.to_owned())).await {
            tracing::warn!(run, %error, "agents could not be told of a run's end");
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
        self.shared.flights.close();
    }
}
