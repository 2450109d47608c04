//! Money. A batch reserves before it is dispatched and settles when it is answered; what is reserved is given back
//! with whatever ends it. Balance and reservations are kept beside the ledger they follow from, in the same
//! transaction, and the tables' own checks refuse what these functions must never do.
//!
//! The functions take a connection that is inside a transaction; `commit` calls the two that each batch needs.

use std::time::Duration;

use fastmap_backends::cloud::Prices;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, Row};

use super::{BEGIN, Result, Store, StoreError, now_ms};
use crate::price::{self, Grant, Microcredits, Work};

/// A batch that wants to be dispatched.
#[derive(Clone, Debug)]
pub struct Reserve {
    /// Whose run it must be.
    pub account: i64,
    /// The run.
    pub run: String,
    /// The batch.
    pub seq: i64,
    /// SHA-256 of the request's body.
    pub digest: String,
    /// What it should be able to use.
    pub wanted: Work,
    /// The price list.
    pub prices: Prices,
}

/// What became of a [`Reserve`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// It may be dispatched, for that much. The same for a batch that has its reservation already.
    Granted(Grant),
    /// It is answered: the status and the digest of the answer.
    Answered(u16, String),
    /// Its answer was acknowledged.
    Acknowledged,
    /// The seq was used for other bytes.
    Conflict,
    /// No such run in this account.
    NoRun,
    /// The run is not open; its state, and why it failed.
    Ended(String, Option<String>),
    /// The run's cap is used up.
    CapReached,
    /// The account is empty.
    OutOfCredits,
    /// What is left is reserved for others.
    Held,
}

/// A batch that was answered.
#[derive(Clone, Debug)]
pub struct Settle {
    /// The run.
    pub run: String,
    /// The batch.
    pub seq: i64,
    /// The answer's HTTP status.
    pub status: u16,
    /// What it costs; the hold is the most that is charged.
    pub charge: Microcredits,
    /// CPU time it took.
    pub cpu: Duration,
    /// Bytes of results.
    pub bytes: u64,
    /// Items it answered.
    pub items: u64,
    /// SHA-256 of the answer.
    pub digest: String,
}

/// What became of a [`Settle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is charged and answered.
    Charged,
    /// It has no reservation (any more): it was answered, or its run has ended.
    NotHeld,
}

/// Reserves for a batch.
pub(super) async fn reserve(conn: &mut SqliteConnection, ask: &Reserve) -> Result<Reserved> {
    let row = sqlx::query(
        "SELECT r.state, r.reason, r.max_credits, r.spent, r.held, a.balance, a.held AS account_held,
                b.state AS batch, b.digest, b.hold, b.cpu_limit_ns, b.byte_limit, b.short, b.status, b.answer_digest
         FROM runs r JOIN accounts a ON a.id = r.account
         LEFT JOIN batches b ON b.run = r.id AND b.seq = $3
         WHERE r.id = $1 AND r.account = $2",
    )
    .bind(&ask.run)
    .bind(ask.account)
    .bind(ask.seq)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(Reserved::NoRun) };
    let batch: Option<String> = row.try_get("batch")?;
    if let Some(batch) = batch {
        if row.try_get::<String, _>("digest")? != ask.digest {
            return Ok(Reserved::Conflict);
        }
        if batch == "answered" {
            return Ok(Reserved::Answered(row.try_get("status")?, row.try_get("answer_digest")?));
        }
        if batch == "acknowledged" {
            return Ok(Reserved::Acknowledged);
        }
        let work = Work {
            cpu: Duration::from_nanos(row.try_get::<i64, _>("cpu_limit_ns")?.unsigned_abs()),
            bytes: row.try_get::<i64, _>("byte_limit")?.unsigned_abs(),
        };
        return Ok(Reserved::Granted(Grant {
            hold: row.try_get("hold")?,
            work,
            short: row.try_get("short")?,
        }));
    }
    let state: String = row.try_get("state")?;
    if state != "open" {
        return Ok(Reserved::Ended(state, row.try_get("reason")?));
    }
    let (balance, account_held): (i64, i64) = (row.try_get("balance")?, row.try_get("account_held")?);
    let (spent, held): (i64, i64) = (row.try_get("spent")?, row.try_get("held")?);
    let under_cap = row.try_get::<Option<i64>, _>("max_credits")?.map_or(i64::MAX, |cap| cap - spent);
    let available = (balance - account_held).min(under_cap.saturating_sub(held));
    let Some(grant) = price::grant(&ask.prices, ask.wanted, available) else {
        let least = price::least(&ask.prices, ask.wanted);
        return Ok(match () {
            () if under_cap < least => Reserved::CapReached,
            () if balance < least => Reserved::OutOfCredits,
            () => Reserved::Held,
        });
    };
    sqlx::query(
        "INSERT INTO batches (run, seq, digest, state, hold, cpu_limit_ns, byte_limit, short, opened_ms)
         VALUES ($1, $2, $3, 'held', $4, $5, $6, $7, $8)",
    )
    .bind(&ask.run)
    .bind(ask.seq)
    .bind(&ask.digest)
    .bind(grant.hold)
    .bind(whole(grant.work.cpu))
    .bind(i64::try_from(grant.work.bytes).unwrap_or(i64::MAX))
    .bind(grant.short)
    .bind(now_ms())
    .execute(&mut *conn)
    .await?;
    hold(conn, &ask.run, ask.account, grant.hold).await?;
    Ok(Reserved::Granted(grant))
}

