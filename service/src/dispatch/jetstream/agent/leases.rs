//! Lease table of an agent: what it has in hand, and until when. An agent that was stopped for longer than a lease asks
//! the gateway whether the work is still wanted, and goes on with it, also where the servers bring it the same work
//! again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::dispatch::LeaseId;
use crate::dispatch::jetstream::messages::{Files, Origin};

/// A lease.
#[derive(Clone, Debug)]
pub(super) struct HeldLease {
    pub(super) origin: Origin,
    pub(super) files: Files,
    pub(super) run: String,
    /// Where it is acknowledged.
    pub(super) ack: String,
    /// Its place in the stream, which stays the same for all that lease it.
    pub(super) sequence: u64,
    /// It ends then.
    pub(super) until: Instant,
    /// Whether the agent still has it.
    pub(super) in_hand: Weak<()>,
    /// Told when it is no longer the agent's.
    pub(super) revoked: Arc<Notify>,
}

impl HeldLease {
    /// The length of its lease.
    pub(super) fn length(&self) -> Duration {
        Duration::from_millis(self.origin.lease_ms)
    }
}

/// The leases of an agent.
#[derive(Debug, Default)]
pub(super) struct LeaseTable(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    held: HashMap<LeaseId, HeldLease>,
    next: u64,
}

impl LeaseTable {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lock().held.len()
    }

    /// A new lease. `None`: the agent has the same work in hand, and goes on with it under the lease that it
    /// has. One that it has dropped is worth nothing from now on.
    pub(super) fn insert(&self, held: HeldLease) -> Option<LeaseId> {
        let mut state = self.lock();
        let same = |old: &&mut HeldLease| old.sequence == held.sequence && old.in_hand.strong_count() > 0;
        if let Some(old) = state.held.values_mut().find(same) {
            (old.ack, old.until) = (held.ack, held.until);
            return None;
        }
        for (_, old) in state.held.extract_if(|_, old| old.sequence == held.sequence) {
            old.revoked.notify_one();
        }
        state.next += 1;
        let id = LeaseId(state.next);
        state.held.insert(id, held);
        Some(id)
    }

    /// Makes a lease longer, from now on; gives where to say so, and whether it was over.
    pub(super) fn extend(&self, id: LeaseId, now: Instant) -> Option<(String, bool)> {
        let mut state = self.lock();
        let held = state.held.get_mut(&id)?;
        let over = held.until <= now;
        held.until = now + held.length();
        Some((held.ack.clone(), over))
    }

    /// Where the work of a lease comes from.
    pub(super) fn origin(&self, id: LeaseId) -> Option<Origin> {
        self.lock().held.get(&id).map(|held| held.origin.clone())
    }

    /// What is told when a lease is no longer the agent's; `None`: it is not.
    pub(super) fn revoked(&self, id: LeaseId) -> Option<Arc<Notify>> {
        self.lock().held.get(&id).map(|held| Arc::clone(&held.revoked))
    }

    /// Ends a lease.
    pub(super) fn take(&self, id: LeaseId) -> Option<HeldLease> {
        self.lock().held.remove(&id)
    }

    /// What there is of a run whose uploads are wanted.
    pub(super) fn of_run(&self, run: &str) -> Option<HeldLease> {
        self.lock().held.values().find(|held| held.run == run).cloned()
    }

    /// Ends all that are like that: their run is over, or their gateway gone.
    pub(super) fn end(&self, which: impl Fn(&HeldLease) -> bool) -> Vec<HeldLease> {
        let ended: Vec<HeldLease> =
            self.lock().held.extract_if(|_, held| which(held)).map(|(_, held)| held).collect();
        for held in &ended {
            held.revoked.notify_one();
        }
        ended
    }
}
