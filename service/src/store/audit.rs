//! Looking at the ledger: its newest entries, and whether all that is kept beside it follows from it.

use super::Store;
use super::db::Row;
use super::error::Result;
use crate::pricing::Microcredits;

/// A line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub id: i64,
    /// `grant`, `adjustment` or `charge`.
    pub kind: String,
    /// What it added; charges are negative.
    pub amount: Microcredits,
    /// What the account had then.
    pub balance: Microcredits,
    /// The run that was charged for.
    pub run: Option<String>,
    /// The batch that was charged for; none where it was for what workers have used beside batches.
    pub seq: Option<i64>,
    /// Why.
    pub note: Option<String>,
    /// Milliseconds since 1970.
    pub created_ms: i64,
}

impl Store {
    /// The newest entries of an account's ledger, newest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn ledger(&self, account: i64, most: u32) -> Result<Vec<Entry>> {
        let rows = self
            .sql(
                "SELECT id, kind, amount, balance, run, seq, note, created_ms FROM ledger
             WHERE account = $1 ORDER BY id DESC LIMIT $2",
            )
            .bind(account)
            .bind(i64::from(most))
            .fetch_all()
            .await?;
        rows.iter().map(entry_of).collect()
    }

    /// Recomputes what follows from the ledger and the batches; gives what does not agree, in words. Empty: all is well.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn audit(&self) -> Result<Vec<String>> {
        let checks = [
            ("account: the balance is not the sum of the ledger",
             "SELECT a.name FROM accounts a WHERE a.balance <>
                 (SELECT COALESCE(SUM(l.amount), 0) FROM ledger l WHERE l.account = a.id)"),
            ("account: what is reserved is not the sum over its runs",
             "SELECT a.name FROM accounts a WHERE a.held <>
                 (SELECT COALESCE(SUM(r.held), 0) FROM runs r WHERE r.account = a.id)"),
            ("account: what is owed is not the sum over its runs",
             "SELECT a.name FROM accounts a WHERE a.owed <>
                 (SELECT COALESCE(SUM(r.owed), 0) FROM runs r WHERE r.account = a.id)"),
            ("run: it has spent more than it may", "SELECT r.id FROM runs r WHERE r.spent > r.max_credits"),
            ("account: what is kept is not the sum of its answers",
             "SELECT a.name FROM accounts a WHERE a.kept <>
                 (SELECT COALESCE(SUM(b.answer_length), 0) FROM batches b JOIN runs r ON r.id = b.run
                  WHERE r.account = a.id AND b.state = 'answered')"),
            ("run: what is reserved is not the sum over its batches",
             "SELECT r.id FROM runs r WHERE r.held <>
                 (SELECT COALESCE(SUM(b.hold), 0) FROM batches b WHERE b.run = r.id AND b.state = 'held')"),
            ("run: what was spent is not the sum of its charges",
             "SELECT r.id FROM runs r WHERE r.spent <>
                 (SELECT COALESCE(-SUM(l.amount), 0) FROM ledger l WHERE l.run = r.id AND l.kind = 'charge')"),
            ("ledger: the running balance is wrong at entry",
             "SELECT CAST(id AS TEXT) FROM (SELECT id, balance,
                 SUM(amount) OVER (PARTITION BY account ORDER BY id) AS total FROM ledger) AS l WHERE balance <> total"),
        ];
        let mut found = Vec::new();
        for (what, sql) in checks {
            // Each check is one statement and sees one state of the database: an audit while others write
            // finds nothing that is only half done.
            for row in self.sql(sql).fetch_all().await? {
                found.push(format!("{what} {}", row.try_get::<String, _>(0)?));
            }
        }
        Ok(found)
    }
}

/// An entry from a row of id, kind, amount, balance, run, seq, note and `created_ms`.
pub(super) fn entry_of(row: &Row) -> Result<Entry> {
    Ok(Entry {
        id: row.try_get(0)?,
        kind: row.try_get(1)?,
        amount: row.try_get(2)?,
        balance: row.try_get(3)?,
        run: row.try_get(4)?,
        seq: row.try_get(5)?,
        note: row.try_get(6)?,
        created_ms: row.try_get(7)?,
    })
}
