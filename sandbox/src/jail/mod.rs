//! Jails for untrusted executables: bubblewrap's namespaces, an almost empty read-only root, seccomp, a
//! control group and resource limits.
//!
//! [`Jail::check`] checks this machine and names a missing requirement; [`Jail::attack`] then tries to break
//! out of a jail. [`Jail::command`] builds the command for one process. Used by the launcher of jailed
//! workers in `fastmap-backends`.
//!
//! The command: `bubblewrap` builds it, `root` lists the files of the root, `filter` compiles the seccomp
//! filters, `cgroup` limits and measures, `announced` publishes the limits to libraries, and `ids` gives each
//! worker a process ID and a host name of its own. The program: `libraries` finds the files it needs,
//! `program` and `shown` place it where a worker can start it, and `writers` waits until it can be started.
//! The service: `users` leases the workers' users, `owner` has the locks of living services, and `scratch` is
//! the folder of a service's temporary files. `switches` explains why user namespaces are refused. `selftest`
//! and `probes` are the attack.

mod announced;
mod bubblewrap;
mod cgroup;
mod filter;
mod ids;
mod launch;
mod libraries;
mod owner;
pub mod probes;
mod program;
mod root;
mod scratch;
mod selftest;
mod shares;
mod shown;
mod spec;
mod switches;
mod users;
mod writers;

pub use crate::jail::libraries::Executable;
pub use crate::jail::probes::probe::PROBE;
pub use crate::jail::program::Program;
pub use crate::jail::scratch::Scratch;
pub use crate::jail::selftest::{Report, probe_if_asked, read as read_report};
pub use crate::jail::spec::{Limits, PARENT, SOCKET, SetupError, Spec, Usage};
pub use crate::jail::writers::wait_for_writers;
pub use launch::{Guard, Jail};
