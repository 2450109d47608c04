//! The two statements that each batch needs, for many batches at a time: one reserves, one settles. What follows for run,
//! account and ledger is done by the tables' triggers in the same statement, so that a group of batches costs one round
//! trip and one commit, however many they are. Called by `group_commit`.

use std::collections::{HashMap, HashSet};

use super::db::Db;
use super::error::Result;
use super::ledger::{Reserve, Reserved, Settle, Settled, whole};
use crate::clock::now_ms;
use crate::pricing;
use crate::pricing::{Grant, Microcredits};

/// On PostgreSQL: locks the accounts and runs of all batches of the group, in the order of all other
/// transactions. The values of locked rows are the newest that are committed, even if they are newer than the
/// statement's snapshot.
const LOCKED: &str =
    " WHERE r.id IN (SELECT run FROM asked) ORDER BY a.id, r.number FOR NO KEY UPDATE OF a, r";

/// Reserves for those batches that are new, of open runs, and far from the end of their credits; in the order in which they
/// were asked. `None`: the batch needs a closer look ([`ledger::reserve`](super::ledger::reserve)), and nothing was done.
pub(super) async fn reserve(
    db: &mut Db<'_>,
    gateway: i64,
    asks: &[Reserve],
) -> Result<Vec<Option<Reserved>>> {
    let holds: Vec<Microcredits> = asks.iter().map(|ask| pricing::cost(&ask.prices, ask.wanted)).collect();
    // The statement does not see its own reservations: what the whole group asks of an account must fit at
    // once. It must fit `SHARE` times, because nearer to the end of the credits a batch gets less than it
    // wants, which `ledger::reserve` works out. The same sum is compared with each run's cap; that is too
    // strict for an account with several runs, and costs no more than the closer look.
    let mut of_account: HashMap<i64, Microcredits> = HashMap::new();
    for (ask, hold) in asks.iter().zip(&holds) {
        let sum = of_account.entry(ask.account).or_default();
        *sum = sum.saturating_add(*hold);
    }
    let now = now_ms();
    let locked = if db.is_multi_writer() { LOCKED } else { "" };
    let query = db.sql(
        "WITH asked (account, run, seq, digest, hold, cpu_limit_ns, byte_limit, room, most_kept, at_ms, gateway) AS (",
    );
    let query = query.push_values(asks.iter().zip(&holds), |row, (ask, hold)| {
        row.push_bind(ask.account)
            .push_bind(&ask.run)
            .push_bind(ask.seq)
            .push_bind(&ask.digest)
            .push_bind(*hold)
            .push_bind(whole(ask.wanted.cpu))
            .push_bind(i64::try_from(ask.wanted.bytes).unwrap_or(i64::MAX))
            .push_bind(of_account[&ask.account].saturating_mul(pricing::SHARE))
            .push_bind(i64::try_from(ask.most_kept).unwrap_or(i64::MAX))
            .push_bind(now)
            .push_bind(gateway);
    });
    let query = query.push(
        "), found AS (SELECT r.id, r.account, r.state, r.max_credits - r.spent - r.held - r.owed AS cap,
                             a.balance - a.held - a.owed AS free, a.kept
                      FROM runs r JOIN accounts a ON a.id = r.account",
    );
    let query = query.push(locked).push(
        // A batch that has a row (it was sent again, cancelled, or is at another gateway) must not fail the
        // group: it is skipped, and gets the closer look.
        ") INSERT INTO batches (run, seq, digest, state, hold, cpu_limit_ns, byte_limit, short, opened_ms, gateway)
         SELECT asked.run, asked.seq, asked.digest, 'held', asked.hold, asked.cpu_limit_ns, asked.byte_limit, FALSE,
                asked.at_ms, asked.gateway
         FROM asked JOIN found ON found.id = asked.run AND found.account = asked.account
         WHERE found.state = 'open' AND found.free >= asked.room AND (found.cap IS NULL OR found.cap >= asked.room)
               AND found.kept < asked.most_kept
         ON CONFLICT (run, seq) DO NOTHING RETURNING run, seq, digest",
    );
    let mut done: HashSet<(String, i64, String)> = HashSet::new();
    for row in query.fetch_all().await? {
        done.insert((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
    }
    let mut granted = |(ask, hold): (&Reserve, Microcredits)| {
        // Removed from the set: if a group has two requests for one batch, one has reserved, and the other
        // gets the closer look. The digest is part of it, because the two may differ in their bytes.
        done.remove(&(ask.run.clone(), ask.seq, ask.digest.clone())).then_some(Reserved::Granted(Grant {
            hold,
            work: ask.wanted,
            short: false,
        }))
    };
    Ok(asks.iter().zip(holds).map(&mut granted).collect())
}

/// Charges for batches that are answered, and gives the rest of what they have reserved back. With each stands which request
/// must have reserved for it, by its digest, if that matters.
pub(super) async fn settle(db: &mut Db<'_>, asks: &[(Settle, Option<String>)]) -> Result<Vec<Settled>> {
    // An update locks rows as it meets them. Without `found`, two groups could lock the accounts that they
    // share in opposite order and wait for each other.
    let company = db.is_multi_writer();
    let now = now_ms();
    let number = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
    let query = db.sql(
        "WITH asked (run, seq, status, charge, cpu_ns, result_bytes, items, digest, file, at, length, at_ms, request) AS (",
    );
    let query = query.push_values(asks, |row, (ask, request)| {
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
            .push_bind(now)
            .push_bind(request.as_deref());
    });
    let (locked, from) = match company {
        true => (
            ", found AS (SELECT r.id FROM runs r JOIN accounts a ON a.id = r.account",
            "JOIN found ON found.id = s.run",
        ),
        false => ("", ""),
    };
    let query = query.push(")").push(locked);
    let query = if company { query.push(LOCKED).push(")") } else { query };
    let query = query.push(
        // No more than the hold is charged, whatever an agent has metered: the credits beyond it may be
        // reserved for others.
        " UPDATE batches SET state = 'answered', status = s.status,
                charge = CASE WHEN s.charge < hold THEN s.charge ELSE hold END,
                cpu_ns = s.cpu_ns, result_bytes = s.result_bytes, items = s.items, answer_digest = s.digest,
                answer_file = s.file, answer_at = s.at, answer_length = s.length, settled_ms = s.at_ms
         FROM asked s ",
    );
    // The state is checked in the same statement, and by PostgreSQL again once it has waited for a row: an
    // answer that comes twice, or from two gateways, is charged once.
    let query = query.push(from).push(
        " WHERE batches.run = s.run AND batches.seq = s.seq AND batches.state = 'held'
               AND (s.request IS NULL OR batches.digest = s.request)
         RETURNING batches.run, batches.seq",
    );
    let mut done: HashSet<(String, i64)> = HashSet::new();
    for row in query.fetch_all().await? {
        done.insert((row.try_get(0)?, row.try_get(1)?));
    }
    // Removed from the set: if a group names a batch twice, its row was changed once.
    let mut settled = |(ask, _): &(Settle, Option<String>)| match done.remove(&(ask.run.clone(), ask.seq)) {
        true => Settled::Charged,
        false => Settled::NotHeld,
    };
    Ok(asks.iter().map(&mut settled).collect())
}
