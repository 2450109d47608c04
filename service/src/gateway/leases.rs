//! Which runs were heard of lately. A run whose client is silent for the length of its lease is ended: its workers, its
//! reservations and, later, its answers are freed. Every request of a run makes its lease longer; the database is told
//! only now and then, or each batch would cost one more write.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastmap_backends::cloud::RunState;
use tokio::time::interval;

use super::Gateway;
use super::problem::Refusal;
use crate::events::Event;
use crate::store::now_ms;

const LOOK: Duration = Duration::from_millis(500);

/// Until when runs live, in milliseconds since 1970: as heard of here, and as the database knows.
#[derive(Debug, Default)]
pub(crate) struct Leases(Mutex<HashMap<String, (i64, i64)>>);

impl Leases {
    /// Makes a lease longer; whether the database should be told.
    fn touch(&self, run: &str, until: i64, length: i64) -> bool {
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (here, stored) = leases.entry(run.to_owned()).or_default();
        *here = until;
        let tell = until - *stored > length / 2;
        if tell {
            *stored = until;
        }
        tell
    }

    fn until(&self, run: &str) -> i64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(run).map_or(0, |lease| lease.0)
    }

    fn forget(&self, run: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(run);
    }
}

impl Gateway {
    fn lease_ms(&self) -> i64 {
        self.config.limits.lease_seconds.saturating_mul(1000) as i64
    }

    pub(super) fn lease_end(&self) -> i64 {
        now_ms() + self.lease_ms()
    }

    /// A run of which its client was heard.
    pub(super) async fn heard_of(&self, run: &str) -> Result<(), Refusal> {
        let until = self.lease_end();
        if self.leases.touch(run, until, self.lease_ms()) {
            self.store.extend_lease(run, until).await?;
        }
        Ok(())
    }

    /// Ends a run: its reservations and its workers are freed. `false`: it had ended.
    pub(super) async fn end(
        &self,
        run: &str,
        state: RunState,
        reason: Option<&str>,
    ) -> Result<bool, Refusal> {
        let ended = self.store.end_run(run, state, reason).await?;
        self.dispatch.end_run(run).await;
        self.leases.forget(run);
        self.specs.lock().unwrap_or_else(PoisonError::into_inner).remove(run);
        if ended {
            tracing::info!(run, state = state.as_str(), "run ended");
            metrics::counter!("fastmap_runs_ended_total", "state" => state.as_str()).increment(1);
            self.events.tell(run, Event::Ended(state));
        }
        Ok(ended)
    }

    /// After a start: runs of before get a whole lease to be heard of.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn recover(&self) -> Result<(), crate::store::StoreError> {
        let lost = self.store.recover().await?;
        self.store.extend_all_leases(self.lease_end()).await?;
        if lost > 0 {
            tracing::warn!(
                batches = lost,
                "reservations of the last process were given back; clients send these batches again"
            );
        }
        Ok(())
    }

    /// Ends runs whose client is gone, and forgets answers whose time is over. Never returns.
    pub async fn reap(self: Arc<Self>) {
        let mut look = interval(LOOK);
        loop {
            look.tick().await;
            if let Err(Refusal(problem)) = self.reap_once().await {
                tracing::error!(%problem, "could not look after the runs");
            }
        }
    }

    async fn reap_once(&self) -> Result<(), Refusal> {
        let now = now_ms();
        for run in self.store.overdue_runs(now).await? {
            let until = self.leases.until(&run);
            if until > now {
                self.store.extend_lease(&run, until).await?;
            } else {
                self.end(&run, RunState::Expired, None).await?;
            }
        }
        let kept_ms = self.config.limits.results_seconds.saturating_mul(1000) as i64;
        for run in self.store.purgeable_runs(now.saturating_sub(kept_ms)).await? {
            self.spool.remove_run(&run);
            self.events.forget(&run);
            self.store.purge_run(&run).await?;
        }
        self.forget_stale_uploads();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_told_of_a_lease_before_half_of_it_is_over() {
        let leases = Leases::default();
        assert!(leases.touch("r", 30_000, 30_000));
        assert!(!leases.touch("r", 40_000, 30_000));
        assert!(!leases.touch("r", 45_000, 30_000));
        assert!(leases.touch("r", 45_001, 30_000));
        assert_eq!(leases.until("r"), 45_001);
        leases.forget("r");
        assert_eq!(leases.until("r"), 0);
    }
}
