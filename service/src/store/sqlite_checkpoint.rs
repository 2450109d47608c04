//! Checkpoints of SQLite's write-ahead log, beside the writer. By itself SQLite writes the log into the
//! database within a commit, each time that it has 1,000 pages: that commit, and all after it, then wait
//! until the disk has synced both files.

use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::SqliteConnection;
use sqlx::{ConnectOptions, Row as _};
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use super::Store;
use super::database::Pool;
use super::error::Result;

/// Time between two checkpoints. Commits since the last one may be lost when the power fails.
const LOOK: Duration = Duration::from_millis(500);
/// Pages of a log that is to begin anew as soon as it can.
const LONG: i64 = 1000;

impl Store {
    /// Keeps the log short. Never returns, but on PostgreSQL, which does that itself.
    pub async fn checkpoint_loop(self) {
        let Pool::Sqlite { readers, writer } = &self.pool else { return };
        // A checkpoint writes to the database file, which the readers' options do not allow. It needs a
        // connection of its own, because the writer's is busy with commits.
        let options = readers.connect_options().as_ref().clone().read_only(false);
        let (mut look, mut own, mut failing) = (interval(LOOK), None, false);
        // After a slow checkpoint the next one waits its whole time: ticks that were missed would ask a slow
        // disk more often.
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let done = async {
                let conn = match &mut own {
                    Some(conn) => conn,
                    None => own.insert(options.connect().await?),
                };
                fold(conn, writer).await
            };
            match done.await {
                Ok(_) => failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "the database's log can't be folded in now, and grows");
                    }
                    // A new connection for the next attempt: the error may have been this one's. Commits go
                    // on meanwhile, and fold the log in themselves when it has `WAL_PAGES`.
                    own = None;
                }
            }
        }
    }
}

/// Folds what is in the log into the database; gives the number of pages that were in it. Commits wait only for what has come
/// while the rest was folded, and only where the log is long: with no page of a reader left in it, the next commit begins it anew.
async fn fold(own: &mut SqliteConnection, writer: &Arc<Mutex<SqliteConnection>>) -> Result<i64> {
    let pages = checkpoint(own).await?;
    if pages >= LONG {
        // What was committed during the first checkpoint kept the log from being folded in whole. It is
        // little, so that commits wait only for a moment.
        let _nobody_writes = writer.lock().await;
        checkpoint(own).await?;
    }
    Ok(pages)
}

/// Writes as much of the log into the database as is possible without waiting for a reader or the writer.
async fn checkpoint(conn: &mut SqliteConnection) -> Result<i64> {
    Ok(sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(conn).await?.try_get("log")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Database;

    /// A database with a table, and a connection beside its writer.
    async fn database(folder: &std::path::Path) -> (Store, SqliteConnection) {
        let store = Store::open(&Database::File(folder.join("fastmap.sqlite"))).await.expect("a database");
        store
            .writer()
            .await
            .expect("the writer")
            .sql("CREATE TABLE t (x BLOB)")
            .execute()
            .await
            .expect("a table");
        let Pool::Sqlite { readers, .. } = &store.pool else { panic!("it is a file") };
        let options = readers.connect_options().as_ref().clone().read_only(false);
        let own = options.connect().await.expect("a connection");
        (store, own)
    }

    fn writer_of(store: &Store) -> &Arc<Mutex<SqliteConnection>> {
        let Pool::Sqlite { writer, .. } = &store.pool else { panic!("it is a file") };
        writer
    }

    async fn write(store: &Store, pages: u32) {
        let mut conn = store.writer().await.expect("the writer");
        let insert = conn.sql("INSERT INTO t SELECT randomblob(4096 * $1)").bind(i64::from(pages));
        insert.execute().await.expect("room on the disk");
    }

    #[tokio::test]
    async fn a_long_log_begins_anew_once_it_is_folded() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, mut own) = database(folder.path()).await;
        write(&store, 1500).await;
        // No commit has done so by itself.
        assert!(fold(&mut own, writer_of(&store)).await.expect("it can be folded") > 1500);
        write(&store, 1).await;
        let left = fold(&mut own, writer_of(&store)).await.expect("it can be folded");
        assert!((1..100).contains(&left), "{left} pages");
    }

    #[tokio::test]
    async fn who_writes_meanwhile_is_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let (store, mut own) = database(folder.path()).await;
        write(&store, 1500).await;
        let mut conn = store.writer().await.expect("the writer");
        let mut tx = conn.begin().await.expect("a transaction");
        tx.sql("INSERT INTO t VALUES (randomblob(4096))").execute().await.expect("room on the disk");
        // A checkpoint that waited would do so for 10 s, the connection's `busy_timeout`.
        let folded = tokio::time::timeout(Duration::from_secs(5), checkpoint(&mut own)).await;
        assert!(folded.expect("no one is waited for").expect("it can be folded") > 1500);
        tx.commit().await.expect("it goes on");
    }
}
