//! What a map prints: its progress, each batch when loud, one line at its end; and the report of timings.
//!
//! `map_report` is fed by the engine and the adapter, and makes `map_stats` at the end. `progress` draws the bar
//! (`bar`), `summary` words the closing line, `estimate` says what `map` would have taken, `failures` and `refusals`
//! word errors and what the sandbox refused, `console` keeps lines and bars apart, `prompt` asks the user, and
//! `timings` writes the report.

pub(crate) mod bar;
mod console;
mod estimate;
mod failures;
pub(crate) mod format;
pub(crate) mod map_report;
mod map_stats;
mod progress;
#[cfg(feature = "cloud")]
mod prompt;
mod refusals;
mod summary;
mod timings;

#[cfg(feature = "cloud")]
pub(crate) use crate::report::console::draw_upload;
pub(crate) use crate::report::console::{Console, notice, warn};
pub use crate::report::console::{Stderr, stderr, suspend_progress};
#[cfg(feature = "cloud")]
pub(crate) use crate::report::prompt::ask;
pub(crate) use crate::report::timings::wait_until_written;
pub(crate) use map_report::MapReport;
