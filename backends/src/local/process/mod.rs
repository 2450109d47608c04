//! Worker processes as the host sees them. `supervisor` is the one thread that has workers started, reads what they print
//! and notices their deaths; `watched` is what it keeps of each. For each worker a thread starts it (`spawn`) and takes
//! its answers (`reader`); `exit_latch` hands it the death. `descendants` ends what a dead worker has started, `descriptors`
//! keeps the standard ones free, `jailed` starts strangers' programs in jails.

pub(crate) mod descendants;
pub(crate) mod descriptors;
pub(crate) mod exit_latch;
#[cfg(feature = "jail")]
pub(crate) mod jailed;
pub(crate) mod reader;
pub(crate) mod spawn;
pub(crate) mod supervisor;
pub(crate) mod watched;
