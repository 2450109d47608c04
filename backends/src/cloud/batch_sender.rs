//! A thread that has one batch on the way at a time: sends it, waits for its answer as long as the service works on it,
//! and sends it again where none came. Started by the run thread, ends when there is nothing to do for a while.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::cloud::body::{Answer, Part, PartOutcome};
use crate::cloud::http::{By, Failure, Reply};
use crate::cloud::problem::ProblemCode;
use crate::cloud::protocol::Limits;
use crate::cloud::retry::Backoff;
use crate::cloud::run_handle::{ACKS, RunHandle};
use crate::cloud::run_state::{Opened, Piece};
use crate::cloud::session::{Bears, Stop};
use crate::cloud::{compression, missing};
use crate::model::batch::Batch;
use crate::model::completion::{Completion, Origin, Outcome, Results};
use crate::model::cost::credits;
use crate::model::death::{ExitReason, Running, WorkerExit, WorkerLoss};
use crate::model::error::BackendError;
use crate::model::failure::{FailureKind, ItemFailure};

/// A sender with nothing to do ends after this.
const IDLE: Duration = Duration::from_secs(5);
/// A batch with which so many agents were lost in a row may be why.
const LOSSES: u32 = 4;
/// The service may fail with a batch so often in a row.
const FAULTS: u32 = 8;

/// What a sender does until there is nothing to do.
pub(crate) fn send(shared: &RunHandle, limits: &Limits) {
    while let Some((piece, opened, seq)) = next(shared) {
        deliver(shared, limits, piece, &opened, seq);
    }
}

/// The next piece, the run that it goes to, and its number there; in flight from now on. `None`: there is none.
fn next(shared: &RunHandle) -> Option<(Piece, Arc<Opened>, u64)> {
    let mut state = shared.lock();
    loop {
        if state.end.is_none()
            && state.room() > 0
            && let Some(opened) = state.opened.clone()
            && let Some(piece) = state.waiting.pop_front()
        {
            // Under a number that was used there may be a refusal that is kept: a batch was cut for want of credits.
            state.next += 1;
            let seq = state.next;
            state.on_sent(seq, piece.batch.id());
            return Some((piece, opened, seq));
        }
        if state.end.is_some() {
            break;
        }
        state.idle += 1;
        let (woken, timeout) = shared.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
        state = woken;
        state.idle -= 1;
        if timeout.timed_out() && state.waiting.is_empty() {
            break;
        }
    }
    state.senders -= 1;
    None
}

/// How a try ended that is not to be repeated as it was.
enum SendOutcome {
    Answered(Answer, Option<u64>),
    /// Nobody waits for it any more.
    Cancelled,
    /// The agents that had it are gone, again and again.
    Lost,
    /// The run that it was sent to is over.
    RunOver,
    /// It can't be paid now, or was cut, but others are in flight, and will leave something over.
    Short,
    Exhausted(BackendError),
    /// A proxy on the way takes no request as large.
    TooLarge,
    Stopped(Stop),
}

