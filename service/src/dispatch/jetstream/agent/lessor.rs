//! The agent's side: asks tenants' consumers for work as long as somebody wants to lease, keeps what is leased by saying so,
//! and brings verdicts to the gateways that wait for them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::{self, Context};
use async_nats::{Client, Message, StatusCode, SubscribeError, Subscriber};
use async_trait::async_trait;
use axum::body::Bytes;
use futures_util::StreamExt;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinSet;
use tokio::time::{interval, interval_at, timeout_at};

use super::fair_pull::{Next, Pull, Turn};
use super::gateway_client::Inquirer;
use super::leases::{Held, Leases};
use super::upload_cache::{Cache, Source};
use crate::dispatch::jetstream::messages;
use crate::dispatch::jetstream::messages::{Arrived, Files, Named, Origin, Reply, Request};
use crate::dispatch::jetstream::subjects::Names;
use crate::dispatch::work::{RunSpec, Task, Upload, Verdict, Work};
use crate::dispatch::{Closed, Lease, LeaseId, Lessor, Payer, Unavailable};
use crate::keys::random;

/// Who wants to lease looks so often whether there is somebody to be asked.
const LOOK: Duration = Duration::from_millis(250);
/// What was brought and is not leased is looked at so often.
const STALE: Duration = Duration::from_millis(100);
/// Runs that may end at once before an agent that is slow misses some.
const ENDED: usize = 1024;

/// After the end of a run or a batch was heard, what of it was on its way has come within this.
const LATE: Duration = Duration::from_secs(30);

const IN_PROGRESS: Bytes = Bytes::from_static(b"+WPI");
const AGAIN: Bytes = Bytes::from_static(b"-NAK");
const NEVER: Bytes = Bytes::from_static(b"+TERM");

/// The agent's side of work that goes through JetStream.
#[derive(Debug)]
pub struct Receiver {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    jetstream: Context,
    names: Names,
    /// What requests bring comes to subjects that begin so.
    inbox: String,
    inquirer: Inquirer,
    turn: Mutex<Turn<Ready>>,
    /// Leases that the agent takes at a time.
    places: usize,
    leases: Leases,
    files: Cache,
    /// Something can be leased, or somebody be asked, or nothing will ever come.
    news: Notify,
    closed: AtomicBool,
    /// Runs and batches of which the end was heard lately, by name and token: the servers may still bring what was on its way.
    over: Mutex<HashMap<String, Instant>>,
    pulls: UnboundedSender<Pull>,
    ended: broadcast::Sender<String>,
}

/// Work that was brought and is nobody's yet.
#[derive(Debug)]
struct Ready {
    work: Work,
    origin: Origin,
    files: Files,
    ack: String,
    sequence: u64,
    /// Its lease began then.
    since: Instant,
}

/// A file that a gateway gives out under a name.
struct FromGateway<'a> {
    inquirer: &'a Inquirer,
    origin: &'a Origin,
    name: &'a str,
}

#[async_trait]
impl Source for FromGateway<'_> {
    async fn bytes(&self, offset: u64) -> Option<Bytes> {
        match self.inquirer.ask(self.origin, self.name, &Request::Get(offset)).await? {
            Reply::Yes(bytes) => Some(bytes),
            Reply::No => None,
        }
    }
}

