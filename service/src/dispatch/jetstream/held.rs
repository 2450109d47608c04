//! What an agent has in hand, and until when. Its own clock decides: who was stopped for longer than a lease finds that
//! nothing is his any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::wire::{Files, Origin};
use crate::dispatch::LeaseId;

/// A lease.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) origin: Origin,
    pub(super) files: Files,
    pub(super) run: String,
    /// Where it is acknowledged.
    pub(super) ack: String,
    /// Its place in the stream, which stays the same for all that lease it.
    pub(super) sequence: u64,
    /// It ends then.
    pub(super) until: Instant,
    /// Told when it is no longer the agent's.
    pub(super) revoked: Arc<Notify>,
}

impl Held {
    /// The length of its lease.
    pub(super) fn length(&self) -> Duration {
        Duration::from_millis(self.origin.lease_ms)
    }
}

/// The leases of an agent.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    held: HashMap<LeaseId, Held>,
    next: u64,
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lock().held.len()
    }

    /// A new lease. What this agent held of the same work is worth nothing from now on.
    pub(super) fn enter(&self, held: Held) -> LeaseId {
        let mut state = self.lock();
        for (_, old) in state.held.extract_if(|_, old| old.sequence == held.sequence) {
            old.revoked.notify_one();
        }
        state.next += 1;
        let id = LeaseId(state.next);
        state.held.insert(id, held);
        id
    }

    /// Makes a lease longer, from now on; gives where to say so.
    pub(super) fn extend(&self, id: LeaseId, now: Instant) -> Option<String> {
        let mut state = self.lock();
        let held = state.held.get_mut(&id)?;
        if held.until <= now {
            state.held.remove(&id);
            return None;
        }
        held.until = now + held.length();
        Some(held.ack.clone())
    }

    /// What is told when a lease is no longer the agent's; `None`: it is not.
    pub(super) fn revoked(&self, id: LeaseId) -> Option<Arc<Notify>> {
        self.lock().held.get(&id).map(|held| Arc::clone(&held.revoked))
    }

    /// Ends a lease, if it has not ended.
    pub(super) fn take(&self, id: LeaseId, now: Instant) -> Option<Held> {
        self.lock().held.remove(&id).filter(|held| held.until > now)
    }

    /// What there is of a run whose uploads are wanted.
    pub(super) fn of_run(&self, run: &str) -> Option<Held> {
        self.lock().held.values().find(|held| held.run == run).cloned()
    }

    /// Ends all that are like that: their run is over, or their gateway gone.
    pub(super) fn end(&self, which: impl Fn(&Held) -> bool) -> Vec<Held> {
        let ended: Vec<Held> =
            self.lock().held.extract_if(|_, held| which(held)).map(|(_, held)| held).collect();
        for held in &ended {
            held.revoked.notify_one();
        }
        ended
    }
}
