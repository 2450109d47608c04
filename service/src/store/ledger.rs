//! Money. A batch reserves before it is dispatched and settles when it is answered; what is reserved is given back
//! with whatever ends it. Balance and reservations are kept beside the ledger they follow from: the tables' triggers carry
//! a batch's hold and charge there in the statement that changes the batch, and their checks refuse what must never be.
//!
//! On PostgreSQL a transaction that moves money of accounts locks them first, in the order of their numbers
//! ([`lock`]; `batch_statements` in its statements). It sees then what the ones before have committed.
//!
//! The functions take a connection that is inside a transaction. `batch_statements` does for many batches what can be done in one
//! statement; here is what needs a closer look.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use fastmap_backends::cloud::Prices;

use super::Store;
use super::db::{Db, Row};
use super::error::{Result, StoreError};
use crate::answer_files::Position;
use crate::clock::now_ms;
use crate::pricing;
use crate::pricing::{Grant, Microcredits, Work};

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
    /// Bytes of kept answers from which on nothing more is reserved for the account.
    pub most_kept: u64,
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
    /// Another gateway has it in hand.
    OwnedByOther,
    /// The seq was used for other bytes.
    Conflict,
    /// No such run in this account.
    NoRun,
    /// The run is not open; its state, and why it failed.
    Ended(String, Option<String>),
    /// What is left of the run's cap is too little for any batch.
    CapReached {
        /// What the run may spend.
        cap: i64,
        /// What it has spent.
        spent: i64,
        /// The least that is reserved for a batch.
        least: i64,
    },
    /// The account is empty.
    OutOfCredits,
    /// What is left is reserved for others.
    CreditsOnHold,
    /// Too many bytes of answers are kept for the account: their number.
    Full(u64),
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
    pub place: Position,
}

/// What became of a [`Settle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is charged and answered.
    Charged,
    /// It has no reservation (any more): it was answered or cancelled, or its run has ended.
    NotHeld,
}

/// The state of a batch whose client has withdrawn it before it was answered. Its row reserves nothing; it shows gateways that
/// have the batch, or wait for another that has it, why the reservation is gone.
const CANCELLED: &str = "cancelled";

/// Locks these accounts until the transaction ends: no other one moves their money. SQLite has one writer.
pub(super) async fn lock(db: &mut Db<'_>, accounts: impl IntoIterator<Item = i64>) -> Result<()> {
    if db.is_multi_writer() {
        // In the order of their numbers: two transactions with the same accounts never wait for each other.
        for account in accounts.into_iter().collect::<BTreeSet<_>>() {
            db.sql("SELECT id FROM accounts WHERE id = $1 FOR NO KEY UPDATE")
                .bind(account)
                .fetch_optional()
                .await?;
        }
    }
    Ok(())
}

/// The same for the account of a run.
pub(super) async fn lock_of_run(db: &mut Db<'_>, run: &str) -> Result<()> {
    if db.is_multi_writer() {
        db.sql(
            "SELECT id FROM accounts WHERE id = (SELECT account FROM runs WHERE id = $1) FOR NO KEY UPDATE",
        )
        .bind(run)
        .fetch_optional()
        .await?;
    }
    Ok(())
}

