//! Liveness of gateways that share a PostgreSQL. Each holds an advisory lock under its number for as long as it lives:
//! the server takes it away when the connection ends, at once when the process dies and within half a minute when its
//! machine does, and no clock is asked. What a gateway that is gone has reserved is given back by the one that gets
//! its lock; the clients send those batches again. On SQLite there is one gateway, and what was reserved before it is
//! lost.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use tokio::time::{sleep, timeout};

use super::database::Pool;
use super::error::{Result, StoreError};
use super::postgres::PATIENCE;
use super::server_state::Unfit;
use super::{Store, ledger, postgres};

/// How often the connection that holds the lock is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Proof that this gateway lives. The other gateways see its end when this is dropped.
#[derive(Debug)]
pub struct GatewayLock {
    /// `None`: there are no others.
    lock: Option<Lock>,
    gateway: i64,
}

/// A connection that holds a gateway's lock.
#[derive(Debug)]
struct Lock {
    conn: PgConnection,
    /// The backend that it leads to.
    backend: i32,
    options: PgConnectOptions,
}

impl Store {
    /// Takes this gateway's lock. Must be called before the gateway reserves anything: without the lock the
    /// others take it for dead, and release its reservations.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn enter(&self) -> Result<GatewayLock> {
        let Pool::Postgres(pool) = &self.pool else {
            return Ok(GatewayLock { lock: None, gateway: self.gateway });
        };
        let options = PgConnectOptions::clone(&pool.connect_options());
        let lock = Lock::take(options, self.gateway).await?;
        Ok(GatewayLock { lock: Some(lock), gateway: self.gateway })
    }

    /// Gives back what was reserved by gateways that are gone. Their clients send those batches again. Gives the number of
    /// batches.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn recover(&self) -> Result<u64> {
        if !self.is_shared() {
            // Called at the start, before anything is reserved: what is reserved is of a process before this
            // one.
            return self.writer().await?.sql("DELETE FROM batches WHERE state = 'held'").execute().await;
        }
        // Not its own number: while its lock is lost with a connection and not taken again, this gateway
        // would take itself for dead.
        let others = self
            .sql("SELECT DISTINCT gateway FROM batches WHERE state = 'held' AND gateway <> $1")
            .bind(self.gateway)
            .fetch_all()
            .await?;
        let mut lost = 0;
        for row in others {
            lost += self.bury(row.try_get(0)?).await?;
        }
        Ok(lost)
    }

    /// Gives back what a gateway has reserved, if it is gone.
    async fn bury(&self, gateway: i64) -> Result<u64> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        // A lock of the transaction, not of the session: it ends with the transaction, however that ends, and
        // of several gateways that find the same dead one, one does the work. A gateway that lives but has
        // lost its lock is taken for dead, too; its batches are worked on twice then, and the first answer is
        // charged.
        let gone = tx.sql("SELECT pg_try_advisory_xact_lock($1)").bind(gateway).fetch_one().await?;
        if !gone.try_get::<bool, _>(0)? {
            return Ok(0);
        }
        let accounts = tx
            .sql(
                "SELECT DISTINCT r.account FROM batches b JOIN runs r ON r.id = b.run
                 WHERE b.gateway = $1 AND b.state = 'held'",
            )
            .bind(gateway)
            .fetch_all()
            .await?;
        let accounts: Vec<i64> = accounts.iter().map(|row| row.try_get(0)).collect::<sqlx::Result<_>>()?;
        // The deletion's trigger changes sums of all these accounts: they are locked before, in their order.
        ledger::lock(&mut tx.db(), accounts).await?;
        let lost = tx
            .sql("DELETE FROM batches WHERE gateway = $1 AND state = 'held'")
            .bind(gateway)
            .execute()
            .await?;
        tx.commit().await?;
        Ok(lost)
    }
}

impl Lock {
    async fn take(options: PgConnectOptions, gateway: i64) -> Result<Self> {
        let mut conn = postgres::connect(&options).await?;
        // Waits where `bury` of another gateway holds the lock for the length of its transaction.
        sqlx::query("SELECT pg_advisory_lock($1)").bind(gateway).execute(&mut conn).await?;
        // The session that has the lock now. If a later look finds another behind the same connection, the
        // lock is not this connection's.
        let backend = postgres::backend(&mut conn).await?;
        Ok(Lock { conn, backend, options })
    }

    /// Whether it is held, at a server that takes writes.
    async fn is_held(&mut self) -> Result<()> {
        match postgres::backend(&mut self.conn).await? == self.backend {
            true => Ok(()),
            false => Err(StoreError::Unfit(Unfit::Pooled)),
        }
    }
}

impl GatewayLock {
    /// Takes the lock again whenever its connection is lost, or leads to a server that takes no writes any more: what the
    /// address leads to now is another, maybe. Never returns.
    pub async fn keep(mut self) {
        let Some(lock) = &mut self.lock else { return std::future::pending().await };
        let mut reported = None;
        loop {
            sleep(LOOK).await;
            // The gateway goes on serving without its lock. At worst others release its reservations: that
            // costs work that is done twice, and no credits.
            let Err(why) = lock.is_held().await else { continue };
            let again = timeout(PATIENCE, Lock::take(lock.options.clone(), self.gateway)).await;
            match again.unwrap_or(Err(StoreError::Closed)) {
                Ok(held) => {
                    tracing::warn!(%why, "the connection to the database was of no use any more; there is another");
                    *lock = held;
                    reported = None;
                }
                Err(error) => {
                    let words = error.to_string();
                    // An outage of minutes is one line in the log, not one each second.
                    if reported.as_ref() != Some(&words) {
                        tracing::error!(error = words, "the database can't be used");
                        reported = Some(words);
                    }
                }
            }
        }
    }
}
