//! What was uploaded: stored once by its hash, but known only to the accounts that have uploaded it themselves.

use std::collections::HashMap;

use super::{Result, Store, ledger, now_ms};

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

/// When a run has last needed an upload, and whether an open one does.
#[derive(Clone, Copy, Debug, Default)]
struct Need {
    last_ms: i64,
    open: bool,
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

    /// Bytes of all that this account has uploaded.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn stored_bytes(&self, account: i64) -> Result<u64> {
        let row = self.sql(
            "SELECT CAST(COALESCE(SUM(b.size), 0) AS BIGINT) FROM account_blobs a JOIN blobs b ON b.kind = a.kind AND b.hash = a.hash
             WHERE a.account = $1",
        )
        .bind(account)
        .fetch_one()
        .await?;
        Ok(row.try_get::<i64, _>(0)?.unsigned_abs())
    }

    /// Forgets uploads of this account until they have at most so many bytes: those that no open run needs, and of these the
    /// one first that was not needed for longest. Gives those that no account has any more, whose files can go; `None`, and
    /// nothing is forgotten, where that is not enough.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn make_room(&self, account: i64, most: u64) -> Result<Option<Vec<(Kind, String)>>> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        // No run is opened meanwhile.
        ledger::lock(&mut tx.db(), [account]).await?;
        let mut needs: HashMap<String, Need> = HashMap::new();
        let runs = tx
            .sql(
                "SELECT executable, context, MAX(opened_ms) AS last_ms, COUNT(CASE WHEN state = 'open' THEN 1 END) AS open
                 FROM runs WHERE account = $1 GROUP BY executable, context",
            )
            .bind(account)
            .fetch_all()
            .await?;
        for row in runs {
            let (last_ms, open): (i64, i64) = (row.try_get("last_ms")?, row.try_get("open")?);
            let context: Option<String> = row.try_get("context")?;
            for hash in context.into_iter().chain([row.try_get("executable")?]) {
                let need = needs.entry(hash).or_default();
                *need = Need { last_ms: need.last_ms.max(last_ms), open: need.open || open > 0 };
            }
        }
        let rows = tx
            .sql(
                "SELECT a.kind, a.hash, a.created_ms, b.size FROM account_blobs a
                 JOIN blobs b ON b.kind = a.kind AND b.hash = a.hash WHERE a.account = $1",
            )
            .bind(account)
            .fetch_all()
            .await?;
        let (mut stored, mut unneeded) = (0, Vec::new());
        for row in rows {
            let (kind, hash): (String, String) = (row.try_get("kind")?, row.try_get("hash")?);
            let (created_ms, size): (i64, i64) = (row.try_get("created_ms")?, row.try_get("size")?);
            stored += size.unsigned_abs();
            let need = needs.get(&hash).copied().unwrap_or_default();
            if !need.open {
                unneeded.push((need.last_ms.max(created_ms), kind, hash, size.unsigned_abs()));
            }
        }
        unneeded.sort_unstable();
        let mut orphans = Vec::new();
        for (_, kind, hash, size) in unneeded {
            if stored <= most {
                break;
            }
            stored -= size;
            tx.sql("DELETE FROM account_blobs WHERE account = $1 AND kind = $2 AND hash = $3")
                .bind(account)
                .bind(&kind)
                .bind(&hash)
                .execute()
                .await?;
            let orphan = tx
                .sql(
                    "DELETE FROM blobs WHERE kind = $1 AND hash = $2
                     AND NOT EXISTS (SELECT 1 FROM account_blobs a WHERE a.kind = $1 AND a.hash = $2)",
                )
                .bind(&kind)
                .bind(&hash)
                .execute()
                .await?;
            if orphan > 0 {
                orphans.push((Kind::of(&kind), hash));
            }
        }
        if stored > most {
            return Ok(None);
        }
        tx.commit().await?;
        Ok(Some(orphans))
    }

    /// This account has uploaded it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn add_blob(&self, account: i64, kind: Kind, hash: &str, blob: &Blob) -> Result<()> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        tx.sql(
            "INSERT INTO blobs (kind, hash, size, identity, created_ms) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (kind, hash) DO NOTHING",
        )
        .bind(kind.as_str())
        .bind(hash)
        .bind(i64::try_from(blob.size).unwrap_or(i64::MAX))
        .bind(&blob.identity)
        .bind(now_ms())
        .execute()
        .await?;
        tx.sql(
            "INSERT INTO account_blobs (account, kind, hash, created_ms) VALUES ($1, $2, $3, $4)
             ON CONFLICT (account, kind, hash) DO NOTHING",
        )
        .bind(account)
        .bind(kind.as_str())
        .bind(hash)
        .bind(now_ms())
        .execute()
        .await?;
        tx.commit().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use fastmap_backends::cloud::{FunctionName, OpenRun, RunState};

    use super::*;
    use crate::price::CREDIT;
    use crate::store::NewRun;
    use crate::store::testing::{Fresh, on_both};

    on_both!(what_no_open_run_needs_goes_for_room_and_what_others_have_stays);

    async fn open_run(store: &Store, id: &str, executable: &str, context: Option<&str>) {
        let request = OpenRun {
            key: id.repeat(32),
            executable: executable.to_owned(),
            function: FunctionName { offset: 0, name: String::new() },
            context: context.map(str::to_owned),
            label: None,
            items: None,
            item_timeout_ms: None,
            max_credits: None,
        };
        let new = NewRun { account: 1, id, digest: "", request: &request, most_open: 9, lease_until_ms: 0 };
        store.open_run(&new).await.expect("a new run");
    }

    async fn what_no_open_run_needs_goes_for_room_and_what_others_have_stays(fresh: Fresh) {
        let store = fresh.open().await;
        for name in ["a", "b"] {
            store.create_account(name, CREDIT).await.expect("a new account");
        }
        let blob = Blob { size: 100, identity: None };
        for (account, kind, hash) in [
            (1, Kind::Executable, "old"),
            (1, Kind::Executable, "needed"),
            (1, Kind::Context, "its context"),
            (1, Kind::Context, "shared"),
            (2, Kind::Context, "shared"),
        ] {
            store.add_blob(account, kind, hash, &blob).await.expect("no failure");
        }
        open_run(&store, "1", "needed", Some("its context")).await;
        let room = async |most| store.make_room(1, most).await.expect("no failure");
        assert_eq!(room(400).await, Some(Vec::new()), "there is room");
        assert_eq!(room(199).await, None, "a run needs two of them");
        assert_eq!(store.stored_bytes(1).await.expect("no failure"), 400, "then nothing is forgotten");
        assert_eq!(room(200).await, Some(vec![(Kind::Executable, "old".to_owned())]));
        assert_eq!(store.stored_bytes(1).await.expect("no failure"), 200);
        assert_eq!(store.stored_bytes(2).await.expect("no failure"), 100);
        assert!(store.blob(2, Kind::Context, "shared").await.expect("no failure").is_some());
        store.end_run("1", RunState::Done, None).await.expect("no failure");
        assert_eq!(room(0).await.map(|orphans| orphans.len()), Some(2));
        assert_eq!(store.stored_bytes(1).await.expect("no failure"), 0);
    }
}
