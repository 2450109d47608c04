//! Statement layer over both databases. The store's statements are written once, in the common part of SQLite
//! and PostgreSQL; here they get the arguments and rows of the database that is used. The alternative, sqlx's
//! own `Any`, copies each row into values of its own and knows neither kind's settings; a match for each
//! value costs nothing that can be measured.

use std::borrow::Cow;

use sqlx::error::BoxDynError;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgPool, PgRow};
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{
    Arguments, AssertSqlSafe, ColumnIndex, Connection, Decode, Encode, PgConnection, Postgres, Row as _,
    SqlSafeStr, SqlStr, Sqlite, Transaction, Type,
};
use tokio::sync::OwnedMutexGuard;

use super::error::Result;

/// A write transaction that takes the lock at its begin: one that reads first and writes later would fail where another
/// process has written in between. PostgreSQL locks what a transaction asks for (`ledger::lock`).
const BEGIN_SQLITE: &str = "BEGIN IMMEDIATE";
const BEGIN_POSTGRES: &str = "BEGIN";

/// What can be given to a statement.
pub(super) trait Value<'v>:
    Encode<'v, Sqlite> + Type<Sqlite> + Encode<'v, Postgres> + Type<Postgres>
{
}
impl<'v, T> Value<'v> for T where T: Encode<'v, Sqlite> + Type<Sqlite> + Encode<'v, Postgres> + Type<Postgres> {}

/// What can be read from a row.
pub(super) trait Read:
    for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
}
impl<T> Read for T where
    T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
}

/// A borrowed connection, inside or outside of a transaction.
#[derive(Debug)]
pub(super) enum Db<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
}

impl<'c> Db<'c> {
    /// A statement on this connection.
    pub(super) fn sql(&mut self, text: &'static str) -> Sql<'_> {
        match self {
            Db::Sqlite(conn) => Db::Sqlite(conn).into_sql(text),
            Db::Postgres(conn) => Db::Postgres(conn).into_sql(text),
        }
    }

    fn into_sql(self, text: &'static str) -> Sql<'c> {
        let on = match self {
            Db::Sqlite(conn) => On::Sqlite(conn, SqliteArguments::default()),
            Db::Postgres(conn) => On::Postgres(conn, PgArguments::default()),
        };
        Sql::new(on, Cow::Borrowed(text))
    }

    /// Whether other connections may write while this one is inside a transaction.
    pub(super) fn is_multi_writer(&self) -> bool {
        matches!(self, Db::Postgres(_))
    }
}

/// A connection that may write.
#[derive(Debug)]
pub(super) enum Conn {
    /// The only one that writes; other tasks wait for its lock.
    Sqlite(OwnedMutexGuard<SqliteConnection>),
    Postgres(PoolConnection<Postgres>),
}

impl Conn {
    pub(super) fn db(&mut self) -> Db<'_> {
        match self {
            Conn::Sqlite(conn) => Db::Sqlite(conn),
            Conn::Postgres(conn) => Db::Postgres(conn),
        }
    }

    /// A statement that is a transaction of its own.
    pub(super) fn sql(&mut self, text: &'static str) -> Sql<'_> {
        self.db().into_sql(text)
    }

    pub(super) async fn begin(&mut self) -> Result<Tx<'_>> {
        Ok(match self {
            // The lock in this process does not keep commands in other processes from writing: SQLite's own
            // lock does, for which the connection's `busy_timeout` waits.
            Conn::Sqlite(conn) => Tx::Sqlite(conn.begin_with(BEGIN_SQLITE).await?),
            Conn::Postgres(conn) => Tx::Postgres(conn.begin_with(BEGIN_POSTGRES).await?),
        })
    }
}

/// A transaction; undone when it is dropped before it is committed.
#[derive(Debug)]
pub(super) enum Tx<'c> {
    Sqlite(Transaction<'c, Sqlite>),
    Postgres(Transaction<'c, Postgres>),
}

impl Tx<'_> {
    pub(super) fn db(&mut self) -> Db<'_> {
        match self {
            Tx::Sqlite(tx) => Db::Sqlite(tx),
            Tx::Postgres(tx) => Db::Postgres(tx),
        }
    }

