//! Access to the dashboard: one-time links, and the sessions that they open. Codes and cookies are stored as their
//! hashes; all of it hangs on the token that minted the link, and is worth nothing once that is revoked or expired.

use super::Store;
use super::error::Result;
use crate::clock::now_ms;
use crate::pricing::Microcredits;

/// Links of a token that wait to be used; minting another forgets the oldest.
const LINKS: i64 = 5;
/// Sessions of a token; opening another ends the oldest.
const SESSIONS: i64 = 20;
/// Links or sessions that are over and that one call forgets; one call adds one.
const FORGOTTEN: i64 = 100;
/// The least time between two writes to the database that say that a session is in use.
const SEEN_MS: i64 = 60_000;

/// A session to be opened.
#[derive(Clone, Debug)]
pub struct Session {
    /// SHA-256 of its cookie.
    pub hash: String,
    /// What its forms must say.
    pub csrf: String,
}

/// How long sessions last.
#[derive(Clone, Copy, Debug)]
pub struct Lasts {
    /// Milliseconds without a use.
    pub idle_ms: i64,
    /// Milliseconds in any case.
    pub most_ms: i64,
}

/// A visitor with a valid session.
#[derive(Clone, Debug)]
pub struct Visit {
    /// SHA-256 of the session's cookie.
    pub session: String,
    /// What the session's forms must say.
    pub csrf: String,
    /// The token that the session hangs on.
    pub token: i64,
    /// The account's number.
    pub account: i64,
    /// The account's name.
    pub name: String,
    /// The account may see the service's agents.
    pub operator: bool,
    /// What the account has.
    pub balance: Microcredits,
    /// What of it is reserved.
    pub held: Microcredits,
}

