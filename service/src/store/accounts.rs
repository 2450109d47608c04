//! Accounts and their tokens. The half of a secret that names a token is stored as its hash, the half that signs
//! encrypted; the secret itself is nowhere.

use fastmap_backends::cloud::{Secret, digest};

use super::Store;
use super::db::{Row, Tx};
use super::error::{Result, StoreError};
use crate::clock::now_ms;
use crate::keys::ServiceKey;
use crate::pricing::Microcredits;
use crate::text;

/// Revoked and expired tokens of an account that are kept, where the account makes its tokens itself.
const WORTHLESS: usize = 200;
/// Tokens beyond that number which one call removes.
const WORTHLESS_AT_ONCE: usize = 8;

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// The sum of its ledger.
    pub balance: Microcredits,
    /// What of it is reserved.
    pub held: Microcredits,
    /// Milliseconds since 1970.
    pub created_ms: i64,
}

/// A token, without anything secret.
#[derive(Clone, Debug)]
pub struct TokenInfo {
    /// Its number.
    pub id: i64,
    /// The account's name.
    pub account: String,
    /// What its owner calls it.
    pub label: String,
    /// Milliseconds since 1970.
    pub created_ms: i64,
    /// Milliseconds since 1970.
    pub expires_ms: Option<i64>,
    /// Milliseconds since 1970.
    pub revoked_ms: Option<i64>,
}

/// What checking a signature takes.
#[derive(Clone, Debug)]
pub struct TokenKey {
    /// The token's number.
    pub id: i64,
    /// The account's number.
    pub account: i64,
    /// The account's name.
    pub account_name: String,
    /// The signing half, sealed.
    pub sealed: Vec<u8>,
    /// Milliseconds since 1970.
    pub expires_ms: Option<i64>,
    /// It was revoked.
    pub revoked: bool,
}

