//! Thread that sends one batch at a time. It waits for the answer for as long as the service works on the
//! batch, and sends the batch again if no answer arrives. The run thread starts it; it ends after a time
//! without work (`IDLE_TIMEOUT`).

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::cloud::body::{Answer, Part, PartOutcome};
use crate::cloud::http::{Failure, Reply, TimeoutClass};
use crate::cloud::problem::ProblemCode;
use crate::cloud::protocol::Limits;
use crate::cloud::retry::Backoff;
use crate::cloud::run_handle::{ACK_BATCH, RunHandle};
use crate::cloud::run_state::{Opened, Piece};
use crate::cloud::session::{Stop, Tolerance};
use crate::cloud::{compression, missing};
use crate::model::batch::Batch;
use crate::model::completion::{Completion, Origin, Outcome, Results};
use crate::model::cost::credits;
use crate::model::death::{ExitReason, Running, WorkerExit, WorkerLoss};
use crate::model::error::BackendError;
use crate::model::failure::{FailureKind, ItemFailure};

/// A sender ends after this time without work.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// After this many lost agents in a row, the batch itself is suspected.
const MAX_AGENT_LOSSES: u32 = 4;
/// After this many internal errors of the service in a row, the run fails.
const MAX_FAULTS: u32 = 8;

/// Loop of a sender thread: sends batches until there is no more work.
pub(crate) fn send(shared: &RunHandle, limits: &Limits) {
    while let Some((piece, opened, seq)) = next_piece(shared) {
        process(shared, limits, piece, &opened, seq);
    }
}

/// Takes the next piece and marks it as in flight. Returns it with its run and its number there; `None`: the
/// sender is to end.
fn next_piece(shared: &RunHandle) -> Option<(Piece, Arc<Opened>, u64)> {
    let mut state = shared.lock();
    loop {
        if state.end.is_none()
            && state.free_slots() > 0
            && let Some(opened) = state.opened.clone()
            && let Some(piece) = state.waiting.pop_front()
        {
            // Never reuse a number: the service may have stored a refusal under it. A batch that was cut for
            // want of credits is such a case.
            state.next += 1;
            let seq = state.next;
            state.on_sent(seq, piece.batch.id());
            return Some((piece, opened, seq));
        }
        if state.end.is_some() {
            break;
        }
        state.idle += 1;
        let (woken, timeout) =
            shared.work.wait_timeout(state, IDLE_TIMEOUT).unwrap_or_else(PoisonError::into_inner);
        state = woken;
        state.idle -= 1;
        if timeout.timed_out() && state.waiting.is_empty() {
            break;
        }
    }
    state.senders -= 1;
    None
}

/// Result of sending a batch that is not to be repeated unchanged.
enum SendOutcome {
    Answered(Answer, Option<u64>),
    /// The batch was cancelled.
    Cancelled,
    /// The agents that had it were lost, `MAX_AGENT_LOSSES` times in a row.
    Lost,
    /// The run that it was sent to has ended.
    RunOver,
    /// It can't be paid now, or was cut; others are in flight, and may leave some of their reserved credits.
    Short,
    Exhausted(BackendError),
    /// A proxy accepts no request of this size.
    TooLarge,
    Stopped(Stop),
}

