//! The database: the system of record. Everything else (queue, pools, uploads under way) may be lost at any time.
//!
//! On SQLite (one gateway) one connection writes, behind a lock, and a few read. On PostgreSQL (one or many) a few do both,
//! and whoever moves money of an account locks it first. The SQL is what the two have in common (`$1`, `ON CONFLICT`,
//! `RETURNING`, `WITH … VALUES`), said through `db`; what they have not (triggers among it) stands in the migrations.
//! `postgres` opens connections to a server and looks whether it is one that takes writes; `wal` folds SQLite's log in beside the
//! writer. `ledger` moves money, `usage` that of what workers use beside batches,
//! `commit` gathers the two writes that each batch needs and `group` does them in one statement for many batches;
//! `accounts`, `runs` and `blobs` are what their names say; `forget` forgets runs; `dashboard`, `activity` and `listing` are the
//! dashboard's. Called by the gateway and by the command line, also at the same time from two processes.

mod accounts;
mod activity;
mod audit;
mod blobs;
mod commit;
mod dashboard;
mod database;
mod db;
mod forget;
mod group;
mod ledger;
#[cfg(test)]
mod ledger_tests;
mod listing;
mod migrations;
mod postgres;
mod presence;
mod runs;
mod shared;
#[cfg(test)]
pub(crate) mod testing;
mod usage;
mod wal;

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use tokio::sync::Mutex;

use crate::keys::random;
use crate::private;
use db::{Conn, Db, Row, Sql, Tx};

pub use accounts::{Account, TokenInfo, TokenKey};
pub use audit::Entry;
pub(crate) use blobs::{BEGUN, on_disk};
pub use blobs::{Begun, Blob, Kind, Part};
pub use commit::Committer;
pub use dashboard::{Lasts, Session, Visit};
pub use database::Database;
pub use ledger::{Reserve, Reserved, Settle, Settled, Stored};
pub use listing::{Filter, LedgerPage, Step};
pub use postgres::Unfit;
pub use presence::Presence;
pub use runs::{NewRun, Opened, Run};
pub use usage::{Charged, Short};

/// Why the database did not do it. Cheap to clone, for one failed transaction is many requests' failure. Its words hold those
/// of what caused it; that is no `source()` as well, or a chain of errors would say it twice.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database's own words.
    #[error("the database: {0}")]
    Database(Arc<sqlx::Error>),
    /// The tables could not be brought up to date.
    #[error("the database's tables: {0}")]
    Migrate(Arc<sqlx::migrate::MigrateError>),
    /// The server that the address leads to is of no use.
    #[error(transparent)]
    Unfit(Unfit),
    /// What was asked for can't be done.
    #[error("{0}")]
    Refused(String),
    /// The service is shutting down.
    #[error("the database is closed")]
    Closed,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        postgres::note(&error);
        StoreError::Database(Arc::new(error))
    }
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        StoreError::Migrate(Arc::new(error))
    }
}

type Result<T> = std::result::Result<T, StoreError>;

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pool: Pool,
    /// The number under which this process reserves; 0 where there can be no other.
    gateway: i64,
}

#[derive(Clone, Debug)]
enum Pool {
    Sqlite { readers: SqlitePool, writer: Arc<Mutex<SqliteConnection>> },
    Postgres(PgPool),
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Store {
    /// Opens the database, makes what is not there, and brings its tables up to date.
    ///
    /// # Errors
    /// If it can't be opened, or was made by a later version.
    pub async fn open(database: &Database) -> Result<Self> {
        match database {
            Database::File(path) => Store::open_sqlite(path).await,
            Database::Server(options) => Store::open_postgres(options).await,
        }
    }

    async fn open_sqlite(path: &Path) -> Result<Self> {
        // SQLite makes its log with the database's mode.
        let private = private::file(path).and_then(|()| {
            let beside = |end: &str| {
                PathBuf::from([path.as_os_str(), OsStr::new(end)].into_iter().collect::<OsString>())
            };
            ["-wal", "-shm"].iter().try_for_each(|end| private::file_if_there(&beside(end)))
        });
        private.map_err(|error| StoreError::Refused(error.to_string()))?;
        // NORMAL in WAL mode: a commit survives the death of the process, and the database stays whole when the power
        // fails. What the last moments before a power failure lose is a charge less, never one too many.
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .statement_cache_capacity(STATEMENTS)
            .pragma("wal_autocheckpoint", wal::MOST)
            .busy_timeout(Duration::from_secs(10));
        let mut writer = SqliteConnection::connect_with(&options).await?;
        migrations::sqlite().run(&mut writer).await?;
        let readers =
            SqlitePoolOptions::new().max_connections(4).connect_with(options.read_only(true)).await?;
        Ok(Store { pool: Pool::Sqlite { readers, writer: Arc::new(Mutex::new(writer)) }, gateway: 0 })
    }

    async fn open_postgres(options: &PgConnectOptions) -> Result<Self> {
        let pool = postgres::open(options).await?;
        // Gateways that start at the same time wait for one another.
        migrations::postgres().run(&pool).await?;
        let gateway =
            random::<8>().map_err(|error| StoreError::Refused(format!("no random bytes: {error}")))?;
        Ok(Store { pool: Pool::Postgres(pool), gateway: i64::from_le_bytes(gateway) >> 1 })
    }

    /// Whether other gateways may use the database, too.
    pub fn is_shared(&self) -> bool {
        matches!(self.pool, Pool::Postgres(_))
    }

    /// A statement that reads.
    fn sql(&self, text: impl Into<Cow<'static, str>>) -> Sql<'_> {
        match &self.pool {
            Pool::Sqlite { readers, .. } => Sql::on_sqlite(readers, text.into()),
            Pool::Postgres(pool) => Sql::on_postgres(pool, text.into()),
        }
    }

    /// A connection that writes, for one transaction. On SQLite it is the only one.
    async fn writer(&self) -> Result<Conn> {
        Ok(match &self.pool {
            Pool::Sqlite { writer, .. } => Conn::Sqlite(Arc::clone(writer).lock_owned().await),
            Pool::Postgres(pool) => Conn::Postgres(pool.acquire().await?),
        })
    }

    /// Writes a copy of all that is committed now to a file of its owner's alone, while others go on writing. `false`: this is
    /// PostgreSQL, which has tools of its own for that.
    ///
    /// # Errors
    /// If the file is there already or can't be written, or the database fails.
    pub async fn copy_to(&self, path: &Path) -> Result<bool> {
        if self.is_shared() {
            return Ok(false);
        }
        let wrong = |why: &dyn std::fmt::Display| StoreError::Refused(format!("{}: {why}", path.display()));
        let text = path.to_str().ok_or_else(|| wrong(&"not a name in UTF-8"))?;
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| wrong(&error))?;
        let copied = self.writer().await?.sql("VACUUM INTO $1").bind(text).execute().await;
        if copied.is_err() {
            let _absent = std::fs::remove_file(path);
        }
        copied.map(|_| true)
    }

    /// Whether the database would take a write now.
    ///
    /// # Errors
    /// If not, or if it does not answer within seconds.
    pub async fn ready(&self) -> Result<()> {
        match &self.pool {
            Pool::Sqlite { .. } => self.sql("SELECT 1").execute().await.map(drop),
            Pool::Postgres(pool) => postgres::ready(pool).await,
        }
    }
}

/// Statements that a connection keeps prepared: those of groups of each size, and the others.
const STATEMENTS: usize = 128;
