//! What the supervisor asks of the pool: once in each round, and when a process is dead. The supervisor changes nothing of
//! the pool's state itself.

use std::io;
use std::process::ExitStatus;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::local::pool::errands::Errands;
use crate::local::pool::handle::PoolHandle;
use crate::local::pool::recycling::LEAVE;
use crate::local::pool::watchdog;
use crate::local::pool::worker_handle::WorkerHandle;
use crate::model::ids::JobId;

/// What the pool finds in a round, and leaves to the supervisor.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) errands: Errands,
    /// Whether the pool closes: its workers were asked to leave.
    pub(crate) closing: bool,
    /// Workers whose start has begun and whose process is not there yet.
    pub(crate) starting: usize,
    /// Workers that can't be ended, and are not waited for any more.
    pub(crate) given_up: Vec<u64>,
    /// Open runs.
    pub(crate) maps: Vec<JobId>,
    /// The last mark that is wanted behind lines, see `settle`.
    pub(crate) wanted_mark: u64,
    /// How soon to come again, if at all without news.
    pub(crate) pause: Option<Duration>,
}

impl PoolHandle {
    /// One round of the supervisor, `since_last` after the one before. `unread`: workers that may wait for
    /// this process to read what they print.
    pub(crate) fn on_round(&self, unread: &[u64], since_last: Duration, now: Instant) -> Round {
        let mut state = self.lock();
        state.on_round(LEAVE, now);
        for member in &mut state.workers {
            member.seen.unread = [unread.contains(&member.id), member.seen.unread[0]];
        }
        let pause = watchdog::look(&mut state, since_last, now);
        // By the clock, because a worker that does not leave causes no event, and is to be killed after
        // LEAVE.
        let pause = if state.is_closing() { Some(LEAVE / 10) } else { pause };
        // Under the lock, so that an event that comes after this look sets the timer itself.
        state.next_look = pause.map(|pause| now + pause);
        // A pool that replaces workers for days must not keep a handle of each thread that has ended.
        state.starts.forget_ended_threads();
        Round {
            errands: std::mem::take(&mut state.errands),
            closing: state.is_closing(),
            starting: state.starts.starting(),
            given_up: state
                .workers
                .iter()
                .filter(|member| member.life.is_given_up(now))
                .map(|member| member.id)
                .collect(),
            maps: state.runs.keys().copied().collect(),
            wanted_mark: state.wanted_mark(),
            pause,
        }
    }

    /// The thread of a worker's start, which lives as long as the worker.
    pub(crate) fn on_thread(&self, thread: JoinHandle<()>) {
        self.lock().starts.on_thread(thread);
    }

    /// A worker's process is dead: takes its exit status. `None`: its death was dealt with before.
    pub(crate) fn reap(&self, id: u64) -> Option<io::Result<ExitStatus>> {
        // Under the lock although it is a wait: the process is dead, so that the call returns at once.
        self.lock().member(id).map(WorkerHandle::reap)
    }

    /// The threads of all workers, which end with them.
    pub(crate) fn take_threads(&self) -> Vec<JoinHandle<()>> {
        self.lock().starts.take_threads()
    }
}
