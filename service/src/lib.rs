//! The cloud service of fastmap: the same program, run elsewhere, for credits.
//!
//! The gateway speaks HTTP (`docs/protocol.md`) and keeps the ledger in the store; dispatch hands batches to agents;
//! an agent runs strangers' executables, a pool for each run. All of it is one process behind the command `fastmap`
//! (`cli`), and each part knows the next by a trait or by a handful of types.
#![forbid(unsafe_code)]
#![allow(
    clippy::result_large_err,
    reason = "a problem document is an answer, made once for a failed request"
)]

pub mod activity;
pub mod agent;
pub mod cli;
pub mod config;
pub mod dashboard;
pub mod dispatch;
pub mod events;
pub mod gateway;
pub mod keys;
pub mod price;
pub mod private;
pub mod roster;
pub mod spool;
pub mod store;
mod text;
