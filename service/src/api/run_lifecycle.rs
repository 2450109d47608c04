//! Life of runs: leases are renewed, runs ended and forgotten. A run whose client is silent for the length of its lease
//! is ended: its workers, its reservations and, later, its answers are freed. Every request of a run makes its lease
//! longer; it is written to the database only now and then, or each batch would cost one more write.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastmap_backends::cloud::RunState;
use fastmap_backends::unpoisoned::LockUnpoisoned;
use tokio::task::JoinSet;
use tokio::time::interval;

use crate::app::Gateway;
use crate::app::blocking::blocking;
use crate::clock::now_ms;
use crate::problem::Refusal;

const LOOK: Duration = Duration::from_millis(500);

/// How often runs are looked for that have ended elsewhere or were not let go.
const LOOK_AROUND: Duration = Duration::from_secs(1);
/// Runs are forgotten for about so long; then leases are looked at again.
const SPELL: Duration = Duration::from_secs(1);
/// How often folders of answers are looked through for those of runs that are forgotten.
const TIDY: Duration = Duration::from_mins(1);

impl Gateway {
    /// A user gives up a run of this account.
    pub(crate) async fn cancel(&self, account: i64, run: &str) -> Result<(), Refusal> {
        self.run(account, run).await?;
        self.end(run, RunState::Cancelled, None).await.map(drop)
    }

    fn lease_ms(&self) -> i64 {
        self.config.limits.lease_seconds.saturating_mul(1000) as i64
    }

    pub(crate) fn lease_end(&self) -> i64 {
        now_ms() + self.lease_ms()
    }

    /// A run of which its client was heard.
    pub(crate) async fn heard_of(&self, run: &str) -> Result<(), Refusal> {
        let until = self.lease_end();
        if self.leases.touch(run, until, self.lease_ms()) {
            self.store.extend_lease(run, until).await?;
        }
        Ok(())
    }

    /// Keeps the run's lease for as long as one of its requests is worked on: it ends by silence of the client alone.
    /// A client that leaves drops the request, and with it this.
    pub(crate) async fn keep_lease_while<T>(
        &self,
        run: &str,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let keep = async {
            let mut times = interval(Duration::from_secs(self.config.limits.lease_seconds) / 3);
            loop {
                times.tick().await;
                if let Err(refusal) = self.heard_of(run).await {
                    return refusal;
                }
            }
        };
        let answer = tokio::select! {
            answer = work => answer?,
            refusal = keep => return Err(refusal),
        };
        self.heard_of(run).await?;
        Ok(answer)
    }

    /// Ends a run: its reservations and its workers are freed. `false`: it had ended.
    pub(crate) async fn end(
        &self,
        run: &str,
        state: RunState,
        reason: Option<&str>,
    ) -> Result<bool, Refusal> {
        let ended = self.store.end_run(run, state, reason).await?;
        if ended {
            tracing::info!(run, state = state.as_str(), "run ended");
            metrics::counter!("fastmap_runs_ended_total", "state" => state.as_str()).increment(1);
        }
        self.release_local(run, state).await;
        Ok(ended)
    }

    /// A run is over, by its client or by the service: nothing of it is worked on or kept at hand here.
    async fn release_local(&self, run: &str, state: RunState) {
        self.dispatch.end_run(run).await;
        self.leases.forget(run);
        let spec = self.specs.lock_unpoisoned().remove(run);
        let account = spec.map(|spec| spec.account);
        if let Some(account) = account {
            self.leases.count_rows_of(account);
        }
        self.events.end(run, account, state);
    }

