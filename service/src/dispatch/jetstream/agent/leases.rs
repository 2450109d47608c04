//! Lease table of an agent: what it has in hand, and until when. An agent that was stopped for longer than a lease asks
//! the gateway whether the work is still wanted, and goes on with it, also where the servers bring it the same work
//! again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use fastmap_backends::unpoisoned::LockUnpoisoned;
use tokio::sync::Notify;

use crate::dispatch::LeaseId;
use crate::dispatch::jetstream::messages::{Files, Origin};

/// A lease.
#[derive(Clone, Debug)]
pub(super) struct ActiveLease {
    pub(super) origin: Origin,
    pub(super) files: Files,
    pub(super) run: String,
    /// Where it is acknowledged.
    pub(super) ack: String,
    /// Its place in the stream, which stays the same for all that lease it.
    pub(super) sequence: u64,
    /// End of the lease, by this agent's clock.
    pub(super) until: Instant,
    /// Whether the agent still has it.
    pub(super) in_hand: Weak<()>,
    /// Notified when the lease ends without the agent.
    pub(super) revoked: Arc<Notify>,
}

impl ActiveLease {
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
    lease: HashMap<LeaseId, ActiveLease>,
    next: u64,
}

impl LeaseTable {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock_unpoisoned()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lock().lease.len()
    }

    /// A new lease. `None`: the agent has the same work in hand, and goes on with it under the lease that it
    /// has. One that it has dropped is worth nothing from now on.
    pub(super) fn insert(&self, lease: ActiveLease) -> Option<LeaseId> {
        let mut state = self.lock();
        let same = |old: &&mut ActiveLease| old.sequence == lease.sequence && old.in_hand.strong_count() > 0;
        if let Some(old) = state.lease.values_mut().find(same) {
            (old.ack, old.until) = (lease.ack, lease.until);
            return None;
        }
        // An entry that the agent does not hold any more: another lease of the same work replaces it.
        for (_, old) in state.lease.extract_if(|_, old| old.sequence == lease.sequence) {
            old.revoked.notify_one();
        }
        state.next += 1;
        let id = LeaseId(state.next);
        state.lease.insert(id, lease);
        Some(id)
    }

    /// Makes a lease longer, from now on; gives where to say so, and whether it was over.
    pub(super) fn extend(&self, id: LeaseId, now: Instant) -> Option<(String, bool)> {
        let mut state = self.lock();
        let lease = state.lease.get_mut(&id)?;
        // By the agent's own clock: the servers report nothing to it when a lease is over.
        let over = lease.until <= now;
        lease.until = now + lease.length();
        Some((lease.ack.clone(), over))
    }

    /// Where the work of a lease comes from.
    pub(super) fn origin(&self, id: LeaseId) -> Option<Origin> {
        self.lock().lease.get(&id).map(|lease| lease.origin.clone())
    }

    /// Notified when the lease ends without the agent; `None`: the agent has no such lease.
    pub(super) fn revoked(&self, id: LeaseId) -> Option<Arc<Notify>> {
        self.lock().lease.get(&id).map(|lease| Arc::clone(&lease.revoked))
    }

    /// Ends a lease.
    pub(super) fn take(&self, id: LeaseId) -> Option<ActiveLease> {
        self.lock().lease.remove(&id)
    }

    /// What there is of a run whose uploads are wanted.
    pub(super) fn of_run(&self, run: &str) -> Option<ActiveLease> {
        self.lock().lease.values().find(|lease| lease.run == run).cloned()
    }

    /// Ends all that are like that: their run is over, or their gateway gone.
    pub(super) fn end(&self, which: impl Fn(&ActiveLease) -> bool) -> Vec<ActiveLease> {
        let ended: Vec<ActiveLease> =
            self.lock().lease.extract_if(|_, lease| which(lease)).map(|(_, lease)| lease).collect();
        for lease in &ended {
            lease.revoked.notify_one();
        }
        ended
    }
}
