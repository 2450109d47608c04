//! The state of a pool, under its lock: workers, runs, and which worker gets which batch.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::local::affinity::BusyCores;
use crate::local::pool::connection::{AssignedBatch, Connection};
use crate::local::pool::errands::Errands;
use crate::local::pool::pauses::{ORPHAN, STUCK, pause_of};
use crate::local::pool::run_state::RunState;
use crate::local::pool::starts::Starts;
use crate::local::pool::worker_handle::WorkerHandle;
use crate::local::pool::worker_limits::{WorkerLimits, split};
use crate::model::death::WorkerExit;
use crate::model::error::BackendError;
use crate::model::ids::JobId;

/// Everything that is decided about.
#[derive(Debug)]
pub(crate) struct PoolState {
    /// Workers whose process has started and whose exit is not dealt with.
    pub(crate) workers: Vec<WorkerHandle>,
    pub(crate) runs: BTreeMap<JobId, RunState>,
    pub(crate) starts: Starts,
    pub(crate) errands: Errands,
    phase: Phase,
    /// Most workers at a time.
    pub(crate) processes: usize,
    /// Workers are processes of this program, and not what a launcher has started.
    pub(crate) own: bool,
    /// Workers confine themselves or are confined, and keep a record of what they were refused.
    pub(crate) confined: bool,
    /// How many waits for what workers have printed have begun: the number of the last mark, see `settle`.
    settling: u64,
    /// What each worker may use up.
    pub(crate) allowed: WorkerLimits,
    /// When the supervisor will look around without being woken; `None`: not at all.
    pub(crate) next_look: Option<Instant>,
}

/// How far the pool's own life has come.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Open,
    /// It closes, and its workers are still to be asked to leave.
    Closing,
    /// Since when its workers were asked to leave.
    Leaving(Instant),
}

impl PoolState {
    pub(crate) fn new(processes: usize, allowed: WorkerLimits, own: bool, confined: bool) -> PoolState {
        PoolState {
            workers: Vec::new(),
            runs: BTreeMap::new(),
            starts: Starts::default(),
            errands: Errands::default(),
            phase: Phase::Open,
            processes,
            own,
            confined,
            settling: 0,
            allowed,
            next_look: None,
        }
    }

    pub(crate) fn member(&mut self, id: u64) -> Option<&mut WorkerHandle> {
        self.workers.iter_mut().find(|member| member.id == id)
    }

    /// Whether a worker is there that has connected, whatever has become of it since.
    pub(crate) fn has_connected_worker(&self) -> bool {
        self.workers.iter().any(|member| member.life.connection().is_some())
    }

    pub(crate) fn is_closing(&self) -> bool {
        !matches!(self.phase, Phase::Open)
    }

    /// The pool closes: no worker is started any more, and the supervisor asks those that are there to leave.
    pub(crate) fn close(&mut self) {
        if let Phase::Open = self.phase {
            self.phase = Phase::Closing;
        }
    }

    /// A thread waits for what workers have printed by now: the number of the mark that it waits for.
    pub(crate) fn want_mark(&mut self) -> u64 {
        self.settling += 1;
        self.settling
    }

    /// The last mark that is waited for.
    pub(crate) fn wanted_mark(&self) -> u64 {
        self.settling
    }

    /// One round of the supervisor: asks the workers of a closing pool to leave, and kills those that have
    /// not left within
    /// `patience`.
    pub(crate) fn on_round(&mut self, patience: Duration, now: Instant) {
        match self.phase {
            Phase::Closing => {
                self.workers.iter_mut().for_each(|member| member.ask_to_leave(now));
                self.phase = Phase::Leaving(now);
            }
            // In each round again: of a worker that can't be killed, the refusal is what is noted
            // (`on_kill_refused`), and it is given up after a while.
            Phase::Leaving(since) if now.saturating_duration_since(since) > patience => {
                self.workers.iter_mut().for_each(WorkerHandle::kill);
            }
            Phase::Open | Phase::Leaving(_) => {}
        }
    }

    /// Gives waiting batches to workers with room.
    pub(crate) fn hand_out(&mut self) {
        while self.hand_out_one() {}
        self.update_gauges();
    }

