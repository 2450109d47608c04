//! `fastmap serve`: puts the parts together, runs them, and ends them in order.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::ServerConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::service_key::open_key;
use crate::agent::{Agent, JailLauncher, Launch, PLACES, PlainLauncher};
use crate::agent_registry::AgentRegistry;
use crate::app::{Gateway, Parts};
use crate::cli::service_args::{Keep, LogArgs, LogFormat, Memory, Serve};
use crate::config::{BODY_MEMORY, Config, LIMITS};
use crate::dispatch::jetstream::{self, Layout, NatsOptions};
use crate::dispatch::{Dispatch, Embedded, WorkSource};
use crate::executable::Examine;
use crate::http;
use crate::keys::{ServiceKey, new_secret};
use crate::pricing::CREDIT;
use crate::run_log::RunLogs;
use crate::store::{Database, Store};

/// Nothing is heard of a batch for so long: its agent is gone.
const AGENT_LEASE: Duration = Duration::from_secs(15);
/// Batches under way, and then connections, are given so long when the service stops.
const LAST: Duration = Duration::from_secs(10);
/// Bytes that a connection reads ahead: the head of a request has fewer, or is answered 431. A batch of 64 KB comes with its head
/// in one read; in three it took 4 % longer. All connections together read 320 MB ahead at most.
const READ_AHEAD: usize = 80 << 10;
/// Most descriptors that are asked for.
const DESCRIPTORS: u64 = 1 << 16;

pub(super) async fn serve(args: Box<Serve>) -> anyhow::Result<()> {
    start_log(&args.log)?;
    let temporary = match args.dev {
        true => Some(tempfile::tempdir().context("cannot make a temporary folder")?),
        false => None,
    };
    let keep = match &temporary {
        Some(folder) => Keep { data: folder.path().to_owned(), database: None, key: None },
        None => args.keep.clone(),
    };
    let (data, database) = (keep.data.as_path(), keep.database()?);
    let mut config = config(&args, data)?;
    bound_connections(&mut config)?;
    config.data.create().with_context(|| format!("cannot make the folder {}", data.display()))?;
    let _used = lock(data, &database)?;
    let nats = args.nats.options("gateway")?;
    let launch = match nats {
        // Agents elsewhere start what clients upload.
        Some(_) => None,
        None => Some(launcher(config.unconfined, args.dev, args.workers.memory(config.workers))?),
    };

    let store =
        Store::open(&database).await.with_context(|| format!("cannot open the database {database}"))?;
    let service_key =
        open_key(&store, &keep.key()).await.with_context(|| format!("the database {database}"))?;
    let presence = store.enter().await.context("cannot register this gateway in the database")?;
    let dev = match args.dev {
        true => Some(make_dev_account(&store, &service_key).await?),
        false => None,
    };
    let (events, roster) = (RunLogs::default(), AgentRegistry::default());
    let (dispatch, agent): (Arc<dyn Dispatch>, _) = match nats {
        Some(nats) => (Arc::new(sender(&args, &nats, &roster, &events).await?), None),
        None => {
            let dispatch = Arc::new(Embedded::new(config.slots(), AGENT_LEASE));
            let agent =
                launch.clone().map(|launch| agent_inside(launch, &dispatch, &config, &events, &roster));
            (dispatch, agent)
        }
    };
    let (listen, tls, grace) = (config.listen, config.tls.clone(), config.grace);
    let head_time = config.head_time;
    let metrics = start_metrics()?;
    let examiner = launch.map(|launch| launch as Arc<dyn Examine>);
    let gateway =
        Gateway::new(Parts { config, store, service_key, dispatch, examiner, events, roster, metrics });
    gateway.recover().await.context("cannot take up what the last process left")?;

    let listener = TcpListener::bind(listen).with_context(|| format!("cannot listen at {listen}"))?;
    let address = listener.local_addr().context("no address")?;
    let url = format!("{}://{address}", if tls.is_some() { "https" } else { "http" });
    if tls.is_none() && !address.ip().is_loopback() {
        tracing::warn!(
            "plain HTTP beyond loopback: clients refuse it; give --tls-cert and --tls-key, or end TLS in front"
        );
    }
    let handle = axum_server::Handle::new();
    let serving =
        tokio::spawn(listen_and_serve(listener, tls, head_time, Arc::clone(&gateway), handle.clone()));
    let working = tokio::spawn(async move {
        if let Some(agent) = agent {
            agent.work().await;
        }
    });
    let reaping = tokio::spawn(Arc::clone(&gateway).reap());
    let charging = tokio::spawn(Arc::clone(&gateway).charge_uses());
    let noting = tokio::spawn(gateway.activity.clone().keep());
    let staying = tokio::spawn(presence.keep());
    let folding = tokio::spawn(gateway.store.clone().checkpoint_loop());
    let signals = Signals::new()?;
    announce(&url, dev.as_ref())?;

    let failed = until_told(signals, serving, &gateway, grace).await;
    reaping.abort();
    noting.abort();
    if timeout(LAST, gateway.stop()).await.is_err() {
        tracing::warn!("batches under way are given up; their clients send them again");
    }
    handle.graceful_shutdown(Some(LAST));
    if timeout(LAST, working).await.is_err() {
        tracing::warn!("workers are ended with the service");
    }
    // Connections that are idle would be waited for.
    let begun = Instant::now();
    while handle.connection_count() > 0 && begun.elapsed() < Duration::from_secs(2) {
        sleep(Duration::from_millis(20)).await;
    }
    // What is left is the other gateways' now.
    charging.abort();
    staying.abort();
    folding.abort();
    tracing::info!("stopped");
    failed
}

