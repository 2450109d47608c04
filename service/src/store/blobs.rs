//! Uploads: stored once by its hash, but known only to the accounts that have uploaded it themselves. What an upload
//! takes on the disk counts for its account: from before its first byte (`uploads`) to when it is forgotten
//! (`account_blobs`, summed in `stored`).

use std::collections::HashSet;

use super::db::{Conn, Tx};
use super::error::Result;
use super::{Store, ledger};
use crate::clock::now_ms;
use crate::store::db::Row;

/// Unit in which disks allocate.
const BLOCK: u64 = 4096;
/// What a file takes beside its bytes: its inode, its folder's entry, its rows here.
const FILE: u64 = 4096;
/// Uploads that an account keeps. What it has not used for longest goes first.
const KEPT: i64 = 4096;
/// Uploads that an account may have begun at a time.
pub(crate) const BEGUN: usize = 16;
/// Uploads that one transaction forgets.
const FORGOTTEN: usize = 16;
/// Uploads that one statement looks up.
const LOOKED_UP: usize = 64;
/// Begun uploads that one statement gives up.
const GIVEN_UP: i64 = 100;

/// Bytes that a file takes on the disk.
pub(crate) fn on_disk(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK).saturating_mul(BLOCK).saturating_add(FILE)
}

fn stored_as(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// What an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A program.
    Executable,
    /// The encoded context of a map.
    Context,
}

impl Kind {
    /// As it stands in the database and in the names of folders.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Executable => "executable",
            Kind::Context => "context",
        }
    }

    fn of(text: &str) -> Kind {
        match text == Kind::Context.as_str() {
            true => Kind::Context,
            false => Kind::Executable,
        }
    }
}

/// An upload that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Bytes, decompressed.
    pub size: u64,
    /// Of an executable: what its workers say that they are.
    pub identity: Option<String>,
}

/// An upload of which a part has come.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Whose.
    pub account: i64,
    /// What it is.
    pub kind: Kind,
    /// SHA-256 of what it unpacks to.
    pub hash: &'a str,
    /// Bytes that it may take on the disk up to its end.
    pub taken: u64,
    /// Bytes that all uploads of the account may take.
    pub most: u64,
    /// One whose last part came before this gives way to another.
    pub left_before_ms: i64,
}

/// What became of a [`Part`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// What it may take is counted. An upload that was left has given way: its parts can go.
    Counted(Option<(Kind, String)>),
    /// The account has as many uploads under way as it may.
    Crowded,
    /// There is room if stored uploads take at most this number of bytes; `None`: there is no room in any
    /// case.
    Full(Option<u64>),
}