    /// Hands out one batch: of the run that has the fewest in workers' hands, if there is room for it.
    fn hand_out_one(&mut self) -> bool {
        let mut waiting: Vec<(usize, JobId)> = self
            .runs
            .iter()
            .filter(|(_, run)| !run.pending.is_empty())
            .map(|(job, run)| (run.in_flight, *job))
            .collect();
        // The run that holds the fewest places comes first, so that several maps share the workers, and one
        // that waits for the other (zipped maps) gets on. The older one comes first of equals.
        waiting.sort_unstable();
        // The others are tried, too: each run has its own depth, so that a worker may have room for one and
        // not for the next.
        waiting.into_iter().any(|(_, job)| self.hand_out_of(job))
    }

    /// Hands out the first batch of a run, to the worker that holds the fewest.
    fn hand_out_of(&mut self, job: JobId) -> bool {
        let run = self.runs.get_mut(&job).expect("it was just listed");
        let depth = run.depth();
        let allowed = self.allowed;
        let busy = self.workers.iter().filter(|member| !member.held().is_empty());
        let busy = BusyCores::on(busy.filter_map(|member| member.page.core()));
        let has_room = |worker: &Connection| worker.held().len() < depth && allowed.items_left(worker) > 0;
        let ready = self.workers.iter_mut().filter_map(|member| {
            let (pid, page) = (member.pid(), &member.page);
            member.life.serving_mut().filter(|worker| has_room(worker)).map(|worker| (pid, page, worker))
        });
        let Some((pid, page, worker)) = ready.min_by_key(|(_, _, worker)| worker.held().len()) else {
            return false;
        };
        let batch = run.pending.pop_front().expect("it was not empty");
        // A worker that is soon to be replaced gets as many items as it may still run. The rest stays first
        // in the queue, because its items are the earliest.
        let (batch, rest) = split(batch, allowed.items_left(worker));
        if let Some(rest) = rest {
            run.pending.push_front(rest);
        }
        run.in_flight += 1;
        // A sleeping worker is kept off the busy cores while its batch is sent, because that wakes it.
        let asleep = self.own && worker.held().is_empty();
        let _kept_off = asleep.then(|| busy.keep_off(pid, page.thread(), page.core(), page.owed())).flatten();
        // In this order, which the channel keeps: a worker drops a batch of a job that it does not know.
        worker.open(job, |channel| run.opening_for(channel));
        worker.hand(batch, Instant::now());
        true
    }

    /// Asks for workers where there is work for more; true if it has.
    pub(crate) fn want_workers(&mut self) -> bool {
        let wanted = self.outstanding().min(self.processes);
        // A worker that is ending counts until its exit is dealt with, which hands out again and so asks for
        // its successor.
        let there = self.workers.len() + self.starts.underway();
        let wants = wanted > there && !self.is_closing();
        if wants {
            self.starts.on_wanted(wanted - there);
        }
        wants
    }

    /// Batches of all runs that wait or are in workers' hands.
    fn outstanding(&self) -> usize {
        self.runs.values().map(RunState::outstanding).sum()
    }

    /// Batches in workers' hands that no run waits for: what is not begun comes back, what runs may end.
    pub(crate) fn abandon(&mut self, which: impl Fn(&AssignedBatch) -> bool) {
        for member in &mut self.workers {
            if let Some(worker) = member.life.connection_mut() {
                worker.abandon(&which);
            }
        }
    }

    /// Closed runs whose last batch is back: their contexts are freed in the workers.
    pub(crate) fn forget_finished(&mut self) {
        let finished: Vec<JobId> = self
            .runs
            .iter()
            // Each event about a batch looks up its run: the run stays for as long as a worker holds one of
            // its batches.
            .filter(|(_, run)| run.closed && run.in_flight == 0)
            .map(|(job, _)| *job)
            .collect();
        for job in finished {
            self.runs.remove(&job);
            for worker in self.workers.iter_mut().filter_map(|member| member.life.connection_mut()) {
                worker.forget(job);
            }
        }
    }

