//! State that all gateways of a database share: that their keys are the same, and which calls have come.

use super::Store;
use super::error::{Result, StoreError};
use crate::clock::now_ms;

/// Nonces that one call forgets; one call adds one.
const FORGOTTEN: i64 = 100;

impl Store {
    /// Binds the database to the first service key that opens it; other keys are refused, because they could
    /// decrypt none of its tokens. `fingerprint` tells keys apart and reveals nothing else of them.
    ///
    /// # Errors
    /// If the database belongs to another key.
    pub async fn claim(&self, fingerprint: &str) -> Result<()> {
        let mut conn = self.writer().await?;
        // Two gateways may start at once: the second insert waits for the first one's commit and does nothing
        // then. The select is a statement of its own, and sees the row that is there.
        conn.sql("INSERT INTO service (name, value) VALUES ('key', $1) ON CONFLICT (name) DO NOTHING")
            .bind(fingerprint)
            .execute()
            .await?;
        let row = conn.sql("SELECT value FROM service WHERE name = 'key'").fetch_one().await?;
        match row.try_get::<String, _>(0)? == fingerprint {
            true => Ok(()),
            false => Err(StoreError::Refused(
                "the tokens in this database were sealed with another service.key: all gateways and commands need the same one"
                    .to_owned(),
            )),
        }
    }

    /// Whether a key has claimed the database. Its tokens can be decrypted with that key alone.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn is_claimed(&self) -> Result<bool> {
        Ok(self.sql("SELECT value FROM service WHERE name = 'key'").fetch_optional().await?.is_some())
    }

    /// Whether a token uses a nonce for the first time, at any gateway. Nonces that were used before
    /// `before_ms` are forgotten: calls that old are refused for their timestamps.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn is_new(&self, token: i64, nonce: &str, before_ms: i64) -> Result<bool> {
        let mut conn = self.writer().await?;
        // A call forgets more rows than it adds, so that the table does not grow for ever. No transaction
        // with the insert is needed: what is left by a process that dies in between goes with the next call.
        conn.sql(
            "DELETE FROM used_nonces WHERE (token, nonce) IN
                 (SELECT token, nonce FROM used_nonces WHERE used_ms < $1 LIMIT $2)",
        )
        .bind(before_ms)
        .bind(FORGOTTEN)
        .execute()
        .await?;
        // The insert alone decides: if the same call arrives at two gateways at once, one of them adds the
        // row.
        let new = conn
            .sql("INSERT INTO used_nonces (token, nonce, used_ms) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
            .bind(token)
            .bind(nonce)
            .bind(now_ms())
            .execute()
            .await?;
        Ok(new > 0)
    }
}
