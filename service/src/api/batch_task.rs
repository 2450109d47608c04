//! Task of a batch: reserves, dispatches, stores and charges it, independent of the client's connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use fastmap_backends::cloud::{Answer, Part, PartOutcome, Problem, ProblemCode, RunState, digest};
use tokio::sync::watch;
use tracing::Instrument;

use crate::api::answers::SMALL;
use crate::api::batch_refusals::{cancelled, check_seq, full, refused};
use crate::app::Gateway;
use crate::app::answer_content::Content;
use crate::app::caller::Caller;
use crate::app::in_flight::{CancelReason, EncodedAnswer, InFlightBatch, Key};
use crate::app::limits::BodyPermit;
use crate::dispatch::{Answered, BatchTask, RunSpec, Task, Work, WorkOutcome};
use crate::pricing;
use crate::pricing::{Grant, Work as Limit};
use crate::problem::{Refusal, ended, lost, queue};
use crate::run_log::Event;
use crate::stats::{self, StatsDelta};
use crate::store::{Reserve, Reserved, Settle, Settled, Short, Stored};

/// An answer that is in its file for so long is settled, or never will be.
pub(super) const RESTED: Duration = Duration::from_mins(5);

pub(super) fn stage(name: &'static str, since: Instant) {
    metrics::histogram!("fastmap_stage_seconds", "stage" => name).record(since.elapsed());
}

/// Counts a batch's bytes.
pub(super) type InMemory = Arc<BodyPermit>;

/// Items and bytes that a part answers.
pub(super) fn done(part: &Part) -> (u64, u64) {
    match &part.outcome {
        PartOutcome::Done(results) => (u64::from(part.items), results.payload.bytes().len() as u64),
        PartOutcome::Returned | PartOutcome::Lost(_) => (0, 0),
    }
}

/// An answer that does not say yet what it costs.
pub(super) fn encode(answered: Answered) -> Vec<u8> {
    let Answered { parts, cpu, .. } = answered;
    Answer { charge: 0, cpu, parts }.encode()
}

impl Gateway {
    /// Sends a batch on its way, unless it is on its way.
    pub(super) fn spawn_batch(
        self: &Arc<Self>,
        caller: &Caller,
        run: &str,
        task: BatchTask,
        in_memory: InMemory,
    ) -> InFlightBatch {
        let key = (caller.account, run.to_owned(), task.seq);
        let (sender, answer) = watch::channel(None);
        let in_flight = InFlightBatch::new(caller.account, caller.digest.clone(), answer);
        if let Some(there) = self.batches.enter(&key, &in_flight) {
            // It came a moment ago. Other bytes under this seq learn so from the database, when they come again.
            return there;
        }
        let (gateway, own) = (Arc::clone(self), in_flight.clone());
        // Beneath the request that has brought it.
        let span = tracing::info_span!("batch", run, seq = task.seq);
        let fly = async move {
            let answered = gateway.process_batch(&key, task, &own).await;
            drop(in_memory);
            match &answered {
                Ok(answer) => tracing::debug!(status = answer.status, "answered"),
                Err(Refusal(problem)) => tracing::debug!(%problem, "not answered"),
            }
            // First: who hears of a cancelled batch's end and sends it again must not find it here.
            gateway.batches.remove(&key);
            // No client waits where all have left; the answer is stored.
            let _ = sender.send(Some(answered.map_err(|refusal| refusal.0)));
        };
        tokio::spawn(fly.instrument(span));
        in_flight
    }