    /// Warns once that there are fewer workers than were asked for, as soon as it is known how many there are.
    pub(crate) fn warn_of_shortage(&mut self) {
        self.errands.warnings.extend(self.starts.warning(self.workers.len(), self.processes));
    }

    /// Counts a worker that ended without having run anything; after some in a row no run can go on, unless others
    /// work: then the map goes on with those, and a start is tried now and then.
    pub(crate) fn on_failed_start(&mut self, death: WorkerExit) {
        let hopeful = |member: &WorkerHandle| match member.life.connection() {
            // A worker on its way may be luckier. One that is connected and idle and has never answered
            // proves nothing: it may end in the same way.
            None => true,
            Some(worker) => worker.has_answered() || !worker.held().is_empty(),
        };
        let hopeful = self.workers.iter().any(hopeful);
        if let Some(deaths) = self.starts.on_failure(death, hopeful, Instant::now()) {
            // A run without batches waits for no worker, and may find one later.
            for run in self.runs.values_mut().filter(|run| !run.closed && run.outstanding() > 0) {
                run.fail(BackendError::NoWorkers(deaths.clone()));
            }
        }
    }

    /// Each run may hold its share of the workers' places.
    pub(crate) fn update_gauges(&mut self) {
        // A closed run takes no places from the others: it only waits until its batches are out of the
        // workers' hands.
        let active = self.runs.values().filter(|run| !run.closed && run.outstanding() > 0).count().max(1);
        for run in self.runs.values() {
            run.update_gauge((self.processes * run.depth()).div_ceil(active).max(1));
        }
    }

    /// How soon the watchdog has to look, if anything goes by the clock.
    pub(crate) fn first_pause(&self) -> Option<Duration> {
        let limits = self.runs.values().filter_map(|run| run.job.item_timeout.map(pause_of));
        let orphans = self.runs.values().filter(|run| run.closed).map(|_| ORPHAN / 4);
        // A batch of a run that goes on was cancelled.
        let cancelled =
            self.workers.iter().any(|member| member.held().front().is_some_and(|held| held.abandoned));
        // A worker is idle while batches are out.
        let waste = self.outstanding() > 0 && self.workers.iter().any(WorkerHandle::idle);
        limits
            .chain(orphans)
            .chain(cancelled.then_some(ORPHAN / 4))
            .chain(waste.then_some(STUCK))
            .chain(self.wear_pause())
            .min()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Command, Stdio};
    use std::sync::Arc;

    use super::*;
    use crate::local::ipc::shared_page::SharedPage;

    /// A worker whose process does nothing for long, and its end of the channel.
    fn worker(id: u64) -> (WorkerHandle, OwnedFd) {
        let (page, stdin) = SharedPage::create().expect("a page");
        let child = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn();
        let child = child.expect("a process that waits");
        (WorkerHandle::new(id, format!("worker-{id}"), child, Arc::new(page), Vec::new()), stdin)
    }

    #[test]
    fn a_pool_that_closes_asks_its_workers_and_kills_those_that_stay() {
        let (now, patience) = (Instant::now(), Duration::from_secs(1));
        let mut state = PoolState::new(2, WorkerLimits::default(), true, false);
        let ((starting, _stdin), (mut serving, _its_stdin)) = (worker(1), worker(2));
        serving.life.on_connected(Connection::new(Arc::clone(&serving.page), true, now));
        state.workers.extend([starting, serving]);
        state.on_round(patience, now);
        assert!(!state.is_closing() && state.workers[1].idle());
        state.close();
        assert!(state.is_closing() && state.workers[1].idle(), "the supervisor has not come round");
        state.on_round(patience, now);
        state.close();
        let ending = |state: &PoolState| [0, 1].map(|at| state.workers[at].life.is_ending());
        assert_eq!(ending(&state), [true, false]);
        assert_eq!(state.workers[1].life.leaving_since(), Some(now));
        state.on_round(patience, now + patience);
        assert_eq!(ending(&state), [true, false]);
        state.on_round(patience, now + patience + Duration::from_millis(1));
        assert_eq!(ending(&state), [true, true]);
        for member in &mut state.workers {
            assert_eq!(member.reap().expect("it is a child").signal(), Some(libc::SIGKILL));
        }
    }
}
