//! What a worker receives, and on which thread. While the working thread has nothing to do it receives by
//! itself, so that a batch wakes one thread and not two. Once it has been busy for a moment, a helper thread
//! receives, so that a recall is received and a closed channel is noticed while user code runs.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::execution::claims::Claims;
use crate::local::ipc::assembler::Assembler;
use crate::local::ipc::channel::Received;
use crate::local::ipc::shared_page::SharedPage;
use crate::local::process::descendants;
use crate::local::signals::block_signals;
use crate::local::worker::sender::Results;
use crate::model::frame::{BatchHead, HEADER, Header, ToHost, ToWorker};
use crate::model::ids::JobId;

/// How long the working thread may be busy before the helper takes over: what is shorter never wakes it.
const MOMENT: Duration = Duration::from_millis(1);
/// The channel is closed: a working thread that is not out of user code by then can't be waited for.
const GRACE: Duration = Duration::from_millis(300);

/// A frame that the working thread has to deal with.
#[derive(Debug)]
pub(crate) enum Incoming {
    Open { job: JobId, opening: FramedOpening },
    Batch(FramedBatch),
    Close { job: JobId },
}

/// The opening of a job as it came.
#[derive(Debug)]
pub(crate) struct FramedOpening {
    pub(crate) frame: Vec<u8>,
    pub(crate) context: FramedContext,
}

/// Where the context of a job is.
#[derive(Debug)]
pub(crate) enum FramedContext {
    /// In the frame, from this byte of the payload on.
    At(usize),
    /// A file that came beside, or why it did not.
    File(io::Result<OwnedFd>),
}

/// A batch as it came.
#[derive(Debug)]
pub(crate) struct FramedBatch {
    pub(crate) head: BatchHead,
    /// Where its items lie in the shared area; `None`: behind the header of the frame.
    pub(crate) shared: Option<(usize, usize)>,
    frame: Vec<u8>,
    /// What is taken back of it.
    pub(crate) claims: Arc<Claims>,
}

impl FramedBatch {
    /// The items, where they came with the frame.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.frame[HEADER..]
    }
}

/// Both threads lock `channel` before `state`, and never `channel` while they hold `state`: a receive may wait for ever, and
/// a recall changes the state meanwhile.
#[derive(Debug)]
pub(crate) struct Receiver {
    page: Arc<SharedPage>,
    results: Arc<Results>,
    /// Locked by the thread that receives, for as long as it waits.
    channel: Mutex<Channel>,
    state: Mutex<State>,
    more: Condvar,
    /// Wakes the helper. Set whenever the working thread becomes busy: 1 µs, where to wake a thread costs 10.
    timer: TimerFd,
}

#[derive(Debug, Default)]
struct Channel {
    buffer: Vec<u8>,
    assembler: Assembler<ToWorker>,
    /// Those that have come, for openings that come after them.
    files: VecDeque<io::Result<OwnedFd>>,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Incoming>,
    /// The working thread deals with a frame; if it is a batch, its ticket and what is taken back of it.
    busy: bool,
    running: Option<(u64, Arc<Claims>)>,
    /// The helper receives.
    helper: bool,
    end: End,
}

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    #[default]
    Open,
    /// The host is gone or has closed the channel.
    Closed,
    /// And the working thread has seen it.
    Seen,
}

