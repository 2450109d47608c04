//! The life of a worker, from the start of its process until its exit is dealt with. Changed under the pool's lock, here
//! alone: each method is one event.
//!
//! | event | starting | serving: idle, busy | leaving | ending |
//! |---|---|---|---|---|
//! | [`on_connected`](WorkerLife::on_connected) | serving, idle | | | ending: it may connect before the signal reaches it |
//! | a batch is handed to it ([`serving`](WorkerLife::serving_mut)) | | busy | | |
//! | its last batch is answered or given back | | idle | leaving | ending |
//! | [`on_asked_to_leave`](WorkerLife::on_asked_to_leave) | refused: it has no channel that could end | leaving | leaving | ending |
//! | [`on_ending`](WorkerLife::on_ending) | ending | ending | ending | ending, for the first reason |
//! | [`on_kill_refused`](WorkerLife::on_kill_refused) | | | | ending by the end of its channel, or given up |
//! | [`on_exit`](WorkerLife::on_exit) | gone | gone | gone | gone |
//!
//! Only a worker that has connected holds batches. It holds them until they are answered or until its exit is dealt with,
//! in whatever state: what a dying worker has still sent counts. A worker that leaves by its own number of items holds none.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::local::pool::connection::{AssignedBatch, Connection};
use crate::model::death::{ExitReason, Running};

/// A worker that can't be killed and has not ended itself within this time is given up: it is stopped, or has
/// never opened its channel.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// The state of a worker.
#[derive(Debug)]
pub(crate) struct WorkerLife(State);

#[derive(Debug)]
enum State {
    /// Its process runs, and its handshake has not come. The time for which that was waited for.
    Starting { awaited: Duration },
    /// It takes batches: idle if it holds none, else busy.
    Serving(Connection),
    /// Its channel was closed, upon which it leaves by itself.
    Leaving { connection: Connection, since: Instant },
    /// It was killed, or this was tried.
    Ending {
        /// `None`: it had not connected.
        connection: Option<Connection>,
        /// `None`: only because the pool closes.
        reason: Option<EndReason>,
        /// Since when the system refuses to kill it. Its channel was closed then.
        kill_refused: Option<Instant>,
    },
}

/// Why the pool ends a worker.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EndReason {
    pub(crate) cause: ExitReason,
    /// What it then ran, if the cause holds for that alone.
    pub(crate) running: Option<(u64, Running)>,
}

/// What is left of a worker that is dead.
#[derive(Debug)]
pub(crate) struct Remains {
    pub(crate) connected: bool,
    pub(crate) has_answered: bool,
    /// Batches without an answer, in the order in which they were sent.
    pub(crate) held: VecDeque<AssignedBatch>,
    /// Why the pool has ended it, if it has.
    pub(crate) reason: Option<EndReason>,
}

impl WorkerLife {
    /// The process was started.
    pub(crate) fn on_spawned() -> WorkerLife {
        WorkerLife(State::Starting { awaited: Duration::ZERO })
    }

    /// The handshake is still waited for, for `more` time than at the last look. Returns for how long in all; `None` in
    /// another state.
    pub(crate) fn on_awaited(&mut self, more: Duration) -> Option<Duration> {
        match &mut self.0 {
            State::Starting { awaited } => {
                *awaited += more;
                Some(*awaited)
            }
            State::Serving(_) | State::Leaving { .. } | State::Ending { .. } => None,
        }
    }

    /// The handshake has come.
    pub(crate) fn on_connected(&mut self, mut new: Connection) {
        match &mut self.0 {
            State::Starting { .. } => self.0 = State::Serving(new),
            // It has connected before the signal reached it. If the kill was refused, it was to be asked by
            // the end of a channel that it did not have yet.
            State::Ending { connection: connection @ None, kill_refused, .. } => {
                if kill_refused.is_some() {
                    new.close();
                }
                *connection = Some(new);
            }
            // Its reader reads one handshake, so that there is no second one.
            State::Serving(_) | State::Leaving { .. } | State::Ending { .. } => {}
        }
    }

    /// It is asked to leave, by the end of its channel. False where it has none: it has begun nothing, and can only be
    /// killed.
    pub(crate) fn on_asked_to_leave(&mut self, now: Instant) -> bool {
        // In each state with a channel, because a worker whose kill was refused leaves by it as well. To
        // close it again changes nothing.
        if let Some(connection) = self.connection_mut() {
            connection.close();
        }
        match self.take() {
            State::Serving(connection) => {
                self.0 = State::Leaving { connection, since: now };
                true
            }
            other => {
                self.0 = other;
                self.connection().is_some()
            }
        }
    }

