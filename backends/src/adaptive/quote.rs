//! The distance and the prices of a service, in the units of the policy.

use std::time::Duration;

use super::policy::Probe;
use crate::Quote;

/// Credits in a millionth.
pub(super) const MICRO: f64 = 1e-6;

/// That of a run that costs nothing.
pub(super) const FREE: Quote =
    Quote { round_trip: Duration::from_millis(1), upload: 0, cpu_hour: 0, result_gb: 0, spendable: i64::MAX };

/// A quote in the policy's units: seconds, bytes and credits.
pub(super) fn probed(quote: &Quote) -> Probe {
    Probe {
        round_trip: quote.round_trip.as_secs_f64(),
        upload: quote.upload,
        cpu_second: quote.cpu_hour as f64 * MICRO / 3600.0,
        result_byte: quote.result_gb as f64 * MICRO / 1e9,
        spendable: quote.spendable as f64 * MICRO,
    }
}
