//! The cloud service of fastmap: the same program, run elsewhere, for credits.
//!
//! The gateway speaks HTTP (`docs/protocol.md`) and keeps the ledger in the store; dispatch hands batches to agents;
//! an agent runs strangers' executables, a pool for each run. All of it is one process behind the command `fastmap`
//! (`cli`), and each part knows the next by a trait or by a handful of types.
//!
//! From a request down: `http` routes it to a handler of `api` or to a page of `dashboard`; both work with the state in
//! `app`, which has the `store`, `dispatch`, the log of each run (`run_log`), its statistics (`stats_recorder`) and the
//! files of answers (`answer_files`).
#![forbid(unsafe_code)]
#![allow(
    clippy::result_large_err,
    reason = "a problem document is an answer, made once for a failed request"
)]

pub mod agent;
pub mod agent_registry;
pub mod answer_files;
mod api;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
mod dashboard;
pub mod dispatch;
mod executable;
pub mod http;
pub mod keys;
mod openapi;
pub mod pricing;
pub mod private;
mod problem;
pub mod run_log;
pub mod stats;
pub mod stats_recorder;
pub mod store;
mod text;
