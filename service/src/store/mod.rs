//! The database: the system of record. Everything else (queue, pools, uploads under way) may be lost at any time.
//!
//! One connection writes, behind a lock; a few read. The SQL is what SQLite and PostgreSQL have in common (`$1`,
//! `ON CONFLICT`, `RETURNING`, `WITH … VALUES`); what they have not (triggers among it) stands in the migrations.
//! `ledger` moves money, `commit` gathers the two writes that each batch needs and `group` does them in one statement for
//! many batches; `accounts`, `runs` and `blobs` are what their names say; `dashboard`, `activity` and `listing` are the
//! dashboard's. Called by the gateway and by the command line, also at the same time from two processes.

mod accounts;
mod activity;
mod audit;
mod blobs;
mod commit;
mod dashboard;
mod group;
mod ledger;
#[cfg(test)]
mod ledger_tests;
mod listing;
mod runs;

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{Connection, SqlStr};
use tokio::sync::{Mutex, OwnedMutexGuard};

pub use accounts::{Account, TokenInfo, TokenKey};
pub use audit::Entry;
pub use blobs::{Blob, Kind};
pub use commit::Committer;
pub use dashboard::{Lasts, Session, Visit};
pub use ledger::{Reserve, Reserved, Settle, Settled, Stored};
pub use listing::{Filter, LedgerPage, Step};
pub use runs::{NewRun, Opened, Run};

/// Why the database did not do it. Cheap to clone, for one failed transaction is many requests' failure.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database's own words.
    #[error("the database: {0}")]
    Database(#[source] Arc<sqlx::Error>),
    /// The tables could not be brought up to date.
    #[error("the database's tables: {0}")]
    Migrate(#[source] Arc<sqlx::migrate::MigrateError>),
    /// What was asked for can't be done.
    #[error("{0}")]
    Refused(String),
    /// The service is shutting down.
    #[error("the database is closed")]
    Closed,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        StoreError::Database(Arc::new(error))
    }
}

type Result<T> = std::result::Result<T, StoreError>;

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    readers: SqlitePool,
    writer: Arc<Mutex<SqliteConnection>>,
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Store {
    /// Opens the database, makes it if there is none, and brings its tables up to date.
    ///
    /// # Errors
    /// If it can't be opened, or was made by a later version.
    pub async fn open(path: &Path) -> Result<Self> {
        // NORMAL in WAL mode: a commit survives the death of the process, and the database stays whole when the power
        // fails. What the last moments before a power failure lose is a charge less, never one too many.
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .statement_cache_capacity(STATEMENTS)
            .busy_timeout(Duration::from_secs(10));
        let mut writer = SqliteConnection::connect_with(&options).await?;
        migrator().run(&mut writer).await.map_err(|error| StoreError::Migrate(Arc::new(error)))?;
        let readers =
            SqlitePoolOptions::new().max_connections(4).connect_with(options.read_only(true)).await?;
        Ok(Store { readers, writer: Arc::new(Mutex::new(writer)) })
    }

    /// The connection that writes, for one transaction.
    async fn writer(&self) -> OwnedMutexGuard<SqliteConnection> {
        Arc::clone(&self.writer).lock_owned().await
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// If not.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.readers).await?;
        Ok(())
    }
}

/// Statements that a connection keeps prepared: those of groups of each size, and the others.
const STATEMENTS: usize = 128;

/// A write transaction that takes the lock at its begin: one that reads first and writes later would fail where
/// another process has written in between.
const BEGIN: &str = "BEGIN IMMEDIATE";

fn migrator() -> Migrator {
    let scripts: [(i64, &str, &'static str); 3] = [
        (1, "begin", include_str!("../../migrations/sqlite/0001_begin.sql")),
        (2, "carried", include_str!("../../migrations/sqlite/0002_carried.sql")),
        (10, "dashboard", include_str!("../../migrations/sqlite/0010_dashboard.sql")),
    ];
    let migrations = scripts.into_iter().map(|(version, name, sql)| {
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, SqlStr::from_static(sql), false)
    });
    Migrator::with_migrations(migrations.collect())
}
