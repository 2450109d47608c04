//! Money. A batch reserves before it is dispatched and settles when it is answered; what is reserved is given back
//! with whatever ends it. Balance and reservations are kept beside the ledger they follow from: the tables' triggers carry
//! a batch's hold and charge there in the statement that changes the batch, and their checks refuse what must never be.
//!
//! The functions take a connection that is inside a transaction. `group` does for many batches what can be done in one
//! statement; here is what needs a closer look.

use std::time::Duration;

use fastmap_backends::cloud::Prices;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection, Row};

use super::{BEGIN, Result, Store, StoreError, now_ms};
use crate::price::{self, Grant, Microcredits, Work};
use crate::spool::Place;

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
    /// It is answered: the status and the answer.
    Answered(u16, Stored),
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
    /// The answer.
    pub answer: Stored,
}

/// An answer that is kept beside the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its SHA-256.
    pub digest: String,
    /// Where it is.
    pub place: Place,
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
                b.state AS batch, b.digest, b.hold, b.cpu_limit_ns, b.byte_limit, b.short, b.status, b.answer_digest,
                b.answer_file, b.answer_at, b.answer_length
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
            return Ok(Reserved::Answered(row.try_get("status")?, stored(&row)?));
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
    Ok(Reserved::Granted(grant))
}

/// Where a batch's row says that its answer is.
pub(super) fn stored(row: &SqliteRow) -> Result<Stored> {
    let number = |name: &str| -> Result<u64> { Ok(row.try_get::<i64, _>(name)?.unsigned_abs()) };
    let place =
        Place { file: number("answer_file")?, at: number("answer_at")?, length: number("answer_length")? };
    Ok(Stored { digest: row.try_get("answer_digest")?, place })
}

/// Gives back what is reserved for one batch of a run, or for all of them, and forgets those batches.
pub(super) async fn release(conn: &mut SqliteConnection, run: &str, seq: Option<i64>) -> Result<()> {
    sqlx::query("DELETE FROM batches WHERE run = $1 AND ($2 IS NULL OR seq = $2) AND state = 'held'")
        .bind(run)
        .bind(seq)
        .execute(conn)
        .await?;
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

pub(super) fn whole(time: Duration) -> i64 {
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
        release(&mut *self.writer().await, run, Some(seq)).await
    }

    /// After a start: gives back what was reserved for batches whose work is lost with the last process. Their clients
    /// send them again. Gives their number.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn recover(&self) -> Result<u64> {
        let mut conn = self.writer().await;
        let lost = sqlx::query("DELETE FROM batches WHERE state = 'held'").execute(&mut *conn).await?;
        Ok(lost.rows_affected())
    }
}
