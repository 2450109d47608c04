//! Assignment of batches to workers, and decisions about workers. No file here does I/O that can wait.
//!
//! `handle` is the lock, and what runs ask for; `state` is what it guards: `worker_handle` is a worker in it, `run_state` a
//! run, `starts` are workers on their way, `errands` what is left to the supervisor. `worker_life` is the state of a worker,
//! and `connection` what it holds. `events` handles what workers report, `supervisor_api` what the supervisor asks for. `watchdog`
//! goes by the clock (timeouts, silence, work stealing; `pauses`), `recycling` replaces workers that have run their items (`worker_limits`),
//! `memory_limit` ends those that hold too much. `denials` keeps system calls that the sandbox refused. `grants` and `budget` bound
//! what strangers' workers may answer.

pub(crate) mod budget;
pub(crate) mod connection;
pub(crate) mod denials;
pub(crate) mod errands;
pub(crate) mod events;
pub(crate) mod grants;
pub(crate) mod handle;
pub(crate) mod memory_limit;
pub(crate) mod pauses;
pub(crate) mod recycling;
pub(crate) mod run_state;
pub(crate) mod starts;
pub(crate) mod state;
pub(crate) mod supervisor_api;
pub(crate) mod watchdog;
pub(crate) mod worker_handle;
pub(crate) mod worker_life;
pub(crate) mod worker_limits;
