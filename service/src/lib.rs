//! The cloud service of fastmap: the same program, run elsewhere, for credits.
//!
//! The gateway speaks HTTP (`docs/protocol.md`) and keeps the ledger in the store; dispatch hands batches to agents;
//! an agent runs strangers' executables, a pool for each run. All of it is one process behind the command `fastmap`
//! (`cli`), and each part knows the next by a trait or by a handful of types.

pub mod config;
pub mod keys;
pub mod price;
pub mod store;
