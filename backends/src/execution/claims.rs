//! Which items of a batch are a worker's to run, and which it gives back: one word that its working thread and its helper thread share.
//! Changed by `task` as items are begun, by `local` when the host asks for what is not. `tests/claims.rs` compiles this
//! very file with atomics that try every order of what two threads can do.

// The model test puts loom's types in their place.
use super::atomic::{AtomicU64, Ordering};

/// How far a batch is begun, and how far it may go. Shared with the thread that takes items back.
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
                let (begun, limit) = split(state);
                change(begun, limit).map(|(begun, limit)| u64::from(begun) | (u64::from(limit) << 32))
            })
            .ok()
            .map(split)
    }

    /// Claims up to `most` items; gives their end.
    pub(crate) fn claim(&self, most: u32) -> Option<u32> {
        let claimed = |begun: u32, limit: u32| limit.min(begun.saturating_add(most));
        self.update(|begun, limit| (begun < limit).then(|| (claimed(begun, limit), limit)))
            .map(|(begun, limit)| claimed(begun, limit))
    }

    /// Takes back what is not begun, or the larger half of it; gives the first item taken.
    pub(crate) fn recall(&self, half: bool) -> Option<u32> {
        // The first item stays: a batch whose function is still being prepared must not look as if nobody had it.
        let kept = |begun: u32, limit: u32| if half { begun + (limit - begun) / 2 } else { begun }.max(1);
        let more = |begun: u32, limit: u32| begun < limit && kept(begun, limit) < limit;
        self.update(|begun, limit| more(begun, limit).then(|| (begun, kept(begun, limit))))
            .map(|(begun, limit)| kept(begun, limit))
    }

    pub(crate) fn close(&self) {
        self.update(|begun, _| Some((begun, 0)));
    }
}
