//! Forbidden acts, one function each: a jailed process tries them all and tells which succeeded. Each succeeds where
//! nothing confines it (as root), which the tests show, so that a broken probe can't pass for a good jail.
//!
//! `files`, `network`, `processes` and `kernel` hold them; all are harmless where they succeed.

mod files;
mod kernel;
mod list;
mod network;
pub(crate) mod probe;
mod processes;

pub use list::all;
pub use probe::{PROBE, Probe};
