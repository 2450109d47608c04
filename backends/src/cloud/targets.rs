//! Target size of a batch for a service.

use std::time::Duration;

use crate::model::batch_sizing::Targets;

/// A batch costs the service's disks and processors, and two hashes of it, about 1 ms: 2 % of 50 ms. Four
/// round trips of work, with as many batches in flight for each worker, hide one round trip.
const MIN_WORK: Duration = Duration::from_millis(50);
const MAX_WORK: Duration = Duration::from_secs(1);
const MIN_LEAST: Duration = Duration::from_millis(2);
/// Large compared to a request's head and 1 ms, small compared to memory and the end of the map.
const BYTES: usize = 512 * 1024;

/// Targets for a service at this round-trip time.
pub(crate) fn targets(round_trip: Duration) -> Targets {
    Targets {
        work: (round_trip * 4).clamp(MIN_WORK, MAX_WORK),
        least: (round_trip / 8).max(MIN_LEAST),
        bytes: BYTES,
    }
}
