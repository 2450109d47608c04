//! The cloud: the same program, run by a service elsewhere. `docs/protocol.md` says all of what travels, in words.
//!
//! What the client and the service have in common is here with the feature `protocol`, and does no I/O: signatures
//! (`sign`), messages and problem codes (`protocol`, `problem`), the bytes of a batch and of its answer (`body`, `meta`).
//!
//! The client is the backend [`Cloud`] (feature `cloud`). `http` makes one request; `retry` says what a failed one
//! means; `link` is what all runs share; `run` is the state of one, under one lock: `conductor` is the thread that opens
//! it, keeps it alive and ends it, `sender` the threads that have its batches on the way. `upload`, `pack`, `missing` and
//! `probe` are what they call; `dashboard` asks for a link for a browser; `told` is what the user hears and is asked.

mod body;
mod locale;
mod meta;
mod problem;
mod protocol;
mod sign;

#[cfg(feature = "cloud")]
mod backend;
#[cfg(feature = "cloud")]
mod check;
#[cfg(feature = "cloud")]
mod conductor;
#[cfg(feature = "cloud")]
mod dashboard;
#[cfg(feature = "cloud")]
mod ending;
#[cfg(feature = "cloud")]
mod http;
#[cfg(feature = "cloud")]
mod link;
#[cfg(feature = "cloud")]
mod missing;
#[cfg(feature = "cloud")]
mod pack;
#[cfg(feature = "cloud")]
mod probe;
#[cfg(feature = "cloud")]
mod proxy;
#[cfg(feature = "cloud")]
mod retry;
#[cfg(feature = "cloud")]
mod run;
#[cfg(feature = "cloud")]
mod sender;
#[cfg(feature = "cloud")]
mod told;
#[cfg(feature = "cloud")]
mod upload;
#[cfg(feature = "cloud")]
mod url;

pub use body::{Answer, BatchBody, BodyError, FLAG_ZSTD, Part, PartOutcome};
pub use locale::Locale;
pub use problem::{Problem, ProblemCode};
pub use protocol::{
    Acknowledge, Acknowledged, Auth, BatchCancelled, Bill, BlobStatus, DashboardLink, FunctionName, Lease,
    Limits, LogLine, LogPage, OpenRun, Prices, RunInfo, RunList, RunOpened, RunState,
};
pub use sign::{
    EventHead, HEADER_DIGEST, HEADER_NONCE, HEADER_PROTOCOL, HEADER_SIGNATURE, HEADER_TIMESTAMP, PROTOCOL,
    RequestHead, ResponseHead, Secret, SecretError, SigningKey, digest, hexadecimal, is_digest,
};
#[cfg(feature = "cloud")]
pub use {
    backend::{Cloud, CloudOptions},
    check::{Reached, check},
    dashboard::dashboard_link,
    told::{Confirm, Estimate, Notice, Notices, Probe, Refused, Unheard, Upload},
    url::{ServiceUrl, UrlError},
};
