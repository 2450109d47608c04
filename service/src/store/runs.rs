//! Runs: opened by a client under a key of its own, kept open by a lease, ended once. Ending one gives back what is
//! reserved for it.

use std::collections::HashSet;

use fastmap_backends::cloud::{Locale, OpenRun, RunInfo, RunState};

use super::db::Row;
use super::error::{Result, StoreError};
use super::{Kind, Store, Stored, ledger};
use crate::answer_files::Place;
use crate::clock::now_ms;

/// Batches that one statement acknowledges or gives up: it holds the writer for about a millisecond.
const ACKNOWLEDGED: usize = 256;
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

/// The columns of one run. What strangers wrote is bounded where it enters; what came before that is bounded
/// here.
const COLUMNS: &str = "number, account, id, label, state, executable, function_name, function_offset, context, items,
    item_timeout_ms, max_credits, spent, held, cpu_ns, result_bytes, batches, items_answered, opened_ms, ended_ms,
    SUBSTR(reason, 1, 32768) AS reason, lease_until_ms, locale";

/// The columns of runs in a list: of long texts the begin alone.
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
        ledger::lock(&mut tx.db(), [account]).await?;
        let before = tx
            .sql("SELECT id, request FROM runs WHERE account = $1 AND client_key = $2")
            .bind(account)
            .bind(&request.key)
            .fetch_optional()
            .await?;
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

    /// The run of that name, if it is this account's (`None`: anybody's, for who runs the service).
    ///
    /// # Errors
    /// If the database fails.
    pub async fn run(&self, account: Option<i64>, id: &str) -> Result<Option<Run>> {
        let sql = format!("SELECT {COLUMNS} FROM runs WHERE id = $1 AND ($2 IS NULL OR account = $2)");
        let row = self.sql(sql).bind(id).bind(account).fetch_optional().await?;
        row.as_ref().map(run_of).transpose()
    }

    /// Runs of one account (or of all), newest first, from behind the run `before` on. Of the function's name
    /// and of the reason each has the first 200 characters.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn runs(&self, account: Option<i64>, before: Option<&str>, most: u32) -> Result<Vec<Run>> {
        let sql = list(account.is_some(), before.is_some());
        let rows = self.sql(sql).bind(account).bind(before).bind(i64::from(most)).fetch_all().await?;
        rows.iter().map(run_of).collect()
    }

    /// Ends an open run, and gives back what is reserved for it. `false`: it was not open; what is still
    /// reserved for it is given back all the same.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn end_run(&self, id: &str, state: RunState, reason: Option<&str>) -> Result<bool> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        ledger::lock_of_run(&mut tx.db(), id).await?;
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
        let held =
            tx.sql("SELECT held FROM runs WHERE id = $1 AND held > 0").bind(id).fetch_optional().await?;
        tx.commit().await?;
        drop(conn);
        if held.is_some() {
            self.release_run(id).await?;
        }
        Ok(ended)
    }

    /// Gives back what is reserved for batches of a run that has ended, and forgets those batches. Nothing
    /// more is reserved for it: they are looked for among all its batches without the writer.
    async fn release_run(&self, id: &str) -> Result<()> {
        let rows = self
            .sql("SELECT seq FROM batches WHERE run = $1 AND state = 'held'")
            .bind(id)
            .fetch_all()
            .await?;
        let held: Vec<i64> = rows.iter().map(|row| row.try_get(0)).collect::<sqlx::Result<_>>()?;
        for piece in held.chunks(ACKNOWLEDGED) {
            let mut conn = self.writer().await?;
            let mut tx = conn.begin().await?;
            ledger::lock_of_run(&mut tx.db(), id).await?;
            let query = tx
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
        self.writer().await?.sql(
            "UPDATE runs SET lease_until_ms = $2 WHERE id = $1 AND state = 'open' AND lease_until_ms < $2",
        )
        .bind(id)
        .bind(until_ms)
        .execute()
        .await?;
        Ok(())
    }

    /// Lets all open runs live at least until then: after a start, when nothing could be heard of them.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn extend_all_leases(&self, until_ms: i64) -> Result<()> {
        self.writer()
            .await?
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
            .sql("SELECT id FROM runs WHERE state <> 'open' AND NOT purged AND ended_ms < $1 LIMIT 100")
            .bind(ended_before_ms)
            .fetch_all()
            .await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Which of these batches of a run have an answer that is not acknowledged, in order. Reads alone:
    /// numbers that the run does not have take no turn at the writer.
    async fn unacknowledged(&self, run: &str, seqs: &[u64]) -> Result<Vec<i64>> {
        let beyond = |_| StoreError::Refused("a seq beyond 2^63".to_owned());
        let mut seqs: Vec<i64> =
            seqs.iter().map(|seq| i64::try_from(*seq).map_err(beyond)).collect::<Result<_>>()?;
        seqs.sort_unstable();
        seqs.dedup();
        if seqs.is_empty() {
            return Ok(seqs);
        }
        let query = self
            .sql("SELECT seq FROM batches WHERE run = $1 AND state = 'answered' AND seq IN ")
            .bind(run)
            .push_numbers(&seqs)
            .push(" ORDER BY seq");
        query.fetch_all().await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// These answers have arrived. Gives where those are that were kept until now. The writer is taken for
    /// some of them at a time; others write in between.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn acknowledge(&self, run: &str, seqs: &[u64]) -> Result<Vec<Place>> {
        let mut kept = Vec::new();
        for piece in self.unacknowledged(run, seqs).await?.chunks(ACKNOWLEDGED) {
            let mut conn = self.writer().await?;
            let query = conn
                .sql("UPDATE batches SET state = 'acknowledged' WHERE run = $1 AND state = 'answered' AND seq IN ")
                .bind(run)
                .push_numbers(piece)
                .push(" RETURNING answer_digest, answer_file, answer_at, answer_length");
            for row in query.fetch_all().await? {
                kept.push(ledger::stored(&row)?.place);
            }
        }
        Ok(kept)
    }

    /// Files in which there are answers of a run that nobody has acknowledged.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn files_needed(&self, run: &str) -> Result<Vec<u64>> {
        let rows = self
            .sql("SELECT DISTINCT answer_file FROM batches WHERE run = $1 AND state = 'answered'")
            .bind(run)
            .fetch_all()
            .await?;
        rows.iter().map(|row| Ok(row.try_get::<i64, _>(0)?.unsigned_abs())).collect()
    }

    /// Where a batch stands: its state, and if it is answered the status and where the answer is.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn batch(&self, run: &str, seq: i64) -> Result<Option<(String, Option<(u16, Stored)>)>> {
        let row = self
            .sql(
                "SELECT state, status, answer_digest, answer_file, answer_at, answer_length
             FROM batches WHERE run = $1 AND seq = $2",
            )
            .bind(run)
            .bind(seq)
            .fetch_optional()
            .await?;
        let Some(row) = row else { return Ok(None) };
        let status: Option<i64> = row.try_get("status")?;
        let answer =
            status.map(|status| Ok::<_, StoreError>((ledger::status_of(status), ledger::stored(&row)?)));
        let answer = answer.transpose()?;
        Ok(Some((row.try_get("state")?, answer)))
    }
}

