//! Batches: items in, answers out. A batch is reserved, dispatched, answered, stored and charged by a task of its own,
//! whoever waits for it: a client that goes away and comes back finds the answer.

use std::io::Read;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use fastmap_backends::cloud::{
    Answer, BatchBody, BatchCancelled, Part, PartOutcome, Problem, ProblemCode, RunState, digest,
};
use fastmap_backends::{counted, in_credits};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tracing::Instrument;

use crate::answer_files::Place;
use crate::app::answer_content::{Check, Content, InFile};
use crate::app::caller::{BodyDigest, Caller};
use crate::app::in_flight::{Answer as Landed, Flight, Key, Over};
use crate::app::limits::{Held, Memory};
use crate::app::{Gateway, STOPPING};
use crate::dispatch::{Answered, BatchTask, RunSpec, Task, Verdict, Work};
use crate::pricing;
use crate::pricing::{Grant, Work as Limit};
use crate::problem::{
    Problems, Refusal, Reply, crowded, disk, ended, lost, problem_response, queue, refuse, stopping,
};
use crate::run_log::Event;
use crate::stats::{self, News};
use crate::store::{Reserve, Reserved, Settle, Settled, Short, Stored};

/// What the disk's cache takes without anybody noticing.
const SMALL: usize = 256 << 10;
/// An answer that is in its file for so long is settled, or never will be.
const RESTED: Duration = Duration::from_mins(5);

/// Runs a batch, or gives its answer again.
#[utoipa::path(put, path = "/runs/{run}/batches/{seq}", tag = "batches", params(("run" = String, Path), ("seq" = u64, Path)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, description = "the answer", body = Vec<u8>, content_type = "application/octet-stream"),
              (status = 202, description = "it takes longer: ask for the answer"), Problems))]
pub(crate) async fn put(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path((run, seq)): Path<(String, u64)>,
    body: Bytes,
) -> Result<Response, Refusal> {
    check_seq(seq)?;
    if let Some(flight) = gateway.flights.find(caller.account, &run, seq)
        && !gateway.was_cancelled(&run, seq, &flight).await?
    {
        if flight.digest != caller.digest {
            return Err(conflict());
        }
        return gateway.wait(&run, flight).await;
    }
    if gateway.phase.load(Ordering::Relaxed) == STOPPING {
        return Err(stopping());
    }
    let batch =
        BatchBody::decode(&body).map_err(|error| refuse(ProblemCode::InvalidBody, error.to_string()))?;
    let limits = &gateway.config.limits;
    if batch.length > limits.batch_bytes {
        let detail = format!("a batch of {} bytes; at most {}", batch.length, limits.batch_bytes);
        return Err(refuse(ProblemCode::TooLarge, detail));
    }
    let (payload, in_memory) = unpack(&batch, &body, &caller, &gateway.memory).await?;
    batch.check_items(&payload).map_err(|error| refuse(ProblemCode::InvalidBody, error.to_string()))?;
    if gateway.flights.of_run(caller.account, &run) >= limits.batches_in_flight as usize {
        let detail = format!("the run has {} in flight", counted(limits.batches_in_flight.into(), "batch"));
        return Err(Problem::new(ProblemCode::TooManyBatches, detail).retry_after(1).into());
    }
    let limit = Limit {
        cpu: Duration::from_secs(limits.batch_cpu_seconds),
        bytes: batch.result_credit.min(limits.result_bytes),
    };
    let (first, items, stride, request) = (batch.first, batch.items, batch.stride, caller.nonce.clone());
    let (enough, level) = (limit.bytes, batch.level);
    let task = BatchTask { seq, first, items, stride, payload, enough, level, limit, request };
    let flight = gateway.take_off(&caller, &run, task, in_memory);
    // What was sent is not kept for as long as the answer takes, but for what of it the batch still is.
    drop((body, caller));
    gateway.wait(&run, flight).await
}

/// The answer of a batch that takes long: waits for it, up to the length of a long poll.
#[utoipa::path(get, path = "/runs/{run}/batches/{seq}", tag = "batches", params(("run" = String, Path), ("seq" = u64, Path)),
    responses((status = 200, description = "the answer", body = Vec<u8>, content_type = "application/octet-stream"),
              (status = 202, description = "it takes longer: ask again"), Problems))]
