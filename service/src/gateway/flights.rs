//! Batches under way in this process, and who waits for them. Filled by `batches`; waited for when the service stops.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use fastmap_backends::cloud::Problem;
use tokio::sync::{Notify, watch};

/// An answer: its status, its bytes, and their SHA-256.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
    pub(super) digest: Arc<str>,
}

/// An answer, or why there is none.
pub(super) type Landed = Result<Answer, Problem>;

/// A batch by the account that sent it (whatever run it claims to be of), the run and the seq.
pub(super) type Key = (i64, String, u64);

/// Batches under way in this process: each once, however often it is sent.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    flights: Mutex<HashMap<Key, Flight>>,
    landed: Notify,
}

/// Why a batch that is under way is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Its client wants no answer any more.
    Cancelled,
    /// What was reserved for it is gone: its client has said so at another gateway, or another has taken it over.
    Withdrawn,
}

#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) account: i64,
    pub(super) digest: String,
    pub(super) answer: watch::Receiver<Option<Landed>>,
    over: watch::Sender<Option<Over>>,
    /// It has a reservation of its own.
    holds: Arc<AtomicBool>,
}

impl Flight {
    pub(super) fn new(account: i64, digest: String, answer: watch::Receiver<Option<Landed>>) -> Self {
        Flight { account, digest, answer, over: watch::channel(None).0, holds: Arc::default() }
    }

    pub(super) fn has_reserved(&self) {
        self.holds.store(true, Ordering::SeqCst);
    }

    pub(super) fn holds(&self) -> bool {
        self.holds.load(Ordering::SeqCst)
    }

    /// Has it ended by its own task: who ends it in dispatch from outside could meet the next batch of this seq. The first
    /// reason stays.
    pub(super) fn end(&self, why: Over) {
        self.over.send_if_modified(|over| {
            let first = over.is_none();
            over.get_or_insert(why);
            first
        });
    }

    pub(super) fn over(&self) -> Option<Over> {
        *self.over.borrow()
    }

    /// Waits until it is to be ended.
    pub(super) async fn ending(&self) {
        let mut over = self.over.subscribe();
        // The sender is this flight's.
        let _ended = over.wait_for(Option::is_some).await;
    }
}

impl Flights {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<Key, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn find(&self, account: i64, run: &str, seq: u64) -> Option<Flight> {
        self.lock().get(&(account, run.to_owned(), seq)).cloned()
    }

    pub(super) fn of_run(&self, account: i64, run: &str) -> usize {
        self.lock().keys().filter(|(by, of, _)| *by == account && of == run).count()
    }

    /// Those that have a reservation.
    pub(super) fn holding(&self) -> Vec<(Key, Flight)> {
        let flights = self.lock();
        let holding = flights.iter().filter(|(_, flight)| flight.holds());
        holding.map(|(key, flight)| (key.clone(), flight.clone())).collect()
    }

    pub(super) fn remove(&self, key: &Key) {
        self.lock().remove(key);
        self.landed.notify_waiters();
    }

    /// Waits until nothing is under way.
    pub(super) async fn all_landed(&self) {
        loop {
            let landed = self.landed.notified();
            if self.lock().is_empty() {
                return;
            }
            landed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flight_is_ended_once_and_whoever_waits_for_that_is_told() {
        let flight = Flight::new(1, String::new(), watch::channel(None).1);
        let copy = flight.clone();
        assert_eq!(flight.over(), None);
        let waiter = tokio::spawn(async move { copy.ending().await });
        flight.end(Over::Cancelled);
        flight.end(Over::Withdrawn);
        waiter.await.expect("no panic");
        flight.ending().await;
        assert_eq!(flight.over(), Some(Over::Cancelled));
    }

    #[test]
    fn only_flights_that_have_reserved_hold_something() {
        let flights = Flights::default();
        for seq in 0..2 {
            let flight = Flight::new(1, String::new(), watch::channel(None).1);
            flights.lock().insert((1, "run".to_owned(), seq), flight);
        }
        assert!(flights.holding().is_empty());
        flights.find(1, "run", 1).expect("it is there").has_reserved();
        let holding: Vec<Key> = flights.holding().into_iter().map(|(key, _)| key).collect();
        assert_eq!(holding, [(1, "run".to_owned(), 1)]);
    }
}
