//! Worker processes of this machine, behind the [`Backend`](crate::Backend) trait.
//!
//! `backend` is the implementation of the trait, with its `options`. `pool` decides who has which batch, without I/O that
//! can wait. `process` starts workers, reads their answers and watches them die. `output` passes on what they print.
//! `ipc` is what lies between host and worker. `worker` is the other side, in the worker process. `cores` and `affinity`
//! say which cores workers may use and keep them off each other's. `exit_hook` ends all of it with the program.
//! `agent_api` is for hosts of other programs than their own: a `launcher` starts those workers.

mod affinity;
mod agent_api;
pub(crate) mod backend;
mod cores;
mod exit_hook;
pub(crate) mod ipc;
mod launcher;
pub(crate) mod options;
pub(crate) mod output;
pub(crate) mod pool;
pub(crate) mod process;
pub(crate) mod signals;
pub(crate) mod worker;

pub use crate::local::cores::{available as available_cores, note_at_start};
pub use crate::local::ipc::handshake::INSIDE;
pub use crate::local::ipc::rendezvous::MOST_TEMP_FOLDER;
pub use crate::local::launcher::{ChildGuard, LaunchedChild, Launcher, Start};
pub use crate::local::options::{LocalOptions, default_processes};
pub use crate::local::output::pipe::{LogRecord, OutputSink, StdioSink, Stream};
pub use crate::local::pool::budget::Budget;
pub(crate) use crate::local::pool::budget::Taken;
pub(crate) use crate::local::process::descriptors::fill_standard;
#[cfg(feature = "jail")]
pub use crate::local::process::jailed::{CpuTimes, Jailed};
pub(crate) use crate::local::worker::{Opening, Record};
pub use crate::local::worker::{enter, enter_after, inside_worker, leave_unentered, marked};
pub use backend::Local;
