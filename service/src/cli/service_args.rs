//! Arguments of the service, of agents, and of what both share.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nix::sys::sysinfo::sysinfo;

use crate::config::{
    BODY, BODY_MEMORY, CONNECTIONS, CONNECTIONS_ADDRESS, DataFolder, HEAD, KEEP_FREE_RUNS, KEEP_RUNS, KEPT,
    LIMITS, STALL,
};
use crate::dispatch::jetstream::{Names, PREFIX};
use crate::pricing;
use crate::pricing::Microcredits;
use crate::store::Database;

/// Where the service keeps its things.
#[derive(Clone, Debug, Args)]
pub(super) struct Keep {
    /// Folder for the database, the key, uploads and answers; made if it is not there.
    #[arg(long, env = "FASTMAP_SERVICE_DATA", default_value = "fastmap-data")]
    pub(super) data: PathBuf,
    /// The database: `postgres://user:password@host/name` for any number of gateways, or `sqlite://` and a path for one. The default
    /// is SQLite in the folder. With a password it is better in the environment than here, where others may see it.
    #[arg(long, env = "FASTMAP_DATABASE", hide_env_values = true)]
    pub(super) database: Option<String>,
    /// The key that seals what tokens sign with: the same for all gateways of a database. The default is service.key in the
    /// folder; made if it is not there.
    #[arg(long, env = "FASTMAP_SERVICE_KEY")]
    pub(super) key: Option<PathBuf>,
}

impl Keep {
    /// The database that is meant.
    pub(super) fn database(&self) -> anyhow::Result<Database> {
        match &self.database {
            Some(named) => named.parse().map_err(|why: String| anyhow::anyhow!("--database: {why}")),
            None => Ok(Database::File(DataFolder::new(&self.data).database())),
        }
    }

    /// The key's file.
    pub(super) fn key(&self) -> PathBuf {
        self.key.clone().unwrap_or_else(|| DataFolder::new(&self.data).key())
    }
}

/// Memory of jailed workers, as the command line has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    /// Bytes of one.
    pub(super) worker: u64,
    /// Bytes of all of an account, if that was said.
    pub(super) account: Option<u64>,
    /// Workers of each run.
    pub(super) workers: usize,
}

impl Memory {
    /// Bytes of all workers of an account: those of one run at their largest, as long as that leaves half of
    /// the machine to others.
    pub(super) fn account(&self) -> u64 {
        let half = sysinfo().map_or(u64::MAX, |machine| machine.ram_total() / 2);
        let one_run = self.worker.saturating_mul(self.workers as u64);
        self.account.unwrap_or_else(|| one_run.min(half).max(self.worker))
    }
}