/// Changes what is reserved for a run, and for its account.
async fn hold(conn: &mut SqliteConnection, run: &str, account: i64, amount: Microcredits) -> Result<()> {
    sqlx::query("UPDATE runs SET held = held + $1 WHERE id = $2")
        .bind(amount)
        .bind(run)
        .execute(&mut *conn)
        .await?;
    sqlx::query("UPDATE accounts SET held = held + $1 WHERE id = $2")
        .bind(amount)
        .bind(account)
        .execute(&mut *conn)
        .await?;
    Ok(())
}

/// Charges for a batch, keeps the digest of its answer and gives the rest of the reservation back.
pub(super) async fn settle(conn: &mut SqliteConnection, ask: &Settle) -> Result<Settled> {
    let now = now_ms();
    let row = sqlx::query(
        "UPDATE batches SET state = 'answered', status = $3, charge = MIN($4, hold), answer_digest = $5, settled_ms = $6
         WHERE run = $1 AND seq = $2 AND state = 'held' RETURNING hold, charge",
    )
    .bind(&ask.run)
    .bind(ask.seq)
    .bind(i64::from(ask.status))
    .bind(ask.charge)
    .bind(&ask.digest)
    .bind(now)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else { return Ok(Settled::NotHeld) };
    let (hold, charge): (Microcredits, Microcredits) = (row.try_get("hold")?, row.try_get("charge")?);
    let row = sqlx::query(
        "UPDATE runs SET held = held - $2, spent = spent + $3, cpu_ns = cpu_ns + $4, result_bytes = result_bytes + $5,
                batches = batches + 1, items_answered = items_answered + $6
         WHERE id = $1 RETURNING account",
    )
    .bind(&ask.run)
    .bind(hold)
    .bind(charge)
    .bind(whole(ask.cpu))
    .bind(i64::try_from(ask.bytes).unwrap_or(i64::MAX))
    .bind(i64::try_from(ask.items).unwrap_or(i64::MAX))
    .fetch_one(&mut *conn)
    .await?;
    let account: i64 = row.try_get("account")?;
    let row = sqlx::query(
        "UPDATE accounts SET held = held - $2, balance = balance - $3 WHERE id = $1 RETURNING balance",
    )
    .bind(account)
    .bind(hold)
    .bind(charge)
    .fetch_one(&mut *conn)
    .await?;
    if charge > 0 {
        sqlx::query(
            "INSERT INTO ledger (account, kind, amount, balance, run, seq, created_ms)
             VALUES ($1, 'charge', $2, $3, $4, $5, $6)",
        )
        .bind(account)
        .bind(-charge)
        .bind(row.try_get::<Microcredits, _>("balance")?)
        .bind(&ask.run)
        .bind(ask.seq)
        .bind(now)
        .execute(&mut *conn)
        .await?;
    }
    Ok(Settled::Charged)
}

