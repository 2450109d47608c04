//! A backend of one's own: batches run in threads of this process instead of worker processes.
//!
//! ```text
//! cargo run --release -p fastmap-examples --bin own_backend
//! ```
//!
//! You'll see which of the promises of the trait `Backend` it keeps (all that threads can keep), and a map that runs on it,
//! with the order, the errors and the closing line that every map has. `docs/guide.md` goes through it.
//! For workers in other processes, reached over TCP, see `tests/third_party_backend`.

#![forbid(unsafe_code)]

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fastmap::backends::conformance::{self, Promise};
use fastmap::backends::{
    Backend, BackendError, Batch, BatchId, Capacity, Completion, Executor, Job, JobId, Outcome, Receipt, Run,
    SubmitError, Targets,
};
use fastmap::{Options, fastmap_main};

/// Runs batches in threads of this process.
#[derive(Debug)]
struct Threads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads and the runs have in common.
#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Batch, Arc<Line>)>,
    closing: bool,
}

/// The way from the threads back to a run.
#[derive(Debug)]
struct Line {
    job: Arc<Job>,
    news: Sender<Result<Completion, BackendError>>,
    /// Batches that the run has here.
    held: AtomicUsize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next batch; `None` when the backend is dropped.
    fn next(&self) -> Option<(Batch, Arc<Line>)> {
        let mut queue = self.lock();
        loop {
            if queue.closing {
                return None;
            }
            if let Some(next) = queue.waiting.pop_front() {
                return Some(next);
            }
            queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// One thread: finds the function of a batch in this executable, runs it, and tells the run.
    fn work(&self, name: &str) {
        // What a function has prepared (its context, its state) stays for the batches of the same run.
        let mut prepared: HashMap<JobId, (Executor, Arc<Line>)> = HashMap::new();
        while let Some((batch, line)) = self.next() {
            // Of runs that have ended this thread holds the last copy.
            prepared.retain(|_, (_, line)| Arc::strong_count(line) > 1);
            let (job, items) = (&line.job, batch.items());
            let (executor, _) = match prepared.entry(job.id) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => match Executor::open(&job.function, &job.context) {
                    Ok(executor) => entry.insert((executor, Arc::clone(&line))),
                    Err(failure) => {
                        line.tell(Err(BackendError::Setup(failure)));
                        continue;
                    }
                },
            };
            let (answered, mut results) =
                executor.run(batch.payload(), batch.stride(), items, batch.result_credit());
            name.clone_into(&mut results.worker);
            // The place is free before the answer is told, so that who hears of it can use it.
            line.held.fetch_sub(1, Ordering::Relaxed);
            let done =
                |items, outcome| Completion { batch: batch.id(), first: batch.first(), items, outcome };
            line.tell(Ok(done(answered, Outcome::Done(results))));
            if answered < items {
                // Its results have used up the memory that they may: the rest goes back, and is sent again.
                let rest = batch.piece(batch.id(), answered, items, batch.attempt());
                let first = batch.first() + u64::from(answered);
                line.tell(Ok(Completion { first, ..done(items - answered, Outcome::Returned(rest)) }));
            }
        }
    }
}

impl Line {
    fn tell(&self, news: Result<Completion, BackendError>) {
        // A run that has ended hears nothing.
        drop(self.news.send(news));
    }
}

impl Threads {
    fn new(threads: usize) -> std::io::Result<Threads> {
        let shared = Arc::new(Shared::default());
        let mut backend = Threads { shared: Arc::clone(&shared), threads: Vec::new() };
        for number in 0..threads {
            let (shared, name) = (Arc::clone(&shared), format!("thread-{number}"));
            backend
                .threads
                .push(thread::Builder::new().name(name.clone()).spawn(move || shared.work(&name))?);
        }
        Ok(backend)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.more.notify_all();
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Backend for Threads {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn open(&self, job: Arc<Job>) -> Result<Box<dyn Run>, BackendError> {
        if job.item_timeout.is_some() {
            return Err(BackendError::Other("a thread can't be ended: no item timeouts here".to_owned()));
        }
        let (tell, news) = mpsc::channel();
        let line = Arc::new(Line { job, news: tell, held: AtomicUsize::new(0) });
        let slots = 2 * self.threads.len();
        Ok(Box::new(ThreadsRun { shared: Arc::clone(&self.shared), line, news, slots }))
    }
}

/// One map on it.
struct ThreadsRun {
    shared: Arc<Shared>,
    line: Arc<Line>,
    news: Receiver<Result<Completion, BackendError>>,
    /// A batch that runs and one that waits, for each thread.
    slots: usize,
}

impl Run for ThreadsRun {
    fn capacity(&mut self) -> Capacity {
        let batches = self.slots.saturating_sub(self.line.held.load(Ordering::Relaxed));
        let targets =
            Targets { work: Duration::from_millis(20), least: Duration::from_micros(100), bytes: 128 * 1024 };
        Capacity { batches, slots: self.slots, workers: self.slots / 2, targets }
    }

    fn submit(&mut self, batch: Batch) -> Result<(), SubmitError> {
        if self.capacity().batches == 0 {
            return Err(SubmitError::Full(batch));
        }
        self.line.held.fetch_add(1, Ordering::Relaxed);
        self.shared.lock().waiting.push_back((batch, Arc::clone(&self.line)));
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
        queue.waiting.retain(|(waiting, line)| waiting.id() != batch || line.job.id != self.line.job.id);
        self.line.held.fetch_sub(before - queue.waiting.len(), Ordering::Relaxed);
    }

    /// What still waits is dropped with the run; what runs ends for nobody. It was free.
    fn close(self: Box<Self>) -> Receipt {
        Receipt::default()
    }
}

impl Drop for ThreadsRun {
    fn drop(&mut self) {
        self.shared.lock().waiting.retain(|(_, line)| line.job.id != self.line.job.id);
    }
}

/// What no thread can keep: an item that ends its process ends this one.
fn not_promised() -> Vec<Promise> {
    Promise::LETHAL.to_vec()
}

fn run() -> Result<(), Box<dyn Error>> {
    conformance::check_all_but(&not_promised(), Threads::new(2)?)?;
    println!("The backend keeps all promises but those about the death of a worker.");

    fn inverse(n: i64) -> i64 {
        1_000_000 / n
    }
    let config = fastmap::init(Options::new().backend(Threads::new(2)?))?;
    let (mut sum, mut failed) = (0, Vec::new());
    for answer in config.fastmap(inverse, -500_000..500_000) {
        match answer {
            Ok(value) => sum += value,
            Err(error) => failed.push(error),
        }
    }
    println!("sum {sum}; failed: {failed:?}");
    Ok(())
}

fastmap_main!(run);

#[cfg(test)]
mod tests {
    use super::*;

    fastmap::test_support!();

    #[test]
    fn keeps_what_threads_can_promise() -> Result<(), Box<dyn Error>> {
        Ok(conformance::check_all_but(&not_promised(), Threads::new(3)?)?)
    }
}
