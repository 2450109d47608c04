//! Converts the round-trip time and prices of a service to the policy's units.

use std::time::Duration;

use super::policy::Probe;
use crate::Quote;

/// Credits per millionth of a credit.
pub(super) const MICRO: f64 = 1e-6;

/// Quote of a run without costs.
pub(super) const FREE: Quote =
    Quote { round_trip: Duration::from_millis(1), upload: 0, cpu_hour: 0, result_gb: 0, spendable: i64::MAX };

/// A quote in the policy's units: seconds, bytes and credits.
pub(super) fn to_probe(quote: &Quote) -> Probe {
    Probe {
        round_trip: quote.round_trip.as_secs_f64(),
        upload: quote.upload,
        cpu_second: quote.cpu_hour as f64 * MICRO / 3600.0,
        result_byte: quote.result_gb as f64 * MICRO / 1e9,
        spendable: quote.spendable as f64 * MICRO,
    }
}
