//! What was uploaded: stored once by its hash, but known only to the accounts that have uploaded it themselves.

use super::{Result, Store, now_ms};

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
}

/// An upload that is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Bytes, decompressed.
    pub size: u64,
    /// Of an executable: what its workers say that they are.
    pub identity: Option<String>,
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
