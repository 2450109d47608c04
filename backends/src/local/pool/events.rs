//! What the pool does at each event of a worker: a handshake, an answer, items given back, a job that it
//! could not prepare, a death. Called by the readers and the supervisor; decided under the pool's lock.

use std::sync::Arc;
use std::time::Instant;

use crate::execution::build_id;
use crate::local::Taken;
use crate::local::pool::connection::{Connection, GivenBack};
use crate::local::pool::denials::refused_to;
use crate::local::pool::handle::PoolHandle;
use crate::local::pool::worker_life::{EndReason, Remains};
use crate::model::completion::{Completion, Outcome, Payload, Results};
use crate::model::death::{ExitReason, Running, WorkerExit, WorkerLoss};
use crate::model::error::BackendError;
use crate::model::failure::ItemFailure;
use crate::model::frame::{DoneHead, HEADER, VERSION};
use crate::model::ids::JobId;
use crate::model::protocol_error::ProtocolError;
use crate::model::result_credit::{SPARE, of_failures};
use crate::model::text;

/// The frame of an answer, with its payload behind the header.
pub(crate) struct Answer {
    pub(crate) frame: Vec<u8>,
    /// The most bytes that it may count; `None`: its worker is held to no bound.
    pub(crate) allowed: Option<u64>,
    /// What it takes of a budget.
    pub(crate) taken: Option<Taken>,
}

impl PoolHandle {
    /// A worker has connected.
    ///
    /// # Errors
    /// Why it can't be one of this pool.
    pub(crate) fn on_connected(&self, id: u64, version: u32, program: &str) -> Result<(), ExitReason> {
        let expected = self.options.identity.as_deref().unwrap_or_else(|| build_id::identity());
        if version != VERSION || program != expected {
            return Err(ExitReason::Mismatch(format!(
                "it is not the program of its host (host {expected}, protocol {VERSION}; worker {program}, protocol \
                 {version})",
            )));
        }
        let mut state = self.lock();
        if state.is_closing() {
            // A worker without a channel can't be asked to leave: it is killed, now or by the supervisor.
            return Err(ProtocolError::PoolCloses.into());
        }
        if let Some(member) = state.member(id) {
            let own = self.options.launcher.is_none();
            let connection = Connection::new(Arc::clone(&member.page), own, Instant::now());
            member.life.on_connected(connection);
        }
        self.started.notify_all();
        self.hand_out(state);
        Ok(())
    }

    /// A worker begins to send an answer of `length` bytes to a batch, which it must hold. Returns the most
    /// bytes that the answer may count.
    ///
    /// # Errors
    /// If it is longer than that, or answers nothing.
    pub(crate) fn on_answer_begun(&self, id: u64, ticket: u64, length: u64) -> Result<u64, ProtocolError> {
        let mut state = self.lock();
        let worker = state.member(id).and_then(|member| member.life.connection());
        worker.ok_or(ProtocolError::AnswerAfterDeath)?.on_answer_begun(ticket, length, SPARE)
    }

    /// A worker has answered items of a batch.
    ///
    /// # Errors
    /// If that is no answer to a batch that it holds.
    pub(crate) fn on_completed(&self, id: u64, done: &DoneHead, answer: Answer) -> Result<(), ProtocolError> {
        let Answer { frame, allowed, taken } = answer;
        // Read before the lock is taken: an answer may have megabytes of failures.
        let (failures_at, mut failures) = done.failures(&frame, allowed.unwrap_or(u64::MAX))?;
        if allowed.is_some() {
            for failure in &mut failures {
                failure.message = text::cut(std::mem::take(&mut failure.message), text::TAKEN);
            }
        }
        let mut guard = self.lock();
        let state = &mut *guard;
        let now = Instant::now();
        let member =
            state.workers.iter_mut().find(|member| member.id == id).ok_or(ProtocolError::AnswerAfterDeath)?;
        let worker = member.life.connection_mut().ok_or(ProtocolError::AnswerAfterDeath)?;
        let Some(held) = worker.on_completed(done, allowed.is_some(), now)? else { return Ok(()) };
        let worker = member.name.clone();
        state.starts.on_answer();
        let run = state.runs.get_mut(&held.batch.job()).expect("a run stays while its batches are held");
        run.in_flight -= 1;
        if done.items > 0 {
            run.observe(done);
        }
        if !held.abandoned {
            let batch = held.batch.id();
            // Results and failures, as the worker counts them.
            let bytes = frame.len() - HEADER;
            // Pieces of a batch that ran side by side may together have come to more than it was granted.
            let counted = (failures_at - HEADER) as u64 + of_failures(&failures);
            let covered = run.grants.covers(batch, counted);
            let answered = if covered { done.items } else { 0 };
            if answered > 0 {
                let results = Results {
                    payload: Payload::within(frame, HEADER, failures_at).counted(taken),
                    failures,
                    wall: done.wall,
                    cpu: done.cpu,
                    worker,
                    received_at: Some(now),
                    slowest: done.slowest,
                    queued: done.queued,
                    refused: held.refused,
                    ..Results::default()
                };
                let first = held.batch.first();
                let outcome = Outcome::Done(results);
                run.tell(Completion { batch, first, items: done.items, outcome });
            }
            if answered < held.limit {
                let rest = held.batch.piece(batch, answered, held.limit, held.batch.attempt());
                let full = !covered || (done.items > 0 && bytes as u64 >= held.batch.result_credit());
                // A stranger's worker that was not asked for the rest has no other reason: it would be given
                // it again and again.
                let odd = run.grants.are_kept() && !held.recalled;
                // Its results may have reached their credit: the budget's owner says when the rest may go on.
                if full || odd {
                    run.give_back(rest);
                } else {
                    run.move_on(rest);
                }
            }
        }
        // Before batches are handed out: a worker that has run its number of items gets none.
        state.forget_finished();
        state.retire(id, now);
        self.hand_out(guard);
        Ok(())
    }

