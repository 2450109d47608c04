//! The wait until what workers have printed is passed on: at the end of each map, so that it comes before
//! what the program prints next, and at the end of the program, which is the end of its workers.
//!
//! What a worker prints before it answers is in its pipe when the answer arrives. So the end of a map asks
//! the supervisor to read each pipe as far as it is filled by then, and behind the last of those lines the
//! supervisor puts a mark into their queue (`queue`), which the relay's thread reaches when it has passed
//! them on. Where nothing was printed, a look at the pipes says so, and no thread is woken.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, TryLockError, Weak};
use std::thread::sleep;
use std::time::{Duration, Instant};

use fastmap_sandbox::unpoisoned::LockUnpoisoned;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::local::output::delivery::{Output, PATIENCE};
use crate::local::pool::handle::PoolHandle;
use crate::local::pool::state::PoolState;
use crate::local::process::watched::Watched;

/// The end of the program is held up for so long: what is not written by then is lost. A pager is read
/// slowly.
const PATIENCE_AT_EXIT: Duration = Duration::from_secs(60);
/// Workers that have nothing to do leave within this time at the end of the program, or are killed.
const LEAVE: Duration = Duration::from_millis(500);

impl PoolHandle {
    /// Waits until all that workers have printed so far is passed on, as long as the relay takes it.
    pub(crate) fn settle(&self) {
        self.settle_within(PATIENCE);
    }

    /// The same; false if the relay has taken nothing for as long as `patience`.
    fn settle_within(&self, patience: Duration) -> bool {
        let mark = {
            let mut state = self.lock();
            // A thread that passes lines on would wait for itself. A pool that closes sets no marks for this:
            // its supervisor reads each pipe to its end.
            if Output::is_passed_on_here() || state.is_closing() || !self.has_output(&state) {
                return true;
            }
            // Under the lock under which the supervisor reads it (`on_round`): a later wait has a later mark.
            // The lock is released before the wait, because nothing may wait under it.
            state.want_mark()
        };
        self.wake_supervisor();
        self.output.wait(mark, patience)
    }

    /// Whether something that workers have printed is not passed on yet.
    fn has_output(&self, state: &PoolState) -> bool {
        let pipes = state.workers.iter().flat_map(|member| &member.outputs);
        let mut pipes: Vec<_> = pipes.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)).collect();
        // A line moves from its pipe to the supervisor (`kept`), and from there to the queue (`waiting`).
        // They are looked at in this order, so that a line that moves on meanwhile is found at its next
        // place.
        let unread = |pipe: &PollFd<'_>| pipe.revents().is_none_or(|ready| ready.contains(PollFlags::POLLIN));
        poll(&mut pipes, PollTimeout::ZERO).is_err()
            || pipes.iter().any(unread)
            || self.output.kept.load(Ordering::SeqCst)
            || self.output.waiting.load(Ordering::SeqCst) > 0
    }

    /// The program ends: passes on what is printed, and lets workers leave that have nothing to do, so that
    /// they write what they have begun.
    fn end_with_program(&self, patience: Duration) {
        // The thread that ends the program may have the lock: a logger of the program's may do so.
        if soon(|| self.try_lock().map(drop)).is_none() {
            return;
        }
        if self.settle_within(patience) {
            let mut state = self.lock();
            // A worker with work could not leave in time, and one that starts has no channel by which it
            // could be asked. The kernel ends those at the host's death.
            let starts = state.starts.starting() > 0 || state.workers.iter().any(|member| !member.idle());
            if !Output::is_passed_on_here() && state.runs.is_empty() && !starts && !state.workers.is_empty() {
                state.close();
                drop(state);
                self.wake_supervisor();
                // No mark has that number: the wait ends when the supervisor has (`Output::end`), or in vain
                // after LEAVE.
                self.output.wait(u64::MAX, LEAVE);
            }
            // The process exits without dropping the queue, whose drop flushes otherwise.
            self.options.relay.flush();
        } else {
            say_what_is_lost();
        }
    }
}

