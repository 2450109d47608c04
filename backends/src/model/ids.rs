//! Numbers of jobs and batches.

use std::sync::atomic::{AtomicU64, Ordering};

/// Names a job within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub u64);

impl JobId {
    /// A name that this process has not used yet.
    pub fn next() -> JobId {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        JobId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// Names a batch within one run. A part of it that was given back unstarted keeps the name; whatever else is sent
/// again has a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchId(pub u64);
