//! A worker process, from its first line to its last. `process` enters it, `setup` prepares it, `runner` runs batches in a
//! thread of its own (`thread`), and the main thread is their `guard`. `receiver` takes frames from the host, `sender`
//! answers; `stdio` is what C code prints, `run_queue` how long the worker waited for a core, `confinement` how it
//! confines itself.

pub(crate) mod confinement;
mod guard;
pub(crate) mod process;
mod receiver;
mod run_queue;
pub(crate) mod runner;
mod sender;
mod setup;
mod stdio;
mod thread;

pub(crate) use crate::local::ipc::messages::{Opening, Record};
pub(crate) use crate::local::worker::setup::NOT_A_WORKER;
pub use process::{enter, enter_after, inside_worker, leave_unentered, marked};
