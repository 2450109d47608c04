//! What the dashboard's pages list: some runs of an account, some entries of its ledger, how its balance went. Each
//! query looks at a page of rows by an index, or at counts; none looks at batches.

use std::collections::BTreeMap;

use fastmap_backends::cloud::RunState;
use sqlx::Row;

use super::audit::entry_of;
use super::runs::{COLUMNS, run_of};
use super::{Entry, Result, Run, Store};
use crate::price::Microcredits;

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// With the newest.
    Newest,
    /// With the next older one.
    Before(T),
    /// It ends with the next newer one.
    After(T),
}

/// Which runs.
#[derive(Clone, Debug)]
pub struct Filter<'a> {
    /// Whose.
    pub account: i64,
    /// Only those in that state.
    pub state: Option<RunState>,
    /// Only those whose label or function has this in it, or whose name begins so; in any case of letters.
    pub search: Option<&'a str>,
    /// Names a run.
    pub from: Step<&'a str>,
    /// Most of them.
    pub most: u32,
}

/// A page of the ledger.
#[derive(Clone, Debug)]
pub struct LedgerPage {
    /// Newest first.
    pub entries: Vec<Entry>,
    /// There are older ones.
    pub more: bool,
}

impl Store {
    /// Runs of one account, newest first, and whether there are more in the direction that was asked for.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn find_runs(&self, filter: &Filter<'_>) -> Result<(Vec<Run>, bool)> {
        let (order, compare, name) = match &filter.from {
            Step::Newest => ("DESC", "<", None),
            Step::Before(run) => ("DESC", "<", Some(*run)),
            Step::After(run) => ("ASC", ">", Some(*run)),
        };
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS} FROM runs WHERE account = $1 AND ($2 IS NULL OR state = $2)
                AND ($3 IS NULL OR LOWER(label) LIKE $3 ESCAPE '\\' OR LOWER(function_name) LIKE $3 ESCAPE '\\'
                     OR id LIKE $4 ESCAPE '\\')
                AND ($5 IS NULL OR number {compare} (SELECT number FROM runs WHERE id = $5 AND account = $1))
             ORDER BY number {order} LIMIT $6"
        ));
        let escaped = filter.search.map(|text| {
            let text = text.to_lowercase();
            text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
        });
        let rows = sqlx::query(sql)
            .bind(filter.account)
            .bind(filter.state.map(RunState::as_str))
            .bind(escaped.as_ref().map(|text| format!("%{text}%")))
            .bind(escaped.as_ref().map(|text| format!("{text}%")))
            .bind(name)
            .bind(filter.most + 1)
            .fetch_all(&self.readers)
            .await?;
        let mut runs: Vec<Run> = rows.iter().map(run_of).collect::<Result<_>>()?;
        let more = runs.len() > filter.most as usize;
        runs.truncate(filter.most as usize);
        if order == "ASC" {
            runs.reverse();
        }
        Ok((runs, more))
    }

    /// How many runs of an account are in each state.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn count_runs(&self, account: i64) -> Result<BTreeMap<String, u64>> {
        let rows = sqlx::query("SELECT state, COUNT(*) FROM runs WHERE account = $1 GROUP BY state")
            .bind(account)
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get::<i64, _>(1)?.unsigned_abs()))).collect()
    }

    /// Entries of an account's ledger, newest first, from behind the entry `before` on; without charges if so wished.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn ledger_page(
        &self,
        account: i64,
        before: Option<i64>,
        charges: bool,
        most: u32,
    ) -> Result<LedgerPage> {
        let only = if charges { "" } else { "AND kind <> 'charge'" };
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT id, kind, amount, balance, run, seq, note, created_ms FROM ledger
             WHERE account = $1 AND id < $2 {only} ORDER BY id DESC LIMIT $3"
        ));
        let rows = sqlx::query(sql)
            .bind(account)
            .bind(before.unwrap_or(i64::MAX))
            .bind(most + 1)
            .fetch_all(&self.readers)
            .await?;
        let mut entries: Vec<Entry> = rows.iter().map(entry_of).collect::<Result<_>>()?;
        let more = entries.len() > most as usize;
        entries.truncate(most as usize);
        Ok(LedgerPage { entries, more })
    }

    /// How an account's balance went: at most `points` pairs of a time (milliseconds since 1970) and the balance then,
    /// oldest first, the first and the last entry among them. Looks at that many entries, however long the ledger is.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn balance_history(&self, account: i64, points: u32) -> Result<Vec<(i64, Microcredits)>> {
        let row = sqlx::query("SELECT MIN(id), MAX(id) FROM ledger WHERE account = $1")
            .bind(account)
            .fetch_one(&self.readers)
            .await?;
        let (Some(first), Some(last)) =
            (row.try_get::<Option<i64>, _>(0)?, row.try_get::<Option<i64>, _>(1)?)
        else {
            return Ok(Vec::new());
        };
        let rows = sqlx::query(
            "WITH RECURSIVE steps (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM steps WHERE n < $4 - 1),
                 places (id) AS (SELECT DISTINCT (SELECT MAX(l.id) FROM ledger l WHERE l.account = $1
                     AND l.id <= $2 + ($3 - $2) * n / ($4 - 1)) FROM steps)
             SELECT l.created_ms, l.balance FROM places p JOIN ledger l ON l.id = p.id ORDER BY l.id",
        )
        .bind(account)
        .bind(first)
        .bind(last)
        .bind(i64::from(points.max(2)))
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
}
