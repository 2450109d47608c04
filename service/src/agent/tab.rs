//! The tab of one run's workers at an agent: what they have used is put on it from before the first one starts until the
//! last one is dead, and paid by the bills of batches and by reports of what was used beside them. Written by `run_pool`;
//! reported, again and again, by the agent.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastmap_backends::unpoisoned::LockUnpoisoned;

use super::cpu_billing::BillingMeter;
use super::launcher::CpuMeter;
use crate::dispatch::Payer;

/// Reports that may fail one after the other, once the workers are dead: their gateway is gone for good.
const TRIES: u32 = 5;

/// See the module.
#[derive(Debug)]
pub(super) struct Tab {
    run: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    metered: BillingMeter,
    payer: Payer,
    /// A report is on its way.
    reporting: bool,
    /// Reports that failed one after the other.
    failed: u32,
    /// All workers are dead.
    over: bool,
}

/// What is to be reported of a run.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) tab: Arc<Tab>,
    pub(super) payer: Payer,
    pub(super) cpu: Duration,
}

/// Closes a tab when it is dropped: behind everything that keeps workers alive.
#[derive(Debug)]
pub(super) struct Closing(pub(super) Arc<Tab>);

impl Drop for Closing {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.metered.close();
        state.over = true;
    }
}

impl Tab {
    /// An empty tab.
    pub(super) fn new(run: &str, payer: Payer) -> Self {
        Tab { run: run.to_owned(), state: Mutex::new(State { payer, ..State::default() }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock_unpoisoned()
    }

    pub(super) fn run(&self) -> &str {
        &self.run
    }

    /// Counts what this meter shows from now on.
    pub(super) fn watch(&self, meter: Option<Arc<dyn CpuMeter>>) {
        self.lock().metered = BillingMeter::new(meter);
    }

    /// Does something with the bills of batches.
    pub(super) fn metered<T>(&self, change: impl FnOnce(&mut BillingMeter) -> T) -> T {
        change(&mut self.lock().metered)
    }

    /// The gateway that has sent the run's last batch takes the next report.
    pub(super) fn paid_by(&self, payer: &Payer) {
        let mut state = self.lock();
        if state.payer != *payer {
            state.payer = payer.clone();
        }
    }

    /// Looks at the meter; gives what is to be reported, if it is at least `least` or the last of it. Reads files: not for
    /// threads that must not wait.
    pub(super) fn due(self: &Arc<Self>, least: Duration) -> Option<Due> {
        let mut state = self.lock();
        if state.reporting {
            return None;
        }
        state.metered.look();
        let least = if state.over { Duration::ZERO } else { least };
        let cpu = state.metered.take(least)?;
        state.reporting = true;
        Some(Due { tab: Arc::clone(self), payer: state.payer.clone(), cpu })
    }

    /// What became of a report.
    pub(super) fn reported(&self, cpu: Duration, arrived: bool) {
        let mut state = self.lock();
        state.reporting = false;
        state.failed = if arrived { 0 } else { state.failed + 1 };
        if !arrived && state.over && state.failed >= TRIES {
            tracing::warn!(run = self.run, ?cpu, "CPU time can't be reported: the run's gateway is gone");
        } else if !arrived {
            state.metered.put_back(cpu);
        }
    }

    /// Whether nothing will ever be on it any more.
    pub(super) fn is_settled(&self) -> bool {
        let mut state = self.lock();
        if !state.over || state.reporting {
            return false;
        }
        match state.metered.take(Duration::ZERO) {
            Some(left) => {
                state.metered.put_back(left);
                false
            }
            None => true,
        }
    }

    /// Ends the workers.
    pub(super) fn end_workers(&self) {
        self.lock().metered.end_workers();
    }
}