/// The agent of a service that works itself.
fn agent_inside(
    launch: Arc<dyn Launch>,
    dispatch: &Arc<Embedded>,
    config: &Config,
    events: &RunLogs,
    roster: &AgentRegistry,
) -> Agent {
    Agent {
        name: "in this service".to_owned(),
        machine: String::new(),
        source: Arc::clone(dispatch) as Arc<dyn WorkSource>,
        launch,
        events: events.clone(),
        workers: config.workers,
        places: PLACES,
        grace: LAST,
        hurry: Arc::default(),
        roster: roster.clone(),
    }
}

/// The way to agents elsewhere.
async fn sender(
    args: &Serve,
    nats: &NatsOptions,
    roster: &AgentRegistry,
    events: &RunLogs,
) -> anyhow::Result<jetstream::JetStreamDispatcher> {
    let layout = Layout {
        names: args.nats.names(),
        replicas: usize::from(args.nats_replicas),
        quota: args.nats_quota as usize,
        lease: Duration::from_secs(args.agent_lease),
        patience: Layout::PATIENCE,
    };
    let client = jetstream::connect(nats).await?;
    Ok(jetstream::JetStreamDispatcher::start(client, layout, roster.clone(), events.clone()).await?)
}

/// Waits until a signal comes and open runs have ended (or their grace is over); an error if the server itself ends.
async fn until_told(
    mut signals: Signals,
    mut serving: tokio::task::JoinHandle<std::io::Result<()>>,
    gateway: &Gateway,
    grace: Duration,
) -> anyhow::Result<()> {
    tokio::select! {
        name = signals.next() => tracing::info!(signal = name, "stopping: no new runs; open ones may end"),
        ended = &mut serving => {
            return ended.context("the server panicked")?.context("the server failed");
        }
    }
    gateway.drain();
    let until = Instant::now() + grace;
    while Instant::now() < until && gateway.is_needed().await {
        tokio::select! {
            name = signals.next() => {
                tracing::info!(signal = name, "stopping at once");
                break;
            }
            () = sleep(Duration::from_millis(100)) => {}
        }
    }
    Ok(())
}

