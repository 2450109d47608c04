//! Virtual time as seconds, and what messages cost.

use crate::clock::Nanos;

/// Host time for a batch of the service, to send it and to take its answer: HTTP, signatures, compression are other
/// threads' work.
pub(super) const CLOUD_MESSAGE: Nanos = 20_000;

pub(super) fn seconds(now: Nanos) -> f64 {
    now as f64 / 1e9
}

pub(super) fn of_seconds(seconds: f64) -> Nanos {
    if seconds.is_finite() { (seconds * 1e9) as Nanos } else { Nanos::MAX / 4 }
}
