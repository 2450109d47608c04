//! Batches under way in this process, and who waits for them. Filled by `batches`; waited for when the service stops.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
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

#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) account: i64,
    pub(super) digest: String,
    pub(super) answer: watch::Receiver<Option<Landed>>,
    /// Its client wants no answer any more.
    pub(super) cancelled: Arc<AtomicBool>,
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
