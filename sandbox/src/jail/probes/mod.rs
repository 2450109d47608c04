//! Forbidden acts, one function each: a jailed process tries them all and reports which succeeded. Each
//! succeeds in an unconfined process (as root), which the tests check, so that a broken probe is not taken
//! for a denial.
//!
//! The probes are in `files`, `network`, `processes` and `kernel`; all are harmless where they succeed.

mod files;
mod kernel;
mod list;
mod network;
pub(crate) mod probe;
mod processes;

pub use list::all;
pub use probe::{PROBE, Probe};