impl Receiver {
    /// Begins to listen to gateways, for an agent that takes so many leases at a time.
    ///
    /// # Errors
    /// If the servers do not let it hear what it must.
    pub async fn start(
        client: Client,
        names: Names,
        files: Cache,
        places: usize,
    ) -> Result<Self, SubscribeError> {
        let inbox = client.new_inbox();
        let brought = client.subscribe(format!("{inbox}.*.*")).await?;
        let tenants = client.subscribe(names.tenants()).await?;
        let over = client.subscribe(names.ended()).await?;
        let revoked = client.subscribe(names.revoked()).await?;
        let (pulls, asked) = unbounded_channel();
        let shared = Arc::new(Shared {
            jetstream: ContextBuilder::new().api_prefix(names.api()).build(client.clone()),
            inquirer: Inquirer::new(client.clone(), names.clone()),
            client,
            names,
            inbox,
            turn: Mutex::new(Turn::new()),
            places,
            leases: Leases::default(),
            files,
            news: Notify::new(),
            closed: AtomicBool::new(false),
            over: Mutex::default(),
            pulls,
            ended: broadcast::Sender::new(ENDED),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&shared).take(brought));
        tasks.spawn(Arc::clone(&shared).hear_of_tenants(tenants));
        tasks.spawn(Arc::clone(&shared).hear_of_ends(over));
        tasks.spawn(Arc::clone(&shared).hear_of_revoked(revoked));
        tasks.spawn(Arc::clone(&shared).ask(asked));
        tasks.spawn(Arc::clone(&shared).hand_back_stale());
        let _unheard = shared.client.publish(shared.names.join(), Bytes::new()).await;
        Ok(Receiver { shared, _tasks: tasks })
    }

    /// Once it is closed: waits until its last requests to the servers are over, for as long as they may last (some seconds), and
    /// hands back what they bring. Who leaves before may take work along, which others get when its lease ends.
    pub async fn last_requests(&self) {
        loop {
            let news = self.shared.news.notified();
            let Some(until) = self.shared.turn().open_until(Instant::now()) else { return };
            drop(timeout_at(until.into(), news).await);
        }
    }
}

impl Shared {
    fn turn(&self) -> MutexGuard<'_, Turn<Ready>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An acknowledgement that is lost costs another delivery.
    async fn acknowledge(&self, ack: &str, how: Bytes) {
        let _lost = self.client.publish(ack.to_owned(), how).await;
    }

    /// Sends requests. By a task of its own: who wants to lease may be gone before one is out.
    async fn ask(self: Arc<Self>, mut asked: UnboundedReceiver<Pull>) {
        while let Some(Pull { account, id, batch, expires }) = asked.recv().await {
            let (stream, consumer) = (self.names.stream(), Names::consumer(account));
            let subject = format!("{}.CONSUMER.MSG.NEXT.{stream}.{consumer}", self.names.api());
            let request = json!({ "batch": batch, "expires": expires.as_nanos() as u64 }).to_string();
            let reply = format!("{}.{account}.{id}", self.inbox);
            let _it_expires = self.client.publish_with_reply(subject, reply, request.into()).await;
        }
    }

    /// Takes what requests bring.
    async fn take(self: Arc<Self>, mut brought: Subscriber) {
        while let Some(message) = brought.next().await {
            if message.status.is_some_and(|status| status != StatusCode::OK) {
                // A request is over: its subject ends with whom it was for and its number.
                let mut tokens = message.subject.rsplit('.');
                let (id, account) = (tokens.next().map(str::parse), tokens.next().map(str::parse));
                if let (Some(Ok(id)), Some(Ok(account))) = (id, account) {
                    self.turn().over(account, id, Instant::now());
                    self.news.notify_one();
                    if message.status == Some(StatusCode::NO_RESPONDERS) {
                        self.misses(account).await;
                    }
                }
                continue;
            }
            let message = jetstream::Message { message, context: self.jetstream.clone() };
            let Ok(info) = message.info() else { continue };
            let Some(account) = Names::tenant(info.consumer) else { continue };
            let (delivered, sequence, pending) = (info.delivered, info.stream_sequence, info.pending);
            let closed = self.closed.load(Ordering::Relaxed);
            if !closed {
                self.turn().brought(account, pending);
            }
            let Message { payload, reply: Some(ack), .. } = message.message else { continue };
            let since = Instant::now();
            match messages::arrived(&payload) {
                Ok(Arrived { origin, work, away, files }) => {
                    let ready = Ready { work, origin, files, ack: ack.into_string(), sequence, since };
                    if closed {
                        // Before it is counted: who waits for the last requests may leave then.
                        self.hand_back(ready).await;
                        self.turn().brought(account, pending);
                        self.news.notify_one();
                        continue;
                    }
                    if !self.inquirer.heard_lately(&ready.origin) {
                        drop(tokio::spawn(Arc::clone(&self).look_for(ready.origin.clone())));
                    }
                    if away.is_none() && delivered == 1 {
                        self.ready(ready).await;
                    } else {
                        let shared = Arc::clone(&self);
                        drop(tokio::spawn(
                            async move { shared.prepare(ready, delivered as u64, away).await },
                        ));
                    }
                }
                Err(error) => {
                    tracing::warn!(account, %error, "work that this version can't read is left to others");
                    self.acknowledge(&ack, Bytes::from_static(b"-NAK {\"delay\": 1000000000}")).await;
                }
            }
        }
    }

