//! A worker process as the supervisor watches it: what it prints, and what reports its death.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use crate::local::ipc::shared_page::SharedPage;
use crate::local::launcher::ChildGuard;
use crate::local::output::pipe::Pipe;
use crate::local::output::repeats::Words;
use crate::local::process::exit_latch::ExitLatch;

/// What the supervisor holds of one worker.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) id: u64,
    pub(crate) name: Arc<str>,
    pub(crate) pid: u32,
    /// `None` where the kernel had reaped the process before it could be opened (SIGCHLD is ignored here).
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) stdout: Pipe,
    pub(crate) stderr: Pipe,
    pub(crate) guard: Option<Box<dyn ChildGuard>>,
    pub(crate) latch: Arc<ExitLatch>,
    pub(crate) page: Arc<SharedPage>,
    pub(crate) words: Words,
    /// What it prints is not read before, because of what was left out.
    pub(crate) paused: Option<Instant>,
}
