//! A PostgreSQL server for the tests of this process: started when one first asks for it, ended with the process, however that
//! ends (scripts/postgres waits for the end of a pipe that this process holds). Each test gets a schema of its own in it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

struct Server {
    url: String,
    /// It ends when the pipe to it is closed, with this process.
    _script: Child,
}

static SERVER: OnceLock<Server> = OnceLock::new();

fn start() -> Server {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/postgres");
    let mut child = Command::new(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("scripts/postgres can be started");
    let mut url = String::new();
    let read = BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut url);
    read.expect("scripts/postgres says where the server listens");
    assert!(url.starts_with("postgres://"), "no server was started; scripts/setup postgres installs one");
    Server { url: url.trim().to_owned(), _script: child }
}

/// Says SQL to a database.
pub(crate) async fn say(url: &str, sql: String) {
    use sqlx::{AssertSqlSafe, Connection, Executor};
    let mut conn = sqlx::PgConnection::connect(url).await.expect("the server takes connections");
    conn.execute(AssertSqlSafe(sql)).await.expect("it is SQL");
    conn.close().await.expect("the server says goodbye");
}

/// Asks a database something that is true or not.
pub(crate) async fn is_true(url: &str, sql: String) -> bool {
    use sqlx::{AssertSqlSafe, Connection};
    let mut conn = sqlx::PgConnection::connect(url).await.expect("the server takes connections");
    let answer = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut conn).await.expect("it is SQL");
    conn.close().await.expect("the server says goodbye");
    answer
}

/// The same where there is no runtime.
pub(crate) fn blocking<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// [`database`] where there is no runtime.
pub(crate) fn blocking_database() -> String {
    blocking(database())
}

/// The address of a database with nothing in it.
pub(crate) async fn database() -> String {
    static SCHEMAS: AtomicU64 = AtomicU64::new(1);
    let server = &SERVER.get_or_init(start).url;
    let schema = format!("test{}", SCHEMAS.fetch_add(1, Ordering::Relaxed));
    say(server, format!("CREATE SCHEMA {schema}")).await;
    format!("{server}&options[search_path]={schema}&application_name={schema}")
}
