//! The host's end: a backend whose workers are reached over TCP on the loopback interface.
//!
//! One thread for each worker (a keeper) owns its process and its connection. It takes one batch after the other off a
//! queue that all runs share, and tells the run what became of it. One more thread opens the door: it takes
//! connections, looks at their greeting, and hands them to the keeper that waits for that worker.
//!
//! What it can't do: it has no item timeouts (such a job is refused), and when a worker dies it does not know which
//! item ran.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastmap::backends::local::INSIDE;
use fastmap::backends::{
    Backend, BackendError, Batch, BatchId, Capacity, Completion, ExitReason, ItemFailure, Job, JobId,
    Outcome, Payload, Receipt, Results, Run, Running, SubmitError, Targets, WorkerExit, WorkerLoss,
};

use crate::frames::{Parts, Put, receive, send};
use crate::worker::{BATCH, CLOSE, DONE, MARKER, OPEN, READY, REFUSED};

/// Bytes of a greeting: 32 of the token and 16 of the worker's number, in hexadecimal.
const GREETING: usize = 48;
/// A worker that has not connected by then is none.
const CONNECT: Duration = Duration::from_secs(30);
/// Starts that fail in a row before a run is ended.
const FAILED_STARTS: usize = 3;
/// Batches that a run may have here for each worker: one that runs and one that waits.
const DEPTH: usize = 2;

/// Runs batches in processes of this executable that connect back over TCP.
#[derive(Debug)]
pub(crate) struct Tcp {
    shared: Arc<Shared>,
    keepers: Vec<JoinHandle<()>>,
    door: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    workers: usize,
    address: SocketAddr,
    token: String,
    started: AtomicU64,
    /// Keepers that wait for their worker to connect.
    awaited: Mutex<HashMap<u64, Sender<TcpStream>>>,
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Batch, Arc<Line>)>,
    /// Of the workers that live, so that a keeper can be called away from one that is in an item.
    connections: HashMap<u64, TcpStream>,
    closing: bool,
}

/// What the keepers know of a run.
#[derive(Debug)]
struct Line {
    job: Arc<Job>,
    news: Mutex<Sender<Result<Completion, BackendError>>>,
    /// Batches that the run has here.
    held: AtomicUsize,
    closed: AtomicBool,
}

impl Tcp {
    pub(crate) fn new(workers: usize) -> io::Result<Tcp> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut token = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut token)?;
        let shared = Arc::new(Shared {
            workers,
            address: listener.local_addr()?,
            token: format!("{:032x}", u128::from_ne_bytes(token)),
            started: AtomicU64::new(0),
            awaited: Mutex::default(),
            queue: Mutex::default(),
            more: Condvar::new(),
        });
        // Made before its threads, so that those that were started are ended if another one can't be.
        let mut tcp = Tcp { shared: Arc::clone(&shared), keepers: Vec::new(), door: None };
        let door = Arc::clone(&shared);
        tcp.door = Some(thread::Builder::new().name("door".to_owned()).spawn(move || door.open(&listener))?);
        for _ in 0..workers {
            let keeper = ChildGuard { shared: Arc::clone(&shared), worker: None, failed: Vec::new() };
            tcp.keepers.push(thread::Builder::new().name("keeper".to_owned()).spawn(move || keeper.keep())?);
        }
        Ok(tcp)
    }

    /// Where it listens for its workers.
    pub(crate) fn address(&self) -> SocketAddr {
        self.shared.address
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closing = true;
        for connection in queue.connections.values() {
            drop(connection.shutdown(Shutdown::Both));
        }
        drop(queue);
        self.shared.more.notify_all();
        for keeper in self.keepers.drain(..) {
            drop(keeper.join());
        }
        // The door waits for a connection: this one tells it to look up.
        if let Some(door) = self.door.take()
            && TcpStream::connect(self.shared.address).is_ok()
        {
            drop(door.join());
        }
    }
}

impl Backend for Tcp {
    fn name(&self) -> &'static str {
        "tcp"
    }

    fn open(&self, job: Arc<Job>) -> Result<Box<dyn Run>, BackendError> {
        if job.item_timeout.is_some() {
            return Err(BackendError::Other("the backend tcp knows no item timeouts".to_owned()));
        }
        let (tell, news) = mpsc::channel();
        let line =
            Line { job, news: Mutex::new(tell), held: AtomicUsize::new(0), closed: AtomicBool::new(false) };
        Ok(Box::new(TcpRun { shared: Arc::clone(&self.shared), line: Arc::new(line), news }))
    }
}

