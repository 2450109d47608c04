//! Assignment of batches to workers, and decisions about workers. No file here does I/O that can wait.
//!
//! `state` is the pool's state under its lock; `worker_handle` is a worker in it, `run_state` a run. `events` handles what
//! workers report, `watchdog` goes by the clock (timeouts, silence, work stealing), `recycling` replaces workers that have
//! used up what they may (`limits`). `denials` keeps system calls that the sandbox refused. `grants` and `budget` bound
//! what strangers' workers may answer.

pub(crate) mod budget;
pub(crate) mod denials;
pub(crate) mod events;
pub(crate) mod grants;
pub(crate) mod limits;
pub(crate) mod recycling;
pub(crate) mod run_state;
pub(crate) mod state;
pub(crate) mod watchdog;
pub(crate) mod worker_handle;
