//! State of a gateway: what it was started with, and what its handlers share. Its phase (serving, draining, stopping) says
//! what is still taken.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Notify;

use super::connections::{Bounds, Connections};
use super::{in_flight, key_cache, lease_table, limits, nonces, upload_locks};
use crate::agent_registry::AgentRegistry;
use crate::answer_files::AnswerFiles;
use crate::config::Config;
use crate::dispatch::{Dispatch, RunSpec};
use crate::executable::Examine;
use crate::keys::ServiceKey;
use crate::problem::{Refusal, stopping};
use crate::run_log::RunLogs;
use crate::stats_recorder::StatsRecorder;
use crate::store::{Committer, Store};

/// Event streams that may be open at a time: of each account whatever others have, of one account, and of
/// all.
const STREAMS_ALWAYS: usize = 4;
pub(crate) const STREAMS_OF_ONE: usize = 64;
pub(crate) const STREAMS: usize = 512;

/// A gateway that is to stop and has heard of no run for so long is not needed.
const QUIET: Duration = Duration::from_secs(3);

/// What the routes work with.
#[derive(Debug)]
pub struct Gateway {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) committer: Committer,
    pub(crate) spool: AnswerFiles,
    pub(crate) service_key: ServiceKey,
    pub(crate) dispatch: Arc<dyn Dispatch>,
    pub(crate) examiner: Option<Arc<dyn Examine>>,
    pub(crate) events: RunLogs,
    pub(crate) activity: StatsRecorder,
    pub(crate) roster: AgentRegistry,
    pub(crate) metrics: PrometheusHandle,
    pub(crate) keys: key_cache::Keys,
    pub(crate) nonces: nonces::Nonces,
    pub(crate) rates: limits::Rates,
    pub(crate) mints: limits::Mints,
    pub(crate) memory: limits::Memory,
    pub(crate) connections: Connections,
    pub(crate) uploads: upload_locks::Uploads,
    pub(crate) batches: in_flight::InFlightBatches,
    pub(crate) leases: lease_table::Leases,
    /// What agents must know of the runs that are open, as far as they were asked for.
    pub(crate) specs: Mutex<HashMap<String, Arc<RunSpec>>>,
    pub(crate) streams: limits::SlotLimit,
    pub(crate) phase: AtomicU8,
    /// Wakes event streams when the service stops.
    pub(crate) stopping: Notify,
}

/// What a gateway is made of.
#[derive(Debug)]
pub struct Parts {
    /// Settings.
    pub config: Config,
    /// The database.
    pub store: Store,
    /// What opens the keys of tokens.
    pub service_key: ServiceKey,
    /// Where work goes.
    pub dispatch: Arc<dyn Dispatch>,
    /// Checks that uploaded programs find their libraries on this machine; `None`: agents elsewhere do, when they get a
    /// program.
    pub examiner: Option<Arc<dyn Examine>>,
    /// Where the agent writes what workers print.
    pub events: RunLogs,
    /// Where agents say what they have in hand.
    pub roster: AgentRegistry,
    /// What `/metrics` shows.
    pub metrics: PrometheusHandle,
}

pub(crate) const SERVING: u8 = 0;
const DRAINING: u8 = 1;
pub(crate) const STOPPING: u8 = 2;

impl Gateway {
    /// A gateway that no client talks to yet. To be called within a runtime.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { config, store, service_key, dispatch, examiner, events, roster, metrics } = parts;
        Arc::new(Gateway {
            activity: StatsRecorder::new(store.clone()),
            committer: Committer::start(store.clone()),
            spool: AnswerFiles::new(&config.data.spool()),
            keys: key_cache::Keys::default(),
            nonces: nonces::Nonces::default(),
            rates: limits::Rates::new(config.limits.requests_per_second),
            mints: limits::Mints::default(),
            memory: limits::Memory::new(config.body_memory),
            connections: Connections::new(Bounds {
                all: config.max_connections,
                of_address: config.max_connections_address,
                stall: config.stall_time,
            }),
            uploads: upload_locks::Uploads::default(),
            batches: in_flight::InFlightBatches::default(),
            leases: lease_table::Leases::default(),
            specs: Mutex::default(),
            streams: limits::SlotLimit::new(STREAMS_ALWAYS, STREAMS_OF_ONE, STREAMS),
            phase: AtomicU8::new(SERVING),
            stopping: Notify::new(),
            config,
            store,
            service_key,
            dispatch,
            examiner,
            events,
            roster,
            metrics,
        })
    }

    /// Whether new runs are taken.
    pub(crate) fn serving(&self) -> Result<(), Refusal> {
        match self.phase.load(Ordering::Relaxed) {
            SERVING => Ok(()),
            _ => Err(stopping()),
        }
    }

    /// Refuses new runs; open ones go on.
    pub fn drain(&self) {
        self.phase.store(DRAINING, Ordering::Relaxed);
    }

    /// Refuses batches, too, waits until those under way are answered, and closes dispatch.
    pub async fn stop(&self) {
        self.phase.store(STOPPING, Ordering::Relaxed);
        self.stopping.notify_waiters();
        self.batches.drained().await;
        if let Err(error) = self.activity.flush().await {
            tracing::warn!(%error, "what happened in runs of late is lost for the dashboard");
        }
        self.dispatch.close().await;
    }

    /// Workers of all agents; before the first has joined, what the configuration says.
    pub(crate) fn workers(&self) -> usize {
        match self.roster.workers() {
            0 => self.config.workers,
            workers => workers,
        }
    }

    /// Batches that are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.batches.count()
    }

    /// Whether a gateway that is to stop is still needed: for as long as a run is open; where there may be others, for as
    /// long as clients still come to this one. (The balancer goes elsewhere by `/readyz`.)
    pub async fn is_needed(&self) -> bool {
        if self.store.is_shared() {
            return self.under_way() > 0 || self.leases.heard_within(QUIET);
        }
        self.store.open_runs().await.is_ok_and(|open| open > 0)
    }
}