struct TcpRun {
    shared: Arc<Shared>,
    line: Arc<Line>,
    news: Receiver<Result<Completion, BackendError>>,
}

impl Run for TcpRun {
    fn capacity(&mut self) -> Capacity {
        let slots = self.shared.workers * DEPTH;
        let batches = slots.saturating_sub(self.line.held.load(Ordering::Relaxed));
        let targets =
            Targets { work: Duration::from_millis(20), least: Duration::from_micros(100), bytes: 128 * 1024 };
        Capacity { batches, slots, workers: self.shared.workers, targets }
    }

    fn submit(&mut self, batch: Batch) -> Result<(), SubmitError> {
        let room = self.capacity().batches;
        let mut queue = self.shared.lock();
        if self.line.closed.load(Ordering::Relaxed) {
            return Err(SubmitError::Closed(batch));
        }
        if room == 0 {
            return Err(SubmitError::Full(batch));
        }
        self.line.held.fetch_add(1, Ordering::Relaxed);
        queue.waiting.push_back((batch, Arc::clone(&self.line)));
        self.shared.more.notify_one();
        Ok(())
    }

    fn poll(&mut self, deadline: Instant) -> Result<Option<Completion>, BackendError> {
        match self.news.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(news) => news.map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => unreachable!("the run's own line holds a sender"),
        }
    }

    fn cancel(&mut self, batch: BatchId) {
        let mut queue = self.shared.lock();
        let before = queue.waiting.len();
        let theirs = self.line.job.id;
        queue.waiting.retain(|(waiting, _)| waiting.job() != theirs || waiting.id() != batch);
        self.line.held.fetch_sub(before - queue.waiting.len(), Ordering::Relaxed);
    }

    fn close(self: Box<Self>) -> Receipt {
        Receipt::default()
    }
}

impl Drop for TcpRun {
    fn drop(&mut self) {
        self.shared.end(&self.line);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn awaited(&self) -> MutexGuard<'_, HashMap<u64, Sender<TcpStream>>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes nothing more of a run, and drops what waits of it.
    fn end(&self, line: &Line) {
        let mut queue = self.lock();
        line.closed.store(true, Ordering::Relaxed);
        queue.waiting.retain(|(batch, _)| batch.job() != line.job.id);
    }

    /// Lets workers in until the backend closes.
    fn open(&self, listener: &TcpListener) {
        for connection in listener.incoming() {
            if self.lock().closing {
                return;
            }
            // A stranger that says nothing, or the wrong words, is shut out.
            let Ok(mut connection) = connection else { continue };
            let mut greeting = [0; GREETING];
            let greeted = connection
                .set_read_timeout(Some(Duration::from_secs(2)))
                .and_then(|()| connection.read_exact(&mut greeting))
                .and_then(|()| connection.set_read_timeout(None))
                .and_then(|()| connection.set_nodelay(true));
            let greeting = std::str::from_utf8(&greeting).unwrap_or_default();
            let number = greeting.strip_prefix(&self.token).and_then(|n| u64::from_str_radix(n, 16).ok());
            if let (Ok(()), Some(number)) = (greeted, number)
                && let Some(keeper) = self.awaited().remove(&number)
            {
                // A keeper that has given up the worker lets the connection go.
                drop(keeper.send(connection));
            }
        }
    }
}

impl Line {
    /// Tells the run what became of items; `last` if the batch is no longer here.
    fn tell(&self, batch: &Batch, outcome: Outcome, range: std::ops::Range<u32>, last: bool) {
        if last {
            self.held.fetch_sub(1, Ordering::Relaxed);
        }
        let first = batch.first() + u64::from(range.start);
        self.news(Ok(Completion { batch: batch.id(), first, items: range.end - range.start, outcome }));
    }

