//! Batches: items in, answers out. A batch is reserved, dispatched, answered, stored and charged by a task of its own,
//! its answer is kept: a client that goes away and comes back finds the answer.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use fastmap_backends::cloud::{BatchBody, BatchCancelled, Problem, ProblemCode, RunState};
use fastmap_backends::counted;
use fastmap_backends::unpoisoned::LockUnpoisoned;
use tokio::task::spawn_blocking;
use tracing::Instrument;

use crate::api::batch_refusals::{cancelled, check_seq, conflict, gone};
use crate::api::batch_task::{InMemory, RESTED};
use crate::app::caller::Caller;
use crate::app::in_flight::{CancelReason, InFlightBatch};
use crate::app::limits::Memory;
use crate::app::{Gateway, STOPPING};
use crate::dispatch::BatchTask;
use crate::pricing::Work as Limit;
use crate::problem::{Problems, Refusal, Reply, crowded, ended, lost, refuse, stopping};

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
    if let Some(in_flight) = gateway.batches.find(caller.account, &run, seq)
        && !gateway.was_cancelled(&run, seq, &in_flight).await?
    {
        if in_flight.digest != caller.digest {
            return Err(conflict());
        }
        return gateway.wait(&run, in_flight).await;
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
    if gateway.batches.of_run(caller.account, &run) >= limits.batches_in_flight as usize {
        let detail =
            format!("the run has {} in in_flight", counted(limits.batches_in_flight.into(), "batch"));
        return Err(Problem::new(ProblemCode::TooManyBatches, detail).retry_after(1).into());
    }
    let limit = Limit {
        cpu: Duration::from_secs(limits.batch_cpu_seconds),
        bytes: batch.result_credit.min(limits.result_bytes),
    };
    let (first, items, stride, request) = (batch.first, batch.items, batch.stride, caller.nonce.clone());
    let (enough, level) = (limit.bytes, batch.level);
    let task = BatchTask { seq, first, items, stride, payload, enough, level, limit, request };
    let in_flight = gateway.spawn_batch(&caller, &run, task, in_memory);
    // What was sent is not kept for as long as the answer takes, but for what of it the batch still is.
    drop((body, caller));
    gateway.wait(&run, in_flight).await
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
    if let Some(in_flight) = gateway.batches.find(caller.account, &run, seq) {
        return gateway.wait(&run, in_flight).await;
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
        let withdrawn = gateway.store.cancel_reservation(&run, stored).await;
        // Looked for behind that: one that was withdrawn here is found.
        let in_flight = gateway.batches.find(caller.account, &run, seq);
        if let Some(in_flight) = &in_flight {
            in_flight.end(CancelReason::Cancelled);
        }
        (withdrawn, in_flight)
    };
    // A client says so once, and may leave before it is done.
    let done = tokio::spawn(withdraw.in_current_span()).await;
    let (withdrawn, in_flight) = done.map_err(|error| refuse(ProblemCode::Internal, error.to_string()))?;
    let Some(mut in_flight) = in_flight else {
        return Ok(Json(BatchCancelled { cancelled: withdrawn? }));
    };
    let answer = in_flight.answer.wait_for(Option::is_some).await.map_err(|_| lost())?;
    Ok(Json(BatchCancelled { cancelled: !matches!(&*answer, Some(Ok(_))) }))
}

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
    // This goes on when its client is gone, and its bytes count for as long.
    let unpacked = spawn_blocking(move || {
        let _sent = sent;
        // Announced, and taken as it is written.
        let mut bytes = Vec::with_capacity(length as usize + 1);
        let decoder = zstd::stream::read::Decoder::new(&payload[..])?;
        // One more than promised is enough to know.
        decoder.take(length + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>((bytes, Arc::new(unpacked)))
    });
    let wrong =
        |why: String| refuse(ProblemCode::InvalidBody, format!("the items are not a zstd frame: {why}"));
    let unpacked = unpacked.await.map_err(|error| refuse(ProblemCode::Internal, error.to_string()))?;
    let (unpacked, in_memory) = unpacked.map_err(|error| wrong(error.to_string()))?;
    match unpacked.len() as u64 == length {
        true => Ok((unpacked.into(), in_memory)),
        false => Err(wrong(format!("it is not {length} bytes long"))),
    }
}

impl Gateway {
    /// Waits for an answer, up to the length of a long poll. The client lives as long as it waits.
    async fn wait(&self, run: &str, mut in_flight: InFlightBatch) -> Result<Response, Refusal> {
        let most = Duration::from_secs(self.config.limits.long_poll_seconds);
        let answer = match tokio::time::timeout(most, in_flight.answer.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => answer.clone(),
            Ok(Err(_)) => return Err(lost()),
            Err(_) => None,
        };
        match answer {
            Some(Ok(answer)) => self.answer_response(in_flight.account, answer),
            Some(Err(problem)) => Err(problem.into()),
            None => {
                self.client_waits(in_flight.account, run).await?;
                Ok((StatusCode::ACCEPTED, [(header::RETRY_AFTER, "0")]).into_response())
            }
        }
    }

    /// A request of an open run of this account came, or is still here.
    async fn client_waits(&self, account: i64, run: &str) -> Result<(), Refusal> {
        let theirs = self.specs.lock_unpoisoned().get(run).map(|spec| spec.account);
        if theirs == Some(account) { self.heard_of(run).await } else { Ok(()) }
    }

    /// Whether a batch that is under way here was cancelled at another gateway: it is ended then, and what comes under its
    /// seq is a new one. (`end_withdrawn` may not have looked yet.)
    async fn was_cancelled(&self, run: &str, seq: u64, in_flight: &InFlightBatch) -> Result<bool, Refusal> {
        if !self.store.is_shared() || !in_flight.holds() {
            return Ok(false);
        }
        let found = self.store.batch(run, check_seq(seq)?).await?;
        if found.is_none_or(|(state, _)| state != "cancelled") {
            return Ok(false);
        }
        in_flight.end(CancelReason::Withdrawn);
        let mut answer = in_flight.answer.clone();
        // Its task ends it in any case; what it was answered is of no interest here.
        let _ = answer.wait_for(Option::is_some).await;
        Ok(true)
    }

    /// Ends batches whose reservations are gone: they were cancelled at another gateway, or one that thought this one gone has
    /// taken them over.
    pub(crate) async fn end_withdrawn(&self) -> Result<(), Refusal> {
        // Before the question: what is reserved later is not missed. One that lands meanwhile hears nothing of this.
        let holding = self.batches.holding();
        if holding.is_empty() || !self.store.is_shared() {
            return Ok(());
        }
        let held = self.store.held_here().await?;
        for ((_, run, seq), in_flight) in holding {
            if !held.contains(&(run, seq as i64)) {
                in_flight.end(CancelReason::Withdrawn);
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
}
