//! What the pool does by the clock: takes work back from a worker that is stuck behind a slow item and gives it to
//! an idle one, ends items that run too long, workers that never connect, and items of abandoned batches.
//! Called by the supervisor, which comes back after the time that [`look`] gives.

use std::fs;
use std::time::{Duration, Instant};

use crate::local::ipc::frame_sender::FrameSender;
use crate::local::ipc::shared_page::SharedPage;
use crate::local::pool::state::{ORPHAN, PoolState, SILENT, STUCK, pause_of};
use crate::local::pool::worker_handle::{AssignedBatch, WorkerHandle, recall};
use crate::model::death::{ExitReason, Running};

/// A worker that has not greeted by then is none. Generous: a loaded machine starts processes slowly.
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
    for member in
        state.workers.iter_mut().filter(|member| member.sender.is_none() && member.end_reason.is_none())
    {
        again(GREETING / 10);
        // Time in which this process was stopped as well counts for little.
        member.awaited += since_last.min(GREETING / 5);
        if member.awaited > GREETING {
            member.end_for(ExitReason::HandshakeTimeout(GREETING), None);
        }
    }
    if state.workers.iter().any(WorkerHandle::is_unkillable) {
        again(WorkerHandle::UNKILLABLE_PAUSE);
    }
    if let Some(after) = time_items(state, since_last) {
        again(after);
    }
    if let Some(after) = crate::local::pool::denials::doubt_items(state, now) {
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
    if state.requested > 0
        && let Some(not_before) = state.not_before.filter(|not_before| *not_before > now)
    {
        again(not_before.duration_since(now).max(Duration::from_millis(1)));
    }
    next
}