/// The statement that lists runs: of one account or of all, from the newest or from behind a run on.
fn list(of_one: bool, behind: bool) -> String {
    // Left out rather than made true: only then does SQLite look at this account's runs alone.
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
mod tests {
    use std::future::Future;
    use std::time::Duration;

    use fastmap_backends::cloud::FunctionName;
    use tokio::time::timeout;

    use super::*;
    use crate::pricing::{CREDIT, DEFAULT, Work};
    use crate::stats::{Failure, News};
    use crate::store::testing::{Fresh, on_both};
    use crate::store::{Committer, Reserve, Settle};

    on_both!(
        acknowledging_numbers_that_a_run_does_not_have_takes_no_turn_at_the_writer,
        what_is_acknowledged_or_forgotten_lets_others_write_in_between,
        what_an_ended_run_has_reserved_is_given_back_in_pieces,
        of_long_texts_a_list_has_the_begin_and_a_run_all,
        a_list_is_read_by_an_index_of_the_accounts_own_runs,
        of_runs_that_cost_nothing_the_newest_thousand_are_kept,
        of_cancelled_batches_a_run_keeps_the_newest,
        only_the_newest_runs_of_an_account_have_their_course_kept,
    );

    /// What is waited for has come by then.
    const LIMIT: Duration = Duration::from_secs(30);

    async fn open(store: &Store, id: &str) {
        let request = OpenRun {
            key: id.to_owned(),
            executable: "e".to_owned(),
            function: FunctionName { offset: 0, name: "f".to_owned() },
            context: None,
            label: None,
            items: None,
            item_timeout_ms: None,
            max_credits: None,
            locale: None,
        };
        let new = NewRun {
            account: 1,
            id,
            digest: "d",
            request: &request,
            most_open: 1000,
            lease_until_ms: i64::MAX,
        };
        store.open_run(&new).await.expect("a new run");
    }

    async fn store_with_a_run(fresh: &Fresh) -> (Store, Committer) {
        let store = fresh.open().await;
        assert_eq!(store.create_account("a", CREDIT).await.expect("a new account").id, 1);
        open(&store, "run").await;
        let committer = Committer::start(store.clone());
        (store, committer)
    }

    async fn answer(committer: &Committer, run: &str, seq: i64) {
        let wanted = Work { cpu: Duration::from_micros(1), bytes: 1 };
        let digest = "d".to_owned();
        let ask = Reserve {
            account: 1,
            run: run.to_owned(),
            seq,
            digest,
            wanted,
            prices: DEFAULT,
            most_kept: u64::MAX,
        };
        committer.reserve(ask).await.expect("no failure");
        let place = Place { file: 0, at: 0, length: 1 };
        let answer = Stored { digest: "a".to_owned(), place };
        let settle = Settle {
            run: run.to_owned(),
            seq,
            status: 200,
            charge: 1,
            cpu: Duration::from_micros(1),
            bytes: 1,
            items: 1,
            answer,
        };
        committer.settle(settle).await.expect("no failure");
    }

    async fn acknowledging_numbers_that_a_run_does_not_have_takes_no_turn_at_the_writer(fresh: Fresh) {
        let (store, committer) = store_with_a_run(&fresh).await;
        for seq in 0..3 {
            answer(&committer, "run", seq).await;
        }
        let writing = store.writer().await.expect("a connection");
        let unknown: Vec<u64> = (10..10_010).collect();
        let done = timeout(LIMIT, store.acknowledge("run", &unknown)).await;
        assert!(done.expect("it does not wait for the writer").expect("no failure").is_empty());
        drop(writing);
        let all: Vec<u64> = (0..5000).chain(0..5000).collect();
        assert_eq!(store.acknowledge("run", &all).await.expect("no failure").len(), 3);
        assert!(store.acknowledge("run", &all).await.expect("no failure").is_empty());
    }

    /// Batches of a run, put there in one statement.
    async fn fill(store: &Store, run: &str, state: &str, batches: i64) {
        let mut conn = store.writer().await.expect("a connection");
        let sql = conn.sql(
            "WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < $2 - 1)
             INSERT INTO batches (run, seq, digest, state, hold, cpu_limit_ns, byte_limit, short, status, charge,
                                  answer_digest, opened_ms, settled_ms)
             SELECT $1, n, 'd', $3, 1, 1, 1, FALSE, 200, 0, 'd', 0, 0 FROM n",
        );
        sql.bind(run).bind(batches).bind(state).execute().await.expect("it is filled");
    }

    async fn count(store: &Store, sql: &'static str) -> i64 {
        store.sql(sql).fetch_one().await.expect("a row").try_get(0).expect("a number")
    }

    /// How often another got the writer before `work` was done.
    async fn turns_of_others<T>(store: &Store, work: impl Future<Output = T>) -> (u64, T) {
        if store.is_shared() {
            // The other has a connection that is open: to open one may take longer than the work.
            let (own, others) = (store.writer().await, store.writer().await);
            drop((own.expect("a connection"), others.expect("a connection")));
        }
        let (mut work, mut turns) = (Box::pin(work), 0);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return (turns, done),
                writer = store.writer() => {
                    drop(writer.expect("a connection"));
                    turns += 1;
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    async fn what_is_acknowledged_or_forgotten_lets_others_write_in_between(fresh: Fresh) {
        let (store, _committer) = store_with_a_run(&fresh).await;
        fill(&store, "run", "answered", 5000).await;
        let all: Vec<u64> = (0..5000).collect();
        let (turns, kept) = turns_of_others(&store, Box::pin(store.acknowledge("run", &all))).await;
        assert_eq!(kept.expect("no failure").len(), 5000);
        assert!(turns >= 5000 / ACKNOWLEDGED as u64 - 1, "others had the writer {turns} times");
        store.end_run("run", RunState::Done, None).await.expect("no failure");
        let (turns, purged) = turns_of_others(&store, Box::pin(store.purge_run("run"))).await;
        assert!(!store.end_run("run", RunState::Done, None).await.expect("no failure"), "a run ends once");
        assert!(purged.expect("no failure"), "5000 are not too many for one call");
        assert!(turns >= 9, "others had the writer {turns} times");
        assert_eq!(count(&store, "SELECT COUNT(*) FROM batches").await, 0);
        fill(&store, "run", "answered", 10_001).await;
        assert!(!store.purge_run("run").await.expect("no failure"), "the next call goes on");
        assert!(store.purge_run("run").await.expect("no failure"));
    }

    async fn what_an_ended_run_has_reserved_is_given_back_in_pieces(fresh: Fresh) {
        let (store, _committer) = store_with_a_run(&fresh).await;
        fill(&store, "run", "held", 1000).await;
        assert_eq!(store.balance(1).await.expect("no failure"), (CREDIT, 1000));
        let (turns, ended) =
            turns_of_others(&store, Box::pin(store.end_run("run", RunState::Cancelled, None))).await;
        assert!(ended.expect("no failure"));
        assert!(turns >= 1000 / ACKNOWLEDGED as u64, "others had the writer {turns} times");
        assert_eq!(store.balance(1).await.expect("no failure"), (CREDIT, 0));
        // What was left by a failure is given back when the run is ended again.
        fill(&store, "run", "held", 10).await;
        assert!(!store.end_run("run", RunState::Done, None).await.expect("no failure"));
        assert_eq!(store.balance(1).await.expect("no failure"), (CREDIT, 0));
        assert_eq!(count(&store, "SELECT COUNT(*) FROM batches").await, 0);
        assert_eq!(store.audit().await.expect("no failure"), Vec::<String>::new());
    }

    async fn of_long_texts_a_list_has_the_begin_and_a_run_all(fresh: Fresh) {
        let (store, _committer) = store_with_a_run(&fresh).await;
        let (reason, name) = ("r".repeat(20_000), "n".repeat(4096));
        store.end_run("run", RunState::Failed, Some(&reason)).await.expect("no failure");
        let mut conn = store.writer().await.expect("a connection");
        conn.sql("UPDATE runs SET function_name = $1").bind(&name).execute().await.expect("no failure");
        drop(conn);
        for account in [Some(1), None] {
            let runs = store.runs(account, None, 9).await.expect("a list");
            assert_eq!(runs[0].reason.as_ref().map(String::len), Some(200));
            assert_eq!(runs[0].info.function.len(), 200);
            assert!(store.runs(account, Some("run"), 9).await.expect("a list").is_empty());
        }
        let run = store.run(Some(1), "run").await.expect("no failure").expect("a run");
        assert_eq!((run.reason, run.info.function), (Some(reason), name));
        assert!(store.runs(Some(2), None, 9).await.expect("a list").is_empty());
    }

    async fn a_list_is_read_by_an_index_of_the_accounts_own_runs(fresh: Fresh) {
        let (store, _committer) = store_with_a_run(&fresh).await;
        // PostgreSQL plans by what is in the tables.
        for behind in [false, true].into_iter().filter(|_| !store.is_shared()) {
            let sql = format!("EXPLAIN QUERY PLAN {}", list(true, behind));
            let query = store.sql(sql).bind(1i64).bind(behind.then_some("run")).bind(100i64);
            let rows = query.fetch_all().await.expect("a plan");
            let plan: Vec<String> = rows.iter().map(|row| row.try_get("detail").expect("text")).collect();
            assert!(plan.iter().any(|step| step.contains("runs_account (account=?")), "{plan:?}");
            assert!(plan.iter().all(|step| !step.starts_with("SCAN") && !step.contains("TEMP")), "{plan:?}");
        }
    }

    async fn of_runs_that_cost_nothing_the_newest_thousand_are_kept(fresh: Fresh) {
        let (store, committer) = store_with_a_run(&fresh).await;
        answer(&committer, "run", 1).await;
        for n in 0..1100 {
            open(&store, &n.to_string()).await;
            store.end_run(&n.to_string(), RunState::Done, None).await.expect("no failure");
        }
        store.end_run("run", RunState::Done, None).await.expect("no failure");
        let mut forgotten = 0;
        loop {
            let excess = store.excess_runs(1).await.expect("no failure");
            if excess.is_empty() {
                break;
            }
            for run in excess {
                assert!(store.forget_run(&run).await.expect("no failure"));
                forgotten += 1;
            }
        }
        assert_eq!(forgotten, 100);
        let there = async |run: &str| store.run(Some(1), run).await.expect("no failure").is_some();
        assert!(there("run").await, "it is older, and was paid for");
        assert!(!there("99").await && there("100").await, "the oldest go first");
        assert_eq!(count(&store, "SELECT COUNT(*) FROM run_words").await, 1001);
        // After their time all of them are forgotten; what was paid for has a time of its own.
        let later = now_ms() + 1000;
        let free = store.forgettable_runs(later, 0).await.expect("no failure");
        assert!(!free.is_empty() && !free.contains(&"run".to_owned()));
        assert!(
            store.forgettable_runs(0, later).await.expect("no failure").is_empty(),
            "its answers are kept"
        );
        assert!(store.purge_run("run").await.expect("no failure"));
        assert_eq!(store.forgettable_runs(0, later).await.expect("no failure"), ["run"]);
        assert!(store.forget_run("run").await.expect("no failure"));
        assert_eq!(store.audit().await.expect("no failure"), Vec::<String>::new());
        let kept = store.ledger(1, 9).await.expect("the ledger");
        assert!(kept.iter().any(|entry| entry.run.as_deref() == Some("run")), "its charge stays");
    }

    async fn of_cancelled_batches_a_run_keeps_the_newest(fresh: Fresh) {
        let (store, committer) = store_with_a_run(&fresh).await;
        let wanted = Work { cpu: Duration::from_micros(1), bytes: 1 };
        for seq in 0..1010 {
            let (run, digest) = ("run".to_owned(), "d".to_owned());
            let ask = Reserve { account: 1, run, seq, digest, wanted, prices: DEFAULT, most_kept: u64::MAX };
            committer.reserve(ask).await.expect("no failure");
            assert!(store.withdraw("run", seq).await.expect("no failure"));
        }
        let state = async |seq| store.batch("run", seq).await.expect("no failure").map(|(state, _)| state);
        assert_eq!((state(1009).await.as_deref(), state(0).await), (Some("cancelled"), None));
        assert_eq!(count(&store, "SELECT COUNT(*) FROM batches").await, 1000);
        assert_eq!(store.audit().await.expect("no failure"), Vec::<String>::new());
    }

    async fn only_the_newest_runs_of_an_account_have_their_course_kept(fresh: Fresh) {
        let (store, _committer) = store_with_a_run(&fresh).await;
        let failure = Failure {
            seq: 0,
            item: None,
            kind: "death".to_owned(),
            cause: "why".to_owned(),
            worker: "w".to_owned(),
            at_ms: 0,
        };
        let news = || News { failures: vec![failure.clone()], ..News::default() };
        store.add_activity(&[("run".to_owned(), news())]).await.expect("no failure");
        for n in 0..500 {
            assert_eq!(store.failures("run").await.expect("a list").len(), 1, "{n}");
            open(&store, &n.to_string()).await;
            if n % 100 == 0 || n == 499 {
                store.forget_excess_activity(1).await.expect("no failure");
            }
        }
        assert!(store.failures("run").await.expect("a list").is_empty());
        assert_eq!(count(&store, "SELECT COUNT(*) FROM run_activity").await, 0);
    }
}
