//! Connections to a PostgreSQL server: how they are opened, and whether a server behind one is what the store
//! needs. That is one that takes writes (behind an address that leads to several servers, a connection may
//! stay with one that has become a standby), with a session for each connection (a pooler in transaction mode
//! lends one backend to many connections, so that locks and settings of sessions mean nothing).

use std::io;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row, raw_sql};
use tokio::time::{sleep, timeout};

use super::db::STATEMENTS;
use super::error::{Result, StoreError};
use super::server_state::{LATELY, Unfit, code, doubt, in_doubt};

/// Connections of a gateway to PostgreSQL, beside the one that holds its lock.
const CONNECTIONS: u32 = 8;
/// A connection is made within this, or the attempt is given up.
const CONNECT: Duration = Duration::from_secs(10);
/// An answer to a question that takes the server no time comes within this, or the connection is given up.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// `/readyz` is asked by balancers that wait for some seconds.
const READY: Duration = Duration::from_secs(3);

/// Pause between two attempts to connect to a server that is starting.
const AGAIN: Duration = Duration::from_millis(200);
/// Rounds in which two connections are looked at for a backend that they share.
const ROUNDS: usize = 3;

/// What PostgreSQL does for a gateway's connections: it gives up those whose machine is gone, and no lock is
/// held by a gateway that has stopped in the middle.
const SESSION: [(&str, &str); 5] = [
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    ("idle_in_transaction_session_timeout", "10s"),
    (ASKED, "30s"),
];
/// The setting that shows whether those above are set.
const ASKED: &str = "lock_timeout";

/// In the simple protocol, which needs no prepared statement: a pooler may stand in the way of those.
const LOOK: &str =
    "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool, pg_backend_pid()";

/// Waits for something that the server does at once.
async fn in_time<T>(most: Duration, what: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", most.as_secs()));
    timeout(most, what).await.unwrap_or_else(|_| Err(sqlx::Error::Io(late())))
}

/// The number of the backend that a connection leads to, if it takes writes.
pub(super) async fn backend(conn: &mut PgConnection) -> Result<i32> {
    let row = in_time(PATIENCE, raw_sql(LOOK).fetch_one(conn)).await?;
    match row.try_get(0)? {
        true => {
            // Other connections of the pool may lead to the same server: each is asked before its next use.
            doubt();
            Err(StoreError::Unfit(Unfit::ReadOnly))
        }
        false => Ok(row.try_get(1)?),
    }
}

/// Opens a connection of the gateway's own, to a server that takes writes.
pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection> {
    let mut conn = in_time(CONNECT, options.connect()).await?;
    backend(&mut conn).await?;
    settle(&mut conn).await?;
    Ok(conn)
}

/// Gives a session its settings, if they are not set with the connection: a pooler may not pass them on.
async fn settle(conn: &mut PgConnection) -> sqlx::Result<()> {
    // One setting stands for all: they travel together, in the message that starts a connection.
    let asked = AssertSqlSafe(format!("SELECT current_setting('{ASKED}')"));
    let row = in_time(PATIENCE, raw_sql(asked).fetch_one(&mut *conn)).await?;
    if SESSION.contains(&(ASKED, row.try_get(0)?)) {
        return Ok(());
    }
    let set: String = SESSION.map(|(name, value)| format!("SET {name} = '{value}';")).concat();
    in_time(PATIENCE, raw_sql(AssertSqlSafe(set)).execute(conn)).await.map(drop)
}

/// Looks whether each of two connections has a backend to itself. The backend that the first has just used is
/// the next that a pooler gives away.
async fn have_sessions(first: &mut PgConnection, second: &mut PgConnection) -> Result<()> {
    let pooled = Err(StoreError::Unfit(Unfit::Pooled));
    for _ in 0..ROUNDS {
        let before = backend(first).await?;
        // In transaction mode a pooler ties a backend to a connection for a transaction only. While the
        // second connection has one, the first must not be given the same one, nor another than before.
        let mut tx = second.begin().await?;
        if backend(&mut tx).await? == before || backend(first).await? != before {
            return pooled;
        }
        tx.rollback().await?;
    }
    Ok(())
}

/// Opens the pool, after a check of the server that the address leads to.
pub(super) async fn open(options: &PgConnectOptions) -> Result<PgPool> {
    // Settings that come with the start of a connection cost no round trip.
    let options = options.clone().statement_cache_capacity(STATEMENTS).options(SESSION);
    // The first connection is not made by the pool: its error about a server that refuses connections says
    // only that time is up.
    let begun = Instant::now();
    let mut first = loop {
        match connect(&options).await {
            // 57P03: the server is starting. All other errors are reported at once, in the server's words.
            Err(StoreError::Database(error))
                if code(&error).is_some_and(|code| code == "57P03") && begun.elapsed() < CONNECT =>
            {
                sleep(AGAIN).await;
            }
            Err(StoreError::Database(error))
                // A pooler says so about a setting that it neither passes on nor ignores.
                if error.to_string().contains("unsupported startup parameter") =>
            {
                return Err(StoreError::Unfit(Unfit::RefusesSettings));
            }
            first => break first?,
        }
    };
    let mut second = connect(&options).await?;
    have_sessions(&mut first, &mut second).await?;
    // They have shown that the address is good, and a connection that can't be closed in order is dropped.
    let _ = (first.close().await, second.close().await);
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(CONNECT)
        // A check before each use would double the round trips; a connection that was used a moment ago is
        // most likely good.
        .test_before_acquire(false)
        .before_acquire(|conn, seen| {
            Box::pin(async move {
                // After a failover a connection may still lead to the old server, which only reads; the pool
                // drops it here and makes another. That costs a round trip after a pause, or within a second
                // of an error that hints at it.
                let trusted = seen.idle_for < LATELY && !in_doubt();
                Ok(trusted || backend(conn).await.is_ok())
            })
        })
        .after_connect(|conn, _| Box::pin(settle(conn)));
    Ok(pool.connect_lazy_with(options))
}

/// Whether a write would be taken now.
pub(super) async fn ready(pool: &PgPool) -> Result<()> {
    let mut conn = in_time(READY, pool.acquire()).await?;
    match backend(&mut conn).await {
        Ok(_) => Ok(()),
        // The connection may be older than a failover. It is closed, and a new one shows where the address
        // leads to now.
        Err(StoreError::Unfit(_)) => {
            conn.close_on_drop();
            connect(&pool.connect_options()).await.map(drop)
        }
        Err(error) => {
            // After a timeout the answer may still be on its way: the next user of the connection must not
            // read it as its own.
            conn.close_on_drop();
            Err(error)
        }
    }
}
