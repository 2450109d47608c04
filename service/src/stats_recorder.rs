//! Recorder of what happens in runs over time: throughput, workers, failures. Noted by the gateway when a batch is
//! answered, kept in memory for a moment and then added to the store; read by the dashboard, which sees both. Bounded
//! for each run (`series`), and forgotten a month after the run. Not money: the ledger knows nothing of it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastmap_backends::unpoisoned::LockUnpoisoned;
use tokio::sync::RwLock;
use tokio::time::interval;

use crate::clock::now_ms;
use crate::stats::{FAILURES, Failure, Series, StatsDelta};
use crate::store::{Store, StoreError};

/// How often what is in memory goes to the store.
const FLUSH: Duration = Duration::from_secs(3);
/// Activity of a run is forgotten after this.
const KEPT_MS: i64 = 30 * 24 * 3600 * 1000;

/// Takes notes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StatsRecorder(Arc<Notes>);

#[derive(Debug)]
struct Notes {
    store: Store,
    unsaved: Mutex<HashMap<String, StatsDelta>>,
    /// Locked for writing while what is unsaved goes to the store, for reading by readers of both: they might see it twice.
    moving: RwLock<()>,
}

impl StatsRecorder {
    /// Notes that go to that store; see [`StatsRecorder::keep`].
    pub fn new(store: Store) -> Self {
        StatsRecorder(Arc::new(Notes { store, unsaved: Mutex::default(), moving: RwLock::default() }))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, StatsDelta>> {
        self.0.unsaved.lock_unpoisoned()
    }

    /// Something has happened in a run.
    pub fn add(&self, run: &str, delta: StatsDelta) {
        match self.lock().entry(run.to_owned()) {
            Entry::Vacant(free) => drop(free.insert(delta)),
            Entry::Occupied(mut there) => there.get_mut().merge(delta),
        }
    }

    /// What is known of a run: its course, and its first failures.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn of(&self, run: &str) -> Result<(Series, Vec<Failure>), StoreError> {
        let _still = self.0.moving.read().await;
        let fresh = self.lock().get(run).cloned();
        let mut series = self.0.store.activity(run).await?;
        let mut failures = self.0.store.failures(run).await?;
        if let Some(delta) = fresh {
            series.merge(&delta.series);
            failures.extend(delta.failures);
        }
        failures.truncate(FAILURES);
        Ok((series, failures))
    }

    /// Adds to the store what is in memory.
    ///
    /// # Errors
    /// If the database fails; what was in memory is lost then.
    pub async fn flush(&self) -> Result<(), StoreError> {
        let _moving = self.0.moving.write().await;
        let unsaved: Vec<(String, StatsDelta)> = std::mem::take(&mut *self.lock()).into_iter().collect();
        if unsaved.is_empty() { Ok(()) } else { self.0.store.add_activity(&unsaved).await }
    }

    /// Stores what is noted, every few seconds, and forgets what is old. Never returns.
    pub async fn keep(self) {
        let mut tick = interval(FLUSH);
        loop {
            tick.tick().await;
            let mut done = self.flush().await;
            if done.is_ok() {
                done = self.0.store.forget_activity(now_ms() - KEPT_MS).await;
            }
            if let Err(error) = done {
                tracing::error!(%error, "what happened in runs could not be stored for the dashboard");
            }
        }
    }
}
