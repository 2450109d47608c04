//! Queue of a run's completions for the thread that polls it. Filled by a backend's own threads.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

use fastmap_sandbox::unpoisoned::{LockUnpoisoned, WaitUnpoisoned};

use crate::model::completion::Completion;
use crate::model::error::BackendError;

/// Queue of completions. Bounded by what the run has submitted.
#[derive(Debug, Default)]
pub(crate) struct CompletionQueue {
    state: Mutex<QueueState>,
    available: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    completions: VecDeque<Completion>,
    error: Option<BackendError>,
}

impl CompletionQueue {
    pub(crate) fn take(&self, deadline: Instant) -> Result<Option<Completion>, BackendError> {
        let mut state = self.lock();
        loop {
            if let Some(completion) = state.completions.pop_front() {
                return Ok(Some(completion));
            }
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            state = self.available.wait_timeout_unpoisoned(state, left);
        }
    }

    pub(crate) fn put(&self, completion: Completion) {
        self.lock().completions.push_back(completion);
        self.available.notify_one();
    }

    pub(crate) fn fail(&self, error: BackendError) {
        self.lock().error = Some(error);
        self.available.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock_unpoisoned()
    }
}
