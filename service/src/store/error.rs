//! Errors of the database.

use std::sync::Arc;

use super::server_state::Unfit;

/// Error of the store. Cheap to clone, because one failed transaction is the failure of many requests. Its
/// text includes the cause's, which is therefore not a `source()` as well: a chain of errors would say it
/// twice.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database's own words.
    #[error("the database: {0}")]
    Database(Arc<sqlx::Error>),
    /// The tables could not be brought up to date.
    #[error("the database's tables: {0}")]
    Migrate(Arc<sqlx::migrate::MigrateError>),
    /// The server that the address leads to is of no use.
    #[error(transparent)]
    Unfit(Unfit),
    /// What was asked for can't be done.
    #[error("{0}")]
    Refused(String),
    /// The service is shutting down.
    #[error("the database is closed")]
    Closed,
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        // Here, because each error of a statement passes through: the next use of any connection is preceded
        // by a check if this one hints at a failover.
        super::server_state::note(&error);
        StoreError::Database(Arc::new(error))
    }
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        StoreError::Migrate(Arc::new(error))
    }
}

pub(super) type Result<T> = std::result::Result<T, StoreError>;
