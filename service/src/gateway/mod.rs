//! HTTP: routes, and what all of them share. `auth` stands before every route of the protocol; `blobs` takes uploads,
//! `runs` opens and ends runs, `batches` carries items in and answers out, `usage` charges for what workers do
//! beside batches, `watch` shows what happens; `ops` is for who
//! runs the service; the pages for people are `dashboard`'s. Money is the store's, work is dispatch's.

pub(crate) mod auth;
mod batches;
mod blobs;
pub(crate) mod connections;
mod content;
mod flights;
mod leases;
pub(crate) mod limits;
pub(crate) mod nonces;
pub(crate) mod ops;
pub(crate) mod problem;
mod runs;
mod usage;
pub(crate) mod watch;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware;
use axum::routing::{get, head, post, put};
use axum::{Json, Router};
use fastmap_backends::cloud::{ProblemCode, RunState};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Notify;
use tower_http::catch_panic::CatchPanicLayer;

use crate::activity::Activity;
use crate::agent::Launch;
use crate::config::Config;
use crate::dashboard::{self, Dashboard, sign_in};
use crate::dispatch::{Dispatch, RunSpec};
use crate::events::Events;
use crate::keys::ServiceKey;
use crate::roster::Roster;
use crate::spool::Spool;
use crate::store::{Committer, Store};
use crate::text::bounded;
use connections::{Bounds, Connections};
use problem::{Refusal, refuse};

/// Event streams that may be open at a time: of each account whatever others have, of one account, and of
/// all.
const STREAMS_ALWAYS: usize = 4;
const STREAMS_OF_ONE: usize = 64;
const STREAMS: usize = 512;

/// A gateway that is to stop and has heard of no run for so long is not needed.
const QUIET: Duration = Duration::from_secs(3);

/// What the routes work with.
#[derive(Debug)]
pub struct Gateway {
    pub(crate) config: Config,
    pub(crate) store: Store,
    committer: Committer,
    spool: Spool,
    pub(crate) service_key: ServiceKey,
    dispatch: Arc<dyn Dispatch>,
    launch: Option<Arc<dyn Launch>>,
    pub(crate) events: Events,
    pub(crate) activity: Activity,
    pub(crate) roster: Roster,
    pub(crate) dashboard: Dashboard,
    metrics: PrometheusHandle,
    keys: auth::Keys,
    nonces: nonces::Nonces,
    rates: limits::Rates,
    pub(crate) memory: limits::Memory,
    pub(crate) connections: Connections,
    uploads: blobs::Uploads,
    flights: flights::Flights,
    leases: leases::Leases,
    /// What agents must know of the runs that are open, as far as they were asked for.
    specs: Mutex<HashMap<String, Arc<RunSpec>>>,
    streams: limits::Places,
    phase: AtomicU8,
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
    /// What starts workers in this process; `None`: agents elsewhere do, which look at a program when they get it.
    pub launch: Option<Arc<dyn Launch>>,
    /// Where the agent writes what workers print.
    pub events: Events,
    /// Where agents say what they have in hand.
    pub roster: Roster,
    /// What `/metrics` shows.
    pub metrics: PrometheusHandle,
}

const SERVING: u8 = 0;
const DRAINING: u8 = 1;
const STOPPING: u8 = 2;