/// Warns, if stderr takes it: past std's lock, which the thread that ends the program may have.
fn say_what_is_lost() {
    let stderr = std::io::stderr();
    let text = "fastmap: warning: what workers have printed is lost in part, as nothing reads the output of this \
                program\n";
    if poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], PollTimeout::ZERO) == Ok(1) {
        let _closed = rustix::io::write(&stderr, text.as_bytes());
    }
}

/// What the supervisor reads before it puts a mark.
#[derive(Debug)]
pub(crate) struct Settling {
    mark: u64,
    /// Of each worker: how much is read then of its outputs.
    until: Vec<(u64, [u64; 2])>,
}

impl Settling {
    pub(crate) fn begin(mark: u64, watched: &[Watched]) -> Settling {
        // As far as the pipes are filled now, and not until they are empty: a worker of another map may print
        // for ever.
        let written = |worker: &Watched| (worker.id, [worker.stdout.written(), worker.stderr.written()]);
        Settling { mark, until: watched.iter().map(written).collect() }
    }

    /// The mark, once all is read. A worker that is not watched any more is dead, and was read to its end.
    pub(crate) fn through(&self, watched: &[Watched]) -> Option<u64> {
        let read = |(id, [stdout, stderr]): &(u64, [u64; 2])| {
            let worker = watched.iter().find(|worker| worker.id == *id);
            worker.is_none_or(|worker| worker.stdout.has_taken(*stdout) && worker.stderr.has_taken(*stderr))
        };
        self.until.iter().all(read).then_some(self.mark)
    }
}

/// The pools of this process whose workers end with it.
static POOLS: Mutex<Vec<Weak<PoolHandle>>> = Mutex::new(Vec::new());

/// A pool has workers, whose output is passed on before the process exits.
pub(crate) fn before_exit(pool: &Arc<PoolHandle>) {
    let mut pools = POOLS.lock_unpoisoned();
    // A program that makes one pool after the other must not make this list grow.
    pools.retain(|pool| pool.strong_count() > 0);
    pools.push(Arc::downgrade(pool));
}

/// The process exits: called once, by the thread that ends it, while all others go on.
pub(crate) fn at_exit() {
    let Some(pools) = pools_at_exit() else { return };
    // A fork has the list, too, and the workers are not its own.
    let own = |pool: &Arc<PoolHandle>| pool.owner == std::process::id() && pool.options.launcher.is_none();
    for pool in pools.iter().filter_map(Weak::upgrade).filter(own) {
        pool.end_with_program(PATIENCE_AT_EXIT);
    }
}

/// The list, if it can be had: a fork may lack the thread that held it.
fn pools_at_exit() -> Option<Vec<Weak<PoolHandle>>> {
    soon(|| match POOLS.try_lock() {
        Ok(mut pools) => Some(std::mem::take(&mut *pools)),
        Err(TryLockError::Poisoned(pools)) => Some(std::mem::take(&mut *pools.into_inner())),
        Err(TryLockError::WouldBlock) => None,
    })
}

/// What `attempt` gives, within a moment.
fn soon<T>(attempt: impl Fn() -> Option<T>) -> Option<T> {
    let until = Instant::now() + LEAVE;
    loop {
        match attempt() {
            // By the clock, because a lock whose holder is this very thread, or is missing in a fork, is
            // never released.
            None if Instant::now() < until => sleep(Duration::from_micros(100)),
            given => return given,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_its_mark_and_without_one_when_nothing_moves() {
        let output = Output::default();
        let patience = Duration::from_millis(20);
        assert!(!output.wait(1, patience));
        // What was waited for in vain, and has not moved, is not waited for again.
        let begun = Instant::now();
        assert!(!output.wait(1, PATIENCE));
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        output.waiting.fetch_add(10, Ordering::SeqCst);
        assert_eq!(output.passed(10), 10);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| output.wait(2, PATIENCE_AT_EXIT));
            output.reach(2);
            assert!(waiting.join().expect("no panic"));
        });
        assert!(output.wait(1, patience), "it was reached long ago");
        assert!(!output.wait(3, patience));
        output.end();
        assert!(output.wait(u64::MAX, patience));
    }
}