    /// A tenant has no consumer, as far as this agent's servers know: gateways make it.
    async fn misses(&self, account: i64) {
        let missed = json!([account]).to_string();
        let _next_time = self.client.publish(self.names.join(), missed.into()).await;
    }

    async fn ready(&self, ready: Ready) {
        if self.closed.load(Ordering::Relaxed) {
            return self.hand_back(ready).await;
        }
        let (run, token) = (ready.work.spec.run.clone(), ready.origin.token.clone());
        let is_over = || self.is_over(&run) || self.is_over(&token);
        if is_over() {
            return self.give_up(vec![ready], Vec::new()).await;
        }
        self.turn().ready(ready.work.spec.account, ready, Instant::now());
        // An end that is heard from now on finds it there. One that was heard meanwhile has not.
        if is_over() {
            let over = self.turn().take_if(|ready| ready.origin.token == token);
            return self.give_up(over, self.leases.end(|held| held.origin.token == token)).await;
        }
        self.news.notify_one();
    }

    fn is_over(&self, name: &str) -> bool {
        self.over.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name)
    }

    fn heard_of_the_end(&self, name: &str) {
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        over.retain(|_, since| since.elapsed() < LATE);
        over.insert(name.to_owned(), Instant::now());
    }

    /// Asks a gateway whether it is there. What one has left that is gone is worked on by nobody.
    async fn look_for(self: Arc<Self>, origin: Origin) {
        if self.inquirer.ask(&origin, messages::HERE, &Request::Ask(0)).await.is_some() {
            return;
        }
        tracing::warn!(gateway = origin.gateway, "a gateway is gone; what it has left is given up");
        let ready = self.turn().take_if(|ready| ready.origin.gateway == origin.gateway);
        let held = self.leases.end(|held| held.origin.gateway == origin.gateway);
        self.give_up(ready, held).await;
    }

    async fn give_up(&self, ready: Vec<Ready>, held: Vec<Held>) {
        for ack in ready.into_iter().map(|ready| ready.ack).chain(held.into_iter().map(|held| held.ack)) {
            self.acknowledge(&ack, NEVER).await;
        }
    }

    /// Asks the gateway whether the work is still wanted, and for the items that did not fit into the message.
    async fn prepare(&self, mut ready: Ready, delivered: u64, away: Option<u64>) {
        let (origin, ack) = (ready.origin.clone(), ready.ack.clone());
        let preparing = async {
            match self.inquirer.ask(&origin, &origin.token, &Request::Ask(delivered)).await? {
                Reply::Yes(_) => {}
                Reply::No => return None,
            }
            let Some(length) = away else { return Some(Bytes::new()) };
            let mut payload = Vec::new();
            while (payload.len() as u64) < length {
                let request = Request::Get(payload.len() as u64);
                match self.inquirer.ask(&origin, &origin.token, &request).await? {
                    Reply::Yes(bytes) if !bytes.is_empty() => payload.extend_from_slice(&bytes),
                    _ => return None,
                }
            }
            (payload.len() as u64 == length).then(|| payload.into())
        };
        match self.meanwhile(&origin, &ack, preparing).await {
            Some(payload) => {
                if let (Some(_), Task::Batch(batch)) = (away, &mut ready.work.task) {
                    batch.payload = payload;
                }
                ready.since = Instant::now();
                self.acknowledge(&ack, IN_PROGRESS).await;
                self.ready(ready).await;
            }
            // Nobody waits for it, or nobody is there who could.
            None => self.acknowledge(&ack, NEVER).await,
        }
    }

    /// Does something that may take longer than a lease.
    async fn meanwhile<T>(&self, origin: &Origin, ack: &str, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
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
    async fn hand_back(&self, ready: Ready) {
        self.inquirer.tell(&ready.origin, &Request::Unused).await;
        self.acknowledge(&ready.ack, AGAIN).await;
    }

    async fn hand_back_stale(self: Arc<Self>) {
        let mut look = interval(STALE);
        loop {
            look.tick().await;
            let stale = self.turn().stale(Instant::now());
            for ready in stale {
                self.hand_back(ready).await;
            }
        }
    }

    async fn hear_of_tenants(self: Arc<Self>, mut tenants: Subscriber) {
        while let Some(message) = tenants.next().await {
            let accounts: Vec<i64> = serde_json::from_slice(&message.payload).unwrap_or_default();
            let now = Instant::now();
            for account in accounts {
                self.turn().told(account, now);
            }
            self.news.notify_one();
        }
    }

    async fn hear_of_revoked(self: Arc<Self>, mut revoked: Subscriber) {
        while let Some(message) = revoked.next().await {
            let token = String::from_utf8_lossy(&message.payload).into_owned();
            self.heard_of_the_end(&token);
            let ready = self.turn().take_if(|ready| ready.origin.token == token);
            self.give_up(ready, self.leases.end(|held| held.origin.token == token)).await;
        }
    }

    async fn hear_of_ends(self: Arc<Self>, mut over: Subscriber) {
        while let Some(message) = over.next().await {
            let run = String::from_utf8_lossy(&message.payload).into_owned();
            self.heard_of_the_end(&run);
            let ready = self.turn().take_if(|ready| ready.work.spec.run == run);
            self.give_up(ready, self.leases.end(|held| held.run == run)).await;
            // No agent listens: no agent has workers of it.
            let _nobody = self.ended.send(run);
        }
    }

    async fn upload(&self, origin: &Origin, named: &Named) -> Result<Upload, Unavailable> {
        let source = FromGateway { inquirer: &self.inquirer, origin, name: &named.name };
        self.files.get(&named.hash, &source).await.map_err(|error| Unavailable(Box::new(error)))
    }

    /// Sends a verdict, in parts if it is large. `false`: nobody waits for it.
    async fn deliver(&self, held: &Held, verdict: Bytes) -> bool {
        let room = messages::room(self.client.max_payload()) - held.ack.len();
        let about = &held.origin.token;
        let ask = async |request: Request| {
            let reply = self.inquirer.ask(&held.origin, about, &request).await;
            matches!(reply, Some(Reply::Yes(_)))
        };
        if verdict.len() <= room {
            return ask(Request::Verdict(held.ack.clone(), verdict)).await;
        }
        let total = verdict.len() as u64;
        for (at, part) in verdict.chunks(room).enumerate() {
            if !ask(Request::Part((at * room) as u64, total, verdict.slice_ref(part))).await {
                return false;
            }
        }
        ask(Request::Verdict(held.ack.clone(), Bytes::new())).await
    }
}