/// Ends workers whose item has run for longer than its run allows.
fn time_items(state: &mut PoolState, since_last: Duration) -> Option<Duration> {
    let mut next: Option<Duration> = None;
    for member in &mut state.workers {
        let Some(held) = member.held.front() else {
            member.watched = None;
            continue;
        };
        let Some(limit) = state.runs.get(&held.batch.job()).and_then(|run| run.job.item_timeout) else {
            member.watched = None;
            continue;
        };
        let pause = pause_of(limit);
        next = Some(next.map_or(pause, |next| next.min(pause)));
        let running = member.page.running().filter(|(_, running)| matches!(running, Running::Item(_)));
        member.watched = match (running, member.watched) {
            // A stretch between two looks that is much longer than the pause was spent stopped (SIGTSTP stops
            // host and workers alike) or without a CPU: it does not count against the item. Nor does a
            // stretch in which the worker may have waited for this process to read what it prints.
            (Some(what), Some((before, age))) if what == before => {
                let counted =
                    if member.unread.contains(&true) { Duration::ZERO } else { since_last.min(pause * 2) };
                Some((what, age + counted))
            }
            (Some(what), _) => Some((what, Duration::ZERO)),
            (None, _) => None,
        };
        // A core that is dumped meanwhile is looked for in time.
        if let Some((what, age)) = member.watched
            && age > limit / 2
            && member.end_reason.is_none()
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
    for member in state.workers.iter_mut().filter(|member| member.end_reason.is_none()) {
        let last = member.page.last_ticket();
        let owes =
            member.page.running().is_none() && member.held.iter().any(|held| held.batch.ticket() == last);
        if member.sender.as_ref().is_some_and(FrameSender::is_stuck) {
            let what = "it said that it had taken what it was sent, and had not";
            member.end_for(ExitReason::Protocol(what.to_owned()), None);
            continue;
        }
        // Time in which this process was stopped counts for little.
        member.silent = if owes { member.silent + since_last.min(SILENT / 2) } else { Duration::ZERO };
        if member.silent > SILENT {
            member.end_for(
                ExitReason::Protocol("it was through with a batch and did not answer".to_owned()),
                None,
            );
        }
    }
    (!state.runs.is_empty()).then_some(SILENT / 4)
}

/// Ends workers that are stopped and hold up a map: others could do what they hold, or their items have a limit of
/// time, which does not run where nothing was begun. Where all are stopped somebody wants it so.
fn end_stopped(state: &mut PoolState, since_last: Duration, now: Instant) -> Option<Duration> {
    let spare = state.workers.len() + state.starting + state.requested < state.processes;
    // Read from files, and so only where one may be stopped.
    let late = |member: &WorkerHandle| now.saturating_duration_since(member.progress) >= STOPPED / 4;
    let doubtful = state.workers.iter().any(|member| !member.held.is_empty() && late(member));
    let rests = |member: &WorkerHandle| member.idle() && !is_stopped(member.child.id());
    let idle = spare || doubtful && state.workers.iter().any(rests);
    let limited = |held: &AssignedBatch| {
        state.runs.get(&held.batch.job()).is_some_and(|run| run.job.item_timeout.is_some())
    };
    let pause = STOPPED / 4;
    let mut next = None;
    for member in state.workers.iter_mut().filter(|member| member.end_reason.is_none()) {
        if member.held.iter().all(|held| held.abandoned) {
            member.stopped = Duration::ZERO;
            continue;
        }
        next = Some(pause);
        let waits = member.page.running().is_none();
        let wanted = member.held.iter().any(|held| !held.abandoned && (idle || waits && limited(held)));
        if !wanted || !late(member) || !is_stopped(member.child.id()) {
            member.stopped = Duration::ZERO;
            continue;
        }
        // Time in which this process was stopped as well counts for little.
        member.stopped += since_last.min(pause * 2);
        if member.stopped > STOPPED {
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

/// Ends workers that are stuck in an item nobody waits for, while somebody else wants their place or where their map
/// wanted that at its end.
fn end_orphans(state: &mut PoolState, now: Instant) -> Option<Duration> {
    // Also one that is stuck in freeing what an ended map left in it.
    let freeing = |member: &WorkerHandle| {
        member.page.running().is_some_and(|(ticket, _)| ticket == SharedPage::FREEING)
    };
    let orphaned =
        |member: &WorkerHandle| freeing(member) || member.held.front().is_some_and(|held| held.abandoned);
    if !state.workers.iter().any(orphaned) {
        return None;
    }
    // Its place is wanted by what no worker has, and by what stands behind another item.
    let behind = |member: &WorkerHandle| {
        (0..member.held.len()).any(|at| !member.held[at].abandoned && unbegun(member, at) > 0)
    };
    let waiting = state.runs.values().any(|run| !run.pending.is_empty()) || state.workers.iter().any(behind);
    for member in state.workers.iter_mut().filter(|member| orphaned(member)) {
        // Of a run that is over, or cancelled by name.
        let unwanted = member.held.front().filter(|held| held.abandoned);
        let unwanted = unwanted.and_then(|held| state.runs.get(&held.batch.job()));
        let cancelled = unwanted.is_some_and(|run| run.job.cancel_running);
        if !cancelled && !waiting && member.held.iter().all(|held| held.abandoned) {
            continue;
        }
        if now.duration_since(member.progress) > ORPHAN && member.end_reason.is_none() {
            member.end_for(ExitReason::Unknown, None);
        }
    }
    Some(ORPHAN / 4)
}

/// Items of a held batch that its worker has not begun.
fn unbegun(member: &WorkerHandle, at: usize) -> u32 {
    let held = &member.held[at];
    let begun = match member.page.running() {
        Some((ticket, Running::Item(item))) if ticket == held.batch.ticket() => item + 1,
        _ if at == 0 => 1,
        _ => 0,
    };
    held.limit.saturating_sub(begun)
}

/// Asks back what could run on an idle worker instead.
fn move_work(state: &mut PoolState, now: Instant) -> Option<Duration> {
    let idle = state.workers.iter().filter(|member| member.idle()).count();
    if idle == 0 || state.runs.values().any(|run| !run.pending.is_empty()) {
        return None;
    }
    let mut asked = state
        .workers
        .iter()
        .flat_map(|member| &member.held)
        .filter(|held| held.recalled && !held.abandoned)
        .count();
    let fed = state.runs.values().filter(|run| !run.closed).filter_map(|run| run.fed).max();
    let feeding = fed.is_some_and(|fed| now.saturating_duration_since(fed) < STUCK);
    let mut later = feeding.then_some(STUCK);
    for member in &mut state.workers {
        let waiting = now.saturating_duration_since(member.progress);
        if feeding && waiting < STUCK_LONG {
            continue;
        }
        let stuck = waiting > STUCK;
        // From the back: what would begin last.
        for at in (0..member.held.len()).rev() {
            let held = &member.held[at];
            if held.recalled || held.abandoned {
                continue;
            }
            let left = unbegun(member, at);
            if left == 0 {
                continue;
            }
            later = Some(STUCK);
            let item_time =
                state.runs.get(&held.batch.job()).and_then(|run| run.item_time).unwrap_or_default();
            if asked >= idle || !(stuck || item_time * left > WORTH_MOVING) {
                continue;
            }
            let ticket = held.batch.ticket();
            let sender = member.sender.as_mut().expect("a worker that holds a batch has greeted");
            sender.send(recall(ticket, left < member.held[at].limit));
            member.recalls += 1;
            member.held[at].recalled = true;
            asked += 1;
        }
    }
    later
}