async fn listen_and_serve(
    listener: TcpListener,
    tls: Option<(std::path::PathBuf, std::path::PathBuf)>,
    head_time: Duration,
    gateway: Arc<Gateway>,
    handle: axum_server::Handle<SocketAddr>,
) -> std::io::Result<()> {
    let service = http::router(&gateway).into_make_service_with_connect_info::<SocketAddr>();
    // To find out which version a client speaks has no limit of time, and neither has an idle connection of HTTP/2: who
    // says nothing would hold a descriptor for ever.
    let mut server = axum_server::from_tcp(listener)?.handle(handle).http1_only();
    server.http_builder().http1().header_read_timeout(Some(head_time)).max_buf_size(READ_AHEAD);
    let connections = gateway.connections.clone();
    match tls {
        None => server.acceptor(connections).serve(service).await,
        Some((certificate, key)) => {
            // Somebody may have chosen already; it is the same one.
            let _chosen = rustls::crypto::ring::default_provider().install_default();
            let config = RustlsConfig::from_pem_chain_file(certificate, key).await?;
            let mut alone = ServerConfig::clone(&config.get_inner());
            alone.alpn_protocols = vec![b"http/1.1".to_vec()];
            config.reload_from_config(Arc::new(alone));
            let acceptor = RustlsAcceptor::new(config).acceptor(connections);
            server.acceptor(acceptor).serve(service).await
        }
    }
}

pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn config(args: &Serve, data: &Path) -> anyhow::Result<Config> {
    let listen = match args.dev {
        true => SocketAddr::from((
            [127, 0, 0, 1],
            if args.listen.port() == 8750 { 0 } else { args.listen.port() },
        )),
        false => args.listen,
    };
    if args.insecure_no_sandbox && !listen.ip().is_loopback() {
        bail!("--insecure-no-sandbox is for loopback only, not for {listen}");
    }
    if args.long_poll >= args.lease {
        bail!("--long-poll ({} s) must be less than --lease ({} s)", args.long_poll, args.lease);
    }
    let mut config = Config::new(data, listen);
    config.tls = args.tls_cert.clone().zip(args.tls_key.clone());
    config.workers = args.workers.workers.map_or(config.workers, usize::from);
    config.prices.cpu_hour = args.price_cpu_hour.max(0);
    config.prices.result_gb = args.price_result_gb.max(0);
    config.limits.lease_seconds = args.lease;
    config.limits.results_seconds = args.keep_results;
    config.limits.batch_cpu_seconds = args.batch_cpu;
    config.limits.long_poll_seconds = args.long_poll;
    config.limits.executable_bytes = args.max_executable;
    config.limits.stored_bytes = args.max_stored;
    config.kept_bytes = args.max_answers;
    config.limits.requests_per_second = args.max_requests;
    config.limits.open_runs = args.max_runs;
    config.limits.batches_in_flight = LIMITS.batches_in_flight.max(4 * config.slots() as u32);
    config.head_time = Duration::from_secs(args.head_time);
    config.body_time = Duration::from_secs(args.body_time);
    config.stall_time = Duration::from_secs(args.stall_time);
    config.max_connections = args.max_connections as usize;
    config.max_connections_address = args.max_connections_address as usize;
    // What is in flight at many workers must fit.
    config.body_memory = args.body_memory.unwrap_or(BODY_MEMORY.max(config.slots() as u64 * (8 << 20)));
    config.keep_free_runs = Duration::from_secs(args.keep_free_runs);
    config.keep_runs = Duration::from_secs(args.keep_runs);
    config.grace = Duration::from_secs(args.grace);
    config.unconfined = args.insecure_no_sandbox;
    Ok(config)
}

/// Raises the number of descriptors as far as this user may, and leaves two thirds of them to all that is no
/// connection: a stored answer on its way, workers, the database.
fn bound_connections(config: &mut Config) -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of descriptors")?;
    let most = soft.max(hard.min(DESCRIPTORS));
    setrlimit(Resource::RLIMIT_NOFILE, most, hard).context("cannot raise the limit of descriptors")?;
    let room = usize::try_from(most / 3).unwrap_or(usize::MAX);
    if room < config.max_connections {
        tracing::warn!(
            descriptors = most,
            connections = room,
            "fewer connections than --max-connections: raise the limit of descriptors (ulimit -n, LimitNOFILE)"
        );
        config.max_connections = room;
    }
    Ok(())
}