    /// It is killed; `None`: only because the pool closes. The first reason stays.
    pub(crate) fn on_ending(&mut self, new: Option<EndReason>) {
        let (connection, reason, kill_refused) = match self.take() {
            State::Starting { .. } => (None, new, None),
            State::Serving(connection) | State::Leaving { connection, .. } => (Some(connection), new, None),
            // The first reason is the cause. What the pool notices later (a closed channel, an answer that
            // does not come) may follow from it.
            State::Ending { connection, reason, kill_refused } => (connection, reason.or(new), kill_refused),
        };
        self.0 = State::Ending { connection, reason, kill_refused };
    }

    /// The system refuses to kill it: it is asked to end itself, by the end of its channel. True the first time.
    pub(crate) fn on_kill_refused(&mut self, now: Instant) -> bool {
        let State::Ending { connection, kill_refused, .. } = &mut self.0 else { return false };
        if let Some(connection) = connection {
            connection.close();
        }
        let first = kill_refused.is_none();
        // Kept from the first refusal: a pool that closes kills in each round, which must not put off the
        // time at which the worker is given up.
        kill_refused.get_or_insert(now);
        first
    }

    /// It is dead, and all that it had sent is dealt with.
    pub(crate) fn on_exit(self) -> Remains {
        let (connection, reason) = match self.0 {
            // Without a reason of the pool's the exit status says what the worker died of.
            State::Starting { .. } => (None, None),
            State::Serving(connection) | State::Leaving { connection, .. } => (Some(connection), None),
            State::Ending { connection, reason, .. } => (connection, reason),
        };
        Remains {
            connected: connection.is_some(),
            has_answered: connection.as_ref().is_some_and(Connection::has_answered),
            held: connection.map(Connection::into_held).unwrap_or_default(),
            reason,
        }
    }

    /// Moves the state out. The caller puts one back before it returns; what is here meanwhile holds nothing.
    fn take(&mut self) -> State {
        std::mem::replace(&mut self.0, State::Starting { awaited: Duration::ZERO })
    }

    /// What it holds, if it has connected.
    pub(crate) fn connection(&self) -> Option<&Connection> {
        match &self.0 {
            State::Starting { .. } => None,
            State::Serving(connection) | State::Leaving { connection, .. } => Some(connection),
            State::Ending { connection, .. } => connection.as_ref(),
        }
    }

    /// The same, for what it reports and for what is asked back.
    pub(crate) fn connection_mut(&mut self) -> Option<&mut Connection> {
        match &mut self.0 {
            State::Starting { .. } => None,
            State::Serving(connection) | State::Leaving { connection, .. } => Some(connection),
            State::Ending { connection, .. } => connection.as_mut(),
        }
    }

    /// A worker that takes batches.
    pub(crate) fn serving(&self) -> Option<&Connection> {
        match &self.0 {
            State::Serving(connection) => Some(connection),
            State::Starting { .. } | State::Leaving { .. } | State::Ending { .. } => None,
        }
    }

    /// The same, to hand it one.
    pub(crate) fn serving_mut(&mut self) -> Option<&mut Connection> {
        match &mut self.0 {
            State::Serving(connection) => Some(connection),
            State::Starting { .. } | State::Leaving { .. } | State::Ending { .. } => None,
        }
    }

    /// Since when it is leaving.
    pub(crate) fn leaving_since(&self) -> Option<Instant> {
        match &self.0 {
            State::Leaving { since, .. } => Some(*since),
            State::Starting { .. } | State::Serving(_) | State::Ending { .. } => None,
        }
    }

    pub(crate) fn is_ending(&self) -> bool {
        matches!(self.0, State::Ending { .. })
    }

    /// Whether the system has refused to kill it.
    pub(crate) fn is_unkillable(&self) -> bool {
        matches!(self.0, State::Ending { kill_refused: Some(_), .. })
    }

