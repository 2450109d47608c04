//! Clock and CPU time of a thread between two items.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Clock and CPU time of a stretch of work of one thread.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Stopwatch { cpu: thread_cpu(), wall: Instant::now() }
    }

    /// (clock, CPU) since the start.
    pub(crate) fn stop(&self) -> (Duration, Duration) {
        (self.wall.elapsed(), thread_cpu().saturating_sub(self.cpu))
    }
}

pub(crate) fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
