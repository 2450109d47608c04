//! A worker as the pool knows it: its process, what it holds, and why it is being ended.
//! Changed under the pool's lock only, by `pool` and `watchdog`.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use crate::local::ipc::arena::{SHARED_FROM, free_place};
use crate::local::ipc::frame_sender::{Frame, FrameSender};
use crate::local::ipc::shared_page::SharedPage;
use crate::model::batch::Batch;
use crate::model::death::{ExitReason, Running};
use crate::model::frame::{Header, ToWorker};
use crate::model::ids::JobId;
use crate::model::refused_call::RefusedCall;

/// A worker that can't be killed and has not ended itself within this time is given up: it is stopped, or has
/// never opened its channel.
const GIVEN_UP: Duration = Duration::from_secs(5);

/// A worker process, from its start until its death is dealt with.
#[derive(Debug)]
pub(crate) struct WorkerHandle {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) child: Child,
    pub(crate) page: Arc<SharedPage>,
    /// What it prints to: the supervisor reads it.
    pub(crate) outputs: Vec<Arc<OwnedFd>>,
    /// How long its handshake has been waited for.
    pub(crate) awaited: Duration,
    /// `None` until it has connected.
    pub(crate) sender: Option<FrameSender>,
    /// Batches sent and not answered, in the order they were sent.
    pub(crate) held: VecDeque<AssignedBatch>,
    pub(crate) opened: HashSet<JobId>,
    /// When it last answered, or got work while idle.
    pub(crate) progress: Instant,
    /// It has answered something: a worker can live here.
    pub(crate) healthy: bool,
    /// Why it is being ended, with what it then ran.
    pub(crate) end_reason: Option<(ExitReason, Option<(u64, Running)>)>,
    /// How long it has owed the answer of a batch that it is through with.
    pub(crate) silent: Duration,
    /// How long it has been seen stopped with work in its hands.
    pub(crate) stopped: Duration,
    /// Items it has answered.
    pub(crate) answered: u64,
    /// Batches it was given, and times that it has refused a job.
    pub(crate) given: u64,
    pub(crate) refusals: u64,
    /// Times that items were asked back of it, less those that it has given some.
    pub(crate) recalls: u64,
    /// When it was asked to leave, having run as many items as it may.
    pub(crate) leaving: Option<Instant>,
    /// For item timeouts: what ran at the last look, and for how long.
    pub(crate) watched: Option<((u64, Running), Duration)>,
    /// Whether its pipes are full because this process does not read them: at this look, and at the one
    /// before.
    pub(crate) unread: [bool; 2],
    /// It was seen to dump its core.
    dying: bool,
    /// When the system refused to kill it, and it was asked to end itself.
    unkillable: Option<Instant>,
    /// For refused calls: what ran at the last look, since when, and whether they were told.
    pub(crate) doubted: Option<((u64, Running), Instant, bool)>,
}

/// A batch in a worker's hands.
#[derive(Debug)]
pub(crate) struct AssignedBatch {
    pub(crate) batch: Batch,
    /// Items `0..limit` are the worker's; the rest was given back.
    pub(crate) limit: u32,
    /// Items were asked back, and the answer is not here yet.
    pub(crate) recalled: bool,
    /// Nobody waits for it any more.
    pub(crate) abandoned: bool,
    /// Where its payload lies in the area that the worker reads; `None` if it went through the channel.
    place: Option<Range<usize>>,
    /// What the sandbox refused to one of its items, as the worker told.
    pub(crate) refused: Vec<RefusedCall>,
}

impl WorkerHandle {
    pub(crate) fn new(
        id: u64,
        name: String,
        child: Child,
        page: Arc<SharedPage>,
        outputs: Vec<Arc<OwnedFd>>,
    ) -> Self {
        WorkerHandle {
            id,
            name,
            child,
            page,
            outputs,
            awaited: Duration::ZERO,
            sender: None,
            held: VecDeque::new(),
            opened: HashSet::new(),
            progress: Instant::now(),
            healthy: false,
            end_reason: None,
            silent: Duration::ZERO,
            stopped: Duration::ZERO,
            answered: 0,
            given: 0,
            refusals: 0,
            recalls: 0,
            leaving: None,
            watched: None,
            unread: [false; 2],
            dying: false,
            unkillable: None,
            doubted: None,
        }
    }

