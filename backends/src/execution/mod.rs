//! Execution of batches in any process: jobs, functions of this executable, tasks and their claims on items.

pub(crate) mod build_id;
pub(crate) mod claims;
pub(crate) mod denials;
pub(crate) mod executor;
pub(crate) mod exit_hook;
pub(crate) mod function;
pub(crate) mod job;
pub(crate) mod mappings;
pub(crate) mod startable;
pub(crate) mod stopwatch;
pub(crate) mod task;

/// The atomics of `claims`; its model test (`tests/claims.rs`) substitutes others.
mod atomic {
    pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
}