    /// A statement in this transaction.
    pub(super) fn sql(&mut self, text: &'static str) -> Sql<'_> {
        self.db().into_sql(text)
    }

    pub(super) async fn commit(self) -> Result<()> {
        match self {
            Tx::Sqlite(tx) => tx.commit().await?,
            Tx::Postgres(tx) => tx.commit().await?,
        }
        Ok(())
    }
}

/// Connection or pool that a statement runs on, with its arguments.
#[derive(Debug)]
enum On<'c> {
    Sqlite(&'c mut SqliteConnection, SqliteArguments),
    Postgres(&'c mut PgConnection, PgArguments),
    SqlitePool(&'c SqlitePool, SqliteArguments),
    PostgresPool(&'c PgPool, PgArguments),
}

/// A statement that is being put together. Its text is the program's own: what comes from outside is bound.
#[derive(Debug)]
#[must_use = "a statement does nothing before it is executed"]
pub(super) struct Sql<'c> {
    on: On<'c>,
    text: Cow<'static, str>,
    /// Error of the first value that could not be bound.
    wrong: Option<BoxDynError>,
}

impl<'c> Sql<'c> {
    fn new(on: On<'c>, text: Cow<'static, str>) -> Self {
        Sql { on, text, wrong: None }
    }

    pub(super) fn on_sqlite(pool: &'c SqlitePool, text: Cow<'static, str>) -> Self {
        Sql::new(On::SqlitePool(pool, SqliteArguments::default()), text)
    }

    pub(super) fn on_postgres(pool: &'c PgPool, text: Cow<'static, str>) -> Self {
        Sql::new(On::PostgresPool(pool, PgArguments::default()), text)
    }

    /// The next value: `$1`, `$2` and so on.
    pub(super) fn bind<'v, T: Value<'v>>(mut self, value: T) -> Self {
        self.add(value);
        self
    }

    /// Appends to the statement's text.
    pub(super) fn push(mut self, text: &str) -> Self {
        self.text.to_mut().push_str(text);
        self
    }

    /// The next value, and its place in the text.
    pub(super) fn push_bind<'v, T: Value<'v>>(&mut self, value: T) {
        let number = self.add(value);
        let text = self.text.to_mut();
        match &self.on {
            // For SQLite `$7` is a name, which its parser looks up among all names before it: the time for a
            // statement of many rows would grow with their square. A `?` is the next number.
            On::Sqlite(..) | On::SqlitePool(..) => text.push('?'),
            On::Postgres(..) | On::PostgresPool(..) => {
                text.push('$');
                text.push_str(&number.to_string());
            }
        }
    }

    /// `VALUES` with a row for each of these.
    pub(super) fn push_values<T>(
        mut self,
        rows: impl IntoIterator<Item = T>,
        mut add: impl FnMut(&mut Values<'_, 'c>, T),
    ) -> Self {
        self.text.to_mut().push_str("VALUES ");
        for (n, row) in rows.into_iter().enumerate() {
            self.text.to_mut().push_str(if n == 0 { "(" } else { "), (" });
            add(&mut Values { sql: &mut self, first: true }, row);
        }
        self.text.to_mut().push(')');
        self
    }

    /// These numbers as the rows of a subquery, bound as one value: one statement, however many they are.
    pub(super) fn push_numbers(mut self, numbers: &[i64]) -> Self {
        // JSON is what both databases unfold into rows; SQLite has no arrays that could be bound. The
        // statement's text stays the same for any number of values, so that it stays prepared.
        let json = serde_json::Value::from(numbers).to_string();
        let place = self.add(json);
        let rows = match &self.on {
            On::Sqlite(..) | On::SqlitePool(..) => format!("(SELECT value FROM json_each(${place}))"),
            On::Postgres(..) | On::PostgresPool(..) => {
                format!("(SELECT value::BIGINT FROM json_array_elements_text(${place}::TEXT::JSON))")
            }
        };
        self.push(&rows)
    }

    fn add<'v, T: Value<'v>>(&mut self, value: T) -> usize {
        let (added, number) = match &mut self.on {
            On::Sqlite(_, all) | On::SqlitePool(_, all) => (all.add(value), all.len()),
            On::Postgres(_, all) | On::PostgresPool(_, all) => (all.add(value), all.len()),
        };
        if let Err(error) = added {
            // The error waits for `take`, so that the calls that build a statement can be chained.
            self.wrong.get_or_insert(error);
        }
        number
    }

    fn take(self) -> Result<(On<'c>, SqlStr)> {
        if let Some(wrong) = self.wrong {
            return Err(sqlx::Error::Encode(wrong).into());
        }
        let text = match self.text {
            Cow::Borrowed(text) => SqlStr::from_static(text),
            // The text was put together from the program's own literals and place holders; what comes from
            // outside is bound.
            Cow::Owned(text) => AssertSqlSafe(text).into_sql_str(),
        };
        Ok((self.on, text))
    }

    /// Gives the number of rows that it changed.
    pub(super) async fn execute(self) -> Result<u64> {
        let (on, text) = self.take()?;
        Ok(match on {
            On::Sqlite(conn, all) => sqlx::query_with(text, all).execute(conn).await?.rows_affected(),
            On::SqlitePool(pool, all) => sqlx::query_with(text, all).execute(pool).await?.rows_affected(),
            On::Postgres(conn, all) => sqlx::query_with(text, all).execute(conn).await?.rows_affected(),
            On::PostgresPool(pool, all) => sqlx::query_with(text, all).execute(pool).await?.rows_affected(),
        })
    }

    /// All rows.
    pub(super) async fn fetch_all(self) -> Result<Vec<Row>> {
        let (on, text) = self.take()?;
        let sqlite = |rows: Vec<SqliteRow>| rows.into_iter().map(Row::Sqlite).collect();
        let postgres = |rows: Vec<PgRow>| rows.into_iter().map(Row::Postgres).collect();
        Ok(match on {
            On::Sqlite(conn, all) => sqlite(sqlx::query_with(text, all).fetch_all(conn).await?),
            On::SqlitePool(pool, all) => sqlite(sqlx::query_with(text, all).fetch_all(pool).await?),
            On::Postgres(conn, all) => postgres(sqlx::query_with(text, all).fetch_all(conn).await?),
            On::PostgresPool(pool, all) => postgres(sqlx::query_with(text, all).fetch_all(pool).await?),
        })
    }

    /// The first row, if there is one.
    pub(super) async fn fetch_optional(self) -> Result<Option<Row>> {
        let (on, text) = self.take()?;
        Ok(match on {
            On::Sqlite(conn, all) => sqlx::query_with(text, all).fetch_optional(conn).await?.map(Row::Sqlite),
            On::SqlitePool(pool, all) => {
                sqlx::query_with(text, all).fetch_optional(pool).await?.map(Row::Sqlite)
            }
            On::Postgres(conn, all) => {
                sqlx::query_with(text, all).fetch_optional(conn).await?.map(Row::Postgres)
            }
            On::PostgresPool(pool, all) => {
                sqlx::query_with(text, all).fetch_optional(pool).await?.map(Row::Postgres)
            }
        })
    }

    /// The row that there must be.
    pub(super) async fn fetch_one(self) -> Result<Row> {
        Ok(self.fetch_optional().await?.ok_or(sqlx::Error::RowNotFound)?)
    }
}

/// A row of `VALUES` that is being put together.
#[derive(Debug)]
pub(super) struct Values<'s, 'c> {
    sql: &'s mut Sql<'c>,
    first: bool,
}

impl Values<'_, '_> {
    pub(super) fn push_bind<'v, T: Value<'v>>(&mut self, value: T) -> &mut Self {
        if !std::mem::take(&mut self.first) {
            self.sql.text.to_mut().push_str(", ");
        }
        self.sql.push_bind(value);
        self
    }
}

/// A row of an answer.
#[derive(Debug)]
pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    /// The value of a column, by its name or its place.
    pub(super) fn try_get<T: Read, I>(&self, index: I) -> sqlx::Result<T>
    where
        I: ColumnIndex<SqliteRow> + ColumnIndex<PgRow>,
    {
        match self {
            Row::Sqlite(row) => row.try_get(index),
            Row::Postgres(row) => row.try_get(index),
        }
    }
}

/// Statements that a connection keeps prepared: those of groups of each size, and the others.
pub(super) const STATEMENTS: usize = 128;
