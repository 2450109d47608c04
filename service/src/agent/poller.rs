//! Thread of a pool: takes what its workers complete, and cuts batches whose time is over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use fastmap_backends::cloud::{Problem, ProblemCode};
use fastmap_backends::{BackendError, FailureKind, JobId, Local, Run};

use crate::agent::active_batch::ActiveBatch;
use crate::agent::run_pool::{PATIENCE, PATIENCE_LEAST, State, lock};
use crate::agent::tab::Tab;
use crate::agent::threads::Threads;

/// How often the thread looks at its clock.
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// What a run's client is told where its workers can't go on.
pub(super) fn problem_of(error: &BackendError) -> Problem {
    match error {
        BackendError::Setup(failure) => {
            let kind = match failure.kind {
                FailureKind::Panic => "panic",
                FailureKind::Serialize => "serialize",
            };
            let problem = Problem::new(ProblemCode::SetupFailed, failure.message.clone());
            Problem { failure: Some(kind.to_owned()), ..problem }
        }
        other => Problem::new(ProblemCode::WorkerFailed, other.to_string()),
    }
}

/// The thread that waits for completions.
pub(super) struct Poller {
    pub(super) local: Local,
    pub(super) job: JobId,
    pub(super) workers: usize,
    pub(super) shared: Arc<Mutex<State>>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) tab: Arc<Tab>,
    pub(super) threads: Threads,
}

impl Poller {
    pub(super) fn poll(mut self, mut run: Box<dyn Run>) {
        let mut looked = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            match run.poll(Instant::now() + LOOK) {
                Ok(Some(mut completion)) => {
                    self.threads.blame(&mut completion.outcome);
                    let mut state = lock(&self.shared);
                    let complete = state.take(completion);
                    state.begin(self.workers);
                    let complete = complete.map(|mut flight| {
                        flight.cpu = state.tab.metered(|metered| metered.bill(flight.cpu, flight.limit));
                        if flight.given_back {
                            self.local.cancel(self.job, flight.batch);
                        }
                        flight
                    });
                    drop(state);
                    if complete.is_some() {
                        // What its items have printed is there when its client has the answer.
                        self.local.settle();
                    }
                    if let Some(unheard) = complete.and_then(ActiveBatch::complete) {
                        self.tab.metered(|metered| metered.unbill(unheard));
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    lock(&self.shared).fail(&problem_of(&error));
                    break;
                }
            }
            let since_last = looked.elapsed();
            if since_last >= LOOK {
                looked = Instant::now();
                // A stretch that is much longer was spent stopped, or without a CPU: no batch has used it up.
                self.cut(since_last.min(2 * LOOK));
                self.threads.warn();
            }
        }
        // The run before the pool: what is queued is dropped, what runs is ended with its worker.
        run.close();
        let mut state = lock(&self.shared);
        state.flights.clear();
        drop(state);
        self.tab.metered(super::cpu_billing::BillingMeter::release_all);
    }

    /// Cuts batches that have used up their time, so much more than at the last look.
    fn cut(&self, more: Duration) {
        let mut state = lock(&self.shared);
        let mut over = Vec::new();
        for flight in state.flights.iter_mut().filter(|flight| flight.begun.is_some()) {
            let patience = (flight.limit * PATIENCE).max(PATIENCE_LEAST);
            flight.age += more;
            if flight.age > patience {
                flight.cut = true;
                over.push((flight.batch, flight.limit));
            }
        }
        drop(state);
        for (batch, limit) in over {
            self.local.expire(self.job, batch, limit);
        }
    }
}