impl Store {
    /// Keeps a one-time link of a token.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn add_link(&self, hash: &str, token: i64, expires_ms: i64) -> Result<()> {
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        // Those of all tokens, in a bounded number: rows of tokens that are not used again would stay for
        // ever otherwise.
        tx.sql(
            "DELETE FROM dashboard_links WHERE hash IN
                 (SELECT hash FROM dashboard_links WHERE expires_ms <= $1 LIMIT $2)",
        )
        .bind(now_ms())
        .bind(FORGOTTEN)
        .execute()
        .await?;
        tx.sql("INSERT INTO dashboard_links (hash, token, expires_ms) VALUES ($1, $2, $3)")
            .bind(hash)
            .bind(token)
            .bind(expires_ms)
            .execute()
            .await?;
        // After the insert, so that the new link counts. The hash breaks ties between links of one
        // millisecond.
        tx.sql(
            "DELETE FROM dashboard_links WHERE token = $1 AND hash NOT IN
                 (SELECT hash FROM dashboard_links WHERE token = $1 ORDER BY expires_ms DESC, hash LIMIT $2)",
        )
        .bind(token)
        .bind(LINKS)
        .execute()
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The name of the account that a link would sign in to; the link stays good.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn link_account(&self, hash: &str) -> Result<Option<String>> {
        let row = self.sql(
            "SELECT a.name FROM dashboard_links l JOIN tokens t ON t.id = l.token JOIN accounts a ON a.id = t.account
             WHERE l.hash = $1 AND l.expires_ms > $2 AND t.revoked_ms IS NULL
               AND (t.expires_ms IS NULL OR t.expires_ms > $2)",
        )
        .bind(hash)
        .bind(now_ms())
        .fetch_optional()
        .await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    /// Uses a link up, and opens a session; sessions that are over are forgotten. `false`: the link was used, is over, or
    /// its token is worth nothing.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn sign_in(&self, link: &str, session: &Session, lasts: Lasts) -> Result<bool> {
        let now = now_ms();
        let mut conn = self.writer().await?;
        let mut tx = conn.begin().await?;
        // The deletion itself decides, and checks the token in the same statement: of two that use a link at
        // the same time one gets the row, at whichever gateway.
        let row = tx
            .sql(
                "DELETE FROM dashboard_links WHERE hash = $1 AND expires_ms > $2 AND token IN
                 (SELECT id FROM tokens WHERE revoked_ms IS NULL AND (expires_ms IS NULL OR expires_ms > $2))
             RETURNING token",
            )
            .bind(link)
            .bind(now)
            .fetch_optional()
            .await?;
        let Some(row) = row else { return Ok(false) };
        let token: i64 = row.try_get(0)?;
        tx.sql(
            "DELETE FROM dashboard_sessions WHERE hash IN
                 (SELECT hash FROM dashboard_sessions WHERE seen_ms <= $1 OR created_ms <= $2 LIMIT $3)",
        )
        .bind(now - lasts.idle_ms)
        .bind(now - lasts.most_ms)
        .bind(FORGOTTEN)
        .execute()
        .await?;
        tx.sql(
            "INSERT INTO dashboard_sessions (hash, token, csrf, created_ms, seen_ms) VALUES ($1, $2, $3, $4, $4)",
        )
        .bind(&session.hash)
        .bind(token)
        .bind(&session.csrf)
        .bind(now)
        .execute()
        .await?;
        tx.sql(
            "DELETE FROM dashboard_sessions WHERE token = $1 AND hash NOT IN
                 (SELECT hash FROM dashboard_sessions WHERE token = $1 ORDER BY created_ms DESC, hash LIMIT $2)",
        )
        .bind(token)
        .bind(SESSIONS)
        .execute()
        .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// The visitor of a session that is not over and whose token is valid. `use_it`: this counts as a use of
    /// the session.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn visit(&self, hash: &str, lasts: Lasts, use_it: bool) -> Result<Option<Visit>> {
        let now = now_ms();
        let row = self
            .sql(
                "SELECT s.csrf, s.token, a.id, a.name, a.operator, a.balance, a.held, s.seen_ms
             FROM dashboard_sessions s JOIN tokens t ON t.id = s.token JOIN accounts a ON a.id = t.account
             WHERE s.hash = $1 AND s.seen_ms > $2 AND s.created_ms > $3 AND t.revoked_ms IS NULL
               AND (t.expires_ms IS NULL OR t.expires_ms > $4)",
            )
            .bind(hash)
            .bind(now - lasts.idle_ms)
            .bind(now - lasts.most_ms)
            .bind(now)
            .fetch_optional()
            .await?;
        let Some(row) = row else { return Ok(None) };
        // A page view is a read; only now and then it takes a turn at the writer. Where sessions end after
        // less than some minutes, they are noted more often, or they would end while they are used.
        if use_it && row.try_get::<i64, _>(7)? < now - SEEN_MS.min(lasts.idle_ms / 4) {
            self.writer()
                .await?
                .sql("UPDATE dashboard_sessions SET seen_ms = $2 WHERE hash = $1")
                .bind(hash)
                .bind(now)
                .execute()
                .await?;
        }
        Ok(Some(Visit {
            session: hash.to_owned(),
            csrf: row.try_get(0)?,
            token: row.try_get(1)?,
            account: row.try_get(2)?,
            name: row.try_get(3)?,
            operator: row.try_get(4)?,
            balance: row.try_get(5)?,
            held: row.try_get(6)?,
        }))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn sign_out(&self, hash: &str) -> Result<()> {
        self.writer()
            .await?
            .sql("DELETE FROM dashboard_sessions WHERE hash = $1")
            .bind(hash)
            .execute()
            .await?;
        Ok(())
    }

    /// Revokes a token of this account. `false`: it has no token of that number, or has revoked it before.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn revoke_own_token(&self, account: i64, id: i64) -> Result<bool> {
        let done = self
            .writer()
            .await?
            // The account is part of the condition, not of a question before it: a number that is another
            // account's changes nothing.
            .sql("UPDATE tokens SET revoked_ms = $1 WHERE id = $2 AND account = $3 AND revoked_ms IS NULL")
            .bind(now_ms())
            .bind(id)
            .bind(account)
            .execute()
            .await?;
        Ok(done > 0)
    }

