//! Specification of a jail: its program, its limits, and the errors of setting one up.

use std::path::Path;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use crate::jail::libraries::Executable;

/// The parent process ID that a jailed process sees: the init of its own namespace.
pub const PARENT: u32 = 1;

/// A requirement of jails that this machine does not meet. Without jails no untrusted program is run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// bubblewrap is not installed.
    #[error("bubblewrap (bwrap) is not installed; on Debian: apt-get install bubblewrap")]
    NoBubblewrap,
    /// bubblewrap is too old, or does not work.
    #[error("bubblewrap can't be used: {0}")]
    Bubblewrap(String),
    /// The service's user can't make namespaces.
    #[error("no jail can be made here: {0}")]
    Namespaces(String),
    /// Neither version of control groups can set all limits.
    #[error("memory, processes and CPU of a jail can't be bounded: {0}")]
    Cgroups(String),
    /// The kernel does not support the seccomp filters.
    #[error("this kernel does not filter system calls (seccomp): {0}")]
    Seccomp(String),
    /// No user IDs are available for workers.
    #[error("workers can't get users of their own: {0}")]
    Users(String),
    /// The self-test could not be run.
    #[error("the jail's self-test could not be run: {0}")]
    SelfTest(String),
    /// A probe of the self-test succeeded.
    #[error("the jail leaks: a process in it was able to: {}", .0.join(", "))]
    Leaks(Vec<String>),
}

/// Resource limits of a jailed process.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of memory, including memory files, page cache and sockets. Exceeding it kills the process.
    pub memory: u64,
    /// Number of threads and processes, two of which are bubblewrap's. Starting more fails.
    pub processes: u32,
    /// Number of CPUs: 0.5 is half of one.
    pub cpus: f64,
    /// CPU time after which the kernel kills the process (`SIGXCPU`), in whole seconds.
    pub cpu_time: Option<Duration>,
}

/// Lower bound of the default number of threads.
pub(crate) const MIN_THREADS: u32 = 64;

/// Default threads per core of the machine: libraries start one or two for each core that they see.
pub(crate) const THREADS_PER_CORE: u32 = 4;

/// Threads of bubblewrap, of its init, and of the worker itself.
pub(crate) const OWN_THREADS: u32 = 8;

impl Default for Limits {
    /// 1 GiB, one CPU, four threads for each core of the machine and at least 64, no limit of CPU time.
    fn default() -> Self {
        let cores = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten().unwrap_or(1);
        let threads = u32::try_from(cores).unwrap_or(1).saturating_mul(THREADS_PER_CORE);
        let processes = threads.saturating_add(OWN_THREADS).max(MIN_THREADS);
        Limits { memory: 1 << 30, processes, cpus: 1.0, cpu_time: None }
    }
}

/// Resource usage of a jailed process, as counted by the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all processes in the jail, user and system.
    pub cpu: Duration,
    /// Peak memory in bytes.
    pub memory: u64,
    /// Number of processes that the kernel killed because memory was exhausted.
    pub oom_kills: u64,
    /// Number of failed attempts to start threads and processes.
    pub refused_processes: u64,
}

/// A process to be jailed.
#[derive(Debug)]
pub struct Spec<'a> {
    /// The executable to run.
    pub executable: &'a Executable,
    /// Its complete environment.
    pub environment: &'a [(&'a str, &'a str)],
    /// The local time zone, a name for which [`is_zone`](crate::is_zone) holds; `None`: UTC.
    pub zone: Option<&'a str>,
    /// A socket of the host that the process may connect to, at [`SOCKET`]. Its owner becomes the process's
    /// user.
    pub socket: Option<&'a Path>,
    /// Its resource limits.
    pub limits: Limits,
}

/// Path of the executable inside of the jail.
pub(crate) const PROGRAM: &str = "/app/worker";

/// Path of the host's socket inside of the jail.
pub const SOCKET: &str = "/app/host";
