//! Worker mode: what a process does that was started to work, from its first line to its last.
//! Entered by `fastmap::enter`; a reader thread takes what the host sends, the main thread runs the batches.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipc_channel::IpcError;
use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcSender};
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::{Pid, dup2_stdin, getppid};
use serde::{Deserialize, Serialize};

use super::greeting::{Greeting, Hello, INSIDE, MARKER, Marker};
use super::page::Page;
use crate::batch::Items;
use crate::completion::{FailureKind, ItemFailure};
use crate::executable;
use crate::function::FunctionId;
use crate::job::JobId;
use crate::task::{Claims, Stopwatch, Task, Work};
use crate::wire::{Assembler, Header, Kind, PACKET, VERSION};

/// Exit code of a process that was marked as a worker and can't be one.
pub(crate) const NOT_A_WORKER: i32 = 113;

static WORKER: AtomicBool = AtomicBool::new(false);

/// Whether this process is a worker, or was started by one. Maps in it run sequentially on their own thread.
pub fn inside_worker() -> bool {
    WORKER.load(Ordering::Relaxed) || std::env::var_os(INSIDE).is_some()
}

/// Whether this process was started to be a worker and has not become one: its `main` went past `enter`.
pub fn marked() -> bool {
    std::env::var_os(MARKER).is_some()
}

/// Ends a process that was started as a worker but runs the user's program instead.
pub fn leave_unentered() -> ! {
    eprintln!(
        "fastmap: this process was started as a worker and came to user code without being entered; \
         begin `main` with fastmap_main! or fastmap::enter() on every path"
    );
    exit(NOT_A_WORKER)
}

/// Becomes a worker if this process was started as one, and then never returns. In a host it returns at once.
///
/// To be called before anything else: before threads are started and before files are opened.
pub fn enter() {
    let Some(value) = std::env::var_os(MARKER) else { return };
    // SAFETY: `enter` is the first statement of the program, before any thread that could read the environment.
    unsafe { std::env::remove_var(MARKER) };
    let marker = Marker::parse(&value).unwrap_or_else(|why| refuse(&why));
    if getppid() != Pid::from_raw(marker.host as i32) {
        // A worker of somebody did not enter, and what its program started came here: no host of its own, or each
        // generation would start the next. Its maps run in this process.
        // SAFETY: as above.
        unsafe { std::env::set_var(INSIDE, &marker.name) };
        return;
    }
    WORKER.store(true, Ordering::Relaxed);
    match Worker::report(&marker) {
        Ok(worker) => worker.work(),
        Err(why) => refuse(&why),
    }
}

fn refuse(why: &str) -> ! {
    eprintln!("fastmap: this worker can't begin: {why}");
    exit(NOT_A_WORKER)
}

/// What stands before the context in a frame that opens a job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Opening {
    pub(crate) function: FunctionId,
}

/// A log record on its way to the host's logger.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) level: usize,
    pub(crate) target: String,
    pub(crate) message: String,
    pub(crate) module: Option<String>,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
}

#[derive(Debug)]
struct Worker {
    page: Arc<Page>,
    queue: Arc<Queue>,
    results: Arc<Results>,
}

/// What was received and is not done.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<QueueState>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    frames: VecDeque<Incoming>,
    running: Option<(u64, Arc<Claims>)>,
    /// The host is gone or has closed the channel.
    ended: bool,
    /// The main thread has seen that.
    left: bool,
}

#[derive(Debug)]
struct Incoming {
    header: Header,
    frame: Vec<u8>,
    /// For a batch: what is taken back of it.
    claims: Arc<Claims>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending side: frames of the main thread, of the reader thread and of the logger, never mixed.
#[derive(Debug)]
struct Results(Mutex<IpcBytesSender>);

impl Results {
    /// Sends a frame. Without the way to the host this process is of no use: it ends, and the host, if it lives,
    /// takes what it held for lost.
    fn send(&self, frame: &[u8]) {
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for packet in frame.chunks(PACKET) {
            loop {
                match sender.send(packet) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    // SAFETY: ends the process; nothing of it is used after.
                    Err(_) => unsafe { libc::_exit(NOT_A_WORKER) },
                    Ok(()) => break,
                }
            }
        }
    }
}

impl Worker {
    /// Makes the process a worker, and tells the host.
    fn report(marker: &Marker) -> Result<Worker, String> {
        let step = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| step("PR_SET_PDEATHSIG", &e))?;
        if getppid() != Pid::from_raw(marker.host as i32) {
            // The host (in a jail: the jail's init, which ends with the host) died before the line above could tell the kernel to end this process with it.
            exit(0);
        }
        settle_signals().map_err(|e| step("signals", &e))?;
        close_strays();
        let page = take_stdin().map_err(|e| step("standard input", &e))?;
        // SAFETY: no other thread exists yet, see `enter`.
        unsafe { std::env::set_var(INSIDE, &marker.name) };
        if let Ok(name) = std::ffi::CString::new(format!("fm-{}", marker.name)) {
            let _unnamed = prctl::set_name(&name);
        }
        let (to_worker, frames) = ipc::bytes_channel().map_err(|e| step("channel", &e))?;
        let (results, from_worker) = ipc::bytes_channel().map_err(|e| step("channel", &e))?;
        let host = IpcSender::<Greeting>::connect(marker.server.clone())
            .map_err(|e| step(&format!("connecting to {}", marker.server), &e))?;
        let hello = Hello {
            version: VERSION,
            executable: executable::identity().to_owned(),
            to_worker,
            from_worker,
            wake: results.clone(),
        };
        host.send(Greeting::Hello(hello)).map_err(|e| step("greeting the host", &e))?;

