//! The database: the system of record. Everything else (queue, pools, uploads under way) may be lost at any time.
//!
//! On SQLite (one gateway) one connection writes, behind a lock, and a few read. On PostgreSQL (one or many gateways) a few
//! do both, and a transaction that moves money of an account locks that account first. The SQL is what the two have in
//! common (`$1`, `ON CONFLICT`, `RETURNING`, `WITH … VALUES`), passed through `db`; what they have not (triggers among it)
//! is in the migrations.
//!
//! `database` opens it and hands connections out. `postgres` opens connections to a server and checks that it takes
//! writes (`server_state` remembers doubts about that); `sqlite_checkpoint` folds SQLite's log in beside the writer;
//! `gateway_lock` shows which gateways live, `cluster` is what they share. `ledger` moves money, `usage` that of what
//! workers use beside batches, `group_commit` gathers the two writes that each batch needs and `batch_statements` does
//! them in one statement for many batches; `accounts`, `runs` and `blobs` are what their names say; `forget` forgets runs;
//! `dashboard`, `stats` and `listing` are the dashboard's. Called by the gateway and by the command line, also at the same
//! time from two processes.

mod accounts;
mod answers;
mod audit;
mod batch_statements;
mod blobs;
mod cluster;
mod dashboard;
mod database;
mod db;
mod error;
mod forget;
mod gateway_lock;
mod group_commit;
mod ledger;
mod listing;
mod migrations;
mod postgres;
mod runs;
mod server_state;
mod sqlite_checkpoint;
mod stats;
#[cfg(test)]
pub(crate) mod testing;
mod url;
mod usage;

pub use accounts::{Account, TokenInfo, TokenKey};
pub use audit::Entry;
pub(crate) use blobs::{BEGUN, on_disk};
pub use blobs::{Begun, Blob, Kind, Part};
pub use dashboard::{Lasts, Session, Visit};
pub use database::Store;
pub use error::StoreError;
pub use gateway_lock::GatewayLock;
pub use group_commit::Committer;
pub use ledger::{Reserve, Reserved, Settle, Settled, Short, Stored};
pub use listing::{Filter, LedgerPage, Step};
pub use runs::{NewRun, Opened, Run};
pub use server_state::Unfit;
pub use url::Database;
pub use usage::Charged;