#[async_trait]
impl Lessor for Receiver {
    async fn lease(&self) -> Result<Lease, Closed> {
        let shared = &self.shared;
        loop {
            let news = shared.news.notified();
            if shared.closed.load(Ordering::Relaxed) {
                return Err(Closed);
            }
            let (now, room) = (Instant::now(), shared.places.saturating_sub(shared.leases.len()).max(1));
            let (next, pulls) = {
                let mut turn = shared.turn();
                (turn.next(now), turn.pulls(room, now))
            };
            for pull in pulls {
                // Its receiver lives as long as this.
                let _sent = shared.pulls.send(pull);
            }
            let look = match next {
                Next::Work(Ready { work, origin, files, ack, sequence, since }) => {
                    let lasts = Duration::from_millis(origin.lease_ms);
                    let until = since + lasts;
                    let run = work.spec.run.clone();
                    let payer =
                        Payer { gateway: origin.gateway.clone(), name: files.executable.name.clone() };
                    let in_hand = Arc::default();
                    let held = Held {
                        origin: origin.clone(),
                        files,
                        run,
                        ack,
                        sequence,
                        until,
                        in_hand: Arc::downgrade(&in_hand),
                        revoked: Arc::default(),
                    };
                    let entered = shared.leases.enter(held);
                    // Others who wait may find more.
                    shared.news.notify_one();
                    let Some(id) = entered else {
                        // It was counted as another agent's, when it came again.
                        tracing::debug!(run = work.spec.run, "a batch that is in hand came again");
                        shared.inquirer.tell(&origin, &Request::Unused).await;
                        continue;
                    };
                    return Ok(Lease { id, lasts, work, payer, in_hand });
                }
                Next::At(at) => at,
                Next::Nothing => now + LOOK,
            };
            drop(timeout_at(look.into(), news).await);
        }
    }