fn process(shared: &RunHandle, limits: &Limits, piece: Piece, opened: &Arc<Opened>, seq: u64) {
    let length = piece.batch.payload().len() as u64;
    if length > limits.batch_bytes {
        let wanted = shared.lock().on_done(seq);
        return match wanted {
            true if piece.batch.items() > 1 => split(shared, &piece.batch),
            true => reject_too_large(shared, &piece.batch, limits.batch_bytes),
            false => shared.finish_piece(None, Vec::new()),
        };
    }
    let sent = match fetch_earlier_answer(shared, &piece) {
        Some(answer) => SendOutcome::Answered(answer, None),
        None => send_until_answered(shared, &piece.batch, opened, seq),
    };
    let wanted = shared.lock().on_done(seq);
    match sent {
        SendOutcome::TooLarge if wanted => split(shared, &piece.batch),
        SendOutcome::Cancelled | SendOutcome::TooLarge => shared.finish_piece(None, Vec::new()),
        SendOutcome::Answered(answer, arrived) => {
            record_answer(shared, &answer, arrived);
            let (answered, mut rest) = split_answer(&piece.batch, answer.parts);
            if !rest.is_empty() {
                shared.shrink_window();
            }
            if !wanted {
                // A cancelled batch must not be sent and charged again.
                rest.clear();
            }
            shared.finish_piece(answered, rest);
        }
        SendOutcome::Lost => {
            let death = WorkerExit {
                worker: "of the service".to_owned(),
                pid: 0,
                cause: ExitReason::AgentsLost(MAX_AGENT_LOSSES),
                refused: None,
                stderr: Vec::new(),
            };
            let loss = WorkerLoss { running: Running::Unknown, death };
            let (batch, first, items) = (piece.batch.id(), piece.batch.first(), piece.batch.items());
            let outcome = Outcome::Lost(piece.batch, loss);
            shared.finish_piece(Some(Completion { batch, first, items, outcome }), Vec::new());
        }
        SendOutcome::RunOver => {
            let mut state = shared.lock();
            if state.opened.as_ref().is_some_and(|now| Arc::ptr_eq(now, opened)) {
                state.lost = state.opened.take();
            }
            drop(state);
            if wanted {
                shared.put_back(Piece { sent_before: Some((Arc::clone(opened), seq)), ..piece });
            } else {
                shared.finish_piece(None, Vec::new());
                shared.wake();
            }
        }
        SendOutcome::Short if !wanted => shared.finish_piece(None, Vec::new()),
        SendOutcome::Short => shared.put_back(Piece { sent_before: None, ..piece }),
        SendOutcome::Exhausted(error) => shared.exhaust(error),
        SendOutcome::Stopped(stop) => {
            if let Stop::Failed(error) = stop {
                shared.fail(error);
            }
            shared.finish_piece(None, Vec::new());
        }
    }
}

fn record_answer(shared: &RunHandle, answer: &Answer, arrived: Option<u64>) {
    let mut state = shared.lock();
    state.charged += answer.charge;
    state.arrived.extend(arrived);
    state.answers += 1;
    state.last_contact = Instant::now();
    // Below this count, the run thread acknowledges them by its own timer.
    let is_batch_full = state.arrived.len() >= ACK_BATCH;
    drop(state);
    if is_batch_full {
        shared.changed.notify_all();
    }
}

/// Fetches the answer to a piece from a run that has ended: the answer is paid for, and stored for a while.
fn fetch_earlier_answer(shared: &RunHandle, piece: &Piece) -> Option<Answer> {
    let (opened, seq) = piece.sent_before.as_ref()?;
    let target = format!("/runs/{}/batches/{seq}", opened.run);
    let reply = shared.session.call_with_retry(shared, || {
        match shared.session.http.call(TimeoutClass::Long, "GET", &target, b"") {
            // Any such problem means that there is no answer.
            Err(Failure::Problem(problem)) if problem.status < 500 => Ok(None),
            other => other.map(Some),
        }
    });
    let reply = reply.ok().flatten().filter(|reply| reply.status == 200)?;
    Answer::decode(&reply.body, piece.batch.items()).ok()
}

