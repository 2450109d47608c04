//! JSON messages of version 1 of the protocol. Money is in millionths of a credit. Written and read by the
//! client's backend and by the service's gateway. A field may be added within a version; readers ignore
//! fields that they don't know.

use serde::{Deserialize, Serialize};

use super::locale::Locale;

macro_rules! message {
    ($(#[$meta:meta])* pub struct $name:ident { $($body:tt)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub struct $name { $($body)* }
    };
}

message! {
    /// Answer to `POST /auth`: the token is valid.
    pub struct Auth {
        /// The account's name.
        pub account: String,
        /// The account's balance, in millionths of a credit.
        pub balance: i64,
        /// The part of the balance that is not reserved for running batches.
        pub available: i64,
        /// The prices.
        pub prices: Prices,
        /// The limits.
        pub limits: Limits,
        /// The service's version.
        pub server: String,
        /// The protocol's version.
        pub protocol: u32,
        /// Seconds since 1970, by the service's clock.
        pub time: u64,
    }
}

message! {
    /// The price list, in millionths of a credit.
    #[derive(Copy)]
    pub struct Prices {
        /// An hour of CPU time.
        pub cpu_hour: i64,
        /// 10⁹ bytes of answers.
        pub result_gb: i64,
    }
}

message! {
    /// Limits of the service.
    #[derive(Copy)]
    pub struct Limits {
        /// Bytes of an executable.
        pub executable_bytes: u64,
        /// Bytes of a context.
        pub context_bytes: u64,
        /// Bytes of all uploads of an account.
        pub stored_bytes: u64,
        /// Bytes of one part of an upload, as sent.
        pub part_bytes: u64,
        /// Bytes of a batch, decompressed.
        pub batch_bytes: u64,
        /// Bytes of results at which a batch is cut, even if its own limit is higher.
        pub result_bytes: u64,
        /// Seconds of CPU time after which a batch is stopped.
        pub batch_cpu_seconds: u64,
        /// Batches of one run in flight.
        pub batches_in_flight: u32,
        /// Open runs of one account.
        pub open_runs: u32,
        /// Requests of one account in a second.
        pub requests_per_second: u32,
        /// Seconds without a request of a run after which the run ends.
        pub lease_seconds: u64,
        /// Seconds that answers are stored after their run's end.
        pub results_seconds: u64,
        /// Seconds that a request waits for an answer that has not arrived yet.
        pub long_poll_seconds: u64,
    }
}

message! {
    /// Answer to `GET` and `PUT` of `/executables/{hash}` and `/contexts/{hash}`.
    #[derive(Copy)]
    pub struct BlobStatus {
        /// Whether the account has the complete upload.
        pub present: bool,
        /// Bytes of the upload (as sent) that the service has: where to continue.
        pub offset: u64,
    }
}

message! {
    /// A function, by its position in its executable. See [`FunctionId`](crate::FunctionId).
    pub struct FunctionName {
        /// Distance of its descriptor from the anchor, in bytes.
        pub offset: i64,
        /// The name that the descriptor must have.
        pub name: String,
    }
}

message! {
    /// `POST /runs`.
    pub struct OpenRun {
        /// 32 hexadecimal digits, the client's own name for the run: repeating the request opens no second
        /// run.
        pub key: String,
        /// SHA-256 of the executable.
        pub executable: String,
        /// The function to call.
        pub function: FunctionName,
        /// SHA-256 of the context; absent if the function has no context, or an empty one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub context: Option<String>,
        /// The user's name for the map.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub label: Option<String>,
        /// Items in the input, if known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub items: Option<u64>,
        /// Milliseconds after which an item is stopped, with its worker.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub item_timeout_ms: Option<u64>,
        /// Spending limit of the run, in millionths of a credit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub max_credits: Option<i64>,
        /// Time zone and language for its workers; absent: UTC and C.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub locale: Option<Locale>,
    }
}

message! {
    /// The answer to [`OpenRun`].
    pub struct RunOpened {
        /// The run's name.
        pub run: String,
        /// Workers that will share its batches.
        pub workers: u32,
        /// Batches to keep in flight.
        pub slots: u32,
        /// Seconds within which the client must send the run's next request.
        pub lease_seconds: u64,
        /// The prices.
        pub prices: Prices,
        /// Credits that the run can spend now: the lesser of its limit and the account's available credits.
        pub spendable: i64,
    }
}

/// The state of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Accepts batches.
    Open,
    /// Ended by its client.
    Done,
    /// Cancelled by its client.
    Cancelled,
    /// Its client sent no request for the length of its lease.
    Expired,
    /// Its program can't work.
    Failed,
}