/// Reserves for a batch, whose account is locked; `gateway` has it in hand then.
pub(super) async fn reserve(db: &mut Db<'_>, gateway: i64, ask: &Reserve) -> Result<Reserved> {
    let row = db.sql(
        "SELECT r.state, r.reason, r.max_credits, r.spent, r.held, r.owed, a.balance, a.held AS account_held,
                a.owed AS account_owed, a.kept, b.state AS batch, b.digest, b.gateway, b.hold, b.cpu_limit_ns, b.byte_limit, b.short, b.status, b.answer_digest,
                b.answer_file, b.answer_at, b.answer_length
         FROM runs r JOIN accounts a ON a.id = r.account
         LEFT JOIN batches b ON b.run = r.id AND b.seq = $3
         WHERE r.id = $1 AND r.account = $2",
    )
    .bind(&ask.run)
    .bind(ask.account)
    .bind(ask.seq)
    .fetch_optional()
    .await?;
    let Some(row) = row else { return Ok(Reserved::NoRun) };
    let batch: Option<String> = row.try_get("batch")?;
    // A request under the seq of a cancelled batch is a new batch, whatever its bytes are.
    let cancelled = batch.as_deref() == Some(CANCELLED);
    if let Some(batch) = batch.filter(|_| !cancelled) {
        if row.try_get::<String, _>("digest")? != ask.digest {
            return Ok(Reserved::Conflict);
        }
        if batch == "answered" {
            return Ok(Reserved::Answered(status_of(row.try_get("status")?), stored(&row)?));
        }
        if batch == "acknowledged" {
            return Ok(Reserved::Acknowledged);
        }
        // The other gateway answers it or dies: until then the caller waits, so that no work is done twice.
        if row.try_get::<i64, _>("gateway")? != gateway {
            return Ok(Reserved::OwnedByOther);
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
    let number = |name: &str| row.try_get::<i64, _>(name);
    if number("kept")?.unsigned_abs() >= ask.most_kept {
        return Ok(Reserved::Full(number("kept")?.unsigned_abs()));
    }
    let (balance, account_held) = (number("balance")? - number("account_owed")?, number("account_held")?);
    let (spent, held) = (number("spent")? + number("owed")?, number("held")?);
    let cap = row.try_get::<Option<i64>, _>("max_credits")?.unwrap_or(i64::MAX);
    let under_cap = cap.saturating_sub(spent);
    let available = (balance - account_held).min(under_cap.saturating_sub(held));
    let Some(grant) = pricing::grant(&ask.prices, ask.wanted, available) else {
        let least = pricing::least(&ask.prices, ask.wanted);
        return Ok(match () {
            () if under_cap < least => Reserved::CapReached { cap, spent, least },
            () if balance < least => Reserved::OutOfCredits,
            () => Reserved::CreditsOnHold,
        });
    };
    if cancelled {
        db.sql("DELETE FROM batches WHERE run = $1 AND seq = $2 AND state = 'cancelled'")
            .bind(&ask.run)
            .bind(ask.seq)
            .execute()
            .await?;
    }
    db.sql(
        "INSERT INTO batches (run, seq, digest, state, hold, cpu_limit_ns, byte_limit, short, opened_ms, gateway)
         VALUES ($1, $2, $3, 'held', $4, $5, $6, $7, $8, $9)",
    )
    .bind(&ask.run)
    .bind(ask.seq)
    .bind(&ask.digest)
    .bind(grant.hold)
    .bind(whole(grant.work.cpu))
    .bind(i64::try_from(grant.work.bytes).unwrap_or(i64::MAX))
    .bind(grant.short)
    .bind(now_ms())
    .bind(gateway)
    .execute()
    .await?;
    Ok(Reserved::Granted(grant))
}

/// Where a batch's row says that its answer is.
pub(super) fn stored(row: &Row) -> Result<Stored> {
    let number = |name: &str| -> Result<u64> { Ok(row.try_get::<i64, _>(name)?.unsigned_abs()) };
    let place =
        Position { file: number("answer_file")?, at: number("answer_at")?, length: number("answer_length")? };
    Ok(Stored { digest: row.try_get("answer_digest")?, place })
}

/// An answer's status, as it is stored.
pub(super) fn status_of(stored: i64) -> u16 {
    u16::try_from(stored).unwrap_or(500)
}

/// Adds an entry to an account's ledger.
pub(super) async fn add(
    db: &mut Db<'_>,
    account: i64,
    kind: &str,
    amount: Microcredits,
    note: Option<&str>,
) -> Result<Microcredits> {
    let row = db.sql(
        "UPDATE accounts SET balance = balance + $2 WHERE id = $1 AND balance + $2 >= held RETURNING balance",
    )
    .bind(account)
    .bind(amount)
    .fetch_optional()
    .await?;
    let Some(row) = row else {
        return Err(StoreError::Refused("the account has not that much that is not reserved".to_owned()));
    };
    let balance: Microcredits = row.try_get("balance")?;
    db.sql(
        "INSERT INTO ledger (account, kind, amount, balance, note, created_ms) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(account)
    .bind(kind)
    .bind(amount)
    .bind(balance)
    .bind(note)
    .bind(now_ms())
    .execute()
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
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        lock(&mut tx.db(), [account]).await?;
        let kind = if amount > 0 { "grant" } else { "adjustment" };
        let balance = add(&mut tx.db(), account, kind, amount, note).await?;
        tx.commit().await?;
        Ok(balance)
    }

    /// Gives back what this gateway has reserved for a batch that will not be answered.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn release(&self, run: &str, seq: i64) -> Result<()> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        lock_of_run(&mut tx.db(), run).await?;
        // Another gateway may have the batch by now, if it took this one for dead.
        tx.sql("DELETE FROM batches WHERE run = $1 AND seq = $2 AND state = 'held' AND gateway = $3")
            .bind(run)
            .bind(seq)
            .bind(self.gateway)
            .execute()
            .await?;
        tx.commit().await
    }

    /// Raises the reservation of a batch of this gateway to `hold`, because its answer costs more than
    /// expected. If that much is not left, returns what is short.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn raise_hold(&self, run: &str, seq: i64, hold: Microcredits) -> Result<Option<Short>> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        lock_of_run(&mut tx.db(), run).await?;
        let row = tx
            .sql(
                "SELECT b.hold, a.id, a.balance - a.held - a.owed AS free,
                        r.max_credits - r.spent - r.held - r.owed AS cap
                 FROM batches b JOIN runs r ON r.id = b.run JOIN accounts a ON a.id = r.account
                 WHERE b.run = $1 AND b.seq = $2 AND b.state = 'held' AND b.gateway = $3",
            )
            .bind(run)
            .bind(seq)
            .bind(self.gateway)
            .fetch_optional()
            .await?;
        // A batch that is not held any more is found by its settlement, which is refused then.
        let Some(row) = row else { return Ok(None) };
        let more = hold - row.try_get::<i64, _>("hold")?;
        let cap = row.try_get::<Option<i64>, _>("cap")?.unwrap_or(i64::MAX);
        if more > cap {
            return Ok(Some(Short::Cap));
        }
        if more > row.try_get::<i64, _>("free")? {
            return Ok(Some(Short::Balance));
        }
        // No trigger follows a change of `hold` alone: the sums of run and account are changed here.
        tx.sql("UPDATE batches SET hold = hold + $3 WHERE run = $1 AND seq = $2")
            .bind(run)
            .bind(seq)
            .bind(more)
            .execute()
            .await?;
        tx.sql("UPDATE runs SET held = held + $2 WHERE id = $1").bind(run).bind(more).execute().await?;
        tx.sql("UPDATE accounts SET held = held + $2 WHERE id = $1")
            .bind(row.try_get::<i64, _>("id")?)
            .bind(more)
            .execute()
            .await?;
        tx.commit().await?;
        Ok(None)
    }

    /// Releases the reservation of a batch that its client has cancelled, whichever gateway has the batch;
    /// that gateway finds it cancelled. `false`: nothing was reserved.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn cancel_reservation(&self, run: &str, seq: i64) -> Result<bool> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        lock_of_run(&mut tx.db(), run).await?;
        // Deleted and inserted, not updated: the trigger that gives the hold back is one of deletions.
        let held = tx
            .sql("DELETE FROM batches WHERE run = $1 AND seq = $2 AND state = 'held' RETURNING digest")
            .bind(run)
            .bind(seq)
            .fetch_optional()
            .await?;
        let Some(held) = held else { return Ok(false) };
        tx.sql(
            "INSERT INTO batches (run, seq, digest, state, hold, cpu_limit_ns, byte_limit, short, opened_ms)
             VALUES ($1, $2, $3, $4, 0, 0, 0, FALSE, $5)",
        )
        .bind(run)
        .bind(seq)
        .bind(held.try_get::<String, _>("digest")?)
        .bind(CANCELLED)
        .bind(now_ms())
        .execute()
        .await?;
        // One row was added; a few of those beyond the bound go with it, so that the transaction stays short.
        let old = tx
            .sql(
                "SELECT seq FROM batches WHERE run = $1 AND state = 'cancelled' ORDER BY opened_ms DESC, seq DESC
                 LIMIT 8 OFFSET $2",
            )
            .bind(run)
            .bind(super::forget::CANCELLED)
            .fetch_all()
            .await?;
        for row in old {
            tx.sql("DELETE FROM batches WHERE run = $1 AND seq = $2 AND state = 'cancelled'")
                .bind(run)
                .bind(row.try_get::<i64, _>(0)?)
                .execute()
                .await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// The batches for which this gateway has something reserved, by run and seq.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn held_here(&self) -> Result<HashSet<(String, i64)>> {
        let rows = self
            .sql("SELECT run, seq FROM batches WHERE gateway = $1 AND state = 'held'")
            .bind(self.gateway)
            .fetch_all()
            .await?;
        rows.iter().map(|row| Ok((row.try_get("run")?, row.try_get("seq")?))).collect()
    }
}

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    /// The run's `max_credits`.
    Cap,
    /// The account's balance.
    Balance,
}

#[cfg(test)]
mod case_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