impl Store {
    /// What this account has uploaded under that hash.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn blob(&self, account: i64, kind: Kind, hash: &str) -> Result<Option<Blob>> {
        let row = self.sql(
            "SELECT b.size, b.identity FROM account_blobs a JOIN blobs b ON b.kind = a.kind AND b.hash = a.hash
             WHERE a.account = $1 AND a.kind = $2 AND a.hash = $3",
        )
        .bind(account)
        .bind(kind.as_str())
        .bind(hash)
        .fetch_optional()
        .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Blob { size: row.try_get::<i64, _>(0)?.unsigned_abs(), identity: row.try_get(1)? }))
    }

    /// Bytes that uploads of this account take on the disk: stored, and begun.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn taken_bytes(&self, account: i64) -> Result<(u64, u64)> {
        let row = self
            .sql(
                "SELECT COALESCE((SELECT bytes FROM stored WHERE account = $1), 0),
                        CAST(COALESCE((SELECT SUM(taken) FROM uploads WHERE account = $1), 0) AS BIGINT)",
            )
            .bind(account)
            .fetch_one()
            .await?;
        Ok((row.try_get::<i64, _>(0)?.unsigned_abs(), row.try_get::<i64, _>(1)?.unsigned_abs()))
    }

    /// What a begun upload counts, and when its last part came.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn begun_upload(&self, account: i64, kind: Kind, hash: &str) -> Result<Option<(u64, i64)>> {
        let row = self
            .sql("SELECT taken, touched_ms FROM uploads WHERE account = $1 AND kind = $2 AND hash = $3")
            .bind(account)
            .bind(kind.as_str())
            .bind(hash)
            .fetch_optional()
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some((row.try_get::<i64, _>(0)?.unsigned_abs(), row.try_get(1)?)))
    }

    /// Counts what an upload may take on the disk, before any byte of it is there.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn begin_upload(&self, part: &Part<'_>) -> Result<Begun> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        // What is counted here and what is added below are one step: parts of several uploads arrive at once,
        // and each would find the same room.
        ledger::lock(&mut tx.db(), [part.account]).await?;
        // Without the upload itself: each of its parts comes through here, and its place counts once.
        let rows = tx
            .sql(
                "SELECT kind, hash, taken, touched_ms FROM uploads
                 WHERE account = $1 AND NOT (kind = $2 AND hash = $3) ORDER BY touched_ms, kind, hash",
            )
            .bind(part.account)
            .bind(part.kind.as_str())
            .bind(part.hash)
            .fetch_all()
            .await?;
        let mut begun = 0;
        for row in &rows {
            begun += row.try_get::<i64, _>(2)?.unsigned_abs();
        }
        // The rows begin with the upload of which nothing has come for longest: it gives way if it was left.
        // It is removed below, once there is known to be room; else the transaction ends without a change.
        let mut left = None;
        if rows.len() >= BEGUN {
            let oldest = &rows[0];
            if oldest.try_get::<i64, _>(3)? >= part.left_before_ms {
                return Ok(Begun::Crowded);
            }
            begun -= oldest.try_get::<i64, _>(2)?.unsigned_abs();
            left = Some((Kind::of(&oldest.try_get::<String, _>(0)?), oldest.try_get::<String, _>(1)?));
        }
        let (stored, files) = stored(&mut tx, part.account).await?;
        // Begun uploads can't be forgotten to make room: what stored ones may take is what they leave over.
        let most = part.most.checked_sub(begun.saturating_add(part.taken));
        if files >= KEPT || most.is_none_or(|most| stored > most) {
            return Ok(Begun::Full(most));
        }
        if let Some((kind, hash)) = &left {
            give_up(&mut tx, part.account, *kind, hash).await?;
        }
        tx.sql(
            "INSERT INTO uploads (account, kind, hash, taken, touched_ms) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (account, kind, hash) DO UPDATE SET taken = $4, touched_ms = $5",
        )
        .bind(part.account)
        .bind(part.kind.as_str())
        .bind(part.hash)
        .bind(stored_as(part.taken))
        .bind(now_ms())
        .execute()
        .await?;
        tx.commit().await?;
        Ok(Begun::Counted(left))
    }

    /// Which of these hashes no account has.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn unknown_blobs(&self, kind: Kind, hashes: &[String]) -> Result<Vec<String>> {
        let mut unknown = Vec::new();
        for piece in hashes.chunks(LOOKED_UP) {
            // Filled up with the last one: one statement for any number of hashes, which stays prepared.
            let all = piece.iter().chain(piece.last().into_iter().cycle()).take(LOOKED_UP);
            let query = self
                .sql(format!("SELECT hash FROM blobs WHERE kind = '{}' AND hash IN (", kind.as_str()))
                .push_values(all, |row, hash| {
                    row.push_bind(hash);
                })
                .push(")");
            let mut known = HashSet::new();
            for row in query.fetch_all().await? {
                known.insert(row.try_get::<String, _>(0)?);
            }
            unknown.extend(piece.iter().filter(|hash| !known.contains(*hash)).cloned());
        }
        Ok(unknown)
    }

    /// Ends a begun upload: it takes no room any more.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn end_upload(&self, account: i64, kind: Kind, hash: &str) -> Result<()> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        // No lock on the account: this only lowers what is counted, and a transaction that misses it refuses
        // too much at most.
        give_up(&mut tx, account, kind, hash).await?;
        tx.commit().await
    }

    /// Gives up begun uploads whose last part came before that; returns their accounts, kinds and hashes.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn give_up_uploads(&self, before_ms: i64) -> Result<Vec<(i64, Kind, String)>> {
        let rows = self
            .writer()
            .await?
            .sql(
                // PostgreSQL has no `DELETE … LIMIT`: a subquery chooses the rows.
                "DELETE FROM uploads WHERE (account, kind, hash) IN
                     (SELECT account, kind, hash FROM uploads WHERE touched_ms < $1 LIMIT $2)
                 RETURNING account, kind, hash",
            )
            .bind(before_ms)
            .bind(GIVEN_UP)
            .fetch_all()
            .await?;
        let upload = |row: &Row| -> Result<(i64, Kind, String)> {
            Ok((row.try_get(0)?, Kind::of(&row.try_get::<String, _>(1)?), row.try_get(2)?))
        };
        rows.iter().map(upload).collect()
    }

    /// Forgets uploads of this account that no open run needs, the least recently needed first, until the
    /// rest takes at most `most` bytes and is fewer than an account may keep. Returns those that no account
    /// has any more, whose files can be removed; `None`, and nothing is forgotten, if that is not enough.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn make_room(&self, account: i64, most: u64) -> Result<Option<Vec<(Kind, String)>>> {
        // Read without the writer and without a lock: this is the plan, and `forget_blobs` looks again before
        // it forgets anything.
        let needed = needed(self.sql(NEEDED).bind(account).fetch_all().await?)?;
        let rows = self
            .sql("SELECT kind, hash, cost FROM account_blobs WHERE account = $1 ORDER BY used_ms, kind, hash")
            .bind(account)
            .fetch_all()
            .await?;
        let (mut bytes, mut files, mut unneeded) = (0, 0, Vec::new());
        for row in rows {
            let (kind, hash): (String, String) = (row.try_get(0)?, row.try_get(1)?);
            let cost = row.try_get::<i64, _>(2)?.unsigned_abs();
            bytes += cost;
            files += 1;
            if !needed.contains(&hash) {
                unneeded.push((Kind::of(&kind), hash, cost));
            }
        }
        let mut going = Vec::new();
        for (kind, hash, cost) in unneeded {
            if bytes <= most && files < KEPT {
                break;
            }
            bytes -= cost;
            files -= 1;
            going.push((kind, hash));
        }
        // Before the first is forgotten: if all that can go is not enough, nothing goes.
        if bytes > most || files >= KEPT {
            return Ok(None);
        }
        let mut orphans = Vec::new();
        // In pieces, between which others get the writer. If the process dies in between, the next start
        // removes files that no account has any more (`unknown_blobs`).
        for piece in going.chunks(FORGOTTEN) {
            orphans.extend(self.forget_blobs(account, piece).await?);
        }
        Ok(Some(orphans))
    }

    /// Forgets these uploads of an account, unless an open run needs them by now.
    async fn forget_blobs(&self, account: i64, blobs: &[(Kind, String)]) -> Result<Vec<(Kind, String)>> {
        let mut orphans = Vec::new();
        let mut conn: Conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        // `open_run` takes this lock as well: no run that needs one of these opens between the look and the
        // deletion.
        ledger::lock(&mut tx.db(), [account]).await?;
        let needed = needed(tx.sql(NEEDED).bind(account).fetch_all().await?)?;
        for (kind, hash) in blobs.iter().filter(|(_, hash)| !needed.contains(hash)) {
            tx.sql("DELETE FROM account_blobs WHERE account = $1 AND kind = $2 AND hash = $3")
                .bind(account)
                .bind(kind.as_str())
                .bind(hash)
                .execute()
                .await?;
            // The file is shared by all accounts that have uploaded it, and goes with the last of them.
            let orphan = tx
                .sql(
                    "DELETE FROM blobs WHERE kind = $1 AND hash = $2
                     AND NOT EXISTS (SELECT 1 FROM account_blobs a WHERE a.kind = $1 AND a.hash = $2)",
                )
                .bind(kind.as_str())
                .bind(hash)
                .execute()
                .await?;
            if orphan > 0 {
                orphans.push((*kind, hash.clone()));
            }
        }
        tx.commit().await?;
        Ok(orphans)
    }

    /// This account has uploaded it: what it takes counts as stored from now on, and no longer as begun.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn add_blob(&self, account: i64, kind: Kind, hash: &str, blob: &Blob) -> Result<()> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        ledger::lock(&mut tx.db(), [account]).await?;
        // The file is in its place before its row is: if the process dies in between, the next start removes
        // a file that no account has. Two uploads of one file at once, also of two accounts, make one row.
        let now = now_ms();
        tx.sql(
            "INSERT INTO blobs (kind, hash, size, identity, created_ms) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (kind, hash) DO NOTHING",
        )
        .bind(kind.as_str())
        .bind(hash)
        .bind(stored_as(blob.size))
        .bind(&blob.identity)
        .bind(now)
        .execute()
        .await?;
        tx.sql(
            "INSERT INTO account_blobs (account, kind, hash, created_ms, cost, used_ms) VALUES ($1, $2, $3, $4, $5, $4)
             ON CONFLICT (account, kind, hash) DO NOTHING",
        )
        .bind(account)
        .bind(kind.as_str())
        .bind(hash)
        .bind(now)
        .bind(stored_as(on_disk(blob.size)))
        .execute()
        .await?;
        // In the same transaction: the upload's bytes count as begun or as stored at any time, and never as
        // neither.
        give_up(&mut tx, account, kind, hash).await?;
        tx.commit().await
    }
}

/// What open runs of an account need; they are few.
const NEEDED: &str = "SELECT executable, context FROM runs WHERE account = $1 AND state = 'open'";

fn needed(rows: Vec<Row>) -> Result<HashSet<String>> {
    let mut needed = HashSet::new();
    for row in rows {
        needed.insert(row.try_get(0)?);
        needed.extend(row.try_get::<Option<String>, _>(1)?);
    }
    Ok(needed)
}

/// Bytes that stored uploads of an account take, and their number.
async fn stored(tx: &mut Tx<'_>, account: i64) -> Result<(u64, i64)> {
    let row =
        tx.sql("SELECT bytes, files FROM stored WHERE account = $1").bind(account).fetch_optional().await?;
    let Some(row) = row else { return Ok((0, 0)) };
    Ok((row.try_get::<i64, _>(0)?.unsigned_abs(), row.try_get(1)?))
}

async fn give_up(tx: &mut Tx<'_>, account: i64, kind: Kind, hash: &str) -> Result<()> {
    tx.sql("DELETE FROM uploads WHERE account = $1 AND kind = $2 AND hash = $3")
        .bind(account)
        .bind(kind.as_str())
        .bind(hash)
        .execute()
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
