//! Configuration of the service: where it keeps its things, and what it allows. Read from the command line by `cli`,
//! handed to all parts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fastmap_backends::cloud::{Limits, Prices};

use crate::{pricing, private};

/// The service's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Uploads and answers live here; database and key, too, where nothing else is said.
    pub data: DataFolder,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Certificate chain and key (PEM), if it speaks TLS itself.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Worker processes of each run, and what one account may have in flight is measured by.
    pub workers: usize,
    /// What is charged.
    pub prices: Prices,
    /// What is allowed.
    pub limits: Limits,
    /// Bytes of answers that are kept for an account before it has acknowledged some.
    pub kept_bytes: u64,
    /// A request's head must come within this, and its body within that.
    pub head_time: Duration,
    /// See `head_time`.
    pub body_time: Duration,
    /// A body, or an answer, of which nothing moves for this long ends its connection.
    pub stall_time: Duration,
    /// Most connections, and most of one address that have carried no good request.
    pub max_connections: usize,
    /// See `max_connections`.
    pub max_connections_address: usize,
    /// Bytes of bodies and answers that one account may have in memory while others have none.
    pub body_memory: u64,
    /// How long an ended run is remembered that nothing was paid for.
    pub keep_free_runs: Duration,
    /// How long any ended run is remembered, after its answers.
    pub keep_runs: Duration,
    /// How long open runs may go on when the service is asked to stop.
    pub grace: Duration,
    /// Starts strangers' executables without a jail. Loopback only.
    pub unconfined: bool,
}

/// What is allowed where nothing else is said.
pub const LIMITS: Limits = Limits {
    executable_bytes: 1 << 30,
    context_bytes: 256 << 20,
    stored_bytes: 8 << 30,
    part_bytes: 8 << 20,
    batch_bytes: 64 << 20,
    result_bytes: 64 << 20,
    batch_cpu_seconds: 300,
    batches_in_flight: 256,
    open_runs: 32,
    requests_per_second: 5000,
    lease_seconds: 30,
    results_seconds: 3600,
    long_poll_seconds: 20,
};

/// As many bytes of answers are kept for an account as of uploads.
pub const KEPT: u64 = LIMITS.stored_bytes;

/// Who says nothing holds a connection no longer than this.
pub const HEAD: Duration = Duration::from_mins(1);
/// A body must come within this.
pub const BODY: Duration = Duration::from_mins(2);

/// Nothing of a body or an answer moves for this long: its connection ends.
pub const STALL: Duration = Duration::from_secs(20);
/// Most connections; fewer where descriptors are fewer.
pub const CONNECTIONS: usize = 4096;
/// Most connections of one address that have carried no good request.
pub const CONNECTIONS_ADDRESS: usize = 512;
/// Bytes of bodies and answers of one account in memory: a batch of the largest size as sent and as unpacked,
/// and some.
pub const BODY_MEMORY: u64 = 144 << 20;
/// An ended run that nothing was paid for is remembered for so long.
pub const KEEP_FREE_RUNS: Duration = Duration::from_hours(24);
/// Any other ended run is.
pub const KEEP_RUNS: Duration = Duration::from_hours(24 * 365);

impl Config {
    /// Settings for a service whose things are in `data`.
    pub fn new(data: &Path, listen: SocketAddr) -> Self {
        Config {
            data: DataFolder(data.to_owned()),
            listen,
            tls: None,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            prices: pricing::DEFAULT,
            limits: LIMITS,
            kept_bytes: KEPT,
            head_time: HEAD,
            body_time: BODY,
            stall_time: STALL,
            max_connections: CONNECTIONS,
            max_connections_address: CONNECTIONS_ADDRESS,
            body_memory: BODY_MEMORY,
            keep_free_runs: KEEP_FREE_RUNS,
            keep_runs: KEEP_RUNS,
            grace: Duration::from_secs(30),
            unconfined: false,
        }
    }

    /// Batches of one account that may be at the workers at a time; also what a client is to keep in flight.
    pub fn slots(&self) -> usize {
        slots(self.workers)
    }
}

/// The same, of so many workers.
pub fn slots(workers: usize) -> usize {
    workers.saturating_mul(4)
}

/// The folder that holds all that the service keeps.
#[derive(Clone, Debug)]
pub struct DataFolder(PathBuf);

impl DataFolder {
    /// A folder at that path; see [`DataFolder::create`].
    pub fn new(path: &Path) -> Self {
        DataFolder(path.to_owned())
    }

    /// Makes the folder and those in it, for their owner alone. What was there before is closed to others.
    ///
    /// # Errors
    /// If one can't be made, or is open to others and not this user's to close.
    pub fn create(&self) -> std::io::Result<()> {
        let folders =
            [self.0.clone(), self.blobs("executable"), self.blobs("context"), self.uploads(), self.spool()];
        folders.iter().try_for_each(|path| private::folder(path))
    }

    /// The SQLite database.
    pub fn database(&self) -> PathBuf {
        self.0.join("fastmap.sqlite")
    }

    /// The key that seals the signing halves of tokens.
    pub fn key(&self) -> PathBuf {
        self.0.join("service.key")
    }

    /// Whole uploads of a kind, by hash.
    pub fn blobs(&self, kind: &str) -> PathBuf {
        self.0.join(format!("{kind}s"))
    }

    /// Uploads under way.
    pub fn uploads(&self) -> PathBuf {
        self.0.join("uploads")
    }

    /// Answers that are kept.
    pub fn spool(&self) -> PathBuf {
        self.0.join("answers")
    }
}
