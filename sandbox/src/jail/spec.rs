//! What a jail is to be: its limits, what it shows, and why one can't be made.

use std::path::Path;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use crate::jail::libraries::Executable;

/// The process id that a jailed process sees as its parent's: the init of its own namespace.
pub const PARENT: u32 = 1;

/// What this machine lacks for jails. Without them nothing of a stranger's is run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// bubblewrap is not installed.
    #[error("bubblewrap (bwrap) is not installed; on Debian: apt-get install bubblewrap")]
    NoBubblewrap,
    /// It is of no use here.
    #[error("bubblewrap can't be used: {0}")]
    Bubblewrap(String),
    /// No namespaces for who runs the service.
    #[error("no jail can be made here: {0}")]
    Namespaces(String),
    /// Neither version bounds what has to be bounded.
    #[error("memory, processes and CPU of a jail can't be bounded: {0}")]
    Cgroups(String),
    /// The kernel filters no system calls.
    #[error("this kernel does not filter system calls (seccomp): {0}")]
    Seccomp(String),
    /// No users for workers.
    #[error("workers can't get users of their own: {0}")]
    Users(String),
    /// The attack on the own jail.
    #[error("the jail's self-test could not be run: {0}")]
    SelfTest(String),
    /// It succeeded.
    #[error("the jail leaks: a process in it was able to: {}", .0.join(", "))]
    Leaks(Vec<String>),
}

/// What a jailed process may use.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of memory, memory files, page cache and sockets included; more ends it.
    pub memory: u64,
    /// Threads and processes; more are refused. Two are bubblewrap's.
    pub processes: u32,
    /// CPUs' worth of time per time: 0.5 is half of one.
    pub cpus: f64,
    /// CPU time after which the kernel ends it (`SIGXCPU`), in whole seconds.
    pub cpu_time: Option<Duration>,
}

/// Fewest threads of a worker by default.
pub(crate) const THREADS: u32 = 64;

/// Threads for each core of the machine, because libraries start one or two for each core that they see.
pub(crate) const THREADS_A_CORE: u32 = 4;

/// bubblewrap, its init, and the worker's own.
pub(crate) const OWN_THREADS: u32 = 8;

impl Default for Limits {
    /// 1 GiB, one CPU, four threads for each core of the machine and at least 64, no end.
    fn default() -> Self {
        let cores = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten().unwrap_or(1);
        let threads = u32::try_from(cores).unwrap_or(1).saturating_mul(THREADS_A_CORE);
        let processes = threads.saturating_add(OWN_THREADS).max(THREADS);
        Limits { memory: 1 << 30, processes, cpus: 1.0, cpu_time: None }
    }
}

/// What a jailed process has used, as the kernel counted it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all that ran in the jail, in it and in the kernel for it.
    pub cpu: Duration,
    /// Most bytes of memory at a time.
    pub memory: u64,
    /// Processes that the kernel ended because the memory was used up.
    pub oom_kills: u64,
    /// Threads and processes that were refused.
    pub refused_processes: u64,
}

/// A process to be jailed.
#[derive(Debug)]
pub struct Spec<'a> {
    /// What is run.
    pub executable: &'a Executable,
    /// All of its environment.
    pub environment: &'a [(&'a str, &'a str)],
    /// The local time zone, a name for which [`is_zone`](crate::is_zone) holds; `None`: UTC.
    pub zone: Option<&'a str>,
    /// A socket of the host's that it may connect to, at [`SOCKET`]; it is given to the process's user.
    pub socket: Option<&'a Path>,
    /// What it may use.
    pub limits: Limits,
}

/// Where the executable is, inside.
pub(crate) const PROGRAM: &str = "/app/worker";

/// Where the host's socket is, inside.
pub const SOCKET: &str = "/app/host";
