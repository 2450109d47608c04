//! Statistics of runs, for people: kept in bounded form beside the ledger, written by `stats_recorder` every few
//! seconds, lost with the process up to then. Nothing is charged or answered by it.

use super::Store;
use super::db::Row;
use super::error::Result;
use crate::clock::now_ms;
use crate::stats::{FAILURES, Failure, Series, StatsDelta};

/// Runs whose activity is forgotten in one go.
const FORGOTTEN: i64 = 100;

impl Store {
    /// Adds to what is known of some runs.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn add_activity(&self, delta: &[(String, StatsDelta)]) -> Result<()> {
        for (run, delta) in delta {
            // A transaction for each run: batches that wait for the writer get their turn in between, and on
            // PostgreSQL two gateways that add to the same runs in different orders can't wait for each
            // other.
            let mut conn = self.writer().await?;
            let mut tx = conn.begin().await?;
            tx.sql(
                "INSERT INTO run_activity (run, series, updated_ms) VALUES ($1, '', 0) ON CONFLICT (run) DO NOTHING",
            )
            .bind(run)
            .execute()
            .await?;
            // This locks the row until the commit: another gateway that adds to the same run waits here, and
            // then reads what this one has written.
            let row = tx
                .sql("UPDATE run_activity SET updated_ms = $2 WHERE run = $1 RETURNING series")
                .bind(run)
                .bind(now_ms())
                .fetch_one()
                .await?;
            let mut series = read(&row.try_get::<String, _>(0)?);
            series.merge(&delta.series);
            tx.sql("UPDATE run_activity SET series = $2, failures = $3, deaths = $4 WHERE run = $1")
                .bind(run)
                // A text that can't be made is read as an empty series later: statistics must not fail what
                // is charged and answered.
                .bind(serde_json::to_string(&series).unwrap_or_default())
                .bind(i64::try_from(series.failures).unwrap_or(i64::MAX))
                .bind(i64::try_from(series.deaths).unwrap_or(i64::MAX))
                .execute()
                .await?;
            // The common case: no failure, and no look at the other table.
            if delta.failures.is_empty() {
                tx.commit().await?;
                continue;
            }
            let row =
                tx.sql("SELECT COUNT(*) FROM run_failures WHERE run = $1").bind(run).fetch_one().await?;
            let there: i64 = row.try_get(0)?;
            // Rows are counted under the lock of the run's activity: two gateways neither exceed the bound
            // nor use a number twice.
            let free = FAILURES.saturating_sub(there.unsigned_abs() as usize);
            for (n, failure) in (there..).zip(delta.failures.iter().take(free)) {
                tx.sql(
                    "INSERT INTO run_failures (run, n, seq, item, kind, cause, worker, at_ms)
                     VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                )
                .bind(run)
                .bind(n)
                .bind(i64::try_from(failure.seq).unwrap_or(i64::MAX))
                .bind(failure.item.map(|item| i64::try_from(item).unwrap_or(i64::MAX)))
                .bind(&failure.kind)
                .bind(&failure.cause)
                .bind(&failure.worker)
                .bind(failure.at_ms)
                .execute()
                .await?;
            }
            tx.commit().await?;
        }
        Ok(())
    }

    /// What is known of a run; empty where nothing is.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn activity(&self, run: &str) -> Result<Series> {
        let row =
            self.sql("SELECT series FROM run_activity WHERE run = $1").bind(run).fetch_optional().await?;
        match row {
            Some(row) => Ok(read(&row.try_get::<String, _>(0)?)),
            None => Ok(Series::default()),
        }
    }

    /// The first failures of a run, in the order in which they became known.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn failures(&self, run: &str) -> Result<Vec<Failure>> {
        let rows = self
            .sql("SELECT seq, item, kind, cause, worker, at_ms FROM run_failures WHERE run = $1 ORDER BY n")
            .bind(run)
            .fetch_all()
            .await?;
        let failure = |row: &Row| -> Result<Failure> {
            Ok(Failure {
                seq: row.try_get::<i64, _>(0)?.unsigned_abs(),
                item: row.try_get::<Option<i64>, _>(1)?.map(i64::unsigned_abs),
                kind: row.try_get(2)?,
                cause: row.try_get(3)?,
                worker: row.try_get(4)?,
                at_ms: row.try_get(5)?,
            })
        };
        rows.iter().map(failure).collect()
    }

    /// Forgets the activity of runs in which nothing has happened since then, some at a time.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn forget_activity(&self, before_ms: i64) -> Result<()> {
        let rows = self
            .sql("SELECT run FROM run_activity WHERE updated_ms < $1 LIMIT $2")
            .bind(before_ms)
            .bind(FORGOTTEN)
            .fetch_all()
            .await?;
        for row in rows {
            self.forget_activity_of(&row.try_get::<String, _>(0)?).await?;
        }
        Ok(())
    }
}

/// A series that a later version has written and this one can't read starts anew: it is for display alone.
fn read(series: &str) -> Series {
    serde_json::from_str(series).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats_recorder::StatsRecorder;
    use crate::store::testing::{Fresh, on_both};

    fn failure(item: u64) -> Failure {
        let (kind, cause, worker) = ("panic".to_owned(), "why".to_owned(), "w".to_owned());
        Failure { seq: 1, item: Some(item), kind, cause, worker, at_ms: 5 }
    }

    on_both!(
        what_is_in_memory_and_what_is_stored_are_seen_together_and_bounded,
        what_two_gateways_add_to_a_run_at_once_is_all_there
    );

    async fn what_two_gateways_add_to_a_run_at_once_is_all_there(fresh: Fresh) {
        let (one, two) = (fresh.open().await, fresh.open().await);
        let delta = |run: &str| {
            let series = Series { failures: 1, ..Series::default() };
            (run.to_owned(), StatsDelta { series, failures: vec![failure(7)] })
        };
        let add = async |store: &Store, first: &str, second: &str| {
            for _ in 0..20 {
                store.add_activity(&[delta(first), delta(second)]).await.expect("it is stored");
            }
        };
        tokio::join!(add(&one, "a", "b"), add(&two, "b", "a"));
        for run in ["a", "b"] {
            assert_eq!(one.activity(run).await.expect("an answer").failures, 40);
            assert_eq!(two.failures(run).await.expect("a list").len(), 40);
        }
    }

    async fn what_is_in_memory_and_what_is_stored_are_seen_together_and_bounded(fresh: Fresh) {
        let store = fresh.open().await;
        let activity = StatsRecorder::new(store.clone());
        let delta = |items: std::ops::Range<u64>| {
            let series = Series { failures: items.end - items.start, ..Series::default() };
            StatsDelta { series, failures: items.map(failure).collect() }
        };
        activity.add("r", delta(0..150));
        assert_eq!(activity.of("r").await.expect("an answer").1.len(), 150);
        activity.flush().await.expect("it is stored");
        activity.add("r", delta(150..300));
        for _ in 0..2 {
            let (series, failures) = activity.of("r").await.expect("an answer");
            assert_eq!((series.failures, failures.len()), (300, FAILURES));
            assert!(failures.iter().zip(0..).all(|(failure, n)| failure.item == Some(n)));
            activity.flush().await.expect("it is stored");
        }
        assert_eq!(store.failures("r").await.expect("a list").len(), FAILURES);
        store.forget_activity(now_ms() - 60_000).await.expect("an answer");
        assert_eq!(activity.of("r").await.expect("an answer").1.len(), FAILURES);
        store.forget_activity(now_ms() + 1).await.expect("an answer");
        assert_eq!(activity.of("r").await.expect("an answer"), Default::default());
    }
}