/// Where the service keeps its things, and how to answer.
#[derive(Debug, Args)]
pub(super) struct Common {
    #[command(flatten)]
    pub(super) keep: Keep,
    /// Answer in JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// The workers of runs.
#[derive(Debug, Args)]
pub(super) struct WorkerArgs {
    /// Worker processes of each run; the default is one for each core.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) workers: Option<u16>,
    /// Bytes of memory that each jailed worker may have; one that takes more is ended.
    #[arg(long, default_value_t = 1 << 30, value_parser = clap::value_parser!(u64).range(1 << 24..))]
    pub(super) worker_memory: u64,
    /// Bytes of memory that all jailed workers of an account may have together; when they have no more, one
    /// that has much is ended. The default is what the workers of one run may have, at most half of the
    /// machine's.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1 << 24..))]
    pub(super) account_memory: Option<u64>,
}

impl WorkerArgs {
    /// The memory of `workers` workers of each run.
    pub(super) fn memory(&self, workers: usize) -> Memory {
        Memory { worker: self.worker_memory, account: self.account_memory, workers }
    }
}

/// What is logged, and how.
#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// How the log is written, to stderr.
    #[arg(long, value_enum, default_value = "text")]
    pub(super) log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a list like `info,fastmap_service=debug`.
    #[arg(long, env = "FASTMAP_LOG", default_value = "info")]
    pub(super) log: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    pub(super) keep: Keep,
    /// Address and port; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8750")]
    pub(super) listen: SocketAddr,
    /// Certificate chain (PEM). Without it the service speaks plain HTTP, for loopback or behind a proxy that ends TLS.
    #[arg(long, requires = "tls_key")]
    pub(super) tls_cert: Option<PathBuf>,
    /// The certificate's key (PEM).
    #[arg(long, requires = "tls_cert")]
    pub(super) tls_key: Option<PathBuf>,
    /// For trying things out: loopback, a free port, temporary data, one account with 1000 credits, the two lines
    /// that make a client use it, and a link to the dashboard. Where this machine makes no jails it does without, and says so.
    #[arg(long)]
    pub(super) dev: bool,
    /// Start what clients upload without a jail, with all that this user may do. Loopback only.
    #[arg(long)]
    pub(super) insecure_no_sandbox: bool,
    #[command(flatten)]
    pub(super) workers: WorkerArgs,
    /// Credits for an hour of CPU time.
    #[arg(long, default_value = "10", value_parser = pricing::read)]
    pub(super) price_cpu_hour: Microcredits,
    /// Credits for 10⁹ bytes of answers.
    #[arg(long, default_value = "10", value_parser = pricing::read)]
    pub(super) price_result_gb: Microcredits,
    /// Seconds of silence after which a run ends.
    #[arg(long, default_value_t = LIMITS.lease_seconds, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) lease: u64,
    /// Seconds for which answers are kept after their run's end.
    #[arg(long, default_value_t = LIMITS.results_seconds)]
    pub(super) keep_results: u64,
    /// Seconds for which an ended run is remembered that nothing was answered and charged for.
    #[arg(long, default_value_t = KEEP_FREE_RUNS.as_secs(), value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) keep_free_runs: u64,
    /// Seconds for which all other ended runs are remembered; the ledger keeps their charges.
    #[arg(long, default_value_t = KEEP_RUNS.as_secs(), value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) keep_runs: u64,
    /// Seconds of CPU time after which a batch is cut.
    #[arg(long, default_value_t = LIMITS.batch_cpu_seconds, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) batch_cpu: u64,
    /// Seconds that a request waits for an answer; less than the lease.
    #[arg(long, default_value_t = LIMITS.long_poll_seconds, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub(super) long_poll: u64,
    /// Seconds within which the head of a request must come; also for how long an idle connection is kept.
    #[arg(long, default_value_t = HEAD.as_secs(), value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) head_time: u64,
    /// Seconds within which its body must come.
    #[arg(long, default_value_t = BODY.as_secs(), value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) body_time: u64,
    /// Seconds without progress after which a request's body, or an answer that its client does not take, is
    /// cut.
    #[arg(long, default_value_t = STALL.as_secs(), value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) stall_time: u64,
    /// Most connections; never more than a third of the descriptors that the process may have. Beyond, one is
    /// closed for each new one: half of all are kept for those that have carried a good request.
    #[arg(long, default_value_t = CONNECTIONS as u32, value_parser = clap::value_parser!(u32).range(4..))]
    pub(super) max_connections: u32,
    /// Most connections of one address that have carried no good request; a balancer in front needs more.
    #[arg(long, default_value_t = CONNECTIONS_ADDRESS as u32, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_connections_address: u32,
    /// Bytes of bodies and answers that an account may have in memory while others have none; the default is
    /// 144 MiB, and more with many workers.
    #[arg(long, value_parser = clap::value_parser!(u64).range(BODY_MEMORY..))]
    pub(super) body_memory: Option<u64>,
    /// Most bytes of an executable.
    #[arg(long, default_value_t = LIMITS.executable_bytes)]
    pub(super) max_executable: u64,
    /// Most bytes of all that an account uploads.
    #[arg(long, default_value_t = LIMITS.stored_bytes)]
    pub(super) max_stored: u64,
    /// Most bytes of answers that an account has not acknowledged.
    #[arg(long, default_value_t = KEPT)]
    pub(super) max_answers: u64,
    /// Most requests of an account in a second.
    #[arg(long, default_value_t = LIMITS.requests_per_second, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_requests: u32,
    /// Most open runs of an account.
    #[arg(long, default_value_t = LIMITS.open_runs, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) max_runs: u32,
    #[command(flatten)]
    pub(super) nats: Nats,
    /// NATS servers that keep a copy of what is queued.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=5))]
    pub(super) nats_replicas: u8,
    /// Batches of one account that agents may have at a time, by way of NATS.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) nats_quota: u32,
    /// Seconds of silence after which an agent's batches are given to others, by way of NATS.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) agent_lease: u64,
    /// Seconds that open runs are given to end when the service is asked to stop.
    #[arg(long, default_value_t = 30)]
    pub(super) grace: u64,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

/// The service's names on NATS servers.
#[derive(Debug, Args)]
pub(super) struct NatsNames {
    /// What the service's names on the servers begin with.
    #[arg(long, default_value = PREFIX, value_parser = name)]
    pub(super) nats_prefix: String,
    /// The `JetStream` domain of the gateway's servers, where those named here are leaf nodes with another or without `JetStream`.
    #[arg(long, env = "FASTMAP_NATS_DOMAIN", value_parser = name)]
    pub(super) nats_domain: Option<String>,
}

impl NatsNames {
    /// The names themselves.
    pub(super) fn names(&self) -> Names {
        Names::new(&self.nats_prefix).in_domain(self.nats_domain.clone())
    }
}

/// How to reach NATS.
#[derive(Debug, Args)]
pub(super) struct Nats {
    /// NATS servers (2.10 or newer, JetStream on), separated by commas: `nats://host:port`, or `tls://`.
    #[arg(long = "nats", env = "FASTMAP_NATS", value_delimiter = ',', value_name = "URL")]
    pub(super) servers: Vec<String>,
    /// User of the servers' configuration; the password stands in `FASTMAP_NATS_PASSWORD`.
    #[arg(long, env = "FASTMAP_NATS_USER", conflicts_with_all = ["nats_creds", "nats_nkey"])]
    pub(super) nats_user: Option<String>,
    #[arg(long, env = "FASTMAP_NATS_PASSWORD", hide = true, hide_env_values = true)]
    pub(super) nats_password: Option<String>,
    /// Credentials file (JWT and seed), as nsc writes it.
    #[arg(long, env = "FASTMAP_NATS_CREDS", conflicts_with = "nats_nkey")]
    pub(super) nats_creds: Option<PathBuf>,
    /// File with the seed of an nkey.
    #[arg(long, env = "FASTMAP_NATS_NKEY")]
    pub(super) nats_nkey: Option<PathBuf>,
    /// Certificate (PEM) of the authority that has signed the servers' certificates; TLS is then a must.
    #[arg(long)]
    pub(super) nats_ca: Option<PathBuf>,
    /// Certificate (PEM) to show to the servers.
    #[arg(long, requires = "nats_key")]
    pub(super) nats_cert: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, requires = "nats_cert")]
    pub(super) nats_key: Option<PathBuf>,
    /// Under which name `fastmap nats-permissions` has let it in; the default is the user's.
    #[arg(long, env = "FASTMAP_NATS_ROLE", value_parser = name)]
    pub(super) nats_role: Option<String>,
    #[command(flatten)]
    pub(super) names: NatsNames,
}