impl Receiver {
    /// # Errors
    /// If there is no descriptor left for a timer.
    pub(crate) fn new(page: Arc<SharedPage>, results: Arc<Results>) -> io::Result<Self> {
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
        Ok(Receiver {
            page,
            results,
            channel: Mutex::default(),
            state: Mutex::default(),
            more: Condvar::new(),
            timer,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The working thread has dealt with a frame and wants the next; `None` at the channel's end.
    pub(crate) fn next(&self) -> Option<Incoming> {
        let mut state = self.lock();
        state.busy = false;
        state.running = None;
        loop {
            if state.end != End::Open {
                state.end = End::Seen;
                self.more.notify_all();
                return None;
            }
            if let Some(incoming) = state.frames.pop_front() {
                state.busy = true;
                if let Incoming::Batch(batch) = &incoming {
                    // Under the same lock as the frame is taken out: a recall finds the batch in the queue or
                    // here.
                    state.running = Some((batch.head.ticket, Arc::clone(&batch.claims)));
                }
                if !state.helper {
                    // Can't fail for a time that is valid; the helper would come too late otherwise, not never.
                    let _set = self.timer.set(Expiration::OneShot(MOMENT.into()), TimerSetTimeFlags::empty());
                }
                return Some(incoming);
            }
            // One thread receives at a time, so that frames keep their order; the helper gives up as soon as it sees this
            // thread idle, which is after the frame that wakes it.
            if state.helper {
                state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(state);
            let received = self.receive();
            state = self.lock();
            state.take(received);
        }
    }

    /// The helper's life: receives while the working thread is busy for long.
    pub(crate) fn start_helper(&self) {
        // Signals are the function's business.
        block_signals();
        loop {
            match self.timer.wait() {
                Ok(()) => {}
                Err(Errno::EINTR) => continue,
                // A timer that is broken can't be waited for; the working thread receives alone.
                Err(_) => return,
            }
            let mut state = self.lock();
            // Under the lock, so that a working thread that becomes idle meanwhile sees that this one
            // receives.
            state.helper = state.busy;
            while state.helper {
                drop(state);
                let received = self.receive();
                state = self.lock();
                state.take(received);
                state.helper = state.busy;
                // The working thread waits for a frame, or for this thread to stop receiving.
                self.more.notify_all();
                if state.end != End::Open {
                    return self.wait_for_working_thread(state);
                }
            }
        }
    }

    /// Waits for a frame for the working thread; deals with what is not for it. `None`: the channel's end.
    fn receive(&self) -> Option<Incoming> {
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let Channel { buffer, assembler, files } = &mut *channel;
        loop {
            let packet = match self.page.channel.next(buffer)? {
                Received::Packet(packet) => packet,
                Received::File(file) => {
                    files.push_back(file);
                    continue;
                }
            };
            // Counted when it is out of the socket: the host goes by it where it asks whether the next one has room.
            self.page.count_received();
            let Some((header, frame)) = assembler.packet(packet).ok()? else { continue };
            return Some(match header.message {
                ToWorker::Recall { ticket, half } => {
                    self.recall(ticket, half);
                    continue;
                }
                ToWorker::Open { job, context_at } => {
                    let context = match context_at {
                        Some(at) => FramedContext::At(at as usize),
                        // The host gives a file before the opening that needs it.
                        None => FramedContext::File(
                            files.pop_front().unwrap_or_else(|| Err(io::Error::other("it did not come"))),
                        ),
                    };
                    Incoming::Open { job, opening: FramedOpening { frame, context } }
                }
                ToWorker::Batch(head) => {
                    let claims = Arc::new(Claims::new(head.items));
                    Incoming::Batch(FramedBatch { head, shared: header.shared(), frame, claims })
                }
                ToWorker::Close { job } => Incoming::Close { job },
            });
        }
    }

    /// Gives back what is not begun of a batch, and reports from where on. The batch waits, runs, or is answered by now: the
    /// answer then says the same.
    fn recall(&self, ticket: u64, half: bool) {
        let mut state = self.lock();
        let is_it =
            |incoming: &Incoming| matches!(incoming, Incoming::Batch(batch) if batch.head.ticket == ticket);
        let waiting = state.frames.iter().position(is_it);
        let from = match (waiting, &state.running) {
            (Some(at), _) => {
                state.frames.remove(at);
                Some(0)
            }
            (None, Some((running, claims))) if *running == ticket => claims.recall(half),
            (None, _) => None,
        };
        // Unlocked first: the send may wait for the host, and the working thread wants the state for its next batch.
        drop(state);
        if let Some(from) = from {
            self.results.send(&Header::frame(ToHost::Returned { ticket, from }, &[]));
        }
    }

    /// The host has closed the channel, or is gone: so is this process, at the latest when this is over.
    fn wait_for_working_thread(&self, state: MutexGuard<'_, State>) {
        // An idle working thread leaves by itself (and writes coverage or profiles on its way); one in user code
        // can't be asked.
        let (state, _) = self
            .more
            .wait_timeout_while(state, GRACE, |state| state.end != End::Seen)
            .unwrap_or_else(PoisonError::into_inner);
        if state.end != End::Seen {
            descendants::end_own();
            // SAFETY: ends the process; nothing of it is used after.
            unsafe { libc::_exit(0) };
        }
    }
}

impl State {
    fn take(&mut self, received: Option<Incoming>) {
        match received {
            Some(incoming) => self.frames.push_back(incoming),
            None => {
                self.end = End::Closed;
                // The host has closed the channel, or is gone: no answer is wanted any more.
                self.frames.clear();
            }
        }
    }
}