    /// Makes an account an operator's, or an ordinary one. `false`: no account has that name.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn set_operator(&self, name: &str, operator: bool) -> Result<bool> {
        let done = self
            .writer()
            .await?
            .sql("UPDATE accounts SET operator = $2 WHERE name = $1")
            .bind(name)
            .bind(operator)
            .execute()
            .await?;
        Ok(done > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{ServiceKey, new_secret};
    use crate::store::testing::{Fresh, on_both};

    on_both!(
        a_session_ends_when_it_is_idle_when_it_is_old_and_with_its_token,
        looking_without_using_keeps_no_session_alive,
        links_are_good_once_for_their_time_and_few,
        sessions_of_a_token_are_bounded_and_those_that_are_over_are_forgotten,
        an_account_revokes_its_own_tokens_alone,
        an_account_makes_so_many_tokens_and_worthless_ones_are_forgotten,
    );

    const LASTS: Lasts = Lasts { idle_ms: 60_000, most_ms: 600_000 };

    async fn store(fresh: &Fresh) -> (Store, i64) {
        let store = fresh.open().await;
        let account = store.create_account("a", 0).await.expect("an account").id;
        let folder = tempfile::tempdir().expect("a folder");
        let key = ServiceKey::open(&folder.path().join("key")).expect("a key");
        let secret = new_secret().expect("random bytes");
        let token = store.add_token(account, &secret, &key, "", None).await.expect("a token");
        (store, token)
    }

    async fn open(store: &Store, token: i64, name: &str) {
        store.add_link(name, token, now_ms() + 1000).await.expect("a link");
        let session = Session { hash: name.to_owned(), csrf: "c".to_owned() };
        assert!(store.sign_in(name, &session, LASTS).await.expect("an answer"));
    }

    async fn set(store: &Store, column: &str, value: i64) {
        let mut conn = store.writer().await.expect("a connection");
        let sql = conn.sql("UPDATE ").push(&format!("{column} = {value}"));
        assert!(sql.execute().await.expect("it is SQL") > 0);
    }

    async fn number(store: &Store, sql: &'static str) -> i64 {
        let row = store.sql(sql).fetch_one().await.expect("a row");
        row.try_get(0).expect("a number")
    }

    async fn is_in(store: &Store, name: &str) -> bool {
        store.visit(name, LASTS, true).await.expect("an answer").is_some()
    }

    async fn a_session_ends_when_it_is_idle_when_it_is_old_and_with_its_token(fresh: Fresh) {
        let (store, token) = store(&fresh).await;
        open(&store, token, "s").await;
        assert!(is_in(&store, "s").await);
        let now = now_ms();
        set(&store, "dashboard_sessions SET seen_ms", now - 59_000).await;
        assert!(is_in(&store, "s").await);
        set(&store, "dashboard_sessions SET created_ms", now - 599_000).await;
        assert!(is_in(&store, "s").await, "the last look was a use");
        set(&store, "dashboard_sessions SET created_ms", now - 601_000).await;
        assert!(!is_in(&store, "s").await, "in any case");
        set(&store, "dashboard_sessions SET created_ms", now).await;
        set(&store, "dashboard_sessions SET seen_ms", now - 61_000).await;
        assert!(!is_in(&store, "s").await, "idle");
        set(&store, "dashboard_sessions SET seen_ms", now).await;
        set(&store, "tokens SET expires_ms", now - 1).await;
        assert!(!is_in(&store, "s").await, "the token's time is over");
        set(&store, "tokens SET expires_ms", now + 60_000).await;
        assert!(is_in(&store, "s").await);
        store.revoke_token(token).await.expect("an answer");
        assert!(!is_in(&store, "s").await, "the token was revoked");
    }

    async fn looking_without_using_keeps_no_session_alive(fresh: Fresh) {
        let (store, token) = store(&fresh).await;
        open(&store, token, "s").await;
        let then = now_ms() - 50_000;
        set(&store, "dashboard_sessions SET seen_ms", then).await;
        assert!(store.visit("s", LASTS, false).await.expect("an answer").is_some());
        let seen: i64 = number(&store, "SELECT seen_ms FROM dashboard_sessions").await;
        assert_eq!(seen, then);
    }

    async fn links_are_good_once_for_their_time_and_few(fresh: Fresh) {
        let (store, token) = store(&fresh).await;
        let session = |name: &str| Session { hash: name.to_owned(), csrf: String::new() };
        store.add_link("l", token, now_ms() - 1).await.expect("a link");
        assert!(!store.sign_in("l", &session("1"), LASTS).await.expect("an answer"), "its time is over");
        for n in 0..9 {
            store.add_link(&format!("l{n}"), token, now_ms() + 60_000 + n).await.expect("a link");
        }
        for n in 0..9 {
            let there = store.link_account(&format!("l{n}")).await.expect("an answer").is_some();
            assert_eq!(there, n >= 4, "l{n}");
        }
        assert!(store.sign_in("l8", &session("2"), LASTS).await.expect("an answer"));
        assert!(!store.sign_in("l8", &session("3"), LASTS).await.expect("an answer"), "it was used");
        store.revoke_token(token).await.expect("an answer");
        assert!(
            !store.sign_in("l7", &session("4"), LASTS).await.expect("an answer"),
            "its token was revoked"
        );
    }

    async fn sessions_of_a_token_are_bounded_and_those_that_are_over_are_forgotten(fresh: Fresh) {
        let (store, token) = store(&fresh).await;
        for n in 0..SESSIONS + 5 {
            open(&store, token, &format!("s{n}")).await;
            set(&store, "dashboard_sessions SET created_ms = created_ms - 10, seen_ms", now_ms()).await;
        }
        assert!(!is_in(&store, "s0").await);
        assert!(is_in(&store, &format!("s{}", SESSIONS + 4)).await);
        set(&store, "dashboard_sessions SET seen_ms", 0).await;
        open(&store, token, "last").await;
        let kept: i64 = number(&store, "SELECT COUNT(*) FROM dashboard_sessions").await;
        assert_eq!(kept, 1);
    }

    async fn an_account_revokes_its_own_tokens_alone(fresh: Fresh) {
        let (store, token) = store(&fresh).await;
        let other = store.create_account("b", 0).await.expect("an account").id;
        assert!(!store.revoke_own_token(other, token).await.expect("an answer"));
        assert!(store.revoke_own_token(1, token).await.expect("an answer"));
        assert!(!store.revoke_own_token(1, token).await.expect("an answer"));
    }

    async fn an_account_makes_so_many_tokens_and_worthless_ones_are_forgotten(fresh: Fresh) {
        let (store, first) = store(&fresh).await;
        let folder = tempfile::tempdir().expect("a folder");
        let key = ServiceKey::open(&folder.path().join("key")).expect("a key");
        let secret = || new_secret().expect("random bytes");
        let make = async |account, most| {
            store.add_own_token(account, &secret(), &key, "", None, most).await.expect("no failure")
        };
        assert_eq!(make(1, 1).await, None, "it has one that is good");
        open(&store, first, "session").await;
        store.add_link("link", first, now_ms() + 60_000).await.expect("a link");
        assert!(store.revoke_own_token(1, first).await.expect("an answer"));
        for _ in 0..210 {
            let token = make(1, 1).await.expect("none is good");
            assert!(store.revoke_own_token(1, token).await.expect("an answer"));
        }
        let tokens = store.tokens(Some(1)).await.expect("a list");
        assert_eq!(tokens.len(), 200);
        assert!(tokens.iter().all(|token| token.id != first), "the oldest went first");
        let long = store.add_own_token(1, &secret(), &key, &"l".repeat(201), None, 9).await;
        assert!(long.is_err_and(|error| error.to_string().contains("at most 200 bytes")));
    }
}
