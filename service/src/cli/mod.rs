//! The command line. `entry` reads it (`args`) and starts what it says: `serve` runs the service, `agent` works for one by
//! way of NATS (`nats` is what both say of that); `dashboard` asks one for a link; `doctor` checks this machine; `admin`
//! reads and changes the database, also while the service runs.

mod admin;
mod agent;
mod args;
mod dashboard;
mod doctor;
mod entry;
mod logging;
mod nats;
mod output;
mod serve;
mod service_args;
mod service_key;

pub use args::Command;
pub use entry::main;
