//! Lists of the dashboard's pages: some runs of an account, some entries of its ledger, how its balance went. Each
//! query looks at a page of rows by an index, or at counts; none looks at batches.

use std::collections::BTreeMap;

use fastmap_backends::cloud::RunState;

use super::audit::entry_of;
use super::error::Result;
use super::runs::{LISTED, run_of};
use super::{Entry, Run, Store};
use crate::pricing::Microcredits;

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
    /// Only those whose label, function (its first 200 characters) or name has this in it, in any case of ASCII letters.
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
        // The condition is left out instead of made true by a value: only then does SQLite take the index
        // that begins with account and state.
        let state = if filter.state.is_some() { "state = $2" } else { "$2 IS NULL" };
        let search = match filter.search {
            Some(_) => {
                // A table of short texts: rows of runs may be long, and a search that finds nothing would
                // read all of them.
                "number IN (SELECT number FROM run_words WHERE account = $1 AND words LIKE $3 ESCAPE '\\')"
            }
            None => "$3 IS NULL",
        };
        // The run that a page begins at must be this account's: the number of another one's compares as NULL,
        // and the page is empty.
        let sql = format!(
            "SELECT {LISTED} FROM runs WHERE account = $1 AND {state} AND {search}
                AND ($4 IS NULL OR number {compare} (SELECT number FROM runs WHERE id = $4 AND account = $1))
             ORDER BY number {order} LIMIT $5"
        );
        let escaped = filter.search.map(|text| {
            // As the trigger has stored the words: letters beyond ASCII keep their case.
            let text = text.to_ascii_lowercase();
            format!("%{}%", text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_"))
        });
        let rows = self
            .sql(sql)
            .bind(filter.account)
            .bind(filter.state.map(RunState::as_str))
            .bind(escaped)
            .bind(name)
            // One more than the page has: it shows whether there are more.
            .bind(i64::from(filter.most) + 1)
            .fetch_all()
            .await?;
        let mut runs: Vec<Run> = rows.iter().map(run_of).collect::<Result<_>>()?;
        let more = runs.len() > filter.most as usize;
        runs.truncate(filter.most as usize);
        // A page that ends at a run is read upwards from it, and turned.
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
        let rows = self
            .sql("SELECT state, COUNT(*) FROM runs WHERE account = $1 GROUP BY state")
            .bind(account)
            .fetch_all()
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
        // Written out, not bound: the index of the entries that are not charges serves only a statement with
        // this condition.
        let only = if charges { "" } else { "AND kind <> 'charge'" };
        let sql = format!(
            "SELECT id, kind, amount, balance, run, seq, note, created_ms FROM ledger
             WHERE account = $1 AND id < $2 {only} ORDER BY id DESC LIMIT $3"
        );
        let rows = self
            .sql(sql)
            .bind(account)
            .bind(before.unwrap_or(i64::MAX))
            .bind(i64::from(most) + 1)
            .fetch_all()
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
        // Two subqueries, each of which is one look into the index. In one query with both aggregates, the
        // database would walk through all of the account's entries.
        let row = self.sql(
            "SELECT (SELECT MIN(id) FROM ledger WHERE account = $1), (SELECT MAX(id) FROM ledger WHERE account = $1)",
        )
        .bind(account)
        .fetch_one()
        .await?;
        let (Some(first), Some(last)) =
            (row.try_get::<Option<i64>, _>(0)?, row.try_get::<Option<i64>, _>(1)?)
        else {
            return Ok(Vec::new());
        };
        // Entries of all accounts share one sequence of ids. For each of the evenly spaced ids the newest own
        // entry up to it is found by the index; two of them may find the same one.
        let rows = self
            .sql(
                "WITH RECURSIVE steps (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM steps WHERE n < $4 - 1),
                 places (id) AS (SELECT DISTINCT (SELECT MAX(l.id) FROM ledger l WHERE l.account = $1
                     AND l.id <= $2 + ($3 - $2) * n / ($4 - 1)) FROM steps)
             SELECT l.created_ms, l.balance FROM places p JOIN ledger l ON l.id = p.id ORDER BY l.id",
            )
            .bind(account)
            .bind(first)
            .bind(last)
            .bind(i64::from(points.max(2)))
            .fetch_all()
            .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use fastmap_backends::cloud::{FunctionName, OpenRun};

    use super::*;
    use crate::store::NewRun;
    use crate::store::testing::{Fresh, on_both};

    on_both!(
        runs_are_found_by_text_and_paged_both_ways,
        the_history_of_a_balance_is_sampled_and_ends_with_what_is_there
    );

    async fn add_run(store: &Store, account: i64, id: &str, label: &str) {
        let request = OpenRun {
            key: id.to_owned(),
            executable: "e".to_owned(),
            function: FunctionName { offset: 0, name: "crate::Work".to_owned() },
            context: None,
            label: Some(label.to_owned()),
            items: None,
            item_timeout_ms: None,
            max_credits: None,
            locale: None,
        };
        let new =
            NewRun { account, id, digest: "d", request: &request, most_open: 100, lease_until_ms: i64::MAX };
        store.open_run(&new).await.expect("a run");
    }

    async fn runs_are_found_by_text_and_paged_both_ways(fresh: Fresh) {
        let store = fresh.open().await;
        let account = store.create_account("a", 0).await.expect("an account").id;
        let other = store.create_account("b", 0).await.expect("an account").id;
        for (id, label) in [("1", "alpha"), ("2", "50% off"), ("3", "Beta"), ("4", "a_b"), ("5", "aXb")] {
            add_run(&store, account, id, label).await;
        }
        add_run(&store, other, "6", "alpha").await;
        store.end_run("3", RunState::Done, None).await.expect("it is open");
        let find = async |search: Option<&str>, state, from, most| {
            let filter = Filter { account, state, search, from, most };
            let (runs, more) = store.find_runs(&filter).await.expect("a list");
            (runs.into_iter().map(|run| run.info.run).collect::<String>(), more)
        };
        let all = |text: &str| (text.to_owned(), false);
        assert_eq!(find(None, None, Step::Newest, 9).await, all("54321"));
        assert_eq!(find(Some("ALPHA"), None, Step::Newest, 9).await, all("1"));
        assert_eq!(find(Some("bet"), None, Step::Newest, 9).await, all("3"));
        assert_eq!(find(Some("::work"), None, Step::Newest, 9).await, all("54321"));
        // No letter of a search means another.
        assert_eq!(find(Some("%"), None, Step::Newest, 9).await, all("2"));
        assert_eq!(find(Some("a_b"), None, Step::Newest, 9).await, all("4"));
        assert_eq!(find(Some("\\"), None, Step::Newest, 9).await, all(""));
        assert_eq!(find(None, Some(RunState::Done), Step::Newest, 9).await, all("3"));
        assert_eq!(find(None, None, Step::Newest, 2).await, ("54".to_owned(), true));
        assert_eq!(find(None, None, Step::Before("4"), 2).await, ("32".to_owned(), true));
        assert_eq!(find(None, None, Step::Before("2"), 2).await, all("1"));
        assert_eq!(find(None, None, Step::After("2"), 2).await, ("43".to_owned(), true));
        assert_eq!(find(None, None, Step::After("3"), 2).await, all("54"));
        // A run of another account is no place to begin at.
        assert_eq!(find(None, None, Step::Before("6"), 9).await, all(""));
        let counts = store.count_runs(account).await.expect("counts");
        assert_eq!(counts, BTreeMap::from([("done".to_owned(), 1), ("open".to_owned(), 4)]));
    }

    async fn the_history_of_a_balance_is_sampled_and_ends_with_what_is_there(fresh: Fresh) {
        let store = fresh.open().await;
        let (one, other) = (
            store.create_account("a", 1000).await.expect("an account").id,
            store.create_account("b", 7).await.expect("an account").id,
        );
        for _ in 0..300 {
            store.adjust(one, -2, None).await.expect("there is enough");
            store.adjust(other, 1, None).await.expect("more");
        }
        let history = store.balance_history(one, 50).await.expect("a history");
        let balances: Vec<i64> = history.iter().map(|(_, balance)| *balance).collect();
        assert_eq!((balances[0], balances[balances.len() - 1]), (1000, 400));
        assert!((40..=50).contains(&balances.len()) && balances.is_sorted_by(|a, b| a > b), "{balances:?}");
        let page = store.ledger_page(one, None, true, 3).await.expect("a page");
        assert_eq!(page.entries.iter().map(|entry| entry.balance).collect::<Vec<_>>(), [400, 402, 404]);
        let page = store.ledger_page(one, Some(page.entries[2].id), false, 3).await.expect("a page");
        assert_eq!((page.entries[0].balance, page.more), (406, true));
        let nothing = store.create_account("c", 0).await.expect("an account").id;
        assert_eq!(store.balance_history(nothing, 50).await.expect("a history"), []);
    }
}
