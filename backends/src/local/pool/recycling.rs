//! Recycling of workers: one that has run its number of items is asked to leave, and replaced. Called by the pool with
//! each answer, and by the watchdog.

use std::time::{Duration, Instant};

use crate::local::pool::connection::Connection;
use crate::local::pool::state::PoolState;
use crate::model::death::ExitReason;

/// Workers that are asked to leave have so long before they are ended.
pub(crate) const LEAVE: Duration = Duration::from_millis(300);

impl PoolState {
    /// How soon to look at what workers use up, if at all.
    pub(crate) fn wear_pause(&self) -> Option<Duration> {
        let leaving =
            self.workers.iter().any(|member| member.life.leaving_since().is_some()).then_some(LEAVE);
        leaving.into_iter().chain(self.memory_pause()).min()
    }

    /// Ends workers that hold too much memory, and those that were asked to leave and don't.
    pub(crate) fn recycle_exhausted(&mut self, now: Instant) -> Option<Duration> {
        for member in &mut self.workers {
            if member.life.leaving_since().is_some_and(|since| now.saturating_duration_since(since) > LEAVE) {
                // This end accuses no item: the worker holds no batch, or the pool closes and no map is left
                // that waits.
                member.end_for(ExitReason::Unknown, None);
            }
        }
        self.end_over_memory();
        self.wear_pause()
    }

    /// A worker has answered: if it has run as many items as it may, it is asked to leave. It holds nothing that
    /// could be lost then.
    pub(crate) fn retire(&mut self, id: u64, now: Instant) {
        let allowed = self.allowed;
        let Some(member) = self.member(id) else { return };
        let used_up = |worker: &Connection| worker.held().is_empty() && allowed.items_left(worker) == 0;
        if member.life.serving().is_some_and(used_up) {
            member.ask_to_leave(now);
        }
    }
}
