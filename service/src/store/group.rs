//! The two statements that each batch needs, for many batches at a time: one reserves, one settles. What follows for run,
//! account and ledger is done by the tables' triggers in the same statement, so that a group of batches costs one round
//! trip and one commit, however many they are. Called by `commit`.

use std::collections::{HashMap, HashSet};

use sqlx::sqlite::SqliteConnection;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::ledger::{Reserve, Reserved, Settle, Settled, whole};
use super::{Result, now_ms};
use crate::price::{self, Grant, Microcredits};

/// Reserves for those batches that are new, of open runs, and far from the end of their credits; in the order in which they
/// were asked. `None`: the batch needs a closer look ([`ledger::reserve`](super::ledger::reserve)), and nothing was done.
pub(super) async fn reserve(conn: &mut SqliteConnection, asks: &[Reserve]) -> Result<Vec<Option<Reserved>>> {
    let holds: Vec<Microcredits> = asks.iter().map(|ask| price::cost(&ask.prices, ask.wanted)).collect();
    // The statement sees what there was before it: all that it may reserve for an account must fit, and with the distance
    // at which one batch gets all that it wants.
    let mut of_account: HashMap<i64, Microcredits> = HashMap::new();
    for (ask, hold) in asks.iter().zip(&holds) {
        let sum = of_account.entry(ask.account).or_default();
        *sum = sum.saturating_add(*hold);
    }
    let now = now_ms();
    let mut query = QueryBuilder::<Sqlite>::new(
        "WITH asked (account, run, seq, digest, hold, cpu_limit_ns, byte_limit, room, at_ms) AS (",
    );
    query.push_values(asks.iter().zip(&holds), |mut row, (ask, hold)| {
        row.push_bind(ask.account)
            .push_bind(&ask.run)
            .push_bind(ask.seq)
            .push_bind(&ask.digest)
            .push_bind(*hold)
            .push_bind(whole(ask.wanted.cpu))
            .push_bind(i64::try_from(ask.wanted.bytes).unwrap_or(i64::MAX))
            .push_bind(of_account[&ask.account].saturating_mul(price::SHARE))
            .push_bind(now);
    });
    query.push(
        ") INSERT INTO batches (run, seq, digest, state, hold, cpu_limit_ns, byte_limit, short, opened_ms)
         SELECT asked.run, asked.seq, asked.digest, 'held', asked.hold, asked.cpu_limit_ns, asked.byte_limit, FALSE,
                asked.at_ms
         FROM asked JOIN runs r ON r.id = asked.run AND r.account = asked.account JOIN accounts a ON a.id = r.account
         WHERE r.state = 'open' AND a.balance - a.held >= asked.room
           AND (r.max_credits IS NULL OR r.max_credits - r.spent - r.held >= asked.room)
         ON CONFLICT (run, seq) DO NOTHING RETURNING run, seq, digest",
    );
    let mut done: HashSet<(String, i64, String)> = HashSet::new();
    for row in query.build().fetch_all(conn).await? {
        done.insert((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    }
    let mut granted = |(ask, hold): (&Reserve, Microcredits)| {
        // Taken out: of two that ask for one batch, one has reserved it.
        done.remove(&(ask.run.clone(), ask.seq, ask.digest.clone())).then_some(Reserved::Granted(Grant {
            hold,
            work: ask.wanted,
            short: false,
        }))
    };
    Ok(asks.iter().zip(holds).map(&mut granted).collect())
}

/// Charges for batches that are answered, and gives the rest of what they have reserved back.
pub(super) async fn settle(conn: &mut SqliteConnection, asks: &[Settle]) -> Result<Vec<Settled>> {
    let now = now_ms();
    let number = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
    let mut query = QueryBuilder::<Sqlite>::new(
        "WITH settled (run, seq, status, charge, cpu_ns, result_bytes, items, digest, file, at, length, at_ms) AS (",
    );
    query.push_values(asks, |mut row, ask| {
        row.push_bind(&ask.run)
            .push_bind(ask.seq)
            .push_bind(i64::from(ask.status))
            .push_bind(ask.charge)
            .push_bind(whole(ask.cpu))
            .push_bind(number(ask.bytes))
            .push_bind(number(ask.items))
            .push_bind(&ask.answer.digest)
            .push_bind(number(ask.answer.place.file))
            .push_bind(number(ask.answer.place.at))
            .push_bind(number(ask.answer.place.length))
            .push_bind(now);
    });
    query.push(
        ") UPDATE batches SET state = 'answered', status = s.status,
                charge = CASE WHEN s.charge < hold THEN s.charge ELSE hold END,
                cpu_ns = s.cpu_ns, result_bytes = s.result_bytes, items = s.items, answer_digest = s.digest,
                answer_file = s.file, answer_at = s.at, answer_length = s.length, settled_ms = s.at_ms
         FROM settled s WHERE batches.run = s.run AND batches.seq = s.seq AND batches.state = 'held'
         RETURNING batches.run, batches.seq",
    );
    let mut done: HashSet<(String, i64)> = HashSet::new();
    for row in query.build().fetch_all(conn).await? {
        done.insert((row.try_get(0)?, row.try_get(1)?));
    }
    let mut settled = |ask: &Settle| match done.remove(&(ask.run.clone(), ask.seq)) {
        true => Settled::Charged,
        false => Settled::NotHeld,
    };
    Ok(asks.iter().map(&mut settled).collect())
}
