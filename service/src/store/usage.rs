//! CPU time that a run's workers have used beside batches: nothing was reserved for it. It is charged when it is reported.
//! The first of it is free ([`pricing::free`]); of the rest a run pays no more than its `max_credits` and its account no more
//! than its balance. What batches of the account have reserved is not taken away from them: the run *owes*
//! it, no other batch can reserve it, and it is taken when they leave something over.

use std::time::Duration;

use fastmap_backends::cloud::Prices;

use super::Store;
use super::db::Conn;
use super::error::Result;
use super::ledger::{Short, lock_of_run, whole};
use crate::clock::now_ms;
use crate::pricing;
use crate::pricing::{Microcredits, Work};

/// Longest time of a report. One of more is false, and sums of such times would overflow.
const LONGEST: Duration = Duration::from_hours(24);

/// What became of a report of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charged {
    /// The run is open.
    pub open: bool,
    /// What is taken from the balance with it; also what the run owed before.
    pub taken: Microcredits,
    /// Why not all of it can ever be taken.
    pub short: Option<Short>,
}

impl Store {
    /// Charges a run, open or over, for what its workers have used beside batches. `None`: there is no such run (any more).
    ///
    /// # Errors
    /// If the database fails; nothing is charged then.
    pub async fn charge_use(&self, run: &str, cpu: Duration, prices: &Prices) -> Result<Option<Charged>> {
        charge(&mut self.writer().await?, run, cpu, prices).await
    }

    /// Takes what runs owe, as far as batches have left it over.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn take_owed(&self, prices: &Prices) -> Result<()> {
        // Each run is charged in a transaction of its own, which reads again what it owes.
        // Only runs of which something changes now: others would come first each time, and keep those behind them
        // waiting.
        let due = self.sql(
            "SELECT r.id FROM runs r JOIN accounts a ON a.id = r.account
             WHERE r.owed > 0 AND (a.balance > a.held OR (r.held = 0 AND r.owed > r.max_credits - r.spent))
             LIMIT 100",
        );
        for row in due.fetch_all().await? {
            let run: String = row.try_get(0)?;
            // Without time to charge, this takes what is owed, or drops it where nothing can be left over any
            // more.
            self.charge_use(&run, Duration::ZERO, prices).await?;
        }
        Ok(())
    }
}

async fn charge(conn: &mut Conn, run: &str, cpu: Duration, prices: &Prices) -> Result<Option<Charged>> {
    let cpu = cpu.min(LONGEST);
    let mut tx = conn.begin().await?;
    // Before anything is read: the sums below are computed here and not by a trigger, and no other
    // transaction may change them meanwhile.
    lock_of_run(&mut tx.db(), run).await?;
    let row = tx
        .sql(
            "SELECT r.state, r.account, r.max_credits, r.spent, r.held, r.owed, r.free_ns, a.balance,
                    a.held AS account_held, a.owed AS account_owed, a.free_ns AS account_free_ns, a.free_ms
             FROM runs r JOIN accounts a ON a.id = r.account WHERE r.id = $1",
        )
        .bind(run)
        .fetch_optional()
        .await?;
    let Some(row) = row else { return Ok(None) };
    let number = |name: &str| row.try_get::<i64, _>(name);
    let time = |name: &str| Ok::<_, sqlx::Error>(Duration::from_nanos(number(name)?.unsigned_abs()));
    let open = row.try_get::<String, _>("state")? == "open";
    let (spent, held, owed) = (number("spent")?, number("held")?, number("owed")?);
    let (balance, account_held, account_owed) =
        (number("balance")?, number("account_held")?, number("account_owed")?);
    let cap = row.try_get::<Option<i64>, _>("max_credits")?.map_or(i64::MAX, |cap| cap - spent);

    let now = now_ms();
    let since = Duration::from_millis(now.saturating_sub(number("free_ms")?).max(0).unsigned_abs());
    let (free, of_account) = pricing::free(cpu, time("free_ns")?, time("account_free_ns")?, since);
    let due = pricing::cost(prices, Work { cpu: cpu.saturating_sub(free), bytes: 0 });
    // What is owed is spent, though it is not taken yet.
    let (in_cap, in_balance) = ((cap - owed).max(0), (balance - account_owed).max(0));
    let new = due.min(in_cap).min(in_balance);
    let short = match () {
        () if new == due => None,
        () if in_cap <= in_balance => Some(Short::Cap),
        () => Some(Short::Balance),
    };

    // Batches under way must be able to settle for all that they hold: the table's check (`held <= balance`)
    // would refuse it otherwise, and with it the whole group.
    let taken = (owed + new).min(balance - account_held).min(cap.saturating_sub(held)).max(0);
    // A debt is paid from what reservations leave over. Where the account has none, nothing more will come,
    // and the debt is dropped; where the run has none, its cap has no more room than now.
    let left = match owed + new - taken {
        _ if account_held == 0 => 0,
        left if held == 0 => left.min(cap - taken),
        left => left,
    };
    tx.sql(
        "UPDATE runs SET spent = spent + $2, owed = $3, free_ns = free_ns + $4, cpu_ns = cpu_ns + $5 WHERE id = $1",
    )
    .bind(run)
    .bind(taken)
    .bind(left)
    .bind(whole(free))
    .bind(whole(cpu))
    .execute()
    .await?;
    let account = number("account")?;
    tx.sql("UPDATE accounts SET balance = balance - $2, owed = owed + $3, free_ns = $4, free_ms = $5 WHERE id = $1")
        .bind(account)
        .bind(taken)
        .bind(left - owed)
        .bind(whole(of_account))
        .bind(now)
        .execute()
        .await?;
    if taken > 0 {
        tx.sql(
            // Without a seq: the ledger's unique index admits one charge for each batch of a run, and any
            // number of these.
            "INSERT INTO ledger (account, kind, amount, balance, run, created_ms)
             VALUES ($1, 'charge', $2, $3, $4, $5)",
        )
        .bind(account)
        .bind(-taken)
        .bind(balance - taken)
        .bind(run)
        .bind(now)
        .execute()
        .await?;
    }
    tx.commit().await?;
    Ok(Some(Charged { open, taken, short }))
}
