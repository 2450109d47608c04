//! Client of a service that runs the same program elsewhere. `docs/protocol.md` specifies the wire protocol.
//!
//! The feature `protocol` contains the code that the client and the service share. It does no I/O: signatures
//! (`sign`), messages and problem codes (`protocol`, `problem`), the bytes of a batch and of its answer
//! (`body`, `meta`, `bytes`).
//!
//! The client is the backend [`Cloud`] (feature `cloud`), with its `options`:
//!
//! - `http` makes one request; `retry` decides what to do after a failed one.
//! - `session` is shared by all runs. `run_handle` is one run, and `run_state` is its state under a lock.
//! - `run_thread` is the thread that opens a run, keeps it alive and ends it. `batch_sender` is the loop of
//!   the threads that send the run's batches.
//! - Both call `charges`, `upload`, `compression`, `missing`, `probe` and `worker_lines`.
//! - `credit_window` bounds the batches in flight while credits are short; `targets` sets the batch size.
//! - `dashboard` requests a link for a browser; `notices` has the messages and the question to the user;
//!   `exit_hook` cancels runs when the process exits.

#[cfg(feature = "cloud")]
mod backend;
#[cfg(feature = "cloud")]
mod batch_sender;
mod body;
mod bytes;
#[cfg(feature = "cloud")]
mod charges;
#[cfg(feature = "cloud")]
mod check;
#[cfg(feature = "cloud")]
mod compression;
#[cfg(feature = "cloud")]
mod credit_window;
#[cfg(feature = "cloud")]
mod dashboard;
#[cfg(feature = "cloud")]
mod exit_hook;
#[cfg(feature = "cloud")]
mod http;
mod locale;
mod meta;
#[cfg(feature = "cloud")]
mod missing;
#[cfg(feature = "cloud")]
mod notices;
#[cfg(feature = "cloud")]
mod options;
#[cfg(feature = "cloud")]
mod probe;
mod problem;
mod protocol;
#[cfg(feature = "cloud")]
mod proxy;
#[cfg(feature = "cloud")]
mod retry;
#[cfg(feature = "cloud")]
mod run_handle;
#[cfg(feature = "cloud")]
mod run_state;
#[cfg(feature = "cloud")]
mod run_thread;
#[cfg(feature = "cloud")]
mod session;
mod sign;
#[cfg(feature = "cloud")]
mod targets;
#[cfg(feature = "cloud")]
mod upload;
#[cfg(feature = "cloud")]
mod url;
#[cfg(feature = "cloud")]
mod worker_lines;

pub use crate::cloud::bytes::BodyError;
#[cfg(feature = "cloud")]
pub use crate::cloud::notices::{
    Confirm, ConfirmError, Estimate, NoopListener, Notice, NoticeListener, Probe, Upload,
};
#[cfg(feature = "cloud")]
pub use crate::cloud::options::CloudOptions;
pub use crate::model::hex::hexadecimal;
#[cfg(feature = "cloud")]
pub use backend::Cloud;
pub use body::{Answer, BatchBody, FLAG_ZSTD, Part, PartOutcome};
#[cfg(feature = "cloud")]
pub use check::{Reached, check};
#[cfg(feature = "cloud")]
pub use dashboard::dashboard_link;
pub use locale::Locale;
pub use problem::{Problem, ProblemCode};
pub use protocol::{
    Acknowledge, Acknowledged, Auth, BatchCancelled, Bill, BlobStatus, DashboardLink, FunctionName, Lease,
    Limits, LogLine, LogPage, OpenRun, Prices, RunInfo, RunList, RunOpened, RunState,
};
pub use sign::{
    EventHead, HEADER_DIGEST, HEADER_NONCE, HEADER_PROTOCOL, HEADER_SIGNATURE, HEADER_TIMESTAMP, PROTOCOL,
    RequestHead, ResponseHead, Secret, SecretError, SigningKey, digest, is_digest,
};
#[cfg(feature = "cloud")]
pub use url::{ServiceUrl, UrlError};