/// What starts the workers: jails that were attacked and held. `dev` does without where there are none.
pub(super) fn launcher(unconfined: bool, dev: bool, memory: Memory) -> anyhow::Result<Arc<dyn Launch>> {
    if unconfined {
        tracing::warn!(
            "--insecure-no-sandbox: whatever a client uploads runs with all that this user may do"
        );
        return Ok(Arc::new(PlainLauncher));
    }
    let tried = JailLauncher::new(memory.worker, memory.account())
        .and_then(|jails| jails.self_test().map(|()| jails));
    match tried {
        Ok(jails) => {
            tracing::info!(
                jail = jails.describe(),
                "workers are jailed; the attack on the own jail got nowhere"
            );
            Ok(Arc::new(jails))
        }
        Err(why) if dev => {
            tracing::warn!(
                "--dev without jails: whatever a client uploads runs with all that this user may do: {why}"
            );
            Ok(Arc::new(PlainLauncher))
        }
        Err(why) => bail!(
            "no jail for strangers' programs; not serving: {why}; --insecure-no-sandbox starts them without one (loopback only)"
        ),
    }
}

/// Two services on one SQLite database would each give back what the other has reserved; gateways of one server may share
/// the folder.
fn lock(data: &Path, database: &Database) -> anyhow::Result<File> {
    let path = data.join("serve.lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    let locked = match database {
        Database::File(_) => file.try_lock(),
        Database::Server(_) => file.try_lock_shared(),
    };
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another `fastmap serve` uses the folder {}", data.display()),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// An account for trying things out, an operator's: its secret, and the path of a link to its dashboard.
async fn make_dev_account(store: &Store, key: &ServiceKey) -> anyhow::Result<(String, String)> {
    let account = store.create_account("dev", 1000 * CREDIT).await?;
    store.set_operator("dev", true).await?;
    let secret = new_secret().context("no random bytes")?;
    let token = store.add_token(account.id, &secret, key, "dev", None).await?;
    let path = crate::api::dashboard_links::link(store, token).await.context("no link to the dashboard")?;
    Ok((secret.reveal().to_owned(), path))
}

fn announce(url: &str, dev: Option<&(String, String)>) -> std::io::Result<()> {
    tracing::info!(url, "listening");
    let mut out = std::io::stdout().lock();
    match dev {
        // Lines for a shell: the last one is none to it.
        Some((secret, path)) => writeln!(
            out,
            "export FASTMAP_SECRET={secret}\nexport FASTMAP_CLOUD_URL={url}\n\
             # dashboard (once, within {} minutes; another: fastmap dashboard): {url}{path}",
            crate::api::dashboard_links::LINK.as_secs() / 60
        )?,
        None => writeln!(out, "listening at {url}")?,
    }
    out.flush()
}

pub(super) fn start_log(args: &LogArgs) -> anyhow::Result<()> {
    let targets = Targets::from_str(&args.log).with_context(|| format!("--log {:?}", args.log))?;
    let registry = tracing_subscriber::registry().with(targets);
    let colours =
        matches!(args.log_format, LogFormat::Text) && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let layer = tracing_subscriber::fmt::layer().with_writer(super::logging::stderr(colours));
    match args.log_format {
        LogFormat::Text => registry.with(layer.with_ansi(colours)).try_init(),
        LogFormat::Json => registry.with(layer.json()).try_init(),
    }
    .context("cannot start the log")
}

fn start_metrics() -> anyhow::Result<PrometheusHandle> {
    const SECONDS: [f64; 14] =
        [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.5, 1.0, 10.0, 60.0];
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("seconds".to_owned()), &SECONDS)
        .and_then(PrometheusBuilder::install_recorder)
        .context("cannot start the metrics")
}
