//! The database: its connections, handed out for reads and for transactions that write.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use tokio::sync::Mutex;

use super::db::{Conn, STATEMENTS, Sql};
use super::error::{Result, StoreError};
use super::url::Database;
use crate::keys::random;
use crate::private;

/// Pages (256 MB) of SQLite's log after which a commit writes them into the database itself: a bound in case
/// the checkpoints beside the writer (`sqlite_checkpoint`) fall behind or fail.
const WAL_PAGES: &str = "65536";

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) pool: Pool,
    /// The number under which this process reserves; 0 where there can be no other.
    pub(super) gateway: i64,
}

#[derive(Clone, Debug)]
pub(super) enum Pool {
    Sqlite { readers: SqlitePool, writer: Arc<Mutex<SqliteConnection>> },
    Postgres(PgPool),
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
        // SQLite creates its log and the log's index with the database's mode. Those that are there from
        // before may be open to other users, and are closed here.
        let private = private::file(path).and_then(|()| {
            let beside = |end: &str| {
                PathBuf::from([path.as_os_str(), OsStr::new(end)].into_iter().collect::<OsString>())
            };
            ["-wal", "-shm"].iter().try_for_each(|end| private::file_if_there(&beside(end)))
        });
        private.map_err(|error| StoreError::Refused(error.to_string()))?;
        // NORMAL in WAL mode: a commit survives the death of the process, and the database stays whole when
        // the power fails. What the last moments before a power failure lose is a charge less, never one too
        // many.
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .statement_cache_capacity(STATEMENTS)
            .pragma("wal_autocheckpoint", WAL_PAGES)
            // Commands (`fastmap account …`) write to the same file from processes of their own: a writer
            // waits for their transactions instead of failing.
            .busy_timeout(Duration::from_secs(10));
        // Before the readers: those are read-only, and can create neither the file nor its tables.
        let mut writer = SqliteConnection::connect_with(&options).await?;
        super::migrations::sqlite().run(&mut writer).await?;
        let readers =
            SqlitePoolOptions::new().max_connections(4).connect_with(options.read_only(true)).await?;
        Ok(Store { pool: Pool::Sqlite { readers, writer: Arc::new(Mutex::new(writer)) }, gateway: 0 })
    }

    async fn open_postgres(options: &PgConnectOptions) -> Result<Self> {
        // Nothing is migrated at a server that takes no writes or behind a pooler that lends backends:
        // migrations take an advisory lock, which belongs to a session.
        let pool = super::postgres::open(options).await?;
        // Gateways that start at the same time wait for one another.
        super::migrations::postgres().run(&pool).await?;
        // A number for each process, not for each machine: what an earlier process of this gateway had
        // reserved is released like that of any gateway that is gone. Random, so that it is not another
        // gateway's.
        let gateway =
            random::<8>().map_err(|error| StoreError::Refused(format!("no random bytes: {error}")))?;
        Ok(Store { pool: Pool::Postgres(pool), gateway: i64::from_le_bytes(gateway) >> 1 })
    }

    /// Whether other gateways may use the database, too.
    pub fn is_shared(&self) -> bool {
        matches!(self.pool, Pool::Postgres(_))
    }

    /// A statement that reads.
    pub(super) fn sql(&self, text: impl Into<Cow<'static, str>>) -> Sql<'_> {
        match &self.pool {
            Pool::Sqlite { readers, .. } => Sql::on_sqlite(readers, text.into()),
            Pool::Postgres(pool) => Sql::on_postgres(pool, text.into()),
        }
    }

    /// A connection that writes, for one transaction. On SQLite it is the only one.
    pub(super) async fn writer(&self) -> Result<Conn> {
        Ok(match &self.pool {
            // The guard is owned, so that a connection can outlive the borrow of the store. While it is held,
            // every other task that writes waits.
            Pool::Sqlite { writer, .. } => Conn::Sqlite(Arc::clone(writer).lock_owned().await),
            // Any connection writes: transactions that move money of one account wait for each other at the
            // account's row (`ledger::lock`).
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
        // `VACUUM INTO` writes to an empty file, too. This one is made before, so that other users can read
        // the copy at no time, and so that no file that is there is overwritten.
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| wrong(&error))?;
        // It only reads the database: the service, which is another process, goes on writing.
        let copied = self.writer().await?.sql("VACUUM INTO $1").bind(text).execute().await;
        if copied.is_err() {
            // Half a copy must not be taken for one. If it can't be removed, the error of the copy is the one
            // to report.
            let _ = std::fs::remove_file(path);
        }
        copied.map(|_| true)
    }

    /// Whether the database would take a write now.
    ///
    /// # Errors
    /// If not, or if it does not answer within seconds.
    pub async fn ready(&self) -> Result<()> {
        match &self.pool {
            // Nothing is written for the question: that a disk is full is noticed by the next commit.
            Pool::Sqlite { .. } => self.sql("SELECT 1").execute().await.map(drop),
            Pool::Postgres(pool) => super::postgres::ready(pool).await,
        }
    }
}
