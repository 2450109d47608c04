//! Forgetting ended runs, their batches and what the dashboard shows of them. Everything goes in bounded
//! pieces, each a transaction of its own: no account's rows keep others from the writer for longer than a
//! batch does. Called by the gateway's `run_lifecycle`.

use super::Store;
use super::error::Result;

/// Rows that one statement deletes.
const PIECE: u64 = 500;
/// Statements of one call; the next call goes on.
const PIECES: u32 = 20;
/// Runs that one query finds.
const FOUND: i64 = 50;
/// Ended runs of an account that nothing was paid for; older ones are forgotten before their time.
const UNPAID: i64 = 1000;
/// Ended runs of an account whose answers are no longer kept; older ones are forgotten before their time.
const PURGED: i64 = 10_000;
/// Runs of an account whose course over time is kept for the dashboard.
const SHOWN: i64 = 500;
/// Cancelled batches of a run; older ones are forgotten.
pub(super) const CANCELLED: i64 = 1000;

impl Store {
    /// Forgets batches of an ended run, at most some thousand at a time. `true`: all are forgotten.
    async fn forget_batches(&self, run: &str) -> Result<bool> {
        for _ in 0..PIECES {
            let gone = self
                .writer()
                .await?
                .sql(
                    // PostgreSQL has no `DELETE … LIMIT`: a subquery chooses the rows. They are all of one
                    // account, whose row the trigger locks; several accounts would have to be locked in an
                    // order first.
                    "DELETE FROM batches WHERE run = $1 AND seq IN
                         (SELECT seq FROM batches WHERE run = $1 ORDER BY seq LIMIT $2)",
                )
                .bind(run)
                .bind(PIECE as i64)
                .execute()
                .await?;
            // Fewer than one piece: nothing is left.
            if gone < PIECE {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A run's answers are no longer kept: its batches are forgotten, its charges are not. `false`: there are
    /// more batches than one call forgets.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn purge_run(&self, id: &str) -> Result<bool> {
        if !self.forget_batches(id).await? {
            return Ok(false);
        }
        self.writer()
            .await?
            // Only now: a run that is not marked is found again, and a process that dies before this line
            // loses nothing but time.
            .sql("UPDATE runs SET purged = TRUE WHERE id = $1 AND state <> 'open'")
            .bind(id)
            .execute()
            .await?;
        Ok(true)
    }

    /// Ended runs whose time is over: unpaid ones that ended before `unpaid_before_ms`, and others that ended
    /// before `before_ms` and whose answers are no longer kept.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn forgettable_runs(&self, unpaid_before_ms: i64, before_ms: i64) -> Result<Vec<String>> {
        let mut found = Vec::new();
        // A run is marked as unpaid when it ends. What its workers used may be charged after that, so the
        // sums are looked at again.
        for (sql, before) in [
            (
                "SELECT id FROM runs WHERE unpaid AND spent = 0 AND owed = 0 AND ended_ms < $1 LIMIT $2",
                unpaid_before_ms,
            ),
            ("SELECT id FROM runs WHERE purged AND ended_ms < $1 LIMIT $2", before_ms),
        ] {
            for row in self.sql(sql).bind(before).bind(FOUND).fetch_all().await? {
                found.push(row.try_get(0)?);
            }
        }
        Ok(found)
    }

    /// Ended runs of an account beyond those that it may keep: the oldest of the unpaid ones, and of those
    /// whose answers are no longer kept.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn excess_runs(&self, account: i64) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for (sql, most) in [
            (
                "SELECT id FROM runs WHERE account = $1 AND unpaid AND spent = 0 AND owed = 0 ORDER BY number DESC LIMIT $2 OFFSET $3",
                UNPAID,
            ),
            (
                "SELECT id FROM runs WHERE account = $1 AND purged ORDER BY number DESC LIMIT $2 OFFSET $3",
                PURGED,
            ),
        ] {
            for row in self.sql(sql).bind(account).bind(FOUND).bind(most).fetch_all().await? {
                found.push(row.try_get(0)?);
            }
        }
        Ok(found)
    }

    /// Forgets an ended run: its row, its batches and its course over time. Its charges stay in the ledger.
    /// `false`: there are more batches than one call forgets.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn forget_run(&self, id: &str) -> Result<bool> {
        if !self.forget_batches(id).await? {
            return Ok(false);
        }
        // The run's row goes last: as long as it is there, what a process that dies in between leaves of the
        // run is found again.
        self.forget_activity_of(id).await?;
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        let row = tx
            // A run with a debt stays, because `take_owed` finds debts by their runs; so does one whose
            // reservations are not released yet. It is tried again later.
            .sql("DELETE FROM runs WHERE id = $1 AND state <> 'open' AND held = 0 AND owed = 0 RETURNING account, number")
            .bind(id)
            .fetch_optional()
            .await?;
        if let Some(row) = row {
            // A trigger adds the words that a run is searched by; none removes them.
            tx.sql("DELETE FROM run_words WHERE account = $1 AND number = $2")
                .bind(row.try_get::<i64, _>(0)?)
                .bind(row.try_get::<i64, _>(1)?)
                .execute()
                .await?;
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Forgets the course over time of an account's runs but the newest.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn forget_excess_activity(&self, account: i64) -> Result<()> {
        // A stretch right behind the newest is enough: what is older was forgotten by an earlier call, or is
        // forgotten by its age.
        let rows = self
            .sql(
                "SELECT a.run FROM (SELECT id FROM runs WHERE account = $1 ORDER BY number DESC LIMIT $2 OFFSET $3) r
                 JOIN run_activity a ON a.run = r.id",
            )
            .bind(account)
            .bind(FOUND * 4)
            .bind(SHOWN)
            .fetch_all()
            .await?;
        for row in rows {
            self.forget_activity_of(&row.try_get::<String, _>(0)?).await?;
        }
        Ok(())
    }

    /// Forgets the course over time of a run.
    pub(super) async fn forget_activity_of(&self, run: &str) -> Result<()> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        tx.sql("DELETE FROM run_activity WHERE run = $1").bind(run).execute().await?;
        tx.sql("DELETE FROM run_failures WHERE run = $1").bind(run).execute().await?;
        tx.commit().await
    }
}
