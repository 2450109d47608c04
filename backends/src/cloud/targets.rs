//! What a batch for a service should be.

use std::time::Duration;

use crate::model::batch_sizing::Targets;

/// A batch is charged to disks and processors at the service and hashed twice on the way: about 1 ms, of which 50 ms
/// are 2 %. Four round trips of work, with as many batches in flight for each worker, hide one.
const WORK: Duration = Duration::from_millis(50);
const MOST_WORK: Duration = Duration::from_secs(1);
const LEAST: Duration = Duration::from_millis(2);
/// Large against a request's head and 1 ms, small against memory and the end of the map.
const BYTES: usize = 512 * 1024;

/// Targets for a service that far away.
pub(crate) fn targets(round_trip: Duration) -> Targets {
    Targets {
        work: (round_trip * 4).clamp(WORK, MOST_WORK),
        least: (round_trip / 8).max(LEAST),
        bytes: BYTES,
    }
}
