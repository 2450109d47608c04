//! Claims on the items of a batch: one word, shared by a worker's main thread and its helper thread, that
//! says which items run and which are returned. `task` changes it when it starts items, `local` when the host
//! recalls items that have not started. `tests/claims.rs` compiles this very file with atomics that explore
//! every interleaving of two threads.

// The model test substitutes loom's types.
use super::atomic::{AtomicU64, Ordering};

/// Number of items claimed, and the limit. Shared with the thread that recalls items.
#[derive(Debug)]
pub(crate) struct Claims {
    /// Low half: items claimed; high half: items that may be claimed.
    state: AtomicU64,
}

impl Claims {
    pub(crate) fn new(items: u32) -> Self {
        Claims { state: AtomicU64::new(u64::from(items) << 32) }
    }

    fn update(&self, change: impl Fn(u32, u32) -> Option<(u32, u32)>) -> Option<(u32, u32)> {
        let split = |state: u64| (state as u32, (state >> 32) as u32);
        self.state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                let (claimed, limit) = split(state);
                change(claimed, limit).map(|(claimed, limit)| u64::from(claimed) | (u64::from(limit) << 32))
            })
            .ok()
            .map(split)
    }

    /// Claims up to `most` items; returns the end of the claimed range.
    pub(crate) fn claim(&self, most: u32) -> Option<u32> {
        let claim_end = |claimed: u32, limit: u32| limit.min(claimed.saturating_add(most));
        self.update(|claimed, limit| (claimed < limit).then(|| (claim_end(claimed, limit), limit)))
            .map(|(claimed, limit)| claim_end(claimed, limit))
    }

    /// Recalls all unclaimed items, or the larger half of them; returns the first one.
    pub(crate) fn recall(&self, half: bool) -> Option<u32> {
        // Never recall the first item: a batch whose function is still being prepared must not look
        // unassigned.
        let kept =
            |claimed: u32, limit: u32| if half { claimed + (limit - claimed) / 2 } else { claimed }.max(1);
        let recallable = |claimed: u32, limit: u32| claimed < limit && kept(claimed, limit) < limit;
        self.update(|claimed, limit| recallable(claimed, limit).then(|| (claimed, kept(claimed, limit))))
            .map(|(claimed, limit)| kept(claimed, limit))
    }

    pub(crate) fn close(&self) {
        self.update(|claimed, _| Some((claimed, 0)));
    }
}