    fn news(&self, news: Result<Completion, BackendError>) {
        // A run that has ended hears nothing.
        drop(self.news.lock().unwrap_or_else(PoisonError::into_inner).send(news));
    }
}

/// The thread of one worker.
struct ChildGuard {
    shared: Arc<Shared>,
    worker: Option<Worker>,
    /// Starts that failed in a row.
    failed: Vec<WorkerExit>,
}

struct Worker {
    number: u64,
    name: String,
    child: Child,
    connection: TcpStream,
    /// Functions that it has prepared.
    opened: HashMap<JobId, Arc<Line>>,
}

/// How a worker answered a batch.
enum Answer {
    Done(u32, Results),
    Refused(ItemFailure),
}

impl ChildGuard {
    fn keep(mut self) {
        while let Some((batch, line)) = self.next() {
            if self.worker.is_none() && !self.start() {
                // The batch was not begun: it waits for this keeper's next try, or another's, unless there is no hope.
                if self.failed.len() < FAILED_STARTS {
                    self.shared.lock().waiting.push_front((batch, line));
                } else {
                    self.shared.end(&line);
                    line.news(Err(BackendError::NoWorkers(std::mem::take(&mut self.failed))));
                }
                continue;
            }
            let worker = self.worker.as_mut().expect("it was started");
            let mut running = Running::Setup;
            match worker.run(&batch, &line, &mut running) {
                Ok(Answer::Done(answered, mut results)) => {
                    results.worker.clone_from(&worker.name);
                    let items = batch.items();
                    line.tell(&batch, Outcome::Done(results), 0..answered, answered == items);
                    if answered < items {
                        let rest = batch.piece(batch.id(), answered, items, batch.attempt());
                        line.tell(&batch, Outcome::Returned(rest), answered..items, true);
                    }
                }
                Ok(Answer::Refused(failure)) => {
                    self.shared.end(&line);
                    line.news(Err(BackendError::Setup(failure)));
                }
                Err(error) => {
                    let worker = self.worker.take().expect("it has just been there");
                    self.shared.lock().connections.remove(&worker.number);
                    let death = worker.end(Some(error));
                    let items = batch.items();
                    line.tell(
                        &batch.clone(),
                        Outcome::Lost(batch, WorkerLoss { running, death }),
                        0..items,
                        true,
                    );
                }
            }
        }
        if let Some(worker) = self.worker {
            worker.end(None);
        }
    }