    /// A worker gives items back that it has not begun.
    ///
    /// # Errors
    /// If they were not asked back.
    pub(crate) fn on_returned(&self, id: u64, ticket: u64, from: u32) -> Result<(), ProtocolError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let worker = state.member(id).and_then(|member| member.life.connection_mut());
        let worker = worker.ok_or(ProtocolError::ReturnedAfterDeath)?;
        let Some(GivenBack { items, emptied, abandoned }) = worker.on_returned(ticket, from)? else {
            return Ok(());
        };
        let run = state.runs.get_mut(&items.job()).expect("a run stays while its batches are held");
        run.in_flight -= usize::from(emptied);
        if !abandoned {
            run.move_on(items);
        }
        state.forget_finished();
        state.retire(id, Instant::now());
        self.hand_out(guard);
        Ok(())
    }

    /// A worker could not prepare a job.
    ///
    /// # Errors
    /// If it had not got the job.
    pub(crate) fn on_refused(&self, id: u64, job: JobId, failure: ItemFailure) -> Result<(), ProtocolError> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let mut run = state.runs.get_mut(&job);
        let member = state.workers.iter_mut().find(|member| member.id == id);
        if let Some(worker) = member.and_then(|member| member.life.connection_mut()) {
            let dropped = worker.on_refused(job, run.is_some())?;
            if let Some(run) = &mut run {
                run.in_flight -= dropped;
                // Not tried in another worker, which would get the same function and context.
                run.fail(BackendError::Setup(failure));
            }
        }
        state.forget_finished();
        self.hand_out(guard);
        Ok(())
    }

    /// A worker is to be ended: it broke the protocol, is another program, or was too late.
    pub(crate) fn end_for(&self, id: u64, cause: ExitReason) {
        let mut state = self.lock();
        if let Some(member) = state.member(id) {
            member.end_for(cause, None);
            if member.life.is_unkillable() {
                // It has to look whether the worker ends itself.
                self.wake_supervisor();
            }
        }
    }

    /// A worker is dead, and all that it had sent is dealt with.
    pub(crate) fn on_exit(&self, id: u64, mut death: WorkerExit) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(at) = state.workers.iter().position(|member| member.id == id) else { return };
        // Its channel goes with it. All that it had sent is dealt with, so that what it still holds has no answer.
        let member = state.workers.remove(at);
        let page = Arc::clone(&member.page);
        // The worker is dead: the page says what it died of.
        let ran = page.running();
        death.refused = refused_to(&page, ran);
        let Remains { connected, has_answered, held, reason } = member.on_exit();
        // Ended here because no run waited for what it did: that says nothing about the next worker.
        let unwanted = reason.as_ref().is_some_and(|reason| reason.cause == ExitReason::Unknown);
        if let Some(EndReason { cause, running }) = reason {
            // A timeout holds for the item that was seen, not for one that has begun since.
            if running.is_none() || running == ran {
                death.cause = cause;
            }
        }
        if let (Some(_), false, ExitReason::Exit(code)) = (&self.options.launcher, connected, &death.cause) {
            death.cause = ExitReason::ExitedBeforeHandshake(*code);
        }
        let mut lost = false;
        // Batches run in the order in which they were sent. Where one was run to its end and its answer never came,
        // one of its items may have broken the channel: it is the suspect, and what ran behind it is not.
        let last = held.iter().position(|held| held.batch.ticket() == page.last_ticket());
        let mute = last.is_some_and(|last| last > 0 || ran.is_none());
        let suspect = held.front().filter(|_| mute).map(|held| held.batch.ticket());
        // The last one first, so that they come to the front of what waits in their order.
        for held in held.into_iter().rev() {
            let run = state.runs.get_mut(&held.batch.job()).expect("a run stays while its batches are held");
            run.in_flight -= 1;
            // No run wants it: it is neither lost nor sent again. It has counted in its run until here, see
            // `forget_finished`.
            if held.abandoned {
                continue;
            }
            let ticket = held.batch.ticket();
            let running = match suspect {
                Some(suspect) => (suspect == ticket).then_some(Running::Unknown),
                None => ran.filter(|(running, _)| *running == ticket).map(|(_, running)| running),
            };
            let batch = held.batch.id();
            let theirs = held.into_rest();
            match running {
                Some(running) => {
                    let running = match running {
                        // The page is the worker's to write: an item that it does not hold accuses none of
                        // those that it does.
                        Running::Item(item) if item >= theirs.items() => Running::Unknown,
                        known => known,
                    };
                    let loss = WorkerLoss { running, death: death.clone() };
                    let (first, items) = (theirs.first(), theirs.items());
                    run.tell(Completion { batch, first, items, outcome: Outcome::Lost(theirs, loss) });
                    lost = true;
                }
                None => run.pending.push_front(theirs),
            }
        }
        // No worker is started for what is left.
        if state.is_closing() {
            return;
        }
        if !lost && !unwanted && !has_answered {
            // A worker that dies idle or at its start may do so because none can live here.
            state.on_failed_start(death);
            self.started.notify_all();
        }
        state.forget_finished();
        self.hand_out(guard);
    }
}
