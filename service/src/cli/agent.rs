//! `fastmap agent`: a machine that works for a service. Whatever happens to it, its batches go to others.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;

use super::serve::{Signals, launcher, start_log};
use crate::agent::{Agent, machine};
use crate::agent_registry::AgentRegistry;
use crate::config::slots;
use crate::dispatch::jetstream::{Cache, JetStreamWorkSource, NatsOptions, worker_logs};
use crate::dispatch::{WorkSource, jetstream};
use crate::run_log::RunLogs;

/// Lines that wait to be sent.
const LINES: usize = 4096;
/// Each of the last words has left the machine within this, or is not said.
const LAST: Duration = Duration::from_secs(5);

pub(super) async fn agent(args: crate::cli::service_args::Agent) -> anyhow::Result<()> {
    start_log(&args.log)?;
    let options = args.nats.options("agent")?.context("say where the NATS servers are: --nats URL")?;
    if args.insecure_no_sandbox && !options.servers.iter().all(|server| is_loopback(server)) {
        bail!("--insecure-no-sandbox is for NATS servers on loopback only");
    }
    let cache = Cache::new(&args.data, args.cache_bytes)
        .with_context(|| format!("cannot use the folder {}", args.data.display()))?;
    let workers = args
        .workers
        .workers
        .map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from);
    let memory = args.workers.memory(workers);
    let launch = launcher(args.insecure_no_sandbox, false, memory)?;
    let places = args.places.map_or(slots(workers), usize::from);
    let name = args.name.unwrap_or_else(|| format!("{}-{}", machine::host(), std::process::id()));

    let mut signals = Signals::new()?;
    let client = jetstream::connect(&options).await?;
    let (names, role) = (args.nats.names(), args.nats.role("agent"));
    let receiver = JetStreamWorkSource::start(client.clone(), names.clone(), cache, places).await;
    let receiver = Arc::new(receiver.context("the NATS servers let this agent receive nothing")?);
    let (printed, to_send) = mpsc::channel(LINES);
    let sending = tokio::spawn(worker_logs::send(client.clone(), names.clone(), to_send));
    let (roster, hurry) = (AgentRegistry::default(), Arc::<Notify>::default());
    let agent = Agent {
        name: name.clone(),
        machine: machine::describe(&launch.describe()),
        source: Arc::clone(&receiver) as Arc<dyn WorkSource>,
        launch,
        events: RunLogs::forwarding(printed),
        workers,
        places,
        grace: Duration::from_secs(args.grace),
        hurry: Arc::clone(&hurry),
        roster: roster.clone(),
    };
    let mut working = tokio::spawn(agent.work());
    let announcing =
        tokio::spawn(jetstream::announce(client.clone(), names.clone(), role.clone(), name.clone(), roster));
    announce(&name, &options)?;

    let signal = signals.next().await;
    tracing::info!(signal, "leaving: what is in hand may end");
    receiver.close().await;
    tokio::select! {
        ended = &mut working => ended.context("the agent panicked")?,
        // Whoever asks twice does not want to wait.
        signal = signals.next() => {
            tracing::info!(signal, "leaving at once: what is in hand is given back");
            hurry.notify_one();
            working.await.context("the agent panicked")?;
        }
    }
    receiver.last_requests().await;
    announcing.abort();
    // The servers may be gone as well.
    let _ = timeout(LAST, jetstream::leave(&client, &names, &role, &name)).await;
    drop(receiver);
    // The servers forget it by themselves where this takes too long.
    let _ = timeout(LAST, sending).await;
    let _ = timeout(LAST, client.drain()).await;
    tracing::info!("left");
    Ok(())
}

fn announce(name: &str, options: &NatsOptions) -> std::io::Result<()> {
    use std::io::Write;
    tracing::info!(name, servers = options.servers.join(", "), "works");
    let mut out = std::io::stdout().lock();
    writeln!(out, "works as {name}")?;
    out.flush()
}

fn is_loopback(server: &str) -> bool {
    let Ok(server) = server.parse::<async_nats::ServerAddr>() else { return false };
    match server.host() {
        "localhost" => true,
        host => host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    }
}
