//! What the client and the service of the cloud have in common, and nothing of either: signatures (`sign`), messages
//! and problem codes (`protocol`), the bytes of a batch and of its answer (`body`). `docs/protocol.md` says all of it in
//! words. Used by the crate `fastmap-service` and by the client's backend; no I/O here.

mod body;
mod meta;
mod problem;
mod protocol;
mod sign;

pub use body::{Answer, BatchBody, BodyError, FLAG_ZSTD, Part, PartOutcome};
pub use problem::{Problem, ProblemCode};
pub use protocol::{
    Acknowledge, Acknowledged, Auth, Bill, BlobStatus, DashboardLink, FunctionName, Lease, Limits, LogLine, LogPage,
    OpenRun, Prices, RunInfo, RunList, RunOpened, RunState,
};
pub use sign::{
    EventHead, HEADER_DIGEST, HEADER_NONCE, HEADER_PROTOCOL, HEADER_SIGNATURE, HEADER_TIMESTAMP, PROTOCOL,
    RequestHead, ResponseHead, Secret, SecretError, SigningKey, digest, hexadecimal, is_digest,
};