impl Gateway {
    /// A gateway that nobody talks to yet. To be called within a runtime.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { config, store, service_key, dispatch, launch, events, roster, metrics } = parts;
        Arc::new(Gateway {
            activity: Activity::new(store.clone()),
            dashboard: Dashboard::default(),
            committer: Committer::start(store.clone()),
            spool: Spool::new(&config.data.spool()),
            keys: auth::Keys::default(),
            nonces: nonces::Nonces::default(),
            rates: limits::Rates::new(config.limits.requests_per_second),
            memory: limits::Memory::new(config.body_memory),
            connections: Connections::new(Bounds {
                all: config.max_connections,
                of_address: config.max_connections_address,
                stall: config.stall_time,
            }),
            uploads: blobs::Uploads::default(),
            flights: flights::Flights::default(),
            leases: leases::Leases::default(),
            specs: Mutex::default(),
            streams: limits::Places::new(STREAMS_ALWAYS, STREAMS_OF_ONE, STREAMS),
            phase: AtomicU8::new(SERVING),
            stopping: Notify::new(),
            config,
            store,
            service_key,
            dispatch,
            launch,
            events,
            roster,
            metrics,
        })
    }

    /// All routes.
    pub fn router(self: &Arc<Self>) -> Router {
        let protocol = Router::new()
            .route("/auth", post(runs::auth))
            .route(
                "/executables/{hash}",
                head(blobs::head_executable).get(blobs::get_executable).put(blobs::put_executable),
            )
            .route(
                "/contexts/{hash}",
                head(blobs::head_context).get(blobs::get_context).put(blobs::put_context),
            )
            .route("/dashboard", post(sign_in::mint))
            .route("/runs", get(runs::list).post(runs::open))
            .route("/runs/{run}", get(runs::show))
            .route("/runs/{run}/batches/{seq}", put(batches::put).get(batches::get).delete(batches::cancel))
            .route("/runs/{run}/heartbeat", post(runs::heartbeat))
            .route("/runs/{run}/ack", post(runs::acknowledge))
            .route("/runs/{run}/cancel", post(runs::cancel))
            .route("/runs/{run}/done", post(runs::done))
            .route("/runs/{run}/logs", get(watch::logs))
            .route("/runs/{run}/events", get(watch::events))
            .fallback(not_found)
            .method_not_allowed_fallback(not_allowed)
            // The body is bounded, call by call, where its signature is checked.
            .layer(DefaultBodyLimit::disable())
            .layer(middleware::from_fn_with_state(Arc::clone(self), auth::authenticate));
        Router::new()
            .nest("/api/v1", protocol)
            .route("/api/v1/openapi.json", get(ops::openapi))
            .route("/healthz", get(ops::health))
            .route("/readyz", get(ops::ready))
            .route("/metrics", get(ops::metrics))
            .merge(dashboard::router(self))
            .fallback(not_found)
            .method_not_allowed_fallback(not_allowed)
            .layer(middleware::from_fn_with_state(Arc::clone(self), ops::measure))
            .layer(CatchPanicLayer::custom(ops::panicked))
            .with_state(Arc::clone(self))
    }

    /// Whether new runs are taken.
    fn serving(&self) -> Result<(), Refusal> {
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
        self.flights.all_landed().await;
        if let Err(error) = self.activity.flush().await {
            tracing::warn!(%error, "what happened in runs of late is lost for the dashboard");
        }
        self.dispatch.close().await;
    }

    /// Workers of all agents; before the first has joined, what the configuration says.
    fn workers(&self) -> usize {
        match self.roster.workers() {
            0 => self.config.workers,
            workers => workers,
        }
    }

    /// Batches that are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.flights.count()
    }

    /// A user gives up a run of this account.
    pub(crate) async fn cancel(&self, account: i64, run: &str) -> Result<(), Refusal> {
        self.run(account, run).await?;
        self.end(run, RunState::Cancelled, None).await.map(drop)
    }

    /// Whether a gateway that is to stop is still needed: for as long as a run is open; where there may be others, for as
    /// long as somebody still comes to this one. (`/readyz` has told the balancer to go elsewhere.)
    pub async fn is_needed(&self) -> bool {
        if self.store.is_shared() {
            return self.under_way() > 0 || self.leases.heard_within(QUIET);
        }
        self.store.open_runs().await.is_ok_and(|open| open > 0)
    }
}

fn stopping() -> Refusal {
    let detail = "this service is shutting down; try again when it is back";
    Refusal(fastmap_backends::cloud::Problem::new(ProblemCode::ShuttingDown, detail).retry_after(2))
}

async fn not_found(uri: Uri) -> Refusal {
    refuse(ProblemCode::NotFound, format!("there is nothing at {}", bounded(uri.path().to_owned(), 200)))
}

async fn not_allowed(method: Method) -> Refusal {
    refuse(ProblemCode::MethodNotAllowed, format!("{method} does nothing here"))
}

/// An answer as JSON.
type Reply<T> = Result<Json<T>, Refusal>;
