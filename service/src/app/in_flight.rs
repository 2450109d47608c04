//! Batches under way in this process, and who waits for them. Filled by `batches`; waited for when the service stops.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use fastmap_backends::cloud::Problem;
use fastmap_backends::unpoisoned::LockUnpoisoned;
use tokio::sync::{Notify, watch};

use super::answer_content::Content;

/// An answer: its status, its bytes, and their SHA-256.
#[derive(Clone, Debug)]
pub(crate) struct EncodedAnswer {
    pub(crate) status: u16,
    pub(crate) content: Content,
    pub(crate) digest: Arc<str>,
}

/// An answer, or why there is none.
pub(crate) type BatchAnswer = Result<EncodedAnswer, Problem>;

/// A batch by the account that sent it (whatever run it claims to be of), the run and the seq.
pub(crate) type Key = (i64, String, u64);

/// Batches under way in this process: each once, however often it is sent.
#[derive(Debug, Default)]
pub(crate) struct InFlightBatches {
    batches: Mutex<UnderWay>,
    removed: Notify,
}

#[derive(Debug, Default)]
struct UnderWay {
    batches: HashMap<Key, InFlightBatch>,
    /// How many there are of each run, as its account calls it: they are not counted for each batch that
    /// comes.
    of_run: HashMap<(i64, String), usize>,
}

/// Why a batch that is under way is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CancelReason {
    /// Its client wants no answer any more.
    Cancelled,
    /// What was reserved for it is gone: its client has said so at another gateway, or another has taken it over.
    Withdrawn,
}

#[derive(Clone, Debug)]
pub(crate) struct InFlightBatch {
    pub(crate) account: i64,
    pub(crate) digest: String,
    pub(crate) answer: watch::Receiver<Option<BatchAnswer>>,
    pub(crate) over: watch::Sender<Option<CancelReason>>,
    /// It has a reservation of its own.
    holds: Arc<AtomicBool>,
}

impl InFlightBatch {
    pub(crate) fn new(account: i64, digest: String, answer: watch::Receiver<Option<BatchAnswer>>) -> Self {
        InFlightBatch { account, digest, answer, over: watch::channel(None).0, holds: Arc::default() }
    }

    pub(crate) fn has_reserved(&self) {
        self.holds.store(true, Ordering::SeqCst);
    }

    pub(crate) fn holds(&self) -> bool {
        self.holds.load(Ordering::SeqCst)
    }

    /// Has it ended by its own task: who ends it in dispatch from outside could meet the next batch of this seq. The first
    /// reason stays.
    pub(crate) fn end(&self, why: CancelReason) {
        self.over.send_if_modified(|over| {
            let first = over.is_none();
            over.get_or_insert(why);
            first
        });
    }

    pub(crate) fn over(&self) -> Option<CancelReason> {
        *self.over.borrow()
    }

    /// Waits until it is to be ended.
    pub(crate) async fn ending(&self) {
        let mut over = self.over.subscribe();
        // The sender is this batch's.
        let _ = over.wait_for(Option::is_some).await;
    }
}

impl InFlightBatches {
    fn lock(&self) -> MutexGuard<'_, UnderWay> {
        self.batches.lock_unpoisoned()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.lock().batches.len()
    }

    /// Adds one; gives the one that is there already under this key.
    pub(crate) fn enter(&self, key: &Key, batch: &InFlightBatch) -> Option<InFlightBatch> {
        let mut under_way = self.lock();
        if let Some(there) = under_way.batches.get(key) {
            return Some(there.clone());
        }
        under_way.batches.insert(key.clone(), batch.clone());
        *under_way.of_run.entry((key.0, key.1.clone())).or_default() += 1;
        None
    }

    pub(crate) fn find(&self, account: i64, run: &str, seq: u64) -> Option<InFlightBatch> {
        self.lock().batches.get(&(account, run.to_owned(), seq)).cloned()
    }

    pub(crate) fn of_run(&self, account: i64, run: &str) -> usize {
        self.lock().of_run.get(&(account, run.to_owned())).copied().unwrap_or(0)
    }

    /// Those that have a reservation.
    pub(crate) fn holding(&self) -> Vec<(Key, InFlightBatch)> {
        let under_way = self.lock();
        let holding = under_way.batches.iter().filter(|(_, batch)| batch.holds());
        holding.map(|(key, batch)| (key.clone(), batch.clone())).collect()
    }

    pub(crate) fn remove(&self, key: &Key) {
        let mut under_way = self.lock();
        if under_way.batches.remove(key).is_some() {
            let run = (key.0, key.1.clone());
            if let Some(count) = under_way.of_run.get_mut(&run) {
                *count -= 1;
                if *count == 0 {
                    under_way.of_run.remove(&run);
                }
            }
        }
        drop(under_way);
        self.removed.notify_waiters();
    }

    /// Waits until nothing is under way.
    pub(crate) async fn drained(&self) {
        loop {
            let removed = self.removed.notified();
            if self.count() == 0 {
                return;
            }
            removed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flight_is_ended_once_and_whoever_waits_for_that_is_told() {
        let batch = InFlightBatch::new(1, String::new(), watch::channel(None).1);
        let copy = batch.clone();
        assert_eq!(batch.over(), None);
        let waiter = tokio::spawn(async move { copy.ending().await });
        batch.end(CancelReason::Cancelled);
        batch.end(CancelReason::Withdrawn);
        waiter.await.expect("no panic");
        batch.ending().await;
        assert_eq!(batch.over(), Some(CancelReason::Cancelled));
    }

    #[test]
    fn only_flights_that_have_reserved_hold_something() {
        let batches = InFlightBatches::default();
        for seq in 0..2 {
            let batch = InFlightBatch::new(1, String::new(), watch::channel(None).1);
            assert!(batches.enter(&(1, "run".to_owned(), seq), &batch).is_none());
            assert!(batches.enter(&(1, "run".to_owned(), seq), &batch).is_some());
        }
        assert_eq!((batches.of_run(1, "run"), batches.of_run(2, "run")), (2, 0));
        assert!(batches.holding().is_empty());
        batches.find(1, "run", 1).expect("it is there").has_reserved();
        let holding: Vec<Key> = batches.holding().into_iter().map(|(key, _)| key).collect();
        assert_eq!(holding, [(1, "run".to_owned(), 1)]);
        for seq in 0..2 {
            batches.remove(&(1, "run".to_owned(), seq));
        }
        assert!(batches.lock().of_run.is_empty());
    }
}