pub(crate) async fn get(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path((run, seq)): Path<(String, u64)>,
) -> Result<Response, Refusal> {
    if let Some(flight) = gateway.flights.find(caller.account, &run, seq) {
        return gateway.wait(&run, flight).await;
    }
    let found = gateway.run(caller.account, &run).await?;
    let stored = check_seq(seq)?;
    let unknown = || refuse(ProblemCode::BatchUnknown, "this batch is not under way; send it");
    match gateway.store.batch(&run, stored).await? {
        Some((state, _)) if state == "acknowledged" => Err(gone()),
        Some((state, _)) if state == "cancelled" => Err(cancelled()),
        Some((_, Some((status, stored)))) => {
            let answer = gateway.stored(&run, status, stored).await.ok_or_else(unknown)?;
            gateway.answer_response(caller.account, answer)
        }
        _ => match found.info.state {
            RunState::Open => Err(unknown()),
            state => Err(ended(state.as_str(), found.reason.as_deref())),
        },
    }
}

/// Gives a batch up that is under way: it is ended, and has no charge of its own. One that is answered stays answered, and charged.
#[utoipa::path(delete, path = "/runs/{run}/batches/{seq}", tag = "batches", params(("run" = String, Path), ("seq" = u64, Path)),
    responses((status = 200, body = BatchCancelled), Problems))]
pub(crate) async fn cancel(
    State(gateway): State<Arc<Gateway>>,
    Extension(caller): Extension<Caller>,
    Path((run, seq)): Path<(String, u64)>,
) -> Reply<BatchCancelled> {
    let stored = check_seq(seq)?;
    gateway.run(caller.account, &run).await?;
    let withdraw = async move {
        // Whichever gateway has it in hand: from here on nothing is charged for it. That one notices (`end_withdrawn`).
        let withdrawn = gateway.store.withdraw(&run, stored).await;
        // Looked for behind that: one that was withdrawn here is found.
        let flight = gateway.flights.find(caller.account, &run, seq);
        if let Some(flight) = &flight {
            flight.end(Over::Cancelled);
        }
        (withdrawn, flight)
    };
    // A client says so once, and may leave before it is done.
    let done = tokio::spawn(withdraw.in_current_span()).await;
    let (withdrawn, flight) = done.map_err(|error| refuse(ProblemCode::Internal, error.to_string()))?;
    let Some(mut flight) = flight else {
        return Ok(Json(BatchCancelled { cancelled: withdrawn? }));
    };
    let landed = flight.answer.wait_for(Option::is_some).await.map_err(|_| lost())?;
    Ok(Json(BatchCancelled { cancelled: !matches!(&*landed, Some(Ok(_))) }))
}

fn check_seq(seq: u64) -> Result<i64, Refusal> {
    i64::try_from(seq).map_err(|_| refuse(ProblemCode::BadRequest, "a seq beyond 2^63"))
}

fn conflict() -> Refusal {
    refuse(ProblemCode::SeqConflict, "another batch came under this seq before")
}

fn gone() -> Refusal {
    refuse(ProblemCode::ResultGone, "the answer was acknowledged, and is no longer kept")
}

fn cancelled() -> Refusal {
    refuse(ProblemCode::BatchCancelled, "the batch was cancelled by its client")
}

/// Why a batch is not dispatched.
fn refused(reserved: Reserved) -> Refusal {
    match reserved {
        Reserved::Acknowledged => gone(),
        Reserved::Conflict => conflict(),
        Reserved::NoRun => refuse(ProblemCode::NotFound, "there is no such run in this account"),
        Reserved::Ended(state, reason) => ended(&state, reason.as_deref()),
        Reserved::CapReached { cap, spent, least } => {
            refuse(ProblemCode::SpendCapReached, cap_reached(cap, spent, least))
        }
        Reserved::OutOfCredits => {
            refuse(ProblemCode::OutOfCredits, "the account has too little left for another batch")
        }
        Reserved::Full(kept) => full(kept),
        Reserved::Held | Reserved::Granted(_) | Reserved::Answered(..) | Reserved::Elsewhere => {
            let detail = "what is left is reserved for batches that run";
            Problem::new(ProblemCode::CreditsHeld, detail).retry_after(1).into()
        }
    }
}