/// A token of a subject.
pub(super) fn name(text: &str) -> Result<String, String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    match !text.is_empty() && text.bytes().all(good) {
        true => Ok(text.to_owned()),
        false => Err("letters, digits, - and _ alone".to_owned()),
    }
}

#[derive(Debug, Args)]
pub(super) struct Agent {
    #[command(flatten)]
    pub(super) nats: Nats,
    /// Its name on the operator's page; the default is the machine's, with the process's number.
    #[arg(long, value_parser = name)]
    pub(super) name: Option<String>,
    /// Folder for uploads of runs, kept for the next run of the same program.
    #[arg(long, env = "FASTMAP_AGENT_DATA", default_value = "fastmap-agent")]
    pub(super) data: PathBuf,
    /// Most bytes of uploads that no run uses.
    #[arg(long, default_value_t = 8 << 30)]
    pub(super) cache_bytes: u64,
    /// Batches that it has at a time; the default is four for each worker.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) places: Option<u16>,
    #[command(flatten)]
    pub(super) workers: WorkerArgs,
    /// Start what clients upload without a jail, with all that this user may do. For NATS servers on loopback only.
    #[arg(long)]
    pub(super) insecure_no_sandbox: bool,
    /// Seconds that batches in hand are given to end when the agent is asked to stop; the rest is handed back.
    #[arg(long, default_value_t = 20)]
    pub(super) grace: u64,
    #[command(flatten)]
    pub(super) log: LogArgs,
}

#[derive(Debug, Args)]
pub(super) struct NatsPermissions {
    /// Users that run agents: each reads what is sent to it alone. Agents that trust each other may share one.
    #[arg(long = "agent", default_value = "agent", value_parser = name)]
    pub(super) agents: Vec<String>,
    #[command(flatten)]
    pub(super) names: NatsNames,
}