    /// Whether it could neither be killed nor has ended itself: its end is not waited for any more.
    pub(crate) fn is_given_up(&self, now: Instant) -> bool {
        match &self.0 {
            State::Ending { kill_refused: Some(since), .. } => {
                now.saturating_duration_since(*since) > GIVEN_UP
            }
            State::Starting { .. } | State::Serving(_) | State::Leaving { .. } | State::Ending { .. } => {
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use super::*;
    use crate::local::ipc::shared_page::SharedPage;
    use crate::model::batch::BatchBuilder;
    use crate::model::ids::{BatchId, JobId};

    /// A connection, the worker's end of its channel, and the page.
    fn connection() -> (Connection, OwnedFd, Arc<SharedPage>) {
        let (page, stdin) = SharedPage::create().expect("a page");
        let page = Arc::new(page);
        (Connection::new(Arc::clone(&page), true, Instant::now()), stdin, page)
    }

    /// A worker in each state: starting, serving, leaving, ending without and with a connection.
    fn lives() -> (Vec<WorkerLife>, Vec<OwnedFd>) {
        let mut kept = Vec::new();
        let mut serving = || {
            let (connection, stdin, _) = connection();
            kept.push(stdin);
            let mut life = WorkerLife::on_spawned();
            life.on_connected(connection);
            life
        };
        let mut leaving = serving();
        assert!(leaving.on_asked_to_leave(Instant::now()));
        let mut ended = serving();
        ended.on_ending(None);
        let mut never = WorkerLife::on_spawned();
        never.on_ending(None);
        (vec![WorkerLife::on_spawned(), serving(), leaving, never, ended], kept)
    }

    fn reason(seconds: u64) -> EndReason {
        EndReason { cause: ExitReason::Timeout(Duration::from_secs(seconds)), running: None }
    }

    #[test]
    fn only_a_worker_that_serves_takes_work_and_only_one_that_starts_is_awaited() {
        let (mut lives, _kept) = lives();
        let serving: Vec<bool> = lives.iter().map(|life| life.serving().is_some()).collect();
        assert_eq!(serving, [false, true, false, false, false]);
        let connected: Vec<bool> = lives.iter().map(|life| life.connection().is_some()).collect();
        assert_eq!(connected, [false, true, true, false, true]);
        let leaving: Vec<bool> = lives.iter().map(|life| life.leaving_since().is_some()).collect();
        assert_eq!(leaving, [false, false, true, false, false]);
        let ending: Vec<bool> = lives.iter().map(WorkerLife::is_ending).collect();
        assert_eq!(ending, [false, false, false, true, true]);
        for _ in 0..2 {
            for life in &mut lives {
                life.on_awaited(Duration::from_secs(1));
            }
        }
        let awaited: Vec<_> = lives.iter_mut().map(|life| life.on_awaited(Duration::ZERO)).collect();
        assert_eq!(awaited, [Some(Duration::from_secs(2)), None, None, None, None]);
    }

    #[test]
    fn a_worker_that_is_asked_to_leave_takes_no_more_and_one_without_a_channel_can_not_be_asked() {
        let (mut lives, _kept) = lives();
        let asked: Vec<bool> = lives.iter_mut().map(|life| life.on_asked_to_leave(Instant::now())).collect();
        assert_eq!(asked, [false, true, true, false, true]);
        assert!(lives.iter().all(|life| life.serving().is_none()));
    }

    #[test]
    fn the_first_reason_of_an_end_stays_and_the_closing_of_the_pool_is_none() {
        let (lives, _kept) = lives();
        for mut life in lives {
            life.on_ending(None);
            life.on_ending(Some(reason(1)));
            life.on_ending(Some(reason(2)));
            life.on_ending(None);
            assert_eq!(life.on_exit().reason, Some(reason(1)));
        }
    }

    #[test]
    fn what_is_held_is_left_in_whatever_state_the_worker_dies() {
        for ended in [false, true] {
            let (mut connection, _stdin, _page) = connection();
            let mut builder = BatchBuilder::new(Some(1));
            builder.buffer().push(1);
            builder.added(1);
            connection.hand(builder.finish(JobId(1), BatchId(7), 0, 0), Instant::now());
            let mut life = WorkerLife::on_spawned();
            life.on_connected(connection);
            if ended {
                life.on_ending(Some(reason(1)));
            }
            let remains = life.on_exit();
            assert_eq!((remains.held.len(), remains.connected, remains.has_answered), (1, true, false));
            assert_eq!(remains.reason.is_some(), ended);
        }
        let remains = WorkerLife::on_spawned().on_exit();
        assert_eq!((remains.held.len(), remains.connected, remains.has_answered), (0, false, false));
    }

    #[test]
    fn a_worker_that_can_not_be_killed_is_asked_by_its_channel_and_then_given_up() {
        for connects_late in [false, true] {
            let (connection, stdin, _page) = connection();
            let (mut connection, mut life) = (Some(connection), WorkerLife::on_spawned());
            if !connects_late {
                life.on_connected(connection.take().expect("it is there"));
            }
            let now = Instant::now();
            assert!(!life.on_kill_refused(now), "nothing has tried to kill it");
            life.on_ending(Some(reason(1)));
            assert!(!life.is_unkillable());
            assert!(life.on_kill_refused(now) && !life.on_kill_refused(now + GIVEN_UP));
            if let Some(connection) = connection {
                life.on_connected(connection);
            }
            // The channel has a packet with the page, and then its end.
            let channel = crate::local::ipc::channel::Channel::open(stdin);
            let buffer = &mut Vec::new();
            assert!(channel.next(buffer).is_some());
            channel.make_waiting().expect("it is a socket");
            assert!(channel.next(buffer).is_none(), "connects late: {connects_late}");
            assert!(life.is_unkillable() && !life.is_given_up(now + GIVEN_UP));
            assert!(life.is_given_up(now + GIVEN_UP + Duration::from_millis(1)));
        }
    }
}