    /// The next batch; `None` when the backend closes.
    fn next(&self) -> Option<(Batch, Arc<Line>)> {
        let mut queue = self.shared.lock();
        loop {
            if queue.closing {
                return None;
            }
            if let Some(next) = queue.waiting.pop_front() {
                return Some(next);
            }
            queue = self.shared.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Starts a worker; what went wrong is remembered.
    fn start(&mut self) -> bool {
        let number = self.shared.started.fetch_add(1, Ordering::Relaxed);
        let name = format!("t{number}");
        let (tell, told) = mpsc::channel();
        self.shared.awaited().insert(number, tell);
        let started = self.connect(number, &told);
        self.shared.awaited().remove(&number);
        let copied = started.and_then(|(child, connection)| {
            let worker = Worker { number, name: name.clone(), child, connection, opened: HashMap::new() };
            match worker.connection.try_clone() {
                Ok(copy) => Ok((worker, copy)),
                Err(error) => {
                    worker.end(None);
                    Err(error)
                }
            }
        });
        match copied {
            Ok((worker, copy)) => {
                let mut queue = self.shared.lock();
                if queue.closing {
                    drop(copy.shutdown(Shutdown::Both));
                }
                queue.connections.insert(number, copy);
                self.failed.clear();
                self.worker = Some(worker);
                true
            }
            Err(error) => {
                let cause = ExitReason::NotStarted(error.to_string());
                self.failed.push(WorkerExit {
                    worker: name,
                    pid: 0,
                    cause,
                    refused: None,
                    stderr: Vec::new(),
                });
                false
            }
        }
    }

    fn connect(&self, number: u64, told: &Receiver<TcpStream>) -> io::Result<(Child, TcpStream)> {
        let marker = format!("{} {}{number:016x}", self.shared.address, self.shared.token);
        let mut child = Command::new(std::env::current_exe()?)
            .env(MARKER, marker)
            // A map inside the function runs there, and starts nothing.
            .env(INSIDE, format!("t{number}"))
            .stdin(Stdio::null())
            .spawn()?;
        let until = Instant::now() + CONNECT;
        loop {
            // Looks up now and then: a process that ends before it connects says nothing.
            if let Ok(connection) = told.recv_timeout(Duration::from_millis(20)) {
                return Ok((child, connection));
            }
            let why = match child.try_wait()? {
                Some(status) => format!("it ended before it connected ({status})"),
                None if Instant::now() > until => format!("it did not connect within {CONNECT:?}"),
                None => continue,
            };
            drop(child.kill());
            child.wait()?;
            return Err(io::Error::other(why));
        }
    }
}

impl Worker {
    /// Has a batch run. An error means that the worker is of no use any more.
    fn run(&mut self, batch: &Batch, line: &Arc<Line>, running: &mut Running) -> io::Result<Answer> {
        self.forget_closed()?;
        if !self.opened.contains_key(&batch.job()) {
            let mut open = Vec::new();
            open.number(OPEN);
            open.number(line.job.id.0);
            open.number(line.job.function.offset.cast_unsigned());
            open.bytes(line.job.function.name.as_bytes());
            open.bytes(&line.job.context);
            send(&self.connection, &open)?;
            let answer = receive(&self.connection)?;
            let mut parts = Parts(&answer);
            match parts.number() {
                Some(READY) => self.opened.insert(batch.job(), Arc::clone(line)),
                Some(REFUSED) => {
                    return Ok(Answer::Refused(parts.failure().ok_or(io::ErrorKind::InvalidData)?));
                }
                _ => return Err(io::ErrorKind::InvalidData.into()),
            };
        }
        *running = Running::Unknown;
        let mut frame = Vec::new();
        frame.number(BATCH);
        frame.number(batch.job().0);
        frame.number(batch.stride().unwrap_or(0).into());
        frame.number(batch.items().into());
        frame.number(batch.result_credit());
        frame.bytes(batch.payload());
        send(&self.connection, &frame)?;
        drop(frame);
        let answer = receive(&self.connection)?;
        done(answer, batch.items()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Has the worker free the contexts of runs that have ended.
    fn forget_closed(&mut self) -> io::Result<()> {
        let connection = &self.connection;
        let mut result = Ok(());
        self.opened.retain(|job, line| {
            let closed = line.closed.load(Ordering::Relaxed);
            if closed && result.is_ok() {
                let mut close = Vec::new();
                close.number(CLOSE);
                close.number(job.0);
                result = send(connection, &close);
            }
            !closed
        });
        result
    }

    /// Ends the process, if it has not ended, and reaps it.
    fn end(mut self, error: Option<io::Error>) -> WorkerExit {
        let broke_rules = error.filter(|error| error.kind() == io::ErrorKind::InvalidData);
        // Where the connection ended by its death, the kernel had noted the cause before, and this changes nothing.
        drop(self.child.kill());
        let pid = self.child.id();
        let cause = match (broke_rules, self.child.wait()) {
            (Some(error), _) => ExitReason::Protocol(error.to_string()),
            (None, Ok(status)) => cause_of(status),
            (None, Err(_)) => ExitReason::Unknown,
        };
        WorkerExit { worker: self.name, pid, cause, refused: None, stderr: Vec::new() }
    }
}

fn cause_of(status: ExitStatus) -> ExitReason {
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitReason::Exit(code),
        (_, Some(signal)) => ExitReason::Signal(signal),
        _ => ExitReason::Unknown,
    }
}

/// Reads the answer to a batch of `items`; `None` if it is not one.
fn done(frame: Vec<u8>, items: u32) -> Option<Answer> {
    let mut parts = Parts(&frame);
    if parts.number()? != DONE {
        return None;
    }
    let answered = parts.small().filter(|answered| (1..=items).contains(answered))?;
    let wall = Duration::from_nanos(parts.number()?);
    let cpu = Duration::from_nanos(parts.number()?);
    let failures = (0..parts.small()?).map(|_| parts.failure()).collect::<Option<Vec<_>>>()?;
    let (length, end) = (parts.bytes()?.len(), frame.len() - parts.0.len());
    let payload = Payload::within(frame, end - length, end);
    Some(Answer::Done(answered, Results { payload, failures, wall, cpu, ..Results::default() }))
}
