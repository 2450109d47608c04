//! Hands the death of a worker from the supervisor to the thread that reads its answers.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::local::ipc::rendezvous::Rendezvous;
use crate::local::ipc::shared_page::SharedPage;
use crate::local::output::quota::Quota;
use crate::model::death::WorkerExit;

/// What the supervisor and a reader know of each other: the death of the worker, and how to wake the reader.
#[derive(Debug, Default)]
pub(crate) struct ExitLatch {
    state: Mutex<LatchState>,
    told: Condvar,
    /// Bytes of refused calls that it has told of.
    pub(crate) refusals: AtomicU64,
    /// What of its lines and records is passed on; `None`: all.
    pub(crate) quota: Option<Quota>,
}

#[derive(Debug, Default)]
pub(crate) struct LatchState {
    death: Option<WorkerExit>,
    /// Where its greeting is awaited, as long as it is.
    server: Option<Arc<Rendezvous>>,
}

impl ExitLatch {
    fn lock(&self) -> MutexGuard<'_, LatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That of a worker whose greeting is awaited there, and of which so many bytes of output are passed on.
    pub(crate) fn new(server: Arc<Rendezvous>, output: Option<u64>) -> ExitLatch {
        let state = LatchState { server: Some(server), ..LatchState::default() };
        let quota = output.map(|most| Quota::new(most, Instant::now()));
        ExitLatch { state: Mutex::new(state), quota, ..ExitLatch::default() }
    }

    /// Supervisor: the worker is dead. Its reader receives what it has sent, and no more: another process may
    /// have its end of the channel.
    pub(crate) fn close(&self, death: WorkerExit, page: &SharedPage) {
        let mut state = self.lock();
        state.death = Some(death);
        self.told.notify_all();
        page.channel.end();
        if let Some(server) = state.server.take() {
            server.end();
        }
    }

    /// The greeting is awaited no more.
    pub(crate) fn came_in(&self) {
        self.lock().server = None;
    }

    /// Whether the worker has reported for duty, or never will.
    pub(crate) fn has_connected(&self) -> bool {
        let state = self.lock();
        state.server.is_none() || state.death.is_some()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().death.is_some()
    }

    /// Waits for the death; gives up after `most`.
    pub(crate) fn wait(&self, most: Duration) -> Option<WorkerExit> {
        let waited = self.told.wait_timeout_while(self.lock(), most, |state| state.death.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.death.clone()
    }
}
