//! What all contestants have in common.

use crate::functions::Work;

/// All have as many, so that the ideal speed-up is 2.
pub(crate) const WORKERS: usize = 2;

/// What a contestant that can't find it out by itself is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Items in one message.
    pub(crate) chunk: u64,
    /// Messages under way at a time.
    pub(crate) window: usize,
    /// A message is more than a socket holds.
    pub(crate) large: bool,
    /// Bytes that fastmap may hold.
    pub(crate) read_ahead: usize,
}

impl Plan {
    /// Four messages for each worker: one that it works on, others that wait, also behind a slow one.
    pub(crate) fn chunks_of(chunk: u64) -> Self {
        Plan { chunk, window: 4 * WORKERS, large: false, read_ahead: 64_000_000 }
    }

    /// For items that differ much: enough that none waits for a slow one in front of it.
    pub(crate) fn uneven() -> Self {
        Plan { window: 256, ..Plan::chunks_of(1) }
    }

    /// For items that are large: one message that is worked on, one that waits.
    pub(crate) fn large() -> Self {
        Plan { window: 2 * WORKERS, large: true, ..Plan::chunks_of(1) }
    }
}

/// One way to map.
pub(crate) trait Contestant<W: Work>: Sized {
    const NAME: &'static str;

    /// Whatever a user makes once. Dropping it ends the workers.
    fn start(plan: Plan) -> Self;

    /// Maps `item(0)`, `item(1)`, … and hands the results to `consume`, in order (save [`Bridge`](super::Bridge)), a failed one as
    /// `None`; ends early when `consume` says `false`.
    fn map(
        &mut self,
        count: u64,
        item: impl Fn(u64) -> W::In + Send + Sync,
        consume: impl FnMut(Option<W::Out>) -> bool,
    );
}