/// What a run may still spend is too little for any batch.
fn cap_reached(cap: i64, spent: i64, least: i64) -> String {
    let least = format!("the least that is reserved for a batch is {}", in_credits(least));
    match spent {
        ..=0 => format!(
            "the run may spend {} (its max_credits), too little for any batch: {least}",
            in_credits(cap)
        ),
        _ => format!(
            "the run has spent {} of the {} that it may (its max_credits), and the rest is too little for \
             another batch: {least}",
            pricing::show(spent),
            in_credits(cap)
        ),
    }
}

/// No more answers are kept for the account.
fn full(kept: u64) -> Refusal {
    let detail = format!(
        "{kept} bytes of the account's answers are kept, as many as may be: acknowledge those that have arrived \
         (POST /runs/{{run}}/ack), or wait until answers of ended runs are forgotten"
    );
    Problem::new(ProblemCode::TooManyBatches, detail).retry_after(1).into()
}

fn stage(name: &'static str, since: Instant) {
    metrics::histogram!("fastmap_stage_seconds", "stage" => name).record(since.elapsed());
}

/// Counts a batch's bytes.
type InMemory = Arc<Held>;

/// The items, decompressed.
async fn unpack(
    batch: &BatchBody<'_>,
    body: &Bytes,
    caller: &Caller,
    memory: &Memory,
) -> Result<(Bytes, InMemory), Refusal> {
    let (payload, sent) = (body.slice_ref(batch.payload), Arc::clone(&caller.held));
    if !batch.compressed {
        return Ok((payload, sent));
    }
    let length = batch.length;
    // What is unpacked is in memory beside what was sent.
    let mut unpacked = memory.hold(caller.account);
    if !unpacked.grow(length) {
        return Err(crowded());
    }
    // This goes on when nobody waits for it any more, and its bytes count for as long.
    let unpacked = spawn_blocking(move || {
        let _sent = sent;
        // Announced, and taken as it is written.
        let mut bytes = Vec::with_capacity(length as usize + 1);
        let decoder = zstd::stream::read::Decoder::new(&payload[..])?;
        // One more than promised is enough to know.
        decoder.take(length + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>((bytes, Arc::new(unpacked)))
    });
    let wrong = |why: String| refuse(ProblemCode::InvalidBody, format!("the items are no zstd frame: {why}"));
    let unpacked = unpacked.await.map_err(|error| refuse(ProblemCode::Internal, error.to_string()))?;
    let (unpacked, in_memory) = unpacked.map_err(|error| wrong(error.to_string()))?;
    match unpacked.len() as u64 == length {
        true => Ok((unpacked.into(), in_memory)),
        false => Err(wrong(format!("it is not {length} bytes long"))),
    }
}

impl Gateway {
    /// An answer as it is sent to this account.
    fn answer_response(&self, account: i64, answer: Landed) -> Result<Response, Refusal> {
        let Landed { status, content, digest } = answer;
        let body = content.body(&self.memory, account).ok_or_else(crowded)?;
        let mut response = match status == StatusCode::OK.as_u16() {
            true => {
                let kind = HeaderValue::from_static("application/octet-stream");
                ([(header::CONTENT_TYPE, kind)], body).into_response()
            }
            false => problem_response(status, body, None),
        };
        response.extensions_mut().insert(BodyDigest(digest));
        Ok(response)
    }

    /// A stored answer, if it is there as it was; a large one is looked at while it is sent.
    async fn stored(&self, run: &str, status: u16, stored: Stored) -> Option<Landed> {
        let Stored { digest, place } = stored;
        let (spool, run, digest) = (self.spool.clone(), run.to_owned(), Arc::<str>::from(digest));
        let wanted = Arc::clone(&digest);
        let content = spawn_blocking(move || {
            if place.length <= SMALL as u64 {
                return spool.get(&run, place, &wanted).map(Content::Memory);
            }
            let file = spool.open(&run, place)?;
            let check = Some(Check { spool, run, digest: wanted });
            Some(Content::File(Arc::new(InFile { file, place, check })))
        });
        Some(Landed { status, content: content.await.ok()??, digest })
    }

    /// An answer that was kept a moment ago: of a large one the file alone, for clients may take their time.
    async fn kept(&self, run: &str, place: Place, body: Bytes) -> Content {
        if body.len() <= SMALL {
            return Content::Memory(body);
        }
        let (spool, run) = (self.spool.clone(), run.to_owned());
        match spawn_blocking(move || spool.open(&run, place)).await {
            Ok(Some(file)) => Content::File(Arc::new(InFile { file, place, check: None })),
            // Its run has ended meanwhile, and its file is gone.
            _ => Content::Memory(body),
        }
    }

    /// Keeps an answer. A small one is in the disk's cache before another thread would have begun.
    async fn keep(&self, run: &str, body: &Bytes) -> Result<Place, Refusal> {
        let kept = if body.len() <= SMALL {
            self.spool.put(run, body)
        } else {
            let (spool, run, body) = (self.spool.clone(), run.to_owned(), body.clone());
            let kept = spawn_blocking(move || spool.put(&run, &body)).await;
            kept.map_err(|error| refuse(ProblemCode::Internal, error.to_string()))?
        };
        kept.map_err(|error| disk(&error))
    }

    /// Waits for an answer, up to the length of a long poll. The client lives as long as it waits.
    async fn wait(&self, run: &str, mut flight: Flight) -> Result<Response, Refusal> {
        let most = Duration::from_secs(self.config.limits.long_poll_seconds);
        let answer = match tokio::time::timeout(most, flight.answer.wait_for(Option::is_some)).await {
            Ok(Ok(landed)) => landed.clone(),
            Ok(Err(_)) => return Err(lost()),
            Err(_) => None,
        };
        match answer {
            Some(Ok(answer)) => self.answer_response(flight.account, answer),
            Some(Err(problem)) => Err(problem.into()),
            None => {
                self.client_waits(flight.account, run).await?;
                Ok((StatusCode::ACCEPTED, [(header::RETRY_AFTER, "0")]).into_response())
            }
        }
    }

    /// A request of an open run of this account came, or is still here.
    async fn client_waits(&self, account: i64, run: &str) -> Result<(), Refusal> {
        let theirs =
            self.specs.lock().unwrap_or_else(PoisonError::into_inner).get(run).map(|spec| spec.account);
        if theirs == Some(account) { self.heard_of(run).await } else { Ok(()) }
    }

    /// Whether a batch that is under way here was cancelled at another gateway: it is ended then, and what comes under its
    /// seq is a new one. (`end_withdrawn` may not have looked yet.)
    async fn was_cancelled(&self, run: &str, seq: u64, flight: &Flight) -> Result<bool, Refusal> {
        if !self.store.is_shared() || !flight.holds() {
            return Ok(false);
        }
        let found = self.store.batch(run, check_seq(seq)?).await?;
        if found.is_none_or(|(state, _)| state != "cancelled") {
            return Ok(false);
        }
        flight.end(Over::Withdrawn);
        let mut answer = flight.answer.clone();
        let _landed = answer.wait_for(Option::is_some).await;
        Ok(true)
    }

    /// Ends batches whose reservations are gone: they were cancelled at another gateway, or one that thought this one gone has
    /// taken them over.
    pub(crate) async fn end_withdrawn(&self) -> Result<(), Refusal> {
        // Before the question: what is reserved later is not missed. One that lands meanwhile hears nothing of this.
        let holding = self.flights.holding();
        if holding.is_empty() || !self.store.is_shared() {
            return Ok(());
        }
        let held = self.store.held_here().await?;
        for ((_, run, seq), flight) in holding {
            if !held.contains(&(run, seq as i64)) {
                flight.end(Over::Withdrawn);
            }
        }
        Ok(())
    }

    /// Removes files of answers that have all been acknowledged, at whichever gateway.
    pub(crate) async fn sweep(&self) -> Result<(), Refusal> {
        let internal = |error: tokio::task::JoinError| refuse(ProblemCode::Internal, error.to_string());
        let spool = self.spool.clone();
        let full = spawn_blocking(move || spool.full(RESTED)).await.map_err(internal)?;
        for (run, mut files) in full {
            let needed = self.store.files_needed(&run).await?;
            files.retain(|file| !needed.contains(file));
            let spool = self.spool.clone();
            spawn_blocking(move || spool.remove_files(&run, &files)).await.map_err(internal)?;
        }
        Ok(())
    }

    /// Sends a batch on its way, unless it is on its way.
    fn take_off(
        self: &Arc<Self>,
        caller: &Caller,
        run: &str,
        task: BatchTask,
        in_memory: InMemory,
    ) -> Flight {
        let key = (caller.account, run.to_owned(), task.seq);
        let (sender, answer) = watch::channel(None);
        let flight = Flight::new(caller.account, caller.digest.clone(), answer);
        if let Some(there) = self.flights.enter(&key, &flight) {
            // It came a moment ago. Other bytes under this seq learn so from the database, when they come again.
            return there;
        }
        let (gateway, own) = (Arc::clone(self), flight.clone());
        // Beneath the request that has brought it.
        let span = tracing::info_span!("batch", run, seq = task.seq);
        let fly = async move {
            let landed = gateway.fly(&key, task, &own).await;
            drop(in_memory);
            match &landed {
                Ok(answer) => tracing::debug!(status = answer.status, "answered"),
                Err(Refusal(problem)) => tracing::debug!(%problem, "not answered"),
            }
            // First: who hears of a cancelled batch's end and sends it again must not find it here.
            gateway.flights.remove(&key);
            let _nobody_waits = sender.send(Some(landed.map_err(|refusal| refusal.0)));
        };
        tokio::spawn(fly.instrument(span));
        flight
    }

    /// A batch from its reservation to its answer.
    async fn fly(
        self: &Arc<Self>,
        key: &Key,
        mut task: BatchTask,
        flight: &Flight,
    ) -> Result<Landed, Refusal> {
        let (account, run, seq) = (key.0, &key.1, key.2);
        let began = Instant::now();
        let reserve = Reserve {
            account,
            run: run.clone(),
            seq: check_seq(seq)?,
            digest: flight.digest.clone(),
            wanted: task.limit,
            prices: self.config.prices,
            most_kept: self.config.kept_bytes,
        };
        let reserved = self.reserve(reserve, flight).await?;
        stage("reserve", began);
        let (grant, charged) = match reserved {
            Reserved::Granted(grant) => {
                flight.has_reserved();
                (grant, false)
            }
            Reserved::Answered(status, stored) => match self.stored(run, status, stored).await {
                Some(answer) => return Ok(answer),
                // Paid for and lost with the disk's cache: it is run again, and not charged again.
                None => (Grant { hold: 0, work: task.limit, short: false }, true),
            },
            other => return Err(refused(other)),
        };
        // One item may bring more than all that is reserved; what it costs is looked at when it is there. Where it comes last
        // of many, they have room before it.
        let most = self.config.limits.result_bytes;
        task.limit = Limit { cpu: grant.work.cpu, bytes: most };
        task.enough = grant.work.bytes.min(most / 2);
        let spec = async {
            let spec = self.spec(account, run).await?;
            self.heard_of(run).await?;
            Ok::<_, Refusal>(spec)
        };
        let spec = match spec.await {
            Ok(spec) => spec,
            Err(refusal) => {
                self.give_up(account, run, seq).await;
                return Err(refusal);
            }
        };
        self.carry(&spec, task, grant, charged, flight).await
    }

    /// Reserves for a batch. Where another gateway has it in hand, waits until that one has answered it or is gone: it is not
    /// worked on twice. One that is cancelled meanwhile is not worked on at all.
    async fn reserve(&self, ask: Reserve, flight: &Flight) -> Result<Reserved, Refusal> {
        let mut pause = Duration::from_millis(20);
        loop {
            match self.committer.reserve(ask.clone()).await? {
                Reserved::Elsewhere => {}
                reserved => return Ok(reserved),
            }
            loop {
                let over = tokio::time::timeout(pause, flight.ending()).await.is_ok();
                pause = (2 * pause).min(Duration::from_millis(500));
                let found = self.store.batch(&ask.run, ask.seq).await?;
                let state = found.as_ref().map(|(state, _)| state.as_str());
                // One that was answered before stays answered.
                if state == Some("cancelled") || (over && matches!(state, None | Some("held"))) {
                    return Err(cancelled());
                }
                if state != Some("held") {
                    break;
                }
            }
        }
    }

    /// A batch from dispatch to its answer.
    async fn carry(
        self: &Arc<Self>,
        spec: &Arc<RunSpec>,
        task: BatchTask,
        grant: Grant,
        charged: bool,
        flight: &Flight,
    ) -> Result<Landed, Refusal> {
        let (account, run, seq, first) = (spec.account, &spec.run, task.seq, task.first);
        let dispatched = Instant::now();
        let work = Work { spec: Arc::clone(spec), task: Task::Batch(task) };
        // Held until the answer is stored and charged: then alone the queue may forget the batch.
        let mut submitted = self.dispatch.submit(work).await;
        let verdict = match &mut submitted {
            Ok(submitted) => {
                let verdict = tokio::select! {
                    verdict = submitted.verdict() => Some(verdict),
                    () = flight.ending() => None,
                };
                match verdict {
                    Some(verdict) => verdict,
                    None => {
                        self.dispatch.cancel(run, seq).await;
                        submitted.verdict().await
                    }
                }
            }
            Err(_) => Verdict::Lost,
        };
        // Answered in the very moment: nobody wants the answer, nor pays for it.
        let over = flight.over();
        let verdict = match verdict {
            Verdict::Answered(answered) if over.is_some() => {
                self.charge_unanswered(run, answered.cpu.min(grant.work.cpu));
                Verdict::Cancelled
            }
            _ if over.is_some() => Verdict::Cancelled,
            verdict => verdict,
        };
        stage("dispatch", dispatched);
        match verdict {
            Verdict::Answered(answered) if charged => {
                let body = Bytes::from(encode(answered));
                Ok(Landed { status: 200, digest: digest(&body).into(), content: Content::Memory(body) })
            }
            Verdict::Answered(answered) => {
                let landed = self.settle((account, run), seq, first, answered, grant, &flight.digest).await;
                if landed.is_err() {
                    // The disk or the database refuses: nothing is owed for what can't be delivered.
                    self.give_up(account, run, seq).await;
                }
                landed
            }
            Verdict::Failed(problem) => {
                let refusal = self.fail(run, problem).await;
                self.give_up(account, run, seq).await;
                Err(refusal)
            }
            Verdict::Cancelled => {
                self.give_up(account, run, seq).await;
                match over {
                    Some(Over::Cancelled) => Err(cancelled()),
                    Some(Over::Withdrawn) => {
                        tracing::info!("what was reserved for it is gone: it is ended");
                        self.answered_elsewhere(run, seq).await
                    }
                    // With its run.
                    None => Err(ended("ended", None)),
                }
            }
            Verdict::Lost | Verdict::Ready => {
                self.give_up(account, run, seq).await;
                Err(lost())
            }
            Verdict::Refused(why) => {
                self.give_up(account, run, seq).await;
                Err(queue(&why))
            }
        }
    }

    /// Gives back what is reserved for a batch that will not be answered; if the database fails, when it is back.
    async fn give_up(self: &Arc<Self>, account: i64, run: &str, seq: u64) {
        let Err(error) = self.store.release(run, seq as i64).await else { return };
        tracing::error!(run, seq, %error, "a reservation can't be given back now");
        let (gateway, run) = (Arc::clone(self), run.to_owned());
        let again = async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                // Sent again it has the reservation, and gives it back itself.
                let again = gateway.flights.find(account, &run, seq).is_some();
                if again || gateway.store.release(&run, seq as i64).await.is_ok() {
                    return;
                }
            }
        };
        tokio::spawn(again.in_current_span());
    }

    /// Stores an answer and charges for it; `request` is the digest of what has reserved for it. What the reservation does
    /// not pay is not stored, whatever an agent says.
    async fn settle(
        self: &Arc<Self>,
        (account, run): (i64, &str),
        seq: u64,
        first: u64,
        answered: Answered,
        grant: Grant,
        request: &str,
    ) -> Result<Landed, Refusal> {
        let began = Instant::now();
        let mut news = News::default();
        news.note(&stats::Answered { seq, first, parts: &answered.parts });
        let mut bytes = answered.parts.iter().map(|part| done(part).1).sum::<u64>();
        let mut items = answered.parts.iter().map(|part| done(part).0).sum::<u64>();
        let (cpu, cut) = (answered.cpu.min(grant.work.cpu), answered.cut);
        let mut body = encode(answered);
        let cost = |bytes: usize| pricing::cost(&self.config.prices, Limit { cpu, bytes: bytes as u64 });
        if body.len() as u64 > self.config.limits.result_bytes {
            // Agents cut what is more than an answer may have: this one does not.
            tracing::warn!(run, seq, bytes = body.len(), "an agent's answer has more bytes than it may have");
            return Err(lost());
        }
        let mut charge = cost(body.len());
        let mut status = 200;
        let hold = pricing::show(grant.hold);
        let unpaid = if cut && grant.short {
            let detail = format!("the batch has used up the {hold} credits that could be reserved for it");
            Some(Problem::new(ProblemCode::OutOfCredits, detail))
        } else if charge > grant.hold {
            self.store.raise_hold(run, seq as i64, charge).await?.map(|short| {
                let (code, of) = match short {
                    Short::Cap => (ProblemCode::SpendCapReached, "of the run's max_credits"),
                    Short::Balance => (ProblemCode::OutOfCredits, "in the account"),
                };
                let detail = format!(
                    "an answer of {} bytes, after {:.3} s of CPU time, costs {} credits; {hold} were reserved for the batch, \
                     and so much more is not left {of}: add credits, or send fewer items at a time",
                    body.len(),
                    cpu.as_secs_f64(),
                    pricing::show(charge)
                );
                Problem::new(code, detail)
            })
        } else {
            None
        };
        if let Some(problem) = unpaid {
            status = problem.status;
            body = serde_json::to_vec(&problem).unwrap_or_default();
            // The client gets none of it.
            (bytes, items) = (0, 0);
            charge = cost(body.len()).min(grant.hold);
        } else {
            Answer::set_charge(&mut body, charge);
        }
        let body = Bytes::from(body);
        if body.len() > SMALL {
            let kept = self.store.kept(account).await?;
            if kept.saturating_add(body.len() as u64) > self.config.kept_bytes {
                self.charge_unanswered(run, cpu);
                return Err(full(kept));
            }
        }
        let digest = digest(&body);
        let place = self.keep(run, &body).await?;
        stage("spool", began);
        let settling = Instant::now();
        let answer = Stored { digest: digest.clone(), place };
        let settle =
            Settle { run: run.to_owned(), seq: seq as i64, status, charge, cpu, bytes, items, answer };
        let settled = self.committer.settle_for(settle, request.to_owned()).await;
        // A server may have done it and not have come to say so: the answer is needed then.
        if settled.is_err() && !self.store.is_shared() {
            self.spool.remove(run, place);
        }
        let settled = settled?;
        stage("settle", settling);
        match settled {
            Settled::Charged => {
                metrics::counter!("fastmap_batches_total").increment(1);
                metrics::counter!("fastmap_items_total").increment(items);
                metrics::counter!("fastmap_charged_microcredits_total").increment(charge.unsigned_abs());
                self.activity.add(run, news);
                self.events.tell(run, Event::Batch { seq, items, charge });
                let content = self.kept(run, place, body).await;
                Ok(Landed { status, content, digest: digest.into() })
            }
            Settled::NotHeld => {
                self.spool.remove(run, place);
                let elsewhere = self.answered_elsewhere(run, seq).await;
                if elsewhere.is_err() {
                    self.charge_unanswered(run, cpu);
                }
                elsewhere
            }
        }
    }

    /// The reservation of a batch is gone: its run has ended meanwhile; its client has cancelled it; or this gateway was thought
    /// to be gone, and another has or will have the answer that is paid.
    async fn answered_elsewhere(&self, run: &str, seq: u64) -> Result<Landed, Refusal> {
        match self.store.batch(run, seq as i64).await? {
            Some((_, Some((status, stored)))) => {
                return self.stored(run, status, stored).await.ok_or_else(lost);
            }
            Some((state, None)) if state == "cancelled" => return Err(cancelled()),
            _ => {}
        }
        match self.store.run(None, run).await?.map(|run| run.info.state) {
            Some(RunState::Open) => Err(lost()),
            _ => Err(ended("ended", None)),
        }
    }
}

/// Items and bytes that a part answers.
fn done(part: &Part) -> (u64, u64) {
    match &part.outcome {
        PartOutcome::Done(results) => (u64::from(part.items), results.payload.bytes().len() as u64),
        PartOutcome::Returned | PartOutcome::Lost(_) => (0, 0),
    }
}

/// An answer that does not say yet what it costs.
fn encode(answered: Answered) -> Vec<u8> {
    let Answered { parts, cpu, .. } = answered;
    Answer { charge: 0, cpu, parts }.encode()
}
