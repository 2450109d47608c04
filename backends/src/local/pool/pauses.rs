//! Times by which the watchdog goes, and how soon the pool asks for its first look.

use std::time::Duration;

/// A worker that has answered nothing for this long is behind a slow item: what it has not begun may move.
pub(crate) const STUCK: Duration = Duration::from_millis(2);

/// An answer that was sent and does not come within this time never will.
pub(crate) const SILENT: Duration = Duration::from_secs(3);

/// An item that no run waits for may block a worker that is wanted for so long.
pub(crate) const ORPHAN: Duration = Duration::from_millis(100);

/// How soon to look again at a worker that can't be killed.
pub(crate) const UNKILLABLE: Duration = Duration::from_secs(1);

/// How often an item is looked at that may run for so long.
pub(crate) fn pause_of(limit: Duration) -> Duration {
    (limit / 20).clamp(Duration::from_micros(500), Duration::from_millis(50))
}
