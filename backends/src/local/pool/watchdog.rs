//! What the pool does by the clock: takes work back from a worker that is stuck behind a slow item and gives it to
//! an idle one, ends items that run too long, workers that never connect, and items of abandoned batches.
//! Called by the supervisor, which comes back after the time that [`look`] gives.

use std::fs;
use std::time::{Duration, Instant};

use crate::local::ipc::shared_page::SharedPage;
use crate::local::pool::connection::{AssignedBatch, Connection};
use crate::local::pool::denials::doubt_items;
use crate::local::pool::pauses::{ORPHAN, SILENT, STUCK, UNKILLABLE, pause_of};
use crate::local::pool::state::PoolState;
use crate::local::pool::worker_handle::WorkerHandle;
use crate::model::death::{ExitReason, Running};
use crate::model::protocol_error::ProtocolError;

/// A worker that has not connected by then is given up. Generous: a loaded machine starts processes slowly.
const GREETING: Duration = Duration::from_secs(30);
/// Moving work pays above this: a recall and its answer take about 0.1 ms on a busy machine.
const WORTH_MOVING: Duration = Duration::from_micros(500);

/// While a run is being fed, idle workers get what comes: nothing is taken from a worker but from one that is behind
/// an item as slow as this. (Seen in a simulation and then in the pool: 200 workers as quick as the host took each
/// other's halves again and again, and reached 0.15 of the ideal; so left alone 0.5.)
const STUCK_LONG: Duration = Duration::from_millis(20);

/// A worker that is stopped may hold work for so long while others have none. (One that is debugged is not stopped in
/// that sense.)
const STOPPED: Duration = Duration::from_secs(1);

/// Looks at all workers; says when to look again, if at all without news.
pub(crate) fn look(state: &mut PoolState, since_last: Duration, now: Instant) -> Option<Duration> {
    let mut next: Option<Duration> = None;
    let mut again = |after: Duration| next = Some(next.map_or(after, |next| next.min(after)));
    for member in &mut state.workers {
        // Time in which this process was stopped as well counts for little.
        let Some(awaited) = member.life.on_awaited(since_last.min(GREETING / 5)) else { continue };
        again(GREETING / 10);
        if awaited > GREETING {
            member.end_for(ExitReason::HandshakeTimeout(GREETING), None);
        }
    }
    if state.workers.iter().any(|member| member.life.is_unkillable()) {
        again(UNKILLABLE);
    }
    if let Some(after) = time_items(state, since_last) {
        again(after);
    }
    if let Some(after) = doubt_items(state, now) {
        again(after);
    }
    if let Some(after) = end_silent(state, since_last) {
        again(after);
    }
    if let Some(after) = end_stopped(state, since_last, now) {
        again(after);
    }
    if let Some(after) = end_orphans(state, now) {
        again(after);
    }
    if let Some(after) = state.recycle_exhausted(now) {
        again(after);
    }
    if let Some(after) = move_work(state, now) {
        again(after);
    }
    if let Some(after) = state.starts.pause(now) {
        again(after);
    }
    next
}

/// Ends workers whose item has run for longer than its run allows.
fn time_items(state: &mut PoolState, since_last: Duration) -> Option<Duration> {
    let mut next: Option<Duration> = None;
    for member in &mut state.workers {
        let Some(held) = member.held().front() else {
            member.seen.item = None;
            continue;
        };
        let Some(limit) = state.runs.get(&held.batch.job()).and_then(|run| run.job.item_timeout) else {
            member.seen.item = None;
            continue;
        };
        let pause = pause_of(limit);
        next = Some(next.map_or(pause, |next| next.min(pause)));
        let running = member.page.running().filter(|(_, running)| matches!(running, Running::Item(_)));
        member.seen.item = match (running, member.seen.item) {
            // A stretch between two looks that is much longer than the pause was spent stopped (SIGTSTP stops
            // host and workers alike) or without a CPU: it does not count against the item. Nor does a
            // stretch in which the worker may have waited for this process to read what it prints.
            (Some(what), Some((before, age))) if what == before => {
                let counted = if member.seen.unread.contains(&true) {
                    Duration::ZERO
                } else {
                    since_last.min(pause * 2)
                };
                Some((what, age + counted))
            }
            (Some(what), _) => Some((what, Duration::ZERO)),
            (None, _) => None,
        };
        // `is_dying` is asked from half of the limit on: the answer is kept, and has to be asked for while
        // the core is being written. What comes after, until the kernel reports the death, can look like
        // life.
        if let Some((what, age)) = member.seen.item
            && age > limit / 2
            && !member.life.is_ending()
            && !member.is_dying()
            && age > limit
        {
            member.end_for(ExitReason::Timeout(limit), Some(what));
        }
    }
    next
}

/// Ends workers whose answer is lost: they are through with a batch, which they tell after they have sent its answer,
/// and it does not come. The function has meddled with their channel.
fn end_silent(state: &mut PoolState, since_last: Duration) -> Option<Duration> {
    for member in state.workers.iter_mut().filter(|member| !member.life.is_ending()) {
        let Some(worker) = member.life.connection() else { continue };
        if worker.is_stuck() {
            member.end_for(ProtocolError::LiedOfTaken.into(), None);
            continue;
        }
        // Time in which this process was stopped counts for little.
        member.seen.silent = if worker.owes_answer() {
            member.seen.silent + since_last.min(SILENT / 2)
        } else {
            Duration::ZERO
        };
        if member.seen.silent > SILENT {
            member.end_for(ProtocolError::Mute.into(), None);
        }
    }
    (!state.runs.is_empty()).then_some(SILENT / 4)
}

