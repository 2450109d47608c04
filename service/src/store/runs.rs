//! Runs: opened by a client under a key of its own, kept open by a lease, ended once. Ending one gives back what is
//! reserved for it.

use std::collections::HashSet;

use fastmap_backends::cloud::{Locale, OpenRun, RunInfo, RunState};

use super::db::Row;
use super::error::{Result, StoreError};
use super::{Kind, Store, ledger};
use crate::clock::now_ms;

/// Batches that one statement acknowledges or gives up: it holds the writer for about a millisecond.
pub(super) const ACKNOWLEDGED: usize = 256;
/// Runs that one statement looks up.
const LOOKED_UP: usize = 64;

/// A run to be opened.
#[derive(Clone, Debug)]
pub struct NewRun<'a> {
    /// Whose.
    pub account: i64,
    /// The name it will have.
    pub id: &'a str,
    /// SHA-256 of the request that opens it.
    pub digest: &'a str,
    /// That request.
    pub request: &'a OpenRun,
    /// Most open runs of the account.
    pub most_open: u32,
    /// Until when it lives without being heard of.
    pub lease_until_ms: i64,
}

/// What became of a [`NewRun`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is open, under the name that was given.
    New,
    /// The same request came before, and opened this run.
    Again(String),
    /// The key was used for another request.
    Conflict,
    /// The account has too many open runs.
    TooMany,
}

/// A run as the database knows it.
#[derive(Clone, Debug)]
pub struct Run {
    /// Whose.
    pub account: i64,
    /// What its owner sees.
    pub info: RunInfo,
    /// Distance of the function's descriptor.
    pub function_offset: i64,
    /// SHA-256 of the context.
    pub context: Option<String>,
    /// Milliseconds.
    pub item_timeout_ms: Option<u64>,
    /// Time zone and language of the client's program, if it has sent them.
    pub locale: Option<Locale>,
    /// Why it failed: a problem document.
    pub reason: Option<String>,
    /// Until when it lives without being heard of.
    pub lease_until_ms: i64,
}

/// Columns of one run. A program's texts are cut where they enter; rows from before that are cut here.
const COLUMNS: &str = "number, account, id, label, state, executable, function_name, function_offset, context, items,
    item_timeout_ms, max_credits, spent, held, cpu_ns, result_bytes, batches, items_answered, opened_ms, ended_ms,
    SUBSTR(reason, 1, 32768) AS reason, lease_until_ms, locale";

/// Columns of runs in a list: only the beginning of long texts.
pub(super) const LISTED: &str =
    "number, account, id, label, state, executable, SUBSTR(function_name, 1, 200) AS function_name,
    function_offset, context, items, item_timeout_ms, max_credits, spent, held, cpu_ns, result_bytes, batches,
    items_answered, opened_ms, ended_ms, SUBSTR(reason, 1, 200) AS reason, lease_until_ms,
    locale";

