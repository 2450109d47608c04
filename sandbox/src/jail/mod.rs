//! Jails for executables that strangers have sent: bubblewrap's namespaces, an almost empty read-only root,
//! seccomp, a control group and limits around a process that is trusted with nothing.
//!
//! [`Jail::check`] finds out what this machine offers and refuses in words what is missing; [`Jail::attack`]
//! then tries to break out of a jail. [`Jail::command`] makes the command for one process. `bubblewrap`
//! builds it, `root` says what is there, `filter` has the system calls, `cgroup` bounds and measures,
//! `announced` says the limits, `ids` gives each worker a process id and a host name of its own, `libraries`
//! says what an executable needs, `program` and `shown` get it to where a worker can start it, `users` has the
//! workers' users, `switches` explains why user namespaces are refused, `writers` waits until a new program can be started, `owner` locks what has a living owner, `scratch` a service's temporary files, `selftest` and
//! `probes` are the attack. Used by the launcher of jailed workers in `fastmap-backends`.

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
