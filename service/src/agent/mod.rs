//! An agent: leases work from a [`WorkSource`](crate::dispatch::WorkSource) and runs it, with a pool of workers for
//! each run. It knows no HTTP and no money; what it needs of a run comes with the work.
//!
//! `lease_runner` is its loop, `run_pool` has the workers of one run, `launcher` starts (and confines) them, `tab` has what
//! they have used and `cpu_billing` which part of it is on which bill, `threads` reports those that workers were refused,
//! `machine` says where all of it is.

mod active_batch;
mod cpu_billing;
mod launcher;
mod lease_runner;
pub mod machine;
mod run_pool;
mod tab;
mod threads;

pub use launcher::{CpuMeter, JailLauncher, Launch, PlainLauncher, PoolRequest, Workers};
pub use lease_runner::{Agent, PLACES};