/// Ends workers that are stopped and hold up a map: others could do what they hold, or their items have a limit of
/// time, which does not run where nothing was begun. If all are stopped, the user most likely wants it so.
fn end_stopped(state: &mut PoolState, since_last: Duration, now: Instant) -> Option<Duration> {
    let spare = state.workers.len() + state.starts.underway() < state.processes;
    // Read from files, and so only where one may be stopped.
    let late = |worker: &Connection| worker.since_progress(now) >= STOPPED / 4;
    let doubtful = |worker: &Connection| !worker.held().is_empty() && late(worker);
    let doubtful = state.workers.iter().filter_map(|member| member.life.connection()).any(doubtful);
    let rests = |member: &WorkerHandle| member.idle() && !is_stopped(member.pid());
    let idle = spare || doubtful && state.workers.iter().any(rests);
    let limited = |held: &AssignedBatch| {
        state.runs.get(&held.batch.job()).is_some_and(|run| run.job.item_timeout.is_some())
    };
    let pause = STOPPED / 4;
    let mut next = None;
    for member in state.workers.iter_mut().filter(|member| !member.life.is_ending()) {
        let Some(worker) = member.life.connection() else { continue };
        if worker.held().iter().all(|held| held.abandoned) {
            member.seen.stopped = Duration::ZERO;
            continue;
        }
        next = Some(pause);
        let waits = member.page.running().is_none();
        let wanted = worker.held().iter().any(|held| !held.abandoned && (idle || waits && limited(held)));
        if !wanted || !late(worker) || !is_stopped(member.pid()) {
            member.seen.stopped = Duration::ZERO;
            continue;
        }
        // Time in which this process was stopped as well counts for little.
        member.seen.stopped += since_last.min(pause * 2);
        if member.seen.stopped > STOPPED {
            log::warn!("{} is stopped (SIGSTOP) and holds up its map: it is ended", member.name);
            let running = member.page.running();
            member.end_for(ExitReason::Stopped(STOPPED), running);
        }
    }
    next
}

/// Whether a process is stopped by a signal, and not by a debugger.
fn is_stopped(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// Ends workers that are stuck in an item that no run waits for, if other work wants their place, or if their
/// map wanted running items ended with it (`cancel_running`).
fn end_orphans(state: &mut PoolState, now: Instant) -> Option<Duration> {
    // Also one that is stuck in freeing what an ended map left in it.
    let freeing = |member: &WorkerHandle| {
        member.page.running().is_some_and(|(ticket, _)| ticket == SharedPage::FREEING)
    };
    let orphaned =
        |member: &WorkerHandle| freeing(member) || member.held().front().is_some_and(|held| held.abandoned);
    if !state.workers.iter().any(orphaned) {
        return None;
    }
    // Its place is wanted by batches that no worker has, and by items that wait behind another item.
    let behind = |worker: &Connection| {
        (0..worker.held().len()).any(|at| !worker.held()[at].abandoned && worker.unbegun(at) > 0)
    };
    let waiting = state.runs.values().any(|run| !run.pending.is_empty())
        || state.workers.iter().filter_map(|member| member.life.connection()).any(behind);
    for member in state.workers.iter_mut().filter(|member| orphaned(member)) {
        // A batch of a run that is over, or one that was cancelled.
        let unwanted = member.held().front().filter(|held| held.abandoned);
        let unwanted = unwanted.and_then(|held| state.runs.get(&held.batch.job()));
        let cancelled = unwanted.is_some_and(|run| run.job.cancel_running);
        if !cancelled && !waiting && member.held().iter().all(|held| held.abandoned) {
            continue;
        }
        let stuck = member.life.connection().is_some_and(|worker| worker.since_progress(now) > ORPHAN);
        if stuck && !member.life.is_ending() {
            member.end_for(ExitReason::Unknown, None);
        }
    }
    Some(ORPHAN / 4)
}

/// Asks back what could run on an idle worker instead.
fn move_work(state: &mut PoolState, now: Instant) -> Option<Duration> {
    let idle = state.workers.iter().filter(|member| member.idle()).count();
    if idle == 0 || state.runs.values().any(|run| !run.pending.is_empty()) {
        return None;
    }
    let connected = state.workers.iter().filter_map(|member| member.life.connection());
    let is_asked = |held: &&AssignedBatch| held.recalled && !held.abandoned;
    let mut asked = connected.flat_map(Connection::held).filter(is_asked).count();
    let fed = state.runs.values().filter(|run| !run.closed).filter_map(|run| run.fed).max();
    let feeding = fed.is_some_and(|fed| now.saturating_duration_since(fed) < STUCK);
    let mut later = feeding.then_some(STUCK);
    for worker in state.workers.iter_mut().filter_map(|member| member.life.connection_mut()) {
        let waiting = worker.since_progress(now);
        if feeding && waiting < STUCK_LONG {
            continue;
        }
        let stuck = waiting > STUCK;
        // From the back: what would begin last.
        for at in (0..worker.held().len()).rev() {
            let held = &worker.held()[at];
            if held.recalled || held.abandoned {
                continue;
            }
            // The worker may begin more of it meanwhile: what it gives back is decided there, by its claims.
            let left = worker.unbegun(at);
            if left == 0 {
                continue;
            }
            later = Some(STUCK);
            let item_time =
                state.runs.get(&held.batch.job()).and_then(|run| run.item_time).unwrap_or_default();
            if asked >= idle || !(stuck || item_time * left > WORTH_MOVING) {
                continue;
            }
            let half = left < held.limit;
            worker.recall(at, half);
            asked += 1;
        }
    }
    later
}