    /// A batch from its reservation to its answer.
    async fn process_batch(
        self: &Arc<Self>,
        key: &Key,
        mut task: BatchTask,
        in_flight: &InFlightBatch,
    ) -> Result<EncodedAnswer, Refusal> {
        let (account, run, seq) = (key.0, &key.1, key.2);
        let began = Instant::now();
        let reserve = Reserve {
            account,
            run: run.clone(),
            seq: check_seq(seq)?,
            digest: in_flight.digest.clone(),
            wanted: task.limit,
            prices: self.config.prices,
            most_kept: self.config.kept_bytes,
        };
        let reserved = self.reserve(reserve, in_flight).await?;
        stage("reserve", began);
        let (grant, charged) = match reserved {
            Reserved::Granted(grant) => {
                in_flight.has_reserved();
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
        self.carry(&spec, task, grant, charged, in_flight).await
    }

    /// Reserves for a batch. Where another gateway has it in hand, waits until that one has answered it or is gone: it is not
    /// worked on twice. One that is cancelled meanwhile is not worked on at all.
    async fn reserve(&self, ask: Reserve, in_flight: &InFlightBatch) -> Result<Reserved, Refusal> {
        let mut pause = Duration::from_millis(20);
        loop {
            match self.committer.reserve(ask.clone()).await? {
                Reserved::OwnedByOther => {}
                reserved => return Ok(reserved),
            }
            loop {
                let over = tokio::time::timeout(pause, in_flight.ending()).await.is_ok();
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
        in_flight: &InFlightBatch,
    ) -> Result<EncodedAnswer, Refusal> {
        let (account, run, seq, first) = (spec.account, &spec.run, task.seq, task.first);
        let dispatched = Instant::now();
        let work = Work { spec: Arc::clone(spec), task: Task::Batch(task) };
        // Held until the answer is stored and charged: then alone the queue may forget the batch.
        let mut submitted = self.dispatch.submit(work).await;
        let outcome = match &mut submitted {
            Ok(submitted) => {
                let outcome = tokio::select! {
                    outcome = submitted.outcome() => Some(outcome),
                    () = in_flight.ending() => None,
                };
                match outcome {
                    Some(outcome) => outcome,
                    None => {
                        self.dispatch.cancel(run, seq).await;
                        submitted.outcome().await
                    }
                }
            }
            Err(_) => WorkOutcome::Lost,
        };
        // Answered in the very moment: the answer is not wanted, and not paid for.
        let over = in_flight.over();
        let outcome = match outcome {
            WorkOutcome::Answered(answered) if over.is_some() => {
                self.charge_unanswered(run, answered.cpu.min(grant.work.cpu));
                WorkOutcome::Cancelled
            }
            _ if over.is_some() => WorkOutcome::Cancelled,
            outcome => outcome,
        };
        stage("dispatch", dispatched);
        match outcome {
            WorkOutcome::Answered(answered) if charged => {
                let body = Bytes::from(encode(answered));
                Ok(EncodedAnswer {
                    status: 200,
                    digest: digest(&body).into(),
                    content: Content::Memory(body),
                })
            }
            WorkOutcome::Answered(answered) => {
                let answered =
                    self.settle((account, run), seq, first, answered, grant, &in_flight.digest).await;
                if answered.is_err() {
                    // The disk or the database refuses: nothing is owed for what can't be delivered.
                    self.give_up(account, run, seq).await;
                }
                answered
            }
            WorkOutcome::Failed(problem) => {
                let refusal = self.fail(run, problem).await;
                self.give_up(account, run, seq).await;
                Err(refusal)
            }
            WorkOutcome::Cancelled => {
                self.give_up(account, run, seq).await;
                match over {
                    Some(CancelReason::Cancelled) => Err(cancelled()),
                    Some(CancelReason::Withdrawn) => {
                        tracing::info!("what was reserved for it is gone: it is ended");
                        self.answered_elsewhere(run, seq).await
                    }
                    // With its run.
                    None => Err(ended("ended", None)),
                }
            }
            WorkOutcome::Lost | WorkOutcome::Ready => {
                self.give_up(account, run, seq).await;
                Err(lost())
            }
            WorkOutcome::Refused(why) => {
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
                let again = gateway.batches.find(account, &run, seq).is_some();
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
    ) -> Result<EncodedAnswer, Refusal> {
        let began = Instant::now();
        let mut delta = StatsDelta::default();
        delta.note(&stats::Answered { seq, first, parts: &answered.parts });
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
                     and the rest is more than what is left {of}: add credits, or send fewer items at a time",
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
                self.activity.add(run, delta);
                self.events.emit(run, Event::Batch { seq, items, charge });
                let content = self.kept(run, place, body).await;
                Ok(EncodedAnswer { status, content, digest: digest.into() })
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
    async fn answered_elsewhere(&self, run: &str, seq: u64) -> Result<EncodedAnswer, Refusal> {
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
