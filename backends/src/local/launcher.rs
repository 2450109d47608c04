//! Starts worker processes of other programs: a launcher makes the command and interprets the exit. The pool does
//! everything else. Implemented by `jailed`.

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::{fmt, io};

use crate::local::ipc::handshake::{Confinement, MARKER, WorkerBootstrap};
use crate::model::death::ExitReason;

/// Starts workers of another program than the host's, which the host does not trust.
/// [`LocalOptions::identity`](super::LocalOptions) names that program.
///
/// Whatever such a worker sends is checked before it is used, and can't hold up the pool.
pub trait Launcher: Send + Sync + fmt::Debug {
    /// The command that starts a worker. Its standard streams are set by the pool; its process must end when the
    /// worker does, and the worker when it is killed.
    ///
    /// # Errors
    /// If none can be started now; it counts as a worker that died at its start.
    fn launch(&self, start: &Start<'_>) -> io::Result<LaunchedChild>;
}

/// A worker that is to be started.
#[derive(Debug)]
pub struct Start<'a> {
    /// Its name.
    pub name: &'a str,
    /// The socket that it must be able to connect to.
    pub socket: &'a Path,
    pub(crate) marker: &'a WorkerBootstrap,
}

impl Start<'_> {
    /// Name and value of the environment variable that makes the program a worker: one that sees its parent as process
    /// `parent`, and the host's socket as `socket`.
    pub fn variable(&self, parent: u32, socket: &str) -> (&'static str, String) {
        let (confinement, server) = (Confinement::Jailed, socket.to_owned());
        let marker = WorkerBootstrap { host: parent, confinement, server, ..self.marker.clone() };
        (MARKER, marker.to_string())
    }
}

/// How a worker is started.
#[derive(Debug)]
pub struct LaunchedChild {
    /// Starts it.
    pub command: Command,
    /// Held until the worker is dead.
    pub guard: Box<dyn ChildGuard>,
}

/// Watches over one worker that a [`Launcher`] started. Dropped, it leaves nothing of the worker behind.
pub trait ChildGuard: Send + fmt::Debug {
    /// The process that was started has ended so: what does that say of the worker?
    fn exit_reason(&mut self, status: ExitStatus) -> ExitReason;
}