    /// After a start: runs of before get a whole lease to be heard of, and what gateways that are gone have reserved is
    /// given back.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn recover(self: &Arc<Self>) -> Result<(), crate::store::StoreError> {
        self.release_lost_reservations().await?;
        if let Err(Refusal(problem)) = self.remove_unknown_blobs().await {
            tracing::warn!(%problem, "files that no account has could not be looked for");
        }
        self.store.extend_all_leases(self.lease_end()).await
    }

    async fn release_lost_reservations(&self) -> Result<(), crate::store::StoreError> {
        let lost = self.store.recover().await?;
        if lost > 0 {
            metrics::counter!("fastmap_reservations_given_back_total").increment(lost);
            tracing::warn!(
                batches = lost,
                "reservations of a gateway that is gone were given back; clients send these batches again"
            );
        }
        Ok(())
    }

    /// Runs of which something is kept at hand here.
    fn local_runs(&self) -> BTreeSet<String> {
        let specs = self.specs.lock_unpoisoned();
        self.leases.all().into_iter().chain(specs.keys().cloned()).collect()
    }

    /// What was done elsewhere: some gateways are gone, and some have ended runs that are at hand or watched here. And what
    /// was half done here: the handler of a client that leaves may have ended a run and not have come to let it go.
    async fn reconcile(&self) -> Result<(), Refusal> {
        // On SQLite all reservations are this gateway's own.
        if self.store.is_shared() {
            self.release_lost_reservations().await?;
        }
        let local_runs = self.local_runs();
        let known: Vec<String> = local_runs.union(&self.events.open_runs()).cloned().collect();
        for (run, state) in self.store.ended_among(&known).await? {
            if local_runs.contains(&run) {
                tracing::info!(run, state = state.as_str(), "run had ended; let go only now");
                self.release_local(&run, state).await;
            } else {
                let account = self.store.run(None, &run).await?.map(|run| run.account);
                self.events.end(&run, account, state);
            }
        }
        self.end_withdrawn().await
    }

    /// Forgets answers and lines of runs that another gateway has purged or forgotten, and files of answers
    /// that were all acknowledged.
    async fn collect_garbage(&self) -> Result<(), Refusal> {
        let spool = self.spool.clone();
        let mut known = blocking(move || spool.runs()).await?;
        // What else lies in the folder is not this service's.
        known.retain(|run| run.len() == 32 && run.bytes().all(|byte| byte.is_ascii_hexdigit()));
        known.extend(self.events.runs());
        known.sort_unstable();
        known.dedup();
        for run in self.store.gone_among(&known).await? {
            self.forget_answers(&run).await?;
        }
        self.sweep().await
    }

    /// Ends runs whose client is gone, and forgets answers whose time is over. Never returns.
    pub async fn reap(self: Arc<Self>) {
        let gateway = Arc::clone(&self);
        let mut watching = JoinSet::new();
        watching.spawn(async move {
            // By itself: the looks below wait for the database.
            let mut look = interval(LOOK);
            loop {
                look.tick().await;
                gateway.leases.awake_since(now_ms());
            }
        });
        let (mut look, mut around, mut tidy) = (interval(LOOK), interval(LOOK_AROUND), interval(TIDY));
        loop {
            let done = tokio::select! {
                _ = look.tick() => self.expire_runs().await,
                _ = around.tick() => self.reconcile().await,
                _ = tidy.tick() => self.collect_garbage().await,
            };
            if let Err(Refusal(problem)) = done {
                tracing::error!(%problem, "could not look after the runs");
            }
        }
    }

    async fn expire_runs(self: &Arc<Self>) -> Result<(), Refusal> {
        let now = now_ms();
        // After a pause of this process each run has a whole lease anew.
        let awake = self.leases.awake_since(now);
        let for_all = awake.map_or(0, |since| since.saturating_add(self.lease_ms()));
        // The database gets it before half of a lease is over: what it knows may be so much too early, and only the gateway
        // that a client talks to knows better.
        let late = if self.store.is_shared() { self.lease_ms() / 2 } else { 0 };
        for run in self.store.overdue_runs(now - late).await? {
            let until = self.leases.until(&run).max(for_all);
            if until > now {
                self.store.extend_lease(&run, until).await?;
            } else {
                self.end(&run, RunState::Expired, None).await?;
            }
        }
        metrics::gauge!("fastmap_open_runs").set(self.store.open_runs().await? as f64);
        let kept_ms = self.config.limits.results_seconds.saturating_mul(1000) as i64;
        let until = Instant::now() + SPELL;
        for run in self.store.purgeable_runs(now.saturating_sub(kept_ms)).await? {
            self.forget_answers(&run).await?;
            self.store.purge_run(&run).await?;
            if Instant::now() > until {
                break;
            }
        }
        self.forget_runs(now).await?;
        self.forget_stale_uploads().await
    }

    /// Removes the files of a run's answers, and its lines.
    async fn forget_answers(&self, run: &str) -> Result<(), Refusal> {
        self.events.forget(run);
        let (spool, run) = (self.spool.clone(), run.to_owned());
        blocking(move || spool.remove_run(&run)).await
    }

    /// Forgets ended runs whose time is over or that are more than their account may keep, some at a time.
    async fn forget_runs(&self, now: i64) -> Result<(), Refusal> {
        let before = |kept: Duration| now.saturating_sub(i64::try_from(kept.as_millis()).unwrap_or(i64::MAX));
        let (free, all) = (before(self.config.keep_free_runs), before(self.config.keep_runs));
        let mut runs = self.store.forgettable_runs(free, all).await?;
        for account in self.leases.accounts_to_count() {
            self.store.forget_excess_activity(account).await?;
            let excess = self.store.excess_runs(account).await?;
            if !excess.is_empty() {
                // There may be more.
                self.leases.count_rows_of(account);
                runs.extend(excess);
            }
        }
        let until = Instant::now() + SPELL;
        for run in runs {
            self.forget_answers(&run).await?;
            self.store.forget_run(&run).await?;
            if Instant::now() > until {
                break;
            }
        }
        self.store.take_owed(&self.config.prices).await?;
        self.nonces.forget(Instant::now());
        Ok(())
    }
}