        let worker = Worker {
            page: Arc::new(page),
            queue: Arc::default(),
            results: Arc::new(Results(Mutex::new(results))),
        };
        let logger = Box::new(Forward(Arc::clone(&worker.results)));
        if log::set_boxed_logger(logger).is_ok() {
            log::set_max_level(marker.level);
        }
        let reader = Reader {
            page: Arc::clone(&worker.page),
            queue: Arc::clone(&worker.queue),
            results: Arc::clone(&worker.results),
        };
        std::thread::Builder::new()
            .name("fastmap-reader".to_owned())
            .spawn(move || reader.read(&frames))
            .map_err(|e| step("starting a thread", &e))?;
        Ok(worker)
    }

    /// Runs batches until the host ends the channel.
    fn work(self) -> ! {
        let mut jobs: HashMap<JobId, Prepared> = HashMap::new();
        let mut out = Vec::new();
        while let Some(Incoming { header, frame, claims }) = self.next_frame() {
            let job = JobId(header.job);
            match header.kind {
                Kind::Open => {
                    jobs.insert(job, Prepared::Opening(frame, header.from as usize));
                }
                Kind::Close => {
                    let prepared = jobs.remove(&job);
                    self.page.begin_setup(Page::FREEING);
                    // The drop of the function's state is user code: it may panic, or never end.
                    let _panicked = catch_unwind(AssertUnwindSafe(|| drop(prepared)));
                    self.page.end();
                }
                Kind::Batch => match jobs.remove(&job).map(|task| self.prepare(header.batch, task)) {
                    Some(Ok(mut task)) => {
                        self.run(&header, &frame, &claims, task.as_mut(), &mut out);
                        jobs.insert(job, Prepared::Ready(task));
                    }
                    Some(Err(failure)) => {
                        let payload = postcard::to_stdvec(&failure).expect("a failure can be written");
                        let refused = Header { kind: Kind::Refused, job: job.0, ..Header::EMPTY };
                        self.results.send(&refused.frame(&payload));
                        jobs.insert(job, Prepared::Refused(failure));
                    }
                    None => {}
                },
                _ => {}
            }
            self.queue.lock().running = None;
        }
        exit(0)
    }

    fn next_frame(&self) -> Option<Incoming> {
        let mut state = self.queue.lock();
        loop {
            if state.ended {
                state.left = true;
                self.queue.more.notify_all();
                return None;
            }
            if let Some(incoming) = state.frames.pop_front() {
                if incoming.header.kind == Kind::Batch {
                    state.running = Some((incoming.header.batch, Arc::clone(&incoming.claims)));
                }
                return Some(incoming);
            }
            state = self.queue.more.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn prepare(&self, ticket: u64, prepared: Prepared) -> Result<Box<dyn Task>, ItemFailure> {
        match prepared {
            Prepared::Ready(task) => Ok(task),
            Prepared::Refused(failure) => Err(failure),
            Prepared::Opening(frame, opening) => {
                self.page.begin_setup(ticket);
                let bytes = &frame[Header::LEN..];
                let broken =
                    |message: String| ItemFailure { offset: 0, kind: FailureKind::Serialize, message };
                let (opening, context) = bytes
                    .split_at_checked(opening)
                    .ok_or_else(|| broken("the opening of a job is cut short".to_owned()))?;
                let opening: Opening =
                    postcard::from_bytes(opening).map_err(|error| broken(error.to_string()))?;
                let task = opening.function.resolve().map_err(broken)?.start(context);
                self.page.end();
                task
            }
        }
    }

    fn run(&self, header: &Header, frame: &[u8], claims: &Claims, task: &mut dyn Task, out: &mut Vec<u8>) {
        out.clear();
        out.resize(Header::LEN, 0);
        let stride = (header.stride > 0).then_some(header.stride);
        let running = self.page.begin(header.batch);
        let items = Items::new(&frame[Header::LEN..], stride);
        let time = Stopwatch::start();
        let mut work = Work::new(items, header.items, header.credit, claims, running, out);
        task.run(&mut work);
        let (answered, failures) = work.finish();
        let (wall, cpu) = time.stop();
        let before = out.len();
        if !failures.is_empty() {
            out.extend(postcard::to_stdvec(&failures).expect("failures can be written"));
        }
        let done = Header {
            kind: Kind::Done,
            items: answered,
            job: header.job,
            batch: header.batch,
            length: (out.len() - Header::LEN) as u64,
            credit: (out.len() - before) as u64,
            wall: wall.as_nanos() as u64,
            cpu: cpu.as_nanos() as u64,
            ..Header::EMPTY
        };
        done.write(out);
        self.page.begin_sending();
        self.results.send(out);
        self.page.end();
        // One huge result must not stay with the worker for ever.
        if out.capacity() > 16 * PACKET {
            out.shrink_to(PACKET);
        }
    }
}

/// A job as far as it is prepared: its function is made at the first batch, so that a death in it can be told.
enum Prepared {
    /// The frame, and how long the opening in it is.
    Opening(Vec<u8>, usize),
    Ready(Box<dyn Task>),
    Refused(ItemFailure),
}

/// The thread that takes what the host sends: at once, so that the host's sends never wait for user code.
struct Reader {
    page: Arc<Page>,
    queue: Arc<Queue>,
    results: Arc<Results>,
}

impl Reader {
    fn read(self, frames: &IpcBytesReceiver) {
        let mut assembler = Assembler::default();
        loop {
            match frames.recv() {
                Ok(packet) => {
                    self.page.count_received();
                    match assembler.packet(packet) {
                        Ok(Some((header, frame))) => self.take(header, frame),
                        Ok(None) => {}
                        Err(_) => break,
                    }
                }
                Err(IpcError::Io(error)) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.end();
    }

    fn take(&self, header: Header, frame: Vec<u8>) {
        if header.kind == Kind::Recall {
            return self.recall(header.batch, header.from == 1);
        }
        let claims = Arc::new(Claims::new(header.items));
        self.queue.lock().frames.push_back(Incoming { header, frame, claims });
        self.queue.more.notify_one();
    }

    /// Gives back what is not begun of a batch, and tells from where on.
    fn recall(&self, ticket: u64, half: bool) {
        let mut state = self.queue.lock();
        let waiting = state.frames.iter().position(|incoming| incoming.header.batch == ticket);
        let from = match (waiting, &state.running) {
            (Some(at), _) => {
                state.frames.remove(at);
                Some(0)
            }
            (None, Some((running, claims))) if *running == ticket => claims.recall(half),
            (None, _) => None,
        };
        drop(state);
        if let Some(from) = from {
            let returned = Header { kind: Kind::Returned, batch: ticket, from, ..Header::EMPTY };
            self.results.send(&returned.frame(&[]));
        }
    }

    /// The host has closed the channel, or is gone: so is this process, at the latest when this is over.
    fn end(&self) {
        let mut state = self.queue.lock();
        state.ended = true;
        state.frames.clear();
        self.queue.more.notify_all();
        // An idle main thread leaves by itself (and writes coverage or profiles on its way); one in user code
        // can't be asked.
        let grace = Duration::from_millis(300);
        let (state, _) = self
            .queue
            .more
            .wait_timeout_while(state, grace, |state| !state.left)
            .unwrap_or_else(PoisonError::into_inner);
        if !state.left {
            // SAFETY: ends the process; nothing of it is used after.
            unsafe { libc::_exit(0) };
        }
    }
}

/// Sends the function's log records to the host's logger.
struct Forward(Arc<Results>);

impl log::Log for Forward {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let record = Record {
            level: record.level() as usize,
            target: record.target().to_owned(),
            message: record.args().to_string(),
            module: record.module_path().map(str::to_owned),
            file: record.file().map(str::to_owned),
            line: record.line(),
        };
        let payload = postcard::to_stdvec(&record).expect("a record can be written");
        self.0.send(&Header { kind: Kind::Log, ..Header::EMPTY }.frame(&payload));
    }

    fn flush(&self) {}
}

/// The host decides about the terminal's signals; a dead host shows as an error of a send, not as SIGPIPE; and
/// what the host ignores is not ignored for what the function starts.
fn settle_signals() -> nix::Result<()> {
    // The thread that starts workers blocks signals, and a mask is inherited.
    SigSet::empty().thread_set_mask()?;
    for (number, handler) in [
        (Signal::SIGINT, SigHandler::SigIgn),
        (Signal::SIGHUP, SigHandler::SigIgn),
        (Signal::SIGPIPE, SigHandler::SigIgn),
        (Signal::SIGCHLD, SigHandler::SigDfl),
        (Signal::SIGTERM, SigHandler::SigDfl),
    ] {
        // SAFETY: both handlers are the kernel's own; no code of ours runs in a signal.
        unsafe { signal(number, handler) }?;
    }
    Ok(())
}

/// Closes what C code in the host opened without CLOEXEC: the function has no business with it.
fn close_strays() {
    // SAFETY: closes what was inherited; `enter` is the first statement, so that of this program only a library's
    // constructor can have opened one, which does so in each worker alike.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
}

/// Takes the page from standard input, which then is `/dev/null`.
fn take_stdin() -> std::io::Result<Page> {
    let fd = std::io::stdin().as_fd().try_clone_to_owned()?;
    let null = File::open("/dev/null")?;
    dup2_stdin(&null)?;
    Page::open(fd)
}