    async fn lay_out(&self, spec: &Arc<RunSpec>) -> Result<Arc<RunSpec>, Unavailable> {
        let gone = || Unavailable("its lease is over".into());
        let held = self.shared.leases.of_run(&spec.run).ok_or_else(gone)?;
        let executable = self.shared.upload(&held.origin, &held.files.executable).await?;
        let context = match &held.files.context {
            Some(context) => Some(self.shared.upload(&held.origin, context).await?),
            None => None,
        };
        Ok(Arc::new(RunSpec { executable, context, ..RunSpec::clone(spec) }))
    }

    async fn used(&self, payer: &Payer, _run: &str, cpu: Duration) -> Option<bool> {
        let Payer { gateway, name } = payer.clone();
        let origin = Origin { gateway, token: name.clone(), lease_ms: 0 };
        let report = u64::from_le_bytes(random().ok()?);
        let report = Request::Used(report, messages::nanos(cpu));
        match self.shared.inquirer.ask(&origin, &name, &report).await? {
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
            // This agent stood still, or was cut off: others may have the work as well by now, its answer may
            // have come, or its end was not heard here.
            let Some(origin) = shared.leases.origin(lease) else { return false };
            let asked = shared.inquirer.ask(&origin, &origin.token, &Request::Ask(0)).await;
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

    async fn answer(&self, lease: LeaseId, verdict: Verdict) -> bool {
        let shared = &self.shared;
        // Also behind the end of its lease: the first answer counts, whichever agent's it is.
        let Some(held) = shared.leases.take(lease) else { return false };
        let delivering = shared.deliver(&held, messages::verdict(verdict));
        let wanted = shared.meanwhile(&held.origin, &held.ack, delivering).await;
        if !wanted {
            shared.acknowledge(&held.ack, NEVER).await;
        }
        wanted
    }

    async fn give_back(&self, lease: LeaseId) {
        let shared = &self.shared;
        let now = Instant::now();
        let Some(held) = shared.leases.take(lease).filter(|held| held.until > now) else { return };
        let asking = shared.inquirer.ask(&held.origin, &held.origin.token, &Request::Back);
        let lost = matches!(shared.meanwhile(&held.origin, &held.ack, asking).await, Some(Reply::No));
        shared.acknowledge(&held.ack, if lost { NEVER } else { AGAIN }).await;
    }

    fn ended_runs(&self) -> broadcast::Receiver<String> {
        self.shared.ended.subscribe()
    }

    async fn close(&self) {
        let shared = &self.shared;
        shared.closed.store(true, Ordering::Relaxed);
        shared.news.notify_waiters();
        shared.news.notify_one();
        let ready = shared.turn().take_if(|_| true);
        for ready in ready {
            shared.hand_back(ready).await;
        }
    }
}