impl Store {
    /// Opens an account with these credits.
    ///
    /// # Errors
    /// If there is one of that name.
    pub async fn create_account(&self, name: &str, credits: Microcredits) -> Result<Account> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@+".contains(&byte);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(good) {
            return Err(StoreError::Refused(format!(
                "{name:?} can't be an account's name: 1 to 64 letters, digits and any of -_.@+"
            )));
        }
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        // The insert itself finds out whether the name is taken: of two commands at once, one gets no row.
        // The account needs no lock before its first entry, because no other transaction sees it yet.
        let row = tx.sql(
            "INSERT INTO accounts (name, created_ms) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING RETURNING id",
        )
        .bind(name)
        .bind(now_ms())
        .fetch_optional()
        .await?;
        let Some(row) = row else {
            return Err(StoreError::Refused(format!("there is an account {name:?} already")));
        };
        let id = row.try_get("id")?;
        if credits != 0 {
            super::ledger::add(&mut tx.db(), id, "grant", credits, Some("new account")).await?;
        }
        tx.commit().await?;
        // Given back before the account is read: on PostgreSQL reads use the same pool, and tasks that keep
        // one connection while they wait for another could wait for each other.
        drop(conn);
        self.account(name).await?.ok_or(StoreError::Closed)
    }

    /// All accounts, by name.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn accounts(&self) -> Result<Vec<Account>> {
        let rows = self
            .sql("SELECT id, name, balance, held, created_ms FROM accounts ORDER BY name")
            .fetch_all()
            .await?;
        rows.iter().map(account_of).collect()
    }

    /// The account of that name.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn account(&self, name: &str) -> Result<Option<Account>> {
        let row = self
            .sql("SELECT id, name, balance, held, created_ms FROM accounts WHERE name = $1")
            .bind(name)
            .fetch_optional()
            .await?;
        row.as_ref().map(account_of).transpose()
    }

    /// What an account has: (balance, reserved).
    ///
    /// # Errors
    /// If the database fails.
    pub async fn balance(&self, account: i64) -> Result<(Microcredits, Microcredits)> {
        let row =
            self.sql("SELECT balance, held FROM accounts WHERE id = $1").bind(account).fetch_one().await?;
        Ok((row.try_get("balance")?, row.try_get("held")?))
    }

    /// Bytes of answers that are kept for an account.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn kept(&self, account: i64) -> Result<u64> {
        let row = self.sql("SELECT kept FROM accounts WHERE id = $1").bind(account).fetch_one().await?;
        Ok(row.try_get::<i64, _>(0)?.unsigned_abs())
    }

    /// Keeps a token for a secret; the secret is not kept. Gives the token's number.
    ///
    /// # Errors
    /// If the label is too long, or the database fails.
    pub async fn add_token(
        &self,
        account: i64,
        secret: &Secret,
        key: &ServiceKey,
        label: &str,
        expires_ms: Option<i64>,
    ) -> Result<i64> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        let id = add(&mut tx, account, &Sealed::of(secret, key)?, label, expires_ms).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// The same for an account that makes its tokens itself: it may have up to `most_good` that are valid,
    /// and gets `None` if it has them. If it has many that are revoked or expired, the oldest are forgotten.
    ///
    /// # Errors
    /// If the label is too long, or the database fails.
    pub async fn add_own_token(
        &self,
        account: i64,
        secret: &Secret,
        key: &ServiceKey,
        label: &str,
        expires_ms: Option<i64>,
        most_good: usize,
    ) -> Result<Option<i64>> {
        let sealed = Sealed::of(secret, key)?;
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        // Tokens are counted under this lock: two requests at once would both find room for the last one.
        super::ledger::lock(&mut tx.db(), [account]).await?;
        let rows = tx
            .sql(
                "SELECT id, CASE WHEN revoked_ms IS NULL AND (expires_ms IS NULL OR expires_ms > $2) THEN 1 ELSE 0 END
                 FROM tokens WHERE account = $1 ORDER BY id",
            )
            .bind(account)
            .bind(now_ms())
            .fetch_all()
            .await?;
        let (mut good, mut worthless) = (0, Vec::new());
        for row in &rows {
            match i64::from(row.try_get::<i32, _>(1)?) {
                0 => worthless.push(row.try_get::<i64, _>(0)?),
                _ => good += 1,
            }
        }
        if good >= most_good {
            return Ok(None);
        }
        // One fewer than may be kept, because the new token takes a row, too. What is over beyond that goes
        // with later calls, and the transaction stays short.
        let many = worthless.len().saturating_sub(WORTHLESS - 1).min(WORTHLESS_AT_ONCE);
        for id in &worthless[..many] {
            // In this order: links and sessions refer to their token.
            for sql in [
                "DELETE FROM dashboard_links WHERE token = $1",
                "DELETE FROM dashboard_sessions WHERE token = $1",
                "DELETE FROM tokens WHERE id = $1",
            ] {
                tx.sql(sql).bind(id).execute().await?;
            }
        }
        let id = add(&mut tx, account, &sealed, label, expires_ms).await?;
        tx.commit().await?;
        Ok(Some(id))
    }

    /// The tokens of one account, or of all.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn tokens(&self, account: Option<i64>) -> Result<Vec<TokenInfo>> {
        let rows = self
            .sql(
                "SELECT t.id, a.name, t.label, t.created_ms, t.expires_ms, t.revoked_ms
             FROM tokens t JOIN accounts a ON a.id = t.account
             WHERE $1 IS NULL OR t.account = $1 ORDER BY t.id",
            )
            .bind(account)
            .fetch_all()
            .await?;
        let token = |row: &Row| -> Result<TokenInfo> {
            Ok(TokenInfo {
                id: row.try_get(0)?,
                account: row.try_get(1)?,
                label: row.try_get(2)?,
                created_ms: row.try_get(3)?,
                expires_ms: row.try_get(4)?,
                revoked_ms: row.try_get(5)?,
            })
        };
        rows.iter().map(token).collect()
    }

    /// What checks the signatures of the token that hashes to `hash`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn token_key(&self, hash: &str) -> Result<Option<TokenKey>> {
        let row = self
            .sql(
                "SELECT t.id, t.account, a.name, t.sealed, t.expires_ms, t.revoked_ms
             FROM tokens t JOIN accounts a ON a.id = t.account WHERE t.hash = $1",
            )
            .bind(hash)
            .fetch_optional()
            .await?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(TokenKey {
            id: row.try_get(0)?,
            account: row.try_get(1)?,
            account_name: row.try_get(2)?,
            sealed: row.try_get(3)?,
            expires_ms: row.try_get(4)?,
            revoked: row.try_get::<Option<i64>, _>(5)?.is_some(),
        }))
    }

    /// Revokes a token. `false`: no token of that number is valid.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn revoke_token(&self, id: i64) -> Result<bool> {
        let done = self
            .writer()
            .await?
            // A token that is revoked twice keeps the time of the first.
            .sql("UPDATE tokens SET revoked_ms = $1 WHERE id = $2 AND revoked_ms IS NULL")
            .bind(now_ms())
            .bind(id)
            .execute()
            .await?;
        Ok(done > 0)
    }
}

/// Parts of a secret that are stored.
struct Sealed {
    hash: String,
    key: Vec<u8>,
}

impl Sealed {
    fn of(secret: &Secret, key: &ServiceKey) -> Result<Self> {
        let hash = digest(secret.token().as_bytes());
        // Sealed together with the hash: in the row of another token it does not open.
        let key = key.seal(&secret.key(), &hash).map_err(|error| StoreError::Refused(error.to_string()))?;
        Ok(Sealed { hash, key })
    }
}

async fn add(
    tx: &mut Tx<'_>,
    account: i64,
    sealed: &Sealed,
    label: &str,
    expires_ms: Option<i64>,
) -> Result<i64> {
    if label.len() > text::LABEL {
        return Err(StoreError::Refused(format!("a label has at most {} bytes", text::LABEL)));
    }
    let row = tx
        .sql(
            "INSERT INTO tokens (account, hash, sealed, label, created_ms, expires_ms)
             VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
        )
        .bind(account)
        .bind(&sealed.hash)
        .bind(&sealed.key)
        .bind(label)
        .bind(now_ms())
        .bind(expires_ms)
        .fetch_one()
        .await?;
    Ok(row.try_get(0)?)
}

fn account_of(row: &Row) -> Result<Account> {
    Ok(Account {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        balance: row.try_get("balance")?,
        held: row.try_get("held")?,
        created_ms: row.try_get("created_ms")?,
    })
}