fn deliver(shared: &RunHandle, limits: &Limits, piece: Piece, opened: &Arc<Opened>, seq: u64) {
    let length = piece.batch.payload().len() as u64;
    if length > limits.batch_bytes {
        let wanted = shared.lock().on_done(seq);
        return match wanted {
            true if piece.batch.items() > 1 => split(shared, &piece.batch),
            true => refuse(shared, &piece.batch, limits.batch_bytes),
            false => shared.landed(None, Vec::new()),
        };
    }
    let landing = match before(shared, &piece) {
        Some(answer) => SendOutcome::Answered(answer, None),
        None => carry(shared, &piece.batch, opened, seq),
    };
    let wanted = shared.lock().on_done(seq);
    match landing {
        SendOutcome::TooLarge if wanted => split(shared, &piece.batch),
        SendOutcome::Cancelled | SendOutcome::TooLarge => shared.landed(None, Vec::new()),
        SendOutcome::Answered(answer, arrived) => {
            note(shared, &answer, arrived);
            let (answered, mut rest) = sort(&piece.batch, answer.parts);
            if !rest.is_empty() {
                shared.shrink_window();
            }
            if !wanted {
                // It would be charged for nobody.
                rest.clear();
            }
            shared.landed(answered, rest);
        }
        SendOutcome::Lost => {
            let death = WorkerExit {
                worker: "of the service".to_owned(),
                pid: 0,
                cause: ExitReason::AgentsLost(LOSSES),
                refused: None,
                stderr: Vec::new(),
            };
            let loss = WorkerLoss { running: Running::Unknown, death };
            let (batch, first, items) = (piece.batch.id(), piece.batch.first(), piece.batch.items());
            let outcome = Outcome::Lost(piece.batch, loss);
            shared.landed(Some(Completion { batch, first, items, outcome }), Vec::new());
        }
        SendOutcome::RunOver => {
            let mut state = shared.lock();
            if state.opened.as_ref().is_some_and(|now| Arc::ptr_eq(now, opened)) {
                state.lost = state.opened.take();
            }
            drop(state);
            if wanted {
                shared.put_back(Piece { before: Some((Arc::clone(opened), seq)), ..piece });
            } else {
                shared.landed(None, Vec::new());
                shared.wake();
            }
        }
        SendOutcome::Short if !wanted => shared.landed(None, Vec::new()),
        SendOutcome::Short => shared.put_back(Piece { before: None, ..piece }),
        SendOutcome::Exhausted(error) => shared.exhaust(error),
        SendOutcome::Stopped(stop) => {
            if let Stop::Failed(error) = stop {
                shared.fail(error);
            }
            shared.landed(None, Vec::new());
        }
    }
}

fn note(shared: &RunHandle, answer: &Answer, arrived: Option<u64>) {
    let mut state = shared.lock();
    state.charged += answer.charge;
    state.arrived.extend(arrived);
    state.answers += 1;
    state.heard = Instant::now();
    // Fewer are acknowledged when the run thread wakes by its own clock.
    let many = state.arrived.len() >= ACKS;
    drop(state);
    if many {
        shared.news.notify_all();
    }
}

/// The answer that came to a piece in a run that is over: paid for, and kept for a while.
fn before(shared: &RunHandle, piece: &Piece) -> Option<Answer> {
    let (opened, seq) = piece.before.as_ref()?;
    let target = format!("/runs/{}/batches/{seq}", opened.run);
    let reply = shared.session.call_with_retry(shared, || {
        match shared.session.http.call(By::Long, "GET", &target, b"") {
            // Whatever it is: there is no answer.
            Err(Failure::Problem(problem)) if problem.status < 500 => Ok(None),
            other => other.map(Some),
        }
    });
    let reply = reply.ok().flatten().filter(|reply| reply.status == 200)?;
    Answer::decode(&reply.body, piece.batch.items()).ok()
}