impl Store {
    /// Opens a run, unless the key has opened one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn open_run(&self, new: &NewRun<'_>) -> Result<Opened> {
        let NewRun { account, id, digest, request, most_open, lease_until_ms } = *new;
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        // Under this lock, two requests with one key find each other, no more than `most_open` runs open at
        // once, and no upload is forgotten that the run needs (`forget_blobs` takes the lock, too).
        ledger::lock(&mut tx.db(), [account]).await?;
        let before = tx
            .sql("SELECT id, request FROM runs WHERE account = $1 AND client_key = $2")
            .bind(account)
            .bind(&request.key)
            .fetch_optional()
            .await?;
        // Before the runs are counted: a request that is repeated because its answer was lost gets its run,
        // even if the account has as many open as it may.
        if let Some(row) = before {
            let same = row.try_get::<String, _>("request")? == digest;
            return Ok(if same { Opened::Again(row.try_get("id")?) } else { Opened::Conflict });
        }
        let open: i64 = tx
            .sql("SELECT COUNT(*) FROM runs WHERE account = $1 AND state = 'open'")
            .bind(account)
            .fetch_one()
            .await?
            .try_get(0)?;
        if open >= i64::from(most_open) {
            return Ok(Opened::TooMany);
        }
        let now = now_ms();
        let whole = |number: Option<u64>| number.map(|number| i64::try_from(number).unwrap_or(i64::MAX));
        let locale = request.locale.as_ref().and_then(|locale| serde_json::to_string(locale).ok());
        tx.sql(
            "INSERT INTO runs (id, account, client_key, request, label, executable, function_offset, function_name,
                               context, items, item_timeout_ms, max_credits, state, opened_ms, lease_until_ms,
                               locale)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'open', $13, $14, $15)",
        )
        .bind(id)
        .bind(account)
        .bind(&request.key)
        .bind(digest)
        .bind(&request.label)
        .bind(&request.executable)
        .bind(request.function.offset)
        .bind(&request.function.name)
        .bind(&request.context)
        .bind(whole(request.items))
        .bind(whole(request.item_timeout_ms))
        .bind(request.max_credits)
        .bind(now)
        .bind(lease_until_ms)
        .bind(locale)
        .execute()
        .await?;
        // Uploads that were not needed for longest are forgotten first. One that is missing changes no row:
        // the caller looks for it when the run is open, because before that it may be forgotten at any time.
        for (kind, hash) in
            [(Kind::Executable, Some(&request.executable)), (Kind::Context, request.context.as_ref())]
        {
            let Some(hash) = hash else { continue };
            tx.sql("UPDATE account_blobs SET used_ms = $4 WHERE account = $1 AND kind = $2 AND hash = $3")
                .bind(account)
                .bind(kind.as_str())
                .bind(hash)
                .bind(now)
                .execute()
                .await?;
        }
        tx.commit().await?;
        Ok(Opened::New)
    }

    /// The run of that name, if it is this account's; with `None`, of any account.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn run(&self, account: Option<i64>, id: &str) -> Result<Option<Run>> {
        let sql = format!("SELECT {COLUMNS} FROM runs WHERE id = $1 AND ($2 IS NULL OR account = $2)");
        let row = self.sql(sql).bind(id).bind(account).fetch_optional().await?;
        row.as_ref().map(run_of).transpose()
    }

    /// Runs of one account (or of all), newest first, beginning after the run `before`. The function's name
    /// and the reason are cut to 200 characters.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn runs(&self, account: Option<i64>, before: Option<&str>, most: u32) -> Result<Vec<Run>> {
        let sql = list(account.is_some(), before.is_some());
        let rows = self.sql(sql).bind(account).bind(before).bind(i64::from(most)).fetch_all().await?;
        rows.iter().map(run_of).collect()
    }

    /// Ends an open run, and releases its reservations. `false`: it was not open; reservations that it still
    /// has are released all the same.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn end_run(&self, id: &str, state: RunState, reason: Option<&str>) -> Result<bool> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        ledger::lock_of_run(&mut tx.db(), id).await?;
        // Runs that cost nothing are marked here, once, and not by an index on their sums, which each batch
        // would have to change.
        let ended = tx
            .sql(
                "UPDATE runs SET state = $2, reason = $3, ended_ms = $4, unpaid = (spent = 0 AND batches = 0)
                 WHERE id = $1 AND state = 'open'",
            )
            .bind(id)
            .bind(state.as_str())
            .bind(reason)
            .bind(now_ms())
            .execute()
            .await?
            > 0;
        // Most runs end with nothing reserved; then their batches are not looked through at all.
        let held =
            tx.sql("SELECT held FROM runs WHERE id = $1 AND held > 0").bind(id).fetch_optional().await?;
        tx.commit().await?;
        // Given back before `release_run` takes it: on SQLite there is one writer, and this task would wait
        // for itself.
        drop(conn);
        if held.is_some() {
            // From the commit on nothing more is reserved for the run. If this process dies here, its
            // reservations are released like those of any gateway that is gone; a second call for the run
            // goes on with them, too.
            self.release_run(id).await?;
        }
        Ok(ended)
    }

    /// Releases the reservations of a run that has ended, and forgets their batches. Nothing more is reserved
    /// for the run, so that they are looked for among all its batches without the writer.
    async fn release_run(&self, id: &str) -> Result<()> {
        let rows = self
            .sql("SELECT seq FROM batches WHERE run = $1 AND state = 'held'")
            .bind(id)
            .fetch_all()
            .await?;
        let held: Vec<i64> = rows.iter().map(|row| row.try_get(0)).collect::<sqlx::Result<_>>()?;
        // A transaction for each piece: a run with many batches keeps no other account's batches from the
        // writer.
        for piece in held.chunks(ACKNOWLEDGED) {
            let mut conn = self.writer().await?;
            let mut tx = conn.begin().await?;
            ledger::lock_of_run(&mut tx.db(), id).await?;
            let query = tx
                // A batch may have been settled since the look at it: it stays answered, and charged.
                .sql("DELETE FROM batches WHERE run = $1 AND state = 'held' AND seq IN ")
                .bind(id)
                .push_numbers(piece);
            query.execute().await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Lets an open run live until then.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn extend_lease(&self, id: &str, until_ms: i64) -> Result<()> {
        // Never earlier: two gateways may write leases of one run, in any order.
        self.writer().await?.sql(
            "UPDATE runs SET lease_until_ms = $2 WHERE id = $1 AND state = 'open' AND lease_until_ms < $2",
        )
        .bind(id)
        .bind(until_ms)
        .execute()
        .await?;
        Ok(())
    }

    /// Lets all open runs live at least until then: after a start, because their clients could not reach the
    /// service before.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn extend_all_leases(&self, until_ms: i64) -> Result<()> {
        self.writer()
            .await?
            // A lease that another gateway has made longer meanwhile is left as it is.
            .sql("UPDATE runs SET lease_until_ms = $1 WHERE state = 'open' AND lease_until_ms < $1")
            .bind(until_ms)
            .execute()
            .await?;
        Ok(())
    }

    /// Open runs whose lease is over.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn overdue_runs(&self, now_ms: i64) -> Result<Vec<String>> {
        let rows = self
            .sql("SELECT id FROM runs WHERE state = 'open' AND lease_until_ms < $1")
            .bind(now_ms)
            .fetch_all()
            .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Which of these runs are over, and how.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn ended_among(&self, runs: &[String]) -> Result<Vec<(String, RunState)>> {
        let mut ended = Vec::new();
        for piece in runs.chunks(LOOKED_UP) {
            // Filled up with the last id: one statement for any number of runs, which stays prepared.
            let ids = piece.iter().chain(piece.last().into_iter().cycle()).take(LOOKED_UP);
            let query = self
                .sql("SELECT DISTINCT id, state FROM runs WHERE state <> 'open' AND id IN (")
                .push_values(ids, |row, id| {
                    row.push_bind(id);
                })
                .push(")");
            for row in query.fetch_all().await? {
                ended.push((row.try_get("id")?, state_of(&row.try_get::<String, _>("state")?)?));
            }
        }
        Ok(ended)
    }

    /// Which of these are runs whose answers are no longer kept: purged, or forgotten.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn gone_among(&self, runs: &[String]) -> Result<Vec<String>> {
        let mut gone = Vec::new();
        for piece in runs.chunks(LOOKED_UP) {
            // Filled up as in `ended_among`. Asked for what is kept, because a run that was forgotten has no
            // row.
            let ids = piece.iter().chain(piece.last().into_iter().cycle()).take(LOOKED_UP);
            let query = self
                .sql("SELECT id FROM runs WHERE NOT purged AND id IN (")
                .push_values(ids, |row, id| {
                    row.push_bind(id);
                })
                .push(")");
            let mut kept = HashSet::new();
            for row in query.fetch_all().await? {
                kept.insert(row.try_get::<String, _>(0)?);
            }
            gone.extend(piece.iter().filter(|run| !kept.contains(*run)).cloned());
        }
        Ok(gone)
    }

    /// Number of open runs.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn open_runs(&self) -> Result<u64> {
        let row = self.sql("SELECT COUNT(*) FROM runs WHERE state = 'open'").fetch_one().await?;
        Ok(row.try_get::<i64, _>(0)?.unsigned_abs())
    }

    /// Runs that ended before then and whose answers are still kept.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn purgeable_runs(&self, ended_before_ms: i64) -> Result<Vec<String>> {
        let rows = self
            // The others are found by the next call: `purge_run` marks those that are done.
            .sql("SELECT id FROM runs WHERE state <> 'open' AND NOT purged AND ended_ms < $1 LIMIT 100")
            .bind(ended_before_ms)
            .fetch_all()
            .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}