impl RunState {
    /// The state as it is written in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            RunState::Open => "open",
            RunState::Done => "done",
            RunState::Cancelled => "cancelled",
            RunState::Expired => "expired",
            RunState::Failed => "failed",
        }
    }
}

message! {
    /// `GET /runs/{run}`.
    pub struct RunInfo {
        /// Its name.
        pub run: String,
        /// The user's name for it.
        pub label: Option<String>,
        /// Its state.
        pub state: RunState,
        /// SHA-256 of its executable.
        pub executable: String,
        /// The function's name.
        pub function: String,
        /// Items in the input, if known.
        pub items: Option<u64>,
        /// Items in batches that are answered.
        pub items_answered: u64,
        /// Batches that are answered.
        pub batches: u64,
        /// Cost so far, in millionths of a credit.
        pub spent: i64,
        /// Credits reserved for its running batches.
        pub held: i64,
        /// Its spending limit.
        pub max_credits: Option<i64>,
        /// CPU time, in nanoseconds.
        pub cpu_ns: u64,
        /// Bytes of answers.
        pub result_bytes: u64,
        /// Milliseconds since 1970.
        pub opened_ms: u64,
        /// Milliseconds since 1970.
        pub ended_ms: Option<u64>,
    }
}

message! {
    /// `GET /runs`: newest first.
    pub struct RunList {
        /// One page of runs.
        pub runs: Vec<RunInfo>,
        /// The value of `before` for the next page.
        pub next: Option<String>,
    }
}

message! {
    /// `POST /runs/{run}/done` and `/cancel`.
    pub struct Bill {
        /// The run in its final state.
        pub run: RunInfo,
        /// The account's balance after it.
        pub balance: i64,
    }
}

message! {
    /// `POST /runs/{run}/heartbeat`.
    pub struct Lease {
        /// The state of the run.
        pub state: RunState,
        /// Seconds within which the next heartbeat is due.
        pub lease_seconds: u64,
    }
}

message! {
    /// `POST /runs/{run}/ack`: these answers have arrived.
    pub struct Acknowledge {
        /// Batches, at most 10,000.
        pub seqs: Vec<u64>,
    }
}

message! {
    /// The answer to the cancellation of a batch.
    pub struct BatchCancelled {
        /// Whether it was running, and is stopped: it gets no answer, and no charge. `false`: it was answered
        /// before, or is unknown.
        pub cancelled: bool,
    }
}

message! {
    /// The answer to [`Acknowledge`].
    pub struct Acknowledged {
        /// Number of answers deleted.
        pub deleted: u64,
    }
}

message! {
    /// A line that a worker has printed, or a record that its function has logged.
    pub struct LogLine {
        /// Its number in the run.
        pub n: u64,
        /// The worker's name.
        pub worker: String,
        /// `stdout` or `stderr`.
        pub stream: String,
        /// The line without its end; invalid UTF-8 is replaced.
        pub text: String,
        /// `ERROR`, `WARN`, `INFO`, `DEBUG` or `TRACE`: the line is a record that the function logged, not
        /// a printed one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub level: Option<String>,
        /// The record's target.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub target: Option<String>,
        /// Milliseconds since 1970.
        pub at_ms: u64,
    }
}

message! {
    /// `GET /runs/{run}/logs`.
    pub struct LogPage {
        /// In the order in which they were printed.
        pub lines: Vec<LogLine>,
        /// Number of lines of the run that were dropped: only the last megabyte is kept.
        pub dropped: u64,
        /// The value of `after` for the next page.
        pub next: u64,
    }
}

message! {
    /// `POST /dashboard`: a link that signs a browser in to the service's dashboard, once.
    pub struct DashboardLink {
        /// Path on this service; a browser that opens it is signed in to this account.
        pub path: String,
        /// Seconds for which the link is valid.
        pub seconds: u64,
    }
}
