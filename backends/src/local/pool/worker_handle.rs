//! A worker as the pool knows it: its process, the state that it is in (`worker_life`), and what the watchdog has seen of
//! it. Changed under the pool's lock only.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use crate::local::ipc::shared_page::SharedPage;
use crate::local::pool::connection::{AssignedBatch, Connection};
use crate::local::pool::worker_life::{EndReason, Remains, WorkerLife};
use crate::model::death::{ExitReason, Running};

/// A worker process, from its start until its exit is dealt with.
#[derive(Debug)]
pub(crate) struct WorkerHandle {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) page: Arc<SharedPage>,
    /// What it prints to: the supervisor reads it.
    pub(crate) outputs: Vec<Arc<OwnedFd>>,
    pub(crate) life: WorkerLife,
    pub(crate) seen: Observations,
    child: Child,
    /// It was seen to dump its core.
    dying: bool,
}

/// What the watchdog has seen of a worker at its looks. Nothing else goes by it.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    /// How long it has owed the answer of a batch that it is through with.
    pub(crate) silent: Duration,
    /// How long it has been stopped with work in its hands.
    pub(crate) stopped: Duration,
    /// For item timeouts: what ran at the last look, and for how long.
    pub(crate) item: Option<((u64, Running), Duration)>,
    /// For refused calls: what ran at the last look, since when, and whether they were reported.
    pub(crate) doubted: Option<((u64, Running), Instant, bool)>,
    /// Whether its pipes were full at this look, and at the one before, because this process did not read them.
    pub(crate) unread: [bool; 2],
}

impl WorkerHandle {
    pub(crate) fn new(
        id: u64,
        name: String,
        child: Child,
        page: Arc<SharedPage>,
        outputs: Vec<Arc<OwnedFd>>,
    ) -> Self {
        let (life, seen) = (WorkerLife::on_spawned(), Observations::default());
        WorkerHandle { id, name, page, outputs, life, seen, child, dying: false }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Batches that it was sent and has not answered.
    pub(crate) fn held(&self) -> &VecDeque<AssignedBatch> {
        static NONE: VecDeque<AssignedBatch> = VecDeque::new();
        self.life.connection().map_or(&NONE, Connection::held)
    }

    /// Whether it takes work and has none.
    pub(crate) fn idle(&self) -> bool {
        self.life.serving().is_some_and(|connection| connection.held().is_empty())
    }

    /// Asks it to leave, or kills it where it has no channel yet: it has begun nothing then.
    pub(crate) fn ask_to_leave(&mut self, now: Instant) {
        if !self.life.on_asked_to_leave(now) {
            self.kill();
        }
    }

    /// Ends it. Its death is reported by the supervisor, as any other.
    ///
    /// A worker that dumps its core is left alone: it is dying of a signal of its own, which is the cause of
    /// its death, and to kill it would cut the core short.
    pub(crate) fn end_for(&mut self, cause: ExitReason, running: Option<(u64, Running)>) {
        if self.is_dying() {
            return;
        }
        self.life.on_ending(Some(EndReason { cause, running }));
        self.kill();
    }

    /// Whether it dumps its core, or has begun to. To be asked while it may still dump: what comes after,
    /// until the kernel reports its death, can look like life.
    pub(crate) fn is_dying(&mut self) -> bool {
        // Kept once it was seen: the kernel shows it only while the core is written.
        self.dying = self.dying || is_dying(self.pid());
        self.dying
    }

    /// Kills the process. Where the system refuses that (this process has given up the rights of the user who
    /// started the worker), its channel is closed: a worker ends itself then, whatever its function does.
    pub(crate) fn kill(&mut self) {
        // The state first: a refused kill is noted in it below. A reason that it has already stays.
        self.life.on_ending(None);
        let Err(error) = self.child.kill() else { return };
        // It may be dead already.
        if matches!(error.kind(), ErrorKind::InvalidInput) || error.raw_os_error() == Some(libc::ESRCH) {
            return;
        }
        if self.life.on_kill_refused(Instant::now()) {
            log::warn!("{} can't be killed ({error}) and is asked to end itself", self.name);
        }
    }

    /// Takes the exit status of the process, which is dead: it does not wait.
    ///
    /// # Errors
    /// If a handler of the program has taken it.
    pub(crate) fn reap(&mut self) -> io::Result<ExitStatus> {
        self.child.wait()
    }

    /// What is left of a worker whose death and last answers are known.
    pub(crate) fn on_exit(self) -> Remains {
        self.life.on_exit()
    }
}

/// Whether a process is writing its core, or has done so and its memory is being freed.
fn is_dying(pid: u32) -> bool {
    /// Kernels before 4.15 say nothing of cores.
    static KNOWN: LazyLock<bool> = LazyLock::new(|| matches!(core_dumping("self"), Ok(Some(_))));
    match core_dumping(&pid.to_string()) {
        Ok(Some(dumps)) => dumps,
        // The kernel leaves the line out for a process whose memory is gone, which is dying. A kernel that
        // never writes the line says nothing by that.
        Ok(None) => *KNOWN,
        Err(_) => false,
    }
}

/// Whether a process dumps its core; `None` where `/proc` says nothing of that.
fn core_dumping(process: &str) -> io::Result<Option<bool>> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let value = status.lines().find_map(|line| line.strip_prefix("CoreDumping:"));
    Ok(value.map(|value| value.trim() == "1"))
}