/// Gives back what is reserved for one batch of a run, or for all of them, and forgets those batches.
pub(super) async fn release(conn: &mut SqliteConnection, run: &str, seq: Option<i64>) -> Result<()> {
    let rows = sqlx::query(
        "DELETE FROM batches WHERE run = $1 AND ($2 IS NULL OR seq = $2) AND state = 'held' RETURNING hold",
    )
    .bind(run)
    .bind(seq)
    .fetch_all(&mut *conn)
    .await?;
    let mut held = 0;
    for row in &rows {
        held += row.try_get::<Microcredits, _>("hold")?;
    }
    if held > 0 {
        let row =
            sqlx::query("SELECT account FROM runs WHERE id = $1").bind(run).fetch_one(&mut *conn).await?;
        hold(conn, run, row.try_get("account")?, -held).await?;
    }
    Ok(())
}

/// Adds an entry to an account's ledger.
pub(super) async fn add(
    conn: &mut SqliteConnection,
    account: i64,
    kind: &str,
    amount: Microcredits,
    note: Option<&str>,
) -> Result<Microcredits> {
    let row = sqlx::query(
        "UPDATE accounts SET balance = balance + $2 WHERE id = $1 AND balance + $2 >= held RETURNING balance",
    )
    .bind(account)
    .bind(amount)
    .fetch_optional(&mut *conn)
    .await?;
    let Some(row) = row else {
        return Err(StoreError::Refused("the account has not that much that is not reserved".to_owned()));
    };
    let balance: Microcredits = row.try_get("balance")?;
    sqlx::query(
        "INSERT INTO ledger (account, kind, amount, balance, note, created_ms) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(account)
    .bind(kind)
    .bind(amount)
    .bind(balance)
    .bind(note)
    .bind(now_ms())
    .execute(&mut *conn)
    .await?;
    Ok(balance)
}

fn whole(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

impl Store {
    /// Adds to an account, or takes from it; gives the new balance.
    ///
    /// # Errors
    /// If more would be taken than there is beside what is reserved.
    pub async fn adjust(
        &self,
        account: i64,
        amount: Microcredits,
        note: Option<&str>,
    ) -> Result<Microcredits> {
        let mut conn = self.writer().await;
        let mut tx = conn.begin_with(BEGIN).await?;
        let kind = if amount > 0 { "grant" } else { "adjustment" };
        let balance = add(&mut tx, account, kind, amount, note).await?;
        tx.commit().await?;
        Ok(balance)
    }

    /// Gives back what is reserved for a batch that will not be answered.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn release(&self, run: &str, seq: i64) -> Result<()> {
        let mut conn = self.writer().await;
        let mut tx = conn.begin_with(BEGIN).await?;
        release(&mut tx, run, Some(seq)).await?;
        tx.commit().await?;
        Ok(())
    }

    /// After a start: gives back what was reserved for batches whose work is lost with the last process. Their clients
    /// send them again. Gives their number.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn recover(&self) -> Result<u64> {
        let mut conn = self.writer().await;
        let mut tx = conn.begin_with(BEGIN).await?;
        let lost =
            sqlx::query("DELETE FROM batches WHERE state = 'held'").execute(&mut *tx).await?.rows_affected();
        sqlx::query("UPDATE runs SET held = 0 WHERE held <> 0").execute(&mut *tx).await?;
        sqlx::query("UPDATE accounts SET held = 0 WHERE held <> 0").execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(lost)
    }
}