/// Sends a batch until it is answered.
fn carry(shared: &RunHandle, batch: &Batch, opened: &Opened, seq: u64) -> SendOutcome {
    let session = &shared.session;
    let target = format!("/runs/{}/batches/{seq}", opened.run);
    let body = compression::pack(batch, session.options.compress, session.http.url.is_loopback());
    let size = body.len() as u64;
    if batch.items() > 1 && session.is_too_large(size) {
        return SendOutcome::TooLarge;
    }
    let mut backoff = Backoff::default();
    let (mut waits, mut was_sent) = (false, false);
    let (mut losses, mut faults) = (0, 0);
    loop {
        if shared.lock().is_given_up(seq) {
            let withdrawn = if was_sent { withdraw(shared, &target, &mut backoff) } else { Ok(()) };
            return withdrawn.map_or_else(SendOutcome::Stopped, |()| SendOutcome::Cancelled);
        }
        let began = Instant::now();
        was_sent = true;
        let sent = match waits {
            true => session.http.call(By::Long, "GET", &target, b""),
            false => session.http.call(By::Long, "PUT", &target, &body),
        };
        let failure = match sent {
            Ok(Reply { status: 202, .. }) => {
                session.on_success();
                shared.lock().heard = Instant::now();
                (waits, backoff) = (true, Backoff::default());
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
        // Whether it arrived nobody knows; to send it again does no harm.
        waits = false;
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
                    if losses >= LOSSES {
                        return SendOutcome::Lost;
                    }
                }
                Some(Code::Internal) => {
                    faults += 1;
                    if faults >= FAULTS {
                        let error = BackendError::Cloud(
                            format!(
                                "the service at {} fails with a batch, {FAULTS} times: {problem}",
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
                    let fewer = state.in_flight.saturating_sub(1).min(state.slots);
                    shared.set_slots(&mut state, fewer, None);
                }
                _ => {}
            }
        }
        let pause = match session.after(failure, &mut backoff, began, Bears::Silence) {
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

/// Says that an answer is not wanted, until the service has heard it: it may have been told before it had the batch, or while
/// it stood still, and would work for it and charge it.
fn withdraw(shared: &RunHandle, target: &str, backoff: &mut Backoff) -> Result<(), Stop> {
    let session = &shared.session;
    session.insist_bearing(Bears::Silence, backoff, shared, || {
        match session.http.call(By::Long, "DELETE", target, b"") {
            // Whatever it is: there is nothing to be withdrawn.
            Err(Failure::Problem(problem)) if problem.status < 500 && problem.status != 429 => Ok(()),
            other => other.map(drop),
        }
    })
}

/// No more can be paid. What may be reserved for a batch depends on the run's own bound as well, and where a batch was cut
/// the service does not say whether it was that.
fn exhausted(why: String, max_credits: Option<i64>) -> BackendError {
    const OPTION: &str = "FASTMAP_MAX_CREDITS";
    BackendError::OutOfCredits(match max_credits {
        Some(most) if !why.contains(OPTION) => {
            format!("{why}; this run may spend {} (Options::max_credits, {OPTION})", credits(most))
        }
        _ => why,
    })
}

/// What there is to tell of a batch, and what of it goes on its way again: items that were given back although the
/// results are within what the batch may bring. They could not be paid at once, and come before all that is behind them.
fn sort(batch: &Batch, parts: Vec<Part>) -> (Vec<Completion>, Vec<Piece>) {
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
                rest.push(Piece { batch, before: None });
            }
            other => answered.push(other),
        }
    }
    (answered, rest)
}

/// A worker's name, for reports: those of this machine are called alike, and ADAPTIVE has both in one map.
fn there(worker: &str) -> String {
    format!("{worker} (cloud)")
}

/// What became of a part of a batch, for who has submitted it.
fn completion(batch: &Batch, part: Part) -> Completion {
    let Part { offset, items, outcome } = part;
    let piece = || match items == batch.items() {
        true => batch.clone(),
        false => batch.piece(batch.id(), offset, offset + items, batch.attempt()),
    };
    let outcome = match outcome {
        PartOutcome::Done(mut results) => {
            missing::settle(&mut results, batch.first() + u64::from(offset), items);
            Outcome::Done(Results { place: Origin::Cloud, worker: there(&results.worker), ..results })
        }
        PartOutcome::Returned => Outcome::Returned(piece()),
        PartOutcome::Lost(mut loss) => {
            loss.death.worker = there(&loss.death.worker);
            Outcome::Lost(piece(), loss)
        }
    };
    Completion { batch: batch.id(), first: batch.first() + u64::from(offset), items, outcome }
}

/// A batch that is larger than what the service, or a proxy on the way, takes goes in two.
fn split(shared: &RunHandle, batch: &Batch) {
    let (id, items) = (batch.id(), batch.items());
    let half = items / 2;
    let mut state = shared.lock();
    for (from, to) in [(half, items), (0, half)] {
        let batch = batch.piece(id, from, to, batch.attempt());
        state.put(Piece { batch, before: None });
    }
    state.land();
    shared.measure(&state);
    drop(state);
    shared.work.notify_all();
    shared.news.notify_all();
}

/// An item that is larger than the service takes has no way there.
fn refuse(shared: &RunHandle, batch: &Batch, most: u64) {
    let message = format!(
        "the item has {} bytes, and the service at {} takes at most {most}; send less, or use the policy local",
        batch.payload().len(),
        shared.session.http.url
    );
    let failure = ItemFailure { offset: 0, kind: FailureKind::Serialize, message };
    let results = Results { failures: vec![failure], ..Results::default() };
    let outcome = Outcome::Done(results);
    let completion = Completion { batch: batch.id(), first: batch.first(), items: 1, outcome };
    shared.landed(Some(completion), Vec::new());
}
