//! State of a PostgreSQL server: whether the store can use it, as far as its last answers have shown.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use fastmap_backends::unpoisoned::LockUnpoisoned;

/// A connection that was used within this time is taken to be as it was.
pub(super) const LATELY: Duration = Duration::from_secs(1);

/// SQLSTATEs after which connections are checked before their next use: the server takes no writes (25006),
/// or is going down or coming up (57P01 to 57P03).
pub(super) const DOUBTFUL: [&str; 4] = ["25006", "57P01", "57P02", "57P03"];

/// When a server was last seen that takes no writes, or has answered with one of [`DOUBTFUL`]. One for all
/// stores of the process, because a needless doubt costs only a round trip.
pub(super) static DOUBT: Mutex<Option<Instant>> = Mutex::new(None);

/// Why a server, or the pooler before it, can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A standby, or a server that was made read-only.
    #[error(
        "PostgreSQL takes no writes at this address: it is a standby (in recovery), or its transactions are \
         read-only; the address must lead to the primary"
    )]
    ReadOnly,
    /// A pooler that gives each transaction any of its connections.
    #[error(
        "PostgreSQL is reached through a pooler in transaction mode, and gateways need sessions of their own \
         (advisory locks, settings): let the pooler work in session mode (PgBouncer: pool_mode = session), or \
         connect to the server"
    )]
    Pooled,
    /// A pooler that refuses settings which come with a connection.
    #[error(
        "a pooler before PostgreSQL refuses settings that come with a connection: let it ignore them (PgBouncer: \
         ignore_startup_parameters = extra_float_digits,options), in session mode, or connect to the server"
    )]
    RefusesSettings,
}

/// Notes an error of the database, so that servers that only read are noticed at once.
pub(super) fn note(error: &sqlx::Error) {
    if code(error).is_some_and(|code| DOUBTFUL.contains(&&*code)) {
        doubt();
    }
}

pub(super) fn doubt() {
    *DOUBT.lock_unpoisoned() = Some(Instant::now());
}

pub(super) fn in_doubt() -> bool {
    DOUBT.lock_unpoisoned().is_some_and(|since| since.elapsed() < LATELY)
}

pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}