/// Sends a batch until it is answered.
fn send_until_answered(shared: &RunHandle, batch: &Batch, opened: &Opened, seq: u64) -> SendOutcome {
    let session = &shared.session;
    let target = format!("/runs/{}/batches/{seq}", opened.run);
    let body = compression::encode(batch, session.options.compress, session.http.url.is_loopback());
    let size = body.len() as u64;
    if batch.items() > 1 && session.is_too_large(size) {
        return SendOutcome::TooLarge;
    }
    let mut backoff = Backoff::default();
    let (mut accepted, mut was_sent) = (false, false);
    let (mut losses, mut faults) = (0, 0);
    loop {
        if shared.lock().is_cancelled(seq) {
            let cancelled = if was_sent { cancel_at_service(shared, &target, &mut backoff) } else { Ok(()) };
            return cancelled.map_or_else(SendOutcome::Stopped, |()| SendOutcome::Cancelled);
        }
        let started = Instant::now();
        was_sent = true;
        let sent = match accepted {
            true => session.http.call(TimeoutClass::Long, "GET", &target, b""),
            false => session.http.call(TimeoutClass::Long, "PUT", &target, &body),
        };
        let failure = match sent {
            Ok(Reply { status: 202, .. }) => {
                session.on_success();
                shared.lock().last_contact = Instant::now();
                (accepted, backoff) = (true, Backoff::default());
                if shared.lock().end.is_some() {
                    return SendOutcome::Stopped(Stop::Ended);
                }
                continue;
            }
            Ok(reply) => {
                session.on_success();
                return match Answer::decode(&reply.body, batch.items()) {
                    Ok(answer) => SendOutcome::Answered(answer, Some(seq)),
                    Err(error) => SendOutcome::Stopped(Stop::Failed(BackendError::Cloud(
                        format!("{} gave an answer to a batch that can't be read: {error}", session.http.url),
                        Some(Box::new(error)),
                    ))),
                };
            }
            Err(failure) => failure,
        };
        // The request may or may not have arrived; sending it again is harmless.
        accepted = false;
        if matches!(failure, Failure::Unsigned { status: 413, .. }) {
            session.set_too_large(size);
            if batch.items() > 1 {
                return SendOutcome::TooLarge;
            }
        }
        if let Failure::Problem(problem) = &failure {
            use ProblemCode as Code;
            match problem.known() {
                Some(Code::BatchCancelled) => return SendOutcome::Cancelled,
                Some(Code::RunEnded | Code::NotFound) => return SendOutcome::RunOver,
                Some(Code::AgentLost) => {
                    losses += 1;
                    if losses >= MAX_AGENT_LOSSES {
                        return SendOutcome::Lost;
                    }
                }
                Some(Code::Internal) => {
                    faults += 1;
                    if faults >= MAX_FAULTS {
                        let error = BackendError::Cloud(
                            format!(
                                "the service at {} fails with a batch, {MAX_FAULTS} times: {problem}",
                                session.http.url
                            ),
                            None,
                        );
                        return SendOutcome::Stopped(Stop::Failed(error));
                    }
                }
                Some(Code::CreditsHeld | Code::OutOfCredits | Code::SpendCapReached)
                    if shared.shrink_window() =>
                {
                    return SendOutcome::Short;
                }
                Some(Code::TooManyBatches) => {
                    let mut state = shared.lock();
                    let slots = state.in_flight.saturating_sub(1).min(state.slots);
                    shared.set_slots(&mut state, slots, None);
                }
                _ => {}
            }
        }
        let pause = match session.retry_pause(failure, &mut backoff, started, Tolerance::Silence) {
            Ok(pause) => pause,
            Err(BackendError::OutOfCredits(why)) => {
                return SendOutcome::Exhausted(exhausted(why, session.options.max_credits));
            }
            Err(error) => return SendOutcome::Stopped(Stop::Failed(error)),
        };
        if !crate::cloud::session::Waiter::pause(shared, pause) {
            return SendOutcome::Stopped(Stop::Ended);
        }
    }
}

/// Cancels a batch at the service, and repeats the request until the service has received it. A request that
/// arrived before the batch, or while the service stalled, has no effect: the batch would be computed and
/// charged.
fn cancel_at_service(shared: &RunHandle, target: &str, backoff: &mut Backoff) -> Result<(), Stop> {
    let session = &shared.session;
    session.call_with_tolerance(Tolerance::Silence, backoff, shared, || {
        match session.http.call(TimeoutClass::Long, "DELETE", target, b"") {
            // Any such problem means that there is nothing to cancel.
            Err(Failure::Problem(problem)) if problem.status < 500 && problem.status != 429 => Ok(()),
            other => other.map(drop),
        }
    })
}