/// The statement that lists runs: of one account or of all, beginning with the newest or after a run.
fn list(of_one: bool, behind: bool) -> String {
    // The condition is left out instead of made true by a value: only then does SQLite's plan use the index
    // of the account's runs, instead of walking through the runs of all accounts.
    let whose = if of_one { "account = $1" } else { "$1 IS NULL" };
    let from = match behind {
        true => format!("number < (SELECT number FROM runs WHERE id = $2 AND {whose})"),
        false => "$2 IS NULL".to_owned(),
    };
    format!("SELECT {LISTED} FROM runs WHERE {whose} AND {from} ORDER BY number DESC LIMIT $3")
}

fn state_of(state: &str) -> Result<RunState> {
    [RunState::Open, RunState::Done, RunState::Cancelled, RunState::Expired, RunState::Failed]
        .into_iter()
        .find(|known| known.as_str() == state)
        .ok_or_else(|| StoreError::Refused(format!("a run in the state {state:?}: made by a later version?")))
}

pub(super) fn run_of(row: &Row) -> Result<Run> {
    let count = |name: &str| -> Result<u64> { Ok(row.try_get::<i64, _>(name)?.unsigned_abs()) };
    let maybe = |name: &str| -> Result<Option<u64>> {
        Ok(row.try_get::<Option<i64>, _>(name)?.map(i64::unsigned_abs))
    };
    let state = state_of(&row.try_get::<String, _>("state")?)?;
    let locale: Option<String> = row.try_get("locale")?;
    Ok(Run {
        account: row.try_get("account")?,
        info: RunInfo {
            run: row.try_get("id")?,
            label: row.try_get("label")?,
            state,
            executable: row.try_get("executable")?,
            function: row.try_get("function_name")?,
            items: maybe("items")?,
            items_answered: count("items_answered")?,
            batches: count("batches")?,
            spent: row.try_get("spent")?,
            held: row.try_get("held")?,
            max_credits: row.try_get("max_credits")?,
            cpu_ns: count("cpu_ns")?,
            result_bytes: count("result_bytes")?,
            opened_ms: count("opened_ms")?,
            ended_ms: maybe("ended_ms")?,
        },
        function_offset: row.try_get("function_offset")?,
        context: row.try_get("context")?,
        item_timeout_ms: maybe("item_timeout_ms")?,
        locale: locale.and_then(|text| serde_json::from_str(&text).ok()),
        reason: row.try_get("reason")?,
        lease_until_ms: row.try_get("lease_until_ms")?,
    })
}

#[cfg(test)]
mod tests;