    pub(crate) fn takes_work(&self) -> bool {
        self.sender.is_some() && self.end_reason.is_none() && self.leaving.is_none()
    }

    /// Sends it a batch: a large payload through the shared memory, where there is room for it.
    ///
    /// # Panics
    /// If the worker does not take work.
    pub(crate) fn hand(&mut self, batch: Batch) {
        let payload = batch.payload();
        let taken = self.held.iter().filter_map(|held| held.place.clone());
        let shared = payload.len() >= SHARED_FROM;
        let place = if shared { free_place(taken, payload.len()) } else { None };
        let frame = match &place {
            Some(place) => {
                self.page.write_to_worker(place.start, payload);
                Header::placed(batch.message(), place.start, payload.len()).to_vec().into()
            }
            None => Frame::Batch(batch.clone()),
        };
        self.sender.as_mut().expect("a worker that takes work has greeted").send(frame);
        if self.held.is_empty() {
            self.progress = Instant::now();
        }
        let limit = batch.items();
        self.given += 1;
        self.held.push_back(AssignedBatch {
            batch,
            limit,
            recalled: false,
            abandoned: false,
            place,
            refused: Vec::new(),
        });
    }

    pub(crate) fn idle(&self) -> bool {
        self.takes_work() && self.held.is_empty()
    }

    /// Ends it. Its death is told by the supervisor, as any other.
    ///
    /// A worker that dumps its core is left alone: it is dying of a signal of its own, which is the cause of
    /// its death, and to kill it would cut the core short.
    pub(crate) fn end_for(&mut self, cause: ExitReason, running: Option<(u64, Running)>) {
        if self.is_dying() {
            return;
        }
        if self.end_reason.is_none() {
            self.end_reason = Some((cause, running));
        }
        self.kill();
    }

    /// Whether it dumps its core, or has begun to. To be asked while it may still dump: what comes after,
    /// until the kernel tells of its death, can look like life.
    pub(crate) fn is_dying(&mut self) -> bool {
        self.dying = self.dying || is_dying(self.child.id());
        self.dying
    }

    /// Kills the process. Where the system refuses that (this process has given up the rights of the user who
    /// started the worker), closes its channel: a worker ends itself then, whatever its function does.
    pub(crate) fn kill(&mut self) {
        let Err(error) = self.child.kill() else { return };
        // It may be dead already.
        if matches!(error.kind(), ErrorKind::InvalidInput) || error.raw_os_error() == Some(libc::ESRCH) {
            return;
        }
        if self.unkillable.is_none() {
            log::warn!("{} can't be killed ({error}) and is asked to end itself", self.name);
            self.unkillable = Some(Instant::now());
        }
        if let Some(sender) = &mut self.sender {
            sender.close();
        }
    }

    /// Whether the system has refused to kill it.
    pub(crate) fn is_unkillable(&self) -> bool {
        self.unkillable.is_some()
    }

    /// Whether it could neither be killed nor has ended itself: its end is not waited for any more.
    pub(crate) fn is_given_up(&self, now: Instant) -> bool {
        self.unkillable.is_some_and(|since| now.saturating_duration_since(since) > GIVEN_UP)
    }

    /// How soon to look again for [`WorkerHandle::is_given_up`].
    pub(crate) const UNKILLABLE_PAUSE: Duration = Duration::from_secs(1);
}

/// Whether a process is writing its core, or has done so and its memory is being freed.
fn is_dying(pid: u32) -> bool {
    /// Kernels before 4.15 say nothing of cores.
    static KNOWN: LazyLock<bool> = LazyLock::new(|| matches!(core_dumping("self"), Ok(Some(_))));
    match core_dumping(&pid.to_string()) {
        Ok(Some(dumps)) => dumps,
        // A process without memory.
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

/// The frame that asks a worker for what it has not begun of a batch, or for half of it.
pub(crate) fn recall(ticket: u64, half: bool) -> Frame {
    Header::frame(ToWorker::Recall { ticket, half }, &[]).into()
}