/// The error for a run that can pay for no more batches. It names the run's own spending cap, because the
/// reservation for a batch depends on it, too. If a batch was cut, the service does not report whether that
/// was due to the cap.
fn exhausted(why: String, max_credits: Option<i64>) -> BackendError {
    const OPTION: &str = "FASTMAP_MAX_CREDITS";
    BackendError::OutOfCredits(match max_credits {
        Some(limit) if !why.contains(OPTION) => {
            format!("{why}; this run may spend {} (Options::max_credits, {OPTION})", credits(limit))
        }
        _ => why,
    })
}

/// Splits an answer into completions to report and pieces to resend. Items returned although the results are
/// within the batch's result credit could not be paid at once. They are sent again, before all later items.
fn split_answer(batch: &Batch, parts: Vec<Part>) -> (Vec<Completion>, Vec<Piece>) {
    let bytes = |part: &Part| match &part.outcome {
        PartOutcome::Done(results) => results.payload.bytes().len() as u64,
        PartOutcome::Returned | PartOutcome::Lost(_) => 0,
    };
    let results: u64 = parts.iter().map(bytes).sum();
    let short = results > 0 && results < batch.result_credit();
    let (mut answered, mut rest) = (Vec::new(), Vec::new());
    for part in parts {
        match completion(batch, part) {
            Completion { outcome: Outcome::Returned(batch), .. } if short => {
                rest.push(Piece { batch, sent_before: None });
            }
            other => answered.push(other),
        }
    }
    (answered, rest)
}

/// Worker name for reports. The suffix is needed because local workers have the same names, and ADAPTIVE has
/// both in one map.
fn cloud_worker_name(worker: &str) -> String {
    format!("{worker} (cloud)")
}

/// Converts a part of an answer to a completion for the submitter.
fn completion(batch: &Batch, part: Part) -> Completion {
    let Part { offset, items, outcome } = part;
    let piece = || match items == batch.items() {
        true => batch.clone(),
        false => batch.piece(batch.id(), offset, offset + items, batch.attempt()),
    };
    let outcome = match outcome {
        PartOutcome::Done(mut results) => {
            missing::keep_local_files(&mut results, batch.first() + u64::from(offset), items);
            Outcome::Done(Results {
                place: Origin::Cloud,
                worker: cloud_worker_name(&results.worker),
                ..results
            })
        }
        PartOutcome::Returned => Outcome::Returned(piece()),
        PartOutcome::Lost(mut loss) => {
            loss.death.worker = cloud_worker_name(&loss.death.worker);
            Outcome::Lost(piece(), loss)
        }
    };
    Completion { batch: batch.id(), first: batch.first() + u64::from(offset), items, outcome }
}

/// Splits a batch in two that exceeds the size limit of the service or of a proxy.
fn split(shared: &RunHandle, batch: &Batch) {
    let (id, items) = (batch.id(), batch.items());
    let half = items / 2;
    let mut state = shared.lock();
    for (from, to) in [(half, items), (0, half)] {
        let batch = batch.piece(id, from, to, batch.attempt());
        state.put(Piece { batch, sent_before: None });
    }
    state.on_put_back();
    shared.update_gauge(&state);
    drop(state);
    shared.work.notify_all();
    shared.changed.notify_all();
}

/// Fails an item that exceeds the service's size limit.
fn reject_too_large(shared: &RunHandle, batch: &Batch, limit: u64) {
    let message = format!(
        "the item has {} bytes, and the service at {} takes at most {limit}; send less, or use the policy local",
        batch.payload().len(),
        shared.session.http.url
    );
    let failure = ItemFailure { offset: 0, kind: FailureKind::Serialize, message };
    let results = Results { failures: vec![failure], ..Results::default() };
    let outcome = Outcome::Done(results);
    let completion = Completion { batch: batch.id(), first: batch.first(), items: 1, outcome };
    shared.finish_piece(Some(completion), Vec::new());
}
