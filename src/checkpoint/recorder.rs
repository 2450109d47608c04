//! Recording of answers beside the map: a bounded queue and the thread that empties it into the store.
//! Fed by `Checkpoint` with what workers answered; hashes, cuts out what failed, and commits all that waits at once.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use fastmap_backends::unpoisoned::{LockUnpoisoned, WaitUnpoisoned};
use fastmap_backends::{Batch, Items};
use sha2::{Digest, Sha256};

use super::store::{Segment, Store};
use crate::error::{Error, ErrorKind};

/// Bytes that may wait for the disk; then the map waits.
const MOST: usize = 16 << 20;

/// Answers to some consecutive items of a batch.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) batch: Batch,
    /// Position in the batch of the first item, and how many they are.
    pub(super) from: u32,
    pub(super) items: u32,
    /// Positions among these items of those that failed, in order.
    pub(super) failed: Vec<u32>,
    /// Encoded results of the others.
    pub(super) results: Vec<u8>,
    pub(super) stride: Option<u32>,
}

impl Answers {
    fn bytes(&self) -> usize {
        self.results.len() + self.batch.payload().len() + size_of::<Self>()
    }

    /// What is to be recorded: the runs of items that did not fail.
    fn segments(&self) -> Vec<Segment> {
        let mut inputs = Items::new(self.batch.payload(), self.batch.stride());
        skip(&mut inputs, self.from);
        let mut at = 0;
        runs(self.items, &self.failed, &self.results, self.stride)
            .into_iter()
            .map(|(items, results)| {
                skip(&mut inputs, items.start - at);
                let start = inputs.position();
                skip(&mut inputs, items.len() as u32);
                at = items.end;
                Segment {
                    first: self.batch.first() + u64::from(self.from + items.start),
                    items: items.len() as u32,
                    inputs: Sha256::digest(&self.batch.payload()[start..inputs.position()]).into(),
                    results: self.results[results].to_vec(),
                }
            })
            .collect()
    }
}

fn skip(items: &mut Items<'_>, count: u32) {
    for _ in 0..count {
        items.next();
    }
}

/// The runs of items with results, and where those lie. Where there are fewer results than there should be, the items
/// without one are in no run.
fn runs(items: u32, failed: &[u32], results: &[u8], stride: Option<u32>) -> Vec<(Range<u32>, Range<usize>)> {
    let mut read = Items::new(results, stride);
    let mut runs = Vec::new();
    let mut start = 0;
    for end in failed.iter().copied().chain([items]) {
        let begun = read.position();
        let there = (start..end).take_while(|_| read.next().is_some()).count() as u32;
        if there > 0 {
            runs.push((start..start + there, begun..read.position()));
        }
        if start + there < end {
            break;
        }
        start = end + 1;
    }
    runs
}

/// The queue's end in the map.
#[derive(Debug)]
pub(super) struct Recorder {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Answers>,
    /// Of what waits and of what is being written.
    bytes: usize,
    /// The same in batches.
    batches: usize,
    closed: bool,
    /// The thread has ended; if by an error that nobody was told yet, with that.
    ended: bool,
    failure: Option<Error>,
}

impl Recorder {
    /// # Errors
    /// If no thread can be started.
    pub(super) fn start(store: Arc<Store>) -> Result<Recorder, Error> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("fastmap-checkpoint".to_owned()).spawn(move || {
            let outcome = theirs.record(&store);
            let mut state = theirs.lock();
            state.ended = true;
            state.failure = outcome.err();
            drop(state);
            theirs.changed.notify_all();
        });
        let thread = thread.map_err(|error| {
            Error::new(ErrorKind::Io, format!("the thread of the checkpoint can't be started: {error}"))
                .with_source(error)
        })?;
        Ok(Recorder { shared, thread: Some(thread) })
    }

    /// Takes answers to be recorded. Waits for the disk where much is waiting already.
    ///
    /// # Errors
    /// What went wrong with answers before these, told once.
    pub(super) fn put(&self, answers: Answers) -> Result<(), Error> {
        let mut state = self.shared.lock();
        while state.bytes > MOST && !state.ended {
            state = self.shared.changed.wait_unpoisoned(state);
        }
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        state.bytes += answers.bytes();
        state.batches += 1;
        state.waiting.push(answers);
        drop(state);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Waits until fewer batches than that are not on the disk, or none ever will be.
    pub(super) fn wait_below(&self, batches: usize) {
        let mut state = self.shared.lock();
        while state.batches >= batches && !state.ended {
            state = self.shared.changed.wait_unpoisoned(state);
        }
    }

    /// Waits until all is on the disk.
    ///
    /// # Errors
    /// What went wrong, if it was not told.
    pub(super) fn close(&mut self) -> Result<(), Error> {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        // A panic is told by the hook, and would be one of this module: the store catches its own.
        let panicked = self.thread.take().is_some_and(|thread| thread.join().is_err());
        match self.shared.lock().failure.take() {
            Some(failure) => Err(failure),
            None if panicked => {
                Err(Error::new(ErrorKind::Checkpoint, "the thread of the checkpoint panicked"))
            }
            None => Ok(()),
        }
    }

    /// In a fork of the process: the thread is not there, and nothing of the file is this process's business.
    pub(super) fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if self.thread.is_some() {
            let _nobody_to_tell = self.close();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is made at once, so that a panic leaves none by half.
        self.state.lock_unpoisoned()
    }

    /// Commits what waits, again and again. What comes meanwhile makes up the next commit.
    fn record(&self, store: &Store) -> Result<(), Error> {
        loop {
            let mut state = self.lock();
            while state.waiting.is_empty() {
                if state.closed {
                    return Ok(());
                }
                state = self.changed.wait_unpoisoned(state);
            }
            let taken = std::mem::take(&mut state.waiting);
            drop(state);
            let segments: Vec<Segment> = taken.iter().flat_map(Answers::segments).collect();
            if !segments.is_empty() {
                store.write(&segments)?;
            }
            let bytes: usize = taken.iter().map(Answers::bytes).sum();
            let mut state = self.lock();
            state.bytes -= bytes;
            state.batches -= taken.len();
            drop(state);
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_items_and_missing_results_are_in_no_run() {
        let four = [1, 2, 3, 4];
        assert_eq!(runs(4, &[], &four, Some(1)), [(0..4, 0..4)]);
        assert_eq!(runs(6, &[0, 3], &four, Some(1)), [(1..3, 0..2), (4..6, 2..4)]);
        assert_eq!(runs(6, &[4, 5], &four, Some(1)), [(0..4, 0..4)]);
        assert_eq!(runs(2, &[0, 1], &[], Some(1)), []);
        assert_eq!(runs(8, &[2], &four, Some(1)), [(0..2, 0..2), (3..5, 2..4)]);
        assert_eq!(runs(4, &[3], &four[..2], Some(1)), [(0..2, 0..2)]);
    }
}
