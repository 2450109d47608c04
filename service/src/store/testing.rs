//! Databases of both kinds for tests. What the store promises it promises of both: `on_both!` makes two tests of one.

#[allow(dead_code, reason = "shared with tests of the service")]
#[path = "../../tests/postgres/mod.rs"]
mod postgres;

use std::future::Future;

use tempfile::TempDir;

use super::{Database, Store};

/// Which kind.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Sqlite,
    Postgres,
}

/// A database with nothing in it, for one test.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) database: Database,
    _folder: Option<TempDir>,
}

impl Fresh {
    pub(super) async fn new(kind: Kind) -> Self {
        match kind {
            Kind::Sqlite => {
                let folder = tempfile::tempdir().expect("a folder");
                Fresh { database: Database::File(folder.path().join("db")), _folder: Some(folder) }
            }
            Kind::Postgres => {
                let url = postgres::database().await;
                Fresh { database: url.parse().expect("an address"), _folder: None }
            }
        }
    }

    /// The database, opened (again).
    pub(super) async fn open(&self) -> Store {
        Store::open(&self.database).await.expect("a database")
    }
}

/// Runs a test that needs no runtime of its own.
pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test)
}

/// For each function of a [`Fresh`] database a module of its name with two tests.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            use crate::store::testing::{Fresh, Kind, run};

            #[test]
            fn sqlite() {
                run(async { super::$name(Fresh::new(Kind::Sqlite).await).await });
            }

            #[test]
            fn postgres() {
                run(async { super::$name(Fresh::new(Kind::Postgres).await).await });
            }
        }
    )+};
}
pub(super) use on_both;
